//! What administrators do about media: they see what somebody has uploaded, and delete what must not be
//! here. Not for making room (see `evict`).

use ruma::UserId;

use super::{Media, address::MediaAddress, content::ContentHash, evict::EvictError};
use crate::storage::{
    StorageError,
    media::{self, MediaPage, StoredMedia},
};

impl Media {
    /// A part of what a user of this server has uploaded, and how many that are in all.
    pub async fn list_of_user(
        &self,
        user: &UserId,
        page: MediaPage,
    ) -> Result<(Vec<StoredMedia>, u64), StorageError> {
        let total = media::count_of_user(&self.database, user.as_str()).await?;
        Ok((media::list_of_user(&self.database, user.as_str(), page).await?, total))
    }

    /// Deletes uploads of users of this server.
    pub async fn delete_uploads(&self, uploads: &[StoredMedia]) -> Result<(), EvictError> {
        let doomed =
            |media: &StoredMedia| (media.media_id.clone(), ContentHash(media.content_hash));
        self.evict(uploads.iter().map(doomed).collect()).await
    }

    /// Deletes a content, of another server the copy that is here; false when there is none.
    pub async fn delete(&self, address: &MediaAddress) -> Result<bool, EvictError> {
        let media_id = self.key_of(address);
        let _slot = self.slots.take_media_id(&media_id).await;
        let Some(found) = media::find(&self.database, &media_id).await? else { return Ok(false) };
        self.delete_uploads(&[found]).await?;
        Ok(true)
    }
}
