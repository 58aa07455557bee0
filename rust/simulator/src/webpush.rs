//! A Web Push service: `POST /push/<token>` (RFC 8030), VAPID (RFC 8292), and the browser's side of RFC 8291.
//!
//! A subscription's key pair and secret are derived from the seed and the token's grammar, so the service can be the
//! browser as well: it decrypts each message and logs what a person would have read, with nothing remembered.

use std::collections::HashMap;
use std::sync::RwLock;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use http::Method;
use http::header::{HeaderName, LOCATION};
use p256::elliptic_curve::Group;
use p256::elliptic_curve::point::AffineCoordinates;
use p256::{ProjectivePoint, PublicKey, SecretKey};
use ring::{aead, hmac};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Simulator;
use crate::exchange::{Answer, Message, Reply, Request, Said, Worded, text};
use crate::jwt::Jwt;
use crate::log::now_ms;
use crate::token::{Transport, carried_key, derive, mint_webpush, read};

pub const PREFIX: &str = "/push/";
/// An uncompressed point of P-256.
pub const POINT: usize = 65;

/// Secrets are this many bytes: they protect nothing, and a multiplication by 48 bits costs a fifth of one by 256.
const SECRET: usize = 6;
const AUTH: usize = 16;
const SALT: usize = 16;
/// salt, record size, length of the key id, key id.
const HEAD: usize = SALT + 4 + 1 + POINT;
const TAG: usize = 16;
/// Services must take this much; this one takes no more.
const BODY_MAX: usize = 4_096;
const TOPIC_CHARS_MAX: usize = 32;
const VAPID_S_MAX: i64 = 86_400;
/// A sender needs one a day for each origin and project.
const VAPIDS_MAX: usize = 1_024;

const TTL: HeaderName = HeaderName::from_static("ttl");

/// What the browser keeps for itself, and its public key.
pub struct Subscriber {
    secret: SecretKey,
    auth: [u8; AUTH],
    public: [u8; POINT],
}

/// Verified `authorization` headers -> when they expire.
#[derive(Default)]
pub struct Webpush {
    vapids: RwLock<HashMap<String, i64>>,
}

struct Refusal(u16, &'static str);

impl Subscriber {
    /// `public`: when it is known already; it costs as much as decrypting.
    pub fn derive(seed: &hmac::Key, grammar: &str, public: Option<[u8; POINT]>) -> Self {
        let mut secret = [0; 32];
        secret[32 - SECRET..].copy_from_slice(&derive(seed, "subscription", grammar, 0)[..SECRET]);
        secret[31] |= 1;
        let secret = SecretKey::from_slice(&secret).expect("neither zero nor beyond the order");
        let auth = derive(seed, "auth", grammar, 0)[..AUTH].try_into().expect("32 bytes are more than 16");
        let public =
            public.unwrap_or_else(|| (*secret.public_key().to_sec1_bytes()).try_into().expect("an uncompressed point"));
        Self { secret, auth, public }
    }

    /// The plaintext of one aes128gcm body.
    pub fn decrypt(&self, body: &[u8]) -> Result<Vec<u8>, &'static str> {
        let (head, sealed) = body.split_at_checked(HEAD).ok_or("truncated")?;
        let (salt, rest) = head.split_at(SALT);
        let record = u32::from_be_bytes(*rest.first_chunk().ok_or("truncated")?) as usize;
        let (id_length, sender) = (rest[4], &rest[5..]);
        if usize::from(id_length) != POINT || sealed.len() <= TAG || sealed.len() > record {
            return Err("not one record by one key");
        }
        let point = PublicKey::from_sec1_bytes(sender).map_err(|_| "the key id is no point")?;
        let shared = multiply(&point, &self.secret.to_bytes()).to_affine().x();
        let prk_key = mac(&self.auth, &[&shared]);
        let ikm = mac(&prk_key, &[b"WebPush: info\0", &self.public, sender, &[1]]);
        let prk = mac(salt, &[&ikm]);
        let key = mac(&prk, &[b"Content-Encoding: aes128gcm\0", &[1]]);
        let nonce = mac(&prk, &[b"Content-Encoding: nonce\0", &[1]]);
        let key = aead::UnboundKey::new(&aead::AES_128_GCM, &key[..16]).map_err(|_| "key")?;
        let nonce = aead::Nonce::try_assume_unique_for_key(&nonce[..aead::NONCE_LEN]).map_err(|_| "nonce")?;
        let mut bytes = sealed.to_vec();
        let plain = aead::LessSafeKey::new(key)
            .open_in_place(nonce, aead::Aad::empty(), &mut bytes)
            .map_err(|_| "decryption failed")?;
        // A last record ends with 2 and any number of zeros.
        let end = plain.iter().rposition(|byte| *byte != 0).filter(|end| plain[*end] == 2).ok_or("no delimiter")?;
        Ok(plain[..end].to_vec())
    }
}

/// A subscription as a browser hands it to its page.
pub fn mint(seed: &hmac::Key, url: &str, grammar: &str) -> Value {
    let subscriber = Subscriber::derive(seed, grammar, None);
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    json!({
        "endpoint": format!("{url}{PREFIX}{}", mint_webpush(&subscriber.public, grammar)),
        "keys": {"p256dh": encode(&subscriber.public), "auth": encode(&subscriber.auth)},
    })
}

/// Takes one message.
pub fn take(simulator: &Simulator, request: &Request) -> Reply {
    let path = request.head.uri.path();
    let token = path.strip_prefix(PREFIX).unwrap_or_default();
    let origin = request.authority().map_or_else(|| simulator.url.clone(), |authority| format!("https://{authority}"));
    let endpoint = format!("{origin}{path}");
    let grammar = read(Transport::Webpush, token);
    let plain = grammar.as_deref().map(|grammar| {
        let subscriber = Subscriber::derive(&simulator.seed, grammar, carried_key(token));
        subscriber.decrypt(&request.body)
    });
    let payload: Option<Value> = plain.as_ref().and_then(|plain| serde_json::from_slice(plain.as_ref().ok()?).ok());
    let payload = payload.as_ref();
    let either = |key| text(payload, &[key]).or_else(|| text(payload, &["data", key]));
    let message = Message {
        transport: Transport::Webpush,
        token: &endpoint,
        grammar: grammar.as_deref(),
        send_id: either("sendoraSendId"),
        delivery_id: either("sendoraDeliveryId"),
        title: text(payload, &["title"]).or_else(|| text(payload, &["notification", "title"])),
        body: text(payload, &["body"]).or_else(|| text(payload, &["notification", "body"])),
        payload: plain.as_ref().and_then(|plain| plain.as_deref().ok()).unwrap_or_default(),
        dry: false,
    };
    let check = || {
        check_headers(request)?;
        if simulator.require_auth {
            check_vapid(simulator, request, (now_ms() / 1_000) as i64)?;
        }
        match &plain {
            Some(Err(reason)) => Err(Refusal(400, reason)),
            _ => Ok(()),
        }
    };
    let failed = |status, reason: &'static str| {
        Worded::failed(Answer::json(status, &json!({"code": status, "error": reason})), reason)
    };
    simulator.take(request, &message, check, |said| match said {
        Said::Accepted => {
            let location = format!("{origin}/message/{}", Uuid::now_v7().simple());
            let ttl = request.header("ttl").unwrap_or("0");
            let answer = Answer::empty(201).with(LOCATION, &location).with(TTL, ttl);
            Worded { answer, reason: None, id: Some(location) }
        }
        Said::Gone => failed(410, "gone"),
        Said::BadToken => failed(404, "no such subscription"),
        Said::Throttled => failed(429, "too many requests").retry(),
        Said::Unavailable => failed(503, "unavailable").retry(),
        Said::Junk { error: false } => Worded { answer: Answer::junk(201), reason: None, id: None },
        Said::Junk { error: true } => Worded { answer: Answer::junk_page(), reason: None, id: None },
        Said::Refused(Refusal(status, reason)) => failed(status, reason),
    })
}

fn check_headers(request: &Request) -> Result<(), Refusal> {
    if request.head.method != Method::POST {
        return Err(Refusal(405, "POST only"));
    }
    if request.header("ttl").is_none_or(|ttl| ttl.parse::<u32>().is_err()) {
        return Err(Refusal(400, "TTL missing or not a number"));
    }
    if request.header("content-encoding") != Some("aes128gcm") {
        return Err(Refusal(400, "Content-Encoding is not aes128gcm"));
    }
    if request.header("urgency").is_some_and(|urgency| !["very-low", "low", "normal", "high"].contains(&urgency)) {
        return Err(Refusal(400, "unknown Urgency"));
    }
    let legible = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if request.header("topic").is_some_and(|topic| topic.len() > TOPIC_CHARS_MAX || !topic.bytes().all(legible)) {
        return Err(Refusal(400, "bad Topic"));
    }
    match request.body.len() {
        length if length > BODY_MAX => Err(Refusal(413, "payload too large")),
        _ => Ok(()),
    }
}

fn check_vapid(simulator: &Simulator, request: &Request, now_s: i64) -> Result<(), Refusal> {
    let authorization = request.header("authorization").ok_or(Refusal(401, "no Authorization"))?;
    let known = simulator.webpush.vapids.read().expect("no writer panics").get(authorization).copied();
    let expires_s = if let Some(expires_s) = known {
        expires_s
    } else {
        let expires_s = verify_vapid(simulator, authorization)?;
        let mut vapids = simulator.webpush.vapids.write().expect("no writer panics");
        if vapids.len() >= VAPIDS_MAX {
            vapids.clear();
        }
        vapids.insert(authorization.into(), expires_s);
        expires_s
    };
    match expires_s - now_s {
        ..=0 => Err(Refusal(403, "the VAPID token has expired")),
        1..=VAPID_S_MAX => Ok(()),
        _ => Err(Refusal(403, "the VAPID token is good for more than a day")),
    }
}

/// Everything about it that does not change with time; gives its `exp`.
fn verify_vapid(simulator: &Simulator, authorization: &str) -> Result<i64, Refusal> {
    const MALFORMED: Refusal = Refusal(401, "Authorization is not `vapid t=.., k=..`");
    let scheme = authorization.get(..6).filter(|scheme| scheme.eq_ignore_ascii_case("vapid "));
    let parts = scheme.map(|_| &authorization[6..]).ok_or(MALFORMED)?;
    let part = |name: &str| parts.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
    let jwt = part("t").and_then(Jwt::parse).ok_or(MALFORMED)?;
    let key = part("k").and_then(|key| BASE64_URL_SAFE_NO_PAD.decode(key).ok()).ok_or(MALFORMED)?;
    if !jwt.is_es256_of(&key) {
        return Err(Refusal(403, "the VAPID signature is wrong"));
    }
    if !jwt.claims.aud.as_ref().is_some_and(|aud| simulator.origins.contains(aud)) {
        return Err(Refusal(403, "the VAPID audience is not this origin"));
    }
    if !jwt.claims.sub.as_ref().is_some_and(|sub| sub.starts_with("mailto:") || sub.starts_with("https:")) {
        return Err(Refusal(403, "the VAPID subject is neither mailto: nor https:"));
    }
    jwt.claims.exp.ok_or(Refusal(403, "the VAPID token has no exp"))
}

/// Double and add, from the highest bit down. Its time tells the scalar, which is no loss here, and short ones are quick.
fn multiply(point: &PublicKey, scalar: &[u8]) -> ProjectivePoint {
    let bits = scalar.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1));
    bits.skip_while(|bit| !bit).fold(ProjectivePoint::IDENTITY, |product, bit| {
        let product = product.double();
        if bit { product + point.as_affine() } else { product }
    })
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    context.sign().as_ref().try_into().expect("HMAC-SHA256 gives 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Vec<u8> {
        BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()
    }

    /// RFC 8291, Appendix A.
    #[test]
    fn the_published_vector() {
        let subscriber = Subscriber {
            secret: SecretKey::from_slice(&decode("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94")).unwrap(),
            auth: decode("BTBZMqHH6r4Tts7J_aSIgg").try_into().unwrap(),
            public: decode("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4")
                .try_into()
                .unwrap(),
        };
        let mut body = decode(
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6P\
             Bru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN",
        );
        assert_eq!(subscriber.decrypt(&body).unwrap(), b"When I grow up, I want to be a watermelon");
        assert_eq!(*subscriber.secret.public_key().to_sec1_bytes(), subscriber.public);
        body[143] ^= 1;
        assert_eq!(subscriber.decrypt(&body), Err("decryption failed"));
        for cut in [0, 16, 85, 86, 102] {
            assert!(subscriber.decrypt(&body[..cut]).is_err());
        }
    }

    #[test]
    fn a_minted_token_carries_the_key_of_its_subscription() {
        let seed = hmac::Key::new(hmac::HMAC_SHA256, b"1");
        let subscription = mint(&seed, "https://localhost:1", "ok-7");
        let token = subscription["endpoint"].as_str().unwrap().strip_prefix("https://localhost:1/push/").unwrap();
        assert_eq!(carried_key(token).unwrap().to_vec(), decode(subscription["keys"]["p256dh"].as_str().unwrap()));
        let derived = Subscriber::derive(&seed, "ok-7", None);
        assert_eq!(derived.public, carried_key(token).unwrap());
        assert_eq!(derived.auth.to_vec(), decode(subscription["keys"]["auth"].as_str().unwrap()));
    }
}
