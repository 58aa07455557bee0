//! An answer, read: what `modules/push/{apns,fcm,webpush}.read` say of it (providers.md 1.6, 2.3, 3.5).

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{Transport, apns, fcm, webpush};
use crate::retry::Schedule;

/// For a connection or a host that has had enough: the next one may take it.
pub const SOON: Schedule = Schedule::doubling(5.0);
/// For a 429 that names no time.
pub const THROTTLED: Schedule = Schedule::doubling(60.0);
/// For a device that one environment of a provider does not know, and the other may.
pub const ELSEWHERE: Schedule = Schedule { base_s: 1.0, doubling: false, jitter: true };
/// For a success that is not the provider's: something stands between us and it.
pub const DAMAGED: Schedule = Schedule::doubling(30.0);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Accepted,
    Rejected,
    Deferred,
    /// A success without the words of a success; whether the message left is unknown.
    Damaged,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Deferred => "deferred",
            Self::Damaged => "damaged",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Verdict<'h> {
    pub state: State,
    pub reason: Option<Cow<'static, str>>,
    pub provider_id: Option<Cow<'h, str>>,
    pub retry: Option<Schedule>,
    pub retry_after: Option<&'h str>,
    /// The provider token has expired; a fresh one helps.
    pub renews: bool,
    /// The credential is refused, whoever the recipient is.
    pub hopeless: bool,
}

impl Verdict<'_> {
    /// Of an answer that comes from one environment of two, where the device may belong to the other.
    #[must_use]
    pub fn elsewhere(self) -> Self {
        if self.reason.as_deref() != Some(apns::BAD_DEVICE_TOKEN) {
            return self;
        }
        Self { state: State::Deferred, retry: Some(ELSEWHERE), retry_after: None, ..self }
    }
}

/// What one reason of a provider's table asks of us. Whether it retires the address is told from the ledger later.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meaning {
    retry: Option<Schedule>,
    renews: bool,
    hopeless: bool,
}

pub(super) const REJECTED: Meaning = Meaning { retry: None, renews: false, hopeless: false };
pub(super) const HOPELESS: Meaning = Meaning { hopeless: true, ..REJECTED };

pub(super) const fn after(schedule: Schedule) -> Meaning {
    Meaning { retry: Some(schedule), ..REJECTED }
}

/// Once the provider token is a fresh one.
pub(super) const RENEWS: Meaning = Meaning { renews: true, ..after(SOON) };

/// `header` finds a header of the answer by its name in lower case.
pub fn read<'h>(
    transport: Transport,
    status: u16,
    header: impl Fn(&str) -> Option<&'h str>,
    body: &[u8],
) -> Verdict<'h> {
    match transport {
        Transport::Apns => apns::read(status, header, body),
        Transport::Fcm => fcm::read(status, header, body),
        Transport::WebPush => webpush::read(status, header),
    }
}

pub(super) fn accepted(provider_id: Option<Cow<'_, str>>) -> Verdict<'_> {
    Verdict {
        state: State::Accepted,
        reason: None,
        provider_id,
        retry: None,
        retry_after: None,
        renews: false,
        hopeless: false,
    }
}

pub(super) fn damaged<'h>(status: u16) -> Verdict<'h> {
    let reason = Some(by_status(status));
    Verdict { state: State::Damaged, reason, retry: Some(DAMAGED), ..accepted(None) }
}

pub(super) fn verdict<'h>(
    meaning: Meaning,
    reason: Cow<'static, str>,
    retry_after: Option<&'h str>,
    provider_id: Option<Cow<'h, str>>,
) -> Verdict<'h> {
    Verdict {
        state: if meaning.retry.is_none() { State::Rejected } else { State::Deferred },
        reason: Some(reason),
        provider_id,
        retry: meaning.retry,
        retry_after,
        renews: meaning.renews,
        hopeless: meaning.hopeless,
    }
}

/// The reason of an answer whose body names none that we know.
pub(super) fn by_status(status: u16) -> Cow<'static, str> {
    format!("http_{status}").into()
}

/// A provider's JSON object, or an empty one: an answer may be anything.
pub(super) fn object_of(body: &[u8]) -> Map<String, Value> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}
