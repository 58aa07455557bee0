//! How recipients ended, on its way to the log and back.

use std::collections::BTreeSet;

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use sendora_core::lifecycle;

use crate::{broken, id};

#[pyclass(frozen)]
pub struct Ended(lifecycle::Ended);

#[pymethods]
impl Ended {
    #[new]
    fn new(
        py: Python<'_>,
        chunks: Vec<(PyBackedBytes, PyBackedBytes, PyBackedBytes, i16, i32)>,
        rows: &[u8],
    ) -> PyResult<Self> {
        let chunks = chunks.iter().map(|(org, project, send, shard, seq)| {
            let (org, project, send) = (id("org", org)?, id("project", project)?, id("send", send)?);
            Ok(lifecycle::Chunk { org, project, send, shard: *shard, seq: *seq })
        });
        let chunks = chunks.collect::<PyResult<Vec<_>>>()?;
        py.detach(|| lifecycle::Ended::new(&chunks, rows)).map(Self).map_err(broken)
    }

    fn messages<'py>(&self, py: Python<'py>) -> Vec<(usize, Bound<'py, PyBytes>)> {
        self.0.messages().iter().map(|(place, text)| (*place, PyBytes::new(py, text.as_bytes()))).collect()
    }

    #[expect(clippy::type_complexity, reason = "the tuple of the contract")]
    fn counts<'py>(
        &self,
        py: Python<'py>,
    ) -> Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>, i64, &str, &str, &str, i64, i64)> {
        let rows = self.0.counts().iter().map(|(counted, tally)| {
            (
                PyBytes::new(py, &counted.org),
                PyBytes::new(py, &counted.send),
                counted.day,
                counted.state.as_str(),
                counted.reason.as_str(),
                counted.variant.as_str(),
                tally.n,
                tally.repeated,
            )
        });
        rows.collect()
    }
}

#[pyfunction]
#[expect(clippy::type_complexity, reason = "the tuple of the contract")]
pub fn address_health(
    py: Python<'_>,
    messages: Vec<PyBackedBytes>,
    retiring: Vec<String>,
) -> PyResult<
    Vec<(Bound<'_, PyBytes>, Bound<'_, PyBytes>, String, i64, Vec<(Bound<'_, PyBytes>, String, Option<String>, i64)>)>,
> {
    let retiring: BTreeSet<String> = retiring.into_iter().collect();
    let found = py.detach(|| lifecycle::health(messages.iter().map(|message| &message[..]), &retiring));
    let rows = found.map_err(broken)?.into_iter().map(|((org, project, provider), health)| {
        let dead = health.dead.into_iter();
        let dead = dead.map(|one| (PyBytes::new(py, &one.recipient), one.reason, one.provider_id, one.at_ms)).collect();
        (PyBytes::new(py, &org), PyBytes::new(py, &project), provider, health.accepted, dead)
    });
    Ok(rows.collect())
}
