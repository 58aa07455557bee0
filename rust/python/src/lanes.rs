//! Lanes to providers, and what travels on them: calls that Python has built, and chunks in the library's hands.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBytes, PyDict};
use sendora_core::outcome::Chunk;
use sendora_core::providers::Transport;
use sendora_core::providers::halts::Halts;
use sendora_core::retry::Terms;
use sendora_core::shipment::{self, Manifest};
use sendora_lanes::bell::Bell;
use sendora_lanes::guard::Guard;
use sendora_lanes::line::Line;
use sendora_lanes::{Class, Fate, Load, Request, Said, Settings};
use serde::Deserialize;

use crate::sends::{Caps, Note};
use crate::wire::{OutcomeBatch, Wire};
use crate::{broken, id};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Config {
    threads: usize,
    connections: usize,
    lanes_max: usize,
    connect_ms: u64,
    answer_ms: u64,
    breaker_failures: u32,
    breaker_ms: u64,
    idle_ms: u64,
    ping_ms: u64,
    authorities: String,
    blocked: Vec<String>,
    ports: HashSet<u16>,
    exempt: HashSet<(String, u16)>,
}

/// Requests by provider and status (0: no answer) since they were last asked for.
type Counts = Mutex<BTreeMap<(String, u16), u64>>;

/// What lanes and loads share: whose outcomes wait to be taken, and the bell that says so.
struct Desk {
    bell: Bell,
    ready: Mutex<Vec<u64>>,
    counts: Counts,
}

impl Desk {
    fn tell(&self, number: u64, listed: &AtomicBool) {
        if !listed.swap(true, Ordering::AcqRel) {
            lock(&self.ready).push(number);
            self.bell.ring();
        }
    }

    fn count(&self, lane: &str, fate: &Fate<'_>) {
        let provider = lane.split(':').next().unwrap_or_default();
        let status = if let Fate::Answered { status, .. } = fate { *status } else { 0 };
        let mut counts = lock(&self.counts);
        // Made once for each provider and status.
        match counts.get_mut(&(provider.to_owned(), status)) {
            Some(n) => *n += 1,
            None => drop(counts.insert((provider.to_owned(), status), 1)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[pyclass(frozen)]
pub struct Lanes {
    pool: sendora_lanes::Lanes,
    desk: Arc<Desk>,
    halts: Arc<Mutex<Halts>>,
    numbers: AtomicU64,
}

#[pymethods]
impl Lanes {
    #[new]
    fn new(config: &[u8]) -> PyResult<Self> {
        let wrong = |error: String| PyValueError::new_err(error);
        let config: Config = serde_json::from_slice(config).map_err(|error| wrong(error.to_string()))?;
        let blocked = config.blocked.iter().map(|text| text.parse().map_err(|_| wrong(format!("{text}: no network"))));
        let settings = Settings {
            threads: config.threads,
            connections: config.connections,
            lanes_max: config.lanes_max,
            connect: Duration::from_millis(config.connect_ms),
            answer: Duration::from_millis(config.answer_ms),
            breaker_failures: config.breaker_failures,
            breaker: Duration::from_millis(config.breaker_ms),
            idle: Duration::from_millis(config.idle_ms),
            ping: Duration::from_millis(config.ping_ms),
            authorities: config.authorities.into_bytes(),
            guard: Guard { blocked: blocked.collect::<PyResult<_>>()?, ports: config.ports, exempt: config.exempt },
        };
        let bell = Bell::new().map_err(|error| wrong(error.to_string()))?;
        let desk = Desk { bell, ready: Mutex::default(), counts: Mutex::default() };
        Ok(Self {
            pool: sendora_lanes::Lanes::new(settings).map_err(wrong)?,
            desk: Arc::new(desk),
            halts: Arc::default(),
            numbers: AtomicU64::new(0),
        })
    }

    fn fileno(&self) -> RawFd {
        self.desk.bell.fileno()
    }

    fn heard(&self) -> Vec<u64> {
        self.desk.bell.still();
        std::mem::take(&mut *lock(&self.desk.ready))
    }

    fn held_s(&self, lane: &str) -> f64 {
        self.pool.held(lane).as_secs_f64()
    }

    fn counts(&self) -> Vec<(String, u16, u64)> {
        let counts = std::mem::take(&mut *lock(&self.desk.counts));
        counts.into_iter().map(|((provider, status), n)| (provider, status, n)).collect()
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.pool.close());
    }
}

/// Until when requests may leave.
struct Gate {
    until: Mutex<Instant>,
}

impl Gate {
    fn new() -> Self {
        Self { until: Mutex::new(Instant::now()) }
    }

    fn open_for(&self, seconds: f64) {
        *lock(&self.until) = Instant::now() + Duration::from_secs_f64(seconds.clamp(0.0, 3_600.0));
    }

    fn is_open(&self) -> bool {
        *lock(&self.until) > Instant::now()
    }
}

fn class(name: &str) -> PyResult<Class> {
    match name {
        "now" => Ok(Class::Now),
        "bulk" => Ok(Class::Bulk),
        _ => Err(PyValueError::new_err("an unknown class")),
    }
}

// -- calls that Python has built

struct Call {
    lane: Arc<str>,
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: PyBackedBytes,
}

/// (index, fate, status, headers, body, detail)
struct Reply {
    item: u32,
    fate: &'static str,
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    detail: String,
}

struct CallLoad {
    number: u64,
    calls: Mutex<Vec<Call>>,
    gate: Gate,
    replies: Mutex<Vec<Reply>>,
    listed: AtomicBool,
    desk: Arc<Desk>,
}

impl Load for CallLoad {
    fn open(&self) -> bool {
        self.gate.is_open()
    }

    fn request(&self, item: u32) -> Option<Request> {
        let calls = lock(&self.calls);
        let call = &calls[item as usize];
        Some(Request { path: call.path.clone(), headers: call.headers.clone(), body: call.body.to_vec().into() })
    }

    fn finished(&self, item: u32, fate: Fate<'_>) -> Said {
        let mut reply =
            Reply { item, fate: "unsent", status: 0, headers: Vec::new(), body: Vec::new(), detail: String::new() };
        let mut said = Said::Neutral;
        self.desk.count(&lock(&self.calls)[item as usize].lane, &fate);
        match fate {
            Fate::Answered { status, headers, body } => {
                reply.fate = "answered";
                reply.status = status;
                let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
                reply.headers = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
                reply.body = body.to_vec();
                said = match status {
                    401 | 403 | 429 => Said::Unproven,
                    500.. => Said::Neutral,
                    _ => Said::Success,
                };
            }
            Fate::Unsent(detail) => detail.clone_into(&mut reply.detail),
            Fate::Unknown(detail) => {
                reply.fate = "unknown";
                detail.clone_into(&mut reply.detail);
            }
        }
        lock(&self.replies).push(reply);
        self.desk.tell(self.number, &self.listed);
        said
    }
}

#[pyclass(frozen)]
pub struct Calls {
    lanes: Py<Lanes>,
    load: Arc<CallLoad>,
    line: Mutex<Line>,
}

type Built = (PyBackedStr, PyBackedStr, Vec<(PyBackedStr, PyBackedStr)>, PyBackedBytes);

/// The call, and the base of its lane.
fn call((lane, url, headers, body): Built) -> PyResult<(Call, String)> {
    let wrong = |what: &str| PyValueError::new_err(format!("{what} cannot be sent"));
    let at = url.find("://").map_or(0, |at| at + 3);
    let end = url[at..].find(['/', '?', '#']).map_or(url.len(), |end| at + end);
    let path = url[end..].split('#').next().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let headers = headers.iter().map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("a header"))?;
        Ok((name, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| wrong("a header"))?))
    });
    let headers = headers.collect::<PyResult<_>>()?;
    Ok((Call { lane: (&*lane).into(), path, headers, body }, url[..end].to_owned()))
}

#[pymethods]
impl Calls {
    #[new]
    fn new(lanes: Py<Lanes>, calls: Vec<Built>, class_: &str, tenant: &[u8]) -> PyResult<Self> {
        let held = lanes.get();
        let (class, tenant) = (class(class_)?, id("tenant", tenant)?);
        let (mut built, mut names, mut of) = (Vec::new(), Vec::new(), Vec::new());
        let mut places: HashMap<(Arc<str>, String), u32> = HashMap::new();
        for one in calls {
            let (call, base) = call(one)?;
            // A lane leads to one origin. Calls that name two under one name have two lanes.
            let key = (Arc::clone(&call.lane), base.clone());
            let place = *places.entry(key).or_insert_with(|| {
                names.push((Arc::clone(&call.lane), base));
                names.len() as u32 - 1
            });
            of.push(place);
            built.push(call);
        }
        let load = Arc::new(CallLoad {
            number: held.numbers.fetch_add(1, Ordering::Relaxed),
            calls: Mutex::new(built),
            gate: Gate::new(),
            replies: Mutex::default(),
            listed: AtomicBool::new(false),
            desk: Arc::clone(&held.desk),
        });
        let line = Mutex::new(Line::new(&held.pool, names.into_iter(), of, class, tenant));
        Ok(Self { lanes, load, line })
    }

    #[getter]
    fn number(&self) -> u64 {
        self.load.number
    }

    fn waiting(&self) -> usize {
        lock(&self.line).left()
    }

    fn reserve(&self, want: usize) -> usize {
        lock(&self.line).reserve(want)
    }

    fn admit(&self, py: Python<'_>, n: usize) {
        py.detach(|| {
            let load: Arc<dyn Load> = Arc::clone(&self.load) as _;
            lock(&self.line).admit(n, &self.lanes.get().pool, &load);
        });
    }

    fn held_s(&self) -> Option<f64> {
        lock(&self.line).held_s()
    }

    fn open_for(&self, seconds: f64) {
        self.load.gate.open_for(seconds);
    }

    fn again(&self, py: Python<'_>, item: u32, built: Built) -> PyResult<()> {
        lock(&self.load.calls)[item as usize] = call(built)?.0;
        py.detach(|| {
            let load: Arc<dyn Load> = Arc::clone(&self.load) as _;
            lock(&self.line).push_again(&[item], &self.lanes.get().pool, &load);
        });
        Ok(())
    }

    #[expect(clippy::type_complexity, reason = "the tuple of the contract")]
    fn take<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<Vec<(u32, &'static str, u16, Bound<'py, PyDict>, Bound<'py, PyBytes>, String)>> {
        self.load.listed.store(false, Ordering::Release);
        let replies = std::mem::take(&mut *lock(&self.load.replies));
        let rows = replies.into_iter().map(|reply| {
            let headers = PyDict::new(py);
            for (name, value) in reply.headers {
                headers.set_item(name, value)?;
            }
            Ok((reply.item, reply.fate, reply.status, headers, PyBytes::new(py, &reply.body), reply.detail))
        });
        rows.collect()
    }
}

// -- chunks in the library's hands

struct Cargo {
    number: u64,
    shipment: shipment::Shipment,
    gate: Gate,
    /// The wall clock, as the caller sees it.
    now_ms: i64,
    since: Instant,
    listed: AtomicBool,
    desk: Arc<Desk>,
}

impl Cargo {
    fn now_ms(&self) -> i64 {
        self.now_ms + self.since.elapsed().as_millis() as i64
    }

    fn tell(&self) {
        self.desk.tell(self.number, &self.listed);
    }
}

impl Load for Cargo {
    fn open(&self) -> bool {
        self.gate.is_open()
    }

    fn request(&self, item: u32) -> Option<Request> {
        let built = self.shipment.request(item, self.now_ms());
        if built.is_none() {
            self.tell();
        }
        built.map(|request| Request { path: request.path, headers: request.headers, body: request.body.into() })
    }

    fn finished(&self, item: u32, fate: Fate<'_>) -> Said {
        let now_ms = self.now_ms();
        self.desk.count(&self.shipment.lane(item).name, &fate);
        let said = match fate {
            Fate::Answered { status, headers, body } => {
                let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
                self.shipment.answered(item, status, header, body, now_ms)
            }
            Fate::Unsent(detail) => {
                self.shipment.unsent(item, detail, now_ms);
                Said::Neutral
            }
            Fate::Unknown(_) => {
                self.shipment.unanswered(item, now_ms);
                Said::Neutral
            }
        };
        self.tell();
        said
    }
}

#[pyclass(frozen)]
pub struct Shipment {
    lanes: Py<Lanes>,
    cargo: Arc<Cargo>,
    line: Mutex<Line>,
}

/// (org, send, shard, seq, attempt, started, repeated)
type ChunkFacts = (PyBackedBytes, PyBackedBytes, i16, i32, i16, i16, bool);

/// (at_most_once, planned_ms, expires_ms)
type SendFacts = (bool, i64, i64);

#[pymethods]
impl Shipment {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "what a decision needs")]
    fn new(
        py: Python<'_>,
        lanes: Py<Lanes>,
        note: &Note,
        wire: &Wire,
        rows: &[u8],
        caps: Option<&Caps>,
        chunk: ChunkFacts,
        send: SendFacts,
        class_: &str,
        now_ms: i64,
    ) -> PyResult<Self> {
        let (org, of, shard, seq, attempt, started, repeated) = chunk;
        let (at_most_once, planned_ms, expires_ms) = send;
        let (org, of) = (id("org", &org)?, id("send", &of)?);
        let manifest = Manifest {
            chunk: Chunk { org, send: of, shard, seq, attempt },
            terms: Terms { attempt, at_most_once, expires_ms },
            planned_ms,
            started,
            repeated,
        };
        let held = lanes.get();
        let (class, wire, halts) = (class(class_)?, wire.0.clone(), Arc::clone(&held.halts));
        let shipment = py.detach(|| {
            let mut caps = caps.map(Caps::inner);
            shipment::Shipment::new(&note.0, wire, rows, caps.as_deref_mut(), manifest, halts, now_ms)
        });
        let shipment = shipment.map_err(broken)?;
        let mut places: HashMap<Arc<str>, u32> = HashMap::new();
        let (mut names, mut of_lane) = (Vec::new(), Vec::with_capacity(shipment.len()));
        for item in 0..shipment.len() as u32 {
            let lane = shipment.lane(item);
            let place = *places.entry(Arc::clone(&lane.name)).or_insert_with(|| {
                names.push((Arc::clone(&lane.name), lane.base.clone()));
                names.len() as u32 - 1
            });
            of_lane.push(place);
        }
        let line = Mutex::new(Line::new(&held.pool, names.into_iter(), of_lane, class, org));
        let cargo = Cargo {
            number: held.numbers.fetch_add(1, Ordering::Relaxed),
            shipment,
            gate: Gate::new(),
            now_ms,
            since: Instant::now(),
            listed: AtomicBool::new(false),
            desk: Arc::clone(&held.desk),
        };
        Ok(Self { lanes, cargo: Arc::new(cargo), line })
    }

    #[getter]
    fn number(&self) -> u64 {
        self.cargo.number
    }

    fn waiting(&self) -> usize {
        lock(&self.line).left()
    }

    fn reserve(&self, want: usize) -> usize {
        lock(&self.line).reserve(want)
    }

    fn mark(&self, n: usize) -> PyResult<i16> {
        let line = lock(&self.line);
        let last = (self.cargo.shipment.len() - line.left() + n).checked_sub(1);
        let last = last.filter(|&last| n > 0 && last < self.cargo.shipment.len());
        let last = last.ok_or_else(|| PyValueError::new_err("no such item"))?;
        Ok(self.cargo.shipment.position(last as u32) + 1)
    }

    fn admit(&self, py: Python<'_>, n: usize) {
        py.detach(|| {
            let load: Arc<dyn Load> = Arc::clone(&self.cargo) as _;
            lock(&self.line).admit(n, &self.lanes.get().pool, &load);
        });
    }

    fn held_s(&self) -> Option<f64> {
        lock(&self.line).held_s()
    }

    fn open_for(&self, seconds: f64) {
        self.cargo.gate.open_for(seconds);
    }

    fn renew(&self, py: Python<'_>, transports: Vec<String>, wire: Option<&Wire>) {
        let transports: Vec<Transport> = transports.iter().filter_map(|name| Transport::named(name)).collect();
        let items = self.cargo.shipment.renew(&transports, wire.map(|wire| wire.0.clone()));
        py.detach(|| {
            let load: Arc<dyn Load> = Arc::clone(&self.cargo) as _;
            lock(&self.line).push_again(&items, &self.lanes.get().pool, &load);
        });
        // Also when nothing has ended: others may have heard the same meanwhile.
        self.cargo.tell();
    }

    #[expect(clippy::type_complexity, reason = "the tuple of the contract")]
    fn take(&self) -> (OutcomeBatch, usize, Vec<&'static str>, usize, Vec<(String, String)>) {
        self.cargo.listed.store(false, Ordering::Release);
        let taken = self.cargo.shipment.take();
        let halted = taken.halted.into_iter().map(|(lane, reason)| (lane.to_string(), reason)).collect();
        let renewing = taken.renewing.into_iter().map(Transport::name).collect();
        (OutcomeBatch(taken.outcomes), taken.places, renewing, taken.left, halted)
    }
}
