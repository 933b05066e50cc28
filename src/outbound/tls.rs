//! Whom we believe: the certificate authorities of the operating system and those that the
//! configuration adds. Read at the first connection.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// The client's side of TLS. Clones share it.
#[derive(Clone)]
pub struct TrustAnchors(Arc<Inner>);

struct Inner {
    ca_files: Vec<PathBuf>,
    config: OnceLock<Arc<ClientConfig>>,
}

impl TrustAnchors {
    pub fn new(ca_files: Vec<PathBuf>) -> Self {
        Self(Arc::new(Inner { ca_files, config: OnceLock::new() }))
    }

    /// What a handshake needs. Offers HTTP/2 and HTTP/1.1.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(self.0.config.get_or_init(|| Arc::new(self.0.read())))
    }
}

impl Inner {
    fn read(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            tracing::warn!(%error, "certificates of the operating system could not be read");
        }
        roots.add_parsable_certificates(system.certs);
        for file in &self.ca_files {
            let certificates = CertificateDer::pem_file_iter(file)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>);
            match certificates {
                Ok(certificates) => {
                    roots.add_parsable_certificates(certificates);
                }
                Err(error) => {
                    let path = file.display();
                    tracing::warn!(tls.certificate = %path, %error, "an authority is not trusted");
                }
            }
        }
        if roots.is_empty() {
            tracing::warn!(
                "no certificate authority is known (install ca-certificates): no other server can \
                 be reached"
            );
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider supports the protocol versions that are the default")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}
