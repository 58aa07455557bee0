//! When to try again, and when to stop: `delivery/retry.py`, as arithmetic on milliseconds. Chance is an argument.
//!
//! A provider's Retry-After wins over every schedule (providers.md 3.6). A wait ends in one of three ways: a next try,
//! the end of the tries, or the end of the send's time; and whoever was written to without an answer stays `unknown`,
//! whatever later tries were refused, because that first write may have arrived.

use std::borrow::Cow;
use std::time::UNIX_EPOCH;

use crate::outcome::{Ruling, State};

/// Tries of one recipient, the first included; then `rejected: retries_exhausted`.
pub const TRIES_MAX: i16 = 5;

/// A provider that names a longer wait is read as a day.
const RETRY_AFTER_MAX_S: f64 = 86_400.0;

/// A wait is stretched by up to a quarter, so that a wave of refusals does not come back as one wave.
const JITTER: f64 = 0.25;
/// In so few steps that the recipients of one refusal stay in few chunks.
const JITTER_STEPS: f64 = 8.0;

/// Waits before the 2nd, 3rd, .. try when the provider names none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    pub base_s: f64,
    pub doubling: bool,
    pub jitter: bool,
}

impl Schedule {
    pub const fn doubling(base_s: f64) -> Self {
        Self { base_s, doubling: true, jitter: true }
    }
}

/// Seconds before the next try, after try number `tries` (from 1) was refused; `chance` lies in [0, 1).
pub fn wait_s(schedule: Schedule, tries: i16, retry_after_s: Option<f64>, chance: f64) -> f64 {
    if let Some(named) = retry_after_s {
        return named.clamp(0.0, RETRY_AFTER_MAX_S);
    }
    let doublings = if schedule.doubling { i32::from(tries) - 1 } else { 0 };
    let wait = schedule.base_s * f64::powi(2.0, doublings);
    if schedule.jitter { wait * (1.0 + JITTER * (chance * JITTER_STEPS).floor() / JITTER_STEPS) } else { wait }
}

/// Retry-After as seconds: a number, or an HTTP date; None when it is absent or is neither.
pub fn retry_after_s(header: Option<&str>, now_ms: i64) -> Option<f64> {
    let text = header?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().map(|seconds: f64| seconds.min(RETRY_AFTER_MAX_S));
    }
    let at = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    let wait_ms = at.as_millis() as i64 - now_ms;
    Some((wait_ms as f64 / 1_000.0).clamp(0.0, RETRY_AFTER_MAX_S))
}

/// To the next whole second: what is due within one second shares a chunk.
pub fn round_up(due_ms: i64) -> i64 {
    due_ms + (-due_ms).rem_euclid(1_000)
}

/// What a send and a chunk say of all their recipients.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Of a recipient, with this one, since the send began or was last retried.
    pub tries: i16,
    pub at_most_once: bool,
    /// The first millisecond at which the send's time is over.
    pub expires_ms: i64,
}

/// What the ledger says of an outcome, with its history.
///
/// `unanswered` names why an earlier write of this recipient stands without an answer (`worker_lost`, `no_answer`).
/// Promise 3: such a recipient may be repeated by `at_least_once` only, and then the outcome says so; when it is not
/// sent again (suppressed or expired meanwhile, or not `sent`: no request could be built) or the tries end, it is
/// `unknown`. A deferral without an instant is due at once.
pub fn settle<'a>(ruling: Ruling<'a>, terms: &Terms, unanswered: Option<&'a str>, sent: bool) -> Ruling<'a> {
    if ruling.state == State::Deferred {
        return deferral(ruling, terms, unanswered.map(Cow::Borrowed));
    }
    if let Some(reason) = unanswered
        && (!sent || matches!(ruling.state, State::Suppressed | State::Expired))
    {
        return unknown(ruling, reason.into());
    }
    let no_answer = ruling.state == State::Unknown && ruling.reason.is_none();
    Ruling {
        reason: if no_answer { Some("no_answer".into()) } else { ruling.reason },
        repeated: unanswered.is_some(),
        due_ms: None,
        ..ruling
    }
}

fn deferral<'a>(mut ruling: Ruling<'a>, terms: &Terms, unanswered: Option<Cow<'a, str>>) -> Ruling<'a> {
    let unanswered = unanswered.or_else(|| {
        ruling.repeated.then(|| ruling.reason.clone().filter(|reason| !reason.is_empty()).unwrap_or("no_answer".into()))
    });
    if terms.at_most_once && unanswered.is_some() {
        return unknown(ruling, unanswered.unwrap_or_default());
    }
    let exhausted = ruling.counted && terms.tries >= TRIES_MAX;
    let due_ms = round_up(ruling.due_ms.unwrap_or(0));
    if !exhausted && due_ms < terms.expires_ms {
        ruling.repeated = unanswered.is_some();
        ruling.due_ms = Some(due_ms);
        return ruling;
    }
    match unanswered {
        Some(reason) => unknown(ruling, reason),
        None if exhausted => {
            Ruling { state: State::Rejected, reason: Some("retries_exhausted".into()), due_ms: None, ..ruling }
        }
        None => Ruling { state: State::Expired, reason: Some("ttl".into()), due_ms: None, ..ruling },
    }
}

fn unknown<'a>(ruling: Ruling<'a>, reason: Cow<'a, str>) -> Ruling<'a> {
    Ruling { state: State::Unknown, reason: Some(reason), due_ms: None, repeated: false, ..ruling }
}
