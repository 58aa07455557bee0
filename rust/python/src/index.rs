//! The audience index.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBytes, PyDict};
use sendora_core::index;

use crate::audiences::Rule;
use crate::{broken, id, refused};

/// Whoever asks holds the lock for the microseconds of binding a rule, whoever updates for one frame of the log or one
/// piece of a stream.
#[pyclass(frozen)]
pub struct Index(Mutex<index::Index>);

impl Index {
    fn inner(&self) -> MutexGuard<'_, index::Index> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Index {
    #[new]
    #[pyo3(signature = (part=0, parts=1))]
    fn new(part: u32, parts: u32) -> PyResult<Self> {
        if part >= parts {
            return Err(PyValueError::new_err("part must be below parts"));
        }
        Ok(Self(Mutex::new(index::Index::new(part, parts))))
    }

    #[staticmethod]
    fn open(py: Python<'_>, path: &str) -> PyResult<Self> {
        let read = py.detach(|| std::fs::read(path).map(|bytes| index::Index::read(&bytes)));
        let opened = read.map_err(PyOSError::new_err)?.map_err(broken)?;
        Ok(Self(Mutex::new(opened)))
    }

    /// The blocks are shared while the file is written, so nobody waits for the disk.
    fn save(&self, py: Python<'_>, path: &str) -> PyResult<()> {
        let written = py.detach(|| {
            let image = self.inner().image();
            write(Path::new(path), &image.bytes())
        });
        written.map_err(PyOSError::new_err)
    }

    fn load_people(&self, py: Python<'_>, chunk: &[u8]) -> PyResult<()> {
        py.detach(|| self.inner().load_people(chunk)).map_err(broken)
    }

    fn load_events(&self, py: Python<'_>, chunk: &[u8]) -> PyResult<()> {
        py.detach(|| self.inner().load_events(chunk)).map_err(broken)
    }

    fn load_days(&self, py: Python<'_>, chunk: &[u8]) -> PyResult<()> {
        py.detach(|| self.inner().load_days(chunk)).map_err(broken)
    }

    #[pyo3(signature = (position, people=None))]
    fn loaded(&self, py: Python<'_>, position: i64, people: Option<i64>) -> PyResult<()> {
        py.detach(|| self.inner().loaded(position, people.unwrap_or(position))).map_err(broken)
    }

    fn apply(
        &self,
        py: Python<'_>,
        project: &[u8],
        frames: Vec<PyBackedBytes>,
        positions: Vec<i64>,
        skips: Vec<Vec<usize>>,
    ) -> PyResult<()> {
        let project = id("project", project)?;
        if frames.len() != positions.len() || frames.len() != skips.len() {
            return Err(PyValueError::new_err("a position and a list of skips for each frame"));
        }
        if !skips.iter().all(|skips| skips.is_sorted()) {
            return Err(PyValueError::new_err("skips must be sorted"));
        }
        py.detach(|| {
            // All are checked before any is applied, and each is applied for itself: whoever asks waits for one frame.
            let each = frames.iter().zip(&positions).zip(&skips);
            let checked: Vec<_> = each
                .map(|((frame, &position), skips)| index::Checked::new(frame, position, skips))
                .collect::<Result<_, _>>()?;
            checked.into_iter().try_for_each(|frame| self.inner().apply(&project, frame))
        })
        .map_err(broken)
    }

    fn erase(&self, py: Python<'_>, names: Vec<PyBackedStr>) {
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        py.detach(|| self.inner().erase(&names));
    }

    #[getter]
    fn part(&self, py: Python<'_>) -> u32 {
        py.detach(|| self.inner().part().0)
    }

    #[getter]
    fn parts(&self, py: Python<'_>) -> u32 {
        py.detach(|| self.inner().part().1)
    }

    #[getter]
    fn position(&self, py: Python<'_>) -> i64 {
        py.detach(|| self.inner().position())
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        py.detach(|| self.inner().people())
    }

    fn streams_wanted(&self, py: Python<'_>, rule: &Rule) -> Vec<String> {
        py.detach(|| self.inner().streams_wanted(rule.inner()))
    }

    fn register_stream(&self, py: Python<'_>, key: &str) -> PyResult<()> {
        py.detach(|| self.inner().register_stream(key)).map_err(refused)
    }

    fn unregister_stream(&self, py: Python<'_>, key: &str) {
        py.detach(|| self.inner().unregister_stream(key));
    }

    fn load_stream(&self, py: Python<'_>, key: &str, chunk: &[u8]) -> PyResult<()> {
        py.detach(|| self.inner().load_stream(key, chunk)).map_err(broken)
    }

    fn stream_loaded(&self, py: Python<'_>, key: &str, position: i64) -> PyResult<()> {
        py.detach(|| self.inner().stream_loaded(key, position)).map_err(broken)
    }

    fn missing(&self, py: Python<'_>, rule: &Rule, now_ms: i64) -> Vec<String> {
        py.detach(|| self.inner().bind(rule.inner(), now_ms)).missing()
    }

    fn ask(&self, py: Python<'_>, rule: &Rule, now_ms: i64) -> Answer {
        Answer(py.detach(|| {
            let view = self.inner().bind(rule.inner(), now_ms);
            view.ask()
        }))
    }

    #[expect(clippy::type_complexity, reason = "the tuple of the contract")]
    fn preview(&self, py: Python<'_>, rule: &Rule, now_ms: i64) -> (usize, usize, Vec<(String, Option<usize>, usize)>) {
        let (count, undecided, funnel) = py.detach(|| {
            let view = self.inner().bind(rule.inner(), now_ms);
            view.preview()
        });
        let steps = funnel.into_iter().map(|step| (step.path, step.alone, step.remaining)).collect();
        (count, undecided, steps)
    }

    fn explain<'py>(
        &self,
        py: Python<'py>,
        rule: &Rule,
        external_id: &str,
        now_ms: i64,
    ) -> Option<Bound<'py, PyBytes>> {
        let explained = py.detach(|| {
            let index = self.inner();
            let row = index.find(external_id)?;
            let view = index.bind(rule.inner(), now_ms);
            drop(index);
            view.explain(row)
        });
        explained.map(|json| PyBytes::new(py, json.as_bytes()))
    }

    fn memory<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let memory = py.detach(|| self.inner().memory());
        let parts = PyDict::new(py);
        for (name, bytes) in [
            ("names", memory.names),
            ("table", memory.table),
            ("people", memory.people),
            ("traits", memory.traits),
            ("events", memory.events),
            ("streams", memory.streams),
        ] {
            parts.set_item(name, bytes)?;
        }
        Ok(parts)
    }
}

/// Beside the file first, then in its place: a reader never sees half of one.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let beside = path.with_file_name(name);
    let mut file = std::fs::File::create(&beside)?;
    std::io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

#[pyclass(frozen)]
pub struct Answer(index::Answer);

#[pymethods]
impl Answer {
    #[getter]
    fn count(&self) -> usize {
        self.0.count
    }

    #[getter]
    fn undecided(&self) -> usize {
        self.0.open
    }

    fn members<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &py.detach(|| self.0.members()))
    }

    fn candidates<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &py.detach(|| self.0.undecided()))
    }
}
