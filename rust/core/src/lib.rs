//! Everything Sendora computes on whole batches: pure arithmetic on bytes.
//!
//! This crate knows neither Python nor a runtime and does no IO (the one exception is jiff, which reads zone files).
//! Time is always an argument, in milliseconds since 1970 UTC. `rust/python` hands these functions to the services.
//!
//! In the order in which a message meets them: [`json`] and [`check`] judge what a client sent, [`record`] is what
//! stands in the log, [`store`] and [`people`] turn the log into rows, [`rules`] and [`index`] decide who is in
//! an audience, [`policy`], [`template`] and [`bucket`] decide and render one chunk of a send, [`providers`] writes its
//! requests and reads the answers, [`retry`] and [`outcome`] say what becomes of each recipient, [`shipment`] leads a
//! chunk through all of that, [`lifecycle`] tells others how it ended, [`sign`] signs what goes to webhooks
//! (it and [`bucket`] by [`sha256`]).

pub mod bucket;
pub mod check;
pub mod index;
pub mod json;
pub mod lifecycle;
pub mod outcome;
pub mod people;
pub mod pgcopy;
pub mod policy;
pub mod providers;
pub mod record;
pub mod retry;
pub mod rules;
pub mod sha256;
pub mod shipment;
pub mod sign;
pub mod store;
pub mod template;
pub mod time;

/// An id as the database and the log keep it.
pub type Id = [u8; 16];

/// Why an input was refused: where (dotted, "" for the root) and what is wrong, in words for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub path: String,
    pub message: String,
}

impl Refused {
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// Bytes that our own side wrote (the log, a COPY stream) do not have the shape that they must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken(pub &'static str);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Broken {}
