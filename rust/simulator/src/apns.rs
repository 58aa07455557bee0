//! APNs: `POST /3/device/<token>` with a provider token, as Apple documents it.
//!
//! Provider tokens are verified once and remembered by their bytes. Three rules of Apple's go beyond a signature: a token
//! is good for an hour; a team that replaces one younger than 20 minutes is counted (`providerTokenUpdates`) or, by switch,
//! refused; and the first token that a connection shows binds it to that team and key.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use http::{HeaderName, Method};
use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Simulator;
use crate::config::BUNDLE_ID;
use crate::exchange::{Answer, Message, Reply, Request, Said, Worded, text};
use crate::jwt::Jwt;
use crate::log::now_ms;
use crate::server::Binding;
use crate::tls::kept_key;
use crate::token::{Transport, read};

const PATH: &str = "/3/device";
/// Stands before the path of Apple's other environment, which has a host of its own.
const SANDBOX: &str = "/sandbox";

/// Of the credentials that the simulator gives out; ten characters, as Apple's.
const TEAM_ID: &str = "SIMULTEAM1";
const KEY_ID: &str = "SIMULKEY01";
const TOKEN_AGE_S_MAX: i64 = 3_600;
const TOKEN_AGE_S_MIN: i64 = 1_200;
/// Clocks of one machine agree; those of a cluster should.
const SKEW_S: i64 = 60;
/// A broadcast needs one token an hour; the rest is somebody else's experiments.
const TOKENS_MAX: usize = 1_024;
const PAYLOAD_MAX: usize = 4_096;
const VOIP_PAYLOAD_MAX: usize = 5_120;
const COLLAPSE_ID_MAX: usize = 64;
/// What comes before the point in the DER of a P-256 public key.
const SPKI_PREFIX: usize = 26;
const POINT: usize = 65;

const APNS_ID: HeaderName = HeaderName::from_static("apns-id");

/// Push types and what their topic ends with.
const PUSH_TYPES: [(&str, &str); 10] = [
    ("alert", ""),
    ("background", ""),
    ("liveactivity", ".push-type.liveactivity"),
    ("location", ".location-query"),
    ("voip", ".voip"),
    ("complication", ".complication"),
    ("fileprovider", ".pushkit.fileprovider"),
    ("pushtotalk", ".voip-ptt"),
    ("widgets", ".push-type.widgets"),
    ("controls", ".push-type.controls"),
];

pub struct Apns {
    p8: String,
    /// A certificate and its key, for who shows no token.
    client: (String, String),
    /// (team, key) -> the uncompressed point.
    keys: RwLock<HashMap<(String, String), Vec<u8>>>,
    /// By team: a token speaks for the apps of its own, the certificate for those of the first.
    bundle_ids: RwLock<HashMap<String, HashSet<String>>>,
    /// `authorization` -> the verified token.
    tokens: RwLock<HashMap<String, Arc<ProviderToken>>>,
    teams: Mutex<HashMap<String, Team>>,
}

struct ProviderToken {
    binding: Binding,
    issued_s: i64,
    revoked: AtomicBool,
}

/// A team's newest token.
struct Team {
    issued_s: i64,
    /// The team has been told that a token is too old: it may bring a new one, however young the old one is.
    told_expired: bool,
    /// Older tokens are no longer good.
    floor_s: i64,
}

/// `POST /_/apns-keys`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewKey {
    key_id: String,
    team_id: String,
    public_key_pem: String,
    #[serde(default)]
    bundle_ids: Vec<String>,
}

struct Refusal(u16, &'static str);

impl Apns {
    pub fn open(directory: &Path, bundle_ids: &[String], client: (String, String)) -> Result<Self, String> {
        let pair: KeyPair = kept_key(&directory.join("apns.p8"))?;
        let ours = ((TEAM_ID.into(), KEY_ID.into()), pair.der_bytes().to_vec());
        Ok(Self {
            p8: pair.serialize_pem(),
            client,
            keys: RwLock::new(HashMap::from([ours])),
            bundle_ids: RwLock::new(HashMap::from([(TEAM_ID.into(), bundle_ids.iter().cloned().collect())])),
            tokens: RwLock::default(),
            teams: Mutex::default(),
        })
    }

    /// What Apple's console would give out.
    pub fn credentials(&self) -> Value {
        json!({"p8Key": self.p8, "keyId": KEY_ID, "teamId": TEAM_ID, "bundleId": BUNDLE_ID})
    }

    /// The other way in, which Apple had first.
    pub fn certificate(&self) -> Value {
        let (certificate, key) = &self.client;
        json!({"certificate": certificate, "privateKey": key, "bundleId": BUNDLE_ID})
    }

    /// Learns one more key.
    pub fn learn(&self, key: NewKey) -> Result<(), String> {
        let spki = SubjectPublicKeyInfoDer::from_pem_slice(key.public_key_pem.as_bytes())
            .map_err(|error| format!("publicKeyPem: {error}"))?;
        let point = spki.get(SPKI_PREFIX..).filter(|point| point.len() == POINT && point[0] == 4);
        let point = point.ok_or("publicKeyPem: not a P-256 key")?.to_vec();
        let mut bundle_ids = self.bundle_ids.write().expect("no writer panics");
        bundle_ids.entry(key.team_id.clone()).or_default().extend(key.bundle_ids);
        self.keys.write().expect("no writer panics").insert((key.team_id, key.key_id), point);
        Ok(())
    }

    /// From now on every token seen so far answers ExpiredProviderToken, and so does everything older.
    pub fn expire_tokens(&self) {
        let tokens = self.tokens.write().expect("no writer panics");
        tokens.values().for_each(|token| token.revoked.store(true, Ordering::Relaxed));
        for team in self.teams.lock().expect("no holder panics").values_mut() {
            team.floor_s = team.issued_s;
        }
    }
}

pub fn is_theirs(path: &str) -> bool {
    path.strip_prefix(SANDBOX).unwrap_or(path).starts_with(PATH)
}

/// Takes one notification.
pub fn take(simulator: &Simulator, request: &Request) -> Reply {
    let path = request.head.uri.path();
    let (sandbox, path) = path.strip_prefix(SANDBOX).map_or((false, path), |path| (true, path));
    let token = path.strip_prefix(PATH).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
    let grammar = read(Transport::Apns, token);
    let payload: Option<Value> = serde_json::from_slice(&request.body).ok();
    let payload = payload.as_ref();
    let alert = payload.and_then(|payload| payload.get("aps")?.get("alert"));
    let message = Message {
        transport: Transport::Apns,
        token,
        grammar: grammar.as_deref(),
        send_id: text(payload, &["sendoraSendId"]).or_else(|| text(payload, &["data", "sendoraSendId"])),
        delivery_id: text(payload, &["sendoraDeliveryId"]).or_else(|| text(payload, &["data", "sendoraDeliveryId"])),
        title: text(alert, &["title"]),
        body: alert.and_then(Value::as_str).or_else(|| text(alert, &["body"])),
        payload: &request.body,
        dry: false,
    };
    let id =
        request.header("apns-id").filter(|id| is_canonical(id)).map_or_else(|| Uuid::now_v7().to_string(), Into::into);
    let now_s = (now_ms() / 1_000) as i64;
    let check = || {
        check_route(request, token)?;
        let known = if simulator.require_auth { check_provider_token(simulator, request, now_s)? } else { None };
        check_headers(simulator, request, known.as_ref().map_or(TEAM_ID, |token| &token.binding.team))?;
        check_payload(request, payload)?;
        check_environment(grammar.as_deref(), sandbox)
    };
    let failed = |status, reason| Worded::failed(Answer::json(status, &json!({"reason": reason})), reason);
    let passed = |answer| Worded { answer, reason: None, id: None };
    simulator.take(request, &message, check, |said| {
        let Worded { answer, reason, .. } = match said {
            Said::Accepted => passed(Answer::empty(200)),
            Said::Gone => {
                let body = json!({"reason": "Unregistered", "timestamp": now_ms()});
                Worded::failed(Answer::json(410, &body), "Unregistered")
            }
            Said::BadToken => failed(400, "BadDeviceToken"),
            Said::Throttled => failed(429, "TooManyRequests").retry(),
            Said::Unavailable => failed(503, "ServiceUnavailable").retry(),
            Said::Junk { error: false } => passed(Answer::junk(200)),
            Said::Junk { error: true } => passed(Answer::junk_page()),
            Said::Refused(Refusal(status, reason)) => failed(status, reason),
        };
        Worded { answer: answer.with(APNS_ID, &id), reason, id: Some(id) }
    })
}

fn check_route(request: &Request, token: &str) -> Result<(), Refusal> {
    if request.stream.is_none() {
        return Err(Refusal(505, "HttpVersionNotSupported"));
    }
    if request.head.method != Method::POST {
        return Err(Refusal(405, "MethodNotAllowed"));
    }
    match token {
        "" => Err(Refusal(400, "MissingDeviceToken")),
        token if token.contains('/') => Err(Refusal(404, "BadPath")),
        _ => Ok(()),
    }
}

/// None for who is known by a certificate.
fn check_provider_token(
    simulator: &Simulator,
    request: &Request,
    now_s: i64,
) -> Result<Option<Arc<ProviderToken>>, Refusal> {
    let apns = &simulator.apns;
    let Some(authorization) = request.header("authorization") else {
        let certified = request.connection.certified.load(Ordering::Relaxed);
        return if certified { Ok(None) } else { Err(Refusal(403, "MissingProviderToken")) };
    };
    let known = apns.tokens.read().expect("no writer panics").get(authorization).cloned();
    let token = match known {
        Some(token) => token,
        None => admit(simulator, authorization, now_s)?,
    };
    if now_s - token.issued_s > TOKEN_AGE_S_MAX || token.revoked.load(Ordering::Relaxed) {
        if let Some(team) = apns.teams.lock().expect("no holder panics").get_mut(&token.binding.team) {
            team.told_expired = true;
        }
        return Err(Refusal(403, "ExpiredProviderToken"));
    }
    let bound = request.connection.bound.get_or_init(|| token.binding.clone());
    match bound {
        bound if bound.team != token.binding.team => Err(Refusal(403, "InvalidProviderToken")),
        bound if bound.key != token.binding.key => Err(Refusal(403, "UnrelatedKeyIdInToken")),
        _ => Ok(Some(token)),
    }
}

/// Looks at a token for the first time.
fn admit(simulator: &Simulator, authorization: &str, now_s: i64) -> Result<Arc<ProviderToken>, Refusal> {
    const INVALID: Refusal = Refusal(403, "InvalidProviderToken");
    const EXPIRED: Refusal = Refusal(403, "ExpiredProviderToken");
    let apns = &simulator.apns;
    let scheme = authorization.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("bearer "));
    let jwt = scheme.and_then(|_| Jwt::parse(&authorization[7..])).ok_or(INVALID)?;
    let (Some(team), Some(key), Some(issued_s)) = (&jwt.claims.iss, &jwt.header.kid, jwt.claims.iat) else {
        return Err(INVALID);
    };
    let binding = Binding { team: team.clone(), key: key.clone() };
    let public = apns.keys.read().expect("no writer panics").get(&(team.clone(), key.clone())).cloned();
    if !public.is_some_and(|public| jwt.is_es256_of(&public)) {
        return Err(INVALID);
    }
    // Two streams may bring the same new token at once: the second finds it here, and it is no second update.
    let mut tokens = apns.tokens.write().expect("no writer panics");
    if let Some(token) = tokens.get(authorization) {
        return Ok(Arc::clone(token));
    }
    let mut teams = apns.teams.lock().expect("no holder panics");
    let (age_s, team) = (now_s - issued_s, teams.get_mut(&binding.team));
    let outdated = team.as_ref().is_some_and(|team| issued_s < team.floor_s);
    if !(-SKEW_S..=TOKEN_AGE_S_MAX).contains(&age_s) || outdated {
        if let Some(team) = team {
            team.told_expired = true;
        }
        return Err(EXPIRED);
    }
    let (early, floor_s) = team.map_or((false, i64::MIN), |team| {
        (now_s - team.issued_s < TOKEN_AGE_S_MIN && !team.told_expired, team.floor_s)
    });
    if early {
        simulator.stats.provider_token_updates.add();
        if simulator.switches().refuse_token_updates {
            return Err(Refusal(429, "TooManyProviderTokenUpdates"));
        }
    }
    teams.insert(binding.team.clone(), Team { issued_s, told_expired: false, floor_s });
    simulator.stats.provider_tokens.add();
    if tokens.len() >= TOKENS_MAX {
        tokens.clear();
    }
    let token = Arc::new(ProviderToken { binding, issued_s, revoked: AtomicBool::new(false) });
    tokens.insert(authorization.into(), Arc::clone(&token));
    Ok(token)
}

fn check_headers(simulator: &Simulator, request: &Request, team: &str) -> Result<(), Refusal> {
    let bad = |reason| Err(Refusal(400, reason));
    let headers = &request.head.headers;
    if headers.len() != headers.keys_len() {
        return bad("DuplicateHeaders");
    }
    if request.header("apns-id").is_some_and(|id| !is_canonical(id)) {
        return bad("BadMessageId");
    }
    let Some((push_type, suffix)) = push_type(request) else {
        return bad("InvalidPushType");
    };
    match (push_type, request.header("apns-priority").unwrap_or("10")) {
        ("background", "5") => {}
        ("background", _) => return bad("BadPriority"),
        (_, "10" | "5" | "1") => {}
        _ => return bad("BadPriority"),
    }
    if request.header("apns-expiration").is_some_and(|at| at.parse::<u32>().is_err()) {
        return bad("BadExpirationDate");
    }
    // Bytes, not characters, and not only what a text may hold.
    if headers.get("apns-collapse-id").is_some_and(|id| id.len() > COLLAPSE_ID_MAX) {
        return bad("BadCollapseId");
    }
    let Some(topic) = request.header("apns-topic") else {
        return bad("MissingTopic");
    };
    if topic.is_empty() || !topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) {
        return bad("BadTopic");
    }
    let bundle_ids = simulator.apns.bundle_ids.read().expect("no writer panics");
    match (topic.strip_suffix(suffix), bundle_ids.get(team)) {
        (Some(bundle_id), Some(theirs)) if theirs.contains(bundle_id) => Ok(()),
        _ => bad("TopicDisallowed"),
    }
}

/// Apple has no word for what is not JSON or has no `aps`; it is as good as empty.
fn check_payload(request: &Request, payload: Option<&Value>) -> Result<(), Refusal> {
    let limit = match push_type(request) {
        Some(("voip", _)) => VOIP_PAYLOAD_MAX,
        _ => PAYLOAD_MAX,
    };
    if request.body.len() > limit {
        return Err(Refusal(413, "PayloadTooLarge"));
    }
    match payload.and_then(|payload| payload.get("aps")) {
        Some(Value::Object(_)) => Ok(()),
        _ => Err(Refusal(400, "PayloadEmpty")),
    }
}

/// A device whose name begins with an environment is known to that one alone.
fn check_environment(grammar: Option<&str>, sandbox: bool) -> Result<(), Refusal> {
    let name = grammar.and_then(|grammar| grammar.split_once('-')).map_or("", |(_, name)| name);
    let stranger = if sandbox { "production" } else { "sandbox" };
    if name.starts_with(stranger) { Err(Refusal(400, "BadDeviceToken")) } else { Ok(()) }
}

fn push_type(request: &Request) -> Option<(&'static str, &'static str)> {
    let wanted = request.header("apns-push-type")?;
    PUSH_TYPES.into_iter().find(|(name, _)| *name == wanted)
}

fn is_canonical(id: &str) -> bool {
    Uuid::try_parse(id).is_ok_and(|uuid| uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == id)
}
