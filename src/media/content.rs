//! Contents on disk: files named by the SHA-256 of what they hold, in 256 directories. All
//! functions block; see `upload` and `download` for their callers.
//!
//! A content is written under `incoming`, linked to its place, and made durable there before its
//! row is committed. Its name under `incoming` stays until then, so that the next start knows
//! which contents a crash may have left without a row: only those, however many files there are.

use std::{
    fs::{self, File},
    io::{self, IoSlice, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::durable::{create_dir, sync_dir};

/// Where contents lie.
const CONTENT_DIR: &str = "content";
/// Where contents are written before they have a row.
const INCOMING_DIR: &str = "incoming";

/// The name of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentHash(pub [u8; 32]);

/// The directories of contents.
#[derive(Clone, Debug)]
pub struct ContentStore {
    content: PathBuf,
    incoming: PathBuf,
}

/// A content that is being written. Dropping it deletes the file.
#[derive(Debug)]
pub struct Incoming {
    file: File,
    leftover: Leftover,
    hasher: Sha256,
    size_bytes: u64,
}

/// A content that is durable in its place, or is there already (see [`Placed::is_repeated`]).
#[derive(Debug)]
pub struct Placed {
    pub hash: ContentHash,
    pub size_bytes: u64,
    /// The place was taken: by an equal content that has a row, or by what a crash or an upload
    /// at the same moment left. Unless there is a row, [`Placed::replace`] must follow.
    pub is_repeated: bool,
    file: File,
    leftover: Leftover,
}

/// A name under `incoming`, deleted when dropped.
#[derive(Debug)]
pub struct Leftover(Option<PathBuf>);

impl ContentHash {
    /// Reads 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 || digits.iter().any(|byte| !b"0123456789abcdef".contains(byte)) {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(hash))
    }

    /// Its 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
    }
}

impl ContentStore {
    /// Makes the directories when they are missing.
    pub fn open(root: &Path) -> io::Result<Self> {
        let store = Self { content: root.join(CONTENT_DIR), incoming: root.join(INCOMING_DIR) };
        fs::create_dir_all(&store.incoming)?;
        // The last one is made last, so that it stands for all.
        if !store.content.join("ff").is_dir() {
            fs::create_dir_all(&store.content)?;
            for number in 0..=255_u8 {
                create_dir(&store.content.join(format!("{number:02x}")))?;
            }
            sync_dir(&store.content)?;
        }
        sync_dir(root)?;
        Ok(store)
    }

    /// The file of a content.
    pub fn path(&self, hash: ContentHash) -> PathBuf {
        let hex = hash.to_hex();
        self.content.join(&hex[..2]).join(hex)
    }

    /// Writes a content that is in memory whole. `name` is unique among the uploads under way.
    pub fn place(&self, name: &str, chunks: &[Bytes]) -> io::Result<Placed> {
        let mut hasher = Sha256::new();
        chunks.iter().for_each(|chunk| hasher.update(chunk));
        let hash = ContentHash(hasher.finalize().into());
        let (mut file, leftover) = self.create(&hash.leftover_name(name))?;
        write_all(&mut file, chunks)?;
        let size_bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        self.link(hash, size_bytes, file, leftover)
    }

    /// Begins a content that arrives in pieces.
    pub fn begin(&self, name: &str) -> io::Result<Incoming> {
        let (file, leftover) = self.create(name)?;
        Ok(Incoming { file, leftover, hasher: Sha256::new(), size_bytes: 0 })
    }

    /// Ends what [`ContentStore::begin`] began.
    pub fn finish(&self, name: &str, incoming: Incoming) -> io::Result<Placed> {
        let Incoming { file, mut leftover, hasher, size_bytes } = incoming;
        let hash = ContentHash(hasher.finalize().into());
        leftover.rename(self.incoming.join(hash.leftover_name(name)))?;
        self.link(hash, size_bytes, file, leftover)
    }

    /// Puts the content in place of a file that has no row and so may be damaged.
    pub fn replace(&self, placed: &Placed) -> io::Result<()> {
        let Some(source) = &placed.leftover.0 else { return Ok(()) };
        // An upload of the same content at the same moment may commit its row at any time, so
        // what takes the place must be durable before.
        placed.file.sync_all()?;
        let second = source.with_added_extension("again");
        fs::hard_link(source, &second)?;
        let path = self.path(placed.hash);
        fs::rename(&second, &path)?;
        sync_dir(parent(&path))
    }

    /// Notes that a content may lose its row: until the note is dropped, the next start looks.
    pub fn mark(&self, hash: ContentHash) -> io::Result<Leftover> {
        let path = self.incoming.join(hash.leftover_name("evicted"));
        File::create(&path)?;
        sync_dir(&self.incoming)?;
        Ok(Leftover(Some(path)))
    }

    /// The names that a crash has left under `incoming`, with the content each may have placed.
    pub fn list_leftovers(&self) -> io::Result<Vec<(Leftover, Option<ContentHash>)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.incoming)? {
            let entry = entry?;
            let name = entry.file_name();
            let hash = name.to_str().and_then(|name| name.split_once('.')).map(|(hash, _)| hash);
            let hash = hash.and_then(ContentHash::parse);
            found.push((Leftover(Some(entry.path())), hash));
        }
        Ok(found)
    }

    /// Deletes a content that has no row.
    pub fn remove(&self, hash: ContentHash) -> io::Result<()> {
        match fs::remove_file(self.path(hash)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn create(&self, name: &str) -> io::Result<(File, Leftover)> {
        let path = self.incoming.join(name);
        let file = File::options().write(true).create_new(true).open(&path)?;
        Ok((file, Leftover(Some(path))))
    }

    /// One journal commit makes content and name durable, since the name comes first.
    fn link(
        &self,
        hash: ContentHash,
        size_bytes: u64,
        file: File,
        leftover: Leftover,
    ) -> io::Result<Placed> {
        let path = self.path(hash);
        let linked = leftover.0.as_ref().map_or(Ok(()), |source| fs::hard_link(source, &path));
        let is_repeated = match linked {
            Ok(()) => false,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => true,
            Err(error) => return Err(error),
        };
        if !is_repeated {
            file.sync_all()?;
            sync_dir(parent(&path))?;
        }
        Ok(Placed { hash, size_bytes, is_repeated, file, leftover })
    }
}

impl Incoming {
    pub fn write(&mut self, chunks: &[Bytes]) -> io::Result<()> {
        for chunk in chunks {
            self.hasher.update(chunk);
            self.size_bytes += chunk.len() as u64;
        }
        write_all(&mut self.file, chunks)
    }
}

impl Placed {
    /// What remains to be deleted when the row is committed.
    pub fn into_leftover(self) -> Leftover {
        self.leftover
    }
}

impl Leftover {
    /// Leaves the name to the next start, which looks whether the content has a row.
    pub fn keep(mut self) {
        self.0 = None;
    }

    fn rename(&mut self, to: PathBuf) -> io::Result<()> {
        if let Some(from) = &self.0 {
            fs::rename(from, &to)?;
            self.0 = Some(to);
        }
        Ok(())
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        let Some(path) = &self.0 else { return };
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(%error, "a temporary file of an upload was not deleted");
        }
    }
}

impl ContentHash {
    fn leftover_name(self, name: &str) -> String {
        format!("{}.{name}", self.to_hex())
    }
}

/// Reads exactly `length` bytes from `offset` on.
pub fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    file.read_exact_at(&mut buffer, offset)?;
    Ok(buffer)
}

fn parent(path: &Path) -> &Path {
    path.parent().expect("contents lie in directories")
}

/// Few calls of the system for many chunks.
fn write_all(file: &mut File, chunks: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
    let mut rest = slices.as_mut_slice();
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(text: &str) -> Vec<Bytes> {
        text.split_inclusive(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
    }

    #[test]
    fn content_in_pieces_has_the_same_name_as_whole() {
        let root = tempfile::tempdir().unwrap();
        let store = ContentStore::open(root.path()).unwrap();
        let whole = store.place("one", &chunks("some words here")).unwrap();
        assert!(!whole.is_repeated);
        let mut incoming = store.begin("two").unwrap();
        chunks("some words here").iter().for_each(|chunk| {
            incoming.write(std::slice::from_ref(chunk)).unwrap();
        });
        let pieces = store.finish("two", incoming).unwrap();
        assert_eq!((pieces.hash, pieces.size_bytes), (whole.hash, 15));
        assert!(pieces.is_repeated);
        assert_eq!(fs::read(store.path(whole.hash)).unwrap(), b"some words here");
    }

    #[test]
    fn leftovers_name_their_content_and_go_when_dropped() {
        let root = tempfile::tempdir().unwrap();
        let store = ContentStore::open(root.path()).unwrap();
        let placed = store.place("one", &chunks("text")).unwrap();
        let hash = placed.hash;
        placed.into_leftover().keep();
        drop(store.begin("two").unwrap());
        let found = store.list_leftovers().unwrap();
        assert_eq!(found.iter().map(|(_, hash)| *hash).collect::<Vec<_>>(), [Some(hash)]);
        drop(found);
        assert!(store.list_leftovers().unwrap().is_empty());
    }

    #[test]
    fn damaged_content_without_a_row_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let store = ContentStore::open(root.path()).unwrap();
        let hash = store.place("one", &chunks("text")).unwrap().hash;
        fs::write(store.path(hash), "te").unwrap();
        let placed = store.place("two", &chunks("text")).unwrap();
        assert!(placed.is_repeated);
        store.replace(&placed).unwrap();
        drop(placed);
        assert_eq!(fs::read(store.path(hash)).unwrap(), b"text");
        assert!(store.list_leftovers().unwrap().is_empty());
    }

    #[test]
    fn hashes_are_read_back_and_nothing_else() {
        let hash = ContentHash([0xab; 32]);
        assert_eq!(ContentHash::parse(&hash.to_hex()), Some(hash));
        for text in ["", "ab", &"AB".repeat(32), &"/.".repeat(32)] {
            assert_eq!(ContentHash::parse(text), None);
        }
    }
}
