//! TCP and TLS to an authority that somebody else names: its addresses are tried with a small delay between them, so that a
//! dead IPv6 route costs a moment and not a timeout (RFC 8305, simplified).

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::{self, BoxFuture};
use hyper::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::Service;

use super::{
    addresses::{AddressError, AddressRules, Authority},
    direct::DirectStream,
    dns::Dns,
    tls::TrustAnchors,
};

/// How long TCP and TLS may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How much later each further address is tried (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
const WEB_PORT: u16 = 443;
const PLAIN_WEB_PORT: u16 = 80;

/// What an authority without a port stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// SRV records, then 8448.
    Homeserver,
    /// 443.
    Web,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("\"{0}\" is no address of a server")]
    BadAuthority(String),
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("{address} does not answer: {source}")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error("the TLS handshake failed: {0}")]
    Tls(io::Error),
    #[error("connecting took longer than {CONNECT_TIMEOUT:?}")]
    Timeout,
}

/// Makes connections for the HTTP client.
#[derive(Clone)]
pub struct Connector(Arc<Inner>);

struct Inner {
    dns: Dns,
    anchors: TrustAnchors,
    addresses: Arc<AddressRules>,
    ports: Ports,
}

impl Connector {
    pub fn new(
        dns: Dns,
        anchors: TrustAnchors,
        addresses: Arc<AddressRules>,
        ports: Ports,
    ) -> Self {
        Self(Arc::new(Inner { dns, anchors, addresses, ports }))
    }
}

impl Service<Uri> for Connector {
    type Response = DirectStream;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<DirectStream, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let text = uri.authority().map_or("", |authority| authority.as_str());
            let authority = Authority::parse(text)
                .ok_or_else(|| ConnectError::BadAuthority(text.to_owned()))?;
            // Homeservers are never talked to in the clear.
            let is_plain = inner.ports == Ports::Web && uri.scheme_str() == Some("http");
            let connecting = inner.connect(&authority, is_plain);
            match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(result) => result,
                Err(_) => Err(ConnectError::Timeout),
            }
        })
    }
}

impl Inner {
    async fn connect(
        &self,
        authority: &Authority,
        is_plain: bool,
    ) -> Result<DirectStream, ConnectError> {
        let (dns, rules) = (&self.dns, &self.addresses);
        let web_port = if is_plain { PLAIN_WEB_PORT } else { WEB_PORT };
        let addresses = match self.ports {
            Ports::Homeserver => rules.of_homeserver(dns, authority).await?,
            Ports::Web => rules.of_host(dns, &authority.host, authority.port, web_port).await?,
        };
        let stream = connect_any(addresses).await?;
        if is_plain {
            return Ok(DirectStream::Plain(TokioIo::new(stream)));
        }
        // The certificate is that of the host, even where an SRV record leads elsewhere. For an IP
        // literal no SNI is sent; rustls knows that.
        let name = ServerName::try_from(authority.host.clone())
            .map_err(|_| ConnectError::BadAuthority(authority.to_string()))?;
        let connector = TlsConnector::from(self.anchors.client_config());
        let stream = connector.connect(name, stream).await.map_err(ConnectError::Tls)?;
        Ok(DirectStream::Secure(Box::new(TokioIo::new(stream))))
    }
}

/// The first of the addresses that answers.
async fn connect_any(addresses: Vec<SocketAddr>) -> Result<TcpStream, ConnectError> {
    let attempts = addresses.into_iter().enumerate().map(|(number, address)| {
        Box::pin(async move {
            tokio::time::sleep(ATTEMPT_DELAY * number as u32).await;
            let connected = TcpStream::connect(address).await;
            let stream = connected.map_err(|source| ConnectError::Tcp { address, source })?;
            // Requests are small and answers are waited for.
            stream.set_nodelay(true).map_err(|source| ConnectError::Tcp { address, source })?;
            Ok(stream)
        })
    });
    future::select_ok(attempts).await.map(|(stream, _)| stream)
}
