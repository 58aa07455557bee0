//! The providers, simulated: APNs, FCM with its token endpoint, and a Web Push service, over TLS on one port.
//!
//! It speaks the real protocols, so that nothing in Sendora knows whether it talks to Apple or to this; it believes no
//! credential that it has not verified; and it writes down every request before it answers (`log`). That log is the
//! oracle: the ledger is right when it agrees with it.
//!
//! A device decides what happens to it by its token (`token`), an operator by switches (`switches`, `POST /_/switches`):
//!
//! | Path                                | What                                                                     |
//! |-------------------------------------|--------------------------------------------------------------------------|
//! | `POST /3/device/<token>`            | APNs (`apns`), HTTP/2 only; development's below `/sandbox`               |
//! | `POST /token`                       | OAuth of the service account (`oauth`)                                   |
//! | `POST /v1/projects/<p>/messages:send` | FCM (`fcm`)                                                            |
//! | `POST /push/<token>`                | Web Push (`webpush`), decrypted                                          |
//! | `GET /_/credentials`                | what an operator would download from Apple's and Google's consoles       |
//! | `POST /_/apns-keys`                 | `{keyId, teamId, publicKeyPem, bundleIds?}`: a key for a team's apps     |
//! | `POST /_/mint`                      | `{transport, tokens: [grammar..]}` -> real-looking tokens                |
//! | `GET`, `POST /_/switches`           | faults, see `switches`                                                   |
//! | `GET /_/stats`, `POST /_/flush`     | counters; the log brought to its file                                    |
//!
//! Where a request goes: `server` reads it from its connection, `exchange` has what all providers do in common, the
//! provider's own file checks it and puts the answer into its words, `exchange` logs it, `server` sends it.

mod apns;
mod config;
mod control;
mod exchange;
mod fcm;
mod jwt;
mod log;
mod oauth;
mod server;
mod stats;
mod switches;
mod tls;
mod token;
mod webpush;

use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use ring::hmac;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

pub use config::Config;

use exchange::Message;
use switches::Switches;

/// Tries are counted for throttled and flaky devices only; a map that is full begins anew.
const TRIES_MAX: usize = 1_000_000;

/// What all connections share.
struct Simulator {
    /// The origin of every URL given out.
    url: String,
    /// All origins under which a client may know this process.
    origins: Vec<String>,
    require_auth: bool,
    seed: hmac::Key,
    log: log::Log,
    stats: stats::Stats,
    switches: RwLock<Switches>,
    apns: apns::Apns,
    oauth: oauth::OAuth,
    webpush: webpush::Webpush,
    /// Hash of (transport, token, send) -> requests refused so far.
    tries: Mutex<HashMap<u64, u8>>,
    hasher: RandomState,
}

/// A simulator that holds its port and does not answer yet.
pub struct Server {
    simulator: Arc<Simulator>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    ca_file: PathBuf,
    ready_file: PathBuf,
}

/// Runs the simulator until SIGTERM or SIGINT. `config_json`: see [`Config`].
pub fn run(config_json: &str) -> Result<(), String> {
    let config = Config::parse(config_json)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| format!("tokio: {error}"))?;
    runtime.block_on(async {
        let told = |kind| signal(kind).map_err(|error| format!("signals: {error}"));
        let (mut terminate, mut interrupt) = (told(SignalKind::terminate())?, told(SignalKind::interrupt())?);
        let server = Server::open(&config).await?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        server.run(stop).await
    })
}

impl Server {
    /// Takes the port, makes what is missing in the certificate directory, and writes the ready file.
    pub async fn open(config: &Config) -> Result<Self, String> {
        // Of a former run, that was killed.
        let _ = std::fs::remove_file(&config.ready_file);
        let host = config.advertised();
        let tls = tls::open(&config.certificate_dir, host, config::BUNDLE_ID)?;
        let listener = TcpListener::bind((config.host.as_str(), config.port))
            .await
            .map_err(|error| format!("{}:{}: {error}", config.host, config.port))?;
        let port = listener.local_addr().map_err(|error| error.to_string())?.port();
        let origin = |host: &str| {
            let host = if host.contains(':') { format!("[{host}]") } else { host.into() };
            format!("https://{host}:{port}")
        };
        let url = origin(host);
        let seed = hmac::Key::new(hmac::HMAC_SHA256, &config.seed.bytes());
        let simulator = Arc::new(Simulator {
            origins: [host, "localhost", "127.0.0.1", "::1"].map(origin).into(),
            require_auth: config.require_auth,
            log: log::Log::open(&config.log_file)?,
            stats: stats::Stats::default(),
            switches: RwLock::default(),
            apns: apns::Apns::open(&config.certificate_dir, &config.bundle_ids, tls.client)?,
            oauth: oauth::OAuth::new(&url, &seed)?,
            webpush: webpush::Webpush::default(),
            tries: Mutex::default(),
            hasher: RandomState::new(),
            seed,
            url,
        });
        let server = Self {
            simulator,
            listener,
            acceptor: TlsAcceptor::from(tls.server),
            ca_file: tls.ca_file,
            ready_file: config.ready_file.clone(),
        };
        server.announce(config, port)?;
        Ok(server)
    }

    pub fn url(&self) -> &str {
        &self.simulator.url
    }

    /// The certificate authority that clients have to trust.
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// Serves until `stop` resolves; what was taken is answered (for a second at most) and logged.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), String> {
        let Self { simulator, listener, acceptor, ready_file, .. } = self;
        let ended = tokio::select! {
            () = server::serve(Arc::clone(&simulator), listener, acceptor, stop) => Ok(()),
            failure = simulator.log.broken() => Err(failure),
        };
        let _ = std::fs::remove_file(ready_file);
        simulator.log.close();
        ended
    }

    /// The file appears complete or not at all: others wait for it.
    fn announce(&self, config: &Config, port: u16) -> Result<(), String> {
        // Whoever reads the file may stand in another directory.
        let full = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into()).display().to_string();
        let (url, ca_file, log_file) = (self.url(), full(&self.ca_file), full(&config.log_file));
        let ready = &self.ready_file;
        if !ready.as_os_str().is_empty() {
            let json = serde_json::json!({"port": port, "url": url, "caFile": ca_file, "logFile": log_file});
            let draft = ready.with_extension("draft");
            std::fs::write(&draft, json.to_string())
                .and_then(|()| std::fs::rename(&draft, ready))
                .map_err(|error| format!("{}: {error}", ready.display()))?;
        }
        eprintln!("simulator: {url}, authority {ca_file}, log {log_file}");
        Ok(())
    }
}

impl Simulator {
    fn switches(&self) -> Switches {
        *self.switches.read().expect("no writer panics")
    }

    /// True for the first `limit` tries of this send to this device.
    fn first_tries(&self, message: &Message, limit: u8) -> bool {
        let key = self.hasher.hash_one((message.transport, message.token, message.send_id));
        let mut tries = self.tries.lock().expect("no holder panics");
        if tries.len() >= TRIES_MAX {
            tries.clear();
        }
        let so_far = tries.entry(key).or_default();
        let first = *so_far < limit;
        *so_far = so_far.saturating_add(1);
        first
    }
}
