//! What is trusted, and that HTTP/2 is spoken.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

const PROTOCOL: &[u8] = b"h2";

pub fn client(authorities: &[u8]) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(authorities).collect::<Result<Vec<_>, _>>();
    // What this library cannot read of the system's certificates (there are ancient ones) is not trusted.
    let (taken, _) = roots.add_parsable_certificates(certificates.map_err(|error| format!("certificates: {error}"))?);
    if taken == 0 {
        return Err("no certificate is trusted".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = versions.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}
