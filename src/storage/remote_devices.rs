//! Device lists of users elsewhere, as far as they are kept up to date.

use super::{Database, Param, StorageError, WriteTransaction, json_text_rows};
use crate::params;

/// A device of a user elsewhere. `keys` is JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteDevice {
    pub device_id: String,
    pub keys: Option<String>,
    pub display_name: Option<String>,
}

/// A user's list: the last change it contains, whether later ones are missing, and since when it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteList {
    pub stream_id: i64,
    pub is_stale: bool,
    /// Where the stream stood when the list was asked for.
    pub kept_since: i64,
}

pub async fn find_list(
    tx: &mut WriteTransaction<'_>,
    user: &str,
) -> Result<Option<RemoteList>, StorageError> {
    let sql = "SELECT stream_id, is_stale, kept_since FROM remote_device_lists WHERE user_id = $1";
    let row: Option<(i64, i64, i64)> = tx.fetch_optional(sql, &params![user]).await?;
    Ok(row.map(|(stream_id, stale, kept_since)| RemoteList {
        stream_id,
        is_stale: stale != 0,
        kept_since,
    }))
}

/// Those of `users` whose lists are kept and miss no change that was told, with since when they are.
pub async fn list_fresh(
    database: &Database,
    users: &[&str],
) -> Result<Vec<(String, i64)>, StorageError> {
    let sql = "SELECT l.user_id, l.kept_since FROM json_each($1) AS v
        JOIN remote_device_lists l ON l.user_id = v.value->>0 WHERE l.is_stale = 0";
    let users = Param::Text(json_text_rows(users.iter().copied()));
    database.fetch_all(sql, &[users]).await
}

/// Users behind `after` whose lists have to be fetched again, in the order of their names. One of which
/// neither the list nor a change has ever come is fetched when somebody asks for it.
pub async fn list_stale(
    database: &Database,
    after: &str,
    limit: usize,
) -> Result<Vec<String>, StorageError> {
    let sql = "SELECT user_id FROM remote_device_lists
        WHERE is_stale = 1 AND stream_id > 0 AND user_id > $1 ORDER BY user_id LIMIT $2";
    let rows: Vec<(String,)> = database.fetch_all(sql, &params![after, limit]).await?;
    Ok(rows.into_iter().map(|(user,)| user).collect())
}

pub async fn save_list(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    list: RemoteList,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO remote_device_lists (user_id, stream_id, is_stale, kept_since)
        VALUES ($1, $2, $3, $4) ON CONFLICT (user_id)
        DO UPDATE SET stream_id = excluded.stream_id, is_stale = excluded.is_stale,
            kept_since = excluded.kept_since";
    let params = params![user, list.stream_id, list.is_stale, list.kept_since];
    tx.execute(sql, &params).await.map(drop)
}

/// Stops keeping a user's list.
pub async fn delete_list(tx: &mut WriteTransaction<'_>, user: &str) -> Result<(), StorageError> {
    tx.execute("DELETE FROM remote_device_lists WHERE user_id = $1", &params![user]).await?;
    tx.execute("DELETE FROM remote_devices WHERE user_id = $1", &params![user]).await.map(drop)
}

/// Replaces all devices of a user.
pub async fn replace_devices(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    devices: &[RemoteDevice],
) -> Result<(), StorageError> {
    tx.execute("DELETE FROM remote_devices WHERE user_id = $1", &params![user]).await?;
    for device in devices {
        save_device(tx, user, device).await?;
    }
    Ok(())
}

pub async fn save_device(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    device: &RemoteDevice,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO remote_devices (user_id, device_id, keys, display_name)
        VALUES ($1, $2, $3, $4) ON CONFLICT (user_id, device_id)
        DO UPDATE SET keys = excluded.keys, display_name = excluded.display_name";
    let keys = device.keys.clone();
    let name = device.display_name.clone();
    tx.execute(sql, &params![user, &device.device_id, keys, name]).await.map(drop)
}

pub async fn delete_device(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    device: &str,
) -> Result<(), StorageError> {
    let sql = "DELETE FROM remote_devices WHERE user_id = $1 AND device_id = $2";
    tx.execute(sql, &params![user, device]).await.map(drop)
}

/// The devices of some users: user and device.
pub async fn list_devices(
    database: &Database,
    users: &[&str],
) -> Result<Vec<(String, RemoteDevice)>, StorageError> {
    let sql = "SELECT d.user_id, d.device_id, d.keys, d.display_name FROM json_each($1) AS v
        JOIN remote_devices d ON d.user_id = v.value->>0 ORDER BY d.user_id, d.device_id";
    let users = Param::Text(json_text_rows(users.iter().copied()));
    let rows: Vec<(String, String, Option<String>, Option<String>)> =
        database.fetch_all(sql, &[users]).await?;
    let read = |(user, device_id, keys, display_name)| {
        (user, RemoteDevice { device_id, keys, display_name })
    };
    Ok(rows.into_iter().map(read).collect())
}
