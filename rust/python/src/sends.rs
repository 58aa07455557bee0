//! Templates, frequency caps, and the decision on a chunk.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};
use sendora_core::json::{self, Raw};
use sendora_core::policy::{caps, decide, note};
use sendora_core::template;

use crate::wire::Wire;
use crate::{broken, refused};

#[pyclass(frozen)]
pub struct Template(template::Template);

#[pymethods]
impl Template {
    #[new]
    fn new(text: &str) -> Self {
        Self(template::Template::new(text))
    }

    fn paths(&self) -> Vec<String> {
        self.0.paths()
    }

    fn render(&self, scopes: &[u8]) -> PyResult<String> {
        json::check(scopes).map_err(refused)?;
        let scopes = std::str::from_utf8(scopes).map_err(|_| PyValueError::new_err("invalid UTF-8"))?;
        Ok(self.0.render(&Raw::trusted(scopes)))
    }
}

#[pyclass(frozen)]
pub struct Caps(Mutex<caps::Caps>);

impl Caps {
    pub(crate) fn inner(&self) -> MutexGuard<'_, caps::Caps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Caps {
    #[new]
    fn new() -> Self {
        Self(Mutex::new(caps::Caps::default()))
    }

    fn load(&self, py: Python<'_>, chunk: &[u8]) -> PyResult<()> {
        py.detach(|| self.inner().load(chunk)).map_err(broken)
    }

    fn forget_before(&self, py: Python<'_>, at_ms: i64) {
        py.detach(|| self.inner().forget_before(at_ms));
    }
}

#[pyclass(frozen)]
pub struct Note(pub(crate) note::Note);

#[pymethods]
impl Note {
    #[new]
    fn new(spec: &[u8]) -> PyResult<Self> {
        note::Note::new(spec).map(Self).map_err(refused)
    }

    #[pyo3(signature = (rows, caps, now_ms, wire=None))]
    fn decide(
        &self,
        py: Python<'_>,
        rows: &[u8],
        caps: Option<&Caps>,
        now_ms: i64,
        wire: Option<&Wire>,
    ) -> PyResult<Decided> {
        let decided = py.detach(|| {
            let mut caps = caps.map(Caps::inner);
            let extra = wire.map_or(&[][..], |wire| wire.0.templates());
            self.0.decide(rows, caps.as_deref_mut(), now_ms, extra)
        });
        decided.map(Decided).map_err(broken)
    }

    fn explain(&self, py: Python<'_>, rows: &[u8], caps: Option<&Caps>, now_ms: i64) -> PyResult<String> {
        let explained = py.detach(|| {
            let mut caps = caps.map(Caps::inner);
            self.0.explain(rows, caps.as_deref_mut(), now_ms)
        });
        explained.map(|said| said.to_string()).map_err(broken)
    }
}

#[pyclass(frozen)]
pub struct Decided(pub(crate) decide::Decided);

#[pymethods]
impl Decided {
    fn sends<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        // A chunk's texts repeat (platform, environment, bundle, often title and body): the last object is used again.
        let mut last: [Option<(&str, Bound<'py, PyString>)>; 6] = Default::default();
        let decided = &self.0;
        let rows = decided.calls.iter().map(|call| {
            let mut again = |slot: usize, text| repeated(py, &mut last[slot], text);
            let platform = again(0, decided.text(call.platform));
            let environment = again(1, decided.text(call.environment));
            let bundle_id = decided.optional(call.bundle_id).map(|text| again(2, text));
            let title = again(3, decided.text(call.title));
            let body = again(4, decided.text(call.body));
            let variant = decided.optional(call.variant).map(|text| again(5, text));
            PyTuple::new(
                py,
                [
                    call.position.into_pyobject(py)?.into_any(),
                    PyBytes::new(py, &call.recipient).into_any(),
                    platform.into_any(),
                    PyString::new(py, decided.text(call.token)).into_any(),
                    decided.optional(call.subscription).into_pyobject(py)?.into_any(),
                    environment.into_any(),
                    bundle_id.into_pyobject(py)?.into_any(),
                    decided.optional(call.user_id).into_pyobject(py)?.into_any(),
                    title.into_any(),
                    body.into_any(),
                    variant.into_pyobject(py)?.into_any(),
                ],
            )
        });
        PyList::new(py, rows.collect::<PyResult<Vec<_>>>()?)
    }

    #[expect(clippy::type_complexity, reason = "the tuple of the contract")]
    fn stays<'py>(
        &self,
        py: Python<'py>,
    ) -> Vec<(i16, Bound<'py, PyBytes>, Option<&str>, &str, &str, Option<i64>, Option<&str>)> {
        let rows = self.0.stays.iter().map(|stay| {
            let recipient = PyBytes::new(py, &stay.recipient);
            (
                stay.position,
                recipient,
                self.0.optional(stay.user_id),
                stay.state.name(),
                stay.reason,
                stay.due_ms,
                self.0.optional(stay.variant),
            )
        });
        rows.collect()
    }
}

fn repeated<'py, 't>(
    py: Python<'py>,
    last: &mut Option<(&'t str, Bound<'py, PyString>)>,
    text: &'t str,
) -> Bound<'py, PyString> {
    match last {
        Some((known, object)) if *known == text => object.clone(),
        _ => last.insert((text, PyString::new(py, text))).1.clone(),
    }
}
