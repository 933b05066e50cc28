//! Backups of room keys: their versions and their keys.

use super::{Database, Param, StorageError, WriteTransaction};
use crate::params;

/// A backup. `auth_data` is JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBackup {
    pub version: i64,
    pub algorithm: String,
    pub auth_data: String,
    pub etag: i64,
    pub key_count: i64,
    pub is_deleted: bool,
}

/// A room key in a backup. `session_data` is JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRoomKey {
    pub room_id: String,
    pub session_id: String,
    pub first_message_index: i64,
    pub forwarded_count: i64,
    pub is_verified: bool,
    pub session_data: String,
}

/// Which keys of a backup: all, those of a room, or one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyScope<'a> {
    pub room_id: Option<&'a str>,
    pub session_id: Option<&'a str>,
}

type BackupRow = (i64, String, String, i64, i64, i64);

const LATEST_SQL: &str = "SELECT version, algorithm, auth_data, etag, key_count, is_deleted
    FROM key_backups WHERE user_id = $1 AND is_deleted = 0 ORDER BY version DESC LIMIT 1";
const FIND_SQL: &str = "SELECT version, algorithm, auth_data, etag, key_count, is_deleted
    FROM key_backups WHERE user_id = $1 AND version = $2";

impl From<BackupRow> for StoredBackup {
    fn from((version, algorithm, auth_data, etag, key_count, deleted): BackupRow) -> Self {
        Self { version, algorithm, auth_data, etag, key_count, is_deleted: deleted != 0 }
    }
}

/// The latest backup that was not deleted.
pub async fn find_latest(
    database: &Database,
    user: &str,
) -> Result<Option<StoredBackup>, StorageError> {
    let row: Option<BackupRow> = database.fetch_optional(LATEST_SQL, &params![user]).await?;
    Ok(row.map(StoredBackup::from))
}

pub async fn find_latest_in(
    tx: &mut WriteTransaction<'_>,
    user: &str,
) -> Result<Option<StoredBackup>, StorageError> {
    let row: Option<BackupRow> = tx.fetch_optional(LATEST_SQL, &params![user]).await?;
    Ok(row.map(StoredBackup::from))
}

/// A backup; also a deleted one.
pub async fn find(
    database: &Database,
    user: &str,
    version: i64,
) -> Result<Option<StoredBackup>, StorageError> {
    let row: Option<BackupRow> = database.fetch_optional(FIND_SQL, &params![user, version]).await?;
    Ok(row.map(StoredBackup::from))
}

pub async fn find_in(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    version: i64,
) -> Result<Option<StoredBackup>, StorageError> {
    let row: Option<BackupRow> = tx.fetch_optional(FIND_SQL, &params![user, version]).await?;
    Ok(row.map(StoredBackup::from))
}

/// Makes a backup; returns its version, which is above all earlier ones.
pub async fn create(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    algorithm: &str,
    auth_data: &str,
) -> Result<i64, StorageError> {
    let sql = "SELECT coalesce(max(version), 0) + 1 FROM key_backups WHERE user_id = $1";
    let row: Option<(i64,)> = tx.fetch_optional(sql, &params![user]).await?;
    let (version,) = row.ok_or(StorageError::RowMissing)?;
    let sql = "INSERT INTO key_backups
            (user_id, version, algorithm, auth_data, etag, key_count, is_deleted)
        VALUES ($1, $2, $3, $4, 0, 0, 0)";
    tx.execute(sql, &params![user, version, algorithm, auth_data]).await?;
    Ok(version)
}

pub async fn set_auth_data(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    version: i64,
    auth_data: &str,
) -> Result<(), StorageError> {
    let sql = "UPDATE key_backups SET auth_data = $3 WHERE user_id = $1 AND version = $2";
    tx.execute(sql, &params![user, version, auth_data]).await.map(drop)
}

/// Deletes a backup with its keys.
pub async fn delete(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    version: i64,
) -> Result<(), StorageError> {
    let sql = "UPDATE key_backups SET is_deleted = 1, key_count = 0
        WHERE user_id = $1 AND version = $2";
    tx.execute(sql, &params![user, version]).await?;
    let sql = "DELETE FROM backed_up_keys WHERE user_id = $1 AND version = $2";
    tx.execute(sql, &params![user, version]).await.map(drop)
}

/// Deletes all backups of a user with their keys, for good.
pub async fn delete_of_user(tx: &mut WriteTransaction<'_>, user: &str) -> Result<(), StorageError> {
    tx.execute("DELETE FROM key_backups WHERE user_id = $1", &params![user]).await?;
    tx.execute("DELETE FROM backed_up_keys WHERE user_id = $1", &params![user]).await.map(drop)
}

/// Notes that a backup's keys changed: how many it has now, and a new etag.
pub async fn set_count(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    backup: &StoredBackup,
) -> Result<(), StorageError> {
    let sql = "UPDATE key_backups SET key_count = $3, etag = $4
        WHERE user_id = $1 AND version = $2";
    tx.execute(sql, &params![user, backup.version, backup.key_count, backup.etag]).await.map(drop)
}

/// What is known of the sessions in `sessions` (pairs of room and session) that a backup has:
/// room, session, first message index, forwarded count, whether verified.
pub async fn list_known(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    version: i64,
    sessions: &[(&str, &str)],
) -> Result<Vec<(String, String, i64, i64, i64)>, StorageError> {
    let list = serde_json::to_string(sessions).expect("texts are always JSON");
    tx.fetch_all(
        "SELECT k.room_id, k.session_id, k.first_message_index, k.forwarded_count, k.is_verified
        FROM json_each($3) AS v JOIN backed_up_keys k ON k.user_id = $1 AND k.version = $2
            AND k.room_id = v.value->>0 AND k.session_id = v.value->>1",
        &[user.into(), version.into(), Param::Text(list)],
    )
    .await
}

/// Stores keys, replacing those of the same sessions.
pub async fn save_keys(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    version: i64,
    keys: &[&StoredRoomKey],
) -> Result<(), StorageError> {
    let rows: Vec<_> = keys
        .iter()
        .map(|key| {
            let counts = (key.first_message_index, key.forwarded_count);
            let verified = i64::from(key.is_verified);
            (&key.room_id, &key.session_id, counts.0, counts.1, verified, &key.session_data)
        })
        .collect();
    let rows = serde_json::to_string(&rows).expect("texts and numbers are always JSON");
    tx.execute(
        "INSERT INTO backed_up_keys (user_id, version, room_id, session_id, first_message_index,
            forwarded_count, is_verified, session_data)
        SELECT $1, $2, value->>0, value->>1, CAST(value->>2 AS BIGINT),
            CAST(value->>3 AS BIGINT), CAST(value->>4 AS BIGINT), value->>5
        FROM json_each($3) WHERE true
        ON CONFLICT (user_id, version, room_id, session_id) DO UPDATE SET
            first_message_index = excluded.first_message_index,
            forwarded_count = excluded.forwarded_count, is_verified = excluded.is_verified,
            session_data = excluded.session_data",
        &[user.into(), version.into(), Param::Text(rows)],
    )
    .await
    .map(drop)
}

/// The keys of a backup, by room and session.
pub async fn list_keys(
    database: &Database,
    user: &str,
    version: i64,
    scope: KeyScope<'_>,
) -> Result<Vec<StoredRoomKey>, StorageError> {
    let rows: Vec<(String, String, i64, i64, i64, String)> = database
        .fetch_all(
            "SELECT room_id, session_id, first_message_index, forwarded_count, is_verified,
                session_data
            FROM backed_up_keys WHERE user_id = $1 AND version = $2
                AND ($3 IS NULL OR room_id = $3) AND ($4 IS NULL OR session_id = $4)
            ORDER BY room_id, session_id",
            &params![user, version, scope.room_id, scope.session_id],
        )
        .await?;
    Ok(rows
        .into_iter()
        .map(|(room_id, session_id, first_message_index, forwarded_count, verified, data)| {
            StoredRoomKey {
                room_id,
                session_id,
                first_message_index,
                forwarded_count,
                is_verified: verified != 0,
                session_data: data,
            }
        })
        .collect())
}

/// Deletes keys of a backup; returns how many there were.
pub async fn delete_keys(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    version: i64,
    scope: KeyScope<'_>,
) -> Result<u64, StorageError> {
    let sql = "DELETE FROM backed_up_keys WHERE user_id = $1 AND version = $2
        AND ($3 IS NULL OR room_id = $3) AND ($4 IS NULL OR session_id = $4)";
    tx.execute(sql, &params![user, version, scope.room_id, scope.session_id]).await
}
