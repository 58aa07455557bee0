//! FCM: `POST /v1/projects/<p>/messages:send`, for registration tokens, with the access token that `oauth` gave out.

use http::Method;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::Simulator;
use crate::exchange::{Answer, Message, Reply, Request, Said, Worded, text};
use crate::log::now_ms;
use crate::oauth::PROJECT;
use crate::token::{Transport, read};

pub const SEND_PREFIX: &str = "/v1/projects/";
pub const SEND_SUFFIX: &str = "/messages:send";

const PAYLOAD_MAX: usize = 4_096;
const TTL_S_MAX: u64 = 2_419_200;
const MESSAGE_FIELDS: [&str; 12] = [
    "name",
    "data",
    "notification",
    "android",
    "webpush",
    "apns",
    "fcm_options",
    "fcmOptions",
    "token",
    "topic",
    "condition",
    "fid",
];

/// In the terms of google.rpc.Status.
struct Refusal {
    http: u16,
    status: &'static str,
    detail: Detail,
    message: String,
}

enum Detail {
    None,
    /// google.firebase.fcm.v1.FcmError.
    Fcm(&'static str),
    /// google.rpc.BadRequest.
    Field(&'static str),
}

/// Takes one message.
pub fn take(simulator: &Simulator, request: &Request) -> Reply {
    let path = request.head.uri.path();
    let project = path.strip_prefix(SEND_PREFIX).and_then(|rest| rest.strip_suffix(SEND_SUFFIX)).unwrap_or_default();
    let parsed: Result<Value, _> = serde_json::from_slice(&request.body);
    let body = parsed.as_ref().ok();
    let token = text(body, &["message", "token"]).unwrap_or_default();
    let grammar = read(Transport::Fcm, token);
    let shown = |key| text(body, &["message", "notification", key]).or_else(|| text(body, &["message", "data", key]));
    let dry = ["validate_only", "validateOnly"]
        .iter()
        .any(|key| body.is_some_and(|body| body.get(key) == Some(&json!(true))));
    let message = Message {
        transport: Transport::Fcm,
        token,
        grammar: grammar.as_deref(),
        send_id: text(body, &["message", "data", "sendoraSendId"]),
        delivery_id: text(body, &["message", "data", "sendoraDeliveryId"]),
        title: shown("title"),
        body: shown("body"),
        payload: &request.body,
        dry,
    };
    let check = || {
        check_route(request)?;
        if simulator.require_auth {
            check_access(simulator, request, project)?;
        }
        match &parsed {
            Ok(body) => check_message(body),
            Err(error) => Err(invalid("", format!("Invalid JSON payload received. {error}"))),
        }
    };
    simulator.take(request, &message, check, |said| match said {
        Said::Accepted => {
            let name = format!("projects/{project}/messages/{}", Uuid::now_v7().simple());
            Worded { answer: Answer::json(200, &json!({"name": name})), reason: None, id: Some(name) }
        }
        Said::Gone => failed(&fcm_error(404, "NOT_FOUND", "UNREGISTERED", "Requested entity was not found.")),
        Said::BadToken => {
            let text = "The registration token is not a valid FCM registration token";
            failed(&fcm_error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", text))
        }
        Said::Throttled => failed(&fcm_error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "Quota exceeded.")).retry(),
        Said::Unavailable => {
            failed(&fcm_error(503, "UNAVAILABLE", "UNAVAILABLE", "The service is currently unavailable.")).retry()
        }
        Said::Junk { error: false } => Worded { answer: Answer::junk(200), reason: None, id: None },
        Said::Junk { error: true } => Worded { answer: Answer::junk_page(), reason: None, id: None },
        Said::Refused(refusal) => failed(&refusal),
    })
}

fn check_route(request: &Request) -> Result<(), Refusal> {
    match request.head.method {
        Method::POST => Ok(()),
        _ => Err(refusal(404, "NOT_FOUND", "The requested URL was not found on this server.")),
    }
}

fn check_access(simulator: &Simulator, request: &Request, project: &str) -> Result<(), Refusal> {
    let authorization = request.header("authorization").unwrap_or_default();
    let token =
        authorization.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("bearer ")).map(|_| &authorization[7..]);
    if !token.is_some_and(|token| simulator.oauth.is_good(token, now_ms())) {
        let text = "Request had invalid authentication credentials. Expected OAuth 2 access token.";
        return Err(refusal(401, "UNAUTHENTICATED", text));
    }
    match project.strip_prefix(PROJECT) {
        Some(rest) if rest.is_empty() || rest.starts_with('-') => Ok(()),
        _ => Err(refusal(403, "PERMISSION_DENIED", "The caller does not have permission")),
    }
}

fn check_message(body: &Value) -> Result<(), Refusal> {
    let object = |value: Option<&Value>, field| match value {
        Some(Value::Object(map)) => Ok(map.clone()),
        None => Ok(Map::new()),
        Some(_) => Err(invalid(field, "not an object")),
    };
    let Some(Value::Object(message)) = body.get("message") else {
        return Err(invalid("message", "required"));
    };
    let known = ["message", "validate_only", "validateOnly"];
    if let Some(key) = body.as_object().and_then(|body| body.keys().find(|key| !known.contains(&key.as_str()))) {
        return Err(invalid("", format!("Unknown name \"{key}\"")));
    }
    if let Some(key) = message.keys().find(|key| !MESSAGE_FIELDS.contains(&key.as_str())) {
        return Err(invalid("message", format!("Unknown name \"{key}\" at 'message'")));
    }
    if ["token", "topic", "condition", "fid"].iter().filter(|target| message.contains_key(**target)).count() != 1 {
        return Err(invalid("message", "Recipient of the message is not set, or more than one is."));
    }
    if !message.get("token").is_some_and(Value::is_string) {
        return Err(invalid("message.token", "The simulator knows registration tokens only."));
    }
    let (data, notification) =
        (object(message.get("data"), "message.data")?, object(message.get("notification"), "message.notification")?);
    let mut size = 0;
    for (key, value) in &data {
        let Value::String(value) = value else {
            return Err(invalid("message.data", format!("the value of \"{key}\" is not a string")));
        };
        let reserved = ["from", "message_type", "notification"].contains(&key.as_str());
        if reserved || key.starts_with("google") || key.starts_with("gcm") {
            return Err(invalid("message.data", format!("Invalid data payload key: {key}")));
        }
        size += key.len() + value.len();
    }
    for (key, value) in &notification {
        let (true, Value::String(value)) = (["title", "body", "image"].contains(&key.as_str()), value) else {
            return Err(invalid("message.notification", format!("Invalid value at \"{key}\"")));
        };
        size += value.len();
    }
    if size > PAYLOAD_MAX {
        return Err(invalid("message", format!("Message is too big: {size} bytes, at most {PAYLOAD_MAX}")));
    }
    check_android(&object(message.get("android"), "message.android")?)
}

fn check_android(android: &Map<String, Value>) -> Result<(), Refusal> {
    let priority = android.get("priority").map_or(Some("normal"), Value::as_str);
    if !priority.is_some_and(|name| ["normal", "high"].contains(&name.to_ascii_lowercase().as_str())) {
        return Err(invalid("message.android.priority", "Invalid value"));
    }
    let seconds = |ttl: &str| ttl.strip_suffix('s')?.split('.').next()?.parse::<u64>().ok();
    match android.get("ttl").map(|ttl| ttl.as_str().and_then(seconds)) {
        None => Ok(()),
        Some(Some(ttl)) if ttl <= TTL_S_MAX => Ok(()),
        Some(_) => Err(invalid("message.android.ttl", "Illegal duration format; must be 0s to 2419200s")),
    }
}

fn refusal(http: u16, status: &'static str, message: &str) -> Refusal {
    Refusal { http, status, detail: Detail::None, message: message.into() }
}

fn fcm_error(http: u16, status: &'static str, code: &'static str, message: &str) -> Refusal {
    Refusal { http, status, detail: Detail::Fcm(code), message: message.into() }
}

fn invalid(field: &'static str, message: impl Into<String>) -> Refusal {
    Refusal { http: 400, status: "INVALID_ARGUMENT", detail: Detail::Field(field), message: message.into() }
}

fn failed(refusal: &Refusal) -> Worded {
    let Refusal { http, status, detail, message } = refusal;
    let mut error = json!({"code": http, "message": message, "status": status});
    match detail {
        Detail::None => {}
        Detail::Fcm(code) => {
            let fcm = json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code});
            let quota = json!({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": []});
            error["details"] = if *http == 429 { json!([fcm, quota]) } else { json!([fcm]) };
        }
        Detail::Field(field) => {
            let violations = json!([{"field": field, "description": message}]);
            error["details"] =
                json!([{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations}]);
        }
    }
    let reason = match detail {
        Detail::Fcm(code) => code,
        Detail::None | Detail::Field(_) => status,
    };
    Worded::failed(Answer::json(*http, &json!({"error": error})), reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_google_refuses() {
        let refused = |message: Value| check_message(&message).err().map(|refusal| refusal.message);
        assert_eq!(
            refused(
                json!({"message": {"token": "t", "data": {"a": "b"}, "android": {"priority": "HIGH", "ttl": "0s"}}})
            ),
            None
        );
        for message in [
            json!({}),
            json!({"message": {"token": "t"}, "extra": 1}),
            json!({"message": {"token": "t", "extra": 1}}),
            json!({"message": {}}),
            json!({"message": {"token": "t", "topic": "x"}}),
            json!({"message": {"topic": "x"}}),
            json!({"message": {"token": "t", "data": {"a": 1}}}),
            json!({"message": {"token": "t", "data": {"from": "x"}}}),
            json!({"message": {"token": "t", "data": {"gcm.x": "x"}}}),
            json!({"message": {"token": "t", "data": {"a": "x".repeat(4_096)}}}),
            json!({"message": {"token": "t", "notification": {"text": "x"}}}),
            json!({"message": {"token": "t", "android": {"ttl": "1h"}}}),
            json!({"message": {"token": "t", "android": {"ttl": "2419201s"}}}),
            json!({"message": {"token": "t", "android": {"priority": "urgent"}}}),
        ] {
            assert!(refused(message.clone()).is_some(), "{message}");
        }
    }
}
