//! The simulator through its wire: TLS, HTTP/2, the providers' rules, and the log that it keeps.

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Client, Es256, Running, apns_headers, apns_payload, assertion, encrypt, lines};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

#[tokio::test]
async fn apns_outcomes() {
    let running = Running::start("apns_outcomes").await;
    let client = running.client().await;
    let bearer = client.bearer(0).await;
    let ok = client.mint("apns", "ok-1").await;
    let ok = ok.as_str().unwrap();

    let accepted = client.apns(ok, &bearer, "s1").await.unwrap();
    assert_eq!((accepted.status, accepted.body.len()), (200, 0));
    let named = "00000000-0000-4000-8000-00000000000a";
    let mut headers = apns_headers(&bearer);
    headers.push(("apns-id", named));
    let echoed = client.call("POST", "/3/device/ok", &headers, &apns_payload("s1")).await.unwrap();
    assert_eq!(echoed.header("apns-id"), Some(named));

    let gone = client.apns("gone-7", &bearer, "s1").await.unwrap();
    assert_eq!((gone.status, gone.reason().as_str()), (410, "Unregistered"));
    assert!(gone.json()["timestamp"].as_i64().unwrap() > 1_000 * (support::now_s() - 60));
    for stranger in ["badtoken", &"ab".repeat(32)] {
        let bad = client.apns(stranger, &bearer, "s1").await.unwrap();
        assert_eq!((bad.status, bad.reason().as_str()), (400, "BadDeviceToken"));
    }
    // One throttle and two flakes for each send.
    for send in ["s1", "s2"] {
        let mut statuses = Vec::new();
        for token in ["throttle", "throttle", "flaky", "flaky", "flaky"] {
            let response = client.apns(token, &bearer, send).await.unwrap();
            assert_eq!(response.header("retry-after").is_some(), response.status != 200);
            statuses.push(response.status);
        }
        assert_eq!(statuses, [429, 200, 503, 503, 200]);
    }
    let junk = client.apns("junk-1", &bearer, "s1").await.unwrap();
    assert!(junk.status == 200 && serde_json::from_slice::<Value>(&junk.body).is_err());
    let junk = client.apns("junk-error-1", &bearer, "s1").await.unwrap();
    assert!(junk.status == 502 && serde_json::from_slice::<Value>(&junk.body).is_err());
    let begun = Instant::now();
    assert_eq!(client.apns("ok~40", &bearer, "s1").await.unwrap().status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(40));

    let stats = client.ask("GET", "/_/stats", Value::Null).await;
    assert_eq!(stats["apns"]["ok"], 3);
    assert_eq!(stats["apns"]["accepted"], 8);
    assert_eq!(stats["providerTokenUpdates"], 0);
    let log = running.stop().await;
    assert_eq!(log.len(), 18);
    let first = &log[0];
    assert_eq!(
        (&first["transport"], &first["token"], &first["grammar"], &first["sendId"], &first["deliveryId"]),
        (&json!("apns"), &json!(ok), &json!("ok-1"), &json!("s1"), &json!("s1-d"))
    );
    assert_eq!((&first["title"], &first["body"], &first["outcome"]), (&json!("Hello"), &json!("World"), &json!("ok")));
    assert_eq!(first["id"].as_str(), accepted.header("apns-id"));
    assert_eq!(first["conn"], 1);
    assert_eq!(log[1]["id"], named);
    assert!(log[1]["stream"].as_u64() > first["stream"].as_u64());
    assert_eq!((&log[2]["status"], &log[2]["reason"]), (&json!(410), &json!("Unregistered")));
    assert_eq!(log[4]["grammar"], Value::Null);
}

#[tokio::test]
async fn provider_tokens() {
    let running = Running::start("provider_tokens").await;
    let client = running.client().await;
    let reason = async |client: &Client, bearer: &str| {
        let response = client.apns("ok", bearer, "s").await.unwrap();
        (response.status, if response.status == 200 { String::new() } else { response.reason() })
    };
    let refused = |reason: &str| (403, reason.to_owned());
    let accepted = (200, String::new());

    let response = client.call("POST", "/3/device/ok", &apns_headers("")[1..], &apns_payload("s")).await.unwrap();
    assert_eq!((response.status, response.reason()), refused("MissingProviderToken"));
    assert_eq!(reason(&client, "bearer x").await, refused("InvalidProviderToken"));
    assert_eq!(reason(&client, &client.bearer(3_700).await).await, refused("ExpiredProviderToken"));
    assert_eq!(reason(&client, &client.bearer(-600).await).await, refused("ExpiredProviderToken"));
    let mut forged = client.ask("GET", "/_/credentials", Value::Null).await["apns"].take();
    let other = rcgen::KeyPair::generate().unwrap();
    forged["p8Key"] = other.serialize_pem().into();
    assert_eq!(reason(&client, &support::bearer(&forged, 0)).await, refused("InvalidProviderToken"));

    let first = client.bearer(1_000).await;
    assert_eq!(reason(&client, &first).await, accepted);
    let too_early = client.bearer(10).await;
    assert_eq!(reason(&client, &too_early).await, accepted);
    client.switch(json!({"refuseTokenUpdates": true})).await;
    assert_eq!(reason(&client, &client.bearer(5).await).await, (429, "TooManyProviderTokenUpdates".into()));
    assert_eq!(reason(&client, &too_early).await, accepted);

    client.switch(json!({"expireProviderTokens": true})).await;
    assert_eq!(reason(&client, &too_early).await, refused("ExpiredProviderToken"));
    assert_eq!(reason(&client, &first).await, refused("ExpiredProviderToken"));
    assert_eq!(reason(&client, &client.bearer(60).await).await, refused("ExpiredProviderToken"));
    assert_eq!(reason(&client, &client.bearer(0).await).await, accepted);
    let stats = client.ask("GET", "/_/stats", Value::Null).await;
    assert_eq!((&stats["providerTokenUpdates"], &stats["providerTokens"]), (&json!(2), &json!(3)));

    // A key that the simulator is taught; the connection stays with the first one.
    let mut taught = forged.clone();
    taught["keyId"] = "TAUGHTKEY1".into();
    let lesson = json!({"keyId": "TAUGHTKEY1", "teamId": taught["teamId"], "publicKeyPem": other.public_key_pem()});
    client.ask("POST", "/_/apns-keys", lesson.clone()).await;
    client.switch(json!({"refuseTokenUpdates": false})).await;
    let bearer = support::bearer(&taught, 0);
    assert_eq!(reason(&client, &bearer).await, refused("UnrelatedKeyIdInToken"));
    assert_eq!(reason(&running.client().await, &bearer).await, accepted);
    let mut lesson = lesson;
    lesson["teamId"] = "OTHERTEAM1".into();
    taught["teamId"] = "OTHERTEAM1".into();
    client.ask("POST", "/_/apns-keys", lesson).await;
    assert_eq!(reason(&client, &support::bearer(&taught, 0)).await, refused("InvalidProviderToken"));
    let elsewhere = reason(&running.client().await, &support::bearer(&taught, 0)).await;
    assert_eq!(elsewhere, (400, "TopicDisallowed".into()), "the app of another team");
    running.stop().await;
}

#[tokio::test]
async fn apns_knows_a_certificate() {
    let running = Running::start("apns_knows_a_certificate").await;
    let given = running.client().await.ask("GET", "/_/credentials", Value::Null).await["apnsCertificate"].take();
    let text = |name: &str| given[name].as_str().unwrap().to_owned();
    let client =
        Client::connect_as(running.authority(), &running.ca_file, &text("certificate"), &text("privateKey")).await;
    let mut headers = apns_headers("")[1..].to_vec();
    let accepted = client.call("POST", "/3/device/ok", &headers, &apns_payload("s")).await.unwrap();
    assert_eq!(accepted.status, 200);
    headers[0].1 = "com.somebody.else";
    let refused = client.call("POST", "/3/device/ok", &headers, &apns_payload("s")).await.unwrap();
    assert_eq!((refused.status, refused.reason()), (400, "TopicDisallowed".into()));
    running.stop().await;
}

#[tokio::test]
async fn apns_has_two_environments() {
    let running = Running::start("apns_has_two_environments").await;
    let client = running.client().await;
    let bearer = client.bearer(0).await;
    let devices = [
        ("ok-sandbox-1", "/sandbox"),
        ("ok-production-1", ""),
        ("ok-any", ""),
        ("ok-any", "/sandbox"),
        ("gone-sandbox", "/sandbox"),
    ];
    for (device, theirs) in devices {
        for environment in ["", "/sandbox"] {
            let path = format!("{environment}/3/device/{device}");
            let said = client.call("POST", &path, &apns_headers(&bearer), &apns_payload("s")).await.unwrap();
            let known = environment == theirs || device == "ok-any";
            match (known, device) {
                (true, "gone-sandbox") => assert_eq!(said.status, 410),
                (true, _) => assert_eq!(said.status, 200, "{path}"),
                (false, _) => assert_eq!((said.status, said.reason()), (400, "BadDeviceToken".into()), "{path}"),
            }
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn apns_checks() {
    let running = Running::start("apns_checks").await;
    let client = running.client().await;
    let bearer = client.bearer(0).await;
    let wide = "x".repeat(65);
    let cases: [(&str, Option<&str>, &str); 12] = [
        ("apns-topic", None, "MissingTopic"),
        ("apns-topic", Some("com sendora"), "BadTopic"),
        ("apns-topic", Some("com.sendora.other"), "TopicDisallowed"),
        ("apns-topic", Some("com.sendora.demo.voip"), "TopicDisallowed"),
        ("apns-push-type", None, "InvalidPushType"),
        ("apns-push-type", Some("alerts"), "InvalidPushType"),
        ("apns-push-type", Some("background"), "BadPriority"),
        ("apns-priority", Some("11"), "BadPriority"),
        ("apns-expiration", Some("soon"), "BadExpirationDate"),
        ("apns-collapse-id", Some(&wide), "BadCollapseId"),
        ("apns-id", Some("00000000-0000-4000-8000-00000000000A"), "BadMessageId"),
        ("apns-id", Some("7"), "BadMessageId"),
    ];
    for (name, value, reason) in cases {
        let mut headers = apns_headers(&bearer);
        headers.retain(|(header, _)| *header != name);
        headers.extend(value.map(|value| (name, value)));
        let response = client.call("POST", "/3/device/ok", &headers, &apns_payload("s")).await.unwrap();
        assert_eq!((response.status, response.reason().as_str()), (400, reason), "{name}: {value:?}");
    }
    let headers = apns_headers(&bearer);
    let twice = [&headers[..], &[("apns-priority", "5")]].concat();
    let mut quiet = headers.clone();
    quiet[2..4].copy_from_slice(&[("apns-push-type", "background"), ("apns-priority", "5")]);
    let large = json!({"aps": {"alert": "x".repeat(4_096)}}).to_string();
    let plain = apns_payload("s");
    let background = br#"{"aps":{"content-available":1}}"#;
    let plain = str::from_utf8(&plain).unwrap();
    for (method, path, headers, body, status, reason) in [
        ("POST", "/3/device/ok", &twice, plain, 400, "DuplicateHeaders"),
        ("GET", "/3/device/ok", &headers, plain, 405, "MethodNotAllowed"),
        ("POST", "/3/device/", &headers, plain, 400, "MissingDeviceToken"),
        ("POST", "/3/device/ok/1", &headers, plain, 404, "BadPath"),
        ("POST", "/4/device/ok", &headers, plain, 404, "BadPath"),
        ("POST", "/3/device/ok", &headers, &large, 413, "PayloadTooLarge"),
        ("POST", "/3/device/ok", &headers, "", 400, "PayloadEmpty"),
        ("POST", "/3/device/ok", &headers, r#"{"aps": 1}"#, 400, "PayloadEmpty"),
    ] {
        let response = client.call(method, path, headers, body.as_bytes()).await.unwrap();
        assert_eq!((response.status, response.reason().as_str()), (status, reason));
    }
    assert_eq!(client.call("POST", "/3/device/ok", &quiet, background).await.unwrap().status, 200);
    let log = running.stop().await;
    assert!(log[..log.len() - 1].iter().all(|line| line["outcome"] == "refused"), "{log:?}");
}

#[tokio::test]
async fn fcm() {
    const SEND: &str = "/v1/projects/sendora-simulator/messages:send";
    let running = Running::start("fcm").await;
    let client = running.client().await;
    let account = client.ask("GET", "/_/credentials", Value::Null).await["fcm"]["serviceAccount"].take();
    assert_eq!(account["token_uri"], format!("{}/token", running.url));
    let answer = client.access_token(&account).await.json();
    assert_eq!((&answer["token_type"], &answer["expires_in"]), (&json!("Bearer"), &json!(3_600)));
    let bearer = format!("Bearer {}", answer["access_token"].as_str().unwrap());

    for (changes, error) in [
        (json!({"iss": "somebody@else"}), "invalid_grant"),
        (json!({"aud": "https://oauth2.googleapis.com/token"}), "invalid_grant"),
        (json!({"exp": support::now_s() - 1}), "invalid_grant"),
        (json!({"exp": support::now_s() + 4_000}), "invalid_grant"),
        (json!({"iat": support::now_s() + 900, "exp": support::now_s() + 1_000}), "invalid_grant"),
        (json!({"scope": "email"}), "invalid_scope"),
    ] {
        let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
        let form = format!("grant_type={grant}&assertion={}", assertion(&account, &changes));
        let response = client.call("POST", "/token", &[], form.as_bytes()).await.unwrap();
        assert_eq!((response.status, response.json()["error"].as_str()), (400, Some(error)), "{changes}");
    }

    let post = async |token: &Value, bearer: &str| {
        let data = json!({"sendoraSendId": "s", "sendoraDeliveryId": "d"});
        let message = json!({"token": token, "data": data, "notification": {"title": "T", "body": "B"}});
        let body = json!({"message": message}).to_string();
        client.call("POST", SEND, &[("authorization", bearer)], body.as_bytes()).await.unwrap()
    };
    let token = client.mint("fcm", "ok-1").await;
    let response = post(&token, &bearer).await;
    let name = response.json()["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("projects/sendora-simulator/messages/"));
    for (grammar, http, status, code) in [
        ("gone", 404, "NOT_FOUND", "UNREGISTERED"),
        ("badtoken", 400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
        ("somebody:APA91belse", 400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
        ("throttle", 429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
        ("flaky", 503, "UNAVAILABLE", "UNAVAILABLE"),
    ] {
        let response = post(&json!(grammar), &bearer).await;
        let error = &response.json()["error"];
        assert_eq!((response.status, &error["code"], &error["status"]), (http, &json!(http), &json!(status)));
        assert_eq!(error["details"][0]["errorCode"], code);
        assert_eq!(response.header("retry-after"), [429, 503].contains(&http).then_some("1"));
    }
    let junk = post(&json!("junk"), &bearer).await;
    assert!(junk.status == 200 && serde_json::from_slice::<Value>(&junk.body).is_err());

    // What is wrong with the message names the field and does not speak of the token.
    let body = json!({"message": {"token": token, "data": {"from": "x"}}}).to_string();
    let refused = client.call("POST", SEND, &[("authorization", &bearer)], body.as_bytes()).await.unwrap();
    let detail = &refused.json()["error"]["details"][0];
    assert_eq!(detail["@type"], "type.googleapis.com/google.rpc.BadRequest");
    let body = json!({"validate_only": true, "message": {"token": token}}).to_string();
    let dry = client.call("POST", SEND, &[("authorization", &bearer)], body.as_bytes()).await.unwrap();
    assert_eq!(dry.status, 200);

    for stranger in ["", "Bearer ya29.x", "Basic eA"] {
        let response = post(&token, stranger).await;
        assert_eq!((response.status, &response.json()["error"]["status"]), (401, &json!("UNAUTHENTICATED")));
    }
    let other = SEND.replace("sendora-simulator", "other");
    let response = client.call("POST", &other, &[("authorization", &bearer)], b"{}").await.unwrap();
    assert_eq!((response.status, &response.json()["error"]["status"]), (403, &json!("PERMISSION_DENIED")));

    client.switch(json!({"expireProviderTokens": true})).await;
    assert_eq!(post(&token, &bearer).await.status, 401);
    // A token of the very millisecond is expired too.
    let renewed = loop {
        let answer = client.access_token(&account).await.json();
        let renewed = format!("Bearer {}", answer["access_token"].as_str().unwrap());
        if post(&token, &renewed).await.status == 200 {
            break renewed;
        }
    };
    client.switch(json!({"outage": "oauth"})).await;
    assert_eq!(client.access_token(&account).await.status, 503);
    assert_eq!(post(&token, &renewed).await.status, 200);

    let log = running.stop().await;
    let first = &log[0];
    assert_eq!((&first["token"], &first["id"], &first["status"]), (&token, &json!(name), &json!(200)));
    assert_eq!((&first["sendId"], &first["deliveryId"], &first["title"]), (&json!("s"), &json!("d"), &json!("T")));
    assert_eq!(log.iter().filter(|line| line["outcome"] == "validated").count(), 1);
    assert!(log.iter().any(|line| line["reason"] == "UNREGISTERED" && line["id"].is_null()));
}

#[tokio::test]
async fn webpush() {
    let running = Running::start("webpush").await;
    let client = running.client().await;
    let key = Es256::new();
    let vapid = key.vapid(&running.url, 43_200, "mailto:ops@example.com");
    let post = async |subscription: &Value, changes: &[(&str, Option<&str>)], body: Option<&[u8]>| {
        let endpoint = subscription["endpoint"].as_str().unwrap().to_owned();
        let plain = json!({"title": "T", "body": "B", "sendoraSendId": "s", "sendoraDeliveryId": "d"}).to_string();
        let body = body.map_or_else(|| encrypt(subscription, plain.as_bytes()), Into::into);
        let mut headers =
            vec![("ttl", "60"), ("content-encoding", "aes128gcm"), ("authorization", &vapid), ("urgency", "high")];
        for (name, value) in changes {
            headers.retain(|(header, _)| header != name);
            headers.extend(value.map(|value| (*name, value)));
        }
        client.call("POST", endpoint.strip_prefix(&running.url).unwrap(), &headers, &body).await.unwrap()
    };
    let ok = client.mint("webpush", "ok-1").await;
    let accepted = post(&ok, &[], None).await;
    assert_eq!((accepted.status, accepted.header("ttl")), (201, Some("60")));
    for (grammar, status) in [("gone", 410), ("badtoken", 404), ("throttle", 429), ("flaky", 503), ("junk", 201)] {
        assert_eq!(post(&client.mint("webpush", grammar).await, &[], None).await.status, status, "{grammar}");
    }
    let stranger = json!({"endpoint": format!("{}/push/AAAA", running.url)});
    assert_eq!(post(&stranger, &[], Some(b"x")).await.status, 404);

    let wrong_key = Es256::new().vapid(&running.url, 60, "mailto:x@y");
    let mixed = format!("{}, k={}", vapid.split_once(", k=").unwrap().0, wrong_key.split_once(", k=").unwrap().1);
    let elsewhere = key.vapid("https://push.example.com", 60, "mailto:x@y");
    let old = key.vapid(&running.url, -1, "mailto:x@y");
    let lasting = key.vapid(&running.url, 86_500, "mailto:x@y");
    let nameless = key.vapid(&running.url, 60, "x@y");
    let topic = "t".repeat(33);
    for (name, value, status) in [
        ("ttl", None, 400),
        ("ttl", Some("-1"), 400),
        ("content-encoding", Some("aesgcm"), 400),
        ("urgency", Some("urgent"), 400),
        ("topic", Some(topic.as_str()), 400),
        ("authorization", None, 401),
        ("authorization", Some("WebPush x"), 401),
        ("authorization", Some(&mixed), 403),
        ("authorization", Some(&elsewhere), 403),
        ("authorization", Some(&old), 403),
        ("authorization", Some(&lasting), 403),
        ("authorization", Some(&nameless), 403),
    ] {
        assert_eq!(post(&ok, &[(name, value)], None).await.status, status, "{name}: {value:?}");
    }
    assert_eq!(post(&ok, &[], Some(&[0; 4_097])).await.status, 413);
    assert_eq!(post(&ok, &[], Some(&[0; 200])).await.status, 400);
    let for_another = encrypt(&client.mint("webpush", "ok-2").await, b"{}");
    assert_eq!(post(&ok, &[], Some(&for_another)).await.status, 400);

    let log = running.stop().await;
    assert_eq!((&log[0]["token"], &log[0]["grammar"]), (&ok["endpoint"], &json!("ok-1")));
    assert_eq!(log[0]["id"].as_str(), accepted.header("location"));
    assert_eq!((&log[0]["title"], &log[0]["body"], &log[0]["deliveryId"]), (&json!("T"), &json!("B"), &json!("d")));
}

#[tokio::test]
async fn without_credentials_the_rest_is_still_checked() {
    let mut config = support::config(&support::folder("without_credentials"));
    config.require_auth = false;
    let running = Running::with(&config).await;
    let client = running.client().await;
    let push = [("ttl", "0"), ("content-encoding", "aes128gcm")];
    let subscription = client.mint("webpush", "ok").await;
    let sealed = encrypt(&subscription, b"not json");
    let endpoint = subscription["endpoint"].as_str().unwrap().strip_prefix(&running.url).unwrap();
    let fcm = "/v1/projects/any/messages:send";
    for (path, headers, body, status) in [
        ("/3/device/ok", &apns_headers("")[1..], &apns_payload("s")[..], 200),
        ("/3/device/ok", &apns_headers("")[2..], &apns_payload("s"), 400),
        (fcm, &[], br#"{"message": {"token": "ok"}}"#, 200),
        (fcm, &[], br#"{"message": {}}"#, 400),
        (endpoint, &push, &sealed, 201),
        (endpoint, &push[1..], &sealed, 400),
    ] {
        assert_eq!(client.call("POST", path, headers, body).await.unwrap().status, status, "{path}");
    }
    assert_eq!(running.stop().await.len(), 6);
}

#[tokio::test]
async fn minting() {
    let running = Running::start("minting").await;
    let client = running.client().await;
    let wishes: Vec<String> = (0..2_000).map(|number| format!("ok-{number:06}")).collect();
    for transport in ["apns", "fcm", "webpush"] {
        let body = json!({"transport": transport, "tokens": wishes});
        let tokens = client.ask("POST", "/_/mint", body.clone()).await;
        let texts: std::collections::BTreeSet<String> =
            tokens["tokens"].as_array().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), wishes.len());
        assert_eq!(client.ask("POST", "/_/mint", body).await, tokens);
    }
    for body in [
        json!({"transport": "sms", "tokens": []}),
        json!({"transport": "apns", "tokens": ["okay"]}),
        json!({"transport": "apns", "tokens": vec!["ok"; 10_001]}),
        json!({}),
    ] {
        let response = client.call("POST", "/_/mint", &[], body.to_string().as_bytes()).await.unwrap();
        assert_eq!(response.status, 400);
    }
    assert_eq!(client.call("GET", "/_/secrets", &[], b"").await.unwrap().status, 404);
    assert!(running.stop().await.is_empty());
}

#[tokio::test]
async fn going_away_loses_nothing() {
    let running = Running::start("going_away").await;
    let control = running.client().await;
    let bearer = control.bearer(0).await;
    control.switch(json!({"goawayEvery": 5})).await;
    let mut client = running.client().await;
    let mut answered = 0;
    for number in 0..23 {
        let token = format!("ok-{number}");
        if client.ended.is_finished() || client.http2.clone().ready().await.is_err() {
            client = running.client().await;
        }
        match client.apns(&token, &bearer, "s").await {
            Ok(response) => answered += u64::from(response.status == 200),
            // Beyond the last stream of the GOAWAY: proved unsent, so it may be sent again.
            Err(error) => {
                assert!(error.is_go_away() || error.is_reset(), "{error:?}");
                client = running.client().await;
                answered += u64::from(client.apns(&token, &bearer, "s").await.unwrap().status == 200);
            }
        }
    }
    assert_eq!(answered, 23);
    control.switch(json!({"goawayEvery": 0})).await;
    let stats = control.ask("GET", "/_/stats", Value::Null).await;
    assert!(stats["goaways"].as_u64().unwrap() >= 4, "{stats}");
    assert_eq!(running.stop().await.len(), 23);
}

#[tokio::test]
async fn streams() {
    let running = Running::start("streams").await;
    let control = running.client().await;
    let bearer = control.bearer(0).await;
    control.switch(json!({"maxConcurrentStreams": 3})).await;
    let client = running.client().await;
    assert_eq!(client.apns("ok", &bearer, "s").await.unwrap().status, 200);
    assert_eq!(client.http2.current_max_send_streams(), 3);

    control.switch(json!({"refuseEvery": 2})).await;
    let refused = client.apns("ok", &bearer, "s").await.unwrap_err();
    assert_eq!(refused.reason(), Some(h2::Reason::REFUSED_STREAM));
    control.switch(json!({"refuseEvery": 0})).await;

    let early = running.client().await;
    let both = tokio::join!(early.apns("ok~20-1", &bearer, "s"), early.apns("ok~20-2", &bearer, "s"));
    assert!(both.0.is_ok() && both.1.is_ok());
    let stats = control.ask("GET", "/_/stats", Value::Null).await;
    assert_eq!((&stats["earlyStreams"], &stats["refusedStreams"]), (&json!(1), &json!(1)));
    assert_eq!(running.stop().await.len(), 3);
}

#[tokio::test]
async fn cut_and_silence() {
    let running = Running::start("cut_and_silence").await;
    let client = running.client().await;
    let bearer = client.bearer(0).await;
    assert_eq!(client.apns("ok", &bearer, "s").await.unwrap().status, 200);

    let silent = timeout(Duration::from_millis(50), client.apns("silent", &bearer, "s")).await;
    assert!(silent.is_err(), "{silent:?}");
    assert_eq!(client.apns("ok", &bearer, "s").await.unwrap().status, 200);
    let (cut, beside) = tokio::join!(client.apns("reset", &bearer, "s"), client.apns("silent", &bearer, "s"));
    assert!(cut.is_err() && beside.is_err());
    assert!(client.ended.await.unwrap().is_err());

    let log = running.stop().await;
    let of = |outcome: &str| {
        log.iter().filter(|line| line["outcome"] == outcome).map(|line| &line["status"]).collect::<Vec<_>>()
    };
    assert_eq!(of("reset"), [&Value::Null]);
    assert!(of("silent").iter().all(|status| status.is_null()) && !of("silent").is_empty());
}

#[tokio::test]
async fn switches() {
    let running = Running::start("switches").await;
    let client = running.client().await;
    let bearer = client.bearer(0).await;
    client.switch(json!({"outage": "apns"})).await;
    let out = client.apns("ok", &bearer, "s").await.unwrap();
    assert_eq!((out.status, out.reason().as_str()), (503, "ServiceUnavailable"));
    client.switch(json!({"outage": null, "throttleAll": true})).await;
    assert_eq!(client.apns("ok", &bearer, "s").await.unwrap().status, 429);
    client.switch(json!({"throttleAll": false, "delayMs": 30})).await;
    let begun = Instant::now();
    assert_eq!(client.apns("ok", &bearer, "s").await.unwrap().status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(30));
    assert_eq!(client.ask("GET", "/_/switches", Value::Null).await["delayMs"], 30);
    let response = client.call("POST", "/_/switches", &[], br#"{"delay": 1}"#).await.unwrap();
    assert_eq!(response.status, 400);

    // The log is there when the answer is, at the latest after a flush.
    client.ask("POST", "/_/flush", json!({})).await;
    let outcomes: Vec<Value> = lines(&running.log_file).into_iter().map(|mut line| line["outcome"].take()).collect();
    assert_eq!(outcomes, ["outage", "throttleAll", "ok"]);
    running.stop().await;
}

#[tokio::test]
async fn http1_for_those_who_have_nothing_else() {
    let running = Running::start("http1").await;
    let mut stream = support::tls(running.authority(), &running.ca_file, b"http/1.1").await;
    let head = |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", running.authority());
    let requests = format!(
        "{}\r\n{}content-length: 2\r\n\r\n{{}}{}connection: close\r\n\r\n",
        head("GET", "/_/stats"),
        head("POST", "/3/device/ok"),
        head("POST", "/push/ok"),
    );
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    let statuses: Vec<&str> = answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect();
    // APNs speaks HTTP/2 only.
    assert_eq!(statuses, ["200", "505", "400"], "{answers}");
    let endpoint = format!("{}/push/ok", running.url);
    assert_eq!(running.stop().await[1]["token"], endpoint);
}

/// The real entry, in a process of its own, ended as an operator ends it.
#[tokio::test]
async fn a_terminated_simulator_has_written_its_log_and_keeps_its_identity() {
    let folder = support::folder("terminated");
    let text = |name: &str| folder.join(name).display().to_string();
    let config = json!({"logFile": text("log.jsonl"), "certificateDir": text("c"), "readyFile": text("ready.json")});
    let mut identities = Vec::new();
    for round in 1..=2 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored"])
            .env("SIMULATOR_CONFIG", config.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ready = timeout(Duration::from_secs(10), async {
            loop {
                match fs::read(folder.join("ready.json")) {
                    Ok(ready) => break serde_json::from_slice::<Value>(&ready).unwrap(),
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        })
        .await
        .unwrap();
        let ca_file = ready["caFile"].as_str().unwrap();
        let client =
            Client::connect(ready["url"].as_str().unwrap().strip_prefix("https://").unwrap(), ca_file.as_ref()).await;
        let bearer = client.bearer(0).await;
        assert_eq!(client.apns("ok", &bearer, "s").await.unwrap().status, 200);
        identities
            .push((client.ask("GET", "/_/credentials", Value::Null).await["apns"].take(), fs::read(ca_file).unwrap()));
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        // Elsewhere, because this thread has to answer the server's farewell.
        let ended = tokio::task::spawn_blocking(move || child.wait()).await.unwrap();
        assert!(ended.unwrap().success());
        assert_eq!(lines(&folder.join("log.jsonl")).len(), round);
        assert!(!folder.join("ready.json").exists());
    }
    assert_eq!(identities[0], identities[1]);
}

#[test]
#[ignore = "the process of the test above"]
fn child() {
    sendora_simulator::run(&std::env::var("SIMULATOR_CONFIG").unwrap()).unwrap();
}
