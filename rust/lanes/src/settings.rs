//! What lanes are told at their start: one JSON object in camelCase.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Settings {
    /// Of one lane.
    pub connections: usize,
    /// Requests at a time on one connection, when the server allows more.
    pub streams: usize,
    /// Threads that drive connections.
    pub threads: usize,
    pub connect_s: f64,
    /// A provider that is silent for so long has an `unknown` request.
    pub answer_s: f64,
    /// From the first byte to the last, whatever drips in between.
    pub call_s: f64,
    /// Requests in a row without any answer, after which the circuit opens.
    pub breaker_failures: u32,
    pub breaker_s: f64,
    pub lanes_max: usize,
    /// A lane or connection that nobody used in so long is closed.
    pub idle_s: f64,
    /// A connection in use that hears nothing for so long is asked for a sign of life.
    pub ping_s: f64,
    /// PEM files with the authorities that are trusted.
    pub ca_files: Vec<PathBuf>,
    /// Networks that are never dialled.
    pub blocked: Vec<IpNet>,
    /// (host, port) to which the guard does not apply.
    pub exempt: Vec<(String, u16)>,
    /// Ports that may be dialled.
    pub ports: Vec<u16>,
    /// Upper bounds of the histogram of seconds.
    pub seconds: Vec<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: 2,
            streams: 500,
            threads: 2,
            connect_s: 5.0,
            answer_s: 10.0,
            call_s: 12.0,
            breaker_failures: 10,
            breaker_s: 5.0,
            lanes_max: 256,
            idle_s: 300.0,
            ping_s: 15.0,
            ca_files: Vec::new(),
            blocked: Vec::new(),
            exempt: Vec::new(),
            ports: vec![443, 8443],
            seconds: Vec::new(),
        }
    }
}

impl Settings {
    pub fn parse(json: &str) -> Result<Self, String> {
        serde_json::from_str(json).map_err(|error| format!("lanes' configuration: {error}"))
    }

    pub(crate) fn connect(&self) -> Duration {
        Duration::from_secs_f64(self.connect_s)
    }

    pub(crate) fn answer(&self) -> Duration {
        Duration::from_secs_f64(self.answer_s.min(self.call_s))
    }

    pub(crate) fn call(&self) -> Duration {
        Duration::from_secs_f64(self.call_s)
    }

    pub(crate) fn breaker(&self) -> Duration {
        Duration::from_secs_f64(self.breaker_s)
    }

    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs_f64(self.idle_s)
    }

    pub(crate) fn ping(&self) -> Duration {
        Duration::from_secs_f64(self.ping_s)
    }
}
