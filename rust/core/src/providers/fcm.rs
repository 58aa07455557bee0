//! What Google's answers mean (providers.md 2.3): by FCM's own code, then by google.rpc's, then by the status.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::answer::{
    HOPELESS, Meaning, REJECTED, RENEWS, THROTTLED, Verdict, accepted, after, by_status, damaged, object_of, verdict,
};
use crate::retry::Schedule;

/// providers.md 3.6: Google asks for at least 10 s before the first retry.
const DOWN: Schedule = Schedule::doubling(10.0);

const ERROR_TYPE: &str = "type.googleapis.com/google.firebase.fcm.v1.FcmError";
const BAD_REQUEST_TYPE: &str = "type.googleapis.com/google.rpc.BadRequest";

/// INVALID_ARGUMENT that is about the token.
const BAD_TOKEN: &str = "INVALID_ARGUMENT:token";

const CODES: [(&str, Meaning); 13] = [
    ("UNREGISTERED", REJECTED),
    (BAD_TOKEN, REJECTED),
    ("INVALID_ARGUMENT", REJECTED),
    ("SENDER_ID_MISMATCH", REJECTED),
    ("THIRD_PARTY_AUTH_ERROR", REJECTED),
    ("QUOTA_EXCEEDED", after(THROTTLED)),
    ("UNAVAILABLE", after(DOWN)),
    ("INTERNAL", after(DOWN)),
    ("UNSPECIFIED_ERROR", REJECTED),
    // The names of google.rpc, for answers without FCM's own code.
    ("UNAUTHENTICATED", RENEWS),
    ("PERMISSION_DENIED", HOPELESS),
    ("NOT_FOUND", REJECTED),
    ("RESOURCE_EXHAUSTED", after(THROTTLED)),
];

pub(super) fn read<'h>(status: u16, header: impl Fn(&str) -> Option<&'h str>, body: &[u8]) -> Verdict<'h> {
    let mut said = object_of(body);
    if status == 200 {
        return match said.remove("name") {
            Some(Value::String(name)) => accepted(Some(name.into())),
            _ => damaged(status),
        };
    }
    let nothing = Map::new();
    let error = said.get("error").and_then(Value::as_object).unwrap_or(&nothing);
    let details = || error.get("details").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
    let typed = |one: &Map<String, Value>, name: &str| one.get("@type").is_some_and(|found| found == name);
    let mut code = details().find(|one| typed(one, ERROR_TYPE)).and_then(|one| one.get("errorCode")?.as_str());
    if code == Some("INVALID_ARGUMENT") {
        // Only when FCM itself, not its parser (BadRequest: our payload), says that the token is invalid.
        let parser = details().any(|one| typed(one, BAD_REQUEST_TYPE));
        let said = error.get("message").and_then(Value::as_str).unwrap_or_default();
        if !parser && said.to_lowercase().contains("registration token") {
            code = Some(BAD_TOKEN);
        }
    }
    for named in [code, error.get("status").and_then(Value::as_str)] {
        if let Some((reason, meaning)) = CODES.iter().find(|(reason, _)| Some(*reason) == named) {
            return verdict(*meaning, Cow::Borrowed(reason), header("retry-after"), None);
        }
    }
    let meaning = match status {
        401 => RENEWS,
        429 => after(THROTTLED),
        500.. => after(DOWN),
        _ => REJECTED,
    };
    verdict(meaning, by_status(status), header("retry-after"), None)
}
