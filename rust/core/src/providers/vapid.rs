//! The proof of who sends (RFC 8292): a token for each push service, signed with the org's own key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde::Serialize;

use super::webpush::Unsealed;
use crate::Refused;

/// RFC 8292 allows 24 hours.
const LIFE_S: i64 = 12 * 3_600;
/// A token serves all requests to its origin until half of its life is over.
const RENEW_S: i64 = LIFE_S / 2;
/// Tokens kept: one for each push service that a worker talks to.
const KEPT_MAX: usize = 1_000;

const HEADER: &str = r#"{"typ":"JWT","alg":"ES256"}"#;

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    exp: i64,
    sub: &'a str,
}

/// Of one key pair; a process keeps it, so that tokens outlive a send.
pub struct Prover {
    key: EcdsaKeyPair,
    subject: String,
    random: SystemRandom,
    /// By origin, with the second at which they were made.
    kept: Mutex<HashMap<String, (Arc<str>, i64)>>,
}

impl Prover {
    /// `pkcs8` is the private key in DER; `subject` says whom a push service may turn to.
    pub fn new(pkcs8: &[u8], subject: &str) -> Result<Self, Refused> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
            .map_err(|error| Refused::new("key", error.to_string()))?;
        Ok(Self { key, subject: subject.to_owned(), random, kept: Mutex::default() })
    }

    pub fn proof(&self, origin: &str, now_s: i64) -> Result<Arc<str>, Unsealed> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((proof, made_s)) = kept.get(origin)
            && (*made_s..*made_s + RENEW_S).contains(&now_s)
        {
            return Ok(Arc::clone(proof));
        }
        let proof: Arc<str> = self.sign(origin, now_s)?.into();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(origin.to_owned(), (Arc::clone(&proof), now_s));
        Ok(proof)
    }

    fn sign(&self, origin: &str, now_s: i64) -> Result<String, Unsealed> {
        let claims = Claims { aud: origin, exp: now_s + LIFE_S, sub: &self.subject };
        let claims = serde_json::to_string(&claims).unwrap_or_default();
        let mut token = URL_SAFE_NO_PAD.encode(HEADER);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = self.key.sign(&self.random, token.as_bytes()).map_err(|_| Unsealed::NoRandom)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}
