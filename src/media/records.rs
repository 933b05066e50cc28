//! What is known about a content, and waiting for one that was announced.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use quick_cache::Weighter;

use super::{Media, RECORD_WEIGHT_BYTES, address::MediaAddress, content::ContentHash};
use crate::storage::{
    StorageError,
    media::{self, StoredMedia},
};

/// A content that is here. It never changes, but for who may have it.
#[derive(Debug)]
pub struct MediaRecord {
    pub hash: ContentHash,
    pub size_bytes: u64,
    pub content_type: String,
    pub filename: Option<String>,
    /// Uploaded while the paths that ask for no login handed out new media.
    pub is_open: bool,
    /// When it was uploaded, or when one of another server was last wanted, to a day.
    pub used_ts: u64,
    /// Whether nobody gets it but administrators (see `quarantine`).
    pub is_quarantined: bool,
}

/// Why there is no record.
#[derive(Debug, thiserror::Error)]
pub enum FindMediaError {
    #[error("there is no such content")]
    NotFound,
    #[error("the content is kept from everybody")]
    Quarantined,
    /// The media ID was announced (`POST /_matrix/media/v1/create`).
    #[error("the content has not been uploaded yet")]
    NotYetUploaded,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What a record weighs in the cache, in bytes.
#[derive(Clone, Debug)]
pub struct RecordWeight;

impl Weighter<Box<str>, Arc<MediaRecord>> for RecordWeight {
    fn weight(&self, key: &Box<str>, record: &Arc<MediaRecord>) -> u64 {
        let texts = key.len() + record.content_type.len();
        RECORD_WEIGHT_BYTES + texts as u64 + record.filename.as_ref().map_or(0, String::len) as u64
    }
}

impl MediaRecord {
    fn new(stored: StoredMedia, is_quarantined: bool) -> Self {
        Self {
            is_quarantined,
            hash: ContentHash(stored.content_hash),
            size_bytes: stored.size_bytes,
            content_type: stored.content_type,
            filename: stored.filename,
            is_open: stored.is_open,
            used_ts: stored.created_ts,
        }
    }
}

impl Media {
    /// Finds a content that anybody may have; waits for one that was announced, `patience` (or what the
    /// configuration allows) at most.
    pub async fn find(
        &self,
        address: &MediaAddress,
        patience: Duration,
    ) -> Result<Arc<MediaRecord>, FindMediaError> {
        match self.find_even_quarantined(address, patience).await {
            Ok(record) if record.is_quarantined => Err(FindMediaError::Quarantined),
            Err(FindMediaError::NotFound)
                if address.server_name != self.server_name
                    && self.is_address_put_away(address).await? =>
            {
                Err(FindMediaError::Quarantined)
            }
            found => found,
        }
    }

    /// The same for administrators, who have to know what they judge.
    pub async fn find_even_quarantined(
        &self,
        address: &MediaAddress,
        patience: Duration,
    ) -> Result<Arc<MediaRecord>, FindMediaError> {
        if address.server_name != self.server_name {
            return self.find_remote(address).await?.ok_or(FindMediaError::NotFound);
        }
        let media_id = address.media_id.as_str();
        if let Some(record) = self.find_arrived(media_id).await? {
            return Ok(record);
        }
        let patience = patience.min(self.config.download_wait_max);
        let arrived = tokio::time::timeout(patience, self.wait_for(media_id));
        match self.shutdown.run_until_cancelled(arrived).await {
            Some(Ok(result)) => result,
            Some(Err(_)) | None => Err(FindMediaError::NotYetUploaded),
        }
    }

    /// Notes a content that has just been committed, since it is often asked for at once.
    pub(super) async fn note_arrival(&self, media: StoredMedia) {
        let media_id = media.media_id.clone();
        // Without it the first who asks reads it.
        if let Err(error) = self.remember(media).await {
            tracing::debug!(%error, "what is known of an upload was not remembered");
        }
        self.arrivals.announce(&media_id);
    }

    pub(super) async fn find_arrived(
        &self,
        media_id: &str,
    ) -> Result<Option<Arc<MediaRecord>>, StorageError> {
        if let Some(record) = self.records.get(media_id) {
            return Ok(Some(record));
        }
        match media::find(&self.database, media_id).await? {
            Some(stored) => self.remember(stored).await.map(Some),
            None => Ok(None),
        }
    }

    /// Has all that is known of contents read anew.
    pub(super) fn forget_records(&self) {
        self.records_epoch.fetch_add(1, Ordering::SeqCst);
        self.records.clear();
    }

    async fn remember(&self, stored: StoredMedia) -> Result<Arc<MediaRecord>, StorageError> {
        let epoch = self.records_epoch.load(Ordering::SeqCst);
        let media_id: Box<str> = stored.media_id.as_str().into();
        let is_quarantined = self.is_put_away(&media_id, ContentHash(stored.content_hash)).await?;
        let record = Arc::new(MediaRecord::new(stored, is_quarantined));
        self.records.insert(media_id.clone(), Arc::clone(&record));
        // What was read before an administrator said something is not kept.
        if self.records_epoch.load(Ordering::SeqCst) != epoch {
            self.records.remove(&media_id);
        }
        Ok(record)
    }

    /// Resolves when the content is there; fails at once when it is not announced.
    async fn wait_for(&self, media_id: &str) -> Result<Arc<MediaRecord>, FindMediaError> {
        let waiting = self.arrivals.wait_for(media_id);
        loop {
            let arrival = waiting.arrival();
            let reservation = media::find_reservation(&self.database, media_id).await?;
            // The reservation goes when the content comes: look for it after that.
            if let Some(record) = self.find_arrived(media_id).await? {
                return Ok(record);
            }
            let now_ms = self.clock.now_ms();
            if reservation.is_none_or(|reservation| reservation.expires_ts <= now_ms) {
                return Err(FindMediaError::NotFound);
            }
            arrival.await;
        }
    }
}
