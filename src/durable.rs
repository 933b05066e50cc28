//! Files and directories whose names survive a power cut. Not for what the database holds, which takes
//! care of itself, nor for what can be made again.
//!
//! A file system makes a file's bytes durable when the file is synced, and its name only when its
//! directory is: both must have happened before anybody is told that the file is there.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Only this server's user may enter.
const PRIVATE_DIR_MODE: u32 = 0o700;
/// Only this server's user may read.
const PRIVATE_FILE_MODE: u32 = 0o600;

/// Makes a directory, and those above it, for nobody else to enter. Those that are there stay as they are.
pub fn create_private_dirs(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    create_private_dirs(parent)?;
    match DirBuilder::new().mode(PRIVATE_DIR_MODE).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_dir(parent)
}

/// Makes a directory whose name the caller makes durable by syncing the one above it.
pub fn create_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Makes the names in a directory durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes a file for nobody else to read, in place of one that is there: either the old one or the whole
/// new one is there at any moment, and the new one when this returns.
pub fn write_private_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_added_extension("new");
    // What a crash has left of an earlier attempt.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file =
        File::options().create_new(true).write(true).mode(PRIVATE_FILE_MODE).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir(parent_of(path))
}

/// The directory that holds `path`; the working directory for a bare name.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn private_files_replace_each_other_and_what_a_crash_left() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("a/b");
        create_private_dirs(&directory).unwrap();
        create_private_dirs(&directory).unwrap();
        let path = directory.join("key");
        fs::write(directory.join("key.new"), "half").unwrap();
        for text in ["one", "another"] {
            write_private_file(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&path)), (PRIVATE_DIR_MODE, PRIVATE_FILE_MODE));
        assert!(!directory.join("key.new").exists());
    }
}
