//! `/_/...`: what a test or an operator asks of the simulator itself. None of it is in the log.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Simulator;
use crate::apns;
use crate::exchange::{Answer, Request};
use crate::token::{Grammar, Transport, mint_apns, mint_fcm};
use crate::webpush;

pub const PREFIX: &str = "/_/";

/// A Web Push subscription costs a scalar multiplication.
const MINT_MAX: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mint {
    transport: String,
    tokens: Vec<String>,
}

pub fn answer(simulator: &Simulator, request: &Request) -> Answer {
    let path = request.head.uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let done = match (&request.head.method, path) {
        (&Method::GET, "credentials") => {
            let (apns, certificate) = (simulator.apns.credentials(), simulator.apns.certificate());
            Ok(json!({"apns": apns, "apnsCertificate": certificate, "fcm": simulator.oauth.credentials()}))
        }
        (&Method::POST, "apns-keys") => learn(simulator, &request.body),
        (&Method::POST, "mint") => mint(simulator, &request.body),
        (&Method::GET, "switches") => Ok(json!(simulator.switches())),
        (&Method::POST, "switches") => switch(simulator, &request.body),
        (&Method::GET, "stats") => Ok(simulator.stats.json()),
        (&Method::POST, "flush") => {
            simulator.log.flush();
            Ok(json!({}))
        }
        _ => return Answer::json(404, &json!({"error": "no such thing here"})),
    };
    match done {
        Ok(body) => Answer::json(200, &body),
        Err(error) => Answer::json(400, &json!({"error": error})),
    }
}

fn learn(simulator: &Simulator, body: &[u8]) -> Result<Value, String> {
    let key: apns::NewKey = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    simulator.apns.learn(key).map(|()| json!({}))
}

fn mint(simulator: &Simulator, body: &[u8]) -> Result<Value, String> {
    let mint: Mint = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let transport = Transport::parse(&mint.transport).ok_or("transport: apns, fcm or webpush")?;
    if mint.tokens.len() > MINT_MAX {
        return Err(format!("tokens: at most {MINT_MAX}"));
    }
    if let Some(stranger) = mint.tokens.iter().find(|token| Grammar::parse(token).is_none()) {
        return Err(format!("tokens: {stranger:?} is not <outcome>[~ms][-rest]"));
    }
    let seed = &simulator.seed;
    let tokens = mint.tokens.iter().map(|grammar| match transport {
        Transport::Apns => json!(mint_apns(seed, grammar)),
        Transport::Fcm => json!(mint_fcm(seed, grammar)),
        Transport::Webpush => webpush::mint(seed, &simulator.url, grammar),
    });
    Ok(json!({"tokens": tokens.collect::<Vec<_>>()}))
}

fn switch(simulator: &Simulator, body: &[u8]) -> Result<Value, String> {
    let mut switches = simulator.switches.write().expect("no writer panics");
    let mut changed = switches.changed(body)?;
    if std::mem::take(&mut changed.expire_provider_tokens) {
        simulator.apns.expire_tokens();
        simulator.oauth.expire_tokens();
    }
    *switches = changed;
    Ok(json!(changed))
}
