//! One lane: what waits, its connections, its circuit and its pace. Connections pull from it, so a slow one takes less.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::connection::drive;
use crate::dial::{self, Origin, Refused};
use crate::pace::Pace;
use crate::stats::Stats;
use crate::turns::{Task, Turns};
use crate::{Class, Fate, Guard, Load, REPLAYS_MAX, Reply, Settings};

/// Bytes of bodies that HTTP/2 lets a client send before the server has read some: a connection that has so many
/// unanswered may stand still, whatever its streams allow.
const WINDOW: usize = 65_535;

/// A further connection that could not be had is not tried again at once; the lane goes on with those it has.
const DIAL_AGAIN: Duration = Duration::from_secs(1);

/// A provider that asks for a longer rest is left alone, and whoever waits is told so.
const REST_MAX: Duration = Duration::from_secs(2);

/// What all lanes share.
pub(crate) struct Shared {
    pub settings: Settings,
    pub stats: Stats,
    guard: Guard,
    /// For lanes whose provider asks for no certificate of ours.
    tls: TlsConnector,
    runtime: Handle,
}

pub(crate) struct Lane {
    pub shared: Arc<Shared>,
    /// A label with few values: what stands before the colon of the lane's name.
    pub provider: String,
    tls: TlsConnector,
    state: Mutex<State>,
    dialled: AtomicUsize,
}

struct State {
    origin: Option<Origin>,
    turns: Turns,
    /// Requests on all connections.
    running: usize,
    /// The credential has been accepted. Until then one request at a time: APNs takes no more, others lose a round trip.
    proved: bool,
    failures: u32,
    held_until: Option<Instant>,
    /// Why it is held.
    held_by: &'static str,
    /// A short rest that the provider has asked for: nobody is told, what waits goes on afterwards.
    rests_until: Instant,
    pace: Pace,
    links: Vec<Link>,
    dialling: bool,
    dial_after: Instant,
    next_id: u32,
    used_at: Instant,
    closed: bool,
}

/// A connection, as its lane sees it.
struct Link {
    id: u32,
    running: usize,
    bytes: usize,
    /// Streams that it may have.
    streams: usize,
    draining: bool,
    waker: Option<Waker>,
}

/// What a run of answers on one connection amounts to.
#[derive(Default)]
pub(crate) struct Learnt {
    pub ended: usize,
    pub bytes: usize,
    pub success: bool,
    pub failures: u32,
    /// Answers, and how many of them were refusals of too much.
    pub heard: u32,
    pub throttled: u32,
    /// The longest rest that such a refusal asked for.
    pub rest: Option<Duration>,
    pub again: Vec<Task>,
}

pub(crate) struct Taken {
    pub tasks: Vec<Task>,
    /// When to ask again although nobody wakes the connection.
    pub again: Option<Instant>,
    /// The lane has no more use for this connection.
    pub drain: bool,
    pub closed: bool,
}

/// What remains to be done when the lock is given back.
#[derive(Default)]
struct After {
    refused: Vec<(Task, &'static str)>,
    dial: Option<Origin>,
    wake: Vec<Waker>,
}

impl Shared {
    pub fn new(settings: Settings, runtime: Handle) -> Result<Self, String> {
        let guard = Guard::new(settings.blocked.clone(), settings.exempt.clone(), settings.ports.clone());
        let tls = dial::tls(&settings.ca_files, None)?;
        Ok(Self { stats: Stats::new(settings.seconds.clone()), guard, tls, runtime, settings })
    }
}

impl Lane {
    /// `tls`: with our certificate, where the provider knows us by one.
    pub fn new(name: &str, shared: Arc<Shared>, tls: Option<TlsConnector>) -> Arc<Self> {
        let now = Instant::now();
        let state = State {
            origin: None,
            turns: Turns::default(),
            running: 0,
            proved: false,
            failures: 0,
            held_until: None,
            held_by: "breaker",
            rests_until: now,
            pace: Pace::new(now),
            links: Vec::new(),
            dialling: false,
            dial_after: now,
            next_id: 0,
            used_at: now,
            closed: false,
        };
        let provider = name.split(':').next().unwrap_or(name).into();
        let tls = tls.unwrap_or_else(|| shared.tls.clone());
        Arc::new(Self { shared, provider, tls, state: Mutex::new(state), dialled: AtomicUsize::new(0) })
    }

    pub fn submit(self: &Arc<Self>, origin: &str, class: Class, tenant: u128, load: &Arc<dyn Load>, items: &[u32]) {
        let now = Instant::now();
        let mut after = After::default();
        {
            let mut state = self.state();
            state.used_at = now;
            let wanted = Origin::parse(origin);
            let refusal = if state.closed {
                Some("closed")
            } else if state.held(now).is_some() {
                Some(state.held_by)
            } else if wanted.is_none() {
                Some("not_https")
            } else {
                None
            };
            if let Some(refusal) = refusal {
                let task = |item: &u32| Task { load: Arc::clone(load), item: *item, replays: 0, class };
                after.refused.extend(items.iter().map(|item| (task(item), refusal)));
            } else {
                if state.origin != wanted {
                    state.move_to(wanted, &mut after);
                }
                state.turns.push(class, tenant, load, items);
                state.balance(&self.shared.settings, now, &mut after);
            }
        }
        self.finish(after);
    }

    pub fn held(&self, now: Instant) -> Duration {
        self.state().held(now).unwrap_or_default()
    }

    pub fn limit(&self) -> usize {
        let settings = &self.shared.settings;
        if self.state().proved { settings.connections * settings.streams } else { 1 }
    }

    pub fn standing(&self, now: Instant) -> (String, usize, bool) {
        let state = self.state();
        (self.provider.clone(), state.links.len(), state.held(now).is_some())
    }

    pub fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.running == 0 && state.turns.len() == 0 && !state.dialling).then_some(state.used_at)
    }

    pub fn alive(&self) -> bool {
        let state = self.state();
        !state.links.is_empty() || state.running > 0
    }

    pub fn close(self: &Arc<Self>) {
        let mut after = After::default();
        {
            let mut state = self.state();
            state.closed = true;
            state.refuse_all("closed", &mut after);
            after.wake.extend(state.links.iter_mut().filter_map(|link| link.waker.take()));
        }
        self.finish(after);
    }

    // -- for connections

    /// Some of what waits, as far as there is room for it. `waker` is kept for the time when there is more.
    pub fn take(&self, id: u32, room: usize, streams: usize, waker: &Waker) -> Taken {
        let now = Instant::now();
        let mut state = self.state();
        let held = state.held(now).is_some();
        let drain = state.links.iter().any(|link| link.id == id && link.draining);
        let mut want = if drain { 0 } else { room.min(state.turns.len()) };
        if !state.proved {
            want = want.min(1_usize.saturating_sub(state.running));
        }
        let (allowed, again) = if held || want == 0 {
            (0, None)
        } else if state.rests_until > now {
            (0, Some(state.rests_until))
        } else {
            state.pace.allowance(want, now)
        };
        let tasks: Vec<Task> = (0..allowed).map_while(|_| state.turns.pop()).collect();
        state.running += tasks.len();
        if allowed > 0 {
            state.pace.spend(tasks.len(), now);
            state.used_at = now;
        }
        if let Some(link) = state.links.iter_mut().find(|link| link.id == id) {
            link.running += tasks.len();
            link.streams = streams;
            if !link.waker.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
                link.waker = Some(waker.clone());
            }
        }
        Taken { tasks, again, drain, closed: state.closed }
    }

    /// Bytes of bodies that were written, so that a connection whose window is full is seen to be full.
    pub fn wrote(self: &Arc<Self>, id: u32, bytes: usize) {
        let mut after = After::default();
        {
            let mut state = self.state();
            if let Some(link) = state.links.iter_mut().find(|link| link.id == id) {
                link.bytes += bytes;
            }
            state.balance(&self.shared.settings, Instant::now(), &mut after);
        }
        self.finish(after);
    }

    pub fn learn(self: &Arc<Self>, id: u32, learnt: Learnt) {
        let now = Instant::now();
        let settings = &self.shared.settings;
        let mut after = After::default();
        {
            let mut state = self.state();
            state.running -= learnt.ended;
            if let Some(link) = state.links.iter_mut().find(|link| link.id == id) {
                link.running -= learnt.ended;
                link.bytes = link.bytes.saturating_sub(learnt.bytes);
            }
            if learnt.heard > 0 {
                state.failures = 0;
            }
            state.proved |= learnt.success;
            let refuses_most = state.pace.heard(learnt.heard, learnt.throttled, now);
            for mut task in learnt.again {
                task.replays += 1;
                if task.replays > REPLAYS_MAX {
                    after.refused.push((task, "refused_unread"));
                } else {
                    state.turns.push_again(task);
                }
            }
            state.fail(learnt.failures, settings, now, &mut after);
            match learnt.rest.filter(|_| refuses_most) {
                Some(rest) if rest <= REST_MAX => state.rests_until = state.rests_until.max(now + rest),
                Some(rest) => state.hold(now + rest, "held", &mut after),
                None => {}
            }
            if state.closed {
                state.refuse_all("closed", &mut after);
            } else if state.held(now).is_some() {
                let why = state.held_by;
                state.refuse_all(why, &mut after);
            }
            state.balance(settings, now, &mut after);
        }
        self.finish(after);
    }

    /// The connection takes no more requests; another one is opened while it ends its own.
    pub fn drain(self: &Arc<Self>, id: u32) {
        let mut after = After::default();
        {
            let mut state = self.state();
            if let Some(link) = state.links.iter_mut().find(|link| link.id == id) {
                link.draining = true;
            }
            state.balance(&self.shared.settings, Instant::now(), &mut after);
        }
        self.finish(after);
    }

    pub fn unlink(self: &Arc<Self>, id: u32) {
        let mut after = After::default();
        {
            let mut state = self.state();
            state.links.retain(|link| link.id != id);
            state.balance(&self.shared.settings, Instant::now(), &mut after);
        }
        self.finish(after);
    }

    async fn dial(self: Arc<Self>, origin: Origin) {
        let Shared { settings, guard, .. } = &*self.shared;
        let turn = self.dialled.fetch_add(1, Ordering::Relaxed);
        let opened = timeout(settings.connect(), dial::open(&origin, guard, &self.tls, settings.streams, turn)).await;
        match opened {
            Ok(Ok((send, connection))) => {
                if let Some(id) = self.linked(&origin) {
                    drive(self, id, origin.authority, send, connection).await;
                }
            }
            Ok(Err(Refused::Blocked(reason))) => {
                let mut tasks = Vec::new();
                {
                    let mut state = self.state();
                    state.dialling = false;
                    // Nobody was asked, so nobody failed.
                    if state.origin.as_ref() == Some(&origin) {
                        tasks = state.turns.drain();
                    }
                }
                for task in &tasks {
                    let reply = Reply::without(Fate::Unsent, format!("blocked: {reason}"));
                    task.load.reply(task.item, reply);
                }
                settle(tasks.iter());
                self.rebalance();
            }
            Ok(Err(Refused::Failed(detail))) => self.not_dialled(&origin, detail, 1),
            // Who waits would each have waited as long for nothing.
            Err(_) => self.not_dialled(&origin, "connect_timeout", settings.breaker_failures as usize),
        }
    }

    fn linked(self: &Arc<Self>, origin: &Origin) -> Option<u32> {
        let mut after = After::default();
        let id = {
            let mut state = self.state();
            state.dialling = false;
            let mut id = None;
            if !state.closed && state.origin.as_ref() == Some(origin) {
                state.next_id += 1;
                let streams = self.shared.settings.streams;
                let made = Link { id: state.next_id, running: 0, bytes: 0, streams, draining: false, waker: None };
                id = Some(made.id);
                state.links.push(made);
            }
            state.balance(&self.shared.settings, Instant::now(), &mut after);
            id
        };
        self.finish(after);
        id
    }

    fn not_dialled(self: &Arc<Self>, origin: &Origin, detail: &'static str, blame: usize) {
        let now = Instant::now();
        let mut after = After::default();
        {
            let mut state = self.state();
            state.dialling = false;
            if state.origin.as_ref() == Some(origin) {
                if state.links.iter().any(|link| !link.draining) {
                    state.dial_after = now + DIAL_AGAIN;
                } else {
                    for _ in 0..blame {
                        let Some(task) = state.turns.pop() else { break };
                        after.refused.push((task, detail));
                    }
                    let failed = after.refused.len() as u32;
                    state.fail(failed, &self.shared.settings, now, &mut after);
                }
            }
            state.balance(&self.shared.settings, now, &mut after);
        }
        self.finish(after);
    }

    fn rebalance(self: &Arc<Self>) {
        let mut after = After::default();
        self.state().balance(&self.shared.settings, Instant::now(), &mut after);
        self.finish(after);
    }

    fn finish(self: &Arc<Self>, after: After) {
        if let Some(origin) = after.dial {
            self.shared.runtime.spawn(Arc::clone(self).dial(origin));
        }
        for waker in after.wake {
            waker.wake();
        }
        for (task, detail) in &after.refused {
            task.load.reply(task.item, Reply::without(Fate::Unsent, *detail));
        }
        settle(after.refused.iter().map(|(task, _)| task));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl State {
    fn held(&self, now: Instant) -> Option<Duration> {
        self.held_until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Failures in a row open the circuit.
    fn fail(&mut self, failures: u32, settings: &Settings, now: Instant, after: &mut After) {
        self.failures += failures;
        if failures > 0 && self.failures >= settings.breaker_failures {
            // Half open afterwards: one request at a time, and one more failure closes it again.
            self.failures = settings.breaker_failures - 1;
            self.proved = false;
            self.hold(now + settings.breaker(), "breaker", after);
        }
    }

    /// Nothing is tried until then, and who waits is told so.
    fn hold(&mut self, until: Instant, why: &'static str, after: &mut After) {
        if self.held_until.is_none_or(|held| held < until) {
            self.held_until = Some(until);
            self.held_by = why;
        }
        self.refuse_all(why, after);
    }

    fn refuse_all(&mut self, why: &'static str, after: &mut After) {
        after.refused.extend(self.turns.drain().into_iter().map(|task| (task, why)));
    }

    /// The lane's address has been changed: what was meant for the old one does not go to the new one.
    fn move_to(&mut self, origin: Option<Origin>, after: &mut After) {
        if self.origin.is_some() {
            self.refuse_all("moved", after);
            for link in &mut self.links {
                link.draining = true;
                after.wake.extend(link.waker.take());
            }
        }
        self.origin = origin;
        self.dialling = false;
    }

    /// Wakes connections that have room, and asks for another one when none has.
    fn balance(&mut self, settings: &Settings, now: Instant, after: &mut After) {
        if self.turns.len() == 0 || self.closed || self.held(now).is_some() {
            return;
        }
        if !self.proved && self.running > 0 {
            return;
        }
        let mut open = 0;
        let mut room = false;
        for link in self.links.iter_mut().filter(|link| !link.draining) {
            open += 1;
            if link.running < link.streams {
                // Which of them is less loaded shows in what they take.
                after.wake.extend(link.waker.take());
                room |= link.bytes < WINDOW;
            }
        }
        let another = open == 0 || (self.proved && !room && open < settings.connections && now >= self.dial_after);
        if another && !self.dialling {
            self.dialling = true;
            after.dial.clone_from(&self.origin);
        }
    }
}

/// Once for each load in a run.
pub(crate) fn settle<'a>(tasks: impl Iterator<Item = &'a Task>) {
    let mut last: Option<&Arc<dyn Load>> = None;
    for task in tasks {
        if let Some(load) = last.filter(|load| !Arc::ptr_eq(load, &task.load)) {
            load.settled();
        }
        last = Some(&task.load);
    }
    if let Some(load) = last {
        load.settled();
    }
}
