//! What the operating system tells the process: stop, stop at once, read the certificates again.

use std::{io, sync::Arc};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

/// The exit status of a process that was told twice to stop, as shells count it for SIGINT.
const EXIT_STATUS_INTERRUPTED: i32 = 130;

/// The signals this process listens to.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Takes over SIGTERM, SIGINT and SIGHUP.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Cancels `shutdown` at the first SIGTERM or SIGINT and ends the process at the second;
    /// SIGHUP wakes `reload`.
    pub async fn obey(mut self, shutdown: CancellationToken, reload: Arc<Notify>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.hang_up.recv() => {
                    reload.notify_one();
                    continue;
                }
            }
            if shutdown.is_cancelled() {
                tracing::warn!("told to stop a second time; stopping at once");
                std::process::exit(EXIT_STATUS_INTERRUPTED);
            }
            tracing::info!("stopping: requests under way may finish");
            shutdown.cancel();
        }
    }
}
