//! Backups of room keys (client-server API, "Server-side key backups"): versions, and the rule which
//! of two keys of one session is kept. The server cannot read the keys.

use ruma::UserId;
use serde_json::value::RawValue;

use super::Encryption;
use crate::storage::{
    StorageError, WriteTransaction,
    key_backup::{self as store, KeyScope, StoredBackup, StoredRoomKey},
};

/// Bytes of a session's data, of a backup's `auth_data`, and of names.
const SESSION_BYTES_MAX: usize = 64 << 10;
const AUTH_DATA_BYTES_MAX: usize = 64 << 10;
const NAME_BYTES_MAX: usize = 255;

/// A backup as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    pub algorithm: String,
    /// JSON.
    pub auth_data: String,
    pub version: String,
    pub state: BackupState,
}

/// What changes with every key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupState {
    pub count: i64,
    pub etag: i64,
}

/// A room key with its session.
#[derive(Debug, Clone)]
pub struct RoomKey {
    pub room_id: String,
    pub session_id: String,
    pub first_message_index: i64,
    pub forwarded_count: i64,
    pub is_verified: bool,
    pub session_data: Box<RawValue>,
}

/// Why a backup was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("there is no such backup")]
    NotFound,
    #[error("the current backup is version {current}")]
    WrongVersion { current: String },
    #[error("the algorithm is not that of the backup")]
    AlgorithmDiffers,
    #[error("the data of a key or backup are too long")]
    TooLong,
    #[error("a room or session has U+0000 in its name")]
    BadName,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<StoredBackup> for Backup {
    fn from(stored: StoredBackup) -> Self {
        let state = BackupState::of(&stored);
        let StoredBackup { algorithm, auth_data, version, .. } = stored;
        Self { algorithm, auth_data, version: version.to_string(), state }
    }
}

impl BackupState {
    fn of(backup: &StoredBackup) -> Self {
        Self { count: backup.key_count, etag: backup.etag }
    }
}

impl RoomKey {
    fn into_stored(self) -> StoredRoomKey {
        StoredRoomKey {
            room_id: self.room_id,
            session_id: self.session_id,
            first_message_index: self.first_message_index,
            forwarded_count: self.forwarded_count,
            is_verified: self.is_verified,
            session_data: self.session_data.get().to_owned(),
        }
    }
}

impl Encryption {
    /// Makes a backup, which is the current one from now on; returns its version.
    pub async fn create_backup(
        &self,
        user: &UserId,
        algorithm: String,
        auth_data: String,
    ) -> Result<String, BackupError> {
        if auth_data.len() > AUTH_DATA_BYTES_MAX || algorithm.len() > NAME_BYTES_MAX {
            return Err(BackupError::TooLong);
        }
        let user = user.to_owned();
        let created = self.0.rooms.writer().transact(move |tx| {
            Box::pin(async move { store::create(tx, user.as_str(), &algorithm, &auth_data).await })
        });
        let version: i64 = created.await?;
        Ok(version.to_string())
    }

    /// A backup, or the current one.
    pub async fn find_backup(
        &self,
        user: &UserId,
        version: Option<&str>,
    ) -> Result<Backup, BackupError> {
        let database = self.0.rooms.database();
        let found = match version {
            Some(version) => store::find(database, user.as_str(), parse_version(version)?).await?,
            None => store::find_latest(database, user.as_str()).await?,
        };
        let found = found.filter(|backup| !backup.is_deleted).ok_or(BackupError::NotFound)?;
        Ok(found.into())
    }

    /// Replaces the `auth_data` of a backup.
    pub async fn update_backup(
        &self,
        user: &UserId,
        version: &str,
        (algorithm, auth_data): (String, String),
    ) -> Result<(), BackupError> {
        if auth_data.len() > AUTH_DATA_BYTES_MAX {
            return Err(BackupError::TooLong);
        }
        let (user, version) = (user.to_owned(), parse_version(version)?);
        let updated = self.0.rooms.writer().transact(move |tx| {
            Box::pin(async move {
                let backup = load_backup(tx, &user, version).await?;
                if backup.algorithm != algorithm {
                    return Err(BackupError::AlgorithmDiffers);
                }
                Ok(store::set_auth_data(tx, user.as_str(), version, &auth_data).await?)
            })
        });
        updated.await
    }

    /// Deletes a backup with its keys. One that was deleted before stays so.
    pub async fn delete_backup(&self, user: &UserId, version: &str) -> Result<(), BackupError> {
        let (user, version) = (user.to_owned(), parse_version(version)?);
        let deleted = self.0.rooms.writer().transact(move |tx| {
            Box::pin(async move {
                let found = store::find_in(tx, user.as_str(), version).await?;
                found.ok_or(BackupError::NotFound)?;
                Ok(store::delete(tx, user.as_str(), version).await?)
            })
        });
        deleted.await
    }

    /// Adds keys to the current backup; of two keys of one session the better one stays.
    pub async fn store_room_keys(
        &self,
        user: &UserId,
        version: &str,
        keys: Vec<RoomKey>,
    ) -> Result<BackupState, BackupError> {
        let is_long = |key: &RoomKey| {
            key.session_data.get().len() > SESSION_BYTES_MAX
                || key.room_id.len().max(key.session_id.len()) > NAME_BYTES_MAX
        };
        if keys.iter().any(is_long) {
            return Err(BackupError::TooLong);
        }
        // The names go to the database within lists, where it would not be seen that it takes none of these.
        if keys.iter().any(|key| key.room_id.contains('\0') || key.session_id.contains('\0')) {
            return Err(BackupError::BadName);
        }
        let (user, version) = (user.to_owned(), parse_version(version)?);
        let keys: Vec<_> = keys.into_iter().map(RoomKey::into_stored).collect();
        let stored = self.0.rooms.writer().transact(move |tx| {
            Box::pin(async move {
                let mut backup = load_backup(tx, &user, version).await?;
                let current = store::find_latest_in(tx, user.as_str()).await?;
                let current = current.map_or(version, |current| current.version);
                if current != version {
                    return Err(BackupError::WrongVersion { current: current.to_string() });
                }
                add_keys(tx, &user, &mut backup, &keys).await?;
                Ok(BackupState::of(&backup))
            })
        });
        stored.await
    }

    /// The keys of a backup.
    pub async fn list_room_keys(
        &self,
        user: &UserId,
        version: &str,
        scope: KeyScope<'_>,
    ) -> Result<Vec<StoredRoomKey>, BackupError> {
        let version = self.find_backup(user, Some(version)).await?.version;
        let database = self.0.rooms.database();
        let version = parse_version(&version)?;
        Ok(store::list_keys(database, user.as_str(), version, scope).await?)
    }

    /// Deletes keys of a backup.
    pub async fn delete_room_keys(
        &self,
        user: &UserId,
        version: &str,
        room_id: Option<String>,
        session_id: Option<String>,
    ) -> Result<BackupState, BackupError> {
        let (user, version) = (user.to_owned(), parse_version(version)?);
        let deleted = self.0.rooms.writer().transact(move |tx| {
            Box::pin(async move {
                let mut backup = load_backup(tx, &user, version).await?;
                let scope =
                    KeyScope { room_id: room_id.as_deref(), session_id: session_id.as_deref() };
                let gone = store::delete_keys(tx, user.as_str(), version, scope).await?;
                if gone > 0 {
                    backup.key_count = backup.key_count.saturating_sub_unsigned(gone);
                    backup.etag += 1;
                    store::set_count(tx, user.as_str(), &backup).await?;
                }
                Ok(BackupState::of(&backup))
            })
        });
        deleted.await
    }
}

/// A version that we gave out. Anything else names no backup.
fn parse_version(version: &str) -> Result<i64, BackupError> {
    version.parse().map_err(|_| BackupError::NotFound)
}

async fn load_backup(
    tx: &mut WriteTransaction<'_>,
    user: &UserId,
    version: i64,
) -> Result<StoredBackup, BackupError> {
    let found = store::find_in(tx, user.as_str(), version).await?;
    found.filter(|backup| !backup.is_deleted).ok_or(BackupError::NotFound)
}

async fn add_keys(
    tx: &mut WriteTransaction<'_>,
    user: &UserId,
    backup: &mut StoredBackup,
    keys: &[StoredRoomKey],
) -> Result<(), StorageError> {
    let sessions: Vec<_> =
        keys.iter().map(|key| (key.room_id.as_str(), key.session_id.as_str())).collect();
    let known = store::list_known(tx, user.as_str(), backup.version, &sessions).await?;
    let mut added = 0;
    let mut saved = Vec::new();
    for key in keys {
        let known = known
            .iter()
            .find(|(room, session, ..)| *room == key.room_id && *session == key.session_id);
        match known {
            None => added += 1,
            Some((_, _, index, forwarded, verified)) => {
                if !is_better(key, (*verified != 0, *index, *forwarded)) {
                    continue;
                }
            }
        }
        saved.push(key);
    }
    if saved.is_empty() {
        return Ok(());
    }
    store::save_keys(tx, user.as_str(), backup.version, &saved).await?;
    backup.key_count += added;
    backup.etag += 1;
    store::set_count(tx, user.as_str(), backup).await
}

/// Verified before unverified, then the lower first index, then the lower forwarded count.
fn is_better(new: &StoredRoomKey, (verified, index, forwarded): (bool, i64, i64)) -> bool {
    let rank = |verified: bool, index, forwarded| (!verified, index, forwarded);
    rank(new.is_verified, new.first_message_index, new.forwarded_count)
        < rank(verified, index, forwarded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_keys_replace_worse_ones_only() {
        let key = |is_verified, first_message_index, forwarded_count| StoredRoomKey {
            room_id: String::new(),
            session_id: String::new(),
            first_message_index,
            forwarded_count,
            is_verified,
            session_data: String::new(),
        };
        let known = (false, 5, 5);
        assert!(is_better(&key(true, 9, 9), known));
        assert!(is_better(&key(false, 4, 9), known));
        assert!(is_better(&key(false, 5, 4), known));
        assert!(!is_better(&key(false, 5, 5), known));
        assert!(!is_better(&key(false, 6, 0), known));
        assert!(!is_better(&key(false, 0, 0), (true, 5, 5)));
    }
}
