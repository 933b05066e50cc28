//! A network of servers that find and trust each other: each has a name with a port of this machine
//! and a certificate of one authority.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use hearth::{
    clock::Clock,
    config::{Api, Config, Listener, TlsFiles},
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Backend, Server};

/// The authority that servers of one test trust.
pub struct Network {
    directory: TempDir,
    authority: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Network {
    pub fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "Authority of tests");
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("ca.pem"), authority.pem()).unwrap();
        Self { directory, authority }
    }

    /// A name for a server: nobody else has the port.
    pub fn new_name(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    }

    /// Starts the server with this name, or starts it again.
    pub async fn start(&self, backend: &Backend, name: &str) -> Server {
        self.start_with(backend, name, |_| ()).await
    }

    /// Starts a server with a configuration of its own.
    pub async fn start_with(
        &self,
        backend: &Backend,
        name: &str,
        configure: impl FnOnce(&mut Config),
    ) -> Server {
        self.start_at(backend, (name, Clock::real()), configure).await
    }

    /// Starts a server with a clock that the test moves. Keys and certificates want it to begin now.
    pub async fn start_at(
        &self,
        backend: &Backend,
        (name, clock): (&str, Clock),
        configure: impl FnOnce(&mut Config),
    ) -> Server {
        let tls = self.issue(name);
        let ca_file = self.directory.path().join("ca.pem");
        let federation = Listener {
            address: name.parse().unwrap(),
            tls,
            apis: vec![Api::Federation],
            ..Listener::default()
        };
        Server::start_at(backend, clock, |config| {
            config.server.name = name.try_into().unwrap();
            config.listen.push(federation);
            config.federation.allow_private_networks = true;
            config.federation.ca_files = vec![ca_file];
            config.federation.key_servers = Vec::new();
            configure(config);
        })
        .await
    }

    /// Starts a server that is reached through a front of its own ([`super::Switchboard`]): it has the
    /// name, and listens where clients do.
    pub async fn start_behind(&self, backend: &Backend, name: &str) -> Server {
        let ca_file = self.directory.path().join("ca.pem");
        Server::start_with(backend, |config| {
            config.server.name = name.try_into().unwrap();
            config.federation.allow_private_networks = true;
            config.federation.ca_files = vec![ca_file];
            config.federation.key_servers = Vec::new();
        })
        .await
    }

    /// Serves something else than Hearth under a name, encrypted, as long as the test runs.
    pub async fn serve(&self, name: &str, router: axum::Router) {
        let acceptor = TlsAcceptor::from(Arc::new(self.tls_config(name)));
        let tcp = tokio::net::TcpListener::bind(name).await.unwrap();
        let listener = Encrypted { tcp, acceptor };
        tokio::spawn(async move { axum::serve(listener, router).await });
    }

    /// What a front with this name needs.
    pub fn tls_config(&self, name: &str) -> ServerConfig {
        let files = self.issue(name);
        let certificate = CertificateDer::from_pem_file(files.certificate.unwrap()).unwrap();
        let key = PrivateKeyDer::from_pem_file(files.key.unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap()
    }

    /// A certificate for the address of a name, made anew each time.
    fn issue(&self, name: &str) -> TlsFiles {
        let host = name.split(':').next().unwrap().to_owned();
        let params = rcgen::CertificateParams::new(vec![host]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let stem = name.replace(':', "_");
        let write = |suffix: &str, text: String| {
            let path = self.directory.path().join(format!("{stem}.{suffix}.pem"));
            fs::write(&path, text).unwrap();
            Some(path)
        };
        TlsFiles {
            certificate: write("certificate", certificate.pem()),
            key: write("key", key.serialize_pem()),
        }
    }
}

/// An encrypted door.
struct Encrypted {
    tcp: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Encrypted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            if let Ok((stream, address)) = self.tcp.accept().await
                && let Ok(stream) = self.acceptor.accept(stream).await
            {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
