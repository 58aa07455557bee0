//! Audience rules (B071-B074, C72): a tree of conditions, compiled once, evaluated over streams of rows.
//!
//! Every condition on a person becomes a *leaf* with a number below 64. A trait or lifecycle leaf is one bit, found
//! when the profile's row passes; an event leaf is a counter, raised as events pass, compared with a threshold at the
//! end. So neither events nor profiles are kept, and one person's truth is a walk over the tree with 64 bits in hand.
//!
//! Missing is false for every operator but `not_set`, `neq` and `not_in` included (B074); JSON null counts as missing.
//! A rule has one meaning: `occurred_in_last d` looks at seconds, a count window of whole days (three or more) at UTC
//! days, today included; nothing has an upper bound, because only a clock makes a received event lie in the future.
//! Seconds are whole ones: whatever happened in the second in which a window begins lies in it.
//!
//! [`Evaluation`] reads rows and is the plain twin of [`crate::index`], which keeps columns: the same tests, the same
//! windows, the same explanation.

mod compile;
mod evaluate;
mod explain;
mod split;
mod test;

pub use evaluate::{Evaluation, Step};
pub(crate) use evaluate::{find, prefix};
pub(crate) use explain::{Observed, Seen, explain};
pub use split::{Split, names};
pub(crate) use test::Test;

use crate::time::{DAY_MS, SECOND_MS};

/// Deeper or larger rules are somebody's program, not somebody's audience.
pub const LEVELS_MAX: usize = 8;
pub const NODES_MAX: usize = 64;

/// C23: two spellings of SDKs for the same thing.
const SYNONYMS: [(&str, &str); 3] =
    [("page.viewed", "page_viewed"), ("screen.viewed", "screen_viewed"), ("session.started", "session_started")];

#[derive(Debug)]
pub struct Rule {
    pub(crate) root: Node,
    pub(crate) profile_leaves: Vec<ProfileLeaf>,
    pub(crate) event_leaves: Vec<EventLeaf>,
    /// What the profile leaves read, and what the `where` trees read.
    pub(crate) traits: Vec<String>,
    pub(crate) properties: Vec<String>,
    /// All leaves as they are written.
    pub(crate) leaves: Vec<Leaf>,
}

/// A leaf at its place: "all.0.any.1".
#[derive(Debug)]
pub(crate) struct Leaf {
    pub path: String,
    /// Its own JSON.
    pub source: String,
    pub kind: LeafKind,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum LeafKind {
    Profile(usize),
    Event(usize),
}

#[derive(Debug)]
pub(crate) enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Leaf(usize),
}

#[derive(Debug)]
pub(crate) enum ProfileLeaf {
    Trait { slot: usize, test: Test },
    Lifecycle(Vec<String>),
}

/// Holds when the number of matching events compares.
#[derive(Debug)]
pub(crate) struct EventLeaf {
    pub types: Vec<String>,
    pub since: Since,
    pub condition: Option<Where>,
    /// The JSON of the condition, its keys sorted: what a counted stream is known by.
    pub stream: Option<String>,
    pub compare: Compare,
    /// Whether the operator speaks of a number, or of whether and when.
    pub counts: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Compare {
    AtLeast(u32),
    AtMost(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    Ever,
    /// So many milliseconds before now.
    Span(i64),
    /// The beginning of the UTC day so many days before today.
    Days(i64),
}

impl Since {
    pub fn instant(self, now_ms: i64) -> Option<i64> {
        match self {
            Self::Ever => None,
            Self::Span(ms) => Some((now_ms - ms).div_euclid(SECOND_MS) * SECOND_MS),
            Self::Days(days) => Some((now_ms.div_euclid(DAY_MS) - days) * DAY_MS),
        }
    }

    /// The instant from which an event of this instant does not count any more.
    pub fn leaves_at(self, event_ms: i64) -> Option<i64> {
        match self {
            Self::Ever => None,
            Self::Span(ms) => Some((event_ms.div_euclid(SECOND_MS) + 1) * SECOND_MS + ms),
            Self::Days(days) => Some((event_ms.div_euclid(DAY_MS) + 1 + days) * DAY_MS),
        }
    }
}

/// A tree over one event's properties.
#[derive(Debug)]
pub(crate) enum Where {
    All(Vec<Where>),
    Any(Vec<Where>),
    Not(Box<Where>),
    Test { slot: usize, test: Test },
}

impl Compare {
    pub fn holds(self, count: u32) -> bool {
        match self {
            Self::AtLeast(least) => count >= least,
            Self::AtMost(most) => count <= most,
        }
    }

    /// The count at which the truth changes; 0 for what is true of everybody.
    pub fn turns_at(self) -> u32 {
        match self {
            Self::AtLeast(least) => least,
            Self::AtMost(most) => most + 1,
        }
    }
}

impl EventLeaf {
    /// The type by its canonical name.
    pub fn event_type(&self) -> &str {
        self.types.last().map_or("", String::as_str)
    }
}

/// One name for both spellings of C23.
pub(crate) fn canonical(event_type: &str) -> &str {
    SYNONYMS.iter().find(|(other, _)| *other == event_type).map_or(event_type, |(_, canonical)| canonical)
}

impl Rule {
    /// Event types the rule asks for, synonyms included, sorted.
    pub fn event_types(&self) -> Vec<&str> {
        let mut types: Vec<&str> = self.event_leaves.iter().flat_map(|leaf| &leaf.types).map(String::as_str).collect();
        types.sort_unstable();
        types.dedup();
        types
    }

    pub fn wants_properties(&self) -> bool {
        self.event_leaves.iter().any(|leaf| leaf.condition.is_some())
    }

    /// The earliest instant whose events matter; None when all do. Without event leaves none matters.
    pub fn since(&self, now_ms: i64) -> Option<i64> {
        self.event_leaves
            .iter()
            .try_fold(now_ms, |earliest, leaf| leaf.since.instant(now_ms).map(|since| earliest.min(since)))
    }
}
