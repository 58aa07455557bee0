//! What can be changed while it runs: `POST /_/switches` takes some of the keys and leaves the others as they are.
//! Requests to `/_/` are never counted, refused or delayed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What Apple's servers have been seen to announce.
const STREAMS: u32 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "switches")]
pub struct Switches {
    /// GOAWAY after each connection's n-th request; what came before it is answered. 0: never.
    pub goaway_every: u64,
    /// RST_STREAM(REFUSED_STREAM) for each connection's every n-th request, unread: it is not in the log. 0: never.
    pub refuse_every: u64,
    /// SETTINGS_MAX_CONCURRENT_STREAMS of new connections.
    pub max_concurrent_streams: u32,
    /// Added to the delay of every answer of a provider.
    pub delay_ms: u64,
    /// Everything at this place is answered 503.
    pub outage: Option<Place>,
    /// Every provider request is answered 429.
    pub throttle_all: bool,
    /// 429 TooManyProviderTokenUpdates for APNs tokens that came too early, instead of only counting them.
    pub refuse_token_updates: bool,
    /// Each line of the log has the whole payload (a browser's decrypted) and the headers beside the credential.
    pub log_payloads: bool,
    /// Not a state but a deed: the provider and access tokens of this instant are no longer good. Reads as false.
    pub expire_provider_tokens: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    Apns,
    Fcm,
    Webpush,
    /// FCM's token endpoint alone.
    Oauth,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            goaway_every: 0,
            refuse_every: 0,
            max_concurrent_streams: STREAMS,
            delay_ms: 0,
            outage: None,
            throttle_all: false,
            refuse_token_updates: false,
            log_payloads: false,
            expire_provider_tokens: false,
        }
    }
}

impl Switches {
    /// The switches after a change; null puts one back to its default.
    pub fn changed(self, change: &[u8]) -> Result<Self, String> {
        let change: serde_json::Map<String, Value> =
            serde_json::from_slice(change).map_err(|error| error.to_string())?;
        let as_map = |switches: Self| match serde_json::to_value(switches) {
            Ok(Value::Object(map)) => map,
            _ => serde_json::Map::new(),
        };
        let (mut now, defaults) = (as_map(self), as_map(Self::default()));
        for (key, value) in change {
            let value = if value.is_null() { defaults.get(&key).cloned().unwrap_or(Value::Null) } else { value };
            now.insert(key, value);
        }
        let switches: Self = serde_json::from_value(Value::Object(now)).map_err(|error| error.to_string())?;
        if switches.max_concurrent_streams == 0 {
            return Err("maxConcurrentStreams: at least 1".into());
        }
        Ok(switches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_leaves_the_others_alone() {
        let once = Switches::default().changed(br#"{"goawayEvery": 7, "outage": "fcm"}"#).unwrap();
        assert_eq!((once.goaway_every, once.outage), (7, Some(Place::Fcm)));
        let twice = once.changed(br#"{"outage": null, "expireProviderTokens": true}"#).unwrap();
        assert_eq!((twice.goaway_every, twice.outage, twice.expire_provider_tokens), (7, None, true));
        let back = twice.changed(br#"{"goawayEvery": null, "expireProviderTokens": null}"#).unwrap();
        assert_eq!(back, Switches::default());
    }

    #[test]
    fn nonsense_is_refused() {
        for change in
            [&br#"{"goAwayEvery": 1}"#[..], br#"{"outage": "apple"}"#, b"[]", br#"{"maxConcurrentStreams": 0}"#]
        {
            assert!(Switches::default().changed(change).is_err());
        }
    }
}
