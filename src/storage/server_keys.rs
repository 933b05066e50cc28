//! Rows of `server_keys` and `server_key_answers`: with what other servers sign.

use super::{Database, Statement, StorageError, WriteTx};
use crate::params;

/// A row of `server_keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerKeyRow {
    pub key_id: String,
    /// Base64.
    pub public_key: String,
    pub valid_until_ts: i64,
    pub expired_ts: Option<i64>,
}

/// A row of `server_key_answers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyAnswerRow {
    /// The signed JSON.
    pub answer: String,
    pub fetched_ts: i64,
    pub valid_until_ts: i64,
}

static SAVE_KEY: Statement = Statement {
    table: "server_keys",
    key: 2,
    sql: "INSERT INTO server_keys (server_name, key_id, public_key, valid_until_ts, expired_ts)
          SELECT value->>0, value->>1, value->>2, CAST(value->>3 AS BIGINT),
              CAST(value->>4 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (server_name, key_id) DO UPDATE SET public_key = excluded.public_key,
              valid_until_ts = excluded.valid_until_ts, expired_ts = excluded.expired_ts",
};

static SAVE_ANSWER: Statement = Statement {
    table: "server_key_answers",
    key: 1,
    sql: "INSERT INTO server_key_answers (server_name, answer, fetched_ts, valid_until_ts)
          SELECT value->>0, value->>1, CAST(value->>2 AS BIGINT), CAST(value->>3 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (server_name) DO UPDATE SET answer = excluded.answer,
              fetched_ts = excluded.fetched_ts, valid_until_ts = excluded.valid_until_ts",
};

/// Writes a key, or what is new about it.
pub fn save_key(tx: &mut WriteTx, server_name: &str, row: &ServerKeyRow) {
    let cells = vec![
        server_name.into(),
        row.key_id.as_str().into(),
        row.public_key.as_str().into(),
        row.valid_until_ts.into(),
        row.expired_ts.into(),
    ];
    tx.push(&SAVE_KEY, cells);
}

/// Writes the latest answer of a server.
pub fn save_answer(tx: &mut WriteTx, server_name: &str, row: &KeyAnswerRow) {
    let cells = vec![
        server_name.into(),
        row.answer.as_str().into(),
        row.fetched_ts.into(),
        row.valid_until_ts.into(),
    ];
    tx.push(&SAVE_ANSWER, cells);
}

/// All keys of a server that were ever seen.
pub async fn list(db: &Database, server_name: &str) -> Result<Vec<ServerKeyRow>, StorageError> {
    let sql = "SELECT key_id, public_key, valid_until_ts, expired_ts FROM server_keys
               WHERE server_name = $1";
    let rows: Vec<(String, String, i64, Option<i64>)> =
        db.fetch_all(sql, &params![server_name]).await?;
    let row = |(key_id, public_key, valid_until_ts, expired_ts)| ServerKeyRow {
        key_id,
        public_key,
        valid_until_ts,
        expired_ts,
    };
    Ok(rows.into_iter().map(row).collect())
}

/// The servers of which keys were ever seen.
pub async fn list_servers(db: &Database) -> Result<Vec<String>, StorageError> {
    let rows: Vec<(String,)> =
        db.fetch_all("SELECT DISTINCT server_name FROM server_keys", &[]).await?;
    Ok(rows.into_iter().map(|(server_name,)| server_name).collect())
}

/// The latest answer of a server.
pub async fn find_answer(
    db: &Database,
    server_name: &str,
) -> Result<Option<KeyAnswerRow>, StorageError> {
    let sql = "SELECT answer, fetched_ts, valid_until_ts FROM server_key_answers
               WHERE server_name = $1";
    let row: Option<(String, i64, i64)> = db.fetch_optional(sql, &params![server_name]).await?;
    Ok(row.map(|(answer, fetched_ts, valid_until_ts)| KeyAnswerRow {
        answer,
        fetched_ts,
        valid_until_ts,
    }))
}
