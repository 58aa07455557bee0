//! Ingest bodies, checked in one pass before the 2xx (B035, B046, C14, C27, C28, C94).
//!
//! What the check accepts, the storer must be able to store: nobody is left to tell the client. An accepted item
//! becomes a record at once; a rejected one is told with its index and never fails its neighbours. Only a body whose
//! grammar is broken, or that is no list of items at all, is refused as a whole.
//!
//! [`event`] and [`identify`] know their fields, [`fields`] what a field may hold.

mod event;
mod fields;
mod identify;

pub use identify::check_identify;

use crate::json::{self, Fault, Scanner, path_at, quote};
use crate::record::Tenant;
use crate::{Id, Refused};
use event::EventFields;

/// C94: more is 413.
const ITEMS_MAX: usize = 1_000;
/// B035: of one event.
const EVENT_BYTES_MAX: usize = 256 * 1024;

/// Who posts, and when: what every record carries beside the client's own words.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub tenant: Tenant,
    pub environment: &'a str,
    pub received_ms: i64,
}

/// The outcome: what the API answers, and the records for the log.
#[derive(Debug, Default)]
pub struct Checked {
    pub single: bool,
    pub malformed: Option<Refused>,
    pub too_large: Option<String>,
    pub accepted: usize,
    pub rejected: usize,
    /// JSON: `[{"index": 0, "fieldErrors": {..}}]`.
    pub errors: String,
    pub records: Vec<u8>,
    pub event_id: Option<String>,
    pub event_type: Option<String>,
    pub user_id: Option<String>,
    pub anonymous_id: Option<String>,
}

impl Checked {
    fn malformed(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { malformed: Some(Refused::new(path, message)), errors: "[]".into(), ..Self::default() }
    }

    fn too_large(single: bool, message: &str) -> Self {
        Self { single, too_large: Some(message.into()), errors: "[]".into(), ..Self::default() }
    }

    fn reject(&mut self, index: usize, errors: &FieldErrors, code: Option<&str>) {
        self.rejected += 1;
        self.errors.push(if self.errors.is_empty() { '[' } else { ',' });
        self.errors.push_str("{\"index\":");
        self.errors.push_str(&index.to_string());
        if let Some(code) = code {
            self.errors.push_str(",\"code\":");
            quote(&mut self.errors, code);
        }
        self.errors.push_str(",\"fieldErrors\":");
        errors.write(&mut self.errors);
        self.errors.push('}');
    }

    fn finish(mut self) -> Self {
        self.errors.push_str(if self.errors.is_empty() { "[]" } else { "]" });
        self
    }
}

/// What is wrong with one item, by field.
#[derive(Debug, Default)]
struct FieldErrors(Vec<(String, String)>);

impl FieldErrors {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push((path.into(), message.into()));
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn write(&self, out: &mut String) {
        out.push('{');
        for (i, (path, _)) in self.0.iter().enumerate() {
            if self.0[..i].iter().any(|(earlier, _)| earlier == path) {
                continue;
            }
            if i > 0 {
                out.push(',');
            }
            quote(out, path);
            out.push(':');
            let mut separator = '[';
            for (_, message) in self.0.iter().filter(|(other, _)| other == path) {
                out.push(separator);
                quote(out, message);
                separator = ',';
            }
            out.push(']');
        }
        out.push('}');
    }
}

/// `POST /events` and `/events/batch`: one object (unless `listed`), an array, or `{"events": [..]}`.
pub fn check_events(body: &[u8], origin: Origin<'_>, listed: bool) -> Checked {
    let Ok(text) = std::str::from_utf8(body) else { return Checked::malformed("", "invalid UTF-8") };
    let mut scanner = Scanner::new(text);
    let mut list = List { text, origin, checked: Checked::default(), seen: None, too_many: false };
    let walked = match scanner.peek() {
        Some(b'[') => list.items(&mut scanner).and_then(|()| scanner.end()).map(|()| None),
        Some(b'{') => list.envelope(&mut scanner).and_then(|single| scanner.end().map(|()| Some(single))),
        _ => match scanner.value().and_then(|_| scanner.end()) {
            Ok(()) => return Checked::malformed("", "must be an object or an array"),
            Err(fault) => Err(fault),
        },
    };
    let single = match walked {
        _ if list.too_many => return Checked::too_large(false, "at most 1,000 events a request"),
        Err(fault) => return Checked::malformed(path_at(text, fault.at), fault.message),
        Ok(single) => single,
    };
    match (list.seen, single) {
        (Some(0), _) => Checked::malformed("events", "must not be empty"),
        // What is left is a fault of the envelope: the items have taken theirs.
        (Some(_), _) => match scanner.take_soft() {
            Some(fault) => Checked::malformed(path_at(text, fault.at), fault.message),
            None => list.checked.finish(),
        },
        (None, Some((fields, item))) if !listed => {
            let begin = text.len() - text.trim_ascii_start().len();
            let soft = scanner.take_soft().map(|fault| Fault { at: fault.at - begin, ..fault });
            single_event(fields, item, soft, origin)
        }
        _ => Checked::malformed("events", "Required"),
    }
}

fn single_event(fields: EventFields<'_>, item: &str, soft: Option<Fault>, origin: Origin<'_>) -> Checked {
    if item.len() > EVENT_BYTES_MAX {
        return Checked::too_large(true, "an event is at most 256 KB");
    }
    let mut checked = Checked { single: true, ..Checked::default() };
    match fields.judge(item, soft, origin) {
        Ok(event) => {
            event.write(&mut checked.records, origin);
            checked.accepted = 1;
            event.describe(&mut checked);
        }
        Err(errors) => checked.reject(0, &errors, None),
    }
    checked.finish()
}

struct List<'a> {
    text: &'a str,
    origin: Origin<'a>,
    checked: Checked,
    /// How many items the list had; None while no list was seen.
    seen: Option<usize>,
    too_many: bool,
}

impl<'a> List<'a> {
    /// An object: either the envelope of a list, or an event by itself, which only its end can tell.
    fn envelope(&mut self, scanner: &mut Scanner<'a>) -> Result<(EventFields<'a>, &'a str), Fault> {
        let from = scanner.position();
        let mut fields = EventFields::default();
        scanner.object(|scanner, key| {
            if key == "events" && self.seen.is_none() {
                return self.items(scanner);
            }
            fields.take(scanner, key)
        })?;
        Ok((fields, &self.text[from..scanner.position()]))
    }

    fn items(&mut self, scanner: &mut Scanner<'a>) -> Result<(), Fault> {
        if scanner.peek() != Some(b'[') {
            let at = scanner.position();
            scanner.value()?;
            return Err(Fault { at, message: "must be an array" });
        }
        self.seen = Some(0);
        // A fault before the list belongs to the envelope and must outlive the items' own.
        let before = scanner.take_soft();
        scanner.array(|scanner, index| {
            if index == ITEMS_MAX {
                self.too_many = true;
                return Err(Fault { at: scanner.position(), message: "too many" });
            }
            self.seen = Some(index + 1);
            self.item(scanner, index)
        })?;
        scanner.restore(before);
        Ok(())
    }

    fn item(&mut self, scanner: &mut Scanner<'a>, index: usize) -> Result<(), Fault> {
        if scanner.peek() != Some(b'{') {
            scanner.value()?;
            scanner.take_soft();
            let mut errors = FieldErrors::default();
            errors.add("", "must be an object");
            self.checked.reject(index, &errors, None);
            return Ok(());
        }
        let from = scanner.position();
        let mut fields = EventFields::default();
        scanner.object(|scanner, key| fields.take(scanner, key))?;
        let item = &self.text[from..scanner.position()];
        let soft = scanner.take_soft().map(|fault| Fault { at: fault.at - from, ..fault });
        if item.len() > EVENT_BYTES_MAX {
            let mut errors = FieldErrors::default();
            errors.add("", "an event is at most 256 KB");
            self.checked.reject(index, &errors, Some("PAYLOAD_TOO_LARGE"));
            return Ok(());
        }
        match fields.judge(item, soft, self.origin) {
            Ok(event) => {
                event.write(&mut self.checked.records, self.origin);
                self.checked.accepted += 1;
            }
            Err(errors) => self.checked.reject(index, &errors, None),
        }
        Ok(())
    }
}

/// One record for the log: a PATCH (`traits` is merged, a null removes) or a DELETE of a profile.
pub fn profile_record(
    tenant: Tenant,
    person: &str,
    at_ms: i64,
    email: Option<&str>,
    traits: Option<&[u8]>,
    delete: bool,
) -> Result<Vec<u8>, Refused> {
    if person.is_empty() || person.len() > 4 * fields::PERSON_CHARS_MAX {
        return Err(Refused::new("externalId", "must be 1 to 256 characters"));
    }
    if let Some(traits) = traits {
        json::check(traits)?;
        if !traits.trim_ascii().starts_with(b"{") {
            return Err(Refused::new("traits", "must be an object"));
        }
    }
    let change =
        crate::record::Change { at_ms, person: person.as_bytes(), email: email.map(str::as_bytes), traits, delete };
    let mut out = Vec::new();
    crate::record::write(&mut out, tenant, &crate::record::Record::Change(change));
    Ok(out)
}

/// UUIDv5(project, externalId): a person's id follows from the name alone, so every process makes the same one.
pub fn profile_id(project: &Id, external_id: &[u8]) -> Id {
    uuid::Uuid::new_v5(&uuid::Uuid::from_bytes(*project), external_id).into_bytes()
}

#[cfg(test)]
mod tests;
