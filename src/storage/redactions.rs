//! Rows of `redactions`: which event redacted which, and originals until their retention ends.

use super::{Database, EventNid, Statement, StorageError, WriteTx};
use crate::params;

static INSERT: Statement = Statement {
    table: "redactions",
    key: 1,
    sql: "INSERT INTO redactions (event_nid, redacted_by_nid, original, expires_ts)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), value->>2,
              CAST(value->>3 AS BIGINT)
          FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
};

/// Keeps the original of an event until `expires_ts` (ms since the epoch).
pub fn insert(
    tx: &mut WriteTx,
    event: EventNid,
    redacted_by: EventNid,
    original: Option<&str>,
    expires_ts: u64,
) {
    tx.push(&INSERT, vec![event.into(), redacted_by.into(), original.into(), expires_ts.into()]);
}

/// Pairs of redacted event and redaction.
pub async fn list(
    db: &Database,
    events: &[EventNid],
) -> Result<Vec<(EventNid, EventNid)>, StorageError> {
    let sql = "SELECT event_nid, redacted_by_nid FROM redactions
               WHERE event_nid IN (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))";
    let params = params![super::json_rows(events.iter().map(|nid| nid.0))];
    let rows: Vec<(i64, i64)> = db.fetch_all(sql, &params).await?;
    Ok(rows.into_iter().map(|(event, by)| (EventNid(event), EventNid(by))).collect())
}

static EXPIRE: Statement = Statement {
    table: "redactions",
    key: 1,
    sql: "UPDATE redactions SET original = NULL
          WHERE original IS NOT NULL AND expires_ts <=
              (SELECT max(CAST(value->>0 AS BIGINT)) FROM json_each($1))",
};

/// Deletes the originals whose retention ended by `now_ms`.
pub fn expire(tx: &mut WriteTx, now_ms: u64) {
    tx.push(&EXPIRE, vec![now_ms.into()]);
}
