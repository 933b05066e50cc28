//! What the care for rooms asks of the search's index, and how it empties it. Not for searching.

use super::super::{Database, EventNid, RoomNid, Statement, StorageError, WriteTx};
use crate::params;

/// How far a room is indexed for the search: the lowest and the highest place.
pub async fn find_search_cursor(
    db: &Database,
    room: RoomNid,
) -> Result<Option<(i64, i64)>, StorageError> {
    let sql = "SELECT lowest, upto FROM search_cursors WHERE room_nid = $1";
    db.fetch_optional(sql, &params![room]).await
}

/// How many of these pairs of term and event the search knows. None may stand there twice.
pub async fn count_terms(
    db: &Database,
    room: RoomNid,
    terms: &[(i64, EventNid)],
) -> Result<i64, StorageError> {
    let rows: Vec<_> = terms.iter().map(|(term, event)| format!("[{term},{}]", event.0)).collect();
    let sql = "SELECT count(*) FROM search_terms WHERE room_nid = $1 AND (term, event_nid) IN
                   (SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT) FROM json_each($2))";
    let list = format!("[{}]", rows.join(","));
    Ok(db.fetch_one::<(i64,)>(sql, &params![room, list]).await?.0)
}

/// How many terms the search knows of events that the room does not have.
pub async fn count_stray_terms(db: &Database, room: RoomNid) -> Result<i64, StorageError> {
    let sql = "SELECT count(*) FROM search_terms s WHERE s.room_nid = $1 AND NOT EXISTS
                   (SELECT 1 FROM events e WHERE e.nid = s.event_nid AND e.room_nid = $1)";
    Ok(db.fetch_one::<(i64,)>(sql, &params![room]).await?.0)
}

static CLEAR_TERMS: Statement = Statement {
    table: "search_terms_cleared",
    key: 1,
    sql: "DELETE FROM search_terms WHERE room_nid IN
              (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))",
};

static CLEAR_CURSOR: Statement = Statement {
    table: "search_cursors_cleared",
    key: 1,
    sql: "DELETE FROM search_cursors WHERE room_nid IN
              (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))",
};

/// Empties the search's index of a room, so that it is filled again.
pub fn clear_search(tx: &mut WriteTx, room: RoomNid) {
    tx.push(&CLEAR_TERMS, vec![room.into()]);
    tx.push(&CLEAR_CURSOR, vec![room.into()]);
}
