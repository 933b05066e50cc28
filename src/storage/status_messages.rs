//! Rows of `status_messages`: what users say of themselves in their presence. Who is online is in no table.

use super::{Database, Statement, StorageError, WriteTx};
use crate::params;

static SAVE: Statement = Statement {
    table: "status_messages",
    key: 1,
    sql: "INSERT INTO status_messages (user_id, message)
          SELECT value->>0, value->>1 FROM json_each($1) WHERE true
          ON CONFLICT (user_id) DO UPDATE SET message = excluded.message",
};

/// Keeps a user's message; `None` for nobody to see one.
pub fn save(tx: &mut WriteTx, user_id: &str, message: Option<&str>) {
    let json = message.map(|text| serde_json::to_string(text).expect("a text is always JSON"));
    tx.push(&SAVE, vec![user_id.into(), json.as_deref().into()]);
}

/// Users with their messages, at most `limit` of them.
pub async fn list(
    database: &Database,
    limit: usize,
) -> Result<Vec<(String, String)>, StorageError> {
    let sql = "SELECT user_id, message FROM status_messages WHERE message IS NOT NULL
        ORDER BY user_id LIMIT $1";
    let rows: Vec<(String, String)> = database.fetch_all(sql, &params![limit]).await?;
    rows.into_iter()
        .map(|(user_id, json)| match serde_json::from_str(&json) {
            Ok(message) => Ok((user_id, message)),
            Err(error) => Err(StorageError::Damaged(error.to_string())),
        })
        .collect()
}
