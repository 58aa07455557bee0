//! JSON web tokens, as far as the three providers use them: taken apart, and their signatures verified by `ring`.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;

pub struct Jwt<'a> {
    pub header: Header,
    pub claims: Claims,
    signed: &'a str,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
pub struct Header {
    pub alg: String,
    pub kid: Option<String>,
}

#[derive(Deserialize)]
pub struct Claims {
    pub iss: Option<String>,
    pub sub: Option<String>,
    pub aud: Option<String>,
    pub scope: Option<String>,
    pub iat: Option<i64>,
    pub exp: Option<i64>,
}

impl<'a> Jwt<'a> {
    pub fn parse(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
        Some(Self {
            header: serde_json::from_slice(&decode(header)?).ok()?,
            claims: serde_json::from_slice(&decode(claims)?).ok()?,
            signed,
            signature: decode(signature)?,
        })
    }

    /// `public`: the uncompressed point. The signature is r and s, 64 bytes; DER fails, as it does at Apple.
    pub fn is_es256_of(&self, public: &[u8]) -> bool {
        self.header.alg == "ES256" && self.verify(&ECDSA_P256_SHA256_FIXED, public)
    }

    /// `public`: the RSAPublicKey of PKCS#1.
    pub fn is_rs256_of(&self, public: &[u8]) -> bool {
        self.header.alg == "RS256" && self.verify(&RSA_PKCS1_2048_8192_SHA256, public)
    }

    fn verify(&self, algorithm: &'static dyn VerificationAlgorithm, public: &[u8]) -> bool {
        UnparsedPublicKey::new(algorithm, public).verify(self.signed.as_bytes(), &self.signature).is_ok()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::Value;

    /// A key of its own, and what it signs.
    pub struct Signer(EcdsaKeyPair);

    impl Signer {
        pub fn new() -> Self {
            let pair = rcgen::KeyPair::generate().unwrap();
            let pkcs8 = pair.serialize_der();
            Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8, &SystemRandom::new()).unwrap())
        }

        pub fn public(&self) -> &[u8] {
            self.0.public_key().as_ref()
        }

        pub fn sign(&self, header: &Value, claims: &Value) -> String {
            let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
            let signed = format!("{}.{}", part(header), part(claims));
            let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
            format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
        }
    }

    #[test]
    fn a_signature_holds_for_its_key_and_bytes_only() {
        let (ours, theirs) = (Signer::new(), Signer::new());
        let token = ours.sign(&serde_json::json!({"alg": "ES256"}), &serde_json::json!({"iss": "x"}));
        assert!(Jwt::parse(&token).unwrap().is_es256_of(ours.public()));
        assert!(!Jwt::parse(&token).unwrap().is_es256_of(theirs.public()));
        assert!(!Jwt::parse(&token).unwrap().is_rs256_of(ours.public()));
        let other = ours.sign(&serde_json::json!({"alg": "ES256"}), &serde_json::json!({"iss": "y"}));
        let forged = format!("{}.{}", token.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().1);
        assert!(!Jwt::parse(&forged).unwrap().is_es256_of(ours.public()));
        assert!(Jwt::parse("a.b").is_none());
    }
}
