//! What stands in the log: records, and the frames that carry them.
//!
//! A record is one accepted event, or one change of a profile, with everything that the API knew of it; its length
//! (u32) comes before it. The API concatenates the records of a request; the bus gathers requests into a frame, which
//! is one message of the log. A frame declares how many events of which project it holds, counted where they came in,
//! so that the storer's own count has something to be compared with. CRC32C ends it: JetStream does not promise to find
//! a flipped bit.
//!
//! ```text
//! frame   = "SNDR" version:u8 projects:u32 (org[16] project[16] events:u32)* records:u32 (length:u32 record)* crc32c:u32
//! record  = kind:u8 org[16] project[16] received_ms:i64 ...
//! event   = occurred_ms:i64 type module user anonymous device session environment event_id : short each, properties: long
//! identify= event, then email locale timezone : short each
//! change  = person:short email:short traits:long delete:u8
//! short   = length:u16 bytes (65535: absent)      long = length:u32 bytes (4294967295: absent)
//! ```
//!
//! Integers are little-endian. Text is UTF-8, properties and traits are JSON as the client wrote it.

use std::collections::BTreeMap;

use crate::{Broken, Id};

const MAGIC: &[u8; 4] = b"SNDR";
/// Readers know every version that the log may still hold (72 hours).
const VERSION: u8 = 1;

const KIND_EVENT: u8 = 1;
const KIND_IDENTIFY: u8 = 2;
const KIND_CHANGE: u8 = 3;

const SHORT_ABSENT: u16 = u16::MAX;
const LONG_ABSENT: u32 = u32::MAX;

/// Whose something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant {
    pub org: Id,
    pub project: Id,
}

/// An accepted event as it stands in the log; text is not checked again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Event<'a> {
    pub received_ms: i64,
    pub occurred_ms: i64,
    pub event_type: &'a [u8],
    pub module: &'a [u8],
    pub user: Option<&'a [u8]>,
    pub anonymous: Option<&'a [u8]>,
    pub device: Option<&'a [u8]>,
    pub session: Option<&'a [u8]>,
    pub environment: &'a [u8],
    pub event_id: &'a [u8],
    pub properties: &'a [u8],
    /// Present in the record of an identify, whose properties are the traits.
    pub identify: Option<Identify<'a>>,
}

impl<'a> Event<'a> {
    /// userId, else anonymousId.
    pub fn person(&self) -> Option<&'a [u8]> {
        self.user.or(self.anonymous)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Identify<'a> {
    pub email: Option<&'a [u8]>,
    pub locale: Option<&'a [u8]>,
    pub timezone: Option<&'a [u8]>,
}

/// A PATCH or DELETE of a profile; no event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change<'a> {
    pub at_ms: i64,
    pub person: &'a [u8],
    pub email: Option<&'a [u8]>,
    pub traits: Option<&'a [u8]>,
    pub delete: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    Event(Event<'a>),
    Change(Change<'a>),
}

/// Appends a record with its length.
pub fn write(out: &mut Vec<u8>, tenant: Tenant, record: &Record<'_>) {
    let begin = out.len();
    out.extend_from_slice(&[0; 4]);
    let (kind, received_ms) = match record {
        Record::Event(event) if event.identify.is_some() => (KIND_IDENTIFY, event.received_ms),
        Record::Event(event) => (KIND_EVENT, event.received_ms),
        Record::Change(change) => (KIND_CHANGE, change.at_ms),
    };
    out.push(kind);
    out.extend_from_slice(&tenant.org);
    out.extend_from_slice(&tenant.project);
    out.extend_from_slice(&received_ms.to_le_bytes());
    match record {
        Record::Event(event) => {
            out.extend_from_slice(&event.occurred_ms.to_le_bytes());
            let Event { event_type, module, user, anonymous, device, session, environment, event_id, .. } = *event;
            for text in
                [Some(event_type), Some(module), user, anonymous, device, session, Some(environment), Some(event_id)]
            {
                write_short(out, text);
            }
            write_long(out, Some(event.properties));
            if let Some(Identify { email, locale, timezone }) = event.identify {
                for text in [email, locale, timezone] {
                    write_short(out, text);
                }
            }
        }
        Record::Change(change) => {
            write_short(out, Some(change.person));
            write_short(out, change.email);
            write_long(out, change.traits);
            out.push(u8::from(change.delete));
        }
    }
    let length = (out.len() - begin - 4) as u32;
    out[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
}

/// Every short text is checked to be far below this; what is not must not silently shift the fields behind it.
fn write_short(out: &mut Vec<u8>, text: Option<&[u8]>) {
    let text = text.map(|text| &text[..text.len().min(usize::from(SHORT_ABSENT) - 1)]);
    out.extend_from_slice(&text.map_or(SHORT_ABSENT, |text| text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.unwrap_or_default());
}

fn write_long(out: &mut Vec<u8>, text: Option<&[u8]>) {
    out.extend_from_slice(&text.map_or(LONG_ABSENT, |text| text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.unwrap_or_default());
}

/// Reads a record without its length.
pub fn read(record: &[u8]) -> Result<(Tenant, Record<'_>), Broken> {
    let mut input = Input(record);
    let (tenant, kind) = read_tenant(&mut input)?;
    let received_ms = input.long()?;
    let record = match kind {
        KIND_EVENT | KIND_IDENTIFY => {
            let occurred_ms = input.long()?;
            let mut event = Event {
                received_ms,
                occurred_ms,
                event_type: input.short_text()?.unwrap_or_default(),
                module: input.short_text()?.unwrap_or_default(),
                user: input.short_text()?,
                anonymous: input.short_text()?,
                device: input.short_text()?,
                session: input.short_text()?,
                environment: input.short_text()?.unwrap_or_default(),
                event_id: input.short_text()?.unwrap_or_default(),
                properties: input.long_text()?.unwrap_or_default(),
                identify: None,
            };
            if kind == KIND_IDENTIFY {
                event.identify = Some(Identify {
                    email: input.short_text()?,
                    locale: input.short_text()?,
                    timezone: input.short_text()?,
                });
            }
            Record::Event(event)
        }
        KIND_CHANGE => Record::Change(Change {
            at_ms: received_ms,
            person: input.short_text()?.unwrap_or_default(),
            email: input.short_text()?,
            traits: input.long_text()?,
            delete: input.take(1)?[0] != 0,
        }),
        _ => return Err(Broken("a record of unknown kind")),
    };
    if input.0.is_empty() { Ok((tenant, record)) } else { Err(Broken("a record is longer than its fields")) }
}

fn read_tenant(input: &mut Input<'_>) -> Result<(Tenant, u8), Broken> {
    let kind = input.take(1)?[0];
    Ok((Tenant { org: input.id()?, project: input.id()? }, kind))
}

/// One message of the log from the records of several requests.
pub fn frame<'p>(parts: impl Iterator<Item = &'p [u8]> + Clone) -> Result<Vec<u8>, Broken> {
    let mut events: BTreeMap<Tenant, u32> = BTreeMap::new();
    let mut records = 0_u32;
    let mut bytes = 0;
    for part in parts.clone() {
        bytes += part.len();
        for record in Records(part) {
            let (tenant, kind) = read_tenant(&mut Input(record?))?;
            records += 1;
            if kind != KIND_CHANGE {
                *events.entry(tenant).or_default() += 1;
            }
        }
    }
    let mut out = Vec::with_capacity(MAGIC.len() + 1 + 4 + events.len() * 36 + 4 + bytes + 4);
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&(events.len() as u32).to_le_bytes());
    for (tenant, count) in &events {
        out.extend_from_slice(&tenant.org);
        out.extend_from_slice(&tenant.project);
        out.extend_from_slice(&count.to_le_bytes());
    }
    out.extend_from_slice(&records.to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    Ok(out)
}

/// A frame whose checksum was found right.
#[derive(Debug)]
pub struct Frame<'a> {
    pub declared: Vec<(Tenant, u32)>,
    pub records: Records<'a>,
}

/// The projects that a frame says something of, sorted: changes of profiles too, which it does not declare.
pub fn projects(frame: &[u8]) -> Result<Vec<Id>, Broken> {
    let mut projects: Vec<Id> = Vec::new();
    for record in open(frame)?.records {
        let (tenant, _) = read_tenant(&mut Input(record?))?;
        if projects.last() != Some(&tenant.project) {
            projects.push(tenant.project);
        }
    }
    projects.sort_unstable();
    projects.dedup();
    Ok(projects)
}

pub fn open(frame: &[u8]) -> Result<Frame<'_>, Broken> {
    if !frame.starts_with(MAGIC) {
        return Err(Broken("not a frame: wrong magic"));
    }
    let (body, crc) = frame.split_last_chunk::<4>().ok_or(Broken("a frame is too short"))?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(Broken("a frame's checksum is wrong"));
    }
    let mut input = Input(&body[MAGIC.len()..]);
    if input.take(1)?[0] != VERSION {
        return Err(Broken("a frame of unknown version"));
    }
    let projects = input.word()?;
    let mut declared = Vec::new();
    for _ in 0..projects {
        declared.push((Tenant { org: input.id()?, project: input.id()? }, input.word()?));
    }
    let expected = input.word()?;
    let records = Records(input.0);
    let mut found = 0;
    for record in records.clone() {
        record?;
        found += 1;
    }
    if found != expected {
        return Err(Broken("a frame holds another number of records than it says"));
    }
    Ok(Frame { declared, records })
}

/// The records of a part or a frame, each without its length.
#[derive(Debug, Clone)]
pub struct Records<'a>(pub &'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<&'a [u8], Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut input = Input(self.0);
        let record = input.word().and_then(|length| input.take(length as usize));
        self.0 = if record.is_ok() { input.0 } else { &[] };
        Some(record)
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Broken("a record is cut"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        self.take(N)?.try_into().map_err(|_| Broken("a record is cut"))
    }

    fn id(&mut self) -> Result<Id, Broken> {
        self.array()
    }

    fn word(&mut self) -> Result<u32, Broken> {
        self.array().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Result<i64, Broken> {
        self.array().map(i64::from_le_bytes)
    }

    fn short_text(&mut self) -> Result<Option<&'a [u8]>, Broken> {
        match u16::from_le_bytes(self.array()?) {
            SHORT_ABSENT => Ok(None),
            length => self.take(usize::from(length)).map(Some),
        }
    }

    fn long_text(&mut self) -> Result<Option<&'a [u8]>, Broken> {
        match self.word()? {
            LONG_ABSENT => Ok(None),
            length => self.take(length as usize).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tenant(n: u8) -> Tenant {
        Tenant { org: [n; 16], project: [n + 100; 16] }
    }

    fn parts() -> [Vec<u8>; 2] {
        let mut parts = [Vec::new(), Vec::new()];
        let event =
            Event { occurred_ms: -1, event_type: b"a", user: Some(b"u"), properties: b"{}", ..Event::default() };
        write(&mut parts[0], tenant(1), &Record::Event(event));
        write(
            &mut parts[0],
            tenant(2),
            &Record::Change(Change { person: b"u", email: Some(b""), ..Change::default() }),
        );
        let identify = Event { identify: Some(Identify { locale: Some(b"de"), ..Identify::default() }), ..event };
        write(&mut parts[1], tenant(1), &Record::Event(identify));
        parts
    }

    #[test]
    fn a_frame_gives_back_its_records_and_counts_events_only() {
        let parts = parts();
        let bytes = frame(parts.iter().map(Vec::as_slice)).unwrap();
        let opened = open(&bytes).unwrap();
        assert_eq!(opened.declared, [(tenant(1), 2)]);
        let records: Vec<_> = opened.records.map(|record| read(record.unwrap()).unwrap()).collect();
        let mut written = Vec::new();
        for (tenant, record) in &records {
            write(&mut written, *tenant, record);
        }
        assert_eq!(written, parts.concat());
        assert!(matches!(records[1].1, Record::Change(Change { email: Some(b""), traits: None, .. })));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let bytes = frame(parts().iter().map(Vec::as_slice)).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&flipped).is_err(), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(open(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    proptest! {
        #[test]
        fn junk_is_an_error_and_no_panic(junk in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&junk);
            let _ = frame(std::iter::once(junk.as_slice()));
            prop_assert!(open(&junk).is_err());
        }
    }
}
