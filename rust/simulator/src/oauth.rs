//! Google's OAuth, as FCM needs it: `POST /token`, where a service account's assertion buys an access token.
//!
//! An access token says when it was issued and carries its own proof, so it outlives a restart of the simulator as a
//! real one outlives a restart of Google's. The service account is fixed, key included (`service_account.pem`), because
//! `ring` cannot make an RSA key: it opens nothing but this simulator.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use http::Method;
use ring::hmac;
use ring::signature::{KeyPair, RsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Simulator;
use crate::exchange::{Answer, Request};
use crate::jwt::Jwt;
use crate::log::now_ms;
use crate::switches::Place;
use crate::token::derive;

pub const PATH: &str = "/token";
/// The Firebase project of the service account; it is known in those as well whose name goes on behind a dash.
pub const PROJECT: &str = "sendora-simulator";

const PRIVATE_KEY: &str = include_str!("service_account.pem");
const PRIVATE_KEY_ID: &str = "5e4d07a05e4d07a05e4d07a05e4d07a05e4d07a0";
const CLIENT_EMAIL: &str = "push@sendora-simulator.iam.gserviceaccount.com";
const SCOPES: [&str; 2] =
    ["https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"];
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const ASSERTION_S_MAX: i64 = 3_600;
const SKEW_S: i64 = 60;

const ACCESS_TOKEN_S: u64 = 3_600;
const ACCESS_TOKEN_PREFIX: &str = "ya29.sim-";
const TAG: usize = 16;
/// The instant of issue and a nonce.
const STAMP: usize = 8 + 16;

pub struct OAuth {
    public_key: Vec<u8>,
    token_uri: String,
    key: hmac::Key,
    /// Access tokens of this millisecond and before are no longer good.
    expired_ms: AtomicU64,
}

impl OAuth {
    pub fn new(url: &str, seed: &hmac::Key) -> Result<Self, String> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(PRIVATE_KEY.as_bytes()).map_err(|error| error.to_string())?;
        let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|error| error.to_string())?;
        Ok(Self {
            public_key: pair.public_key().as_ref().to_vec(),
            token_uri: format!("{url}{PATH}"),
            key: hmac::Key::new(hmac::HMAC_SHA256, &derive(seed, "access tokens", "", 0)),
            expired_ms: AtomicU64::new(0),
        })
    }

    /// What Google's console would give out.
    pub fn credentials(&self) -> Value {
        json!({"serviceAccount": {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": PRIVATE_KEY_ID,
            "private_key": PRIVATE_KEY,
            "client_email": CLIENT_EMAIL,
            "client_id": "100000000000000000000",
            "auth_uri": self.token_uri.replace(PATH, "/auth"),
            "token_uri": self.token_uri,
            "universe_domain": "googleapis.com",
        }})
    }

    pub fn expire_tokens(&self) {
        self.expired_ms.store(now_ms(), Ordering::Relaxed);
    }

    fn access_token(&self, now_ms: u64) -> String {
        let mut bytes = now_ms.to_be_bytes().to_vec();
        bytes.extend_from_slice(Uuid::now_v7().as_bytes());
        let tag = hmac::sign(&self.key, &bytes);
        bytes.extend_from_slice(&tag.as_ref()[..TAG]);
        format!("{ACCESS_TOKEN_PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    pub fn is_good(&self, access_token: &str, now_ms: u64) -> bool {
        let bytes = access_token.strip_prefix(ACCESS_TOKEN_PREFIX).map(|rest| BASE64_URL_SAFE_NO_PAD.decode(rest));
        let Some((stamp, tag)) = bytes.as_ref().and_then(|bytes| bytes.as_ref().ok()?.split_at_checked(STAMP)) else {
            return false;
        };
        let issued_ms = stamp.first_chunk().map_or(0, |at| u64::from_be_bytes(*at));
        tag == &hmac::sign(&self.key, stamp).as_ref()[..TAG]
            && now_ms < issued_ms + ACCESS_TOKEN_S * 1_000
            && issued_ms > self.expired_ms.load(Ordering::Relaxed)
    }
}

/// `POST /token`: not a message, so not in the log; `accessTokens` counts.
pub fn token(simulator: &Simulator, request: &Request) -> Answer {
    let refused =
        |error: &str, description: &str| Answer::json(400, &json!({"error": error, "error_description": description}));
    if request.head.method != Method::POST {
        return Answer::empty(405);
    }
    if simulator.switches().outage == Some(Place::Oauth) {
        return Answer::json(503, &json!({"error": "temporarily_unavailable"})).retry();
    }
    let form = str::from_utf8(&request.body).unwrap_or_default();
    let field = |name: &str| {
        form.split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| unescape(value))
    };
    if field("grant_type").as_deref() != Some(GRANT) {
        return refused("unsupported_grant_type", "Invalid grant_type");
    }
    let now_ms = now_ms();
    if let Err((error, description)) =
        check_assertion(simulator, &field("assertion").unwrap_or_default(), (now_ms / 1_000) as i64)
    {
        return refused(error, description);
    }
    simulator.stats.access_tokens.add();
    let access_token = simulator.oauth.access_token(now_ms);
    Answer::json(200, &json!({"access_token": access_token, "expires_in": ACCESS_TOKEN_S, "token_type": "Bearer"}))
}

fn check_assertion(simulator: &Simulator, assertion: &str, now_s: i64) -> Result<(), (&'static str, &'static str)> {
    let grant = |description| Err(("invalid_grant", description));
    let Some(jwt) = Jwt::parse(assertion) else {
        return grant("Invalid JWT: Failed to parse");
    };
    if jwt.header.kid.as_deref().is_some_and(|kid| kid != PRIVATE_KEY_ID)
        || !jwt.is_rs256_of(&simulator.oauth.public_key)
    {
        return grant("Invalid JWT Signature.");
    }
    let claims = &jwt.claims;
    if claims.iss.as_deref() != Some(CLIENT_EMAIL) {
        return grant("Invalid grant: account not found");
    }
    let origin = claims.aud.as_deref().and_then(|aud| aud.strip_suffix(PATH));
    if !origin.is_some_and(|origin| simulator.origins.iter().any(|ours| ours == origin)) {
        return grant("Invalid JWT: Failed audience check.");
    }
    let (Some(iat), Some(exp)) = (claims.iat, claims.exp) else {
        return grant("Invalid JWT: iat and exp are required");
    };
    if iat > now_s + SKEW_S || exp <= now_s || exp - iat > ASSERTION_S_MAX {
        return grant("Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.");
    }
    let scopes = claims.scope.as_deref().unwrap_or_default();
    if scopes.split(' ').any(|scope| SCOPES.contains(&scope)) {
        return Ok(());
    }
    Err(("invalid_scope", "Invalid OAuth scope or ID token audience provided."))
}

/// A value of a form: `+` is a space, `%xx` a byte.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => match (digit(), digit()) {
                (Some(high), Some(low)) => bytes.push((high << 4 | low) as u8),
                _ => return String::new(),
            },
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_tokens_prove_themselves() {
        let seed = hmac::Key::new(hmac::HMAC_SHA256, b"1");
        let oauth = OAuth::new("https://localhost:1", &seed).unwrap();
        let token = oauth.access_token(1_000_000);
        assert!(oauth.is_good(&token, 1_000_001));
        assert!(OAuth::new("https://localhost:2", &seed).unwrap().is_good(&token, 1_000_001));
        assert!(!oauth.is_good(&token, 1_000_000 + 3_600_000));
        assert!(!oauth.is_good(&token.replace("sim-A", "sim-B"), 1_000_001));
        assert!(!oauth.is_good("ya29.sim-", 1) && !oauth.is_good("", 1));
        oauth.expire_tokens();
        assert!(!oauth.is_good(&token, 1_000_001));
    }

    #[test]
    fn forms() {
        assert_eq!(unescape("urn%3Aietf+x"), "urn:ietf x");
        assert_eq!(unescape("%4"), "");
    }
}
