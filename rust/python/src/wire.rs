//! Requests to providers, what their answers mean, and outcomes as the ledger takes them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::PyBytes;
use sendora_core::outcome::{self, Outcome, State};
use sendora_core::pgcopy::Writer;
use sendora_core::providers::{Transport, answer, vapid, webpush, wire};
use sendora_core::retry::{self, Terms};

use crate::sends::Decided;
use crate::{broken, id, refused};

#[pyclass(frozen)]
pub struct Wire(pub(crate) Arc<wire::Wire>);

#[pymethods]
impl Wire {
    #[new]
    #[pyo3(signature = (spec, prover=None))]
    fn new(spec: &[u8], prover: Option<&Prover>) -> PyResult<Self> {
        let wire = wire::Wire::new(spec, prover.map(|prover| Arc::clone(&prover.0)));
        wire.map(|wire| Self(Arc::new(wire))).map_err(refused)
    }
}

#[pyclass(frozen)]
pub struct Prover(pub(crate) Arc<vapid::Prover>);

#[pymethods]
impl Prover {
    #[new]
    fn new(key: &[u8], subject: &str) -> PyResult<Self> {
        vapid::Prover::new(key, subject).map(|prover| Self(Arc::new(prover))).map_err(refused)
    }

    fn proof(&self, origin: &str, now_s: i64) -> PyResult<String> {
        let proof = self.0.proof(origin, now_s);
        proof.map(|proof| proof.as_ref().to_owned()).map_err(|_| PyValueError::new_err("no randomness"))
    }
}

/// (position, lane, provider, url, headers, body)
type Built<'py> = (i16, &'py str, &'py str, String, Vec<(String, String)>, Bound<'py, PyBytes>);

#[pyclass(frozen)]
pub struct Parcels {
    wire: Py<Wire>,
    decided: Py<Decided>,
    sorted: wire::Parcels,
}

#[pymethods]
impl Parcels {
    #[new]
    fn new(py: Python<'_>, wire: Py<Wire>, decided: Py<Decided>) -> PyResult<Self> {
        let sorted = py.detach(|| wire::Parcels::new(&wire.get().0, &decided.get().0)).map_err(broken)?;
        Ok(Self { wire, decided, sorted })
    }

    fn __len__(&self) -> usize {
        self.sorted.parcels.len()
    }

    fn requests<'py>(&'py self, py: Python<'py>, now_s: i64) -> (Vec<Built<'py>>, Vec<(i16, &'static str, String)>) {
        let (wire, decided) = (&self.wire.get().0, &self.decided.get().0);
        let built: Vec<_> = py.detach(|| {
            let parcels = self.sorted.parcels.iter();
            parcels.map(|parcel| (parcel, wire.request(decided, &self.sorted, parcel, now_s))).collect()
        });
        let (mut requests, mut failed) = (Vec::new(), Vec::new());
        for (parcel, request) in built {
            let position = decided.calls[parcel.call as usize].position;
            match request {
                Ok(request) => {
                    let lane = &self.sorted.lanes[parcel.lane as usize];
                    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                    let headers = request
                        .headers
                        .iter()
                        .map(|(name, value)| (name.to_string(), text(value.as_bytes())))
                        .collect();
                    let url = format!("{}{}", lane.base, request.path);
                    requests.push((
                        position,
                        &*lane.name,
                        &*lane.provider,
                        url,
                        headers,
                        PyBytes::new(py, &request.body),
                    ));
                }
                Err(refusal) => {
                    let ruling = refusal.ruling(0);
                    failed.push((position, ruling.state.name(), refusal.reason().to_owned()));
                }
            }
        }
        (requests, failed)
    }

    fn refused(&self) -> Vec<(i16, &'static str, &str)> {
        let calls = &self.decided.get().0.calls;
        let refused = self.sorted.refused.iter();
        refused
            .map(|(call, refusal)| (calls[*call as usize].position, refusal.ruling(0).state.name(), refusal.reason()))
            .collect()
    }
}

#[pyfunction]
pub fn encrypt_webpush(
    py: Python<'_>,
    batch: Vec<(PyBackedBytes, PyBackedStr, PyBackedStr)>,
) -> Vec<Option<Bound<'_, PyBytes>>> {
    let random = webpush::SystemRandom::new();
    let sealed: Vec<_> = py.detach(|| {
        let messages = batch.iter();
        messages
            .map(|(content, p256dh, auth)| {
                webpush::Keys::new(p256dh, auth).and_then(|keys| webpush::encrypt(content, &keys, &random)).ok()
            })
            .collect()
    });
    sealed.into_iter().map(|body| body.map(|body| PyBytes::new(py, &body))).collect()
}

fn transport(name: &str) -> PyResult<Transport> {
    Transport::named(name).ok_or_else(|| PyValueError::new_err("an unknown transport"))
}

/// (state, reason, provider_id, (base_s, doubling, jitter), retry_after, renews, hopeless)
type Read = (&'static str, Option<String>, Option<String>, Option<(f64, bool, bool)>, Option<String>, bool, bool);

#[pyfunction]
#[pyo3(signature = (transport, status, headers, body))]
pub fn read_answer(transport: &str, status: u16, headers: HashMap<String, String>, body: &[u8]) -> PyResult<Read> {
    let read = answer::read(self::transport(transport)?, status, |name| headers.get(name).map(String::as_str), body);
    Ok((
        read.state.name(),
        read.reason.map(Cow::into_owned),
        read.provider_id.map(Cow::into_owned),
        read.retry.map(|schedule| (schedule.base_s, schedule.doubling, schedule.jitter)),
        read.retry_after.map(str::to_owned),
        read.renews,
        read.hopeless,
    ))
}

/// (state, reason, provider_id, due_ms, repeated, counted)
type Ruling = (String, Option<String>, Option<String>, Option<i64>, bool, bool);

fn told(ruling: outcome::Ruling<'_>) -> Ruling {
    (
        ruling.state.name().to_owned(),
        ruling.reason.map(Cow::into_owned),
        ruling.provider_id.map(Cow::into_owned),
        ruling.due_ms,
        ruling.repeated,
        ruling.counted,
    )
}

fn heard(ruling: &Ruling) -> PyResult<outcome::Ruling<'_>> {
    let (state, reason, provider_id, due_ms, repeated, counted) = ruling;
    Ok(outcome::Ruling {
        state: State::named(state).ok_or_else(|| PyValueError::new_err("an unknown state"))?,
        reason: reason.as_deref().map(Cow::Borrowed),
        provider_id: provider_id.as_deref().map(Cow::Borrowed),
        due_ms: *due_ms,
        repeated: *repeated,
        counted: *counted,
    })
}

#[pyfunction]
#[pyo3(signature = (transport, status, headers, body, tries, now_ms, chance))]
pub fn rule_answered(
    transport: &str,
    status: u16,
    headers: HashMap<String, String>,
    body: &[u8],
    tries: i16,
    now_ms: i64,
    chance: f64,
) -> PyResult<Ruling> {
    let read = answer::read(self::transport(transport)?, status, |name| headers.get(name).map(String::as_str), body);
    Ok(told(outcome::Ruling::answered(read, tries, now_ms, chance)))
}

#[pyfunction]
pub fn rule_unanswered(reason: &str, tries: i16, now_ms: i64, chance: f64) -> Ruling {
    told(outcome::Ruling::unanswered(reason.into(), tries, now_ms, chance))
}

#[pyfunction]
pub fn rule_unsent(transport: &str, detail: &str, planned_ms: i64, now_ms: i64) -> PyResult<Ruling> {
    Ok(told(outcome::Ruling::unsent(self::transport(transport)?, detail, planned_ms, now_ms)))
}

#[pyfunction]
#[pyo3(signature = (header, now_ms))]
pub fn retry_after_s(header: Option<&str>, now_ms: i64) -> Option<f64> {
    retry::retry_after_s(header, now_ms)
}

#[pyfunction]
#[pyo3(signature = (ruling, tries, at_most_once, expires_ms, unanswered, sent))]
pub fn settle(
    ruling: Ruling,
    tries: i16,
    at_most_once: bool,
    expires_ms: i64,
    unanswered: Option<&str>,
    sent: bool,
) -> PyResult<Ruling> {
    let terms = Terms { tries, at_most_once, expires_ms };
    Ok(told(retry::settle(heard(&ruling)?, &terms, unanswered, sent)))
}

#[pyclass(frozen)]
pub struct OutcomeBatch(pub(crate) outcome::OutcomeBatch);

/// (position, recipient, user_id, variant, provider, ruling)
type Settled = (i16, PyBackedBytes, Option<PyBackedStr>, Option<PyBackedStr>, Option<PyBackedStr>, Ruling);

#[pymethods]
impl OutcomeBatch {
    #[new]
    fn new(org: &[u8], send: &[u8], shard: i16, seq: i32, attempt: i16, outcomes: Vec<Settled>) -> PyResult<Self> {
        let chunk = outcome::Chunk { org: id("org", org)?, send: id("send", send)?, shard, seq, attempt };
        let mut batch = outcome::OutcomeBatch::new(chunk);
        for (position, recipient, user_id, variant, provider, ruling) in &outcomes {
            batch.push(&Outcome {
                position: *position,
                recipient: id("recipient", recipient)?,
                user_id: user_id.as_deref(),
                variant: variant.as_deref(),
                provider: provider.as_deref(),
                ruling: heard(ruling)?,
            });
        }
        Ok(Self(batch))
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn counts(&self) -> Vec<(&'static str, &str, u32)> {
        self.0.counts().map(|(state, reason, n)| (state.name(), reason, n)).collect()
    }

    fn follow_up<'py>(&self, py: Python<'py>) -> Vec<(i16, bool, i64, Bound<'py, PyBytes>)> {
        let groups = self.0.follow_up().iter();
        groups
            .map(|&((attempt, repeated, due_ms), ref recipients)| {
                (attempt, repeated, due_ms, PyBytes::new(py, recipients.as_flattened()))
            })
            .collect()
    }

    fn first_position(&self) -> Option<i16> {
        self.0.first_position()
    }
}

#[pyfunction]
pub fn copy_outcomes(py: Python<'_>, batches: Vec<Py<OutcomeBatch>>, at_us: i64) -> Bound<'_, PyBytes> {
    let copy = py.detach(|| {
        let mut copy = Writer::with_capacity(0);
        for batch in &batches {
            batch.get().0.write(&mut copy, at_us);
        }
        copy.finish()
    });
    PyBytes::new(py, &copy)
}
