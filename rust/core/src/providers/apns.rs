//! What Apple's answers mean (providers.md 1.6).

use std::borrow::Cow;

use super::answer::{
    HOPELESS, Meaning, REJECTED, RENEWS, SOON, THROTTLED, Verdict, accepted, after, by_status, object_of, verdict,
};
use crate::retry::Schedule;

/// Apple asks for 15 minutes after a 500 or 503 (providers.md 3.6).
const DOWN: Schedule = Schedule { base_s: 900.0, doubling: false, jitter: true };

/// What each environment says of the other's devices.
pub(super) const BAD_DEVICE_TOKEN: &str = "BadDeviceToken";

/// Fifteen digits of milliseconds end in the year 33658; what is beyond is no instant.
const INSTANT_MAX: i64 = 1_000_000_000_000_000;

const REASONS: [(&str, Meaning); 33] = [
    ("BadCollapseId", REJECTED),
    (BAD_DEVICE_TOKEN, REJECTED),
    ("BadExpirationDate", REJECTED),
    ("BadMessageId", REJECTED),
    ("BadPriority", REJECTED),
    ("BadTopic", REJECTED),
    ("DeviceTokenNotForTopic", REJECTED),
    ("DuplicateHeaders", REJECTED),
    ("IdleTimeout", after(SOON)),
    ("InvalidPushType", REJECTED),
    ("MissingDeviceToken", REJECTED),
    ("MissingTopic", REJECTED),
    ("PayloadEmpty", REJECTED),
    ("TopicDisallowed", REJECTED),
    ("BadCertificate", HOPELESS),
    ("BadCertificateEnvironment", HOPELESS),
    ("ExpiredProviderToken", RENEWS),
    ("Forbidden", REJECTED),
    ("InvalidProviderToken", HOPELESS),
    ("MissingProviderToken", HOPELESS),
    ("UnrelatedKeyIdInToken", after(SOON)),
    ("BadEnvironmentKeyIdInToken", HOPELESS),
    ("BadEnvironmentKeyInToken", HOPELESS),
    ("BadPath", REJECTED),
    ("MethodNotAllowed", REJECTED),
    ("ExpiredToken", REJECTED),
    ("Unregistered", REJECTED),
    ("PayloadTooLarge", REJECTED),
    ("TooManyProviderTokenUpdates", after(THROTTLED)),
    ("TooManyRequests", after(THROTTLED)),
    ("InternalServerError", after(DOWN)),
    ("ServiceUnavailable", after(DOWN)),
    ("Shutdown", after(SOON)),
];

pub(super) fn read<'h>(status: u16, header: impl Fn(&str) -> Option<&'h str>, body: &[u8]) -> Verdict<'h> {
    let apns_id = header("apns-id");
    if status == 200 {
        return accepted(apns_id.map(Cow::Borrowed));
    }
    let said = object_of(body);
    let named = said.get("reason").and_then(|reason| reason.as_str());
    let Some((reason, meaning)) = REASONS.iter().find(|(reason, _)| Some(*reason) == named) else {
        let meaning = match status {
            429 => after(THROTTLED),
            500.. => after(DOWN),
            _ => REJECTED,
        };
        return verdict(meaning, by_status(status), header("retry-after"), apns_id.map(Cow::Borrowed));
    };
    // Since when the token is gone stands with the id, and so in the ledger.
    let gone_ms = said.get("timestamp").and_then(serde_json::Value::as_i64);
    let provider_id = match gone_ms.filter(|ms| status == 410 && (0..INSTANT_MAX).contains(ms)) {
        Some(ms) => Some(format!("{}@{ms}", apns_id.unwrap_or_default()).into()),
        None => apns_id.map(Cow::Borrowed),
    };
    verdict(*meaning, Cow::Borrowed(reason), header("retry-after"), provider_id)
}
