//! What systemd wants to hear (sd_notify(3)): ready, stopping, still alive. Without systemd, silence.

use std::time::Duration;

use sd_notify::NotifyState;

/// A service manager that listens, or none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Systemd;

impl Systemd {
    /// Requests are answered from now on.
    pub fn notify_ready(self) {
        notify(NotifyState::Ready);
    }

    /// The process is about to end.
    pub fn notify_stopping(self) {
        notify(NotifyState::Stopping);
    }

    /// Says twice per interval that the process is alive, if systemd asks for it (`WatchdogSec=`). It
    /// runs as a task among the others, so that it falls silent when the runtime no longer gets to its tasks.
    pub async fn feed_watchdog(self) {
        let mut interval_us = 0;
        if !sd_notify::watchdog_enabled(false, &mut interval_us) {
            return;
        }
        loop {
            notify(NotifyState::Watchdog);
            tokio::time::sleep(Duration::from_micros(interval_us / 2)).await;
        }
    }
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        tracing::warn!(%error, "the service manager was not told");
    }
}
