//! Frequency caps (B111, B112, C37): how many distinct sends a person got in the last hour and the last 24 hours.
//!
//! The owner of a shard keeps them in memory and reads them back from the ledger when it takes the shard. Three phones
//! of one person are one send.

use std::collections::HashMap;

use crate::pgcopy::Reader;
use crate::time::{DAY_MS, HOUR_MS};
use crate::{Broken, Id};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub day: Option<u32>,
    pub hour: Option<u32>,
}

#[derive(Debug)]
pub struct Caps {
    people: HashMap<Box<str>, Vec<Sent>>,
    stream: Reader,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    send: Id,
    at_ms: i64,
}

impl Default for Caps {
    fn default() -> Self {
        Self { people: HashMap::new(), stream: Reader::new(3) }
    }
}

impl Caps {
    /// person text, send_id uuid, at timestamptz.
    pub fn load(&mut self, chunk: &[u8]) -> Result<(), Broken> {
        let people = &mut self.people;
        self.stream.feed(chunk, |row| {
            if let (Some(person), Some(send), Some(at_ms)) = (row.text(0)?, row.id(1)?, row.instant(2)?) {
                note(people, person, send, at_ms);
            }
            Ok(())
        })
    }

    /// Half a ledger would let too many sends pass.
    pub fn loaded(&self) -> Result<(), Broken> {
        self.stream.finish()
    }

    pub fn forget_before(&mut self, at_ms: i64) {
        self.people.retain(|_, sent| {
            sent.retain(|sent| sent.at_ms >= at_ms);
            !sent.is_empty()
        });
    }

    /// How many other sends the person got in the last 24 hours and in the last hour.
    pub fn received(&self, person: &str, send: Id, now_ms: i64) -> (usize, usize) {
        let others = self.people.get(person).map_or(&[][..], Vec::as_slice).iter().filter(|sent| sent.send != send);
        let within = |span_ms: i64| others.clone().filter(|sent| sent.at_ms > now_ms - span_ms).count();
        (within(DAY_MS), within(HOUR_MS))
    }

    /// True, and counted, when this send would not be one too many.
    pub fn admit(&mut self, person: &str, send: Id, now_ms: i64, limits: Limits) -> bool {
        let received = self.people.get(person).map_or(&[][..], Vec::as_slice);
        // Another address of the person got this send already: it adds nothing to the count.
        let counted = received.iter().any(|sent| sent.send == send && sent.at_ms > now_ms - DAY_MS);
        let within = |span_ms: i64, cap: Option<u32>| {
            cap.is_none_or(|cap| received.iter().filter(|sent| sent.at_ms > now_ms - span_ms).count() < cap as usize)
        };
        let admitted = counted || (within(DAY_MS, limits.day) && within(HOUR_MS, limits.hour));
        if admitted {
            note(&mut self.people, person, send, now_ms);
        }
        admitted
    }
}

fn note(people: &mut HashMap<Box<str>, Vec<Sent>>, person: &str, send: Id, at_ms: i64) {
    let Some(received) = people.get_mut(person) else {
        people.insert(person.into(), vec![Sent { send, at_ms }]);
        return;
    };
    match received.iter_mut().find(|sent| sent.send == send) {
        Some(earlier) => earlier.at_ms = earlier.at_ms.max(at_ms),
        None => received.push(Sent { send, at_ms }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_distinct_sends_in_rolling_windows() {
        let mut caps = Caps::default();
        let limits = Limits { day: Some(2), hour: Some(1) };
        assert!(caps.admit("u", [1; 16], 0, limits));
        assert!(caps.admit("u", [1; 16], 5, limits), "another phone");
        assert!(!caps.admit("u", [2; 16], HOUR_MS - 1, limits));
        assert!(caps.admit("u", [2; 16], HOUR_MS + 5, limits));
        assert!(!caps.admit("u", [3; 16], 3 * HOUR_MS, limits));
        assert!(caps.admit("u", [3; 16], DAY_MS + 5, limits));
        assert!(!caps.admit("v", [1; 16], 0, Limits { day: Some(0), hour: None }));
        caps.forget_before(i64::MAX);
        assert!(caps.people.is_empty());
    }
}
