//! Rows of `erasures`: users who were deactivated with the wish that their messages disappear, and since
//! which position of the stream.

use super::{Database, StorageError, WriteTransaction};
use crate::params;

/// Notes that a user is erased from the transaction's next position on.
pub async fn insert(tx: &mut WriteTransaction<'_>, user_id: &str) -> Result<(), StorageError> {
    let position = tx.next_position();
    let sql = "INSERT INTO erasures (user_id, position) VALUES ($1, $2)
        ON CONFLICT (user_id) DO NOTHING";
    tx.execute(sql, &params![user_id, position]).await.map(drop)
}

/// Since which position a user is erased.
pub async fn find(database: &Database, user_id: &str) -> Result<Option<i64>, StorageError> {
    let sql = "SELECT position FROM erasures WHERE user_id = $1";
    let row: Option<(i64,)> = database.fetch_optional(sql, &params![user_id]).await?;
    Ok(row.map(|(position,)| position))
}

/// All erased users of this server; there are few.
pub async fn list(database: &Database) -> Result<Vec<(String, i64)>, StorageError> {
    database.fetch_all("SELECT user_id, position FROM erasures", &[]).await
}
