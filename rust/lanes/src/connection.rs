//! The task that drives one connection and every stream on it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong};
use http::uri::{Authority, Parts, Scheme};
use http::{Method, Uri, Version};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until};
use tokio_rustls::client::TlsStream;

use crate::exchange::{Done, End, Exchange};
use crate::lane::{Lane, Learnt, settle};
use crate::turns::Task;
use crate::{Fate, Feedback, Reply, Settings};

/// How often time is looked at: for all streams at once, so no request needs a timer.
const TICK_MAX: Duration = Duration::from_millis(250);

/// Rounds of writing and reading before other connections of the thread have their turn.
const ROUNDS: usize = 16;

/// Requests that are begun before others get the connection's attention.
const BURST: usize = 128;

struct Driver {
    lane: Arc<Lane>,
    id: u32,
    authority: Authority,
    send: SendRequest<Bytes>,
    connection: Connection<TlsStream<TcpStream>>,
    exchanges: FuturesUnordered<Exchange>,
    pings: Option<PingPong>,
    /// When the ping that is on its way was sent.
    pinged: Option<Instant>,
    tick: Pin<Box<Sleep>>,
    /// When something came from the server.
    heard: Instant,
    used: Instant,
    draining: bool,
}

/// Until the connection has ended and each request on it has its fate.
pub(crate) async fn drive(
    lane: Arc<Lane>,
    id: u32,
    authority: Authority,
    send: SendRequest<Bytes>,
    mut connection: Connection<TlsStream<TcpStream>>,
) {
    let now = Instant::now();
    let tick = Box::pin(sleep_until((now + tick(&lane.shared.settings)).into()));
    let pings = connection.ping_pong();
    let mut driver = Driver {
        lane: Arc::clone(&lane),
        id,
        authority,
        send,
        connection,
        exchanges: FuturesUnordered::new(),
        pings,
        pinged: None,
        tick,
        heard: now,
        used: now,
        draining: false,
    };
    poll_fn(|cx| driver.poll(cx)).await;
    driver.abandon();
    lane.unlink(id);
}

fn tick(settings: &Settings) -> Duration {
    TICK_MAX.min(settings.answer() / 8)
}

impl Driver {
    /// Ready when the connection is of no more use.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut now = Instant::now();
        for _ in 0..ROUNDS {
            if self.fill(cx, now) {
                return Poll::Ready(());
            }
            let ended = Pin::new(&mut self.connection).poll(cx).is_ready();
            now = Instant::now();
            // After the connection, so that a request which was answered at once is not left lying.
            let read = self.read(cx, now);
            if ended {
                return Poll::Ready(());
            }
            if !read {
                let over = self.watch(cx, now) || (self.draining && self.exchanges.is_empty());
                return if over { Poll::Ready(()) } else { Poll::Pending };
            }
        }
        // Others have a turn on this thread.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The answers that have come, if any.
    fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut done = Vec::new();
        while let Poll::Ready(Some(ended)) = self.exchanges.poll_next_unpin(cx) {
            done.extend(ended);
        }
        let any = !done.is_empty();
        self.settle(done, now);
        any
    }

    /// Begins requests as far as there is room. True: the lane is closed.
    fn fill(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        loop {
            match self.send.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => self.drain(),
                Poll::Pending => return false,
            }
            // Also when it drains: the lane has to know whom to wake when it is closed.
            let streams = self.send.current_max_send_streams().min(self.lane.shared.settings.streams);
            let room = if self.draining { 0 } else { streams.saturating_sub(self.exchanges.len()).min(BURST) };
            let taken = self.lane.take(self.id, room, streams, cx.waker());
            if taken.closed {
                return true;
            }
            self.draining |= taken.drain;
            if let Some(again) = taken.again {
                let deadline = self.tick.deadline().min(again.into());
                self.tick.as_mut().reset(deadline);
            }
            if taken.tasks.is_empty() {
                return false;
            }
            let full = taken.tasks.len() == room;
            self.begin(cx, taken.tasks, now);
            if !full {
                return false;
            }
        }
    }

    fn begin(&mut self, cx: &mut Context<'_>, tasks: Vec<Task>, now: Instant) {
        let mut learnt = Learnt::default();
        let mut closed = Vec::new();
        let mut written = 0;
        self.used = now;
        for task in tasks {
            if self.draining {
                learnt.again.push(task);
                continue;
            }
            if !task.load.open() {
                task.load.reply(task.item, Reply::without(Fate::Unsent, "closed"));
                closed.push(task);
                continue;
            }
            let Some(request) = task.load.request(task.item) else {
                closed.push(task);
                continue;
            };
            let bytes = request.body.len();
            match self.write(request) {
                Ok(response) => {
                    written += bytes;
                    self.exchanges.push(Exchange::new(task, response, bytes, now));
                }
                Err(()) => match self.send.poll_ready(cx) {
                    Poll::Ready(Ok(())) => {
                        task.load.reply(task.item, Reply::without(Fate::Unsent, "not_a_request"));
                        closed.push(task);
                    }
                    Poll::Ready(Err(_)) => {
                        // The connection was lost before this one was handed to it.
                        self.drain();
                        learnt.again.push(task);
                    }
                    Poll::Pending => learnt.again.push(task),
                },
            }
        }
        settle(closed.iter());
        self.lane.wrote(self.id, written);
        learnt.ended = closed.len() + learnt.again.len();
        if learnt.ended > 0 {
            self.lane.learn(self.id, learnt);
        }
    }

    /// An error: nothing was handed to the connection.
    fn write(&mut self, request: crate::Request) -> Result<ResponseFuture, ()> {
        let mut parts = Parts::default();
        parts.scheme = Some(Scheme::HTTPS);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(request.path);
        let mut head = http::Request::new(());
        *head.method_mut() = Method::POST;
        *head.version_mut() = Version::HTTP_2;
        *head.uri_mut() = Uri::from_parts(parts).map_err(drop)?;
        *head.headers_mut() = request.headers;
        let empty = request.body.is_empty();
        let (response, mut stream) = self.send.send_request(head, empty).map_err(drop)?;
        if !empty {
            // Fails only when the stream has been closed meanwhile; then its response says why.
            let _ = stream.send_data(request.body, true);
        }
        Ok(response)
    }

    /// Time: silent requests, silent connections, idle ones. True: the connection is dead or has done its work.
    fn watch(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let lane = Arc::clone(&self.lane);
        let settings = &lane.shared.settings;
        if let Some(pings) = &mut self.pings
            && self.pinged.is_some()
            && pings.poll_pong(cx).is_ready()
        {
            self.pinged = None;
            self.heard = now;
        }
        let mut dead = false;
        while self.tick.as_mut().poll(cx).is_ready() {
            self.tick.as_mut().reset((now + tick(settings)).into());
            let heard = self.heard;
            let mut nothing_came = false;
            for exchange in &mut self.exchanges {
                // Nothing at all has come since it left: whatever else is sent here would wait as well.
                nothing_came |= exchange.expire(now, settings) && heard <= exchange.started();
            }
            if nothing_came {
                self.drain();
            }
            dead |= self.pinged.is_some_and(|pinged| now.duration_since(pinged) > settings.answer());
            if self.exchanges.is_empty() && now.duration_since(self.used) > settings.idle() {
                self.drain();
            } else if self.pinged.is_none()
                && now.duration_since(self.heard) > settings.ping()
                && let Some(pings) = &mut self.pings
            {
                let _ = pings.send_ping(Ping::opaque());
                self.pinged = Some(now);
                // The pong wakes whoever has asked for it.
                let _ = pings.poll_pong(cx);
            }
        }
        dead
    }

    fn drain(&mut self) {
        if !self.draining {
            self.draining = true;
            self.lane.drain(self.id);
        }
    }

    /// What is still on the wire when nothing more can come.
    fn abandon(&mut self) {
        let left = std::mem::take(&mut self.exchanges);
        let done: Vec<Done> = left.into_iter().filter_map(Exchange::abandon).collect();
        self.settle(done, Instant::now());
    }

    fn settle(&mut self, done: Vec<Done>, now: Instant) {
        if done.is_empty() {
            return;
        }
        let mut learnt = Learnt { ended: done.len(), ..Learnt::default() };
        let mut told = Vec::with_capacity(done.len());
        let mut seen = Vec::with_capacity(done.len());
        for Done { task, started, bytes, end } in done {
            learnt.bytes += bytes;
            let reply = match end {
                End::Reply(reply) => {
                    self.heard = now;
                    if reply.fate == Fate::Answered {
                        learnt.heard += 1;
                    } else {
                        learnt.failures += 1;
                    }
                    reply
                }
                End::Unread => {
                    self.heard = now;
                    learnt.again.push(task);
                    continue;
                }
                End::Silent => {
                    learnt.failures += 1;
                    Reply::without(Fate::Unknown, "timeout")
                }
                End::Lost => {
                    // However many were on it, one connection broke.
                    learnt.failures = learnt.failures.max(1);
                    Reply::without(Fate::Unknown, "connection_lost")
                }
            };
            seen.push((reply.status, now.duration_since(started).as_secs_f64()));
            match task.load.reply(task.item, reply) {
                Feedback::Success => learnt.success = true,
                Feedback::Neutral => {}
                Feedback::Throttled(rest) => {
                    learnt.throttled += 1;
                    learnt.rest = learnt.rest.max(rest);
                }
            }
            told.push(task);
        }
        if learnt.heard > 0 {
            learnt.failures = 0;
        }
        self.lane.shared.stats.add(&self.lane.provider, &seen);
        self.lane.learn(self.id, learnt);
        // Last: whoever hears of it finds the lane as it is now.
        settle(told.iter());
    }
}
