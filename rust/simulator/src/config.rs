//! What the simulator is told at its start: one JSON object in camelCase.
//!
//! Everything has a default, so `{}` starts it on a free port. Unknown keys are refused: a switch with a typing error
//! would otherwise make a test prove nothing.

use std::path::PathBuf;

use serde::Deserialize;

/// The bundle id of the app that the credentials of `GET /_/credentials` may send to.
pub const BUNDLE_ID: &str = "com.sendora.demo";

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    /// Address to listen on.
    pub host: String,
    /// 0 takes a free one; the ready file tells which.
    pub port: u16,
    /// The name that stands in URLs and, beside localhost, in the certificate. Empty: the host, or 127.0.0.1 for a wildcard.
    pub public_host: String,
    /// The oracle: one JSON line for each request. It is appended to, so that a restart does not lose what was seen.
    pub log_file: PathBuf,
    /// Where the certificate authority and the APNs key are kept, so that a restart stays trusted.
    pub certificate_dir: PathBuf,
    /// Written when the simulator listens (`{port, url, caFile, logFile}`), removed when it ends. Empty: not written.
    pub ready_file: PathBuf,
    /// Whether credentials are checked. Without, only the tokens' grammar decides (for load generators that cannot sign).
    pub require_auth: bool,
    /// Topics (bundle ids) that APNs accepts.
    pub bundle_ids: Vec<String>,
    /// From it the keys of Web Push subscriptions and the padding of minted tokens are derived.
    pub seed: Seed,
}

/// A number or a text; only its text counts.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Seed {
    Number(i64),
    Text(String),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 0,
            public_host: String::new(),
            log_file: "simulator.jsonl".into(),
            certificate_dir: "simulator".into(),
            ready_file: PathBuf::new(),
            require_auth: true,
            bundle_ids: vec![BUNDLE_ID.into()],
            seed: Seed::Number(1),
        }
    }
}

impl Config {
    pub fn parse(json: &str) -> Result<Self, String> {
        serde_json::from_str(json).map_err(|error| format!("simulator configuration: {error}"))
    }

    /// The host that stands in URLs.
    pub fn advertised(&self) -> &str {
        match (self.public_host.as_str(), self.host.as_str()) {
            ("", "0.0.0.0" | "::" | "") => "127.0.0.1",
            ("", host) => host,
            (public, _) => public,
        }
    }
}

impl Seed {
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Number(number) => number.to_string().into_bytes(),
            Self::Text(text) => text.clone().into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_refused() {
        assert!(Config::parse(r#"{"prot": 1}"#).unwrap_err().contains("prot"));
    }

    #[test]
    fn a_wildcard_is_not_an_address() {
        let config = Config::parse(r#"{"host": "0.0.0.0", "seed": "x"}"#).unwrap();
        assert_eq!(config.advertised(), "127.0.0.1");
        assert_eq!(config.seed.bytes(), b"x");
        assert_eq!(Config { public_host: "simulator".into(), ..config }.advertised(), "simulator");
    }
}
