//! One configured listener: it accepts connections, knows which APIs it carries and whom it believes.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    http::{HeaderMap, Request},
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service as _;

use super::{
    activity::Patience,
    connection::serve_connection,
    forwarded::{X_FORWARDED_FOR, find_client_address},
    request_body::receive_body,
    socket::Socket,
    tls::Certificates,
    transport::{Transport, Wire},
};
use crate::{
    clock::Clock,
    config::{Api, Config, Listener, TrustedProxy},
    http::{apis, auth::ClientAddress, cors, error::MatrixError},
};

/// Streams that one HTTP/2 connection may have open; each can hold a request.
const HTTP2_STREAMS_MAX: u32 = 128;
/// How often a silent HTTP/2 connection is asked whether it is still there.
const HTTP2_PING_PAUSE: Duration = Duration::from_secs(60);
/// The pause after the system has refused a connection, most often for want of file descriptors.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What every connection of one listener shares.
pub(super) struct Door {
    pub clock: Clock,
    pub http1: http1::Builder,
    pub http2: http2::Builder<TokioExecutor>,
    pub patience: Patience,
    router: Router,
    apis: Vec<Api>,
    trusted_proxies: Vec<TrustedProxy>,
    body_patience: Duration,
    tls: Option<TlsAcceptor>,
    has_noticed_proxy: AtomicBool,
}

/// What bounds and ends the connections of all doors.
#[derive(Clone)]
pub(super) struct Scope {
    pub connections: Arc<Semaphore>,
    pub tasks: TaskTracker,
    /// Connections end after the requests under way.
    pub shutdown: CancellationToken,
}

impl Door {
    pub fn new(
        config: &Config,
        listener: &Listener,
        certificates: Option<&Certificates>,
        clock: Clock,
        router: Router,
    ) -> Self {
        let head_size_max = config.limits.request_head_size_max.as_usize();
        let mut http1 = http1::Builder::new();
        http1.max_buf_size(head_size_max);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(HTTP2_PING_PAUSE)
            .max_concurrent_streams(HTTP2_STREAMS_MAX)
            .max_header_list_size(u32::try_from(head_size_max).unwrap_or(u32::MAX));
        Self {
            clock,
            http1,
            http2,
            patience: Patience::from(config),
            router,
            apis: carried_apis(config, listener),
            trusted_proxies: listener.trusted_proxies.clone(),
            body_patience: config.limits.request_body_timeout,
            tls: certificates.map(|certificates| TlsAcceptor::from(certificates.server_config())),
            has_noticed_proxy: AtomicBool::new(false),
        }
    }

    pub fn speaks_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Answers one request that came in through this door.
    pub fn answer(
        &self,
        request: Request<Incoming>,
        peer: Option<IpAddr>,
    ) -> impl Future<Output = Response> + use<> {
        let mut request = request.map(|body| receive_body(body, self.body_patience));
        let address = find_client_address(peer, request.headers(), &self.trusted_proxies);
        self.notice_unlisted_proxy(peer, address, request.headers());
        request.extensions_mut().insert(ClientAddress(address));
        let needs_cors = cors::concerns(request.uri().path());
        let early = apis::refuse_foreign(request.uri().path(), &self.apis)
            .or_else(|| needs_cors.then(|| cors::answer_preflight(request.method())).flatten());
        let mut router = self.router.clone();
        async move {
            let mut response = match early {
                Some(response) => response,
                None => {
                    // A fault in one request is no reason to end the others of its connection.
                    let answering = AssertUnwindSafe(async { router.call(request).await });
                    match answering.catch_unwind().await {
                        Ok::<Result<Response, Infallible>, _>(Ok(response)) => response,
                        Err(_) => internal_error(),
                    }
                }
            };
            if needs_cors {
                cors::add_headers(response.headers_mut());
            }
            response
        }
    }

    /// The most common mistake behind a reverse proxy is worth a line in the log, once.
    fn notice_unlisted_proxy(
        &self,
        peer: Option<IpAddr>,
        client: Option<IpAddr>,
        headers: &HeaderMap,
    ) {
        let is_near = peer.is_none_or(|peer| peer.is_loopback());
        if is_near
            && peer == client
            && headers.contains_key(X_FORWARDED_FOR)
            && !self.has_noticed_proxy.swap(true, Relaxed)
        {
            let proxy = peer.map_or("unix".to_owned(), |peer| peer.to_string());
            tracing::warn!(
                "a reverse proxy passes requests on, but is not believed about their origin, so that \
                 everybody behind it shares one rate limit; add trusted_proxies = [\"{proxy}\"] to its \
                 [[listen]] block"
            );
        }
    }

    async fn secure(&self, wire: Wire) -> io::Result<Transport> {
        let Some(acceptor) = &self.tls else { return Ok(Transport::Plain(wire)) };
        let handshake = tokio::time::timeout(self.patience.head, acceptor.accept(wire));
        Ok(Transport::Tls(Box::new(handshake.await??)))
    }
}

fn carried_apis(config: &Config, listener: &Listener) -> Vec<Api> {
    let is_on = |api: &Api| config.federation.enabled || *api != Api::Federation;
    listener.apis.iter().copied().filter(is_on).collect()
}

/// Accepts connections until the shutdown, no more at once than the scope allows.
pub(super) async fn accept_connections(socket: Socket, door: Arc<Door>, scope: Scope) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = scope.shutdown.cancelled() => return,
            accepted = accept_one(&socket, &scope.connections) => accepted,
        };
        match accepted {
            Ok((wire, peer, permit)) => {
                let (door, shutdown) = (Arc::clone(&door), scope.shutdown.clone());
                scope.tasks.spawn(serve_wire(wire, peer, door, shutdown, permit));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY_PAUSE).await;
            }
        }
    }
}

/// A full house leaves further connections waiting in the kernel's queue.
async fn accept_one(
    socket: &Socket,
    connections: &Arc<Semaphore>,
) -> io::Result<(Wire, Option<IpAddr>, OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.map_err(io::Error::other)?;
    let (wire, peer) = socket.accept().await?;
    Ok((wire, peer, permit))
}

async fn serve_wire(
    wire: Wire,
    peer: Option<IpAddr>,
    door: Arc<Door>,
    shutdown: CancellationToken,
    _permit: OwnedSemaphorePermit,
) {
    match shutdown.run_until_cancelled(door.secure(wire)).await {
        Some(Ok(transport)) => serve_connection(transport, peer, door, shutdown).await,
        Some(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        None => {}
    }
}

/// What went wrong, the panic itself has told the log.
fn internal_error() -> Response {
    MatrixError::internal("The server made a mistake; its log says more.").into_response()
}
