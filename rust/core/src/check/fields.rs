//! What a field may hold. Each reader takes the raw value, notes what is wrong with it, and gives it back decoded.

use std::borrow::Cow;

use super::{FieldErrors, Origin};
use crate::Id;
use crate::json::{Kind, Limits, Number, Raw};
use crate::time::{self, DAY_MS, YEAR_2000_MS};

pub const TYPE_CHARS_MAX: usize = 200;
pub const MODULE_CHARS_MAX: usize = 64;
pub const EVENT_ID_CHARS_MAX: usize = 64;
pub const PERSON_CHARS_MAX: usize = 256;
pub const EMAIL_CHARS_MAX: usize = 320;
pub const LOCALE_CHARS_MAX: usize = 35;
pub const PROPERTIES_MAX: usize = 100;
/// B035, and names long enough for generated ones.
pub const PROPERTIES: Limits = Limits { items: 1_000, name_chars: 128 };
/// A client's clock may run ahead, but not by more than this.
const AHEAD_MAX_MS: i64 = DAY_MS;

/// A value that is neither missing nor null.
pub fn given(raw: Option<Raw<'_>>) -> Option<Raw<'_>> {
    raw.filter(|raw| !raw.is_null())
}

pub fn text<'a>(errors: &mut FieldErrors, name: &str, raw: Option<Raw<'a>>, chars_max: usize) -> Option<Cow<'a, str>> {
    let raw = given(raw)?;
    let Some(text) = raw.string() else {
        errors.add(name, "must be a string");
        return None;
    };
    // Bytes bound characters from above: most texts need no count.
    if text.is_empty() || (text.len() > chars_max && text.chars().count() > chars_max) {
        errors.add(name, format!("must be 1 to {chars_max} characters"));
        return None;
    }
    Some(text)
}

pub fn required<'a>(
    errors: &mut FieldErrors,
    name: &str,
    raw: Option<Raw<'a>>,
    chars_max: usize,
) -> Option<Cow<'a, str>> {
    if given(raw).is_none() {
        errors.add(name, "Required");
    }
    text(errors, name, raw, chars_max)
}

pub fn event_id<'a>(errors: &mut FieldErrors, raw: Option<Raw<'a>>) -> Option<Cow<'a, str>> {
    let id = text(errors, "eventId", raw, EVENT_ID_CHARS_MAX)?;
    if id.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Some(id);
    }
    errors.add("eventId", "must be printable ASCII");
    None
}

/// An id made here carries its time, so that a later look-up by it knows where to look.
pub fn new_event_id(received_ms: i64) -> String {
    let seconds = received_ms.div_euclid(1_000).max(0) as u64;
    let nanos = received_ms.rem_euclid(1_000) as u32 * 1_000_000;
    let at = uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanos);
    uuid::Uuid::new_v7(at).to_string()
}

pub fn timestamp(errors: &mut FieldErrors, raw: Option<Raw<'_>>, received_ms: i64) -> i64 {
    let Some(raw) = given(raw) else { return received_ms };
    let ms = match raw.kind() {
        Kind::String => raw.string().and_then(|text| time::parse(&text)),
        Kind::Number => raw.number().and_then(|number| if let Number::Int(ms) = number { Some(ms) } else { None }),
        _ => None,
    };
    match ms {
        None => errors.add("timestamp", "must be an RFC 3339 date-time or an integer of milliseconds"),
        Some(ms) if !(YEAR_2000_MS..=received_ms.saturating_add(AHEAD_MAX_MS)).contains(&ms) => {
            errors.add("timestamp", "must lie between 2000-01-01 and one day from now");
        }
        Some(ms) => return ms,
    }
    received_ms
}

/// Tenants follow from the key (B016); a body that names another one was sent with the wrong key.
pub fn same_tenant(errors: &mut FieldErrors, org: Option<Raw<'_>>, project: Option<Raw<'_>>, origin: Origin<'_>) {
    for (name, raw, id) in [("orgId", org, origin.tenant.org), ("projectId", project, origin.tenant.project)] {
        if let Some(raw) = given(raw)
            && raw.string().and_then(|text| parse_id(&text)) != Some(id)
        {
            errors.add(name, "does not belong to this key");
        }
    }
}

fn parse_id(text: &str) -> Option<Id> {
    (text.len() == 36).then(|| uuid::Uuid::try_parse(text).ok()).flatten().map(uuid::Uuid::into_bytes)
}

/// Properties or traits with the number of their members; missing is the empty object.
pub fn object<'a>(errors: &mut FieldErrors, name: &str, value: Option<(Raw<'a>, usize)>) -> &'a str {
    match value {
        Some((raw, _)) if raw.is_null() => "{}",
        Some((raw, _)) if raw.kind() != Kind::Object => {
            errors.add(name, "must be an object");
            "{}"
        }
        Some((_, members)) if members > PROPERTIES_MAX => {
            errors.add(name, format!("at most {PROPERTIES_MAX} {name}"));
            "{}"
        }
        Some((raw, _)) => raw.text(),
        None => "{}",
    }
}
