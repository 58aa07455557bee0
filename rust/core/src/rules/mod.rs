//! Audience rules (B071-B074, C72): a tree of conditions, compiled once, evaluated over streams of rows.
//!
//! Every condition on a person becomes a *leaf* with a number below 64. A trait or lifecycle leaf is one bit, found
//! when the profile's row passes; an event leaf is a counter, raised as events pass, compared with a threshold at the
//! end. So neither events nor profiles are kept, and one person's truth is a walk over the tree with 64 bits in hand.
//!
//! Missing is false for every operator but `not_set`, `neq` and `not_in` included (B074); JSON null counts as missing.
//! A rule has one meaning: `occurred_in_last d` looks at seconds, a count window of whole days (three or more) at UTC
//! days, today included; nothing has an upper bound, because only a clock makes a received event lie in the future.

mod compile;
mod evaluate;
mod split;
mod test;

pub use evaluate::Evaluation;
pub use split::Split;
use test::Test;

use crate::time::DAY_MS;

/// Deeper or larger rules are somebody's program, not somebody's audience.
pub const LEVELS_MAX: usize = 8;
pub const NODES_MAX: usize = 64;

/// C23: two spellings of SDKs for the same thing.
const SYNONYMS: [(&str, &str); 3] =
    [("page.viewed", "page_viewed"), ("screen.viewed", "screen_viewed"), ("session.started", "session_started")];

#[derive(Debug)]
pub struct Rule {
    root: Node,
    profile_leaves: Vec<ProfileLeaf>,
    event_leaves: Vec<EventLeaf>,
    /// What the profile leaves read, and what the `where` trees read.
    traits: Vec<String>,
    properties: Vec<String>,
}

#[derive(Debug)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Profile(usize),
    Event(usize),
}

#[derive(Debug)]
enum ProfileLeaf {
    Trait { slot: usize, test: Test },
    Lifecycle(Vec<String>),
}

/// Holds when the number of matching events compares.
#[derive(Debug)]
struct EventLeaf {
    types: Vec<String>,
    since: Since,
    condition: Option<Where>,
    compare: Compare,
}

#[derive(Debug, Clone, Copy)]
enum Compare {
    AtLeast(u32),
    AtMost(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Ever,
    /// So many milliseconds before now.
    Span(i64),
    /// The beginning of the UTC day so many days before today.
    Days(i64),
}

impl Since {
    fn instant(self, now_ms: i64) -> Option<i64> {
        match self {
            Self::Ever => None,
            Self::Span(ms) => Some(now_ms - ms),
            Self::Days(days) => Some((now_ms.div_euclid(DAY_MS) - days) * DAY_MS),
        }
    }
}

/// A tree over one event's properties.
#[derive(Debug)]
enum Where {
    All(Vec<Where>),
    Any(Vec<Where>),
    Not(Box<Where>),
    Test { slot: usize, test: Test },
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
