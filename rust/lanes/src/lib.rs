//! Connections to providers: HTTP/2 over TLS, many requests at a time, no request twice.
//!
//! A *lane* is (provider credential, environment), or the origin of a push service ([`lane`]). It has a queue of recipients
//! and several connections that draw from it ([`connection`]), so whichever has a free stream takes the next one. What is
//! sent, and what an answer means, is the [`Load`]'s to say: a request is built right before it is written, and each
//! recipient that was handed in gets exactly one fate. `Unsent` is proved; whatever broke later is `Unknown`.
//!
//! [`guard`] decides where may be dialled, [`pace`] how fast, [`line`] how a chunk is handed in piece by piece, [`bell`]
//! wakes whoever waits for outcomes.

pub mod bell;
mod connection;
pub mod guard;
mod lane;
pub mod line;
mod pace;
mod pool;
mod tls;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

pub use lane::Lane;
pub use pool::Lanes;
pub use sendora_core::shipment::Said;

/// What is read of an answer: providers say what they have to say in far less.
pub const BODY_MAX: usize = 64 * 1024;

/// How the detail of what may not be dialled begins (`phases.BLOCKED`).
pub const BLOCKED: &str = "blocked:";

#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads of the runtime.
    pub threads: usize,
    /// Connections of one lane at most.
    pub connections: usize,
    /// Lanes at most: push services have few origins, and clients can make up more.
    pub lanes_max: usize,
    pub connect: Duration,
    /// From the request to the end of its answer.
    pub answer: Duration,
    /// Requests in a row without any answer after which a lane is left alone, and for how long.
    pub breaker_failures: u32,
    pub breaker: Duration,
    /// A connection, and a lane, that nobody used in so long is given back.
    pub idle: Duration,
    /// A connection on which nothing came in for so long is asked whether it lives, and has as long to say so.
    pub ping: Duration,
    /// Certificates (PEM) that are trusted.
    pub authorities: Vec<u8>,
    pub guard: guard::Guard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Somebody waits for it: goes before whatever is `Bulk`.
    Now,
    Bulk,
}

impl Class {
    const fn place(self) -> usize {
        match self {
            Self::Now => 0,
            Self::Bulk => 1,
        }
    }
}

/// A POST, without its authority.
pub struct Request {
    /// With its query.
    pub path: String,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

/// What became of an item.
#[derive(Debug)]
pub enum Fate<'a> {
    Answered {
        status: u16,
        headers: &'a HeaderMap,
        body: &'a [u8],
    },
    /// Proved: nothing has left, or it was refused unread.
    Unsent(&'a str),
    /// Bytes may have left and no answer came.
    Unknown(&'a str),
}

/// The recipients of one chunk.
pub trait Load: Send + Sync + 'static {
    /// Asked right before each request: may it still leave?
    fn open(&self) -> bool;

    /// Built right before it is written, and again when it is proved that the first one was not read. None: the load has
    /// settled this item itself.
    fn request(&self, item: u32) -> Option<Request>;

    /// Exactly once for each item that was handed in and has not been settled in `request`.
    fn finished(&self, item: u32, fate: Fate<'_>) -> Said;
}
