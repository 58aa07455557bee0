//! Ingest and the log.

use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use sendora_core::check::{self, Origin};
use sendora_core::record::Tenant;
use sendora_core::{people, record, store};

use crate::{broken, id, offload, refused};

#[pyclass(frozen, get_all)]
pub struct Checked {
    single: bool,
    malformed: Option<(String, String)>,
    too_large: Option<String>,
    accepted: usize,
    rejected: usize,
    errors: Py<PyBytes>,
    records: Py<PyBytes>,
    event_id: Option<String>,
    event_type: Option<String>,
    user_id: Option<String>,
    anonymous_id: Option<String>,
}

impl Checked {
    fn new(py: Python<'_>, checked: check::Checked) -> Self {
        Self {
            single: checked.single,
            malformed: checked.malformed.map(|refused| (refused.path, refused.message)),
            too_large: checked.too_large,
            accepted: checked.accepted,
            rejected: checked.rejected,
            errors: PyBytes::new(py, checked.errors.as_bytes()).unbind(),
            records: PyBytes::new(py, &checked.records).unbind(),
            event_id: checked.event_id,
            event_type: checked.event_type,
            user_id: checked.user_id,
            anonymous_id: checked.anonymous_id,
        }
    }
}

fn tenant(org: &[u8], project: &[u8]) -> PyResult<Tenant> {
    Ok(Tenant { org: id("org", org)?, project: id("project", project)? })
}

#[pyfunction]
pub fn check_events(
    py: Python<'_>,
    body: &[u8],
    org: &[u8],
    project: &[u8],
    environment: &str,
    received_ms: i64,
    listed: bool,
) -> PyResult<Checked> {
    let origin = Origin { tenant: tenant(org, project)?, environment, received_ms };
    Ok(Checked::new(py, offload(py, body.len(), || check::check_events(body, origin, listed))))
}

#[pyfunction]
pub fn check_identify(
    py: Python<'_>,
    body: &[u8],
    org: &[u8],
    project: &[u8],
    environment: &str,
    received_ms: i64,
) -> PyResult<Checked> {
    let origin = Origin { tenant: tenant(org, project)?, environment, received_ms };
    Ok(Checked::new(py, offload(py, body.len(), || check::check_identify(body, origin))))
}

#[pyfunction]
#[pyo3(signature = (org, project, external_id, at_ms, *, email=None, traits=None, delete=false))]
#[expect(clippy::too_many_arguments, reason = "all but four are keywords")]
pub fn profile_record<'py>(
    py: Python<'py>,
    org: &[u8],
    project: &[u8],
    external_id: &str,
    at_ms: i64,
    email: Option<&str>,
    traits: Option<&[u8]>,
    delete: bool,
) -> PyResult<Bound<'py, PyBytes>> {
    let record =
        check::profile_record(tenant(org, project)?, external_id, at_ms, email, traits, delete).map_err(refused)?;
    Ok(PyBytes::new(py, &record))
}

#[pyfunction]
pub fn frame(py: Python<'_>, parts: Vec<PyBackedBytes>) -> PyResult<Bound<'_, PyBytes>> {
    let bytes = parts.iter().map(|part| part.len()).sum();
    let framed = offload(py, bytes, || record::frame(parts.iter().map(|part| &part[..])));
    Ok(PyBytes::new(py, &framed.map_err(broken)?))
}

#[pyfunction]
pub fn frame_projects<'py>(py: Python<'py>, frame: &[u8]) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let projects = offload(py, frame.len(), || record::projects(frame)).map_err(broken)?;
    Ok(projects.iter().map(|project| PyBytes::new(py, project)).collect())
}

#[pyclass(frozen)]
pub struct EventBatch(store::EventBatch);

#[pymethods]
impl EventBatch {
    #[new]
    fn new(py: Python<'_>, frames: Vec<PyBackedBytes>) -> PyResult<Self> {
        py.detach(|| store::EventBatch::new(frames.iter().map(|frame| &frame[..]))).map(Self).map_err(broken)
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn ends(&self) -> Vec<usize> {
        self.0.ends().to_vec()
    }

    fn months(&self, py: Python<'_>) -> Vec<i64> {
        py.detach(|| self.0.months())
    }

    fn keys<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &py.detach(|| self.0.keys()))
    }

    fn repeats(&self, py: Python<'_>) -> Vec<usize> {
        py.detach(|| self.0.repeats())
    }

    #[pyo3(signature = (skip, low=0, high=None))]
    fn copy<'py>(
        &self,
        py: Python<'py>,
        skip: Vec<usize>,
        low: usize,
        high: Option<usize>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        if !skip.is_sorted() {
            return Err(PyValueError::new_err("skip must be sorted"));
        }
        let data = py.detach(|| self.0.copy(&skip, low, high.unwrap_or(usize::MAX))).map_err(broken)?;
        Ok(PyBytes::new(py, &data))
    }

    fn record<'py>(
        &self,
        py: Python<'py>,
        ordinal: usize,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let (tenant, record) = self.0.record(ordinal).ok_or_else(|| PyIndexError::new_err("no such ordinal"))?;
        Ok((PyBytes::new(py, &tenant.org), PyBytes::new(py, &tenant.project), PyBytes::new(py, record)))
    }

    #[expect(clippy::type_complexity, reason = "the tuple of the contract")]
    fn counts<'py>(
        &self,
        py: Python<'py>,
        duplicate: Vec<usize>,
        bad: Vec<usize>,
    ) -> Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>, i64, i64, i64, i64)> {
        let counts = py.detach(|| self.0.counts(&duplicate, &bad));
        let rows = counts.into_iter().map(|(tenant, counts)| {
            (
                PyBytes::new(py, &tenant.org),
                PyBytes::new(py, &tenant.project),
                counts.accepted,
                counts.stored,
                counts.duplicate,
                counts.bad,
            )
        });
        rows.collect()
    }
}

#[pyclass(frozen)]
pub struct ProfileBatch(people::ProfileBatch);

#[pymethods]
impl ProfileBatch {
    #[new]
    fn new(py: Python<'_>, frames: Vec<PyBackedBytes>) -> PyResult<Self> {
        py.detach(|| people::ProfileBatch::new(frames.iter().map(|frame| &frame[..]))).map(Self).map_err(broken)
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn copy<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &py.detach(|| self.0.copy()))
    }
}
