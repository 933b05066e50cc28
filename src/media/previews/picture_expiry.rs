//! Letting go of pictures when no preview shows them any more. Who still has a message with such a picture
//! before them asks for the preview again, and the picture comes back.

use crate::{
    media::{Media, content::ContentHash, evict::EvictError},
    storage::{StorageError, media, url_previews},
};

/// Pictures that are looked at by one query.
const STEP_PICTURES: usize = 100;

impl Media {
    /// Has a picture stay until then. For a caller that holds the slot of its media ID.
    pub(super) async fn put_picture_off(
        &self,
        media_id: String,
        expires_ts: u64,
    ) -> Result<(), StorageError> {
        self.writer
            .transact(move |tx| {
                Box::pin(async move { url_previews::keep_picture(tx, &media_id, expires_ts).await })
            })
            .await
    }

    /// Deletes the pictures whose time is over.
    pub(super) async fn expire_pictures(&self) -> Result<(), EvictError> {
        loop {
            let now_ts = self.clock.now_ms();
            let expired =
                url_previews::list_expired_pictures(&self.database, now_ts, STEP_PICTURES).await?;
            if expired.is_empty() {
                return Ok(());
            }
            for media_id in expired {
                self.drop_picture(media_id, now_ts).await?;
            }
        }
    }

    async fn drop_picture(&self, media_id: String, now_ts: u64) -> Result<(), EvictError> {
        // Whoever takes the same picture over just now has put it off, or finds it gone.
        let _slot = self.slots.take_media_id(&media_id).await;
        if !url_previews::is_picture_expired(&self.database, &media_id, now_ts).await? {
            return Ok(());
        }
        if let Some(picture) = media::find(&self.database, &media_id).await? {
            self.evict(vec![(picture.media_id, ContentHash(picture.content_hash))]).await?;
        }
        // Last: what a crash leaves is taken up by the next round.
        let deleted: Result<(), StorageError> = self
            .writer
            .transact(move |tx| {
                Box::pin(async move { url_previews::delete_picture(tx, &media_id).await })
            })
            .await;
        deleted.map_err(EvictError::from)
    }
}
