//! Letting go of what other servers have anyway: contents of theirs that nobody here has looked at for
//! long, or that take more room than they may; and how any content is deleted. Not for what users of this
//! server have uploaded, which only an administrator deletes (see `administration`).

use std::{io, sync::Arc, time::Duration};

use super::{EXPIRY_PAUSE, Media, content::ContentHash, run_blocking};
use crate::storage::{
    StorageError,
    media::{self, RemoteMediaRow},
};

/// Contents that are deleted by one transaction.
const STEP_CONTENTS: usize = 100;

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    pub files: u64,
    pub bytes: u64,
}

/// Why not everything was deleted.
#[derive(Debug, thiserror::Error)]
pub enum EvictError {
    #[error("a file could not be deleted: {0}")]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Media {
    /// Deletes contents of other servers that nobody has asked for in this time.
    pub async fn evict_remote(&self, unused_for: Duration) -> Result<Evicted, EvictError> {
        let before_ts = self.clock.now_ms().saturating_sub(unused_for.as_millis() as u64);
        self.evict_while(|row, _| row.used_ts < before_ts).await
    }

    /// Does what the configuration says, again and again.
    pub(super) async fn run_eviction(self: &Arc<Self>) {
        let mut interval = tokio::time::interval(EXPIRY_PAUSE);
        loop {
            interval.tick().await;
            match self.evict_configured().await {
                Ok(evicted) if evicted.files > 0 => {
                    let Evicted { files, bytes } = evicted;
                    tracing::info!(files, bytes, "media of other servers were deleted");
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "media of other servers were not deleted"),
            }
        }
    }

    async fn evict_configured(&self) -> Result<Evicted, EvictError> {
        let mut evicted = Evicted::default();
        if let Some(lifetime) = self.config.remote_lifetime {
            evicted = self.evict_remote(lifetime).await?;
        }
        if let Some(size) = self.config.remote_size_max {
            let kept = media::sum_remote(&self.database).await?;
            let excess = kept.saturating_sub(size.bytes());
            let more = self.evict_while(|_, evicted| evicted.bytes < excess).await?;
            evicted =
                Evicted { files: evicted.files + more.files, bytes: evicted.bytes + more.bytes };
        }
        Ok(evicted)
    }

    /// Deletes contents of other servers, those first that were not used for longest, as long as
    /// `goes` says so.
    async fn evict_while(
        &self,
        goes: impl Fn(&RemoteMediaRow, &Evicted) -> bool,
    ) -> Result<Evicted, EvictError> {
        let mut evicted = Evicted::default();
        loop {
            let rows = media::list_remote(&self.database, STEP_CONTENTS).await?;
            let mut doomed = Vec::new();
            for row in rows {
                if !goes(&row, &evicted) {
                    break;
                }
                evicted.files += 1;
                evicted.bytes += row.size_bytes;
                doomed.push((row.media_id, ContentHash(row.content_hash)));
            }
            if doomed.is_empty() {
                return Ok(evicted);
            }
            self.evict(doomed).await?;
        }
    }

    /// Deletes contents by their media IDs, with their thumbnails; the file goes with the last of its IDs.
    pub(super) async fn evict(&self, doomed: Vec<(String, ContentHash)>) -> Result<(), EvictError> {
        // An upload of the same content would find the file, and commit its row when that is gone.
        let _alone = self.placing.write().await;
        let (ids, hashes): (Vec<String>, Vec<ContentHash>) = doomed.into_iter().unzip();
        let (content, marked) = (self.content.clone(), hashes.clone());
        // What a crash leaves is found by the next start.
        let marks = run_blocking(move || {
            marked.into_iter().map(|hash| content.mark(hash)).collect::<io::Result<Vec<_>>>()
        });
        let marks = marks.await?;
        let deleted: Result<(), StorageError> = {
            let ids = ids.clone();
            let delete = self
                .writer
                .transact(move |tx| Box::pin(async move { media::delete(tx, &ids).await }));
            delete.await
        };
        deleted?;
        for id in &ids {
            self.records.remove(id.as_str());
        }
        for (hash, mark) in hashes.into_iter().zip(marks) {
            if !media::is_content_known(&self.database, &hash.0).await? {
                let content = self.content.clone();
                run_blocking(move || content.remove(hash)).await?;
                self.thumbnails.forget(hash).await?;
            }
            drop(mark);
        }
        Ok(())
    }
}
