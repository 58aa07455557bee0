//! Connections: TLS, HTTP/2 by `h2` (stream numbers, GOAWAY and resets are in our hands there) and HTTP/1.1 by `hyper`.
//!
//! Each connection is a task, and so is each HTTP/2 request. A request is read to its end, decided in one go, and its
//! answer waits for the delay that the decision asks for. Nothing here looks into a request further than its path.

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::request::Parts;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::exchange::{Answer, Fate, Reply, Request};
use crate::{Simulator, apns, control, fcm, oauth, webpush};

/// 10,000 tokens to mint are the largest body; providers refuse much less on their own.
const BODY_MAX: usize = 4 << 20;
/// A thousand requests of a few hundred bytes shall never wait for a WINDOW_UPDATE.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Of streams that a client gave up (silent tokens, timeouts): it is no attack when a test does it.
const RESETS_MAX: usize = 100_000;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// What was taken when the stop came may still be answered, for this long.
const DRAIN: Duration = Duration::from_secs(1);
/// After accept(2) failed, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the handlers may know about a connection.
#[derive(Default)]
pub struct Connection {
    /// From 1, in the order of arrival.
    pub number: u64,
    /// The client has shown a certificate of ours.
    pub certified: AtomicBool,
    /// Of APNs: the team and key that the first good token named.
    pub bound: OnceLock<Binding>,
    cut: Notify,
    /// APNs requests under way before the first one was answered.
    unproven: AtomicU32,
    proven: AtomicBool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    pub team: String,
    pub key: String,
}

/// Serves until `stop` resolves, then lets the connections finish.
pub async fn serve(
    simulator: Arc<Simulator>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    stop: impl Future<Output = ()>,
) {
    let (stopping, stopped) = watch::channel(());
    let numbers = AtomicU64::new(0);
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let number = numbers.fetch_add(1, Ordering::Relaxed) + 1;
                    let connection = Arc::new(Connection { number, ..Connection::default() });
                    let (simulator, acceptor) = (Arc::clone(&simulator), acceptor.clone());
                    connections.spawn(hold(simulator, connection, socket, acceptor, stopped.clone()));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    let _ = stopping.send(());
    let _ = timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
}

/// The life of one connection. That it ends, and how, is the client's business: nothing to tell.
async fn hold(
    simulator: Arc<Simulator>,
    connection: Arc<Connection>,
    socket: TcpStream,
    acceptor: TlsAcceptor,
    stopped: watch::Receiver<()>,
) {
    let _ = socket.set_nodelay(true);
    let Ok(Ok(stream)) = timeout(HANDSHAKE, acceptor.accept(socket)).await else {
        return;
    };
    simulator.stats.connections.add();
    connection.certified.store(stream.get_ref().1.peer_certificates().is_some(), Ordering::Relaxed);
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let _ = hold_http2(simulator, connection, stream, stopped).await;
    } else {
        let _ = hold_http1(simulator, connection, stream, stopped).await;
    }
}

async fn hold_http2(
    simulator: Arc<Simulator>,
    connection: Arc<Connection>,
    stream: TlsStream<TcpStream>,
    mut stopped: watch::Receiver<()>,
) -> Result<(), h2::Error> {
    let mut http2 = h2::server::Builder::new()
        .max_concurrent_streams(simulator.switches().max_concurrent_streams)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_reset_streams(RESETS_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_send_buffer_size(BODY_MAX)
        .handshake::<_, Bytes>(stream)
        .await?;
    let (mut taken, mut leaving) = (0_u64, false);
    loop {
        let next = tokio::select! {
            next = http2.accept() => next,
            // Dropping the connection here closes the socket with everything on it.
            () = connection.cut.notified() => return Ok(()),
            _ = stopped.changed(), if !leaving => {
                leaving = true;
                http2.graceful_shutdown();
                continue;
            }
        };
        let Some(next) = next else {
            return Ok(());
        };
        let (request, mut respond) = next?;
        let switches = simulator.switches();
        let faulty = is_fair_game(request.uri().path());
        taken += u64::from(faulty);
        let every = |n: u64| faulty && n > 0 && taken.is_multiple_of(n);
        if every(switches.goaway_every) && !leaving {
            leaving = true;
            simulator.stats.goaways.add();
            http2.graceful_shutdown();
        }
        if every(switches.refuse_every) {
            simulator.stats.refused_streams.add();
            respond.send_reset(Reason::REFUSED_STREAM);
            continue;
        }
        tokio::spawn(respond_http2(Arc::clone(&simulator), Arc::clone(&connection), request, respond));
    }
}

/// One stream, from its headers to the end of its answer. When the client is gone there is nobody to tell.
async fn respond_http2(
    simulator: Arc<Simulator>,
    connection: Arc<Connection>,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let stream = u32::from(respond.stream_id());
    let (head, body) = request.into_parts();
    let early = connection.begins(&simulator, &head);
    let Ok(body) = read(body).await else {
        if early {
            connection.ends(None);
        }
        respond.send_reset(Reason::PROTOCOL_ERROR);
        return;
    };
    let answer = match body {
        Some(body) => {
            let request = Request { head, body, connection: Arc::clone(&connection), stream: Some(stream) };
            answer(&simulator, request).await
        }
        None => Some(Answer::empty(413)),
    };
    let Some(answer) = answer else {
        // Cut or silent: the stream stays open until the client or the connection gives it up.
        let _ = poll_fn(|context| respond.poll_reset(context)).await;
        return;
    };
    if early {
        connection.ends(Some(answer.status));
    }
    let body = answer.body.clone();
    if let Ok(mut sender) = respond.send_response(answer.into_head(), body.is_empty())
        && !body.is_empty()
    {
        let _ = sender.send_data(body, true);
    }
}

/// The whole body, or None when it is too large. Most bodies are one frame and are not copied.
async fn read(mut body: RecvStream) -> Result<Option<Bytes>, h2::Error> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        if first.is_empty() && all.is_empty() {
            first = chunk;
            continue;
        }
        if all.is_empty() {
            all.extend_from_slice(&first);
        }
        all.extend_from_slice(&chunk);
        if all.len() > BODY_MAX {
            return Ok(None);
        }
    }
    Ok(Some(if all.is_empty() { first } else { all.freeze() }))
}

async fn hold_http1(
    simulator: Arc<Simulator>,
    connection: Arc<Connection>,
    stream: TlsStream<TcpStream>,
    mut stopped: watch::Receiver<()>,
) -> hyper::Result<()> {
    let taken = AtomicU64::new(0);
    let service = hyper::service::service_fn(|request: hyper::Request<Incoming>| {
        let (simulator, connection) = (Arc::clone(&simulator), Arc::clone(&connection));
        let every = simulator.switches().goaway_every;
        let last = every > 0
            && is_fair_game(request.uri().path())
            && (taken.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(every);
        async move {
            let (head, body) = request.into_parts();
            let answer = match Limited::new(body, BODY_MAX).collect().await {
                Ok(body) => {
                    let body = body.to_bytes();
                    answer(&simulator, Request { head, body, connection, stream: None }).await
                }
                Err(_) => Some(Answer::empty(413)),
            };
            let Some(mut answer) = answer else {
                return pending().await;
            };
            let body = Full::new(std::mem::take(&mut answer.body));
            if last {
                answer = answer.with(http::header::CONNECTION, "close");
            }
            Ok::<_, Infallible>(answer.into_head().map(|()| body))
        }
    });
    let http1 = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut http1 = std::pin::pin!(http1);
    let mut leaving = false;
    loop {
        tokio::select! {
            ended = &mut http1 => return ended,
            () = connection.cut.notified() => return Ok(()),
            _ = stopped.changed(), if !leaving => {
                leaving = true;
                http1.as_mut().graceful_shutdown();
            }
        }
    }
}

/// What to answer, once it is time; None when no answer ever comes.
async fn answer(simulator: &Arc<Simulator>, request: Request) -> Option<Answer> {
    let connection = Arc::clone(&request.connection);
    let Reply { fate, delay_ms } = route(simulator, request).await;
    if delay_ms > 0 {
        sleep(Duration::from_millis(delay_ms)).await;
    }
    match fate {
        Fate::Answer(answer) => Some(answer),
        Fate::Cut => {
            connection.cut.notify_one();
            None
        }
        Fate::Silence => None,
    }
}

async fn route(simulator: &Arc<Simulator>, request: Request) -> Reply {
    let path = request.head.uri.path();
    if apns::is_theirs(path) {
        apns::take(simulator, &request)
    } else if path.starts_with(fcm::SEND_PREFIX) && path.ends_with(fcm::SEND_SUFFIX) {
        fcm::take(simulator, &request)
    } else if path.starts_with(webpush::PREFIX) {
        webpush::take(simulator, &request)
    } else if path == oauth::PATH {
        Reply::now(oauth::token(simulator, &request))
    } else if path.starts_with(control::PREFIX) {
        // Minting ten thousand subscriptions takes a second: not on a thread that serves connections.
        let simulator = Arc::clone(simulator);
        let answer = spawn_blocking(move || control::answer(&simulator, &request)).await;
        Reply::now(answer.unwrap_or_else(|_| Answer::empty(500)))
    } else {
        Reply::now(Answer::json(404, &json!({"reason": "BadPath"})))
    }
}

/// Faults are for providers: whoever switches them on must be able to switch them off.
fn is_fair_game(path: &str) -> bool {
    !path.starts_with(control::PREFIX)
}

impl Connection {
    /// Apple allows one stream until a provider token has been accepted. True while that is still open.
    fn begins(&self, simulator: &Simulator, head: &Parts) -> bool {
        if self.proven.load(Ordering::Acquire) || !apns::is_theirs(head.uri.path()) {
            return false;
        }
        if self.unproven.fetch_add(1, Ordering::AcqRel) > 0 {
            simulator.stats.early_streams.add();
        }
        true
    }

    /// A token that was not refused (403) is accepted, whatever became of the message.
    fn ends(&self, status: Option<u16>) {
        if status.is_some_and(|status| status != 403) {
            self.proven.store(true, Ordering::Release);
        }
        self.unproven.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Answer {
    fn into_head(self) -> http::Response<()> {
        let mut response = http::Response::new(());
        *response.status_mut() = http::StatusCode::from_u16(self.status).expect("our own statuses");
        response.headers_mut().extend(self.headers);
        response
    }
}
