//! Web Push: encryption (RFC 8291, 8188), and what push services answer (providers.md 3).

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::rand::SecureRandom;
pub use ring::rand::SystemRandom;

use super::answer::{REJECTED, THROTTLED, Verdict, accepted, after, by_status, verdict};
use crate::json::Raw;
use crate::retry::Schedule;

/// A push service must take 4,096 bytes: less 86 of header, 1 of padding and 16 of tag.
pub const PLAINTEXT_MAX: usize = 3_993;

const RECORD_SIZE: u32 = 4_096;
const POINT_BYTES: usize = 65;
const AUTH_BYTES: usize = 16;
const SALT_BYTES: usize = 16;
const HEADER_BYTES: usize = SALT_BYTES + 4 + 1 + POINT_BYTES;
const KEY_BYTES: usize = 16;
/// Behind the content of the last record, and there is only one.
const DELIMITER: u8 = 2;

const DOWN: Schedule = Schedule::doubling(30.0);
const GONE: &str = "subscription_gone";

/// base64url with or without padding, and whatever in its last bits: browsers differ.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// Why nothing was encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsealed {
    /// Not the keys of a subscription.
    BadKeys,
    TooLarge,
    /// The system has no randomness.
    NoRandom,
}

/// A browser's keys.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    pub point: [u8; POINT_BYTES],
    pub auth: [u8; AUTH_BYTES],
}

impl Keys {
    pub fn new(p256dh: &str, auth: &str) -> Result<Self, Unsealed> {
        let keys = Self { point: decode(p256dh)?, auth: decode(auth)? };
        // Whether the point lies on the curve the agreement finds out.
        if keys.point[0] == 4 { Ok(keys) } else { Err(Unsealed::BadKeys) }
    }

    /// From `{"p256dh", "auth"}`.
    pub fn of_subscription(json: &str) -> Result<Self, Unsealed> {
        let object = Raw::trusted(json);
        let text = |name| object.member(name).and_then(Raw::string).ok_or(Unsealed::BadKeys);
        Self::new(&text("p256dh")?, &text("auth")?)
    }
}

fn decode<const N: usize>(text: &str) -> Result<[u8; N], Unsealed> {
    let mut url = Cow::Borrowed(text.trim_end_matches('='));
    if url.contains(['+', '/']) {
        url = url.replace('+', "-").replace('/', "_").into();
    }
    let mut raw = [0; N];
    match LENIENT.decode_slice(url.as_bytes(), &mut raw) {
        Ok(length) if length == N => Ok(raw),
        _ => Err(Unsealed::BadKeys),
    }
}

/// What both sides know of one message: fresh for each, only the RFC's test vector fixes it.
struct Agreed<'a> {
    secret: &'a [u8],
    point: &'a [u8],
    salt: [u8; SALT_BYTES],
}

/// The body of a request. The key pair and the salt are fresh.
pub fn encrypt(content: &[u8], keys: &Keys, random: &dyn SecureRandom) -> Result<Vec<u8>, Unsealed> {
    let no_random = |_| Unsealed::NoRandom;
    let private = EphemeralPrivateKey::generate(&ECDH_P256, random).map_err(no_random)?;
    let public = private.compute_public_key().map_err(no_random)?;
    let mut salt = [0; SALT_BYTES];
    random.fill(&mut salt).map_err(no_random)?;
    let theirs = UnparsedPublicKey::new(&ECDH_P256, &keys.point[..]);
    agree_ephemeral(private, &theirs, |secret| seal(content, keys, &Agreed { secret, point: public.as_ref(), salt }))
        .map_err(|_| Unsealed::BadKeys)?
}

fn seal(content: &[u8], keys: &Keys, agreed: &Agreed<'_>) -> Result<Vec<u8>, Unsealed> {
    if content.len() > PLAINTEXT_MAX {
        return Err(Unsealed::TooLarge);
    }
    let info = [b"WebPush: info\0", &keys.point[..], agreed.point];
    let ikm: [u8; 32] = expand(&Salt::new(HKDF_SHA256, &keys.auth).extract(agreed.secret), &info)?;
    let prk = Salt::new(HKDF_SHA256, &agreed.salt).extract(&ikm);
    let key: [u8; KEY_BYTES] = expand(&prk, &[b"Content-Encoding: aes128gcm\0"])?;
    let nonce: [u8; NONCE_LEN] = expand(&prk, &[b"Content-Encoding: nonce\0"])?;

    let mut body = Vec::with_capacity(HEADER_BYTES + content.len() + 1 + AES_128_GCM.tag_len());
    body.extend_from_slice(&agreed.salt);
    body.extend_from_slice(&RECORD_SIZE.to_be_bytes());
    body.push(POINT_BYTES as u8);
    body.extend_from_slice(agreed.point);
    body.extend_from_slice(content);
    body.push(DELIMITER);
    let key = UnboundKey::new(&AES_128_GCM, &key).map_err(|_| Unsealed::BadKeys)?;
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = LessSafeKey::new(key)
        .seal_in_place_separate_tag(nonce, Aad::empty(), &mut body[HEADER_BYTES..])
        .map_err(|_| Unsealed::TooLarge)?;
    body.extend_from_slice(tag.as_ref());
    Ok(body)
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand<const N: usize>(prk: &Prk, info: &[&[u8]]) -> Result<[u8; N], Unsealed> {
    let mut out = [0; N];
    let filled = prk.expand(info, Length(N)).and_then(|okm| okm.fill(&mut out));
    filled.map(|()| out).map_err(|_| Unsealed::TooLarge)
}

/// scheme://host[:port] of an endpoint in lower case, as a lane and as a VAPID audience, and what stands behind it.
pub fn split(endpoint: &str) -> (String, &str) {
    let Some((scheme, rest)) = endpoint.split_once("://") else { return ("://".to_owned(), endpoint) };
    let host = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let mut origin = format!("{scheme}://{}", &rest[..host]);
    origin.make_ascii_lowercase();
    (origin, &rest[host..])
}

/// Only the status speaks.
pub(super) fn read<'h>(status: u16, header: impl Fn(&str) -> Option<&'h str>) -> Verdict<'h> {
    let (reason, meaning) = match status {
        // 201 by the RFC; 200 and 202 are what some services answer instead.
        200..=202 => return accepted(header("location").map(Cow::Borrowed)),
        404 | 410 => (GONE.into(), REJECTED),
        429 => (by_status(status), after(THROTTLED)),
        500.. => (by_status(status), after(DOWN)),
        _ => (by_status(status), REJECTED),
    };
    verdict(meaning, reason, header("retry-after"), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raw<const N: usize>(text: &str) -> [u8; N] {
        decode(text).unwrap()
    }

    /// RFC 8291, appendix A, byte for byte (providers.md 3.4).
    #[test]
    fn the_published_vector() {
        let keys = Keys::new(
            "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
            "BTBZMqHH6r4Tts7J_aSIgg",
        )
        .unwrap();
        let secret: [u8; 32] = raw("kyrL1jIIOHEzg3sM2ZWRHDRB62YACZhhSlknJ672kSs");
        let point: [u8; POINT_BYTES] =
            raw("BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8");
        let agreed = Agreed { secret: &secret, point: &point, salt: raw("DGv6ra1nlYgDCS1FRnbzlw==") };
        let body = seal(b"When I grow up, I want to be a watermelon", &keys, &agreed).unwrap();
        assert_eq!(
            body,
            raw::<144>(
                "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK\
                 6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
            )
        );
    }

    #[test]
    fn bad_keys_are_no_panic() {
        let random = SystemRandom::new();
        let good = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
        let auth = "BTBZMqHH6r4Tts7J_aSIgg";
        for (p256dh, auth) in
            [("", auth), (good, ""), (&good[1..], auth), (good, "!TBZMqHH6r4Tts7J_aSIgg"), (auth, good)]
        {
            assert_eq!(Keys::new(p256dh, auth).unwrap_err(), Unsealed::BadKeys);
        }
        let mut keys = Keys::new(good, auth).unwrap();
        assert_eq!(encrypt(&[0; PLAINTEXT_MAX + 1], &keys, &random).unwrap_err(), Unsealed::TooLarge);
        assert_eq!(encrypt(&[0; PLAINTEXT_MAX], &keys, &random).unwrap().len(), RECORD_SIZE as usize);
        keys.point[64] ^= 1;
        assert_eq!(encrypt(b"x", &keys, &random).unwrap_err(), Unsealed::BadKeys, "not on the curve");
    }

    proptest! {
        #[test]
        fn any_text_is_no_panic(text in ".{0,90}") {
            let _ = Keys::new(&text, &text);
            let _ = Keys::of_subscription(&text);
            let (origin, rest) = split(&text);
            prop_assert!(text.ends_with(rest) && origin.contains("://"));
        }
    }
}
