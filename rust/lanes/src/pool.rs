//! All lanes of a worker, and the threads that they live on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::runtime::{Builder, Runtime};

use crate::lane::{Lane, Tenant};
use crate::{Class, Load, Settings, connection, tls};

/// How long a worker that ends waits for its threads.
const CLOSE: Duration = Duration::from_secs(2);

pub struct Lanes {
    settings: Arc<Settings>,
    tls: Arc<ClientConfig>,
    runtime: Mutex<Option<Runtime>>,
    lanes: Mutex<HashMap<Arc<str>, Arc<Lane>>>,
}

impl Lanes {
    pub fn new(settings: Settings) -> Result<Self, String> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(settings.threads.max(1))
            .thread_name("lanes")
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let tls = tls::client(&settings.authorities)?;
        Ok(Self { settings: Arc::new(settings), tls, runtime: Mutex::new(Some(runtime)), lanes: Mutex::default() })
    }

    /// The lane of this name, made when it is new. None when all places are taken by lanes that are in use.
    pub fn lane(&self, name: &Arc<str>, base: &str) -> Option<Arc<Lane>> {
        let mut lanes = self.lanes();
        if let Some(lane) = lanes.get(name) {
            return Some(Arc::clone(lane));
        }
        make_room(&mut lanes, &self.settings);
        if lanes.len() >= self.settings.lanes_max {
            return None;
        }
        let lane = Arc::new(Lane::new(Arc::clone(name), base, Arc::clone(&self.settings)));
        lanes.insert(Arc::clone(name), Arc::clone(&lane));
        Some(lane)
    }

    /// How long a lane is not tried; zero when it is open, or not known.
    pub fn held(&self, name: &str) -> Duration {
        self.lanes().get(name).map_or(Duration::ZERO, |lane| lane.held())
    }

    /// Hands in items that have a place on the lane.
    pub fn push(&self, lane: &Arc<Lane>, load: &Arc<dyn Load>, class: Class, tenant: Tenant, items: &[u32]) {
        if lane.push(load, class, tenant, items) {
            self.connect(lane);
        }
    }

    /// Nothing is sent any more; what waits hears so.
    pub fn close(&self) {
        let lanes: Vec<Arc<Lane>> = self.lanes().drain().map(|(_, lane)| lane).collect();
        for lane in &lanes {
            lane.close();
        }
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(CLOSE);
        }
    }

    fn connect(&self, lane: &Arc<Lane>) {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        match runtime.as_ref() {
            Some(runtime) => {
                let _guard = runtime.enter();
                spawn(lane, &self.tls);
            }
            None => lane.not_connected("closed", true),
        }
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.close();
    }
}

/// A connection asks for its successor in the same way, from within the runtime.
fn spawn(lane: &Arc<Lane>, tls: &Arc<ClientConfig>) {
    let again = {
        let tls = Arc::clone(tls);
        move |lane: &Arc<Lane>| spawn(lane, &tls)
    };
    tokio::spawn(connection::hold(Arc::clone(lane), Arc::clone(tls), again));
}

/// Forgets what is idle, and when all places are taken whichever idle lane was used longest ago.
fn make_room(lanes: &mut HashMap<Arc<str>, Arc<Lane>>, settings: &Settings) {
    let now = Instant::now();
    let idle = now.checked_sub(settings.idle).unwrap_or(now);
    lanes.retain(|_, lane| !lane.is_idle(idle));
    if lanes.len() < settings.lanes_max {
        return;
    }
    let quiet = lanes.values().filter(|lane| lane.is_idle(now)).min_by_key(|lane| lane.used_at());
    if let Some(name) = quiet.map(|lane| Arc::clone(&lane.name)) {
        lanes.remove(&name);
    }
}
