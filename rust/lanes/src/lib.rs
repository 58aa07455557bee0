//! Lanes to providers: many requests over few HTTP/2 connections. No Python, and no word of push.
//!
//! A lane is (credential, environment), or the origin of a Web Push endpoint. Whoever has something to send implements
//! [`Load`] and submits items of it, which are numbers; each is asked for its request right before that is written, and
//! is told once what became of it. `unsent` is proved (never connected, never handed to a connection, above a GOAWAY's
//! last stream, REFUSED_STREAM); what broke later is `unknown`, because bytes may have left.
//!
//! It stands on `h2` itself and not on hyper's client: a lane wants to see what the server allows at this moment
//! (`current_max_send_streams`), which stream a GOAWAY or REFUSED_STREAM proves unread, and pings; and hyper would put a
//! dispatch channel of its own and a task for each connection between a request and its frames. Here one task drives a
//! connection and all of its streams, and pulls from the lane's queue as it has room: no task, timer or channel for a
//! request.
//!
//! | File         | What                                                                              |
//! |--------------|-----------------------------------------------------------------------------------|
//! | `lane`       | queue, connections, circuit and pace of one lane                                  |
//! | `turns`      | who is next: class `now` first, then tenants in turn                              |
//! | `pace`       | how fast, after a provider asked for less                                         |
//! | `connection` | the task that drives one connection                                               |
//! | `exchange`   | one request and its answer                                                        |
//! | `dial`       | a name to a connection that speaks HTTP/2                                         |
//! | `guard`      | where nothing may be sent                                                         |
//! | `bell`       | finished things for somebody who sleeps on a file descriptor                      |

mod bell;
mod connection;
mod dial;
mod exchange;
mod guard;
mod lane;
mod pace;
mod settings;
mod stats;
mod turns;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http::uri::PathAndQuery;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsConnector;

pub use bell::Bell;
pub use guard::Guard;
pub use settings::Settings;
pub use stats::{Count, Seconds};

use dial::Identity;
use lane::{Lane, Shared};

/// What of an answer's body is kept: providers say what they have to say in far less.
pub const BODY_MAX: usize = 64 * 1024;

/// Replays of one item whose request was proved unread, before it becomes `unsent`.
pub const REPLAYS_MAX: u8 = 8;

/// The recipients of a chunk, as a lane sees them.
pub trait Load: Send + Sync + 'static {
    /// Asked right before each request: the lease lasts, nobody drains, the send's time is not over.
    fn open(&self) -> bool;

    /// Built right before it is written, and again when the first was proved unread. `None`: the load has settled this
    /// item itself.
    fn request(&self, item: u32) -> Option<Request>;

    /// Once for each item that `request` did not settle.
    fn reply(&self, item: u32, reply: Reply) -> Feedback;

    /// After a run of replies: the moment to wake somebody, once for all of them.
    fn settled(&self) {}
}

/// A POST.
#[derive(Debug)]
pub struct Request {
    pub path: PathAndQuery,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What became of a request on the wire.
#[derive(Debug, Clone)]
pub struct Reply {
    pub fate: Fate,
    /// 0 without an answer.
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub detail: Cow<'static, str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Answered,
    /// Proved: nothing left, or it was refused unread.
    Unsent,
    /// Bytes may have left and no answer came.
    Unknown,
}

/// What an answer says of the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feedback {
    /// The credential is accepted: the lane may use all of its streams.
    Success,
    /// Says nothing.
    Neutral,
    /// Too much was asked, of one device or of the whole account: which of them shows in how many are told so. Perhaps
    /// not before some time has passed.
    Throttled(Option<Duration>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Now = 0,
    Bulk = 1,
}

/// All lanes of a process, and the threads that drive them.
pub struct Lanes {
    shared: Arc<Shared>,
    named: Mutex<HashMap<String, Arc<Lane>>>,
    /// By lane: where a provider knows us by a certificate.
    identities: Mutex<HashMap<String, TlsConnector>>,
    runtime: Mutex<Option<Runtime>>,
}

impl Reply {
    pub(crate) fn without(fate: Fate, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { fate, status: 0, headers: HeaderMap::new(), body: Bytes::new(), detail: detail.into() }
    }
}

impl Lanes {
    pub fn new(settings: Settings) -> Result<Self, String> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(settings.threads.max(1))
            .thread_name("lanes")
            .enable_all()
            .build()
            .map_err(|error| format!("tokio: {error}"))?;
        let shared = Arc::new(Shared::new(settings, runtime.handle().clone())?);
        Ok(Self { shared, named: Mutex::default(), identities: Mutex::default(), runtime: Mutex::new(Some(runtime)) })
    }

    /// On this lane the provider knows us by a certificate and its key (PEM). To be said before something is submitted,
    /// each time: those of lanes that went are forgotten. A lane's name changes with its credential.
    pub fn identify(&self, lane: &str, certificate: &[u8], key: &[u8]) -> Result<(), String> {
        if self.identities.lock().expect("no holder panics").contains_key(lane) {
            return Ok(());
        }
        let tls = dial::tls(&self.shared.settings.ca_files, Some(&Identity { certificate, key }))?;
        let mut identities = self.identities.lock().expect("no holder panics");
        if identities.len() >= self.shared.settings.lanes_max {
            identities.clear();
        }
        identities.insert(lane.into(), tls);
        Ok(())
    }

    /// `origin`: `https://host[:port]`. Requests that still wait for another origin of the same lane are `unsent`.
    pub fn submit(&self, lane: &str, origin: &str, class: Class, tenant: u128, load: &Arc<dyn Load>, items: &[u32]) {
        let found = self.lane(lane);
        if let Some(found) = found {
            found.submit(origin, class, tenant, load, items);
        } else {
            for &item in items {
                load.reply(item, Reply::without(Fate::Unsent, "lanes_busy"));
            }
            load.settled();
        }
    }

    /// For how long the lane is not tried.
    pub fn held(&self, lane: &str) -> Duration {
        self.known(lane).map_or(Duration::ZERO, |lane| lane.held(Instant::now()))
    }

    /// How many requests may be on the lane.
    pub fn limit(&self, lane: &str) -> usize {
        self.known(lane).map_or(1, |lane| lane.limit())
    }

    /// How the circuit of every lane stands: (provider, open connections, circuit is open).
    pub fn standing(&self) -> Vec<(String, usize, bool)> {
        let lanes = self.named.lock().expect("no holder panics");
        lanes.values().map(|lane| lane.standing(Instant::now())).collect()
    }

    /// What was counted since the last call.
    pub fn take_stats(&self) -> (Vec<Count>, Vec<Seconds>) {
        self.shared.stats.take()
    }

    /// Ends all connections; what is on the wire is `unknown`, what waits is `unsent`.
    pub fn close(&self) {
        let lanes = std::mem::take(&mut *self.named.lock().expect("no holder panics"));
        for lane in lanes.values() {
            lane.close();
        }
        let runtime = self.runtime.lock().expect("no holder panics").take();
        if let Some(runtime) = runtime {
            let ended = Instant::now() + Duration::from_secs(1);
            while Instant::now() < ended && lanes.values().any(|lane| lane.alive()) {
                std::thread::sleep(Duration::from_millis(1));
            }
            runtime.shutdown_background();
        }
    }

    fn known(&self, name: &str) -> Option<Arc<Lane>> {
        self.named.lock().expect("no holder panics").get(name).cloned()
    }

    /// The lane of this name; `None` when all places are taken by lanes in use.
    fn lane(&self, name: &str) -> Option<Arc<Lane>> {
        let mut lanes = self.named.lock().expect("no holder panics");
        if let Some(lane) = lanes.get(name) {
            return Some(Arc::clone(lane));
        }
        let now = Instant::now();
        let mut idle: Vec<(Instant, String)> =
            lanes.iter().filter_map(|(name, lane)| lane.idle_since().map(|since| (since, name.clone()))).collect();
        idle.sort();
        let old = idle.iter().filter(|(since, _)| now.duration_since(*since) > self.shared.settings.idle()).count();
        let full = lanes.len() >= self.shared.settings.lanes_max;
        for (_, name) in idle.iter().take(old.max(usize::from(full))) {
            if let Some(lane) = lanes.remove(name) {
                lane.close();
            }
        }
        if lanes.len() >= self.shared.settings.lanes_max {
            return None;
        }
        let identity = self.identities.lock().expect("no holder panics").get(name).cloned();
        let lane = Lane::new(name, Arc::clone(&self.shared), identity);
        lanes.insert(name.into(), Arc::clone(&lane));
        Some(lane)
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.close();
    }
}
