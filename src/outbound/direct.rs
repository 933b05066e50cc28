//! Connections to addresses that the administrator wrote down, such as those of application services:
//! with or without TLS, private networks as good as any. Not for addresses that somebody else names.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Uri,
    rt::{Read, ReadBufCursor, Write},
};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection, HttpConnector},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::{BoxError, Service};

use super::{
    IDLE_CONNECTIONS_MAX, IDLE_TIMEOUT,
    request::{Answer, AnswerStream, Limits, OutboundError, bound, build, explain},
    tls::TrustAnchors,
};

/// How long a connection may take, TLS aside.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes connections for an HTTP client.
#[derive(Clone)]
pub struct DirectConnector {
    tcp: HttpConnector,
    anchors: TrustAnchors,
}

/// A connection.
pub enum DirectStream {
    Plain(TokioIo<TcpStream>),
    Secure(Box<TokioIo<TlsStream<TcpStream>>>),
}

/// An HTTP client for such addresses. Clones share its connections.
#[derive(Clone)]
pub struct DirectClient(Client<DirectConnector, Full<Bytes>>);

impl Default for DirectClient {
    fn default() -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(DirectConnector::default());
        Self(client)
    }
}

impl DirectClient {
    /// Makes a request; redirects are not followed.
    pub async fn request(
        &self,
        (method, url): (Method, &str),
        headers: HeaderMap,
        body: Option<Bytes>,
        limits: Limits,
    ) -> Result<Answer, OutboundError> {
        let request = build(method, url, headers, body)?;
        let work = async {
            let answer = self.0.request(request).await;
            let answer = answer.map_err(|error| OutboundError::Connection(explain(&error)))?;
            AnswerStream::from(answer).read(limits.body_bytes_max).await
        };
        bound(limits.timeout, work).await
    }
}

impl Default for DirectConnector {
    fn default() -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        Self { tcp, anchors: TrustAnchors::new(Vec::new()) }
    }
}

impl Service<Uri> for DirectConnector {
    type Response = DirectStream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<DirectStream, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.tcp.call(uri.clone());
        let anchors = self.anchors.clone();
        Box::pin(async move {
            let stream = connecting.await?;
            if uri.scheme_str() != Some("https") {
                return Ok(DirectStream::Plain(stream));
            }
            // Brackets belong to the address, not to the name.
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let connector = TlsConnector::from(anchors.client_config());
            let name = ServerName::try_from(host)?;
            let stream = connector.connect(name, stream.into_inner()).await?;
            Ok(DirectStream::Secure(Box::new(TokioIo::new(stream))))
        })
    }
}

impl Connection for DirectStream {
    fn connected(&self) -> Connected {
        match self {
            Self::Secure(stream) if stream.inner().get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            _ => Connected::new(),
        }
    }
}

impl Read for DirectStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_read(context, buffer),
        }
    }
}

impl Write for DirectStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_shutdown(context),
        }
    }
}
