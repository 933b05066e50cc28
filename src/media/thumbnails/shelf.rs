//! Thumbnails on disk, up to a size; those that nobody has asked for longest go first. All functions
//! block. Whatever is here can be made again.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use super::shape::{Method, Shape};
use crate::{clock::Clock, durable::create_dir, media::content::ContentHash};

/// What all thumbnails may take on disk.
const SHELF_BYTES_MAX: u64 = 1 << 30;
/// What a file takes at least.
const BLOCK_BYTES: u64 = 4096;
/// The time of the last use is noted this precisely.
const USE_PRECISION: Duration = Duration::from_secs(24 * 60 * 60);

/// The name of a thumbnail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub hash: ContentHash,
    pub shape: Shape,
    pub is_animated: bool,
}

/// The directory of thumbnails.
pub struct Shelf {
    root: PathBuf,
    clock: Clock,
    bytes: AtomicU64,
    is_shrinking: AtomicBool,
}

impl Shelf {
    pub fn open(root: &Path, clock: Clock) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let bytes = AtomicU64::new(0);
        Ok(Self { root: root.to_owned(), clock, bytes, is_shrinking: AtomicBool::new(false) })
    }

    pub fn find(&self, key: &Key) -> io::Result<Option<Vec<u8>>> {
        let mut file = match File::open(self.path(key)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let now = self.now();
        let used = file.metadata()?.modified()?;
        if now.duration_since(used).is_ok_and(|age| age > USE_PRECISION) {
            file.set_modified(now)?;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    pub fn put(&self, key: &Key, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(key);
        if let Some(directory) = path.parent() {
            create_dir(directory)?;
        }
        // Two that make the same thumbnail write the same bytes, each to a file of its own.
        let mut unique = [0; 8];
        self.clock.fill_random(&mut unique);
        let temporary = path.with_added_extension(format!("{:x}", u64::from_ne_bytes(unique)));
        let written = write_durably(&temporary, bytes).and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written?;
        let size_bytes = size_on_disk(bytes.len() as u64);
        if self.bytes.fetch_add(size_bytes, Relaxed) + size_bytes > SHELF_BYTES_MAX {
            self.shrink()?;
        }
        Ok(())
    }

    /// Deletes all thumbnails of a content.
    pub fn remove(&self, hash: ContentHash) -> io::Result<()> {
        let hex = hash.to_hex();
        let files = match list_files(&self.root.join(&hex[..2])) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            files => files?,
        };
        let is_of_content = |path: &Path| {
            path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(&hex))
        };
        for (_, size_bytes, path) in files {
            if is_of_content(&path) {
                fs::remove_file(path)?;
                self.bytes.fetch_sub(size_bytes, Relaxed);
            }
        }
        Ok(())
    }

    /// Counts what is there, and makes room when it is too much.
    pub fn measure(&self) -> io::Result<()> {
        let mut bytes = 0;
        for directory in fs::read_dir(&self.root)? {
            bytes += list_files(&directory?.path())?.iter().map(|file| file.1).sum::<u64>();
        }
        match self.bytes.fetch_add(bytes, Relaxed) + bytes > SHELF_BYTES_MAX {
            true => self.shrink(),
            false => Ok(()),
        }
    }

    /// Deletes a quarter of each directory: what was not used for the longest time. Hashes spread
    /// evenly, so this is nearly a quarter of all, and never takes a list of all.
    fn shrink(&self) -> io::Result<()> {
        if self.is_shrinking.swap(true, Relaxed) {
            return Ok(());
        }
        let result = fs::read_dir(&self.root).and_then(|mut directories| {
            directories.try_for_each(|directory| self.shrink_directory(&directory?.path()))
        });
        self.is_shrinking.store(false, Relaxed);
        result
    }

    fn shrink_directory(&self, directory: &Path) -> io::Result<()> {
        let mut files = list_files(directory)?;
        files.sort_unstable_by_key(|file| file.0);
        let mut rest: u64 = files.iter().map(|file| file.1).sum::<u64>() / 4;
        for (_, size_bytes, path) in files {
            if rest == 0 {
                break;
            }
            fs::remove_file(path)?;
            self.bytes.fetch_sub(size_bytes, Relaxed);
            rest = rest.saturating_sub(size_bytes);
        }
        Ok(())
    }

    fn path(&self, key: &Key) -> PathBuf {
        let hex = key.hash.to_hex();
        let method = match key.shape.method {
            Method::Crop => "crop",
            Method::Scale => "scale",
        };
        let motion = if key.is_animated { "-animated" } else { "" };
        let (width, height) = (key.shape.width, key.shape.height);
        let name = format!("{hex}-{method}-{width}x{height}{motion}");
        self.root.join(&hex[..2]).join(name)
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.clock.now_ms())
    }
}

/// So that a power cut leaves no half thumbnail under its name.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

/// Last use, size and path of the files of a directory.
fn list_files(directory: &Path) -> io::Result<Vec<(SystemTime, u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        files.push((metadata.modified()?, size_on_disk(metadata.len()), entry.path()));
    }
    Ok(files)
}

fn size_on_disk(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES).max(BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> Key {
        let shape = Shape { width: 32, height: 32, method: Method::Crop };
        // The first byte names the directory.
        let mut hash = [0; 32];
        hash[31] = number;
        Key { hash: ContentHash(hash), shape, is_animated: false }
    }

    #[test]
    fn longest_unused_thumbnails_make_room() {
        let root = tempfile::tempdir().unwrap();
        let clock = Clock::scripted(1_700_000_000_000, 1);
        let shelf = Shelf::open(root.path(), clock.clone()).unwrap();
        for number in 0..8 {
            shelf.put(&key(number), b"picture").unwrap();
            let file = File::options().write(true).open(shelf.path(&key(number))).unwrap();
            file.set_modified(shelf.now()).unwrap();
            clock.advance_ms(1000);
        }
        clock.advance_ms(2 * 24 * 60 * 60 * 1000);
        // The oldest is used again.
        assert_eq!(shelf.find(&key(0)).unwrap().as_deref(), Some(b"picture".as_slice()));
        shelf.shrink().unwrap();
        let left: Vec<_> =
            (0..8).filter(|&number| shelf.find(&key(number)).unwrap().is_some()).collect();
        assert_eq!(left, [0, 3, 4, 5, 6, 7]);
        assert_eq!(shelf.bytes.load(Relaxed), 6 * BLOCK_BYTES);
        shelf.remove(key(4).hash).unwrap();
        shelf.remove(ContentHash([1; 32])).unwrap();
        assert_eq!(shelf.find(&key(4)).unwrap(), None);
        assert_eq!(shelf.bytes.load(Relaxed), 5 * BLOCK_BYTES);
    }
}
