//! The oracle: every request that reached a provider, one JSON line, appended before it is answered.
//!
//! Lines gather in memory and a thread writes them out, [`WRITE_MS`] after the first one at the latest; `POST /_/flush` and
//! the end of the process write at once. So the file lags the answers by a few milliseconds, and only a SIGKILL of the
//! simulator itself can lose a line. A log that cannot be written ends the simulator: without the oracle nothing is proved.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use tokio::sync::Notify;

use crate::token::{Outcome, Transport};

/// Long enough to gather hundreds of lines at full speed, short enough that nobody needs to flush to look.
const WRITE_MS: u64 = 5;
/// A line has about 450 bytes.
const LINE_BYTES: usize = 640;

/// What is kept of a request. `status` is what it will be answered with, null when it never is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry<'a> {
    pub at: u64,
    #[serde(serialize_with = "transport")]
    pub transport: Transport,
    /// As on the wire: hex token, registration token, or the endpoint's URL.
    pub token: &'a str,
    pub grammar: Option<&'a str>,
    pub send_id: Option<&'a str>,
    pub delivery_id: Option<&'a str>,
    /// What the provider calls the message in its answer: apns-id, message name, location.
    pub id: Option<&'a str>,
    #[serde(serialize_with = "outcome")]
    pub outcome: Outcome,
    /// The provider's word for a failure.
    pub reason: Option<&'a str>,
    pub status: Option<u16>,
    pub conn: u64,
    pub stream: Option<u32>,
    pub title: Option<&'a str>,
    pub body: Option<&'a str>,
    /// With the switch `logPayloads`.
    #[serde(flatten)]
    pub whole: Option<Whole<'a>>,
}

/// A request as the device's system would see it.
#[derive(Debug, Serialize)]
pub struct Whole<'a> {
    pub payload: Cow<'a, str>,
    pub headers: BTreeMap<&'a str, Cow<'a, str>>,
}

pub struct Log {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    lines: Mutex<Lines>,
    came: Condvar,
    file: Mutex<File>,
    broken: Notify,
    failure: Mutex<Option<String>>,
}

#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    closing: bool,
}

impl Log {
    pub fn open(path: &Path) -> Result<Self, String> {
        let tell = |error: io::Error| format!("{}: {error}", path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(tell)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(tell)?;
        let shared = Arc::new(Shared {
            lines: Mutex::default(),
            came: Condvar::new(),
            file: Mutex::new(file),
            broken: Notify::new(),
            failure: Mutex::default(),
        });
        let writer = thread::Builder::new()
            .name("log".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.write_until_closed()
            })
            .map_err(tell)?;
        Ok(Self { shared, writer: Mutex::new(Some(writer)) })
    }

    pub fn append(&self, entry: &Entry) {
        let mut line = Vec::with_capacity(LINE_BYTES);
        serde_json::to_writer(&mut line, entry).expect("an entry is plain text");
        line.push(b'\n');
        let mut lines = self.shared.lines.lock().expect("no writer panics");
        let first = lines.bytes.is_empty();
        lines.bytes.extend_from_slice(&line);
        drop(lines);
        if first {
            self.shared.came.notify_one();
        }
    }

    /// Everything appended so far is in the file afterwards.
    pub fn flush(&self) {
        self.shared.write();
    }

    /// Resolves when a line could not be written.
    pub async fn broken(&self) -> String {
        self.shared.broken.notified().await;
        self.shared.failure.lock().expect("no writer panics").clone().unwrap_or_default()
    }

    /// Writes what is left and ends the thread.
    pub fn close(&self) {
        self.shared.lines.lock().expect("no writer panics").closing = true;
        self.shared.came.notify_one();
        if let Some(writer) = self.writer.lock().expect("no writer panics").take() {
            let _ = writer.join();
        }
        self.flush();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn write_until_closed(&self) {
        loop {
            let lines = self.lines.lock().expect("no writer panics");
            let lines = self
                .came
                .wait_while(lines, |lines| lines.bytes.is_empty() && !lines.closing)
                .expect("no writer panics");
            if lines.closing {
                return;
            }
            drop(lines);
            thread::sleep(Duration::from_millis(WRITE_MS));
            self.write();
        }
    }

    fn write(&self) {
        // The file first: whoever holds it writes older lines before younger ones.
        let mut file = self.file.lock().expect("no writer panics");
        let bytes = std::mem::take(&mut self.lines.lock().expect("no writer panics").bytes);
        if let Err(error) = file.write_all(&bytes) {
            *self.failure.lock().expect("no writer panics") = Some(format!("the log cannot be written: {error}"));
            self.broken.notify_one();
        }
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn transport<S: Serializer>(transport: &Transport, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(transport.name())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn outcome<S: Serializer>(outcome: &Outcome, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(outcome.name())
}
