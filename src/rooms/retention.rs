//! The end of redacted content: originals are kept for a while, for whoever must look into a
//! report, and then leave the database.

use std::time::Duration;

use super::registry::Rooms;
use crate::storage::{StorageError, WriteTx, redactions};

/// How often originals whose time is over are looked for.
const EXPIRY_PAUSE: Duration = Duration::from_secs(5 * 60);

impl Rooms {
    /// Deletes the originals of redacted events whose retention has ended.
    pub async fn expire_redactions(&self) -> Result<(), StorageError> {
        let mut tx = WriteTx::new();
        redactions::expire(&mut tx, self.clock().now_ms());
        self.writer().commit(tx).await.map(drop)
    }

    /// Does so now and then, for as long as it is polled.
    pub async fn run_retention(self) {
        if self.0.settings.redaction_retention_ms.is_none() {
            return std::future::pending().await;
        }
        let mut pause = tokio::time::interval(EXPIRY_PAUSE);
        pause.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            pause.tick().await;
            if let Err(error) = self.expire_redactions().await {
                tracing::warn!(%error, "the originals of redacted events were not deleted");
            }
        }
    }
}
