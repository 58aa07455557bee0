//! A name to a connection that speaks HTTP/2: resolved anew each time, checked, and connected to what was checked.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Guard;

/// Of a name's addresses so many are tried, within one connect timeout.
const ADDRESSES_MAX: usize = 3;

/// What a server may send us before it waits: answers are short, so this is never the bound.
const WINDOW: u32 = 1024 * 1024;

pub(crate) type Http2 = (SendRequest<Bytes>, Connection<TlsStream<TcpStream>>);

/// Where a lane goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub authority: http::uri::Authority,
    host: String,
    port: u16,
}

pub(crate) enum Refused {
    /// Nothing may be sent there.
    Blocked(&'static str),
    Failed(&'static str),
}

impl Origin {
    pub fn parse(url: &str) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("https"))?.clone();
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(443);
        (!host.is_empty() && !authority.as_str().contains('@')).then_some(Self { authority, host, port })
    }
}

/// By which a provider knows us that asks for no token: a certificate and its key, PEM.
pub(crate) struct Identity<'a> {
    pub certificate: &'a [u8],
    pub key: &'a [u8],
}

/// The client's side of TLS; HTTP/2 is the only protocol it offers.
pub(crate) fn tls(ca_files: &[PathBuf], identity: Option<&Identity<'_>>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    for file in ca_files {
        let text = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        // Bundles of authorities hold a few that this library does not take; the others stay good.
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).flatten());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(Identity { certificate, key }) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
            let chain = chain.map_err(|error| format!("certificate: {error}"))?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("key: {error}"))?;
            config.with_client_auth_cert(chain, key).map_err(|error| format!("certificate: {error}"))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// `turn` spreads connections over the addresses of a name.
pub(crate) async fn open(
    origin: &Origin,
    guard: &Guard,
    tls: &TlsConnector,
    streams: usize,
    turn: usize,
) -> Result<Http2, Refused> {
    let name = ServerName::try_from(origin.host.clone()).map_err(|_| Refused::Failed("not_a_name"))?;
    let stream = connect(origin, guard, turn).await?;
    // What is written is written at once, in pieces that h2 has gathered.
    let _ = stream.set_nodelay(true);
    let stream = tls.connect(name, stream).await.map_err(|_| Refused::Failed("tls"))?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(Refused::Failed("no_http2"));
    }
    h2::client::Builder::new()
        .enable_push(false)
        .initial_max_send_streams(streams)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake(stream)
        .await
        .map_err(|_| Refused::Failed("handshake"))
}

async fn connect(origin: &Origin, guard: &Guard, turn: usize) -> Result<TcpStream, Refused> {
    // Before the name is looked up: a port that is refused needs no address.
    if let Some(reason) = guard.refusal(&origin.host, origin.port, &[]) {
        return Err(Refused::Blocked(reason));
    }
    let found = tokio::net::lookup_host((origin.host.as_str(), origin.port))
        .await
        .map_err(|_| Refused::Failed("cannot_be_resolved"))?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let checked: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
    if let Some(reason) = guard.refusal(&origin.host, origin.port, &checked) {
        return Err(Refused::Blocked(reason));
    }
    let first = turn % addresses.len().max(1);
    addresses.rotate_left(first);
    for address in addresses.into_iter().take(ADDRESSES_MAX) {
        if let Ok(stream) = TcpStream::connect(address).await {
            return Ok(stream);
        }
    }
    Err(Refused::Failed("not_connected"))
}
