//! Contents of other servers that are kept here once somebody has asked for them. Who fetches them is
//! not decided here.

use std::{fmt::Write as _, sync::Arc};

use bytes::Bytes;
use futures_util::Stream;
use sha2::{Digest as _, Sha256};

use super::{
    Media,
    address::MediaAddress,
    records::MediaRecord,
    upload::{Description, MediaId, UPLOAD_DURATION_MAX, UploadError},
};
use crate::storage::{
    StorageError, WriteTx,
    media::{self, CONTENT_HASH_BYTES, StoredMedia},
};

/// When a content was last wanted is noted this precisely.
const USE_PRECISION_MS: u64 = 24 * 60 * 60 * 1000;

impl Media {
    /// The content of another server, if it is kept here.
    pub async fn find_remote(
        &self,
        address: &MediaAddress,
    ) -> Result<Option<Arc<MediaRecord>>, StorageError> {
        let key = remote_key(address);
        let Some(record) = self.find_arrived(&key).await? else { return Ok(None) };
        let now_ts = self.clock.now_ms();
        if now_ts.saturating_sub(record.used_ts) > USE_PRECISION_MS {
            let mut tx = WriteTx::new();
            media::touch(&mut tx, &key, now_ts);
            self.writer.commit(tx).await?;
            // The next one reads it anew.
            self.records.remove(key.as_str());
        }
        Ok(Some(record))
    }

    /// Keeps a content of another server as it arrives. Whoever asks for the same one meanwhile waits;
    /// `fetch` is polled for the first of them only.
    pub async fn keep_remote<S, E, F>(
        self: &Arc<Self>,
        address: &MediaAddress,
        fetch: impl Future<Output = Result<(Description, S), F>> + Send,
    ) -> Result<Arc<MediaRecord>, F>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin + Send,
        E: Send,
        F: Send + From<UploadError>,
    {
        let key = remote_key(address);
        let _slot = self.slots.take_media_id(&key).await;
        if let Some(record) = self.find_arrived(&key).await.map_err(UploadError::from)? {
            return Ok(record);
        }
        let (description, body) = fetch.await?;
        let received =
            tokio::time::timeout(UPLOAD_DURATION_MAX, self.receive(&key, u64::MAX, body));
        let received = received.await.map_err(|_| UploadError::Interrupted)??;
        let media = StoredMedia {
            media_id: key.clone(),
            // Known when the content is in its place.
            content_hash: [0; CONTENT_HASH_BYTES],
            size_bytes: 0,
            content_type: description.content_type,
            filename: description.filename,
            // Nobody of this server has uploaded it, so it counts for no quota.
            user_id: String::new(),
            created_ts: self.clock.now_ms(),
            is_open: self.is_open_access(),
        };
        let finished = self.tasks.spawn(Arc::clone(self).finish(received, media, MediaId::New));
        finished.await.map_err(|error| UploadError::Disk(std::io::Error::other(error)))??;
        let record = self.find_arrived(&key).await.map_err(UploadError::from)?;
        record.ok_or_else(|| UploadError::Interrupted.into())
    }
}

/// What stands for the address in place of a media ID, which never has a dot.
pub(super) fn remote_key(address: &MediaAddress) -> String {
    let text = format!("{}/{}", address.server_name, address.media_id);
    let mut key = String::from("remote.");
    for byte in Sha256::digest(text.as_bytes()) {
        write!(key, "{byte:02x}").expect("writing to a String cannot fail");
    }
    key
}
