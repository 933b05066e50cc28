//! A new key to sign with, in place of one that somebody else may have seen ("Publishing Keys": those
//! before are published with the time when they expired, so that what they have signed stays valid).
//! Not for the keys of other servers.

use std::{io, path::Path};

use super::Federation;
use crate::{
    clock::Clock,
    durable::write_private_file,
    protocol::signing::{KEY_BYTES, KeyError, SigningKey},
    storage::StorageError,
};

/// Random letters in the name of a new key, after `a_`.
const KEY_NAME_LENGTH: usize = 6;
/// A key expires this long after it was replaced, since something may just be being signed.
const OVERLAP_MS: u64 = 10_000;

/// Why there is no new key. The one before stays in use.
#[derive(Debug, thiserror::Error)]
pub enum MakeKeyError {
    #[error("the new key cannot be written: {0}")]
    File(#[from] io::Error),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Makes up a key, and writes it where the server finds it at its next start. Its file has the format of
/// other homeservers, so that a server can take its key along.
pub fn make_key(clock: &Clock, path: &Path) -> Result<SigningKey, MakeKeyError> {
    let mut seed = [0; KEY_BYTES];
    clock.fill_random(&mut seed);
    let name = format!("a_{}", clock.random_text(KEY_NAME_LENGTH));
    let key = SigningKey::from_seed(&name, &seed)?;
    // Durable before the key signs anything.
    write_private_file(path, key.format_key_file().as_bytes())?;
    Ok(key)
}

impl Federation {
    /// Signs with a new key from now on, which is written to `path`; returns its ID and that of the one
    /// before, which is published as an old one.
    pub async fn rotate_key(&self, path: &Path) -> Result<(String, String), MakeKeyError> {
        let own_key = self.rooms().own_key();
        let before = own_key.current();
        own_key.expire(self.writer(), self.clock().now_ms() + OVERLAP_MS).await?;
        let key = make_key(self.clock(), path)?;
        let key_id = key.key_id().to_owned();
        own_key.replace(key);
        tracing::info!(key.id = key_id, "this server signs with a new key");
        Ok((key_id, before.key_id().to_owned()))
    }
}
