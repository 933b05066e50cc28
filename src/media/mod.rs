//! Pictures and files that people upload: keeping them, handing them out, and making small
//! versions of pictures (Client-Server API, "Content repository"). Keeps the media of other servers,
//! but does not fetch them.

pub mod address;
mod administration;
mod arrivals;
pub mod content;
pub mod download;
pub mod evict;
mod leftovers;
pub mod previews;
pub mod quarantine;
pub mod records;
mod remote;
pub mod reservations;
mod slots;
pub mod thumbnails;
pub mod upload;

use std::{
    io,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use quick_cache::sync::Cache;
use ruma::OwnedServerName;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    arrivals::Arrivals,
    content::ContentStore,
    records::{MediaRecord, RecordWeight},
    slots::UploadSlots,
    thumbnails::Thumbnails,
};
use crate::{
    cache_figures::CacheFigures,
    clock::Clock,
    config::{CacheShare, Config, MediaConfig, UnauthenticatedAccess},
    durable::create_private_dirs,
    storage::{Database, StorageError, Writer},
};

/// Uploads that write or sync at the same moment. More do not make a disk faster.
const WRITES_AT_ONCE_MAX: usize = 32;
/// Reads of files at the same moment.
const READS_AT_ONCE_MAX: usize = 16;
/// How often reserved media IDs that were never used are deleted.
const EXPIRY_PAUSE: Duration = Duration::from_secs(60 * 60);
/// What the key and the entry of a record take in the cache, roughly.
const RECORD_WEIGHT_BYTES: u64 = 300;

/// Everything about media. Its operations are in the files of this folder.
pub struct Media {
    config: MediaConfig,
    server_name: OwnedServerName,
    clock: Clock,
    database: Database,
    writer: Writer,
    content: ContentStore,
    thumbnails: Thumbnails,
    records: Cache<Box<str>, Arc<MediaRecord>, RecordWeight>,
    /// Rises when all records are to be read anew.
    records_epoch: AtomicU64,
    arrivals: Arrivals,
    slots: UploadSlots,
    writes: Arc<Semaphore>,
    /// Shared by those who put a content into its place, alone for who takes some away.
    placing: tokio::sync::RwLock<()>,
    reads: Arc<Semaphore>,
    /// Units of memory for what is on its way out; see `download`.
    buffers: Arc<Semaphore>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

/// Why media could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum OpenMediaError {
    #[error("the directory of the media, {path}, cannot be used: {source}")]
    Directory { path: std::path::PathBuf, source: io::Error },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Media {
    /// Makes the directories when they are missing, and deletes what uploads that a crash ended
    /// have left.
    pub async fn open(
        config: &Config,
        clock: Clock,
        (database, writer): (Database, Writer),
        (tasks, shutdown): (TaskTracker, CancellationToken),
    ) -> Result<Arc<Self>, OpenMediaError> {
        let path = config.media_dir();
        let failed = |source| OpenMediaError::Directory { path: path.clone(), source };
        create_private_dirs(&path).map_err(failed)?;
        let content = ContentStore::open(&path).map_err(failed)?;
        let thumbnails = Thumbnails::open(&path, &config.media, clock.clone()).map_err(failed)?;
        leftovers::sweep(&content, &database, failed).await?;
        let cache_bytes = config.memory.share(CacheShare::Media);
        let records_max = (cache_bytes / RECORD_WEIGHT_BYTES) as usize;
        Ok(Arc::new(Self {
            config: config.media.clone(),
            server_name: config.server.name.clone(),
            clock,
            database,
            writer,
            content,
            thumbnails,
            records: Cache::with_weighter(records_max, cache_bytes, RecordWeight),
            records_epoch: AtomicU64::new(0),
            arrivals: Arrivals::default(),
            slots: UploadSlots::default(),
            writes: Arc::new(Semaphore::new(WRITES_AT_ONCE_MAX)),
            placing: tokio::sync::RwLock::default(),
            reads: Arc::new(Semaphore::new(READS_AT_ONCE_MAX)),
            buffers: Arc::new(Semaphore::new(download::BUFFER_UNITS)),
            shutdown,
            tasks,
        }))
    }

    /// Starts what runs in the background until shutdown.
    pub fn spawn_tasks(self: &Arc<Self>) {
        let media = Arc::clone(self);
        self.tasks.spawn(async move {
            let work = async {
                media.thumbnails.measure().await;
                tokio::join!(media.run_expiry(), media.run_eviction());
            };
            media.shutdown.run_until_cancelled(work).await;
        });
    }

    /// The largest upload (`m.upload.size`).
    pub fn cache_figures(&self) -> CacheFigures {
        CacheFigures::of("media_records", &self.records)
    }

    pub fn upload_size_bytes_max(&self) -> u64 {
        self.config.upload_size_max.bytes()
    }

    /// Whether the paths that ask for no login hand out what is uploaded now.
    pub fn is_open_access(&self) -> bool {
        self.config.unauthenticated_access == UnauthenticatedAccess::Allowed
    }
}

/// Runs something that blocks. It ends even when nobody waits for it any more.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
