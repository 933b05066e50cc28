//! Media IDs that are given out before their content (`POST /_matrix/media/v1/create`,
//! MSC2246), and their end.

use std::sync::Arc;

use ruma::UserId;

use super::{
    EXPIRY_PAUSE, Media,
    upload::{MEDIA_ID_LENGTH, UPLOAD_DURATION_MAX},
};
use crate::storage::{StorageError, media};

/// A media ID that waits for its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub media_id: String,
    /// `unused_expires_at`, in milliseconds since the Unix epoch.
    pub expires_ts: u64,
}

/// Why there was no reservation.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// The user has as many pending uploads as the configuration allows.
    #[error("too many uploads are pending")]
    TooManyPending {
        /// When the first of them expires.
        retry_after_ms: u64,
    },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Media {
    /// Gives out a media ID.
    pub async fn reserve(&self, user_id: &UserId) -> Result<Reservation, ReserveError> {
        let media_id = self.clock.random_text(MEDIA_ID_LENGTH);
        let now_ts = self.clock.now_ms();
        let expires_ts = now_ts + self.config.pending_upload_lifetime.as_millis() as u64;
        let pending_max = self.config.pending_uploads_max as u64;
        let (reserved, user_id) = (media_id.clone(), user_id.to_string());
        self.writer
            .transact(move |tx| {
                Box::pin(async move {
                    let (pending, first) = media::count_reservations(tx, &user_id, now_ts).await?;
                    if pending >= pending_max {
                        let retry_after_ms = first.unwrap_or(expires_ts).saturating_sub(now_ts);
                        return Err(ReserveError::TooManyPending { retry_after_ms });
                    }
                    Ok(media::insert_reservation(tx, &reserved, &user_id, expires_ts).await?)
                })
            })
            .await?;
        Ok(Reservation { media_id, expires_ts })
    }

    /// Deletes reservations that were never used, again and again. An upload that began in time
    /// may still be on its way.
    pub(super) async fn run_expiry(self: &Arc<Self>) {
        let mut interval = tokio::time::interval(EXPIRY_PAUSE);
        loop {
            interval.tick().await;
            let under_way_ms = 2 * UPLOAD_DURATION_MAX.as_millis() as u64;
            let expired_ts = self.clock.now_ms().saturating_sub(under_way_ms);
            let deleted: Result<u64, StorageError> = self
                .writer
                .transact(move |tx| Box::pin(media::delete_expired_reservations(tx, expired_ts)))
                .await;
            if let Err(error) = deleted {
                tracing::warn!(%error, "expired media IDs were not deleted");
            }
        }
    }
}
