//! Rows of `incoming_transactions`: how transactions of other servers were answered.

use super::{Database, Statement, StorageError, WriteTx};
use crate::params;

static SAVE: Statement = Statement {
    table: "incoming_transactions",
    key: 2,
    sql: "INSERT INTO incoming_transactions (origin, transaction_id, answer, received_ts)
          SELECT value->>0, value->>1, value->>2, CAST(value->>3 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (origin, transaction_id) DO UPDATE SET answer = excluded.answer,
              received_ts = excluded.received_ts",
};

static EXPIRE: Statement = Statement {
    table: "incoming_transactions_expired",
    key: 0,
    sql: "DELETE FROM incoming_transactions
          WHERE received_ts < (SELECT max(CAST(value->>0 AS BIGINT)) FROM json_each($1))",
};

/// Keeps an answer.
pub fn save(tx: &mut WriteTx, origin: &str, transaction_id: &str, answer: &str, received_ts: u64) {
    tx.push(&SAVE, vec![origin.into(), transaction_id.into(), answer.into(), received_ts.into()]);
}

/// Deletes what was received before a time.
pub fn expire(tx: &mut WriteTx, before_ts: u64) {
    tx.push(&EXPIRE, vec![before_ts.into()]);
}

/// The answer that a transaction got.
pub async fn find(
    db: &Database,
    origin: &str,
    transaction_id: &str,
) -> Result<Option<String>, StorageError> {
    let sql = "SELECT answer FROM incoming_transactions
               WHERE origin = $1 AND transaction_id = $2";
    let row: Option<(String,)> = db.fetch_optional(sql, &params![origin, transaction_id]).await?;
    Ok(row.map(|(answer,)| answer))
}
