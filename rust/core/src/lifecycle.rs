//! How recipients ended: from rows of the ledger to messages of the stream LIFECYCLE and to counters, and back from
//! messages to the addresses that have died.
//!
//! A message tells of one chunk, in the JSON that `delivery/account.py` describes; each of a chunk's rows passes here
//! once on its way out and once on its way to whoever retires addresses.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

use serde::Deserialize;

use crate::json::quote;
use crate::pgcopy::Reader;
use crate::time::{self, DAY_MS};
use crate::{Broken, Id};

mod column {
    pub const CHUNK: usize = 0;
    pub const RECIPIENT: usize = 1;
    pub const USER_ID: usize = 2;
    pub const STATE: usize = 3;
    pub const REASON: usize = 4;
    pub const VARIANT: usize = 5;
    pub const PROVIDER: usize = 6;
    pub const PROVIDER_ID: usize = 7;
    pub const ATTEMPT: usize = 8;
    pub const REPEATED: usize = 9;
    pub const AT: usize = 10;
    pub const COUNT: usize = 11;
}

/// What a row of JSON takes, roughly: enough to allocate once.
const ROW_BYTES: usize = 320;

/// Whose outcomes they are; rows name their chunk by its place in a list of these, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    pub org: Id,
    pub project: Id,
    pub send: Id,
    pub shard: i16,
    pub seq: i32,
}

/// Outcomes of one send and UTC day that are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Counted {
    pub org: Id,
    pub send: Id,
    /// Days since 1970.
    pub day: i64,
    pub state: String,
    pub reason: String,
    pub variant: String,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub n: i64,
    pub repeated: i64,
}

/// The ended recipients of some chunks.
#[derive(Debug)]
pub struct Ended {
    messages: Vec<(usize, String)>,
    counts: BTreeMap<Counted, Tally>,
}

impl Ended {
    /// From a COPY of (chunk int8, recipient uuid, `user_id` text, state text, reason text, variant text, provider text,
    /// `provider_id` text, attempt int2, repeated bool, at timestamptz), in any order.
    pub fn new(chunks: &[Chunk], rows: &[u8]) -> Result<Self, Broken> {
        let mut bodies: Vec<String> = vec![String::new(); chunks.len()];
        let mut counts: HashMap<Counted, Tally> = HashMap::new();
        let mut last: Option<(Counted, Tally)> = None;
        let mut stream = Reader::new(column::COUNT);
        stream.feed(rows, |row| {
            let ordinal = row.big(column::CHUNK)?.ok_or(Broken("an outcome without chunk"))?;
            let place = usize::try_from(ordinal.saturating_sub(1)).unwrap_or(usize::MAX);
            let chunk = chunks.get(place).ok_or(Broken("no such chunk"))?;
            let recipient = row.id(column::RECIPIENT)?.ok_or(Broken("an outcome without recipient"))?;
            let state = row.text(column::STATE)?.ok_or(Broken("an outcome without state"))?;
            let reason = row.text(column::REASON)?;
            let variant = row.text(column::VARIANT)?;
            let repeated = row.boolean(column::REPEATED)?.unwrap_or(false);
            let at_ms = row.instant(column::AT)?.ok_or(Broken("an outcome without instant"))?;

            let out = &mut bodies[place];
            if out.is_empty() {
                out.reserve(ROW_BYTES * 64);
                begin(out, chunk);
            } else {
                out.push(',');
            }
            out.push_str("{\"recipient\":");
            uuid_text(out, &recipient);
            member(out, "userId", row.text(column::USER_ID)?);
            member(out, "state", Some(state));
            member(out, "reason", reason);
            member(out, "variant", variant);
            member(out, "provider", row.text(column::PROVIDER)?);
            member(out, "providerId", row.text(column::PROVIDER_ID)?);
            let attempt = row.small(column::ATTEMPT)?.unwrap_or(1);
            write!(out, ",\"attempt\":{attempt},\"repeated\":{repeated},\"at\":\"{}\"}}", time::format(at_ms))
                .unwrap_or_default();

            // Neighbours are counted together nearly always.
            let day = at_ms.div_euclid(DAY_MS);
            let (reason, variant) = (reason.unwrap_or_default(), variant.unwrap_or_default());
            let same = |counted: &Counted| {
                counted.day == day
                    && counted.state == state
                    && counted.reason == reason
                    && counted.variant == variant
                    && counted.send == chunk.send
                    && counted.org == chunk.org
            };
            if last.as_ref().is_none_or(|(counted, _)| !same(counted)) {
                fold(&mut counts, last.take());
                let counted = Counted {
                    org: chunk.org,
                    send: chunk.send,
                    day,
                    state: state.to_owned(),
                    reason: reason.to_owned(),
                    variant: variant.to_owned(),
                };
                last = Some((counted, Tally::default()));
            }
            if let Some((_, tally)) = &mut last {
                tally.n += 1;
                tally.repeated += i64::from(repeated);
            }
            Ok(())
        })?;
        stream.finish()?;
        fold(&mut counts, last);
        let messages = bodies.into_iter().enumerate().filter(|(_, body)| !body.is_empty()).map(|(place, mut body)| {
            body.push_str("]}");
            (place, body)
        });
        Ok(Self { messages: messages.collect(), counts: counts.into_iter().collect() })
    }

    /// (place in the list of chunks, JSON) of each chunk that has brought an outcome.
    pub fn messages(&self) -> &[(usize, String)] {
        &self.messages
    }

    /// In the order of the counters' key, so that two who count never wait for each other in a circle.
    pub fn counts(&self) -> &BTreeMap<Counted, Tally> {
        &self.counts
    }
}

fn fold(counts: &mut HashMap<Counted, Tally>, some: Option<(Counted, Tally)>) {
    if let Some((counted, tally)) = some {
        let sum = counts.entry(counted).or_default();
        sum.n += tally.n;
        sum.repeated += tally.repeated;
    }
}

fn begin(out: &mut String, chunk: &Chunk) {
    for (name, id) in [("{\"org\":", &chunk.org), (",\"project\":", &chunk.project), (",\"send\":", &chunk.send)] {
        out.push_str(name);
        uuid_text(out, id);
    }
    write!(out, ",\"shard\":{},\"seq\":{},\"outcomes\":[", chunk.shard, chunk.seq).unwrap_or_default();
}

fn member(out: &mut String, name: &str, text: Option<&str>) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":");
    match text {
        Some(text) => quote(out, text),
        None => out.push_str("null"),
    }
}

fn uuid_text(out: &mut String, id: &Id) {
    let mut buffer = uuid::Uuid::encode_buffer();
    out.push('"');
    out.push_str(uuid::Uuid::from_bytes(*id).hyphenated().encode_lower(&mut buffer));
    out.push('"');
}

/// An address that a provider calls dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    pub recipient: Id,
    pub reason: String,
    pub provider_id: Option<String>,
    /// When the provider answered.
    pub at_ms: i64,
}

/// What one provider said of a project's addresses.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Health {
    pub accepted: i64,
    pub dead: Vec<Dead>,
}

#[derive(Deserialize)]
struct Message<'a> {
    org: uuid::Uuid,
    project: uuid::Uuid,
    #[serde(borrow)]
    outcomes: Vec<Outcome<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outcome<'a> {
    recipient: uuid::Uuid,
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    provider: Option<Cow<'a, str>>,
    #[serde(borrow)]
    provider_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    at: Cow<'a, str>,
}

/// By (org, project, provider): how many were accepted, and who was rejected for one of the `retiring` reasons. An
/// outcome that no provider was asked about, or whose provider is not known, says nothing here.
pub fn health<'m>(
    messages: impl Iterator<Item = &'m [u8]>,
    retiring: &BTreeSet<String>,
) -> Result<BTreeMap<(Id, Id, String), Health>, Broken> {
    let mut found: BTreeMap<(Id, Id, String), Health> = BTreeMap::new();
    for message in messages {
        let message: Message<'_> = serde_json::from_slice(message).map_err(|_| Broken("not a message of outcomes"))?;
        let (org, project) = (message.org.into_bytes(), message.project.into_bytes());
        let mut here: HashMap<&str, Health> = HashMap::new();
        for outcome in &message.outcomes {
            let Some(provider) = &outcome.provider else { continue };
            let reason = outcome.reason.as_deref().filter(|reason| retiring.contains(*reason));
            match (&*outcome.state, reason) {
                ("accepted", _) => here.entry(provider).or_default().accepted += 1,
                ("rejected", Some(reason)) => here.entry(provider).or_default().dead.push(Dead {
                    recipient: outcome.recipient.into_bytes(),
                    reason: reason.to_owned(),
                    provider_id: outcome.provider_id.as_deref().map(str::to_owned),
                    at_ms: time::parse(&outcome.at).ok_or(Broken("not an instant"))?,
                }),
                _ => {}
            }
        }
        for (provider, health) in here {
            let sum = found.entry((org, project, provider.to_owned())).or_default();
            sum.accepted += health.accepted;
            sum.dead.extend(health.dead);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgcopy::Writer;

    fn row(writer: &mut Writer, chunk: i64, recipient: u8, state: &str, reason: Option<&str>, at_ms: i64) {
        writer.row(column::COUNT as u16);
        writer.bytes(&chunk.to_be_bytes());
        writer.bytes(&[recipient; 16]);
        writer.optional(Some("an\"na\u{1}".as_bytes()));
        writer.bytes(state.as_bytes());
        writer.optional(reason.map(str::as_bytes));
        writer.null();
        writer.optional(Some(b"apns"));
        writer.optional(Some(b"id"));
        writer.bytes(&1_i16.to_be_bytes());
        writer.boolean(state == "accepted");
        writer.instant(at_ms);
    }

    #[test]
    fn what_is_told_is_read_again() {
        let chunks = [1, 2, 3].map(|n| Chunk { org: [n; 16], project: [9; 16], send: [n; 16], shard: 5, seq: 6 });
        let mut writer = Writer::with_capacity(0);
        row(&mut writer, 3, 1, "accepted", None, DAY_MS - 1);
        row(&mut writer, 1, 2, "rejected", Some("Unregistered"), DAY_MS);
        row(&mut writer, 3, 3, "accepted", None, DAY_MS);
        row(&mut writer, 3, 4, "rejected", Some("other"), DAY_MS);
        let ended = Ended::new(&chunks, &writer.finish()).unwrap();
        let told: Vec<usize> = ended.messages().iter().map(|(place, _)| *place).collect();
        assert_eq!(told, [0, 2]);
        let tallies: Vec<(u8, i64, &str, i64, i64)> = ended
            .counts()
            .iter()
            .map(|(counted, tally)| (counted.send[0], counted.day, &*counted.reason, tally.n, tally.repeated))
            .collect();
        assert_eq!(tallies, [(1, 1, "Unregistered", 1, 0), (3, 0, "", 1, 1), (3, 1, "", 1, 1), (3, 1, "other", 1, 0)]);

        let value: serde_json::Value = serde_json::from_str(&ended.messages()[1].1).unwrap();
        assert_eq!(value["outcomes"][0]["userId"], "an\"na\u{1}");
        assert_eq!(value["outcomes"][1]["at"], "1970-01-02T00:00:00.000Z");
        assert_eq!(value["outcomes"].as_array().unwrap().len(), 3);

        let retiring = BTreeSet::from(["Unregistered".to_owned()]);
        let found = health(ended.messages().iter().map(|(_, text)| text.as_bytes()), &retiring).unwrap();
        let mine = &found[&([1; 16], [9; 16], "apns".to_owned())];
        assert_eq!((mine.accepted, mine.dead.len(), mine.dead[0].at_ms), (0, 1, DAY_MS));
        let theirs = &found[&([3; 16], [9; 16], "apns".to_owned())];
        assert_eq!((theirs.accepted, theirs.dead.len()), (2, 0));
    }

    #[test]
    fn a_row_of_no_chunk_is_refused() {
        for chunk in [0, 2, i64::MIN + 1, i64::MAX] {
            let mut writer = Writer::with_capacity(0);
            row(&mut writer, chunk, 1, "accepted", None, 0);
            let one = Chunk { org: [0; 16], project: [0; 16], send: [0; 16], shard: 0, seq: 0 };
            assert!(Ended::new(&[one], &writer.finish()).is_err());
        }
        assert!(health([b"{}".as_slice()].into_iter(), &BTreeSet::new()).is_err());
    }
}
