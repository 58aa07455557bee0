//! One connection: a single task that writes requests, reads answers and keeps the connection alive.
//!
//! Everything of a connection happens in its task, so that nobody waits for a lock of HTTP/2's state, and what is written
//! in one turn leaves in one system call. When the peer says that it goes away the connection takes no more, hears the
//! answers that are still to come, and the lane makes another one meanwhile.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, Stream};
use h2::client::{Connection, SendRequest};
use h2::{Ping, PingPong, Reason};
use http::{HeaderMap, Method, Request as HttpRequest, Uri, Version};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use slab::Slab;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::guard::Refusal;
use crate::lane::{Lane, Origin, STREAMS_ASSUMED, STREAMS_MAX, Ticket, Turn};
use crate::{BLOCKED, BODY_MAX, Fate};

/// Of a name's addresses so many are tried, within one connect timeout.
const ADDRESSES_MAX: usize = 3;

/// Answers are short; what is read of one is bounded elsewhere.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// What h2 holds of requests that the socket has not taken yet.
const SEND_BUFFER: usize = 1 << 20;

/// How often a connection looks at the clock.
const TICK: Duration = Duration::from_millis(250);

type Socket = TlsStream<TcpStream>;

/// Why there is no connection.
struct NoConnection {
    detail: String,
    blocked: bool,
}

impl NoConnection {
    fn failed(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), blocked: false }
    }
}

/// The life of one connection, from the look at the name to the last answer.
pub async fn hold(lane: Arc<Lane>, tls: Arc<ClientConfig>, again: impl Fn(&Arc<Lane>) + Send + Sync + 'static) {
    let number = lane.made();
    let made = match timeout(lane.settings.connect, connect(&lane, tls, number)).await {
        Ok(made) => made,
        Err(_) => Err(NoConnection::failed("ConnectTimeout")),
    };
    match made {
        Ok((send, connection)) => {
            lane.connected();
            Driver::new(Arc::clone(&lane), number, send, connection, again).await;
        }
        Err(NoConnection { detail, blocked }) => lane.not_connected(&detail, blocked),
    }
}

async fn connect(
    lane: &Lane,
    tls: Arc<ClientConfig>,
    number: usize,
) -> Result<(SendRequest<Bytes>, Connection<Socket, Bytes>), NoConnection> {
    let blocked = |reason: &str| NoConnection { detail: format!("{BLOCKED} {reason}"), blocked: true };
    let origin = lane.origin.as_ref().map_err(|reason| blocked(reason))?;
    let addresses = lane.settings.guard.resolve(&origin.host, origin.port).await.map_err(|refusal| match refusal {
        Refusal::Blocked(reason) => blocked(reason),
        Refusal::Unknown(detail) => NoConnection::failed(detail),
    })?;
    let socket = dial(&addresses, number).await?;
    let bare = origin.host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(bare).map_err(|_| NoConnection::failed("not a name for TLS"))?;
    let socket = TlsConnector::from(tls).connect(name, socket).await;
    let socket = socket.map_err(|error| NoConnection::failed(format!("TLS: {error}")))?;
    if socket.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(NoConnection::failed("no HTTP/2"));
    }
    h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(STREAMS_ASSUMED)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false)
        .handshake(socket)
        .await
        .map_err(|error| NoConnection::failed(format!("HTTP/2: {error}")))
}

/// Each connection begins with another of the host's addresses.
async fn dial(addresses: &[SocketAddr], number: usize) -> Result<TcpStream, NoConnection> {
    let mut failed = NoConnection::failed("ConnectError");
    for step in 0..addresses.len().min(ADDRESSES_MAX) {
        match TcpStream::connect(addresses[(number + step) % addresses.len()]).await {
            Ok(socket) => {
                // Without it a short request would wait for the acknowledgement of the one before.
                let _ = socket.set_nodelay(true);
                return Ok(socket);
            }
            Err(error) => failed.detail = format!("ConnectError: {}", error.kind()),
        }
    }
    Err(failed)
}

/// What came of one exchange.
enum Ended {
    Answered {
        status: u16,
        headers: HeaderMap,
        body: Bytes,
    },
    /// Proved unread by the peer.
    Refused,
    Broken(String),
}

/// Names its ticket by a key, so that a ticket outlives an exchange that is given up.
type Exchange = Pin<Box<dyn Future<Output = (usize, Ended)> + Send>>;

struct Driver<A> {
    lane: Arc<Lane>,
    number: usize,
    authority: String,
    send: SendRequest<Bytes>,
    connection: Connection<Socket, Bytes>,
    /// The connection has ended: exchanges only hear of it.
    ended: bool,
    /// It takes no more.
    leaving: bool,
    exchanges: FuturesUnordered<Exchange>,
    tickets: Slab<Ticket>,
    pings: Option<PingPong>,
    pinged_at: Option<Instant>,
    heard_at: Instant,
    used_at: Instant,
    tick: Pin<Box<Sleep>>,
    again: A,
}

impl<A> Unpin for Driver<A> {}

impl<A: Fn(&Arc<Lane>)> Driver<A> {
    fn new(
        lane: Arc<Lane>,
        number: usize,
        send: SendRequest<Bytes>,
        mut connection: Connection<Socket, Bytes>,
        again: A,
    ) -> Self {
        let now = Instant::now();
        Self {
            authority: lane.origin.as_ref().map(Origin::authority).unwrap_or_default(),
            lane,
            number,
            send,
            pings: connection.ping_pong(),
            connection,
            ended: false,
            leaving: false,
            exchanges: FuturesUnordered::new(),
            tickets: Slab::new(),
            pinged_at: None,
            heard_at: now,
            used_at: now,
            tick: Box::pin(sleep(TICK)),
            again,
        }
    }

    fn leave(&mut self) {
        if !self.leaving {
            self.leaving = true;
            self.lane.leaving(self.number);
            self.make_another();
        }
    }

    fn make_another(&self) {
        if self.lane.connection_wanted() {
            (self.again)(&self.lane);
        }
    }

    /// Everything that is there to be heard; whether there was something.
    fn hear(&mut self, context: &mut Context<'_>) -> bool {
        let mut heard = false;
        while let Poll::Ready(Some((key, ended))) = Pin::new(&mut self.exchanges).poll_next(context) {
            heard = true;
            let ticket = self.tickets.remove(key);
            match ended {
                Ended::Answered { status, headers, body } => {
                    self.lane.finish(&ticket, &Fate::Answered { status, headers: &headers, body: &body });
                }
                Ended::Refused => {
                    if self.lane.again(ticket, "refused") {
                        (self.again)(&self.lane);
                    }
                }
                Ended::Broken(detail) => self.lane.finish(&ticket, &Fate::Unknown(&detail)),
            }
        }
        if heard {
            self.heard_at = Instant::now();
        }
        heard
    }

    /// Fill the streams that are free; whether anything was written.
    fn write(&mut self, context: &mut Context<'_>) -> bool {
        let mut wrote = false;
        let streams = self.send.current_max_send_streams().min(STREAMS_MAX);
        self.lane.streams(streams);
        while !self.leaving && self.exchanges.len() < streams {
            match self.send.poll_ready(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    self.leave();
                    break;
                }
                Poll::Pending => break,
            }
            match self.lane.take(self.number, context) {
                Turn::Take(ticket) => wrote |= self.begin(ticket),
                Turn::Wait(until) => {
                    if let Some(until) = until {
                        self.tick.as_mut().reset(until.into());
                        let _ = self.tick.as_mut().poll(context);
                    }
                    break;
                }
            }
        }
        if wrote {
            self.used_at = Instant::now();
            self.make_another();
        }
        wrote
    }

    fn begin(&mut self, ticket: Ticket) -> bool {
        if !ticket.load.open() {
            self.lane.finish(&ticket, &Fate::Unsent("closed"));
            return false;
        }
        let Some(request) = ticket.load.request(ticket.item) else {
            self.lane.skip(&ticket);
            return false;
        };
        let uri =
            Uri::builder().scheme("https").authority(self.authority.as_str()).path_and_query(request.path).build();
        let Ok(uri) = uri else {
            self.lane.finish(&ticket, &Fate::Unsent("InvalidURL"));
            return false;
        };
        let mut head = HttpRequest::new(());
        *head.method_mut() = Method::POST;
        *head.uri_mut() = uri;
        *head.version_mut() = Version::HTTP_2;
        let headers = head.headers_mut();
        headers.reserve(request.headers.len() + 1);
        headers.extend(request.headers);
        headers.insert(http::header::CONTENT_LENGTH, request.body.len().into());
        let sent = self.send.send_request(head, false).and_then(|(answer, mut stream)| {
            stream.send_data(request.body, true)?;
            Ok(answer)
        });
        match sent {
            Ok(answer) => {
                let within = self.lane.settings.answer;
                let key = self.tickets.insert(ticket);
                self.exchanges.push(Box::pin(async move {
                    let ended = match timeout(within, hear(answer)).await {
                        Ok(ended) => ended,
                        Err(_) => Ended::Broken("ReadTimeout".to_owned()),
                    };
                    (key, ended)
                }));
                true
            }
            Err(error) => {
                // The stream was never opened.
                let again = self.lane.again(ticket, "refused");
                if error.is_io() || error.is_go_away() || error.is_reset() || error.reason().is_none() {
                    self.leave();
                }
                if again {
                    (self.again)(&self.lane);
                }
                false
            }
        }
    }

    /// What the clock asks for: pings, and an end to idling.
    fn keep(&mut self, context: &mut Context<'_>) {
        let now = Instant::now();
        if let Some(pings) = &mut self.pings {
            while let Poll::Ready(answer) = pings.poll_pong(context) {
                self.pinged_at = None;
                self.heard_at = now;
                if answer.is_err() {
                    break;
                }
            }
            match self.pinged_at {
                None if now.duration_since(self.heard_at) > self.lane.settings.ping => {
                    if pings.send_ping(Ping::opaque()).is_ok() {
                        self.pinged_at = Some(now);
                    }
                }
                Some(at) if now.duration_since(at) > self.lane.settings.ping => {
                    self.ended = true;
                    self.leave();
                }
                _ => {}
            }
        }
        if self.exchanges.is_empty() && now.duration_since(self.used_at) > self.lane.settings.idle {
            self.leave();
        }
    }
}

impl<A: Fn(&Arc<Lane>)> Future for Driver<A> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            if !this.ended && Pin::new(&mut this.connection).poll(context).is_ready() {
                this.ended = true;
                this.leave();
            }
            if this.hear(context) | this.write(context) {
                continue;
            }
            if this.leaving && (this.ended || this.exchanges.is_empty()) {
                // A connection that ended has told its exchanges. One that nobody answers on has not, and whoever is left
                // would wait for ever.
                this.exchanges.clear();
                for ticket in this.tickets.drain() {
                    this.lane.finish(&ticket, &Fate::Unknown("ConnectionLost"));
                }
                return Poll::Ready(());
            }
            ready!(this.tick.as_mut().poll(context));
            this.keep(context);
            this.tick.as_mut().reset((Instant::now() + TICK).into());
        }
    }
}

async fn hear(answer: h2::client::ResponseFuture) -> Ended {
    let (head, mut content) = match answer.await {
        Ok(answer) => answer.into_parts(),
        Err(error) => return broken(&error),
    };
    let mut body = BytesMut::new();
    while body.len() < BODY_MAX {
        // The verdict is in the status; what was to follow explains it at best.
        let Some(Ok(part)) = content.data().await else { break };
        let _ = content.flow_control().release_capacity(part.len());
        body.extend_from_slice(&part[..part.len().min(BODY_MAX - body.len())]);
    }
    Ended::Answered { status: head.status.as_u16(), headers: head.headers, body: body.freeze() }
}

/// Proved unread: a stream above the last one that a GOAWAY names, or one that was refused (RFC 9113, 8.7).
fn broken(error: &h2::Error) -> Ended {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    if error.is_remote() && (error.is_go_away() || refused) {
        return Ended::Refused;
    }
    Ended::Broken(match error.reason() {
        Some(reason) => format!("{reason:?}"),
        None => "RemoteProtocolError".to_owned(),
    })
}
