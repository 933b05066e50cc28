//! Rows of `search_terms` and `search_cursors`: which events contain which words.

use super::{
    Database, EventNid, ORDERING_STEP, RoomNid, Statement, StorageError, UserNid, WriteTx,
    json_rows,
};
use crate::params;

static INSERT: Statement = Statement {
    table: "search_terms",
    key: 3,
    sql: "INSERT INTO search_terms (room_nid, term, event_nid)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT)
          FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
};

static DELETE: Statement = Statement {
    table: "search_terms_deleted",
    key: 2,
    sql: "DELETE FROM search_terms WHERE (room_nid, event_nid) IN
              (SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT) FROM json_each($1))",
};

static SAVE_CURSOR: Statement = Statement {
    table: "search_cursors",
    key: 1,
    sql: "INSERT INTO search_cursors (room_nid, lowest, upto)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (room_nid) DO UPDATE SET lowest = excluded.lowest, upto = excluded.upto",
};

/// How far a room is indexed, by places in the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub room: RoomNid,
    pub lowest: i64,
    pub upto: i64,
    /// The place of the room's latest event.
    pub latest: i64,
}

/// An event that contains all terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub event: EventNid,
    pub room: RoomNid,
    /// Milliseconds since the Unix epoch, as its server has it.
    pub origin_server_ts: i64,
}

pub fn insert(tx: &mut WriteTx, room: RoomNid, term: i64, event: EventNid) {
    tx.push(&INSERT, vec![room.into(), term.into(), event.into()]);
}

/// A redacted event contains nothing any more.
pub fn delete(tx: &mut WriteTx, room: RoomNid, event: EventNid) {
    tx.push(&DELETE, vec![room.into(), event.into()]);
}

pub fn save_cursor(tx: &mut WriteTx, cursor: &Cursor) {
    tx.push(&SAVE_CURSOR, vec![cursor.room.into(), cursor.lowest.into(), cursor.upto.into()]);
}

/// Rooms that have events which are not indexed: all, or those of one user.
pub async fn list_behind(
    db: &Database,
    user: Option<UserNid>,
    limit: usize,
) -> Result<Vec<Cursor>, StorageError> {
    let sql = "SELECT r.nid, coalesce(c.lowest, 1), coalesce(c.upto, 0), r.latest_position * $3
               FROM rooms r LEFT JOIN search_cursors c ON c.room_nid = r.nid
               WHERE ($1 < 0 OR r.nid IN (SELECT room_nid FROM memberships WHERE user_nid = $1))
                   AND (c.upto IS NULL OR c.upto < r.latest_position * $3
                       OR EXISTS (SELECT 1 FROM events e WHERE e.room_nid = r.nid
                                  AND e.ordering < c.lowest AND e.flags & 7 = 0))
               ORDER BY r.nid LIMIT $2";
    let user = user.map_or(-1, |user| user.0);
    let rows: Vec<(i64, i64, i64, i64)> =
        db.fetch_all(sql, &params![user, limit, ORDERING_STEP]).await?;
    let cursor =
        |(room, lowest, upto, latest)| Cursor { room: RoomNid(room), lowest, upto, latest };
    Ok(rows.into_iter().map(cursor).collect())
}

/// The events of these rooms that contain all terms, newest first, older than `before` (time and
/// number of an event).
pub async fn list_candidates(
    db: &Database,
    rooms: &[RoomNid],
    terms: &[i64],
    before: (i64, i64),
    limit: usize,
) -> Result<Vec<Candidate>, StorageError> {
    let sql = "WITH hits AS (
                   SELECT event_nid FROM search_terms
                   WHERE room_nid IN (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))
                       AND term IN (SELECT CAST(value->>0 AS BIGINT) FROM json_each($2))
                   GROUP BY event_nid HAVING count(*) = $3)
               SELECT e.nid, e.room_nid, e.origin_server_ts
               FROM hits JOIN events e ON e.nid = hits.event_nid
               WHERE e.flags & 15 = 0
                   AND (e.origin_server_ts < $4 OR e.origin_server_ts = $4 AND e.nid < $5)
               ORDER BY e.origin_server_ts DESC, e.nid DESC LIMIT $6";
    let rooms = json_rows(rooms.iter().map(|room| room.0));
    let count = terms.len();
    let terms = json_rows(terms.iter().copied());
    let params = params![rooms, terms, count, before.0, before.1, limit];
    let rows: Vec<(i64, i64, i64)> = db.fetch_all(sql, &params).await?;
    let candidate = |(event, room, origin_server_ts)| Candidate {
        event: EventNid(event),
        room: RoomNid(room),
        origin_server_ts,
    };
    Ok(rows.into_iter().map(candidate).collect())
}
