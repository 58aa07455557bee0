//! A send's requests: compiled from prototypes once, filled for each recipient.
//!
//! The life of a recipient here: a `Call` of the decision is sorted into a [`Parcel`] on a lane or refused with a reason
//! ([`Parcels`]), and when its turn comes the parcel becomes a [`Request`]. Headers that are the same for everybody are
//! shared between requests.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use ring::rand::SystemRandom;
use serde::Deserialize;
use uuid::Uuid;

use super::Transport;
use super::shape::{Marks, Shape, Slot, Words};
use super::vapid::Prover;
use super::webpush::{self, Keys, Unsealed};
use crate::outcome::{Ruling, State};
use crate::policy::decide::{Call, Decided};
use crate::template::Template;
use crate::{Broken, Id, Refused};

/// As many buttons as a push has can lack their addresses, in every combination.
const OPTIONAL_MAX: usize = 8;

/// A send and its providers' credentials, compiled.
pub struct Wire {
    send: Id,
    expires_s: i64,
    titled: bool,
    templates: Vec<Template>,
    /// Extras whose place in the payload vanishes with them: each has a bit of the prototype's number.
    optional: Vec<u16>,
    apns: Carrier,
    fcm: Carrier,
    webpush: Carrier,
    prover: Option<Arc<Prover>>,
    random: SystemRandom,
}

/// What a provider is told, and the credentials under which it is told so.
#[derive(Default)]
struct Carrier {
    bytes_max: usize,
    /// By which extras are empty.
    bodies: Vec<Shape>,
    /// What counts against `bytes_max`, where it is not the body.
    sizes: Vec<Shape>,
    /// None: its provider token cannot be had right now.
    credentials: Vec<Option<Credential>>,
    /// Whose app has a credential of its own, by the device's bundle id.
    apps: HashMap<String, u8>,
    /// The credential of all others.
    rest: Option<u8>,
}

struct Credential {
    headers: Vec<(HeaderName, Value)>,
    /// For devices that name no bundle.
    bundle: String,
    /// By the device's environment, "" for every one; None: the credential cannot reach it. Empty for Web Push, whose
    /// lanes are the endpoints' origins.
    hosts: Vec<(String, Option<Host>)>,
    /// VAPID tokens by origin, for who brings no prover.
    proofs: HashMap<String, Arc<str>>,
    wants_id: bool,
}

enum Value {
    Same(HeaderValue),
    Own(Shape),
}

struct Host {
    lane: Arc<Lane>,
    path: Shape,
    halted: Option<Arc<str>>,
    /// A device that is not known there may be known by the provider's other environment.
    elsewhere: bool,
}

/// Names the connections that a request may travel on.
#[derive(Debug, PartialEq, Eq)]
pub struct Lane {
    pub transport: Transport,
    pub name: Arc<str>,
    /// The ledger's word for who is asked: the transport, which of Apple's environments, and whose credential where an
    /// app has its own. Each speaks for its own addresses only.
    pub provider: Arc<str>,
    /// scheme://host[:port].
    pub base: String,
}

/// Why a recipient gets no request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    NoTemplate,
    NoCredential,
    Mismatch,
    TooLarge,
    /// The provider refuses the credential, whoever the recipient is.
    Halted(Arc<str>),
    /// The provider's token cannot be had right now.
    Away,
    BadKeys,
    /// A word that no header can hold.
    BadHeader,
}

impl Refusal {
    pub fn reason(&self) -> &str {
        match self {
            Self::NoTemplate => "template_missing",
            Self::NoCredential => "no_credential",
            Self::Mismatch => "environment_mismatch",
            Self::TooLarge => "payload_too_large",
            Self::Halted(reason) => reason,
            Self::Away => "token_unavailable",
            Self::BadKeys => "bad_subscription",
            Self::BadHeader => "bad_header",
        }
    }

    pub fn ruling(&self, now_ms: i64) -> Ruling<'_> {
        match self {
            Self::Away => Ruling::waiting("token_unavailable", now_ms),
            other => Ruling::new(State::Rejected, Some(Cow::Borrowed(other.reason()))),
        }
    }
}

impl From<Unsealed> for Refusal {
    fn from(unsealed: Unsealed) -> Self {
        match unsealed {
            Unsealed::TooLarge => Self::TooLarge,
            Unsealed::BadKeys => Self::BadKeys,
            Unsealed::NoRandom => Self::Away,
        }
    }
}

/// A call that can be sent.
#[derive(Debug, Clone, Copy)]
pub struct Parcel {
    /// Its index in `Decided::calls`.
    pub call: u32,
    /// Its index in `Parcels::lanes`.
    pub lane: u32,
    credential: u8,
    host: u8,
    body: u8,
}

/// The calls of a chunk, sorted.
#[derive(Debug, Default)]
pub struct Parcels {
    pub lanes: Vec<Arc<Lane>>,
    pub parcels: Vec<Parcel>,
    pub refused: Vec<(u32, Refusal)>,
}

pub struct Request {
    /// With its query.
    pub path: String,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Vec<u8>,
}

impl fmt::Debug for Request {
    /// Without the headers, which carry a credential, and without what is said to whom.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({} bytes)", self.body.len())
    }
}

impl Parcels {
    /// The decision must have rendered the templates of this very wire.
    pub fn new(wire: &Wire, decided: &Decided) -> Result<Self, Broken> {
        if decided.extras_each() != wire.templates.len() {
            return Err(Broken("decided without the templates of these requests"));
        }
        let mut sorted = Self { parcels: Vec::with_capacity(decided.calls.len()), ..Self::default() };
        let mut origins: HashMap<String, u32> = HashMap::new();
        for index in 0..decided.calls.len() as u32 {
            match wire.sort(decided, index, &mut sorted.lanes, &mut origins) {
                Ok(parcel) => sorted.parcels.push(parcel),
                Err(refusal) => sorted.refused.push((index, refusal)),
            }
        }
        Ok(sorted)
    }
}

impl Wire {
    /// `prover` makes the VAPID tokens that the spec does not hold.
    pub fn new(spec: &[u8], prover: Option<Arc<Prover>>) -> Result<Self, Refused> {
        let spec: Spec = serde_json::from_slice(spec).map_err(|error| Refused::new("", error.to_string()))?;
        let send = Uuid::try_parse(&spec.send).map_err(|_| Refused::new("send", "must be a UUID"))?.into_bytes();
        if spec.optional.len() > OPTIONAL_MAX
            || spec.optional.iter().any(|&extra| usize::from(extra) >= spec.templates.len())
        {
            return Err(Refused::new("optional", "must be few, and templates"));
        }
        if spec.templates.len() > usize::from(u16::MAX) {
            return Err(Refused::new("templates", "are too many"));
        }
        let unknown = || Refused::new("marks", "an unknown slot");
        let mut slots = Vec::new();
        for name in &spec.marks.slots {
            slots.push(Slot::named(name).ok_or_else(unknown)?);
        }
        slots.extend((0..spec.templates.len()).map(|extra| Slot::Extra(extra as u16)));
        let mut plain = HashMap::new();
        for (mark, name) in spec.marks.plain {
            plain.insert(mark, Slot::named(&name).ok_or_else(unknown)?);
        }
        let marks = Marks::new(&spec.marks.open, spec.marks.close, slots, plain)?;
        let combinations = 1 << spec.optional.len();
        let carrier = |transport, given| carrier(transport, given, &marks, combinations, &spec.halted);
        Ok(Self {
            send,
            expires_s: spec.expires_at,
            titled: spec.titled,
            apns: carrier(Transport::Apns, spec.apns)?,
            fcm: carrier(Transport::Fcm, spec.fcm)?,
            webpush: carrier(Transport::WebPush, spec.webpush)?,
            templates: spec.templates.iter().map(|text| Template::new(text)).collect(),
            optional: spec.optional,
            prover,
            random: SystemRandom::new(),
        })
    }

    /// What has placeholders beside title and body: to be rendered by the decision.
    pub fn templates(&self) -> &[Template] {
        &self.templates
    }

    pub fn send(&self) -> Id {
        self.send
    }

    /// Whether a device that is not known where the parcel goes is to be tried in the provider's other environment.
    pub fn elsewhere(&self, transport: Transport, parcel: &Parcel) -> bool {
        let credential = self.credential(transport, parcel.credential);
        credential.ok().and_then(|credential| credential.host(parcel)).is_some_and(|host| host.elsewhere)
    }

    /// The parcel's request as of now; a browser's is encrypted under a fresh key each time.
    pub fn request(
        &self,
        decided: &Decided,
        parcels: &Parcels,
        parcel: &Parcel,
        now_s: i64,
    ) -> Result<Request, Refusal> {
        let call = &decided.calls[parcel.call as usize];
        let lane = &parcels.lanes[parcel.lane as usize];
        let credential = self.credential(lane.transport, parcel.credential)?;
        let proof = match lane.transport {
            Transport::WebPush => self.proof(credential, &lane.base, now_s)?,
            _ => "".into(),
        };
        let (mut hex, mut id) = (Uuid::encode_buffer(), Uuid::encode_buffer());
        let recipient = simple(call.recipient, &mut hex);
        let words = Own {
            decided,
            call,
            bundle: &credential.bundle,
            recipient,
            proof: &proof,
            request_id: if credential.wants_id {
                let send = Uuid::from_bytes(self.send);
                Uuid::new_v5(&send, recipient.as_bytes()).hyphenated().encode_lower(&mut id)
            } else {
                ""
            },
            ttl: (self.expires_s - now_s).max(0).to_string(),
            expires: self.expires_s.max(now_s).to_string(),
        };
        let text = filled(&self.carrier(lane.transport).bodies[usize::from(parcel.body)], &words);
        let mut headers = Vec::with_capacity(credential.headers.len());
        for (name, value) in &credential.headers {
            let value = match value {
                Value::Same(value) => value.clone(),
                Value::Own(shape) => HeaderValue::try_from(filled(shape, &words)).map_err(|_| Refusal::BadHeader)?,
            };
            headers.push((name.clone(), value));
        }
        let (path, body) = if let Some(host) = credential.host(parcel) {
            (filled(&host.path, &words), text.into_bytes())
        } else {
            let keys = decided.optional(call.subscription).ok_or(Refusal::NoCredential)?;
            let sealed =
                Keys::of_subscription(keys).and_then(|keys| webpush::encrypt(text.as_bytes(), &keys, &self.random))?;
            (path_of(webpush::split(decided.text(call.token)).1), sealed)
        };
        Ok(Request { path, headers, body })
    }

    fn carrier(&self, transport: Transport) -> &Carrier {
        match transport {
            Transport::Apns => &self.apns,
            Transport::Fcm => &self.fcm,
            Transport::WebPush => &self.webpush,
        }
    }

    fn credential(&self, transport: Transport, place: u8) -> Result<&Credential, Refusal> {
        let known = self.carrier(transport).credentials.get(usize::from(place));
        known.and_then(Option::as_ref).ok_or(Refusal::Away)
    }

    fn proof(&self, credential: &Credential, origin: &str, now_s: i64) -> Result<Arc<str>, Refusal> {
        match (credential.proofs.get(origin), &self.prover) {
            (Some(proof), _) => Ok(Arc::clone(proof)),
            (None, Some(prover)) => Ok(prover.proof(origin, now_s)?),
            (None, None) => Err(Refusal::Away),
        }
    }

    /// Lane, credential, host and body of a call, or why it is not sent; the reasons in the order of the builders.
    fn sort(
        &self,
        decided: &Decided,
        index: u32,
        lanes: &mut Vec<Arc<Lane>>,
        origins: &mut HashMap<String, u32>,
    ) -> Result<Parcel, Refusal> {
        let call = &decided.calls[index as usize];
        let transport = Transport::of(decided.text(call.platform)).ok_or(Refusal::NoCredential)?;
        let carrier = self.carrier(transport);
        let place = carrier.place_of(decided.optional(call.bundle_id));
        let credential = place.map(|place| self.credential(transport, place)).transpose()?;
        if !self.titled {
            return Err(Refusal::NoTemplate);
        }
        let (Some(credential), Some(place)) = (credential, place) else { return Err(Refusal::NoCredential) };
        let body = self.body_of(decided, call);
        if transport == Transport::WebPush {
            if call.subscription.is_none() {
                return Err(Refusal::NoCredential);
            }
            carrier.check_size(decided, call, credential, body)?;
            let origin = webpush::split(decided.text(call.token)).0;
            let lane = *origins.entry(origin).or_insert_with_key(|origin| {
                let provider: Arc<str> = transport.name().into();
                let name = format!("{provider}:{origin}").into();
                lanes.push(Arc::new(Lane { transport, name, provider, base: origin.clone() }));
                lanes.len() as u32 - 1
            });
            return Ok(Parcel { call: index, lane, credential: place, host: 0, body });
        }
        let environment = decided.text(call.environment);
        let found = credential.hosts.iter().position(|(of, _)| of.is_empty() || of == environment);
        let host = found.ok_or(Refusal::Mismatch)?;
        let Some(known) = &credential.hosts[host].1 else { return Err(Refusal::Mismatch) };
        carrier.check_size(decided, call, credential, body)?;
        if let Some(reason) = &known.halted {
            return Err(Refusal::Halted(Arc::clone(reason)));
        }
        let lane = lanes.iter().position(|lane| Arc::ptr_eq(lane, &known.lane)).unwrap_or_else(|| {
            lanes.push(Arc::clone(&known.lane));
            lanes.len() - 1
        });
        Ok(Parcel { call: index, lane: lane as u32, credential: place, host: host as u8, body })
    }

    /// Which prototype: by the extras that are empty for this recipient.
    fn body_of(&self, decided: &Decided, call: &Call) -> u8 {
        let bits = (0..).zip(&self.optional);
        bits.map(|(bit, &extra)| u8::from(decided.extra(call, extra).is_empty()) << bit).sum()
    }
}

impl Credential {
    fn host(&self, parcel: &Parcel) -> Option<&Host> {
        self.hosts.get(usize::from(parcel.host)).and_then(|(_, host)| host.as_ref())
    }
}

impl Carrier {
    /// An app's own credential comes before the project's.
    fn place_of(&self, bundle_id: Option<&str>) -> Option<u8> {
        bundle_id.and_then(|bundle| self.apps.get(bundle)).copied().or(self.rest)
    }

    /// Whether the payload has more bytes than the provider takes.
    fn check_size(&self, decided: &Decided, call: &Call, credential: &Credential, body: u8) -> Result<(), Refusal> {
        let shapes = if self.sizes.is_empty() { &self.bodies } else { &self.sizes };
        let mut buffer = Uuid::encode_buffer();
        let words = Own {
            decided,
            call,
            bundle: &credential.bundle,
            recipient: simple(call.recipient, &mut buffer),
            // What counts against a size names neither.
            proof: "",
            request_id: "",
            ttl: String::new(),
            expires: String::new(),
        };
        if call.oversized || shapes[usize::from(body)].exceeds(&words, self.bytes_max) {
            return Err(Refusal::TooLarge);
        }
        Ok(())
    }
}

fn simple(id: Id, buffer: &mut [u8; 36 + 9]) -> &str {
    Uuid::from_bytes(id).simple().encode_lower(buffer)
}

/// The words of one recipient.
struct Own<'a> {
    decided: &'a Decided,
    call: &'a Call,
    bundle: &'a str,
    recipient: &'a str,
    proof: &'a str,
    request_id: &'a str,
    ttl: String,
    expires: String,
}

impl Words for Own<'_> {
    fn word(&self, slot: Slot) -> &str {
        let text = |span| self.decided.text(span);
        match slot {
            Slot::Title => text(self.call.title),
            Slot::Body => text(self.call.body),
            Slot::Token => text(self.call.token),
            Slot::Bundle => match self.decided.optional(self.call.bundle_id) {
                Some(bundle) if !bundle.is_empty() => bundle,
                _ => self.bundle,
            },
            Slot::Proof => self.proof,
            Slot::Recipient => self.recipient,
            Slot::RequestId => self.request_id,
            Slot::Ttl => &self.ttl,
            Slot::Expires => &self.expires,
            Slot::Extra(extra) => self.decided.extra(self.call, extra),
        }
    }
}

fn filled(shape: &Shape, words: &Own<'_>) -> String {
    let mut out = String::with_capacity(shape.literal_bytes() + WORDS_BYTES);
    shape.fill(words, &mut out);
    out
}

/// What most recipients' words have together; the rest grows.
const WORDS_BYTES: usize = 256;

/// An endpoint's path as a request names it.
fn path_of(behind_host: &str) -> String {
    let path = behind_host.split('#').next().unwrap_or_default();
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn carrier(
    transport: Transport,
    spec: Option<CarrierSpec>,
    marks: &Marks,
    combinations: usize,
    halted: &BTreeMap<String, String>,
) -> Result<Carrier, Refused> {
    let Some(spec) = spec else { return Ok(Carrier::default()) };
    let shapes = |texts: &[String]| texts.iter().map(|text| Shape::new(text, marks)).collect::<Result<Vec<_>, _>>();
    let (bodies, sizes) = (shapes(&spec.bodies)?, shapes(&spec.sizes)?);
    if bodies.len() != combinations || (!sizes.is_empty() && sizes.len() != combinations) {
        return Err(Refused::new("bodies", "must be one for each combination"));
    }
    let n = spec.credentials.len();
    if n > CREDENTIALS_MAX || spec.apps.values().chain(&spec.rest).any(|&place| usize::from(place) >= n) {
        return Err(Refused::new("credentials", "must be few, and those that are named"));
    }
    let credentials = spec.credentials.into_iter();
    let credentials = credentials.map(|one| one.map(|one| credential(transport, one, marks, halted)).transpose());
    Ok(Carrier {
        bytes_max: spec.bytes_max,
        bodies,
        sizes,
        credentials: credentials.collect::<Result<_, _>>()?,
        apps: spec.apps,
        rest: spec.rest,
    })
}

fn credential(
    transport: Transport,
    spec: CredentialSpec,
    marks: &Marks,
    halted: &BTreeMap<String, String>,
) -> Result<Credential, Refused> {
    let mut headers = Vec::new();
    for (name, value) in spec.headers {
        let refused = |_| Refused::new("headers", "cannot be sent");
        let shape = Shape::new(&value, marks)?;
        let value = match shape.fixed() {
            Some(fixed) => Value::Same(HeaderValue::from_str(fixed).map_err(|error| refused(error.to_string()))?),
            None => Value::Own(shape),
        };
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| refused(error.to_string()))?;
        headers.push((name, value));
    }
    let mut hosts: Vec<(String, Option<Host>)> = Vec::new();
    for (environment, host) in spec.hosts {
        let host = host.map(|host| {
            let (base, path) = webpush::split(&host.url);
            let known = hosts.iter().filter_map(|(_, known)| known.as_ref().map(|known| &known.lane));
            let known = known.into_iter().find(|lane| *lane.name == *host.lane && lane.base == base).cloned();
            Ok(Host {
                halted: halted.get(&host.lane).map(|reason| reason.as_str().into()),
                lane: known.unwrap_or_else(|| {
                    let (name, provider) = (host.lane.into(), host.provider.into());
                    Arc::new(Lane { transport, name, provider, base })
                }),
                path: Shape::new(path, marks)?,
                elsewhere: host.elsewhere,
            })
        });
        hosts.push((environment, host.transpose()?));
    }
    if hosts.is_empty() != (transport == Transport::WebPush) || hosts.len() > HOSTS_MAX {
        return Err(Refused::new("hosts", "only a browser's endpoint is its own"));
    }
    let wants = |slot| headers.iter().any(|(_, value)| matches!(value, Value::Own(shape) if shape.has(slot)));
    Ok(Credential {
        bundle: spec.bundle,
        hosts,
        proofs: spec.proofs.into_iter().map(|(origin, proof)| (origin, proof.into())).collect(),
        wants_id: wants(Slot::RequestId),
        headers,
    })
}

/// A project's own, and one for each of its apps.
const CREDENTIALS_MAX: usize = 128;

/// Production and development, each as what the device says of itself and as what is tried instead.
const HOSTS_MAX: usize = 4;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    send: String,
    expires_at: i64,
    titled: bool,
    marks: MarksSpec,
    templates: Vec<String>,
    optional: Vec<u16>,
    halted: BTreeMap<String, String>,
    apns: Option<CarrierSpec>,
    fcm: Option<CarrierSpec>,
    webpush: Option<CarrierSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MarksSpec {
    open: String,
    close: char,
    slots: Vec<String>,
    plain: HashMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct CarrierSpec {
    bytes_max: usize,
    bodies: Vec<String>,
    sizes: Vec<String>,
    credentials: Vec<Option<CredentialSpec>>,
    apps: HashMap<String, u8>,
    rest: Option<u8>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct CredentialSpec {
    headers: Vec<(String, String)>,
    bundle: String,
    hosts: BTreeMap<String, Option<HostSpec>>,
    proofs: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostSpec {
    lane: String,
    provider: String,
    url: String,
    #[serde(default)]
    elsewhere: bool,
}
