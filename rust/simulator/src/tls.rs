//! A certificate authority of its own, so that clients verify the simulator as they verify a provider.
//!
//! The authority is kept in `certificateDir` (`ca.pem`, `ca.key`) and outlives restarts; the server's certificate is made
//! anew at each start and never leaves the process. Only TLS 1.3 is spoken: every client here has it. A client may show a
//! certificate that the authority signed, which is how APNs knows providers without tokens; one is given out.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// The certificate names what loopback is called; a public name comes from the configuration.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What connections are held with.
pub struct Tls {
    pub server: Arc<ServerConfig>,
    /// The authority that signed the server's certificate.
    pub ca_file: PathBuf,
    /// A provider's certificate and its key, PEM.
    pub client: (String, String),
}

/// `public_host` stands in the server's certificate, `bundle_id` in the provider's.
pub fn open(directory: &Path, public_host: &str, bundle_id: &str) -> Result<Tls, String> {
    let file = directory.join("ca.pem");
    let authority = authority(directory, &file)?;
    let mut names: Vec<String> = NAMES.iter().map(ToString::to_string).collect();
    if !NAMES.contains(&public_host) {
        names.push(public_host.into());
    }
    let failed = |error: rcgen::Error| format!("certificate: {error}");
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = issue(&authority, &key, "Sendora simulator", names, ExtendedKeyUsagePurpose::ServerAuth);
    let certificate = certificate.map_err(failed)?.der().clone();
    let provider_key = KeyPair::generate().map_err(failed)?;
    let (name, usage) = (format!("Apple Push Services: {bundle_id}"), ExtendedKeyUsagePurpose::ClientAuth);
    let client = issue(&authority, &provider_key, &name, Vec::new(), usage).map_err(failed)?;

    let told = |error: &dyn std::fmt::Display| format!("TLS: {error}");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    let pem = fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    roots.add(CertificateDer::from_pem_slice(&pem).map_err(|error| told(&error))?).map_err(|error| told(&error))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| told(&error))?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_client_cert_verifier(verifier).with_single_cert(vec![certificate], key))
        .map_err(|error| told(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Tls { server: Arc::new(config), ca_file: file, client: (client.pem(), provider_key.serialize_pem()) })
}

/// A P-256 key that is kept in a file which only the owner can read; made when it is missing.
pub fn kept_key(file: &Path) -> Result<KeyPair, String> {
    if file.exists() {
        let pem = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        return KeyPair::from_pem(&pem).map_err(|error| format!("{}: {error}", file.display()));
    }
    let key = KeyPair::generate().map_err(|error| format!("key: {error}"))?;
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut open| open.write_all(key.serialize_pem().as_bytes()))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(key)
}

fn authority(directory: &Path, file: &Path) -> Result<Issuer<'static, KeyPair>, String> {
    fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let key = kept_key(&directory.join("ca.key"))?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Sendora simulator CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // An authority whose certificate was lost may make it again: clients compare its key, and that is the same.
    if !file.exists() {
        let pem = params.self_signed(&key).map_err(|error| format!("certificate: {error}"))?.pem();
        fs::write(file, pem).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(Issuer::new(params, key))
}

fn issue(
    authority: &Issuer<'static, KeyPair>,
    key: &KeyPair,
    common_name: &str,
    names: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
) -> Result<Certificate, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.signed_by(key, authority)
}
