//! Device tokens that say what is to happen, and tokens that look real and say the same.
//!
//! The grammar is `<outcome>[~ms][-rest]`, on every transport: `ok`, `gone-17`, `flaky~250-abc`. The rest is a name and
//! means nothing, with two exceptions: `junk-error..` is junk in an error answer, and to APNs `ok-sandbox..` is a device of
//! development and `ok-production..` one of an app from the store; any other is known in both environments. A minted token carries its grammar behind a
//! marker, so nothing has to be remembered: the simulator can be restarted, and minting twice gives the same token.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use ring::hmac;

use crate::webpush;

/// Stands before the grammar in minted tokens. What does not begin with it was minted by somebody else.
const MARKER: [u8; 3] = [0x5e, 0xd0, 0x7a];
/// Apple's tokens have 32 bytes (64 hex digits); code that checks for at least that many must be content.
const APNS_BYTES_MIN: usize = 32;
/// Makes FCM tokens 22 + 1 + 140 characters, about what Google gives out.
const FCM_BYTES_MIN: usize = 105 - FCM_PREFIX.len() / 4 * 3;
const FCM_PREFIX: &str = "APA91b";
const FCM_INSTANCE_CHARS: usize = 22;
/// A length must fit one byte, and a URL must stay short.
const GRAMMAR_CHARS_MAX: usize = 200;
/// Nobody waits longer than ten minutes.
const DELAY_MS_MAX: u64 = 600_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    Apns,
    Fcm,
    Webpush,
}

/// How a request ended. The first nine are what a token can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    Ok,
    Gone,
    BadToken,
    Throttle,
    Flaky,
    Slow,
    Reset,
    Silent,
    Junk,
    /// A check failed: credentials, headers or payload.
    Refused,
    /// The switch `outage`.
    Outage,
    /// The switch `throttleAll`.
    ThrottleAll,
    /// FCM's `validate_only`: checked, not taken.
    Validated,
}

/// A token, understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grammar<'a> {
    pub text: &'a str,
    pub outcome: Outcome,
    pub delay_ms: u64,
    /// Junk comes as an error answer.
    pub error: bool,
}

impl Transport {
    pub const ALL: [Self; 3] = [Self::Apns, Self::Fcm, Self::Webpush];

    pub fn name(self) -> &'static str {
        match self {
            Self::Apns => "apns",
            Self::Fcm => "fcm",
            Self::Webpush => "webpush",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|transport| transport.name() == name)
    }
}

impl Outcome {
    pub const ALL: [Self; 13] = [
        Self::Ok,
        Self::Gone,
        Self::BadToken,
        Self::Throttle,
        Self::Flaky,
        Self::Slow,
        Self::Reset,
        Self::Silent,
        Self::Junk,
        Self::Refused,
        Self::Outage,
        Self::ThrottleAll,
        Self::Validated,
    ];
    const WISHES: usize = 9;

    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Gone => "gone",
            Self::BadToken => "badtoken",
            Self::Throttle => "throttle",
            Self::Flaky => "flaky",
            Self::Slow => "slow",
            Self::Reset => "reset",
            Self::Silent => "silent",
            Self::Junk => "junk",
            Self::Refused => "refused",
            Self::Outage => "outage",
            Self::ThrottleAll => "throttleAll",
            Self::Validated => "validated",
        }
    }
}

impl<'a> Grammar<'a> {
    pub fn parse(text: &'a str) -> Option<Self> {
        let legible = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        if text.len() > GRAMMAR_CHARS_MAX || !text.bytes().all(legible) {
            return None;
        }
        let (head, rest) = text.split_once('-').unwrap_or((text, ""));
        let (word, delay) = head.split_once('~').map_or((head, None), |(word, delay)| (word, Some(delay)));
        let outcome = Outcome::ALL[..Outcome::WISHES].iter().find(|outcome| outcome.name() == word)?;
        let delay_ms = delay.map_or(Some(0), |digits| digits.parse().ok())?;
        (delay_ms <= DELAY_MS_MAX).then_some(Self {
            text,
            outcome: *outcome,
            delay_ms,
            error: rest == "error" || rest.starts_with("error-"),
        })
    }
}

/// A device token as it stands in the path (APNs, Web Push) or the message (FCM), back to its grammar.
pub fn read(transport: Transport, token: &str) -> Option<String> {
    if Grammar::parse(token).is_some() {
        return Some(token.into());
    }
    let bytes = match transport {
        Transport::Apns => unhex(token)?,
        Transport::Fcm => BASE64_URL_SAFE_NO_PAD.decode(token.split_once(':')?.1.strip_prefix(FCM_PREFIX)?).ok()?,
        Transport::Webpush => BASE64_URL_SAFE_NO_PAD.decode(token).ok()?,
    };
    let (length, rest) = bytes.strip_prefix(&MARKER)?.split_first()?;
    let text = str::from_utf8(rest.get(..usize::from(*length))?).ok()?;
    Grammar::parse(text).map(|grammar| grammar.text.into())
}

/// The public key that a minted Web Push token carries, so that it need not be computed for each message.
pub fn carried_key(token: &str) -> Option<[u8; webpush::POINT]> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
    let (length, rest) = bytes.strip_prefix(&MARKER)?.split_first()?;
    rest.get(usize::from(*length)..)?.try_into().ok()
}

/// An APNs token: hex, at least 64 digits.
pub fn mint_apns(seed: &hmac::Key, grammar: &str) -> String {
    hex(&padded(seed, grammar, APNS_BYTES_MIN))
}

/// An FCM registration token: `<instance>:APA91b...`.
pub fn mint_fcm(seed: &hmac::Key, grammar: &str) -> String {
    let instance = BASE64_URL_SAFE_NO_PAD.encode(derive(seed, "fcm instance", grammar, 0));
    let rest = BASE64_URL_SAFE_NO_PAD.encode(padded(seed, grammar, FCM_BYTES_MIN));
    format!("{}:{FCM_PREFIX}{rest}", &instance[..FCM_INSTANCE_CHARS])
}

/// The last part of a Web Push endpoint: the grammar and the subscription's public key.
pub fn mint_webpush(public: &[u8; webpush::POINT], grammar: &str) -> String {
    let mut bytes = marked(grammar);
    bytes.extend_from_slice(public);
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// 32 bytes that depend on the seed, what they are for, and the grammar.
pub fn derive(seed: &hmac::Key, purpose: &str, grammar: &str, counter: u8) -> [u8; 32] {
    let mut context = hmac::Context::with_key(seed);
    context.update(purpose.as_bytes());
    context.update(&[0, counter]);
    context.update(grammar.as_bytes());
    context.sign().as_ref().try_into().expect("HMAC-SHA256 gives 32 bytes")
}

fn marked(grammar: &str) -> Vec<u8> {
    let mut bytes = MARKER.to_vec();
    bytes.push(grammar.len() as u8);
    bytes.extend_from_slice(grammar.as_bytes());
    bytes
}

fn padded(seed: &hmac::Key, grammar: &str, at_least: usize) -> Vec<u8> {
    let mut bytes = marked(grammar);
    for counter in 0..=u8::MAX {
        let missing = at_least.saturating_sub(bytes.len());
        if missing == 0 {
            break;
        }
        bytes.extend_from_slice(&derive(seed, "padding", grammar, counter)[..missing.min(32)]);
    }
    bytes
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed() -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, b"1")
    }

    #[test]
    fn the_grammar() {
        let parsed = Grammar::parse("flaky~250-a-b~1").unwrap();
        assert_eq!((parsed.outcome, parsed.delay_ms), (Outcome::Flaky, 250));
        assert_eq!(Grammar::parse("ok").unwrap().delay_ms, 0);
        assert!(Grammar::parse("junk-error-7").unwrap().error);
        assert!(!Grammar::parse("junk-errors").unwrap().error);
        for stranger in ["", "okay", "ok~", "ok~x", "ok~9999999", "refused", "ok-ü", "ok/1", &"ok-".repeat(99)] {
            assert_eq!(Grammar::parse(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn minted_tokens_are_read_back() {
        for grammar in ["ok-000001", "gone", &format!("slow~5-{}", "x".repeat(150))] {
            let apns = mint_apns(&seed(), grammar);
            assert!(apns.len() >= 64 && apns.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let fcm = mint_fcm(&seed(), grammar);
            assert!(fcm.len() >= 150 && fcm[22..].starts_with(":APA91b"), "{fcm}");
            let webpush = mint_webpush(&[4; webpush::POINT], grammar);
            assert_eq!(read(Transport::Apns, &apns).as_deref(), Some(grammar));
            assert_eq!(read(Transport::Fcm, &fcm).as_deref(), Some(grammar));
            assert_eq!(read(Transport::Webpush, &webpush).as_deref(), Some(grammar));
            assert_eq!(carried_key(&webpush), Some([4; webpush::POINT]));
            assert_eq!(read(Transport::Apns, &apns.to_uppercase()).as_deref(), Some(grammar));
        }
        assert_ne!(mint_apns(&seed(), "ok-1"), mint_apns(&seed(), "ok-2"));
    }

    #[test]
    fn plain_grammar_is_a_token_and_other_peoples_tokens_are_not() {
        assert_eq!(read(Transport::Fcm, "ok-1").as_deref(), Some("ok-1"));
        assert_eq!(read(Transport::Apns, &"a1".repeat(32)), None);
        assert_eq!(read(Transport::Apns, "abc"), None);
        assert_eq!(read(Transport::Fcm, "x:APA91babc"), None);
        assert_eq!(read(Transport::Webpush, "%%%"), None);
    }
}
