//! Counters for `GET /_/stats`: what was asked for by transport and outcome, and the manners of the clients.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value, json};

use crate::token::{Outcome, Transport};

const OUTCOMES: usize = Outcome::ALL.len();

#[derive(Default)]
pub struct Counter(AtomicU64);

#[derive(Default)]
pub struct Stats {
    requests: [Tally; Transport::ALL.len()],
    pub connections: Counter,
    /// Connections that were told to go away.
    pub goaways: Counter,
    /// Streams refused unread.
    pub refused_streams: Counter,
    /// APNs provider tokens accepted.
    pub provider_tokens: Counter,
    /// Those that came before the former one was 20 minutes old, and not after an ExpiredProviderToken.
    pub provider_token_updates: Counter,
    /// FCM access tokens given out.
    pub access_tokens: Counter,
    /// APNs requests on a connection while its first one was not answered yet: Apple allows one stream until then.
    pub early_streams: Counter,
}

#[derive(Default)]
struct Tally {
    /// Requests by outcome.
    outcomes: [Counter; OUTCOMES],
    /// Requests answered with 200 or 201.
    accepted: Counter,
}

impl Counter {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Stats {
    pub fn count(&self, transport: Transport, outcome: Outcome, status: Option<u16>) {
        let tally = &self.requests[transport as usize];
        tally.outcomes[outcome as usize].add();
        if matches!(status, Some(200 | 201)) {
            tally.accepted.add();
        }
    }

    pub fn json(&self) -> Value {
        let mut all: Map<String, Value> = Map::new();
        for transport in Transport::ALL {
            let tally = &self.requests[transport as usize];
            let counts: [u64; OUTCOMES] = array::from_fn(|index| tally.outcomes[index].get());
            let mut shown: Map<String, Value> = Map::new();
            shown.insert("requests".into(), counts.iter().sum::<u64>().into());
            shown.insert("accepted".into(), tally.accepted.get().into());
            for outcome in Outcome::ALL {
                shown.insert(outcome.name().into(), counts[outcome as usize].into());
            }
            all.insert(transport.name().into(), Value::Object(shown));
        }
        let rest = json!({
            "connections": self.connections.get(),
            "goaways": self.goaways.get(),
            "refusedStreams": self.refused_streams.get(),
            "providerTokens": self.provider_tokens.get(),
            "providerTokenUpdates": self.provider_token_updates.get(),
            "accessTokens": self.access_tokens.get(),
            "earlyStreams": self.early_streams.get(),
        });
        if let Value::Object(rest) = rest {
            all.extend(rest);
        }
        Value::Object(all)
    }
}
