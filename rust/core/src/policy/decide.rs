//! One chunk of a send, decided and rendered: a verdict with its reason for every recipient.
//!
//! The order of reasons is fixed, so that a recipient with two of them is always counted under the same one: what the
//! address is, whether it is too late, when the person may be reached, which text there is, how often they were
//! reached. The cap comes last, because only who passes everything else is counted.

use std::collections::HashMap;

use jiff::tz::TimeZone;

use super::caps::{Caps, Limits};
use super::note::{Note, Variant};
use crate::bucket::bucket;
use crate::json::Raw;
use crate::pgcopy::{Reader, Row};
use crate::template::{Scopes, Template, follow, write_value};
use crate::{Broken, Id, time};

/// A chunk has 1,000 recipients, and a row a few hundred bytes, or a profile of 64 KB: far below what a span can name.
const ROWS_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Sixteen times a payload: a client's few placeholders must not become gigabytes over a chunk.
const EXTRAS_BYTES_MAX: usize = 64 * 1024;

/// The columns of a chunk's query, in their order.
mod column {
    pub const POSITION: usize = 0;
    pub const RECIPIENT: usize = 1;
    pub const PLATFORM: usize = 2;
    pub const TOKEN: usize = 3;
    pub const SUBSCRIPTION: usize = 4;
    pub const ENVIRONMENT: usize = 5;
    pub const BUNDLE_ID: usize = 6;
    pub const USER_ID: usize = 7;
    pub const IS_ACTIVE: usize = 8;
    pub const OWNER_SINCE: usize = 9;
    pub const LOCALE: usize = 10;
    pub const TIMEZONE: usize = 11;
    pub const TRAITS: usize = 12;
    pub const EMAIL: usize = 13;
    pub const CREATED_AT: usize = 14;
    pub const LAST_SEEN_AT: usize = 15;
    pub const COUNT: usize = 16;
}

/// Where a text stands in [`Decided::texts`]: a chunk has ten thousand of them, and one allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    from: u32,
    to: u32,
}

/// To be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub position: i16,
    pub recipient: Id,
    pub platform: Span,
    pub token: Span,
    pub subscription: Option<Span>,
    pub environment: Span,
    pub bundle_id: Option<Span>,
    pub user_id: Option<Span>,
    pub title: Span,
    pub body: Span,
    pub variant: Option<Span>,
    /// Where its further texts begin in [`Decided::extras`].
    extras: u32,
    /// Its further texts were too many bytes for any payload, so the last of them are missing.
    pub oversized: bool,
}

/// Not to be sent now, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stay {
    pub position: i16,
    pub recipient: Id,
    pub user_id: Option<Span>,
    pub state: &'static str,
    pub reason: &'static str,
    pub due_ms: Option<i64>,
    pub variant: Option<Span>,
}

#[derive(Debug, Default)]
pub struct Decided {
    pub calls: Vec<Call>,
    pub stays: Vec<Stay>,
    texts: String,
    extras: Vec<Span>,
    extras_each: usize,
}

impl Decided {
    pub fn text(&self, span: Span) -> &str {
        &self.texts[span.from as usize..span.to as usize]
    }

    pub fn optional(&self, span: Option<Span>) -> Option<&str> {
        span.map(|span| self.text(span))
    }

    /// How many further templates were rendered for each call.
    pub fn extras_each(&self) -> usize {
        self.extras_each
    }

    /// What one of the further templates gave for this call.
    pub fn extra(&self, call: &Call, index: u16) -> &str {
        self.text(self.extras[call.extras as usize + usize::from(index)])
    }

    fn push(&mut self, text: &str) -> Span {
        self.write(|texts| texts.push_str(text))
    }

    fn write(&mut self, write: impl FnOnce(&mut String)) -> Span {
        let from = self.texts.len() as u32;
        write(&mut self.texts);
        Span { from, to: self.texts.len() as u32 }
    }
}

/// Why a recipient stays: its state, the reason, and when it is due again.
struct Verdict(&'static str, &'static str, Option<i64>);

const fn suppressed(reason: &'static str) -> Verdict {
    Verdict("suppressed", reason, None)
}

impl Note {
    /// `extra` are templates outside of title and body; they are rendered here, where a recipient's row is at hand.
    pub fn decide(
        &self,
        rows: &[u8],
        mut caps: Option<&mut Caps>,
        now_ms: i64,
        extra: &[Template],
    ) -> Result<Decided, Broken> {
        if let Some(caps) = &caps {
            caps.loaded()?;
        }
        if rows.len() > ROWS_BYTES_MAX {
            return Err(Broken("more rows than a chunk has"));
        }
        let mut decided = Decided { extras_each: extra.len(), ..Decided::default() };
        decided.texts.reserve(rows.len() / 2);
        let mut chunk = Chunk { note: self, extra, now_ms, zones: HashMap::new() };
        let mut stream = Reader::new(column::COUNT);
        stream.feed(rows, |row| chunk.recipient(row, caps.as_deref_mut(), &mut decided))?;
        stream.finish()?;
        Ok(decided)
    }
}

struct Chunk<'n> {
    note: &'n Note,
    extra: &'n [Template],
    now_ms: i64,
    /// A chunk has few zones and one now: each zone is asked once.
    zones: HashMap<String, Zone>,
}

/// What a token's zone says of this moment.
#[derive(Clone, Copy)]
enum Zone {
    Unknown,
    Awake,
    QuietUntil(i64),
}

impl<'n> Chunk<'n> {
    fn recipient(&mut self, row: &Row<'_>, caps: Option<&mut Caps>, decided: &mut Decided) -> Result<(), Broken> {
        let position = row.small(column::POSITION)?.ok_or(Broken("a recipient without position"))?;
        let recipient = row.id(column::RECIPIENT)?.ok_or(Broken("a recipient without id"))?;
        let user = row.text(column::USER_ID)?;
        let mut variant = None;
        let verdict = match self.address(row)? {
            Some(verdict) => Err(verdict),
            None => self.person(row, user, &recipient, caps, &mut variant)?,
        };
        let variant = variant.map(|variant| decided.push(&variant.key));
        let user_id = user.map(|user| decided.push(user));
        match verdict {
            Err(Verdict(state, reason, due_ms)) => {
                decided.stays.push(Stay { position, recipient, user_id, state, reason, due_ms, variant });
            }
            Ok((title, body)) => {
                let scopes = RowScopes::new(row, &self.note.event)?;
                let extras = decided.extras.len() as u32;
                let texts_max = decided.texts.len() + EXTRAS_BYTES_MAX;
                for template in self.extra {
                    let room = decided.texts.len() < texts_max;
                    let span = decided.write(|out| {
                        if room {
                            template.render_to(&scopes, out)
                        }
                    });
                    decided.extras.push(span);
                }
                let oversized = decided.texts.len() >= texts_max;
                let call = Call {
                    position,
                    recipient,
                    platform: decided.push(row.text(column::PLATFORM)?.unwrap_or_default()),
                    token: decided.push(row.text(column::TOKEN)?.unwrap_or_default()),
                    subscription: row.jsonb(column::SUBSCRIPTION)?.map(|text| decided.push(text)),
                    environment: decided.push(row.text(column::ENVIRONMENT)?.unwrap_or_default()),
                    bundle_id: row.text(column::BUNDLE_ID)?.map(|text| decided.push(text)),
                    user_id,
                    title: decided.write(|out| title.render_to(&scopes, out)),
                    body: decided.write(|out| body.render_to(&scopes, out)),
                    variant,
                    extras,
                    oversized,
                };
                decided.calls.push(call);
            }
        }
        Ok(())
    }

    /// What the address and the clock alone say.
    fn address(&mut self, row: &Row<'_>) -> Result<Option<Verdict>, Broken> {
        let note = self.note;
        if row.bytes(column::PLATFORM).is_none() {
            return Ok(Some(suppressed("token_removed")));
        }
        if !note.raw {
            if row.boolean(column::IS_ACTIVE)? != Some(true) {
                return Ok(Some(suppressed("inactive_token")));
            }
            // The device changed hands after the plan: what was meant for one person must not reach another.
            if row.instant(column::OWNER_SINCE)?.is_some_and(|since| since > note.planned_ms) {
                return Ok(Some(suppressed("owner_changed")));
            }
        }
        if self.now_ms >= note.expires_ms {
            return Ok(Some(Verdict("expired", "ttl", None)));
        }
        if note.bypass {
            return Ok(None);
        }
        Ok(self.quiet_until(row.text(column::TIMEZONE)?).map(|due_ms| {
            if note.defer { Verdict("deferred", "quiet_hours", Some(due_ms)) } else { suppressed("quiet_hours") }
        }))
    }

    /// When the quiet hours end that hold now where the device is, else in the org's default zone (B110).
    fn quiet_until(&mut self, zone: Option<&str>) -> Option<i64> {
        let window = self.note.quiet?;
        let now_ms = self.now_ms;
        let ask = |zone: &TimeZone| window.ends(zone, now_ms);
        if let Some(name) = zone {
            if !self.zones.contains_key(name) {
                let answer = super::zones::find(name)
                    .map_or(Zone::Unknown, |zone| ask(&zone).map_or(Zone::Awake, Zone::QuietUntil));
                self.zones.insert(name.to_owned(), answer);
            }
            match self.zones[name] {
                Zone::QuietUntil(due_ms) => return Some(due_ms),
                Zone::Awake => return None,
                Zone::Unknown => {}
            }
        }
        self.note.default_zone.as_ref().and_then(ask)
    }

    /// What the person's variant, language and caps say; title and body when nothing holds them back.
    fn person(
        &self,
        row: &Row<'_>,
        user: Option<&str>,
        recipient: &Id,
        caps: Option<&mut Caps>,
        chosen: &mut Option<&'n Variant>,
    ) -> Result<Result<(&'n Template, &'n Template), Verdict>, Broken> {
        let note = self.note;
        let mut buffer = uuid::Uuid::encode_buffer();
        let person = user.unwrap_or_else(|| uuid::Uuid::from_bytes(*recipient).hyphenated().encode_lower(&mut buffer));
        let variant = note.test.as_ref().and_then(|test| test.assign(bucket(&test.id, person)));
        *chosen = variant;
        if variant.is_some_and(|variant| variant.holdout) {
            return Ok(Err(suppressed("holdout")));
        }
        let locale = row.text(column::LOCALE)?;
        // A variant's own text is what the test compares, so it goes before translations of the text it replaces.
        let body = variant
            .and_then(|variant| variant.body.as_ref())
            .or_else(|| note.localized_body.find(locale))
            .unwrap_or(&note.body);
        let title = variant
            .and_then(|variant| variant.title.as_ref())
            .or_else(|| note.localized_title.find(locale))
            .unwrap_or(&note.title);
        if body.is_empty() {
            return Ok(Err(suppressed("locale_unsupported")));
        }
        let capped = !note.bypass && note.caps != Limits::default();
        if let Some(caps) = caps.filter(|_| capped)
            && !caps.admit(person, note.send, self.now_ms, note.caps)
        {
            return Ok(Err(suppressed("frequency_cap")));
        }
        Ok(Ok((title, body)))
    }
}

/// The scopes of B122 where they lie: the send's event, the row's columns, the profile's traits.
struct RowScopes<'a> {
    event: Raw<'a>,
    traits: Raw<'a>,
    user_id: Option<&'a str>,
    email: Option<&'a str>,
    locale: Option<&'a str>,
    timezone: Option<&'a str>,
    created_ms: Option<i64>,
    seen_ms: Option<i64>,
}

impl<'a> RowScopes<'a> {
    fn new(row: &Row<'a>, event: &'a str) -> Result<Self, Broken> {
        Ok(Self {
            event: Raw::trusted(event),
            traits: row.jsonb(column::TRAITS)?.map_or(Raw::NULL, Raw::trusted),
            user_id: row.text(column::USER_ID)?,
            email: row.text(column::EMAIL)?,
            locale: row.text(column::LOCALE)?,
            timezone: row.text(column::TIMEZONE)?,
            created_ms: row.instant(column::CREATED_AT)?,
            seen_ms: row.instant(column::LAST_SEEN_AT)?,
        })
    }
}

impl Scopes for RowScopes<'_> {
    fn write(&self, path: &[String], out: &mut String) {
        let value = match path[0].as_str() {
            "event" => follow(self.event, &path[1..]),
            "trait" => follow(self.traits, &path[1..]),
            "user" => {
                let text = match path[1].as_str() {
                    "userId" => self.user_id,
                    "email" => self.email,
                    "locale" => self.locale,
                    "timezone" => self.timezone,
                    "createdAt" => return out.push_str(&self.created_ms.map(time::format).unwrap_or_default()),
                    _ => return out.push_str(&self.seen_ms.map(time::format).unwrap_or_default()),
                };
                return out.push_str(text.unwrap_or_default());
            }
            _ => None,
        };
        if let Some(value) = value {
            write_value(value, out);
        }
    }
}
