//! What the tests need to be a provider's client: a running simulator, an HTTP/2 connection, signatures and encryption.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use bytes::Bytes;
use h2::client::SendRequest;
use http::HeaderMap;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use ring::{aead, agreement, hmac};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sendora_simulator::{Config, Server};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A simulator of its own, in this process.
pub struct Running {
    pub url: String,
    pub log_file: PathBuf,
    pub ca_file: PathBuf,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), String>>,
}

/// One HTTP/2 connection.
pub struct Client {
    pub http2: SendRequest<Bytes>,
    /// Resolves when the connection has ended.
    pub ended: JoinHandle<Result<(), h2::Error>>,
    authority: String,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An ES256 key: Apple's p8, or VAPID's.
pub struct Es256(EcdsaKeyPair);

/// An empty directory for one test.
pub fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

pub fn config(folder: &Path) -> Config {
    let text = |name: &str| folder.join(name).display().to_string();
    let config =
        json!({"logFile": text("log.jsonl"), "certificateDir": text("certificates"), "readyFile": text("ready.json")});
    Config::parse(&config.to_string()).unwrap()
}

impl Running {
    pub async fn start(name: &str) -> Self {
        Self::with(&config(&folder(name))).await
    }

    pub async fn with(config: &Config) -> Self {
        let server = Server::open(config).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        Self {
            url: server.url().into(),
            log_file: config.log_file.clone(),
            ca_file: server.ca_file().into(),
            stop,
            ended: tokio::spawn(server.run(async {
                let _ = stopped.await;
            })),
        }
    }

    pub fn authority(&self) -> &str {
        self.url.strip_prefix("https://").unwrap()
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.authority(), &self.ca_file).await
    }

    /// Ends it and reads its log.
    pub async fn stop(self) -> Vec<Value> {
        self.stop.send(()).unwrap();
        self.ended.await.unwrap().unwrap();
        lines(&self.log_file)
    }
}

pub fn lines(log_file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log_file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub async fn tls(authority: &str, ca_file: &Path, protocol: &[u8]) -> TlsStream<TcpStream> {
    tls_as(authority, ca_file, protocol, None).await
}

/// `identity`: a certificate and its key, PEM.
async fn tls_as(
    authority: &str,
    ca_file: &Path,
    protocol: &[u8],
    identity: Option<(&str, &str)>,
) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca_file).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let socket = TcpStream::connect(authority).await.unwrap();
    let name = ServerName::try_from(authority.rsplit_once(':').unwrap().0.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
}

impl Client {
    pub async fn connect(authority: &str, ca_file: &Path) -> Self {
        Self::speaking(authority, tls(authority, ca_file, b"h2").await).await
    }

    /// Known by a certificate.
    pub async fn connect_as(authority: &str, ca_file: &Path, certificate: &str, key: &str) -> Self {
        Self::speaking(authority, tls_as(authority, ca_file, b"h2", Some((certificate, key))).await).await
    }

    async fn speaking(authority: &str, stream: TlsStream<TcpStream>) -> Self {
        let (http2, connection) = h2::client::handshake(stream).await.unwrap();
        Self { http2, ended: tokio::spawn(connection), authority: authority.into() }
    }

    pub async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, h2::Error> {
        let mut request = http::Request::builder().method(method).uri(format!("https://{}{path}", self.authority));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut http2 = self.http2.clone().ready().await?;
        let (response, mut stream) = http2.send_request(request.body(()).unwrap(), body.is_empty())?;
        if !body.is_empty() {
            stream.send_data(Bytes::copy_from_slice(body), true)?;
        }
        let (head, mut stream) = response.await?.into_parts();
        let mut body = Vec::new();
        while let Some(chunk) = stream.data().await {
            let chunk = chunk?;
            stream.flow_control().release_capacity(chunk.len())?;
            body.extend_from_slice(&chunk);
        }
        Ok(Response { status: head.status.as_u16(), headers: head.headers, body: body.into() })
    }

    /// `/_/..`: what is sent and what comes back is JSON.
    pub async fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let response = self.call(method, path, &[], body.as_bytes()).await.unwrap();
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }

    pub async fn switch(&self, switches: Value) {
        self.ask("POST", "/_/switches", switches).await;
    }

    pub async fn mint(&self, transport: &str, grammar: &str) -> Value {
        let body = json!({"transport": transport, "tokens": [grammar]});
        self.ask("POST", "/_/mint", body).await["tokens"][0].take()
    }

    /// A notification as Sendora sends it.
    pub async fn apns(&self, token: &str, bearer: &str, send: &str) -> Result<Response, h2::Error> {
        let path = format!("/3/device/{token}");
        self.call("POST", &path, &apns_headers(bearer), &apns_payload(send)).await
    }

    /// A provider token for the credentials of this simulator, issued `age_s` ago.
    pub async fn bearer(&self, age_s: i64) -> String {
        let apns = self.ask("GET", "/_/credentials", Value::Null).await["apns"].take();
        bearer(&apns, age_s)
    }

    pub async fn access_token(&self, account: &Value) -> Response {
        let assertion = assertion(account, &json!({}));
        let form = format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}");
        self.call("POST", "/token", &[("content-type", "application/x-www-form-urlencoded")], form.as_bytes())
            .await
            .unwrap()
    }
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn reason(&self) -> String {
        self.json()["reason"].as_str().unwrap().into()
    }
}

pub fn apns_headers(bearer: &str) -> Vec<(&'static str, &str)> {
    vec![
        ("authorization", bearer),
        ("apns-topic", "com.sendora.demo"),
        ("apns-push-type", "alert"),
        ("apns-priority", "10"),
        ("apns-expiration", "0"),
    ]
}

pub fn apns_payload(send: &str) -> Vec<u8> {
    let alert = json!({"title": "Hello", "body": "World"});
    json!({"aps": {"alert": alert}, "sendoraSendId": send, "sendoraDeliveryId": format!("{send}-d")}).to_string().into()
}

pub fn bearer(apns: &Value, age_s: i64) -> String {
    let key = Es256::from_pem(apns["p8Key"].as_str().unwrap());
    let token = key
        .jwt(&json!({"alg": "ES256", "kid": apns["keyId"]}), &json!({"iss": apns["teamId"], "iat": now_s() - age_s}));
    format!("bearer {token}")
}

/// The assertion of a service account; `changes` replaces claims.
pub fn assertion(account: &Value, changes: &Value) -> String {
    let der = PrivatePkcs8KeyDer::from_pem_slice(account["private_key"].as_str().unwrap().as_bytes()).unwrap();
    let key = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
    let mut claims = json!({
        "iss": account["client_email"],
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": account["token_uri"],
        "iat": now_s(),
        "exp": now_s() + 3_600,
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    let signed = unsigned(&json!({"alg": "RS256", "kid": account["private_key_id"]}), &claims);
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", encode(&signature))
}

impl Es256 {
    pub fn new() -> Self {
        Self::from_der(&rcgen::KeyPair::generate().unwrap().serialize_der())
    }

    pub fn from_pem(pem: &str) -> Self {
        Self::from_der(PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).unwrap().secret_pkcs8_der())
    }

    fn from_der(der: &[u8]) -> Self {
        Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new()).unwrap())
    }

    pub fn jwt(&self, header: &Value, claims: &Value) -> String {
        let signed = unsigned(header, claims);
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", encode(signature.as_ref()))
    }

    /// The value of `Authorization` for an origin.
    pub fn vapid(&self, origin: &str, lasts_s: i64, subject: &str) -> String {
        let claims = json!({"aud": origin, "exp": now_s() + lasts_s, "sub": subject});
        let token = self.jwt(&json!({"typ": "JWT", "alg": "ES256"}), &claims);
        format!("vapid t={token}, k={}", encode(self.0.public_key().as_ref()))
    }
}

/// The sender's side of RFC 8291.
pub fn encrypt(subscription: &Value, plain: &[u8]) -> Vec<u8> {
    let random = SystemRandom::new();
    let decode = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(subscription["keys"][name].as_str().unwrap()).unwrap();
    let (theirs, auth) = (decode("p256dh"), decode("auth"));
    let secret = agreement::EphemeralPrivateKey::generate(&agreement::ECDH_P256, &random).unwrap();
    let ours = secret.compute_public_key().unwrap();
    let mut salt = [0; 16];
    random.fill(&mut salt).unwrap();
    let point = agreement::UnparsedPublicKey::new(&agreement::ECDH_P256, &theirs);
    let prk_key = agreement::agree_ephemeral(secret, &point, |shared| mac(&auth, &[shared])).unwrap();
    let ikm = mac(&prk_key, &[b"WebPush: info\0", &theirs, ours.as_ref(), &[1]]);
    let prk = mac(&salt, &[&ikm]);
    let key = mac(&prk, &[b"Content-Encoding: aes128gcm\0", &[1]]);
    let nonce = mac(&prk, &[b"Content-Encoding: nonce\0", &[1]]);
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_128_GCM, &key[..16]).unwrap());
    let nonce = aead::Nonce::try_assume_unique_for_key(&nonce[..12]).unwrap();
    let mut sealed = [plain, &[2]].concat();
    key.seal_in_place_append_tag(nonce, aead::Aad::empty(), &mut sealed).unwrap();
    [&salt[..], &4_096_u32.to_be_bytes(), &[65], ours.as_ref(), &sealed].concat()
}

pub fn now_s() -> i64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64
}

fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()))
}

fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    context.sign().as_ref().into()
}
