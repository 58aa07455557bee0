//! Frames on their way into the table `events`.
//!
//! An event's key is 48 bits of its own time, then 80 bits of SHA-256(project, eventId). A retry with the same id and
//! time meets itself; a hash that can be forged would let one client make another's events look like duplicates.

use std::collections::{BTreeMap, HashMap, HashSet};

use sha2::{Digest, Sha256};

use crate::pgcopy::Writer;
use crate::record::{self, Event, Record, Tenant};
use crate::{Broken, Id, time};

const COLUMNS: u16 = 13;
/// What a row costs in COPY beside its texts, roughly: enough to allocate once.
const ROW_BYTES: usize = 160;

pub struct EventBatch {
    /// The frames behind one another; events lie in it.
    data: Vec<u8>,
    events: Vec<Slot>,
    /// How many events there are up to the end of each frame.
    ends: Vec<usize>,
    declared: Vec<(Tenant, u32)>,
}

struct Slot {
    from: usize,
    to: usize,
    tenant: Tenant,
    key: Id,
    occurred_ms: i64,
}

/// What became of a project's events.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// As the frames declare it.
    pub accepted: i64,
    pub stored: i64,
    pub duplicate: i64,
    pub bad: i64,
}

impl EventBatch {
    pub fn new<'f>(frames: impl Iterator<Item = &'f [u8]>) -> Result<Self, Broken> {
        let mut batch = Self { data: Vec::new(), events: Vec::new(), ends: Vec::new(), declared: Vec::new() };
        for bytes in frames {
            let frame = record::open(bytes)?;
            batch.declared.extend_from_slice(&frame.declared);
            for record in frame.records {
                let record = record?;
                let (tenant, Record::Event(event)) = record::read(record)? else { continue };
                let from = batch.data.len();
                batch.data.extend_from_slice(record);
                let key = key(&tenant.project, &event);
                batch.events.push(Slot { from, to: batch.data.len(), tenant, key, occurred_ms: event.occurred_ms });
            }
            batch.ends.push(batch.events.len());
        }
        Ok(batch)
    }

    pub fn len(&self) -> usize {
        self.events.len()
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// How many events there are up to the end of each frame.
    pub fn ends(&self) -> &[usize] {
        &self.ends
    }

    /// The partitions that are needed, sorted.
    pub fn months(&self) -> Vec<i64> {
        let mut months: Vec<i64> = self.events.iter().map(|slot| time::month_of(slot.occurred_ms)).collect();
        months.sort_unstable();
        months.dedup();
        months
    }

    /// org || key of every event.
    pub fn keys(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.events.len() * 32);
        for slot in &self.events {
            out.extend_from_slice(&slot.tenant.org);
            out.extend_from_slice(&slot.key);
        }
        out
    }

    /// Events whose (org, key) stood earlier in this batch.
    pub fn repeats(&self) -> Vec<usize> {
        let mut seen = HashSet::with_capacity(self.events.len());
        let events = self.events.iter().enumerate();
        events.filter(|(_, slot)| !seen.insert((slot.tenant.org, slot.key))).map(|(ordinal, _)| ordinal).collect()
    }

    /// The events of [low, high) that are not in `skip`, which is sorted.
    pub fn copy(&self, skip: &[usize], low: usize, high: usize) -> Result<Vec<u8>, Broken> {
        let high = high.min(self.events.len());
        let low = low.min(high);
        let bytes: usize = self.events[low..high].iter().map(|slot| slot.to - slot.from + ROW_BYTES).sum();
        let mut writer = Writer::with_capacity(bytes);
        let mut skip = &skip[skip.partition_point(|&ordinal| ordinal < low)..];
        for (ordinal, slot) in self.events.iter().enumerate().take(high).skip(low) {
            if skip.first() == Some(&ordinal) {
                skip = &skip[1..];
                continue;
            }
            self.row(&mut writer, slot)?;
        }
        Ok(writer.finish())
    }

    fn row(&self, writer: &mut Writer, slot: &Slot) -> Result<(), Broken> {
        let (tenant, Record::Event(event)) = record::read(&self.data[slot.from..slot.to])? else { return Ok(()) };
        writer.row(COLUMNS);
        writer.bytes(&tenant.org);
        writer.bytes(&slot.key);
        writer.bytes(&tenant.project);
        writer.bytes(event.event_type);
        writer.bytes(event.module);
        writer.optional(event.person());
        writer.optional(event.device);
        writer.optional(event.session);
        writer.bytes(event.environment);
        writer.instant(event.occurred_ms);
        writer.instant(event.received_ms);
        writer.bytes(event.event_id);
        writer.jsonb(event.properties);
        Ok(())
    }

    /// Whose event an ordinal is, and its record as it stood in the log.
    pub fn record(&self, ordinal: usize) -> Option<(Tenant, &[u8])> {
        self.events.get(ordinal).map(|slot| (slot.tenant, &self.data[slot.from..slot.to]))
    }

    /// Two measures side by side: what the frames declare, and what was found here and not said to be duplicate or bad.
    pub fn counts(&self, duplicate: &[usize], bad: &[usize]) -> Vec<(Tenant, Counts)> {
        let mut counts: BTreeMap<Tenant, Counts> = BTreeMap::new();
        for (tenant, events) in &self.declared {
            counts.entry(*tenant).or_default().accepted += i64::from(*events);
        }
        // Events of one project tend to stand together, and a hash is cheaper than a tree of 32-byte keys.
        let mut found: HashMap<Tenant, Counts> = HashMap::new();
        for slot in &self.events {
            found.entry(slot.tenant).or_default().stored += 1;
        }
        for (ordinals, is_bad) in [(duplicate, false), (bad, true)] {
            for slot in ordinals.iter().filter_map(|&ordinal| self.events.get(ordinal)) {
                let counts = found.entry(slot.tenant).or_default();
                counts.stored -= 1;
                *(if is_bad { &mut counts.bad } else { &mut counts.duplicate }) += 1;
            }
        }
        for (tenant, Counts { stored, duplicate, bad, .. }) in found {
            let counts = counts.entry(tenant).or_default();
            *counts = Counts { accepted: counts.accepted, stored, duplicate, bad };
        }
        counts.into_iter().collect()
    }
}

fn key(project: &Id, event: &Event<'_>) -> Id {
    let mut key = [0; 16];
    key[..6].copy_from_slice(&event.occurred_ms.to_be_bytes()[2..]);
    let digest = Sha256::new().chain_update(project).chain_update(event.event_id).finalize();
    key[6..].copy_from_slice(&digest[..10]);
    key
}
