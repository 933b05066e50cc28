//! Certificates: read at the start, read again when their files change. Connections that are open keep
//! theirs; new ones get the new one. A certificate that cannot be read leaves the old one in place.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// A certificate chain and its key, which follow their files.
pub(super) struct Certificates {
    certificate_path: PathBuf,
    key_path: PathBuf,
    current: Arc<Current>,
    seen: Mutex<FileTimes>,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("the TLS file {path} cannot be read: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the TLS file {path} is not in PEM format, or holds no {what}")]
    Malformed { path: PathBuf, what: &'static str },
    #[error("the certificate {certificate} and the key {key} do not work together: {source}")]
    Mismatch { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

/// When the two files were last written.
type FileTimes = [Option<SystemTime>; 2];

struct Current(ArcSwap<CertifiedKey>);

impl Certificates {
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        let seen = Mutex::new(file_times(certificate, key));
        let current =
            Arc::new(Current(ArcSwap::from_pointee(read_certified_key(certificate, key)?)));
        Ok(Self {
            certificate_path: certificate.to_owned(),
            key_path: key.to_owned(),
            current,
            seen,
        })
    }

    /// The side of the server in a handshake, which asks for the current certificate each time.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider supports the protocol versions that are the default")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Without a ticketer, every reconnect of a phone would cost a whole handshake.
        if let Ok(ticketer) = ring::Ticketer::new() {
            config.ticketer = ticketer;
        }
        Arc::new(config)
    }

    /// Reads the files again when they have changed, or in any case when `asked`.
    pub fn refresh(&self, asked: bool) {
        let times = file_times(&self.certificate_path, &self.key_path);
        if !asked && *self.seen.lock() == times {
            return;
        }
        *self.seen.lock() = times;
        let path = self.certificate_path.display();
        match read_certified_key(&self.certificate_path, &self.key_path) {
            Ok(key) => {
                self.current.0.store(Arc::new(key));
                tracing::info!(tls.certificate = %path, "the certificate was read again");
            }
            // Often one of the two files is written before the other; the next look finds both.
            Err(error) => {
                tracing::warn!(tls.certificate = %path, %error, "the old certificate stays in use");
            }
        }
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Current")
    }
}

fn read_certified_key(certificate: &Path, key: &Path) -> Result<CertifiedKey, CertificateError> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| name_pem_error(error, certificate, "certificate"))?;
    if chain.is_empty() {
        let path = certificate.to_owned();
        return Err(CertificateError::Malformed { path, what: "certificate" });
    }
    let private_key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| name_pem_error(error, key, "private key"))?;
    let provider: &CryptoProvider = &ring::default_provider();
    CertifiedKey::from_der(chain, private_key, provider).map_err(|source| {
        CertificateError::Mismatch {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            source,
        }
    })
}

fn name_pem_error(error: pem::Error, path: &Path, what: &'static str) -> CertificateError {
    let path = path.to_owned();
    match error {
        pem::Error::Io(source) => CertificateError::Unreadable { path, source },
        _ => CertificateError::Malformed { path, what },
    }
}

fn file_times(certificate: &Path, key: &Path) -> FileTimes {
    [certificate, key].map(|path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok())
}
