//! A lane: who waits for a stream, how many may be on the wire, and whether the provider answers at all.
//!
//! Connections draw from the lane; the lane decides how much and from whom. One request at a time until the first success
//! (APNs takes one stream until a credential has proved itself, others lose one round trip); afterwards as many as the
//! connections have streams. `Now` goes before `Bulk`, and within a class tenants take turns. Places are promised before
//! anybody is handed in ([`Lane::reserve`]): at most twice as many as may be on the wire, so that a provider that is slow,
//! silent or unproven holds a small part of the worker's window.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use crate::pace::Pace;
use crate::{Class, Fate, Load, Said, Settings};

/// Calls that may be handed in for a lane, in calls that may be on it: while some are on the wire the next are marked.
const PROMISED: usize = 2;

/// What one connection may carry until its peer has said: httpcore's ceiling, below what providers announce.
pub const STREAMS_ASSUMED: usize = 100;

/// More than a provider needs; a peer that announces four billion shall not make us promise as many.
pub const STREAMS_MAX: usize = 1_000;

/// How often what is proved unread is sent again before it waits for a later try.
const REPLAYS_MAX: u8 = 3;

/// A provider that asks for a longer rest is left alone, and whoever waits hears so.
const REST_MAX: Duration = Duration::from_secs(2);

pub type Tenant = [u8; 16];

/// A recipient on its way.
pub struct Ticket {
    pub load: Arc<dyn Load>,
    pub item: u32,
    pub class: Class,
    tenant: Tenant,
    replays: u8,
}

/// Where a lane leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub host: String,
    pub port: u16,
}

pub struct Lane {
    pub name: Arc<str>,
    pub origin: Result<Origin, &'static str>,
    pub(crate) settings: Arc<Settings>,
    state: Mutex<State>,
}

struct State {
    lines: [Lines; 2],
    promised: [usize; 2],
    running: usize,
    proven: bool,
    failures: u32,
    held_until: Instant,
    rests_until: Instant,
    pace: Pace,
    /// Connections that live or are being made, and of them those that are being made.
    connections: usize,
    connecting: usize,
    made: usize,
    /// What the latest of them may carry.
    streams: usize,
    wakers: HashMap<usize, Waker>,
    used_at: Instant,
}

/// Who waits in one class: tenants in turns, each tenant's in their order.
#[derive(Default)]
struct Lines {
    by_tenant: HashMap<Tenant, VecDeque<Ticket>>,
    turns: VecDeque<Tenant>,
    waiting: usize,
}

impl Lines {
    fn push(&mut self, ticket: Ticket, front: bool) {
        let tenant = ticket.tenant;
        let line = self.by_tenant.entry(tenant).or_default();
        if line.is_empty() {
            self.turns.push_back(tenant);
        }
        if front {
            line.push_front(ticket);
        } else {
            line.push_back(ticket);
        }
        self.waiting += 1;
    }

    fn pop(&mut self) -> Option<Ticket> {
        let tenant = self.turns.pop_front()?;
        let line = self.by_tenant.get_mut(&tenant)?;
        let ticket = line.pop_front()?;
        if line.is_empty() {
            self.by_tenant.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        self.waiting -= 1;
        Some(ticket)
    }
}

/// What a connection shall do next.
pub enum Turn {
    Take(Ticket),
    /// Nothing now; the connection is woken, or comes back at this instant.
    Wait(Option<Instant>),
}

impl Lane {
    pub(crate) fn new(name: Arc<str>, base: &str, settings: Arc<Settings>) -> Self {
        let now = Instant::now();
        let state = State {
            lines: Default::default(),
            promised: [0; 2],
            running: 0,
            proven: false,
            failures: 0,
            held_until: now,
            rests_until: now,
            pace: Pace::new(now),
            connections: 0,
            connecting: 0,
            made: 0,
            streams: STREAMS_ASSUMED,
            wakers: HashMap::new(),
            used_at: now,
        };
        Self { name, origin: Origin::of(base), settings, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the lane is not tried; zero when it is open.
    pub fn held(&self) -> Duration {
        self.state().held_until.saturating_duration_since(Instant::now())
    }

    /// Promises places to some of `want`. Whoever goes to a lane that is held hears so at once and needs none.
    pub fn reserve(&self, class: Class, want: usize) -> usize {
        let mut state = self.state();
        state.used_at = Instant::now();
        let room = if state.held_until > state.used_at {
            want
        } else {
            (PROMISED * self.limit(&state)).saturating_sub(state.promised[class.place()])
        };
        let granted = want.min(room);
        state.promised[class.place()] += granted;
        granted
    }

    /// Places that were not used after all.
    pub fn release(&self, class: Class, places: usize) {
        self.state().promised[class.place()] -= places;
    }

    /// A place without asking: for whoever had one and comes back.
    pub(crate) fn claim(&self, class: Class) {
        self.state().promised[class.place()] += 1;
    }

    /// Hands in those who have a place. True when a connection is wanted.
    pub(crate) fn push(&self, load: &Arc<dyn Load>, class: Class, tenant: Tenant, items: &[u32]) -> bool {
        let mut state = self.state();
        let tickets = items.iter().map(|&item| Ticket { load: Arc::clone(load), item, class, tenant, replays: 0 });
        if state.held_until > Instant::now() {
            drop(state);
            self.refuse(tickets.collect(), "breaker");
            return false;
        }
        for ticket in tickets {
            state.lines[class.place()].push(ticket, false);
        }
        state.wake();
        self.wants_connection(&mut state)
    }

    /// The next one that may leave on a connection that has a stream for it.
    pub(crate) fn take(&self, number: usize, context: &Context<'_>) -> Turn {
        let now = Instant::now();
        let mut state = self.state();
        if state.held_until <= now && state.lines.iter().any(|lines| lines.waiting > 0) {
            if state.rests_until > now {
                let until = state.rests_until;
                return Turn::Wait(Some(until));
            }
            if state.running < self.limit(&state) {
                if state.pace.take(1, now) == 0 {
                    return Turn::Wait(state.pace.next(now));
                }
                if let Some(ticket) = state.lines.iter_mut().find_map(Lines::pop) {
                    state.running += 1;
                    return Turn::Take(ticket);
                }
            }
        }
        state.wakers.insert(number, context.waker().clone());
        Turn::Wait(None)
    }

    /// It could not be handed to the connection: another one takes it. Or it was refused unread, so this is no
    /// repetition. True when a connection is wanted.
    pub(crate) fn again(&self, mut ticket: Ticket, detail: &str) -> bool {
        ticket.replays += 1;
        if ticket.replays > REPLAYS_MAX {
            self.finish(&ticket, &Fate::Unsent(detail));
            return false;
        }
        let mut state = self.state();
        state.running -= 1;
        state.lines[ticket.class.place()].push(ticket, true);
        state.wake();
        self.wants_connection(&mut state)
    }

    /// Tells the load, and learns from what it says.
    pub(crate) fn finish(&self, ticket: &Ticket, fate: &Fate<'_>) {
        let answered = matches!(fate, Fate::Answered { .. });
        let fate_unknown = matches!(fate, Fate::Unknown(_));
        let said = match fate {
            Fate::Answered { status, headers, body } => {
                ticket.load.finished(ticket.item, Fate::Answered { status: *status, headers, body })
            }
            Fate::Unsent(detail) => ticket.load.finished(ticket.item, Fate::Unsent(detail)),
            Fate::Unknown(detail) => ticket.load.finished(ticket.item, Fate::Unknown(detail)),
        };
        let flushed = {
            let mut state = self.state();
            state.leave(ticket);
            if answered {
                state.failures = 0;
                self.learn(&mut state, said)
            } else if fate_unknown {
                self.fail(&mut state)
            } else {
                Vec::new()
            }
        };
        self.refuse(flushed, "breaker");
    }

    /// Settled by its load without a request.
    pub(crate) fn skip(&self, ticket: &Ticket) {
        let mut state = self.state();
        state.leave(ticket);
        state.wake();
    }

    fn learn(&self, state: &mut State, said: Said) -> Vec<Ticket> {
        let now = Instant::now();
        match said {
            Said::Success if !state.proven => {
                state.proven = true;
                state.wake();
            }
            Said::Throttled(after_s) => {
                state.pace.complain(now);
                let rest =
                    after_s.map_or(Duration::ZERO, |seconds| Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0)));
                if rest > REST_MAX {
                    state.held_until = state.held_until.max(now + rest);
                    return state.drain();
                }
                state.rests_until = state.rests_until.max(now + rest);
            }
            _ => {}
        }
        state.wake_one();
        Vec::new()
    }

    /// No answer: after some in a row the circuit opens. Half open afterwards: one request at a time, and one more failure
    /// opens it again.
    fn fail(&self, state: &mut State) -> Vec<Ticket> {
        state.failures += 1;
        state.wake_one();
        if state.failures < self.settings.breaker_failures {
            return Vec::new();
        }
        state.failures = self.settings.breaker_failures - 1;
        state.proven = false;
        state.held_until = Instant::now() + self.settings.breaker;
        state.drain()
    }

    fn limit(&self, state: &State) -> usize {
        if state.proven { self.settings.connections * state.streams } else { 1 }
    }

    /// What waits for a lane that does not answer hears so.
    fn refuse(&self, tickets: Vec<Ticket>, detail: &str) {
        for ticket in tickets {
            ticket.load.finished(ticket.item, Fate::Unsent(detail));
            self.state().promised[ticket.class.place()] -= 1;
        }
    }

    // -- connections

    /// Whether another one is to be made: some wait, and those that live have their streams full. One at a time.
    fn wants_connection(&self, state: &mut State) -> bool {
        let waiting: usize = state.lines.iter().map(|lines| lines.waiting).sum();
        let full = state.running + waiting > state.connections * state.streams;
        let limit = if state.proven { self.settings.connections } else { 1 };
        let wanted = waiting > 0
            && full
            && state.connecting == 0
            && state.connections < limit
            && state.held_until <= Instant::now();
        if wanted {
            state.connections += 1;
            state.connecting += 1;
            state.made += 1;
        }
        wanted
    }

    /// Asked when a connection has changed something.
    pub(crate) fn connection_wanted(&self) -> bool {
        self.wants_connection(&mut self.state())
    }

    /// How many were made before the latest: spreads them over the host's addresses.
    pub(crate) fn made(&self) -> usize {
        self.state().made
    }

    pub(crate) fn connected(&self) {
        let mut state = self.state();
        state.connecting -= 1;
    }

    pub(crate) fn streams(&self, streams: usize) {
        let mut state = self.state();
        if state.streams != streams {
            state.streams = streams.clamp(1, STREAMS_MAX);
            state.wake();
        }
    }

    /// It could not be made. Without any other, whoever waits is not sent, which is proved; a lane that cannot be reached
    /// is left alone like one that does not answer.
    pub(crate) fn not_connected(&self, detail: &str, blocked: bool) {
        let flushed = {
            let mut state = self.state();
            state.connecting -= 1;
            state.connections -= 1;
            if state.connections > 0 {
                return;
            }
            let mut flushed = state.drain();
            if !blocked {
                // Each of them is a call that had no answer.
                for _ in 0..flushed.len().max(1) {
                    flushed.extend(self.fail(&mut state));
                }
            }
            flushed
        };
        self.refuse(flushed, detail);
    }

    /// It takes no more: a place for another one.
    pub(crate) fn leaving(&self, number: usize) {
        let mut state = self.state();
        state.connections -= 1;
        state.wakers.remove(&number);
        state.wake();
    }

    pub(crate) fn is_idle(&self, since: Instant) -> bool {
        let state = self.state();
        state.promised == [0; 2] && state.used_at <= since
    }

    pub(crate) fn used_at(&self) -> Instant {
        self.state().used_at
    }

    /// The lane is given up: whoever waits hears so.
    pub(crate) fn close(&self) {
        let flushed = self.state().drain();
        self.refuse(flushed, "closed");
    }
}

impl State {
    fn leave(&mut self, ticket: &Ticket) {
        self.running -= 1;
        self.promised[ticket.class.place()] -= 1;
    }

    fn drain(&mut self) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        for lines in &mut self.lines {
            while let Some(ticket) = lines.pop() {
                tickets.push(ticket);
            }
        }
        tickets
    }

    fn wake(&mut self) {
        for (_, waker) in self.wakers.drain() {
            waker.wake();
        }
    }

    /// A stream has become free where it ended; whoever ends it looks for the next itself, unless the limit was the
    /// lane's.
    fn wake_one(&mut self) {
        if self.lines.iter().any(|lines| lines.waiting > 0)
            && let Some(number) = self.wakers.keys().next().copied()
            && let Some(waker) = self.wakers.remove(&number)
        {
            waker.wake();
        }
    }
}

impl Origin {
    /// Of scheme://host[:port].
    fn of(base: &str) -> Result<Self, &'static str> {
        let rest = base.strip_prefix("https://").ok_or("not an https URL")?;
        let authority: http::uri::Authority = rest.parse().map_err(|_| "not a URL")?;
        if rest.contains('@') {
            return Err("a URL with a user name");
        }
        Ok(Self { host: authority.host().to_ascii_lowercase(), port: authority.port_u16().unwrap_or(443) })
    }

    /// As a request names it.
    pub fn authority(&self) -> String {
        if self.port == 443 { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}
