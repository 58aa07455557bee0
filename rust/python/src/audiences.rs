//! Rules and their evaluation.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use sendora_core::rules;

use crate::{broken, id, refused};

#[pyclass(frozen)]
pub struct Rule(Arc<rules::Rule>);

impl Rule {
    pub(crate) fn inner(&self) -> &Arc<rules::Rule> {
        &self.0
    }
}

#[pymethods]
impl Rule {
    #[new]
    fn new(rules: &[u8]) -> PyResult<Self> {
        rules::Rule::new(rules).map(|rule| Self(Arc::new(rule))).map_err(refused)
    }

    fn event_types(&self) -> Vec<&str> {
        self.0.event_types()
    }

    fn wants_properties(&self) -> bool {
        self.0.wants_properties()
    }

    fn since(&self, now_ms: i64) -> Option<i64> {
        self.0.since(now_ms)
    }
}

/// The lock is only ever contended when Python feeds one evaluation from two threads.
#[pyclass(frozen)]
pub struct Evaluation(Mutex<rules::Evaluation>);

impl Evaluation {
    fn inner(&self) -> MutexGuard<'_, rules::Evaluation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Evaluation {
    #[new]
    #[pyo3(signature = (rule, now_ms, *, explained=false))]
    fn new(rule: &Rule, now_ms: i64, explained: bool) -> Self {
        Self(Mutex::new(rules::Evaluation::new(Arc::clone(&rule.0), now_ms, explained)))
    }

    fn feed_events(&self, py: Python<'_>, chunk: &[u8]) -> PyResult<()> {
        py.detach(|| self.inner().feed_events(chunk)).map_err(broken)
    }

    fn feed_profiles(&self, py: Python<'_>, chunk: &[u8]) -> PyResult<()> {
        py.detach(|| self.inner().feed_profiles(chunk)).map_err(broken)
    }

    fn feed_days(&self, py: Python<'_>, chunk: &[u8]) -> PyResult<()> {
        py.detach(|| self.inner().feed_days(chunk)).map_err(broken)
    }

    fn count(&self, py: Python<'_>) -> PyResult<usize> {
        py.detach(|| self.inner().count()).map_err(broken)
    }

    #[expect(clippy::type_complexity, reason = "the tuple of the contract")]
    fn preview(&self, py: Python<'_>) -> PyResult<(usize, Vec<(String, usize, usize)>)> {
        let (count, steps) = py.detach(|| self.inner().preview()).map_err(broken)?;
        Ok((count, steps.into_iter().map(|step| (step.path, step.alone, step.remaining)).collect()))
    }

    fn members<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let members = py.detach(|| self.inner().members()).map_err(broken)?;
        Ok(PyBytes::new(py, &members))
    }

    fn page(&self, py: Python<'_>, offset: usize, size: usize) -> PyResult<Vec<String>> {
        py.detach(|| Ok(self.inner().page(offset, size)?.into_iter().map(str::to_owned).collect())).map_err(broken)
    }

    fn split(&self, py: Python<'_>, project: &[u8]) -> PyResult<Split> {
        let project = id("project", project)?;
        py.detach(|| self.inner().split(&project).map(Split::of_core)).map_err(broken)
    }

    fn contains(&self, py: Python<'_>, external_id: &str) -> PyResult<bool> {
        py.detach(|| self.inner().contains(external_id)).map_err(broken)
    }

    fn explain<'py>(&self, py: Python<'py>, external_id: &str) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let explained = py.detach(|| self.inner().explain(external_id)).map_err(broken)?;
        Ok(explained.map(|json| PyBytes::new(py, json.as_bytes())))
    }
}

#[pyclass(frozen)]
pub struct Split {
    count: usize,
    shards: Vec<Vec<u8>>,
}

impl Split {
    fn of_core(split: rules::Split) -> Self {
        Self { count: split.count(), shards: split.finish() }
    }
}

#[pymethods]
impl Split {
    #[new]
    fn new(py: Python<'_>, project: &[u8], members: &[u8]) -> PyResult<Self> {
        let project = id("project", project)?;
        let mut split = rules::Split::new();
        py.detach(|| rules::names(members, |name| split.push(&project, name))).map_err(broken)?;
        Ok(Self::of_core(split))
    }
    fn __len__(&self) -> usize {
        self.count
    }

    fn of<'py>(&self, py: Python<'py>, shard: usize) -> PyResult<Bound<'py, PyBytes>> {
        let names = self.shards.get(shard).ok_or_else(|| PyIndexError::new_err("no such shard"))?;
        Ok(PyBytes::new(py, names))
    }
}

#[pyfunction]
pub fn member_names(py: Python<'_>, members: &[u8], offset: usize, size: usize) -> PyResult<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    let mut at = 0;
    py.detach(|| {
        rules::names(members, |name| {
            if at >= offset && found.len() < size {
                found.push(name.to_owned());
            }
            at += 1;
        })
    })
    .map_err(broken)?;
    Ok(found)
}
