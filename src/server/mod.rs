//! The doors of the house: sockets, TLS, connections, shutdown, and what systemd wants to hear.
//! What is answered is the router's business; this module brings requests to it and carries answers away.

mod activity;
mod connection;
mod door;
mod forwarded;
mod observed_transport;
mod operator_socket;
mod request_body;
mod request_figures;
mod signals;
mod socket;
mod systemd;
mod tls;
mod transport;

use std::{sync::Arc, time::Duration};

use axum::Router;
use tokio::sync::{Notify, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{door::Door, socket::Socket, tls::Certificates};
pub use self::{
    operator_socket::{OperatorSocket, ask_operator_socket},
    request_figures::{RequestFigures, RequestFiguresLayer},
    signals::Signals,
    socket::{BindError, BoundAddress},
    systemd::Systemd,
    tls::CertificateError,
};
use crate::{clock::Clock, config::Config};

/// How often certificate files are looked at.
const CERTIFICATE_CHECK_PAUSE: Duration = Duration::from_secs(5);

/// Bound sockets with what answers behind them, ready to run.
pub struct Server {
    doors: Vec<(Socket, Arc<Door>)>,
    certificates: Vec<Arc<Certificates>>,
    connections: Arc<Semaphore>,
}

/// Why no request could be served.
#[derive(Debug, thiserror::Error)]
pub enum StartServerError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl Server {
    /// Binds every configured socket and reads every certificate. Connections wait in the kernel until
    /// [`Server::run`].
    pub fn bind(config: &Config, clock: &Clock, router: &Router) -> Result<Self, StartServerError> {
        let mut doors = Vec::new();
        let mut certificates = Vec::new();
        for listener in &config.listen {
            let tls = listener
                .tls_files()
                .map(|(certificate, key)| Certificates::load(certificate, key).map(Arc::new))
                .transpose()?;
            certificates.extend(tls.clone());
            let socket = Socket::bind(&listener.address, listener.mode)?;
            let door = Door::new(config, listener, tls.as_deref(), clock.clone(), router.clone());
            doors.push((socket, Arc::new(door)));
        }
        let connections = Arc::new(Semaphore::new(config.limits.connections_max));
        Ok(Self { doors, certificates, connections })
    }

    /// Where it listens, in the order of the configuration, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<BoundAddress> {
        self.doors.iter().map(|(socket, door)| socket.address(door.speaks_tls())).collect()
    }

    /// Serves until `shutdown` is cancelled, then accepts nothing more, lets requests under way
    /// finish, and returns when the last connection has ended or the configured time is over.
    /// `reload` asks for the certificates to be read again.
    pub async fn run(self, shutdown: CancellationToken, reload: Arc<Notify>) {
        let tasks = TaskTracker::new();
        for (socket, door) in self.doors {
            let scope = door::Scope {
                connections: Arc::clone(&self.connections),
                tasks: tasks.clone(),
                shutdown: shutdown.clone(),
            };
            tasks.spawn(door::accept_connections(socket, door, scope));
        }
        let watching = watch_certificates(&self.certificates, &reload);
        tokio::select! {
            () = watching => {}
            () = shutdown.cancelled() => {}
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// Reads certificates again when their files change or someone asks; never ends.
async fn watch_certificates(certificates: &[Arc<Certificates>], reload: &Notify) {
    loop {
        let asked = tokio::select! {
            () = reload.notified() => true,
            () = tokio::time::sleep(CERTIFICATE_CHECK_PAUSE) => false,
        };
        for certificates in certificates {
            certificates.refresh(asked);
        }
    }
}
