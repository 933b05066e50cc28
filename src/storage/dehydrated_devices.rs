//! Dehydrated devices (MSC3814): at most one per user.

use super::{Database, StorageError, WriteTransaction};
use crate::params;

/// Device ID and data (JSON) of a user's dehydrated device.
pub async fn find(
    database: &Database,
    user: &str,
) -> Result<Option<(String, String)>, StorageError> {
    database.fetch_optional(FIND_SQL, &params![user]).await
}

pub async fn find_in(
    tx: &mut WriteTransaction<'_>,
    user: &str,
) -> Result<Option<(String, String)>, StorageError> {
    tx.fetch_optional(FIND_SQL, &params![user]).await
}

pub async fn save(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    device: &str,
    device_data: &str,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO dehydrated_devices (user_id, device_id, device_data)
        VALUES ($1, $2, $3) ON CONFLICT (user_id)
        DO UPDATE SET device_id = excluded.device_id, device_data = excluded.device_data";
    tx.execute(sql, &params![user, device, device_data]).await.map(drop)
}

/// Deletes the row of a device, if it is the dehydrated one.
pub async fn delete(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    device: &str,
) -> Result<bool, StorageError> {
    let sql = "DELETE FROM dehydrated_devices WHERE user_id = $1 AND device_id = $2";
    Ok(tx.execute(sql, &params![user, device]).await? > 0)
}

const FIND_SQL: &str = "SELECT device_id, device_data FROM dehydrated_devices WHERE user_id = $1";
