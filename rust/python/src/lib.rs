//! `sendora._core`: conversions between Python and `sendora-core`, and the public list of what Python may call.
//!
//! The contract is `python/sendora/_core.pyi`. The GIL is released around every batch; for a few hundred bytes taking
//! it back would cost more than the work, so small bodies are judged under it.

#![expect(clippy::needless_pass_by_value, reason = "arguments from Python arrive owned")]

mod audiences;
mod events;
mod index;
mod lanes;
mod lifecycle;
mod sends;
mod shipments;
mod wire;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PySequence, PyTuple};
use sendora_core::sha256::Engine;
use sendora_core::sign::Key;
use sendora_core::{Broken, Refused};

/// Below this the work takes a few microseconds, about what handing over the GIL does.
const OFFLOAD_BYTES_MIN: usize = 8 * 1024;

/// Runs `work` without the GIL when it is about enough bytes.
pub(crate) fn offload<T: Send>(py: Python<'_>, bytes: usize, work: impl FnOnce() -> T + Send) -> T {
    if bytes < OFFLOAD_BYTES_MIN { work() } else { py.detach(work) }
}

pub(crate) fn broken(error: Broken) -> PyErr {
    PyValueError::new_err(error.to_string())
}

pub(crate) fn refused(error: Refused) -> PyErr {
    PyValueError::new_err((error.path, error.message))
}

pub(crate) fn id(name: &'static str, bytes: &[u8]) -> PyResult<sendora_core::Id> {
    bytes.try_into().map_err(|_| PyValueError::new_err(format!("{name}: 16 bytes are expected")))
}

#[pyfunction]
fn check_json(py: Python<'_>, body: &[u8]) -> Option<(String, String)> {
    let judged = offload(py, body.len(), || sendora_core::json::check(body));
    judged.err().map(|refused| (refused.path, refused.message))
}

fn engine(name: Option<&str>, best: Engine) -> PyResult<Engine> {
    let Some(name) = name else { return Ok(best) };
    let mut engines = Engine::ALL.into_iter().filter(|engine| engine.supported());
    engines.find(|engine| engine.name() == name).ok_or_else(|| PyValueError::new_err("engine: not on this processor"))
}

/// Strings are read and hashed so many at a time: ten million of them fill no cache, these are still in it when their
/// turn comes. Enough for two threads.
const WINDOW: usize = 32 * 1024;

/// What a tuple's items hold, neither copied nor counted: the tuple keeps them, and nobody can change it.
fn borrowed<'a, 'py, T>(tuple: &'a Bound<'py, PyTuple>) -> PyResult<Vec<T>>
where
    T: FromPyObject<'a, 'py>,
    PyErr: From<T::Error>,
{
    tuple.iter_borrowed().map(|item| T::extract(item).map_err(PyErr::from)).collect()
}

#[pyfunction]
fn hash_engines() -> Vec<&'static str> {
    Engine::ALL.into_iter().filter(|engine| engine.supported()).map(Engine::name).collect()
}

#[pyfunction]
#[pyo3(signature = (test_id, user_ids, by=None))]
fn buckets<'py>(
    py: Python<'py>,
    test_id: &str,
    user_ids: Bound<'py, PySequence>,
    by: Option<&str>,
) -> PyResult<Bound<'py, PyBytes>> {
    let engine = engine(by, Engine::best())?;
    let total = user_ids.len()?;
    let mut out = Vec::with_capacity(total);
    for low in (0..total).step_by(WINDOW) {
        let window = user_ids.get_slice(low, low + WINDOW)?.to_tuple()?;
        let people: Vec<&str> = borrowed(&window)?;
        out.extend(py.detach(|| sendora_core::bucket::buckets(engine, test_id.as_bytes(), &people)));
    }
    Ok(PyBytes::new(py, &out))
}

#[pyfunction]
#[pyo3(signature = (key, bodies, by=None))]
fn hmac_sha256<'py>(
    py: Python<'py>,
    key: &[u8],
    bodies: Bound<'py, PySequence>,
    by: Option<&str>,
) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let engine = engine(by, Engine::best_for_long())?;
    let bodies = bodies.to_tuple()?;
    let bodies: Vec<&[u8]> = borrowed(&bodies)?;
    let macs = py.detach(|| Key::new(key).sign(engine, &bodies));
    Ok(macs.iter().map(|mac| PyBytes::new(py, mac)).collect())
}

#[pyfunction]
fn shards<'py>(py: Python<'py>, project: &[u8], persons: Vec<PyBackedStr>) -> PyResult<Bound<'py, PyBytes>> {
    let project = id("project", project)?;
    let out: Vec<u8> =
        py.detach(|| persons.iter().map(|person| sendora_core::bucket::shard(&project, person)).collect());
    Ok(PyBytes::new(py, &out))
}

#[pyfunction]
fn simulate(py: Python<'_>, config: &str) -> PyResult<()> {
    py.detach(|| sendora_simulator::run(config)).map_err(PyValueError::new_err)
}

#[pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::audiences::{Evaluation, Rule, Split, member_names};
    #[pymodule_export]
    use super::events::{
        Checked, EventBatch, ProfileBatch, check_events, check_identify, frame, frame_projects, profile_record,
    };
    #[pymodule_export]
    use super::index::{Answer, Index};
    #[pymodule_export]
    use super::lanes::{LaneBatch, Lanes};
    #[pymodule_export]
    use super::lifecycle::{Ended, address_health};
    #[pymodule_export]
    use super::sends::{Caps, Decided, Note, Template};
    #[pymodule_export]
    use super::shipments::Shipment;
    #[pymodule_export]
    use super::wire::{
        OutcomeBatch, Parcels, Prover, Wire, copy_outcomes, encrypt_webpush, read_answer, retry_after_s, rule_answered,
        rule_unanswered, rule_unsent, settle,
    };
    #[pymodule_export]
    use super::{buckets, check_json, hash_engines, hmac_sha256, shards, simulate};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("DIGEST", env!("SENDORA_DIGEST"))
    }
}
