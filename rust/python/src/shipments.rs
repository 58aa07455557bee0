//! Chunks in the library's hands, on its lanes: Python admits them piece by piece and takes batches of outcomes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use http::HeaderMap;
use http::uri::PathAndQuery;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use sendora_core::outcome::Chunk;
use sendora_core::retry::Terms;
use sendora_core::shipment::{self, Manifest};
use sendora_lanes::{Class, Fate, Feedback, Load, Reply, Request};

use crate::lanes::{Berth, Lanes, class, feedback};
use crate::sends::{Caps, Note};
use crate::wire::{OutcomeBatch, Wire};
use crate::{broken, id};

struct Cargo {
    shipment: shipment::Shipment,
    berth: Berth,
    /// The wall clock, as the caller saw it then.
    now_ms: i64,
    since: Instant,
}

impl Cargo {
    fn now_ms(&self) -> i64 {
        self.now_ms + self.since.elapsed().as_millis() as i64
    }
}

impl Load for Cargo {
    fn open(&self) -> bool {
        self.berth.until.is_open()
    }

    fn request(&self, item: u32) -> Option<Request> {
        let request = self.shipment.request(item, self.now_ms())?;
        let Ok(path) = PathAndQuery::try_from(request.path) else {
            self.shipment.unsent(item, "not_a_url", self.now_ms());
            return None;
        };
        let mut headers = HeaderMap::with_capacity(request.headers.len());
        headers.extend(request.headers);
        Some(Request { path, headers, body: request.body.into() })
    }

    fn reply(&self, item: u32, reply: Reply) -> Feedback {
        let now_ms = self.now_ms();
        match reply.fate {
            Fate::Unsent => self.shipment.unsent(item, &reply.detail, now_ms),
            Fate::Unknown => self.shipment.unanswered(item, now_ms),
            Fate::Answered => {
                let header = |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok());
                return feedback(self.shipment.answered(item, reply.status, header, &reply.body, now_ms));
            }
        }
        Feedback::Neutral
    }

    fn settled(&self) {
        self.berth.bell.push([(self.berth.number, Vec::new())]);
    }
}

#[pyclass(frozen)]
pub struct Shipment {
    cargo: Arc<Cargo>,
    class: Class,
    tenant: u128,
    /// Items before it were admitted.
    next: Mutex<usize>,
}

impl Shipment {
    fn next(&self) -> MutexGuard<'_, usize> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of the next `n` go by which lane, in the order in which the lanes come first.
    fn lanes_of(&self, from: usize, n: usize) -> Vec<(&str, usize)> {
        let shipment = &self.cargo.shipment;
        let mut counted: Vec<(&str, usize)> = Vec::new();
        for item in from..shipment.len().min(from + n) {
            let name: &str = &shipment.lane(item as u32).name;
            match counted.iter_mut().find(|(known, _)| *known == name) {
                Some((_, n)) => *n += 1,
                None => counted.push((name, 1)),
            }
        }
        counted
    }

    fn submit(&self, items: impl Iterator<Item = u32>) {
        let shipment = &self.cargo.shipment;
        let mut by_lane: HashMap<&str, (&str, Vec<u32>)> = HashMap::new();
        for item in items {
            let lane = shipment.lane(item);
            by_lane.entry(&lane.name).or_insert_with(|| (&lane.base, Vec::new())).1.push(item);
        }
        let load: Arc<dyn Load> = Arc::clone(&self.cargo) as _;
        for (lane, (origin, items)) in by_lane {
            self.cargo.berth.lanes.submit(lane, origin, self.class, self.tenant, &load, &items);
        }
    }
}

/// (org, send, shard, seq, attempt, tries, started, repeated)
type ChunkFacts = (PyBackedBytes, PyBackedBytes, i16, i32, i16, i16, i16, bool);

/// (`at_most_once`, `planned_ms`, `expires_ms`, `retried_ms`)
type SendFacts = (bool, i64, i64, i64);

#[pymethods]
impl Shipment {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "what a decision needs")]
    fn new(
        py: Python<'_>,
        lanes: &Lanes,
        note: &Note,
        wire: &Wire,
        rows: &[u8],
        caps: Option<&Caps>,
        chunk: ChunkFacts,
        send: SendFacts,
        class_: &str,
        now_ms: i64,
    ) -> PyResult<Self> {
        let (org, of, shard, seq, attempt, tries, started, repeated) = chunk;
        let (at_most_once, planned_ms, expires_ms, retried_ms) = send;
        let (org, of) = (id("org", &org)?, id("send", &of)?);
        let manifest = Manifest {
            chunk: Chunk { org, send: of, shard, seq, attempt },
            terms: Terms { tries, at_most_once, expires_ms },
            planned_ms,
            started,
            repeated,
            retried_ms,
        };
        let (class, wire, berth) = (class(class_)?, wire.0.clone(), lanes.berth());
        let halts = Arc::clone(&berth.halts);
        let shipment = py.detach(|| {
            let mut caps = caps.map(Caps::inner);
            shipment::Shipment::new(&note.0, wire, rows, caps.as_deref_mut(), manifest, halts, now_ms)
        });
        let cargo = Cargo { shipment: shipment.map_err(broken)?, berth, now_ms, since: Instant::now() };
        Ok(Self { cargo: Arc::new(cargo), class, tenant: u128::from_be_bytes(org), next: Mutex::new(0) })
    }

    #[getter]
    fn number(&self) -> u64 {
        self.cargo.berth.number
    }

    fn waiting(&self) -> usize {
        self.cargo.shipment.len() - *self.next()
    }

    fn lanes(&self, n: usize) -> Vec<(String, usize)> {
        let counted = self.lanes_of(*self.next(), n);
        counted.into_iter().map(|(lane, n)| (lane.to_owned(), n)).collect()
    }

    fn fit(&self, granted: HashMap<String, usize>) -> usize {
        let shipment = &self.cargo.shipment;
        let mut left = granted;
        (*self.next()..shipment.len())
            .take_while(|&item| match left.get_mut(&*shipment.lane(item as u32).name) {
                Some(n) if *n > 0 => {
                    *n -= 1;
                    true
                }
                _ => false,
            })
            .count()
    }

    fn mark(&self, n: usize) -> PyResult<i16> {
        let last = (*self.next() + n).checked_sub(1).filter(|&last| n > 0 && last < self.cargo.shipment.len());
        let last = last.ok_or_else(|| PyValueError::new_err("no such item"))?;
        Ok(self.cargo.shipment.position(last as u32) + 1)
    }

    fn admit(&self, py: Python<'_>, n: usize) {
        py.detach(|| {
            let from = {
                let mut next = self.next();
                let from = *next;
                *next = (from + n).min(self.cargo.shipment.len());
                from..*next
            };
            self.submit(from.map(|item| item as u32));
        });
    }

    fn deadline(&self, seconds: f64) {
        self.cargo.berth.until.set(seconds);
    }

    fn renew(&self, py: Python<'_>, lanes: Vec<String>, wire: Option<&Wire>) {
        let items = self.cargo.shipment.renew(&lanes, wire.map(|wire| wire.0.clone()));
        py.detach(|| self.submit(items.into_iter()));
        // Also when nothing has ended: others may have heard the same meanwhile.
        self.cargo.settled();
    }

    #[expect(clippy::type_complexity, reason = "the tuple of the contract")]
    fn take(&self) -> (OutcomeBatch, Vec<(String, usize)>, Vec<String>, usize, Vec<(String, String)>) {
        let taken = self.cargo.shipment.take();
        let ended = taken.ended.into_iter().map(|(lane, n)| (lane.name.to_string(), n)).collect();
        let halted = taken.halted.into_iter().map(|(lane, reason)| (lane.to_string(), reason)).collect();
        let renewing = taken.renewing.into_iter().map(|lane| lane.name.to_string()).collect();
        (OutcomeBatch(taken.outcomes), ended, renewing, taken.left, halted)
    }
}
