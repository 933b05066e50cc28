//! Small versions of pictures (Client-Server API, "Thumbnails"): made when first asked for, on few
//! threads and in bounded memory, and kept on disk. Videos have none.

mod render;
mod shape;
mod shelf;

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use tokio::sync::Semaphore;

pub use self::shape::{Method, Wish};
use self::{
    render::{Inspected, RenderError, Rendered},
    shape::Shape,
    shelf::{Key, Shelf},
};
use super::{Media, content::ContentHash, run_blocking};
use crate::{clock::Clock, config::MediaConfig};

/// Where thumbnails lie. They can be deleted at any time.
const THUMBNAILS_DIR: &str = "thumbnails";
/// What a pixel takes while a picture is decoded, turned and made smaller, at most.
const DECODING_BYTES_PER_PIXEL: u64 = 8;
/// Memory is counted in units of this size.
const MEMORY_UNIT_BYTES: u64 = 64 * 1024;
/// As many as a semaphore can count on every machine: 16 TiB.
const MEMORY_UNITS_MAX: u32 = 1 << 28;

/// What makes thumbnails, and those that were made.
pub struct Thumbnails {
    is_enabled: bool,
    pixels_max: u64,
    shelf: Arc<Shelf>,
    /// Half of the processors, since requests need the others.
    jobs: Arc<Semaphore>,
    /// As many units as the largest allowed picture takes; small ones share them.
    memory: Arc<Semaphore>,
}

/// What a client gets.
#[derive(Clone, Debug)]
pub enum Thumbnail {
    Picture {
        bytes: Bytes,
        content_type: &'static str,
    },
    /// The content itself, since it is not larger than what was asked for.
    Original {
        /// From the bytes, whatever the uploader said.
        content_type: &'static str,
    },
}

/// Why there is no thumbnail.
#[derive(Debug, thiserror::Error)]
pub enum ThumbnailError {
    #[error("the content is no picture of a known format")]
    NotAPicture,
    #[error("the picture has too many pixels")]
    TooLarge,
    #[error("a file could not be read or written: {0}")]
    Disk(#[from] io::Error),
}

impl Thumbnails {
    pub(super) fn open(root: &Path, config: &MediaConfig, clock: Clock) -> io::Result<Self> {
        let pixels_max = config.thumbnail_source_pixels_max;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            is_enabled: config.thumbnails,
            pixels_max,
            shelf: Arc::new(Shelf::open(&root.join(THUMBNAILS_DIR), clock)?),
            jobs: Arc::new(Semaphore::new(processors.div_ceil(2))),
            memory: Arc::new(Semaphore::new(memory_units(pixels_max, MEMORY_UNITS_MAX) as usize)),
        })
    }

    /// Learns how much the thumbnails on disk take, so that they stay within their bounds.
    pub(super) async fn measure(&self) {
        let shelf = Arc::clone(&self.shelf);
        if let Err(error) = run_blocking(move || shelf.measure()).await {
            tracing::warn!(%error, "the thumbnails on disk were not counted");
        }
    }

    /// Deletes those of a content.
    pub(super) async fn forget(&self, hash: ContentHash) -> io::Result<()> {
        let shelf = Arc::clone(&self.shelf);
        run_blocking(move || shelf.remove(hash)).await
    }

    async fn find(&self, key: Key) -> io::Result<Option<Thumbnail>> {
        let shelf = Arc::clone(&self.shelf);
        let found = run_blocking(move || shelf.find(&key)).await?;
        Ok(found.and_then(Thumbnail::from_bytes))
    }
}

/// What a picture takes while it is worked on, in units of memory.
fn memory_units(pixels: u64, units_max: u32) -> u32 {
    let units = pixels.saturating_mul(DECODING_BYTES_PER_PIXEL).div_ceil(MEMORY_UNIT_BYTES);
    u32::try_from(units).unwrap_or(u32::MAX).clamp(1, units_max)
}

impl Media {
    /// Finds or makes a small version of a picture.
    pub async fn thumbnail(
        &self,
        hash: ContentHash,
        wish: Wish,
    ) -> Result<Thumbnail, ThumbnailError> {
        let shape = Shape::of(wish);
        let key = Key { hash, shape, is_animated: wish.is_animated };
        if let Some(found) = self.thumbnails.find(key).await? {
            return Ok(found);
        }
        let path = self.content.path(hash);
        let pixels_max = self.thumbnails.pixels_max;
        let inspect = move || Ok(render::inspect(&path, pixels_max).map(|found| (found, path)));
        let (inspected, path) = run_blocking(inspect).await??;
        if !self.thumbnails.is_enabled {
            return whole_picture(inspected, wish, path).await;
        }
        let _job = self.thumbnails.jobs.acquire().await.expect("the permits are never closed");
        let units = memory_units(inspected.pixels(), MEMORY_UNITS_MAX);
        let memory = Arc::clone(&self.thumbnails.memory).acquire_many_owned(units).await;
        // Perhaps somebody made it meanwhile.
        if let Some(found) = self.thumbnails.find(key).await? {
            return Ok(found);
        }
        let shelf = Arc::clone(&self.thumbnails.shelf);
        let work = move || {
            let rendered = render::render(&path, &inspected, wish, shape);
            if let Ok(Rendered::Picture(bytes)) = &rendered {
                shelf.put(&key, bytes)?;
            }
            // The work goes on when the client has gone, and so does what it takes.
            drop(memory);
            Ok(rendered.map(|rendered| Thumbnail::from_rendered(rendered, &inspected)))
        };
        run_blocking(work).await??.ok_or(ThumbnailError::NotAPicture)
    }
}

/// Without thumbnails a client gets the whole picture, as far as the specification allows: never
/// an animated one that it did not ask for.
async fn whole_picture(
    inspected: Inspected,
    wish: Wish,
    path: std::path::PathBuf,
) -> Result<Thumbnail, ThumbnailError> {
    let content_type = inspected.content_type();
    let is_animated = move || Ok(render::is_animated(&path, &inspected));
    match wish.is_animated || !run_blocking(is_animated).await?? {
        true => Ok(Thumbnail::Original { content_type }),
        false => Err(ThumbnailError::NotAPicture),
    }
}

impl Thumbnail {
    /// `None` for a damaged file.
    fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let content_type = render::content_type_of(&bytes)?;
        Some(Self::Picture { bytes: bytes.into(), content_type })
    }

    fn from_rendered(rendered: Rendered, inspected: &Inspected) -> Option<Self> {
        match rendered {
            Rendered::Picture(bytes) => Self::from_bytes(bytes),
            Rendered::Original => Some(Self::Original { content_type: inspected.content_type() }),
        }
    }
}

impl From<RenderError> for ThumbnailError {
    fn from(error: RenderError) -> Self {
        match error {
            RenderError::NotAPicture => Self::NotAPicture,
            RenderError::TooLarge => Self::TooLarge,
            RenderError::Disk(error) => Self::Disk(error),
        }
    }
}
