//! The door to `sendora-lanes`: batches of calls go in, finished replies come out, and a file descriptor says when.
//!
//! One bell for all batches, whatever kind they are: an event loop wakes once for many replies.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};
use sendora_core::providers::halts::Halts;
use sendora_core::shipment::Said;
use sendora_lanes::{Bell, Class, Fate, Feedback, Load, Reply, Request, Settings};

/// (batch, the replies of some of its calls)
pub(crate) type Finished = (u64, Vec<(u32, Reply)>);

/// (position, lane, url, headers, body)
type PyCall = (u32, PyBackedStr, PyBackedStr, Vec<(PyBackedStr, PyBackedStr)>, PyBackedBytes);

#[pyclass(frozen, module = "sendora._core")]
pub struct Lanes {
    inner: Arc<sendora_lanes::Lanes>,
    bell: Arc<Bell<Finished>>,
    gate: Arc<Gate>,
    halts: Arc<Mutex<Halts>>,
    numbers: AtomicU64,
}

/// Numbers of shipments begin here; those of batches of calls are the caller's, and smaller.
const SHIPMENTS: u64 = 1 << 40;

/// The calls of one chunk, which share a class, a tenant and a deadline.
#[pyclass(frozen, module = "sendora._core")]
pub struct LaneBatch {
    lanes: Arc<sendora_lanes::Lanes>,
    batch: Arc<Batch>,
    class: Class,
    tenant: u128,
}

/// What all batches ask.
#[derive(Default)]
struct Gate {
    draining: AtomicBool,
}

/// Until when requests may leave, on the clock of `elapsed`.
pub(crate) struct Until {
    gate: Arc<Gate>,
    at: AtomicU64,
}

struct Batch {
    id: u64,
    bell: Arc<Bell<Finished>>,
    until: Until,
}

/// Some calls of a batch.
struct Calls {
    batch: Arc<Batch>,
    line: Vec<Call>,
    finished: Mutex<Vec<(u32, Reply)>>,
}

struct Call {
    position: u32,
    path: PathAndQuery,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Until {
    pub(crate) fn set(&self, seconds: f64) {
        let left = Duration::try_from_secs_f64(seconds.clamp(0.0, 1e9)).unwrap_or_default();
        let until = if left.is_zero() { 0 } else { elapsed().saturating_add(left.as_nanos() as u64) };
        self.at.store(until, Ordering::Relaxed);
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.gate.draining.load(Ordering::Relaxed) && elapsed() < self.at.load(Ordering::Relaxed)
    }
}

pub(crate) fn feedback(said: Said) -> Feedback {
    match said {
        Said::Success => Feedback::Success,
        Said::Neutral => Feedback::Neutral,
        Said::Throttled(after_s) => {
            Feedback::Throttled(after_s.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()))
        }
    }
}

/// Nanoseconds on a clock that goes on while the machine is suspended: a lease does not wait for us (F-D4).
fn elapsed() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl Load for Calls {
    fn open(&self) -> bool {
        self.batch.until.is_open()
    }

    fn request(&self, item: u32) -> Option<Request> {
        let call = &self.line[item as usize];
        let mut headers = HeaderMap::with_capacity(call.headers.len());
        headers.extend(call.headers.iter().cloned());
        Some(Request { path: call.path.clone(), headers, body: call.body.clone() })
    }

    fn reply(&self, item: u32, reply: Reply) -> Feedback {
        let said = match reply.fate {
            Fate::Answered => {
                let header = |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok());
                let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
                Said::of(reply.status, header, since_1970.as_millis() as i64)
            }
            Fate::Unsent | Fate::Unknown => Said::Neutral,
        };
        let position = self.line[item as usize].position;
        self.finished.lock().expect("no holder panics").push((position, reply));
        feedback(said)
    }

    fn settled(&self) {
        let finished = std::mem::take(&mut *self.finished.lock().expect("no holder panics"));
        if !finished.is_empty() {
            self.batch.bell.push([(self.batch.id, finished)]);
        }
    }
}

/// What a shipment needs of them.
pub(crate) struct Berth {
    pub number: u64,
    pub lanes: Arc<sendora_lanes::Lanes>,
    pub bell: Arc<Bell<Finished>>,
    pub until: Until,
    pub halts: Arc<Mutex<Halts>>,
}

impl Lanes {
    pub(crate) fn berth(&self) -> Berth {
        Berth {
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            lanes: Arc::clone(&self.inner),
            bell: Arc::clone(&self.bell),
            until: Until { gate: Arc::clone(&self.gate), at: AtomicU64::new(0) },
            halts: Arc::clone(&self.halts),
        }
    }
}

#[pymethods]
impl Lanes {
    #[new]
    fn new(py: Python<'_>, config: &str) -> PyResult<Self> {
        let settings = Settings::parse(config).map_err(PyValueError::new_err)?;
        let lanes = py.detach(|| sendora_lanes::Lanes::new(settings)).map_err(PyOSError::new_err)?;
        Ok(Self {
            inner: Arc::new(lanes),
            bell: Arc::new(Bell::new()?),
            gate: Arc::default(),
            halts: Arc::default(),
            numbers: AtomicU64::new(SHIPMENTS),
        })
    }

    fn fileno(&self) -> i32 {
        self.bell.fileno()
    }

    fn identify(&self, py: Python<'_>, lane: &str, certificate: &[u8], key: &[u8]) -> PyResult<()> {
        py.detach(|| self.inner.identify(lane, certificate, key)).map_err(PyValueError::new_err)
    }

    fn batch(&self, id: u64, class_: &str, tenant: &[u8]) -> PyResult<LaneBatch> {
        let class = class(class_)?;
        let until = Until { gate: Arc::clone(&self.gate), at: AtomicU64::new(0) };
        let batch = Batch { id, bell: Arc::clone(&self.bell), until };
        let tenant = u128::from_be_bytes(crate::id("tenant", tenant)?);
        Ok(LaneBatch { lanes: Arc::clone(&self.inner), batch: Arc::new(batch), class, tenant })
    }

    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let finished = py.detach(|| self.bell.take());
        let out = PyList::empty(py);
        for (batch, replies) in finished {
            let replies: PyResult<Vec<_>> = replies.iter().map(|(at, reply)| answer(py, *at, reply)).collect();
            out.append((batch, replies?))?;
        }
        Ok(out)
    }

    fn drain_all(&self) {
        self.gate.draining.store(true, Ordering::Relaxed);
    }

    fn held_s(&self, lane: &str) -> f64 {
        self.inner.held(lane).as_secs_f64()
    }

    fn limit(&self, lane: &str) -> usize {
        self.inner.limit(lane)
    }

    #[expect(clippy::type_complexity, reason = "two flat lists of flat rows")]
    fn stats(&self) -> (Vec<(String, u16, u64)>, Vec<(String, Vec<u64>, f64)>) {
        self.inner.take_stats()
    }

    fn standing(&self) -> Vec<(String, usize, bool)> {
        self.inner.standing()
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.inner.close());
    }
}

#[pymethods]
impl LaneBatch {
    /// From now: for so many seconds requests may leave.
    fn deadline(&self, seconds: f64) {
        self.batch.until.set(seconds);
    }

    fn stop(&self) {
        self.batch.until.set(0.0);
    }

    fn submit(&self, py: Python<'_>, calls: Vec<PyCall>) {
        py.detach(|| {
            let mut line: Vec<Call> = Vec::new();
            let mut heading: Option<(String, String)> = None;
            let mut lost = Vec::new();
            for (position, lane, url, headers, body) in calls {
                let Some((origin, path)) = split(&url) else {
                    lost.push((position, refused("not_a_url")));
                    continue;
                };
                let Some(headers) = fields(&headers) else {
                    lost.push((position, refused("not_a_header")));
                    continue;
                };
                let body = Bytes::copy_from_slice(&body);
                if heading.as_ref().is_none_or(|(at, to)| *at != lane[..] || *to != origin) {
                    self.send(heading.replace((lane.to_string(), origin)), std::mem::take(&mut line));
                }
                line.push(Call { position, path, headers, body });
            }
            self.send(heading, line);
            if !lost.is_empty() {
                self.batch.bell.push([(self.batch.id, lost)]);
            }
        });
    }
}

impl LaneBatch {
    fn send(&self, heading: Option<(String, String)>, calls: Vec<Call>) {
        let Some((lane, origin)) = heading else { return };
        let items: Vec<u32> = (0..calls.len() as u32).collect();
        let load: Arc<dyn Load> =
            Arc::new(Calls { batch: Arc::clone(&self.batch), line: calls, finished: Mutex::default() });
        self.lanes.submit(&lane, &origin, self.class, self.tenant, &load, &items);
    }
}

pub(crate) fn class(name: &str) -> PyResult<Class> {
    match name {
        "now" => Ok(Class::Now),
        "bulk" => Ok(Class::Bulk),
        _ => Err(PyValueError::new_err("class_: now or bulk")),
    }
}

fn refused(detail: &'static str) -> Reply {
    let (headers, body) = (HeaderMap::new(), Bytes::new());
    Reply { fate: Fate::Unsent, status: 0, headers, body, detail: detail.into() }
}

fn split(url: &str) -> Option<(String, PathAndQuery)> {
    let uri: Uri = url.parse().ok()?;
    let origin = format!("{}://{}", uri.scheme_str()?, uri.authority()?);
    Some((origin, uri.into_parts().path_and_query?))
}

fn fields(headers: &[(PyBackedStr, PyBackedStr)]) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let field = |(name, value): &(PyBackedStr, PyBackedStr)| {
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?))
    };
    headers.iter().map(field).collect()
}

fn answer<'py>(py: Python<'py>, position: u32, reply: &Reply) -> PyResult<Bound<'py, PyTuple>> {
    let fate = match reply.fate {
        Fate::Answered => pyo3::intern!(py, "answered"),
        Fate::Unsent => pyo3::intern!(py, "unsent"),
        Fate::Unknown => pyo3::intern!(py, "unknown"),
    };
    let headers = PyDict::new(py);
    for (name, value) in &reply.headers {
        headers.set_item(name.as_str(), String::from_utf8_lossy(value.as_bytes()))?;
    }
    let body = PyBytes::new(py, &reply.body);
    (position, fate, reply.status, headers, body, PyString::new(py, &reply.detail)).into_pyobject(py)
}
