//! Rows of `own_old_keys`: with what this server has signed and signs no more.

use super::{Database, Statement, StorageError, WriteTx};

/// A row of `own_old_keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldKeyRow {
    pub key_id: String,
    /// Base64.
    pub public_key: String,
    /// Milliseconds since the epoch.
    pub expired_ts: i64,
}

static SAVE: Statement = Statement {
    table: "own_old_keys",
    key: 1,
    sql: "INSERT INTO own_old_keys (key_id, public_key, expired_ts)
          SELECT value->>0, value->>1, CAST(value->>2 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (key_id) DO UPDATE SET public_key = excluded.public_key,
              expired_ts = excluded.expired_ts",
};

/// Keeps a key that signs no more.
pub fn save(tx: &mut WriteTx, row: &OldKeyRow) {
    let cells =
        vec![row.key_id.as_str().into(), row.public_key.as_str().into(), row.expired_ts.into()];
    tx.push(&SAVE, cells);
}

/// All of them, in the order of their IDs.
pub async fn list(db: &Database) -> Result<Vec<OldKeyRow>, StorageError> {
    let sql = "SELECT key_id, public_key, expired_ts FROM own_old_keys ORDER BY key_id";
    let rows: Vec<(String, String, i64)> = db.fetch_all(sql, &[]).await?;
    let row = |(key_id, public_key, expired_ts)| OldKeyRow { key_id, public_key, expired_ts };
    Ok(rows.into_iter().map(row).collect())
}
