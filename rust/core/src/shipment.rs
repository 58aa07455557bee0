//! A chunk in the library's hands: decided once, asked for its requests one by one, told what became of each, and
//! emptied of its outcomes in batches.
//!
//! A recipient here is an *item*: those who are sent to, in the order of their positions. Who stays, who cannot be sent to
//! and who must not be repeated has an outcome from the beginning. Lanes ask for requests and bring answers from several
//! threads; the ledger's side takes what has gathered. Every recipient leaves in exactly one batch.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::outcome::{Chunk, Outcome, OutcomeBatch, Ruling};
use crate::policy::caps::Caps;
use crate::policy::decide::Decided;
use crate::policy::note::Note;
use crate::providers::answer;
use crate::providers::halts::{Halts, Since};
use crate::providers::wire::{Lane, Parcel, Parcels, Refusal, Request, Wire};
use crate::retry::{Terms, retry_after_s, settle};
use crate::{Broken, Id};

const WORKER_LOST: &str = "worker_lost";
const NO_ANSWER: &str = "no_answer";

/// What is known of a chunk when a worker takes it up.
#[derive(Debug, Clone, Copy)]
pub struct Manifest {
    pub chunk: Chunk,
    pub terms: Terms,
    /// Since when the send is on its way: a connection that cannot be made is tried anew after a part of its age.
    pub planned_ms: i64,
    /// The mark: whoever lies below it and has no outcome may have been sent by a former owner.
    pub started: i16,
    /// Its recipients were written once without an answer.
    pub repeated: bool,
    /// The millisecond of the send's last retry, or 0.
    pub retried_ms: i64,
}

impl Manifest {
    fn since(&self) -> Since {
        (self.chunk.send, self.retried_ms)
    }
}

/// What an answer says of the lane it came by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Said {
    /// The provider takes our requests.
    Success,
    /// Nothing: 401 and 403 do not prove that the credential is accepted, 5xx proves nothing.
    Neutral,
    /// Too much was asked, of one device or of the account; not again before so many seconds, where the provider says so.
    Throttled(Option<f64>),
}

impl Said {
    pub fn of<'h>(status: u16, header: impl Fn(&str) -> Option<&'h str>, now_ms: i64) -> Self {
        match status {
            429 => Self::Throttled(retry_after_s(header("retry-after"), now_ms)),
            401 | 403 | 500.. => Self::Neutral,
            _ => Self::Success,
        }
    }
}

/// What has gathered since it was last taken.
pub struct Taken {
    pub outcomes: OutcomeBatch,
    /// How many of them had been admitted, by lane.
    pub ended: Vec<(Arc<Lane>, usize)>,
    /// Lanes on which the provider's token has expired: some items wait for a fresh one.
    pub renewing: Vec<Arc<Lane>>,
    /// Recipients without an outcome, those included.
    pub left: usize,
    /// Lanes on which the send was halted, and why.
    pub halted: Vec<(Arc<str>, String)>,
}

pub struct Shipment {
    manifest: Manifest,
    decided: Decided,
    parcels: Parcels,
    /// Counted: each renewal brings the next.
    wire: RwLock<(u32, Arc<Wire>)>,
    /// By item, under which wire its last request was built.
    built: Vec<AtomicU32>,
    halts: Arc<Mutex<Halts>>,
    state: Mutex<Gathered>,
}

struct Gathered {
    outcomes: OutcomeBatch,
    /// By lane.
    ended: Vec<usize>,
    left: usize,
    renewing: Vec<(u32, Ruling<'static>)>,
    renewed: HashSet<u32>,
    halted: Vec<(Arc<str>, String)>,
}

/// How one recipient's row names it.
struct Who<'a> {
    position: i16,
    recipient: Id,
    user_id: Option<&'a str>,
    variant: Option<&'a str>,
    provider: Option<&'a str>,
}

impl Shipment {
    /// Decides the rows of a chunk (those without an outcome) and sorts whoever is sent to onto lanes.
    pub fn new(
        note: &Note,
        wire: Arc<Wire>,
        rows: &[u8],
        caps: Option<&mut Caps>,
        manifest: Manifest,
        halts: Arc<Mutex<Halts>>,
        now_ms: i64,
    ) -> Result<Self, Broken> {
        let decided = note.decide(rows, caps, now_ms, wire.templates())?;
        let mut parcels = Parcels::new(&wire, &decided)?;
        parcels.parcels.sort_by_key(|parcel| decided.calls[parcel.call as usize].position);
        let left = decided.calls.len() + decided.stays.len();
        let mut gathered = Gathered {
            outcomes: OutcomeBatch::new(manifest.chunk),
            ended: vec![0; parcels.lanes.len()],
            left,
            renewing: Vec::new(),
            renewed: HashSet::new(),
            halted: Vec::new(),
        };
        for stay in &decided.stays {
            let who = Who {
                position: stay.position,
                recipient: stay.recipient,
                user_id: decided.optional(stay.user_id),
                variant: decided.optional(stay.variant),
                provider: None,
            };
            gathered.push(&manifest, &who, stay.ruling(), false);
        }
        for (call, refusal) in &parcels.refused {
            gathered.push(&manifest, &who(&decided, *call, None), refusal.ruling(now_ms), false);
        }
        refuse_halted(&mut parcels, &decided, &manifest, &lock(&halts), &mut gathered);
        if manifest.terms.at_most_once {
            leave_unknown(&mut parcels, &decided, &manifest, &mut gathered, now_ms);
        }
        let built = parcels.parcels.iter().map(|_| AtomicU32::new(0)).collect();
        Ok(Self { manifest, decided, parcels, wire: RwLock::new((0, wire)), built, halts, state: Mutex::new(gathered) })
    }

    /// How many are sent to.
    pub fn len(&self) -> usize {
        self.parcels.parcels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.parcels.parcels.is_empty()
    }

    pub fn position(&self, item: u32) -> i16 {
        self.decided.calls[self.parcel(item).call as usize].position
    }

    pub fn lane(&self, item: u32) -> &Arc<Lane> {
        &self.parcels.lanes[self.parcel(item).lane as usize]
    }

    /// Every lane that some item goes by.
    pub fn lanes(&self) -> impl Iterator<Item = &Arc<Lane>> {
        let used: HashSet<u32> = self.parcels.parcels.iter().map(|parcel| parcel.lane).collect();
        (0..).zip(&self.parcels.lanes).filter(move |(place, _)| used.contains(place)).map(|(_, lane)| lane)
    }

    /// The item's request as of now; None when none can be built: then it has its outcome.
    pub fn request(&self, item: u32, now_ms: i64) -> Option<Request> {
        let parcel = self.parcel(item);
        let (number, wire) = self.wire();
        self.built[item as usize].store(number, Ordering::Relaxed);
        match wire.request(&self.decided, &self.parcels, parcel, now_ms.div_euclid(1_000)) {
            Ok(request) => Some(request),
            Err(refusal) => {
                self.settle(item, refusal.ruling(now_ms), false);
                None
            }
        }
    }

    /// The provider has answered. `header` finds a header by its name in lower case.
    pub fn answered<'h>(
        &self,
        item: u32,
        status: u16,
        header: impl Fn(&str) -> Option<&'h str>,
        body: &[u8],
        now_ms: i64,
    ) -> Said {
        let lane = self.lane(item);
        let mut verdict = answer::read(lane.transport, status, &header, body);
        if self.wire().1.elsewhere(lane.transport, self.parcel(item)) {
            verdict = verdict.elsewhere();
        }
        let said = Said::of(status, &header, now_ms);
        if lock(&self.halts).heard(self.manifest.since(), &lane.name, &verdict) {
            let reason = verdict.reason.as_deref().unwrap_or_default().to_owned();
            self.state().halted.push((Arc::clone(&lane.name), reason));
        }
        let renews = verdict.renews;
        let ruling = Ruling::answered(verdict, self.manifest.terms.tries, now_ms, self.chance(item));
        if renews {
            let mut state = self.state();
            // A second refusal stands: a token that does not help is not asked for again.
            if state.renewed.insert(item) {
                state.renewing.push((item, ruling.into_owned()));
                return said;
            }
        }
        self.settle(item, ruling, true);
        said
    }

    /// It is proved that nothing has left.
    pub fn unsent(&self, item: u32, detail: &str, now_ms: i64) {
        let transport = self.lane(item).transport;
        self.settle(item, Ruling::unsent(transport, detail, self.manifest.planned_ms, now_ms), true);
    }

    /// Bytes may have left, and no answer came.
    pub fn unanswered(&self, item: u32, now_ms: i64) {
        let tries = self.manifest.terms.tries;
        self.settle(item, Ruling::unanswered(NO_ANSWER.into(), tries, now_ms, self.chance(item)), true);
    }

    /// Those who wait on these lanes for a fresh token: with a wire that has one they are to be sent again (their
    /// requests were refused, so this is no repetition). Without one their refusals stand, but of those whose request was
    /// on its way already when the others' token was renewed: they have not tried the fresh one yet.
    pub fn renew(&self, lanes: &[String], wire: Option<Arc<Wire>>) -> Vec<u32> {
        let waiting: Vec<(u32, Ruling<'static>)> = {
            let mut state = self.state();
            let (theirs, others) = std::mem::take(&mut state.renewing)
                .into_iter()
                .partition(|(item, _)| lanes.iter().any(|name| **name == *self.lane(*item).name));
            state.renewing = others;
            theirs
        };
        if let Some(wire) = wire {
            let mut known = self.wire.write().unwrap_or_else(PoisonError::into_inner);
            *known = (known.0 + 1, wire);
        }
        let number = self.wire().0;
        let (again, refused): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(item, _)| self.built[*item as usize].load(Ordering::Relaxed) < number);
        for (item, ruling) in refused {
            self.settle(item, ruling, true);
        }
        again.into_iter().map(|(item, _)| item).collect()
    }

    /// What has gathered.
    pub fn take(&self) -> Taken {
        let mut state = self.state();
        let by_lane = self.parcels.lanes.iter().zip(&mut state.ended);
        let ended = by_lane.filter(|(_, n)| **n > 0).map(|(lane, n)| (Arc::clone(lane), std::mem::take(n))).collect();
        let mut renewing: Vec<Arc<Lane>> = Vec::new();
        for (item, _) in &state.renewing {
            let lane = self.lane(*item);
            if !renewing.contains(lane) {
                renewing.push(Arc::clone(lane));
            }
        }
        Taken {
            outcomes: std::mem::replace(&mut state.outcomes, OutcomeBatch::new(self.manifest.chunk)),
            ended,
            renewing,
            left: state.left,
            halted: std::mem::take(&mut state.halted),
        }
    }

    fn settle(&self, item: u32, ruling: Ruling<'_>, sent: bool) {
        let lane = self.lane(item);
        let who = who(&self.decided, self.parcel(item).call, Some(lane));
        let mut state = self.state();
        state.ended[self.parcel(item).lane as usize] += 1;
        state.push(&self.manifest, &who, ruling, sent);
    }

    fn parcel(&self, item: u32) -> &Parcel {
        &self.parcels.parcels[item as usize]
    }

    fn wire(&self) -> (u32, Arc<Wire>) {
        self.wire.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn state(&self) -> MutexGuard<'_, Gathered> {
        lock(&self.state)
    }

    /// Spreads retries: ids end in random bits, and a retry of the same recipient may as well wait the same part longer.
    fn chance(&self, item: u32) -> f64 {
        let recipient = &self.decided.calls[self.parcel(item).call as usize].recipient;
        f64::from(u16::from_be_bytes([recipient[14], recipient[15]])) / 65_536.0
    }
}

impl Gathered {
    fn push(&mut self, manifest: &Manifest, who: &Who<'_>, ruling: Ruling<'_>, sent: bool) {
        let ruling = settle(ruling, &manifest.terms, unanswered(manifest, who.position), sent);
        self.left -= 1;
        self.outcomes.push(&Outcome {
            position: who.position,
            recipient: who.recipient,
            user_id: who.user_id,
            variant: who.variant,
            provider: who.provider,
            ruling,
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why an earlier write of whoever has this position stands without an answer.
fn unanswered(manifest: &Manifest, position: i16) -> Option<&'static str> {
    if position < manifest.started { Some(WORKER_LOST) } else { manifest.repeated.then_some(NO_ANSWER) }
}

fn who<'a>(decided: &'a Decided, call: u32, lane: Option<&'a Lane>) -> Who<'a> {
    let call = &decided.calls[call as usize];
    Who {
        position: call.position,
        recipient: call.recipient,
        user_id: decided.optional(call.user_id),
        variant: decided.optional(call.variant),
        provider: lane.map(|lane| &*lane.provider),
    }
}

/// On a lane that refuses the credential nobody else of the send is tried.
fn refuse_halted(
    parcels: &mut Parcels,
    decided: &Decided,
    manifest: &Manifest,
    halts: &Halts,
    gathered: &mut Gathered,
) {
    let send = manifest.since();
    let halted: Vec<Option<Refusal>> = parcels
        .lanes
        .iter()
        .map(|lane| halts.reason(send, &lane.name).map(|reason| Refusal::Halted(reason.into())))
        .collect();
    if halted.iter().all(Option::is_none) {
        return;
    }
    parcels.parcels.retain(|parcel| {
        let Some(refusal) = &halted[parcel.lane as usize] else { return true };
        gathered.push(manifest, &who(decided, parcel.call, None), refusal.ruling(0), false);
        false
    });
}

/// `at_most_once`: those who may have been sent are never sent again.
fn leave_unknown(parcels: &mut Parcels, decided: &Decided, manifest: &Manifest, gathered: &mut Gathered, now_ms: i64) {
    parcels.parcels.retain(|parcel| {
        let lane = &parcels.lanes[parcel.lane as usize];
        let who = who(decided, parcel.call, Some(lane));
        let lost = who.position < manifest.started;
        if lost {
            let ruling = Ruling::unanswered(WORKER_LOST.into(), manifest.terms.tries, now_ms, 0.0);
            gathered.push(manifest, &who, ruling, true);
        }
        !lost
    });
}
