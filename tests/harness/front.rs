//! HTTPS under the name of a server, with whatever a test wants behind it.

use std::sync::Arc;

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Serves until it is dropped, which ends all connections.
pub struct Front {
    _shutdown: DropGuard,
}

impl Front {
    /// `name` is an address and a port, to which nobody else listens.
    pub async fn open(name: &str, tls: ServerConfig, router: Router) -> Self {
        let listener = TcpListener::bind(name).await.unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let shutdown = CancellationToken::new();
        let ending = shutdown.clone();
        tokio::spawn(async move {
            let accepting = async {
                loop {
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    let (acceptor, router) = (acceptor.clone(), router.clone());
                    let serving = async move {
                        let Ok(stream) = acceptor.accept(stream).await else { return };
                        let builder = auto::Builder::new(TokioExecutor::new());
                        let service = TowerToHyperService::new(router);
                        // A client that goes away is none of the test's business.
                        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                    };
                    tokio::spawn(ending.clone().run_until_cancelled_owned(serving));
                }
            };
            ending.run_until_cancelled(accepting).await;
        });
        Self { _shutdown: shutdown.drop_guard() }
    }
}
