//! Requests and seconds by provider, gathered here so that nobody counts each of them in Python.

use std::collections::HashMap;
use std::sync::Mutex;

/// (provider, status, requests)
pub type Count = (String, u16, u64);

/// (provider, requests in each bucket, the last one above all bounds; their sum in seconds)
pub type Seconds = (String, Vec<u64>, f64);

pub(crate) struct Stats {
    bounds: Vec<f64>,
    providers: Mutex<HashMap<String, Provider>>,
}

#[derive(Default)]
struct Provider {
    statuses: HashMap<u16, u64>,
    buckets: Vec<u64>,
    sum: f64,
}

impl Stats {
    pub fn new(bounds: Vec<f64>) -> Self {
        Self { bounds, providers: Mutex::default() }
    }

    pub fn add(&self, provider: &str, requests: &[(u16, f64)]) {
        if requests.is_empty() {
            return;
        }
        let mut providers = self.providers.lock().expect("no holder panics");
        if !providers.contains_key(provider) {
            providers.insert(provider.into(), Provider::default());
        }
        let Some(of) = providers.get_mut(provider) else { return };
        of.buckets.resize(self.bounds.len() + 1, 0);
        for &(status, seconds) in requests {
            *of.statuses.entry(status).or_default() += 1;
            of.buckets[self.bounds.partition_point(|bound| *bound < seconds)] += 1;
            of.sum += seconds;
        }
    }

    pub fn take(&self) -> (Vec<Count>, Vec<Seconds>) {
        let providers = std::mem::take(&mut *self.providers.lock().expect("no holder panics"));
        let (mut counts, mut seconds) = (Vec::new(), Vec::new());
        for (name, of) in providers {
            counts.extend(of.statuses.into_iter().map(|(status, n)| (name.clone(), status, n)));
            seconds.push((name, of.buckets, of.sum));
        }
        (counts, seconds)
    }
}
