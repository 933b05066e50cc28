//! Profile fields of this server's users, each a JSON value.

use super::{Database, StorageError, WriteTransaction};
use crate::params;

/// All fields with their values in JSON (their size together is limited when they are set).
pub async fn list(
    database: &Database,
    user_id: &str,
) -> Result<Vec<(String, String)>, StorageError> {
    database.fetch_all(LIST_SQL, &params![user_id]).await
}

pub async fn list_in(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
) -> Result<Vec<(String, String)>, StorageError> {
    tx.fetch_all(LIST_SQL, &params![user_id]).await
}

pub async fn set_field(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    field: &str,
    json: &str,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO profiles (user_id, field, value) VALUES ($1, $2, $3)
        ON CONFLICT (user_id, field) DO UPDATE SET value = excluded.value";
    tx.execute(sql, &params![user_id, field, json]).await.map(drop)
}

/// Deletes a field; false when it was not set.
pub async fn delete_field(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    field: &str,
) -> Result<bool, StorageError> {
    let sql = "DELETE FROM profiles WHERE user_id = $1 AND field = $2";
    Ok(tx.execute(sql, &params![user_id, field]).await? > 0)
}

const LIST_SQL: &str = "SELECT field, value FROM profiles WHERE user_id = $1 ORDER BY field";
