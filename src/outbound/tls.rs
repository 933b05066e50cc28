//! Whom we believe: the certificate authorities of the operating system and those that the
//! configuration adds. Read at the first connection.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};

/// The client's side of TLS. Clones share it.
#[derive(Clone)]
pub struct TrustAnchors(Arc<Inner>);

struct Inner {
    trust: Trust,
    config: OnceLock<Arc<ClientConfig>>,
}

enum Trust {
    /// Authorities of the operating system, and of these files.
    Authorities(Vec<PathBuf>),
    /// Whoever answers is believed to be who was asked for.
    Anybody,
}

impl TrustAnchors {
    pub fn new(ca_files: Vec<PathBuf>) -> Self {
        Self::with(Trust::Authorities(ca_files))
    }

    /// For test networks, whose servers have certificates of nobody.
    pub fn credulous() -> Self {
        Self::with(Trust::Anybody)
    }

    fn with(trust: Trust) -> Self {
        Self(Arc::new(Inner { trust, config: OnceLock::new() }))
    }

    /// What a handshake needs. Offers HTTP/2 and HTTP/1.1.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(self.0.config.get_or_init(|| Arc::new(self.0.read())))
    }
}

impl Inner {
    fn read(&self) -> ClientConfig {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider supports the protocol versions that are the default");
        let mut config = match &self.trust {
            Trust::Authorities(ca_files) => {
                builder.with_root_certificates(read_authorities(ca_files)).with_no_client_auth()
            }
            Trust::Anybody => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Credulous(provider)))
                .with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

fn read_authorities(ca_files: &[PathBuf]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "certificates of the operating system could not be read");
    }
    roots.add_parsable_certificates(system.certs);
    for file in ca_files {
        let certificates =
            CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
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
    roots
}

/// Believes every certificate, but holds whoever shows it to have its key.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
