//! One chunk of a send, decided and rendered: a verdict with its reason for every recipient.
//!
//! The order of reasons is fixed, so that a recipient with two of them is always counted under the same one: what the
//! address is, whether it is too late, when the person may be reached, which text there is, how often they were
//! reached. The cap comes last, because only who passes everything else is counted.

use std::collections::HashMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use super::caps::{Caps, Limits};
use super::note::{Note, Variant};
use super::witness::{Nobody, Witness};
use crate::bucket::{bucket, digest};
use crate::json::Raw;
use crate::outcome::{Ruling, State};
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
    pub state: State,
    pub reason: &'static str,
    pub due_ms: Option<i64>,
    pub variant: Option<Span>,
}

impl Stay {
    /// What the ledger is told; waiting for the end of quiet hours is no try.
    pub fn ruling(&self) -> Ruling<'static> {
        Ruling { due_ms: self.due_ms, counted: false, ..Ruling::new(self.state, Some(self.reason.into())) }
    }
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
struct Verdict(State, &'static str, Option<i64>);

const fn suppressed(reason: &'static str) -> Verdict {
    Verdict(State::Suppressed, reason, None)
}

impl Note {
    /// `extra` are templates outside of title and body; they are rendered here, where a recipient's row is at hand.
    pub fn decide(
        &self,
        rows: &[u8],
        caps: Option<&mut Caps>,
        now_ms: i64,
        extra: &[Template],
    ) -> Result<Decided, Broken> {
        self.decide_before(rows, caps, now_ms, extra, &mut Nobody)
    }

    pub(super) fn decide_before(
        &self,
        rows: &[u8],
        mut caps: Option<&mut Caps>,
        now_ms: i64,
        extra: &[Template],
        witness: &mut impl Witness,
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
        stream.feed(rows, |row| chunk.recipient(row, caps.as_deref_mut(), &mut decided, witness))?;
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
    fn recipient(
        &mut self,
        row: &Row<'_>,
        caps: Option<&mut Caps>,
        decided: &mut Decided,
        witness: &mut impl Witness,
    ) -> Result<(), Broken> {
        let position = row.small(column::POSITION)?.ok_or(Broken("a recipient without position"))?;
        let recipient = row.id(column::RECIPIENT)?.ok_or(Broken("a recipient without id"))?;
        let user = row.text(column::USER_ID)?;
        let mut variant = None;
        let verdict = match self.address(row, witness)? {
            Some(verdict) => Err(verdict),
            None => self.person(row, user, &recipient, caps, &mut variant, witness)?,
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
                            template.render_to(&scopes, out);
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
    fn address(&mut self, row: &Row<'_>, witness: &mut impl Witness) -> Result<Option<Verdict>, Broken> {
        let note = self.note;
        let platform = row.text(column::PLATFORM)?;
        witness.saw(|| json!({"step": "address", "platform": platform, "passed": platform.is_some()}));
        if platform.is_none() {
            return Ok(Some(suppressed("token_removed")));
        }
        if !note.raw {
            let active = row.boolean(column::IS_ACTIVE)? == Some(true);
            witness.saw(|| json!({"step": "active", "passed": active}));
            if !active {
                return Ok(Some(suppressed("inactive_token")));
            }
            // The device changed hands after the plan: what was meant for one person must not reach another.
            let since = row.instant(column::OWNER_SINCE)?;
            let changed = since.is_some_and(|since| since > note.planned_ms);
            witness.saw(|| {
                let (since, planned) = (since.map(time::format), time::format(note.planned_ms));
                json!({"step": "ownership", "ownerSince": since, "plannedAt": planned, "passed": !changed})
            });
            if changed {
                return Ok(Some(suppressed("owner_changed")));
            }
        }
        let expired = self.now_ms >= note.expires_ms;
        witness.saw(|| {
            let (at, end) = (time::format(self.now_ms), time::format(note.expires_ms));
            json!({"step": "lateness", "at": at, "expiresAt": end, "passed": !expired})
        });
        if expired {
            return Ok(Some(Verdict(State::Expired, "ttl", None)));
        }
        let zone = row.text(column::TIMEZONE)?;
        let until = if note.bypass { None } else { self.quiet_until(zone) };
        witness.saw(|| self.quiet_seen(zone, until));
        Ok(until.map(|due_ms| {
            if note.defer { Verdict(State::Deferred, "quiet_hours", Some(due_ms)) } else { suppressed("quiet_hours") }
        }))
    }

    /// The arithmetic of quiet hours: whose zone counts, what its clock shows, and when the window ends.
    fn quiet_seen(&self, zone: Option<&str>, until: Option<i64>) -> serde_json::Value {
        let note = self.note;
        let own = zone.and_then(|name| super::zones::find(name).map(|zone| (zone, "device")));
        let counts = own.or_else(|| note.default_zone.clone().map(|zone| (zone, "default")));
        let local = counts.as_ref().zip(Timestamp::from_millisecond(self.now_ms).ok()).map(|((zone, _), at)| {
            let local = at.to_zoned(zone.clone());
            format!("{} {}", local.datetime().strftime("%Y-%m-%dT%H:%M:%S"), local.offset())
        });
        json!({
            "step": "quietHours",
            "bypassed": note.bypass,
            "window": note.quiet.map(super::quiet::Window::hours),
            "deviceZone": zone,
            "zone": counts.as_ref().and_then(|(zone, _)| zone.iana_name()),
            "zoneSource": counts.as_ref().map(|(_, source)| *source),
            "localTime": local,
            "until": until.map(time::format),
            "defer": note.defer,
            "passed": until.is_none(),
        })
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
        witness: &mut impl Witness,
    ) -> Result<Result<(&'n Template, &'n Template), Verdict>, Broken> {
        let note = self.note;
        let mut buffer = uuid::Uuid::encode_buffer();
        let person = user.unwrap_or_else(|| uuid::Uuid::from_bytes(*recipient).hyphenated().encode_lower(&mut buffer));
        let variant = note.test.as_ref().and_then(|test| test.assign(bucket(&test.id, person)));
        *chosen = variant;
        let holdout = variant.is_some_and(|variant| variant.holdout);
        if let Some(test) = &note.test {
            witness.saw(|| {
                let hex = digest(&test.id, person);
                let weights = test.variants.iter().map(|variant| json!({"key": variant.key, "weight": variant.weight}));
                json!({
                    "step": "variant",
                    "testId": test.id,
                    "person": person,
                    "sha256": hex,
                    "bucket": bucket(&test.id, person),
                    "weights": weights.collect::<Vec<_>>(),
                    "variant": variant.map(|variant| &variant.key),
                    "holdout": holdout,
                    "passed": !holdout,
                })
            });
        }
        if holdout {
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
        witness.saw(|| {
            let source = |own: bool, localized: Option<&str>| match (own, localized) {
                (true, _) => json!("variant"),
                (false, Some(tag)) => json!(tag),
                (false, None) => json!("default"),
            };
            json!({
                "step": "locale",
                "locale": locale,
                "chain": super::locale::chain(locale),
                "title": source(variant.is_some_and(|one| one.title.is_some()), note.localized_title.tag(locale)),
                "body": source(variant.is_some_and(|one| one.body.is_some()), note.localized_body.tag(locale)),
                "passed": !body.is_empty(),
            })
        });
        if body.is_empty() {
            return Ok(Err(suppressed("locale_unsupported")));
        }
        let capped = !note.bypass && note.caps != Limits::default();
        let Some(caps) = caps.filter(|_| capped) else {
            witness.saw(|| json!({"step": "frequencyCap", "bypassed": note.bypass, "passed": true}));
            return Ok(Ok((title, body)));
        };
        let admitted = caps.admit(person, note.send, self.now_ms, note.caps);
        witness.saw(|| {
            let (day, hour) = caps.received(person, note.send, self.now_ms);
            json!({
                "step": "frequencyCap",
                "bypassed": false,
                "person": person,
                "day": {"cap": note.caps.day, "received": day, "windowHours": 24},
                "hour": {"cap": note.caps.hour, "received": hour, "windowHours": 1},
                "passed": admitted,
            })
        });
        if !admitted {
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
