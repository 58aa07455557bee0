//! What lanes promise, against the simulator and against a small server that does as it is told.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use sendora_lanes::{Class, Fate, Feedback, Lanes, Load, Reply, Request, Settings};
use sendora_simulator::{Config, Server};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio_rustls::TlsAcceptor;

/// A load of one path, and what became of its items.
struct Calls {
    path: String,
    body: &'static str,
    open: AtomicBool,
    replies: Mutex<HashMap<u32, Reply>>,
    told: AtomicUsize,
    count: AtomicUsize,
    news: Notify,
}

impl Calls {
    fn new(path: &str, body: &'static str) -> Arc<Self> {
        let (replies, told, count, news) = (Mutex::default(), AtomicUsize::new(0), AtomicUsize::new(0), Notify::new());
        Arc::new(Self { path: path.into(), body, open: AtomicBool::new(true), replies, told, count, news })
    }

    /// Waits for so many replies; each item has one at most.
    async fn wait(&self, n: usize) -> HashMap<u32, Reply> {
        while self.count.load(Ordering::Acquire) < n {
            tokio::time::timeout(Duration::from_secs(30), self.news.notified()).await.expect("replies");
        }
        let replies = self.replies.lock().unwrap().clone();
        assert_eq!((replies.len(), self.told.load(Ordering::Acquire)), (n, n), "one reply for each");
        replies
    }
}

impl Load for Calls {
    fn open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    fn request(&self, item: u32) -> Option<Request> {
        let path = self.path.replace("{}", &item.to_string()).parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("apns-topic", "com.sendora.demo".parse().unwrap());
        headers.insert("apns-push-type", "alert".parse().unwrap());
        Some(Request { path, headers, body: Bytes::from_static(self.body.as_bytes()) })
    }

    fn reply(&self, item: u32, reply: Reply) -> Feedback {
        let rest = reply.headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let feedback = match (rest, reply.status) {
            (Some(seconds), _) => Feedback::Throttled(Some(Duration::from_secs(seconds))),
            (None, 200) => Feedback::Success,
            (None, _) => Feedback::Neutral,
        };
        self.replies.lock().unwrap().insert(item, reply);
        self.told.fetch_add(1, Ordering::Release);
        feedback
    }

    fn settled(&self) {
        self.count.store(self.told.load(Ordering::Acquire), Ordering::Release);
        self.news.notify_one();
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn lanes(origin: &str, ca_file: &Path, change: impl FnOnce(&mut Settings)) -> Lanes {
    let port = origin.rsplit_once(':').unwrap().1.parse().unwrap();
    let mut settings = Settings {
        ca_files: vec![ca_file.into()],
        blocked: vec!["127.0.0.0/8".parse().unwrap(), "::/96".parse().unwrap()],
        exempt: vec![("127.0.0.1".into(), port), ("localhost".into(), port)],
        ..Settings::default()
    };
    change(&mut settings);
    Lanes::new(settings).unwrap()
}

async fn send(lanes: &Lanes, origin: &str, load: &Arc<Calls>, items: std::ops::Range<u32>) -> HashMap<u32, Reply> {
    submit(lanes, origin, Class::Bulk, load, items.clone());
    load.wait(items.len()).await
}

fn submit(lanes: &Lanes, origin: &str, class: Class, load: &Arc<Calls>, items: std::ops::Range<u32>) {
    let as_load: Arc<dyn Load> = Arc::<Calls>::clone(load);
    lanes.submit("apns:1", origin, class, 1, &as_load, &items.collect::<Vec<_>>());
}

/// A server whose paths say what becomes of a request: `/200/..`, `/refused/..` (once for each path), `/silent`.
struct Small {
    origin: String,
    ca_file: PathBuf,
    seen: Arc<Mutex<Vec<String>>>,
    most: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl Small {
    /// `streams`: what it allows at a time. `delay`: of each answer.
    async fn start(name: &str, streams: u32, delay: Duration) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        let ca_file = folder(name).join("ca.pem");
        fs::write(&ca_file, params.self_signed(&key).unwrap().pem()).unwrap();
        let authority = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let small = Self {
            origin: format!("https://localhost:{}", listener.local_addr().unwrap().port()),
            ca_file,
            seen: Arc::default(),
            most: Arc::default(),
            connections: Arc::default(),
        };
        let (seen, most, connections) =
            (Arc::clone(&small.seen), Arc::clone(&small.most), Arc::clone(&small.connections));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let (acceptor, seen, most) = (acceptor.clone(), Arc::clone(&seen), Arc::clone(&most));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(socket).await else { return };
                    let mut builder = h2::server::Builder::new();
                    let Ok(mut connection) =
                        builder.max_concurrent_streams(streams).handshake::<_, Bytes>(stream).await
                    else {
                        return;
                    };
                    let running = Arc::new(AtomicUsize::new(0));
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let path = request.uri().path().to_owned();
                        let first = !seen.lock().unwrap().contains(&path);
                        seen.lock().unwrap().push(path.clone());
                        most.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                        let running = Arc::clone(&running);
                        tokio::spawn(async move {
                            let _request = request;
                            tokio::time::sleep(delay).await;
                            running.fetch_sub(1, Ordering::Relaxed);
                            match path.split('/').nth(1) {
                                Some("refused") if first => respond.send_reset(Reason::REFUSED_STREAM),
                                Some("always") => respond.send_reset(Reason::REFUSED_STREAM),
                                Some("silent") => std::future::pending().await,
                                Some("held") => {
                                    let answer = http::Response::builder().status(429).header("retry-after", "7");
                                    let _ = respond.send_response(answer.body(()).unwrap(), true);
                                }
                                status => {
                                    let status: u16 = status.and_then(|text| text.parse().ok()).unwrap_or(200);
                                    let answer = http::Response::builder().status(status).body(()).unwrap();
                                    let _ = respond.send_response(answer, true);
                                }
                            }
                        });
                    }
                });
            }
        });
        small
    }
}

const NOTICE: &str = r#"{"aps":{"alert":"x"}}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nothing_is_lost_or_doubled_by_a_provider_that_says_goaway_and_refuses() {
    let place = folder("goaway");
    let text = |name: &str| place.join(name).display().to_string();
    let config = serde_json::json!({"logFile": text("log"), "certificateDir": text("ca"), "requireAuth": false});
    let server = Server::open(&Config::parse(&config.to_string()).unwrap()).await.unwrap();
    let (url, ca_file) = (server.url().to_owned(), server.ca_file().to_owned());
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    let lanes = lanes(&url, &ca_file, |_| {});
    let first = send(&lanes, &url, &Calls::new("/3/device/ok-first-{}", NOTICE), 0..1).await;
    assert_eq!((first[&0].fate, first[&0].status), (Fate::Answered, 200), "{:?}", first[&0]);
    let switches = Calls::new("/_/switches", r#"{"goawayEvery": 50, "refuseEvery": 7}"#);
    assert_eq!(send(&lanes, &url, &switches, 0..1).await[&0].status, 200);
    let replies = send(&lanes, &url, &Calls::new("/3/device/ok-{}", NOTICE), 0..2_000).await;
    let bad: Vec<&Reply> = replies.values().filter(|reply| reply.status != 200).collect();
    assert!(bad.is_empty(), "{} {:?}", bad.len(), bad[0]);
    lanes.close();
    stop.send(()).unwrap();
    ended.await.unwrap().unwrap();
    let seen = fs::read_to_string(place.join("log")).unwrap();
    assert_eq!(seen.lines().filter(|line| line.contains("ok-")).count(), 2_001, "each of them once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_at_a_time_until_the_first_success_and_then_what_the_server_allows() {
    let small = Small::start("first", 5, Duration::from_millis(5)).await;
    let lanes = lanes(&small.origin, &small.ca_file, |settings| settings.connections = 1);
    send(&lanes, &small.origin, &Calls::new("/403/{}", ""), 0..5).await;
    assert_eq!(small.most.load(Ordering::Relaxed), 1, "403 proves nothing");
    assert_eq!(lanes.limit("apns:1"), 1);
    send(&lanes, &small.origin, &Calls::new("/200/{}", ""), 0..100).await;
    assert_eq!(small.most.load(Ordering::Relaxed), 5);
    assert_eq!(small.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_refused_unread_is_sent_again_but_not_for_ever() {
    let small = Small::start("refused", 100, Duration::ZERO).await;
    let lanes = lanes(&small.origin, &small.ca_file, |_| {});
    let replies = send(&lanes, &small.origin, &Calls::new("/refused/{}", "{}"), 0..30).await;
    assert!(replies.values().all(|reply| reply.status == 200));
    let replies = send(&lanes, &small.origin, &Calls::new("/always/{}", "{}"), 0..3).await;
    assert!(replies.values().all(|reply| reply.fate == Fate::Unsent && reply.detail == "refused_unread"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_silent_provider_is_unknown_and_opens_the_circuit() {
    let small = Small::start("silent", 100, Duration::ZERO).await;
    let lanes = lanes(&small.origin, &small.ca_file, |settings| settings.answer_s = 0.3);
    send(&lanes, &small.origin, &Calls::new("/200/{}", ""), 0..1).await;
    let replies = send(&lanes, &small.origin, &Calls::new("/silent/{}", ""), 0..20).await;
    assert!(replies.values().all(|reply| reply.fate == Fate::Unknown));
    assert!(lanes.held("apns:1") > Duration::ZERO);
    let replies = send(&lanes, &small.origin, &Calls::new("/200/{}", ""), 0..3).await;
    assert!(replies.values().all(|reply| reply.fate == Fate::Unsent && reply.detail == "breaker"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nothing_leaves_for_a_blocked_address_or_through_a_closed_gate() {
    let small = Small::start("blocked", 100, Duration::ZERO).await;
    let lanes = lanes(&small.origin, &small.ca_file, |settings| {
        settings.exempt.pop();
        settings.ports.push(settings.exempt[0].1);
    });
    let replies = send(&lanes, &small.origin, &Calls::new("/200/{}", ""), 0..20).await;
    assert!(
        replies.values().all(|reply| reply.fate == Fate::Unsent && reply.detail == "blocked: not a public address")
    );
    assert_eq!(lanes.held("apns:1"), Duration::ZERO);
    assert_eq!(small.connections.load(Ordering::Relaxed), 0);
    let closed = Calls::new("/200/{}", "");
    closed.open.store(false, Ordering::Relaxed);
    let loopback = small.origin.replace("localhost", "127.0.0.1");
    let replies = send(&lanes, &loopback, &closed, 0..4).await;
    assert!(replies.values().all(|reply| reply.fate == Fate::Unsent));
    assert!(small.seen.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_provider_that_asks_for_time_gets_it() {
    let small = Small::start("held", 100, Duration::ZERO).await;
    let lanes = lanes(&small.origin, &small.ca_file, |_| {});
    send(&lanes, &small.origin, &Calls::new("/200/{}", ""), 0..1).await;
    send(&lanes, &small.origin, &Calls::new("/held/{}", ""), 0..3).await;
    assert_eq!(lanes.held("apns:1"), Duration::ZERO, "three devices are not the account");
    let replies = send(&lanes, &small.origin, &Calls::new("/held/{}", ""), 0..30).await;
    assert!(lanes.held("apns:1") > Duration::from_secs(5), "{replies:?}");
    let replies = send(&lanes, &small.origin, &Calls::new("/200/{}", ""), 0..3).await;
    assert!(replies.values().all(|reply| reply.detail == "held"));
}
