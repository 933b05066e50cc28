//! Profile fields of this server's users, each a JSON value.

use super::{Database, StorageError, WriteTransaction};
use crate::params;

/// An account's flags with all fields and their values in JSON (their size together is limited when
/// they are set); `None` when there is no such account.
pub async fn find(
    database: &Database,
    user_id: &str,
) -> Result<Option<(i64, Vec<(String, String)>)>, StorageError> {
    let sql = "SELECT a.flags, p.field, p.value FROM accounts a
        LEFT JOIN profiles p ON p.user_id = a.user_id WHERE a.user_id = $1 ORDER BY p.field";
    let rows: Vec<(i64, Option<String>, Option<String>)> =
        database.fetch_all(sql, &params![user_id]).await?;
    let flags = rows.first().map(|(flags, ..)| *flags);
    let fields = rows.into_iter().filter_map(|(_, field, value)| field.zip(value)).collect();
    Ok(flags.map(|flags| (flags, fields)))
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
