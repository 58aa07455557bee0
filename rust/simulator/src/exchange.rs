//! A request and its answer, without their transport, and what the three providers have in common.
//!
//! A provider looks at a request in this order: an outage and a throttle that the switches ask for, then the checks
//! (credentials, headers, payload), then the device's token. The token's wish can be overruled by all of the former.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::Value;

use crate::Simulator;
use crate::log::{Entry, Whole, now_ms};
use crate::server::Connection;
use crate::switches::Place;
use crate::token::{Grammar, Outcome, Transport};

/// `slow`: longer than a careless timeout, shorter than a careful one.
const SLOW_MS: u64 = 2_000;
/// A throttled or flaky device asks for a second of patience; tests shall not wait longer.
const RETRY_AFTER_S: &str = "1";
const THROTTLES: u8 = 1;
const FLAKES: u8 = 2;
/// Neither JSON nor UTF-8.
const JUNK: &[u8] = b"\xff\xfe{\"name\": [,, \x00<html>";
const JUNK_PAGE: &[u8] = b"<html><body>Bad Gateway</body></html>";

pub struct Request {
    pub head: Parts,
    pub body: Bytes,
    pub connection: Arc<Connection>,
    /// The HTTP/2 stream.
    pub stream: Option<u32>,
}

pub struct Answer {
    pub status: u16,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

pub enum Fate {
    Answer(Answer),
    /// The connection is cut, with everything on it.
    Cut,
    /// Nothing ever comes.
    Silence,
}

pub struct Reply {
    pub fate: Fate,
    pub delay_ms: u64,
}

/// What a provider has to say, before it is put into that provider's words. `R`: how it words a refusal.
pub enum Said<R> {
    Accepted,
    Gone,
    BadToken,
    Throttled,
    Unavailable,
    Junk { error: bool },
    Refused(R),
}

/// The same in the provider's words.
pub struct Worded {
    pub answer: Answer,
    /// The provider's word for a failure.
    pub reason: Option<&'static str>,
    /// What the answer calls the message.
    pub id: Option<String>,
}

enum Course<R> {
    Say(Said<R>),
    Cut,
    Silence,
}

struct Verdict<R> {
    course: Course<R>,
    outcome: Outcome,
    delay_ms: u64,
}

/// A message to a device: what the log keeps of it.
pub struct Message<'a> {
    pub transport: Transport,
    pub token: &'a str,
    pub grammar: Option<&'a str>,
    pub send_id: Option<&'a str>,
    pub delivery_id: Option<&'a str>,
    pub title: Option<&'a str>,
    pub body: Option<&'a str>,
    /// As the device gets it.
    pub payload: &'a [u8],
    /// Only checked, not taken (FCM's `validate_only`).
    pub dry: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// All but the credential.
    fn plain_headers(&self) -> BTreeMap<&str, Cow<'_, str>> {
        let headers = self.head.headers.iter().filter(|(name, _)| *name != AUTHORIZATION);
        headers.map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()))).collect()
    }

    /// Host and port as the client wrote them.
    pub fn authority(&self) -> Option<&str> {
        self.head.uri.authority().map(http::uri::Authority::as_str).or_else(|| self.header("host"))
    }
}

impl Answer {
    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    pub fn json(status: u16, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("a JSON value can be written");
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        Self { status, headers, body: body.into() }
    }

    pub fn junk(status: u16) -> Self {
        Self { body: Bytes::from_static(JUNK), ..Self::empty(status) }
    }

    pub fn junk_page() -> Self {
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static("text/html"))];
        Self { status: 502, headers, body: Bytes::from_static(JUNK_PAGE) }
    }

    pub fn with(mut self, name: HeaderName, value: &str) -> Self {
        // What cannot stand in a header is left out; our own values always can.
        self.headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        self
    }

    pub fn retry(self) -> Self {
        self.with(RETRY_AFTER, RETRY_AFTER_S)
    }
}

impl Reply {
    pub fn now(answer: Answer) -> Self {
        Self { fate: Fate::Answer(answer), delay_ms: 0 }
    }
}

impl Worded {
    pub fn failed(answer: Answer, reason: &'static str) -> Self {
        Self { answer, reason: Some(reason), id: None }
    }

    pub fn retry(self) -> Self {
        Self { answer: self.answer.retry(), ..self }
    }
}

impl Simulator {
    /// Takes a message: decides, words the answer, and writes both into the log; only then may the reply leave.
    pub fn take<R>(
        &self,
        request: &Request,
        message: &Message,
        check: impl FnOnce() -> Result<(), R>,
        word: impl FnOnce(Said<R>) -> Worded,
    ) -> Reply {
        let Verdict { course, outcome, delay_ms } = self.judge(message, check);
        let (fate, reason, id) = match course {
            Course::Cut => (Fate::Cut, None, None),
            Course::Silence => (Fate::Silence, None, None),
            Course::Say(said) => {
                let Worded { answer, reason, id } = word(said);
                (Fate::Answer(answer), reason, id)
            }
        };
        let outcome = if message.dry && outcome != Outcome::Refused { Outcome::Validated } else { outcome };
        let status = match &fate {
            Fate::Answer(answer) => Some(answer.status),
            Fate::Cut | Fate::Silence => None,
        };
        self.stats.count(message.transport, outcome, status);
        self.log.append(&Entry {
            at: now_ms(),
            transport: message.transport,
            token: message.token,
            grammar: message.grammar,
            send_id: message.send_id,
            delivery_id: message.delivery_id,
            id: id.as_deref(),
            outcome,
            reason,
            status,
            conn: request.connection.number,
            stream: request.stream,
            title: message.title,
            body: message.body,
            whole: self
                .switches()
                .log_payloads
                .then(|| Whole { payload: String::from_utf8_lossy(message.payload), headers: request.plain_headers() }),
        });
        Reply { fate, delay_ms }
    }

    /// A token that nobody minted here is a bad one.
    fn judge<R>(&self, message: &Message, check: impl FnOnce() -> Result<(), R>) -> Verdict<R> {
        let switches = self.switches();
        let at_once = |said, outcome| Verdict { course: Course::Say(said), outcome, delay_ms: switches.delay_ms };
        let place = match message.transport {
            Transport::Apns => Place::Apns,
            Transport::Fcm => Place::Fcm,
            Transport::Webpush => Place::Webpush,
        };
        if switches.outage == Some(place) {
            return at_once(Said::Unavailable, Outcome::Outage);
        }
        if switches.throttle_all {
            return at_once(Said::Throttled, Outcome::ThrottleAll);
        }
        if let Err(refusal) = check() {
            return at_once(Said::Refused(refusal), Outcome::Refused);
        }
        let Some(grammar) = message.grammar.and_then(Grammar::parse) else {
            return at_once(Said::BadToken, Outcome::BadToken);
        };
        let tries = |limit| self.first_tries(message, limit);
        let (course, own_ms) = match grammar.outcome {
            Outcome::Gone => (Course::Say(Said::Gone), 0),
            Outcome::BadToken => (Course::Say(Said::BadToken), 0),
            Outcome::Throttle if tries(THROTTLES) => (Course::Say(Said::Throttled), 0),
            Outcome::Flaky if tries(FLAKES) => (Course::Say(Said::Unavailable), 0),
            Outcome::Slow => (Course::Say(Said::Accepted), SLOW_MS),
            Outcome::Reset => (Course::Cut, 0),
            Outcome::Silent => (Course::Silence, 0),
            Outcome::Junk => (Course::Say(Said::Junk { error: grammar.error }), 0),
            _ => (Course::Say(Said::Accepted), 0),
        };
        Verdict { course, outcome: grammar.outcome, delay_ms: grammar.delay_ms + own_ms + switches.delay_ms }
    }
}

/// The text at a path of keys.
pub fn text<'a>(value: Option<&'a Value>, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(value?, |value, key| value.get(key))?.as_str()
}
