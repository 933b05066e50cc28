//! Reading contents: small ones in one blocking call, large ones chunk by chunk, as fast as the
//! client takes them. What is on its way out is bounded for all clients together.

use std::{fs::File, io, ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Media,
    content::{ContentHash, read_at},
    run_blocking,
};

/// A content of this size or less is read in one call; larger ones in chunks of this size.
const CHUNK_BYTES: u64 = 256 * 1024;
/// The size of chunks when memory is short, so that more clients get something.
const SMALL_CHUNK_BYTES: u64 = 32 * 1024;
/// Memory is counted in units of this size.
const BUFFER_UNIT_BYTES: u64 = 4096;
/// What may be on its way out to all clients together: 32 MiB.
pub(super) const BUFFER_UNITS: usize = 8192;

/// A content, or a part of one.
pub enum Content<S> {
    Whole(Bytes),
    Chunks(S),
}

/// A buffer that counts until the client has it.
struct CountedBuffer {
    bytes: Vec<u8>,
    _units: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for CountedBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What is still to be read of a file.
struct Reading {
    file: Arc<File>,
    range: Range<u64>,
    buffers: Arc<Semaphore>,
    reads: Arc<Semaphore>,
}

impl Media {
    /// Reads a part of a content. An error in a chunk means that the file is damaged.
    pub async fn read(
        &self,
        hash: ContentHash,
        range: Range<u64>,
    ) -> io::Result<Content<impl Stream<Item = io::Result<Bytes>> + Send + use<>>> {
        let length = range.end - range.start;
        let path = self.content.path(hash);
        if length <= CHUNK_BYTES {
            let units = take_units(&self.buffers, length).await;
            let _permit = take_read(&self.reads).await;
            let start = range.start;
            let read = move || read_at(&File::open(path)?, start, length as usize);
            let bytes = run_blocking(read).await?;
            return Ok(Content::Whole(count(bytes, units)));
        }
        let file = Arc::new(run_blocking(move || File::open(path)).await?);
        let (buffers, reads) = (Arc::clone(&self.buffers), Arc::clone(&self.reads));
        let reading = Reading { file, range, buffers, reads };
        Ok(Content::Chunks(stream::try_unfold(reading, Reading::next)))
    }
}

impl Reading {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        let rest = self.range.end - self.range.start;
        if rest == 0 {
            return Ok(None);
        }
        let is_short = self.buffers.available_permits() < BUFFER_UNITS / 2;
        let length = rest.min(if is_short { SMALL_CHUNK_BYTES } else { CHUNK_BYTES });
        let units = take_units(&self.buffers, length).await;
        let permit = take_read(&self.reads).await;
        let (file, start) = (Arc::clone(&self.file), self.range.start);
        let bytes = run_blocking(move || read_at(&file, start, length as usize)).await?;
        drop(permit);
        self.range.start += length;
        Ok(Some((count(bytes, units), self)))
    }
}

async fn take_units(buffers: &Arc<Semaphore>, length: u64) -> OwnedSemaphorePermit {
    let units = length.div_ceil(BUFFER_UNIT_BYTES) as u32;
    let units = Arc::clone(buffers).acquire_many_owned(units).await;
    units.expect("the buffers are never closed")
}

async fn take_read(reads: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(reads).acquire_owned().await.expect("the permits are never closed")
}

fn count(bytes: Vec<u8>, units: OwnedSemaphorePermit) -> Bytes {
    Bytes::from_owner(CountedBuffer { bytes, _units: units })
}
