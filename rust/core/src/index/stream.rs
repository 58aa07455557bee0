//! Counted streams: the events of one type whose properties pass a condition, counted as a type of their own.
//!
//! A stream is known by its JSON, `{"event": .., "where": ..}`. While its past is being read from Postgres, what the log
//! brings is set aside with its position: the read has a position too, and only what lies behind it is added then.

use super::track::Track;
use crate::json::quote;
use crate::rules::{EventLeaf, Rule, canonical, find};
use crate::{Broken, Refused};

pub const STREAMS_MAX: usize = 256;

pub struct Stream {
    /// A rule of one leaf, the condition.
    rule: Rule,
    track: Track,
    /// None: the past is in.
    filling: Option<Filling>,
}

struct Filling {
    /// The index' position when the stream was registered.
    from: i64,
    /// (position, row, second)
    behind: Vec<(i64, u32, u32)>,
}

pub fn key(event_type: &str, condition: &str) -> String {
    let mut key = String::from("{\"event\":");
    quote(&mut key, canonical(event_type));
    key.push_str(",\"where\":");
    key.push_str(condition);
    key.push('}');
    key
}

pub fn key_of(leaf: &EventLeaf) -> Option<String> {
    leaf.stream.as_ref().map(|condition| key(leaf.event_type(), condition))
}

impl Stream {
    pub fn new(key: &str, position: i64) -> Result<Self, Refused> {
        let rule = format!("{},\"op\":\"occurred\"}}", key.strip_suffix('}').unwrap_or(key));
        let rule = Rule::new(rule.as_bytes())?;
        if rule.event_leaves.first().and_then(key_of).as_deref() != Some(key) {
            return Err(Refused::new("", "not the key of a counted stream"));
        }
        let filling = Some(Filling { from: position, behind: Vec::new() });
        Ok(Self { rule, track: Track::default(), filling })
    }

    pub fn filled(key: &str, track: Track) -> Result<Self, Refused> {
        Ok(Self { track, filling: None, ..Self::new(key, 0)? })
    }

    /// None until the past is in.
    pub fn track(&self) -> Option<&Track> {
        self.filling.is_none().then_some(&self.track)
    }

    pub fn matches(&self, event_type: &str, properties: &str) -> bool {
        let leaf = &self.rule.event_leaves[0];
        leaf.event_type() == event_type
            && leaf
                .condition
                .as_ref()
                .is_some_and(|condition| condition.holds(&find(&self.rule.properties, Some(properties))))
    }

    /// An event of the log; `chain` is the person's row and where it counts beside it.
    pub fn event(&mut self, chain: &[u32], second: u32, position: i64, event_type: &str, properties: &str) {
        if !self.matches(event_type, properties) {
            return;
        }
        match &mut self.filling {
            Some(filling) => filling.behind.push((position, chain[0], second)),
            None => chain.iter().for_each(|&row| self.track.event(row, second)),
        }
    }

    pub fn load(&mut self, chain: impl Iterator<Item = u32>, second: u32) {
        chain.for_each(|row| self.track.event(row, second));
    }

    pub fn loaded<I: Iterator<Item = u32>>(&mut self, position: i64, chain: impl Fn(u32) -> I) -> Result<(), Broken> {
        if self.filling.as_ref().is_some_and(|filling| position < filling.from) {
            return Err(Broken("the stream was read before it was registered"));
        }
        for (at, row, second) in self.filling.take().map(|filling| filling.behind).unwrap_or_default() {
            if at > position {
                self.load(chain(row), second);
            }
        }
        Ok(())
    }

    pub fn fold(&mut self, from: u32, into: u32) {
        self.track.fold(from, into);
    }

    pub fn clear(&mut self, row: u32) {
        self.track.clear(row);
        if let Some(filling) = &mut self.filling {
            filling.behind.retain(|&(_, of, _)| of != row);
        }
    }

    pub fn bytes(&self) -> usize {
        self.track.bytes() + self.filling.as_ref().map_or(0, |filling| filling.behind.capacity() * 16)
    }
}
