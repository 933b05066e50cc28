//! Receiving a content: streamed to disk while its hash is made, durable before its row is
//! committed, and both before the answer.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use ruma::UserId;
use tokio::task::JoinHandle;

use super::{
    Media,
    address::MediaAddress,
    content::{ContentStore, Incoming, Placed},
    run_blocking,
};
use crate::storage::{
    StorageError, WriteTx,
    media::{self, StoredMedia},
};

/// Random letters and digits of a media ID: 142 bits, since whoever knows it can download.
pub const MEDIA_ID_LENGTH: usize = 24;
/// A content of this size or less stays in memory until it is written; larger ones are written in
/// chunks of about this size.
const CHUNK_BYTES: usize = 256 * 1024;
/// A chunk ends at this many pieces too, since each takes memory beside its bytes.
const CHUNK_PIECES_MAX: usize = 512;
/// How long one upload may take. With it the largest default upload needs 14 KiB a second.
pub const UPLOAD_DURATION_MAX: Duration = Duration::from_secs(60 * 60);

/// What a client says about its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    pub content_type: String,
    pub filename: Option<String>,
}

/// Why a content was not taken.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("the content is too large")]
    TooLarge,
    #[error("the user has uploaded as much as anybody may")]
    QuotaReached,
    #[error("the body of the request broke off")]
    Interrupted,
    /// No such media ID was given out, or it has expired.
    #[error("the media ID is not known")]
    NotReserved,
    #[error("the media ID was given to somebody else")]
    ReservedByOther,
    #[error("the media ID has a content already")]
    AlreadyUploaded,
    #[error("the content could not be written: {0}")]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A content that has arrived whole.
pub(super) enum Received {
    InMemory(Vec<Bytes>),
    OnDisk(Incoming),
}

/// How the row is written.
#[derive(Clone, Copy)]
pub(super) enum MediaId {
    New,
    Reserved,
}

impl Media {
    /// Takes a content and gives it a media ID (`POST /_matrix/media/v3/upload`).
    pub async fn upload<E>(
        self: &Arc<Self>,
        user_id: &UserId,
        description: Description,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<String, UploadError> {
        let media_id = self.clock.random_text(MEDIA_ID_LENGTH);
        self.take(user_id, &media_id, MediaId::New, description, body).await?;
        Ok(media_id)
    }

    /// Takes the content of a media ID that was given out before
    /// (`PUT /_matrix/media/v3/upload/{serverName}/{mediaId}`).
    pub async fn upload_reserved<E>(
        self: &Arc<Self>,
        user_id: &UserId,
        address: &MediaAddress,
        description: Description,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(), UploadError> {
        let _slot = self.slots.take_media_id(&address.media_id).await;
        self.check_reservation(user_id, address).await?;
        self.take(user_id, &address.media_id, MediaId::Reserved, description, body).await
    }

    async fn check_reservation(
        &self,
        user_id: &UserId,
        address: &MediaAddress,
    ) -> Result<(), UploadError> {
        if address.server_name != self.server_name {
            return Err(UploadError::NotReserved);
        }
        let reservation = media::find_reservation(&self.database, &address.media_id).await?;
        // The reservation goes when the content comes: look for it after that.
        if let Some(media) = media::find(&self.database, &address.media_id).await? {
            return Err(match media.user_id == user_id.as_str() {
                true => UploadError::AlreadyUploaded,
                false => UploadError::ReservedByOther,
            });
        }
        match reservation {
            Some(found) if found.expires_ts <= self.clock.now_ms() => Err(UploadError::NotReserved),
            Some(found) if found.user_id != user_id.as_str() => Err(UploadError::ReservedByOther),
            Some(_) => Ok(()),
            None => Err(UploadError::NotReserved),
        }
    }

    async fn take<E>(
        self: &Arc<Self>,
        user_id: &UserId,
        media_id: &str,
        kind: MediaId,
        description: Description,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(), UploadError> {
        let _slot = self.slots.take(user_id).await;
        let quota_left = self.load_quota_left(user_id).await?;
        let receive = self.receive(media_id, quota_left, body);
        let received = tokio::time::timeout(UPLOAD_DURATION_MAX, receive);
        let received = received.await.map_err(|_| UploadError::Interrupted)??;
        let media = StoredMedia {
            media_id: media_id.to_owned(),
            // Known when the content is in its place.
            content_hash: [0; media::CONTENT_HASH_BYTES],
            size_bytes: 0,
            content_type: description.content_type,
            filename: description.filename,
            user_id: user_id.to_string(),
            created_ts: self.clock.now_ms(),
            is_open: self.is_open_access(),
        };
        // From here on it is done even if the client goes away, so that no file stays without a row.
        let finished = self.tasks.spawn(Arc::clone(self).finish(received, media, kind));
        finished.await.map_err(io::Error::other)?
    }

    /// What the user may still upload, bytes. Others of their uploads may arrive at the same time; the
    /// commit looks again.
    async fn load_quota_left(&self, user_id: &UserId) -> Result<u64, UploadError> {
        let Some(quota) = self.config.user_quota else { return Ok(u64::MAX) };
        let used = media::load_sum_of_uploads(&self.database, user_id.as_str()).await?;
        match quota.bytes().saturating_sub(used) {
            0 => Err(UploadError::QuotaReached),
            left => Ok(left),
        }
    }

    /// Reads the body to its end. What does not fit into memory is written meanwhile.
    pub(super) async fn receive<E>(
        &self,
        media_id: &str,
        quota_left: u64,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Received, UploadError> {
        let mut file = ChunkedFile { name: media_id, content: &self.content, written: None };
        let mut chunk = Vec::new();
        let (mut chunk_bytes, mut size_bytes) = (0, 0_u64);
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|_| UploadError::Interrupted)?;
            chunk_bytes += piece.len();
            size_bytes += piece.len() as u64;
            if size_bytes > self.upload_size_bytes_max() {
                return Err(UploadError::TooLarge);
            }
            if size_bytes > quota_left {
                return Err(UploadError::QuotaReached);
            }
            chunk.push(piece);
            if chunk_bytes > CHUNK_BYTES || chunk.len() >= CHUNK_PIECES_MAX {
                file.write(std::mem::take(&mut chunk)).await?;
                chunk_bytes = 0;
            }
        }
        match file.written {
            None => Ok(Received::InMemory(chunk)),
            Some(_) => {
                file.write(chunk).await?;
                file.finish().await.map(Received::OnDisk)
            }
        }
    }

    pub(super) async fn finish(
        self: Arc<Self>,
        received: Received,
        mut media: StoredMedia,
        kind: MediaId,
    ) -> Result<(), UploadError> {
        let _placing = self.placing.read().await;
        let placed = self.place(received, &media.media_id).await?;
        media.content_hash = placed.hash.0;
        media.size_bytes = placed.size_bytes;
        let leftover = placed.into_leftover();
        if let Err(error) = self.commit(&media, kind).await {
            // The content may be without a row now; the next start looks.
            leftover.keep();
            return Err(error);
        }
        self.note_arrival(media).await;
        // Nobody needs to wait for this.
        drop(tokio::task::spawn_blocking(|| drop(leftover)));
        Ok(())
    }

    /// Puts the content into its place; returns when it is durable there.
    async fn place(&self, received: Received, name: &str) -> Result<Placed, UploadError> {
        let _permit = self.writes.acquire().await.expect("the permits are never closed");
        let (content, name) = (self.content.clone(), name.to_owned());
        let placed = run_blocking(move || match received {
            Received::InMemory(chunks) => content.place(&name, &chunks),
            Received::OnDisk(incoming) => content.finish(&name, incoming),
        })
        .await?;
        // An equal content with a row was durable before that row was.
        if !placed.is_repeated || media::is_content_known(&self.database, &placed.hash.0).await? {
            return Ok(placed);
        }
        let content = self.content.clone();
        Ok(run_blocking(move || content.replace(&placed).map(|()| placed)).await?)
    }

    async fn commit(&self, media: &StoredMedia, kind: MediaId) -> Result<(), UploadError> {
        let is_own = !media.user_id.is_empty();
        if let Some(quota) = self.config.user_quota.filter(|_| is_own) {
            return self.commit_within(quota.bytes(), media, kind).await;
        }
        match kind {
            MediaId::New => {
                let mut tx = WriteTx::new();
                media::push_media(&mut tx, media);
                self.writer.commit(tx).await?;
            }
            MediaId::Reserved => {
                let media = media.clone();
                let is_fulfilled: Result<bool, StorageError> = self
                    .writer
                    .transact(move |tx| {
                        Box::pin(async move { media::fulfil_reservation(tx, &media).await })
                    })
                    .await;
                // It was there when the upload began, and is deleted only much later.
                if !is_fulfilled? {
                    return Err(UploadError::NotReserved);
                }
            }
        }
        Ok(())
    }

    /// The same, unless the user's uploads together would be larger than the quota.
    async fn commit_within(
        &self,
        quota_bytes: u64,
        media: &StoredMedia,
        kind: MediaId,
    ) -> Result<(), UploadError> {
        let media = media.clone();
        self.writer
            .transact(move |tx| {
                Box::pin(async move {
                    let used = media::sum_uploads(tx, &media.user_id).await?;
                    if used + media.size_bytes > quota_bytes {
                        return Err(UploadError::QuotaReached);
                    }
                    match kind {
                        MediaId::New => Ok(media::insert(tx, &media).await?),
                        MediaId::Reserved if media::fulfil_reservation(tx, &media).await? => Ok(()),
                        MediaId::Reserved => Err(UploadError::NotReserved),
                    }
                })
            })
            .await
    }
}

/// A file that is written by one blocking call after the other, while the next chunk arrives.
struct ChunkedFile<'a> {
    name: &'a str,
    content: &'a ContentStore,
    /// `None` until the first chunk.
    written: Option<JoinHandle<io::Result<Incoming>>>,
}

impl ChunkedFile<'_> {
    /// Waits until the chunk before is written, and begins with this one.
    async fn write(&mut self, chunk: Vec<Bytes>) -> Result<(), UploadError> {
        let before = match &mut self.written {
            Some(written) => Some(written.await.map_err(io::Error::other)??),
            None => None,
        };
        let (content, name) = (self.content.clone(), self.name.to_owned());
        self.written = Some(tokio::task::spawn_blocking(move || {
            let mut incoming = before.map_or_else(|| content.begin(&name), Ok)?;
            incoming.write(&chunk)?;
            Ok(incoming)
        }));
        Ok(())
    }

    async fn finish(self) -> Result<Incoming, UploadError> {
        let written = self.written.expect("at least one chunk was written");
        Ok(written.await.map_err(io::Error::other)??)
    }
}
