//! What becomes of a call: from the answer to the row of the ledger, and to the chunk that goes on.

use std::borrow::Cow;

use crate::providers::Transport;
use crate::providers::answer::{self, DAMAGED, SOON, Verdict};
use crate::retry::{retry_after_s, wait_s};
use crate::time::YEAR_2000_MS;
use crate::{Id, pgcopy};

/// Reasons and ids that a provider makes up are cut here: a row is a record, not a copy of an answer.
const TEXT_CHARS_MAX: usize = 500;

/// The columns of a row (`delivery.ledger.COLUMNS`).
const COLUMNS: u16 = 15;

/// A connection that cannot be made is no try, so tries do not end it. It is tried anew after a quarter of the send's
/// age, within the hour.
const AGE_PART: f64 = 0.25;
const UNSENT_MAX_S: f64 = 3_600.0;

/// Why a request stayed here through nobody's fault: the worker drains, or has its hands full.
const OURS: [&str; 2] = ["closed", "lanes_busy"];

/// How a detail begins when the outbound guard refuses the address: no later try will fare better.
const BLOCKED: &str = "blocked:";
const ENDPOINT_BLOCKED: &str = "endpoint_blocked";
const NO_ANSWER: &str = "no_answer";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    Accepted,
    Rejected,
    Suppressed,
    Expired,
    Unknown,
    Deferred,
}

impl State {
    const ALL: [Self; 6] =
        [Self::Accepted, Self::Rejected, Self::Suppressed, Self::Expired, Self::Unknown, Self::Deferred];

    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Suppressed => "suppressed",
            Self::Expired => "expired",
            Self::Unknown => "unknown",
            Self::Deferred => "deferred",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// What is said of a recipient, whoever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling<'a> {
    pub state: State,
    pub reason: Option<Cow<'a, str>>,
    pub provider_id: Option<Cow<'a, str>>,
    /// When to go on; only with state `Deferred`.
    pub due_ms: Option<i64>,
    /// Deferred: the request was written without an answer, so the next try may be a second one. Else set by `settle`.
    pub repeated: bool,
    /// Deferred: whether the wait was a try (a 503 is, quiet hours are not).
    pub counted: bool,
}

impl<'a> Ruling<'a> {
    pub fn new(state: State, reason: Option<Cow<'a, str>>) -> Self {
        Self { state, reason, provider_id: None, due_ms: None, repeated: false, counted: true }
    }

    pub fn into_owned(self) -> Ruling<'static> {
        Ruling {
            reason: self.reason.map(|text| Cow::Owned(text.into_owned())),
            provider_id: self.provider_id.map(|text| Cow::Owned(text.into_owned())),
            state: self.state,
            due_ms: self.due_ms,
            repeated: self.repeated,
            counted: self.counted,
        }
    }

    fn deferred(reason: Cow<'a, str>, now_ms: i64, wait_s: f64) -> Self {
        let due_ms = Some(now_ms + (wait_s * 1_000.0) as i64);
        Self { due_ms, ..Self::new(State::Deferred, Some(reason)) }
    }

    /// Nobody can be asked right now, because the provider's token cannot be had.
    pub fn waiting(reason: &'static str, now_ms: i64) -> Self {
        Self { counted: false, ..Self::deferred(reason.into(), now_ms, SOON.base_s) }
    }

    /// The provider has answered.
    pub fn answered(verdict: Verdict<'a>, tries: i16, now_ms: i64, chance: f64) -> Self {
        let Verdict { reason, provider_id, retry, retry_after, .. } = verdict;
        match (verdict.state, retry) {
            (answer::State::Damaged, _) => Self::unanswered(reason.unwrap_or(NO_ANSWER.into()), tries, now_ms, chance),
            (answer::State::Deferred, Some(schedule)) => {
                let wait_s = wait_s(schedule, tries, retry_after_s(retry_after, now_ms), chance);
                Self { provider_id, ..Self::deferred(reason.unwrap_or_default(), now_ms, wait_s) }
            }
            (answer::State::Accepted, _) => Self { provider_id, ..Self::new(State::Accepted, reason) },
            _ => Self { provider_id, ..Self::new(State::Rejected, reason) },
        }
    }

    /// Bytes may have left and no answer came (promise 3): it may be repeated, if the send says so.
    pub fn unanswered(reason: Cow<'a, str>, tries: i16, now_ms: i64, chance: f64) -> Self {
        let wait_s = wait_s(DAMAGED, tries, None, chance);
        Self { repeated: true, ..Self::deferred(reason, now_ms, wait_s) }
    }

    /// Nothing has left, so this was no try. An endpoint that we may not dial stays one, whenever it is tried.
    pub fn unsent(transport: Transport, detail: &'a str, planned_ms: i64, now_ms: i64) -> Self {
        if transport == Transport::WebPush && detail.starts_with(BLOCKED) {
            return Self::new(State::Rejected, Some(ENDPOINT_BLOCKED.into()));
        }
        let mut wait_s = SOON.base_s;
        if !OURS.contains(&detail) {
            let age_s = (now_ms - planned_ms) as f64 / 1_000.0;
            wait_s = wait_s.max(age_s * AGE_PART).min(UNSENT_MAX_S);
        }
        let reason = if detail.is_empty() { "unsent" } else { detail };
        Self { counted: false, ..Self::deferred(reason.into(), now_ms, wait_s) }
    }
}

/// A settled ruling, and whose it is.
#[derive(Debug, Clone)]
pub struct Outcome<'a> {
    pub position: i16,
    pub recipient: Id,
    pub user_id: Option<&'a str>,
    pub variant: Option<&'a str>,
    /// Who was asked, or was to be.
    pub provider: Option<&'a str>,
    pub ruling: Ruling<'a>,
}

/// The chunk whose outcomes these are.
#[derive(Debug, Clone, Copy)]
pub struct Chunk {
    pub org: Id,
    pub send: Id,
    pub shard: i16,
    pub seq: i32,
    pub attempt: i16,
}

/// Recipients who go on together: attempt, repeated, and when they are due.
pub type Group = (i16, bool, i64);

/// Settled outcomes of one chunk, as the ledger takes them.
pub struct OutcomeBatch {
    chunk: Chunk,
    rows: pgcopy::Writer,
    /// Where each row ends.
    ends: Vec<u32>,
    first: Option<i16>,
    /// Few: a provider's table has a few dozen reasons.
    counts: Vec<(State, Box<str>, u32)>,
    /// In the order of their first recipient: few, because waits are whole seconds.
    groups: Vec<(Group, Vec<Id>)>,
}

impl OutcomeBatch {
    pub fn new(chunk: Chunk) -> Self {
        Self {
            chunk,
            rows: pgcopy::Writer::rows_only(),
            ends: Vec::new(),
            first: None,
            counts: Vec::new(),
            groups: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn push(&mut self, outcome: &Outcome<'_>) {
        let ruling = &outcome.ruling;
        let (chunk, rows) = (self.chunk, &mut self.rows);
        rows.row(COLUMNS);
        rows.bytes(&chunk.org);
        rows.bytes(&chunk.send);
        rows.bytes(&chunk.shard.to_be_bytes());
        rows.bytes(&chunk.seq.to_be_bytes());
        rows.bytes(&outcome.position.to_be_bytes());
        rows.bytes(&outcome.recipient);
        for text in [
            outcome.user_id,
            Some(ruling.state.name()),
            ruling.reason.as_deref(),
            outcome.variant,
            outcome.provider,
            ruling.provider_id.as_deref(),
        ] {
            rows.optional(text.map(clean).as_deref().map(str::as_bytes));
        }
        rows.bytes(&chunk.attempt.to_be_bytes());
        rows.boolean(ruling.repeated);
        // When the row is written is known then: see `rows`.
        rows.bytes(&[0; 8]);
        self.ends.push(rows.len() as u32);
        self.first.get_or_insert(outcome.position);
        self.count(ruling);
        if let (State::Deferred, Some(due_ms)) = (ruling.state, ruling.due_ms) {
            let group = (chunk.attempt + i16::from(ruling.counted), ruling.repeated, due_ms);
            match self.groups.iter_mut().find(|(found, _)| *found == group) {
                Some((_, recipients)) => recipients.push(outcome.recipient),
                None => self.groups.push((group, vec![outcome.recipient])),
            }
        }
    }

    fn count(&mut self, ruling: &Ruling<'_>) {
        let reason = ruling.reason.as_deref().unwrap_or_default();
        match self.counts.iter_mut().find(|(state, known, _)| *state == ruling.state && **known == *reason) {
            Some((.., n)) => *n += 1,
            None => self.counts.push((ruling.state, reason.into(), 1)),
        }
    }

    /// Puts the rows behind one another into a COPY. `at_us` is when they are written, in microseconds since 1970.
    pub fn write(&self, copy: &mut pgcopy::Writer, at_us: i64) {
        let at = (at_us - YEAR_2000_MS * 1_000).to_be_bytes();
        let begin = copy.len();
        copy.append(&self.rows);
        for &end in &self.ends {
            copy.patch(begin + end as usize - at.len(), &at);
        }
    }

    /// How many by state and reason ("" for none).
    pub fn counts(&self) -> impl Iterator<Item = (State, &str, u32)> {
        self.counts.iter().map(|(state, reason, n)| (*state, &**reason, *n))
    }

    /// Who goes on as a chunk of the same send and shard.
    pub fn follow_up(&self) -> &[(Group, Vec<Id>)] {
        &self.groups
    }

    /// One of those whose outcomes these are.
    pub fn first_position(&self) -> Option<i16> {
        self.first
    }
}

/// What PostgreSQL can store: no U+0000, no novels. Providers' answers are hostile input.
fn clean(text: &str) -> Cow<'_, str> {
    let cut = match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) if text.len() > TEXT_CHARS_MAX => &text[..end],
        _ => text,
    };
    if cut.contains('\0') { cut.replace('\0', "").into() } else { cut.into() }
}
