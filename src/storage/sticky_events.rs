//! Rows of `sticky_events`: events that clients get whether or not a timeline holds them (MSC4354).

use super::{
    Cell, Database, EventNid, RoomNid, Statement, StorageError, WriteTransaction, WriteTx,
};
use crate::params;

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StickyEventRow {
    pub event: EventNid,
    pub room: RoomNid,
    /// Where the stream carries it; None while the room's current state forbids it.
    pub position: Option<i64>,
    /// Milliseconds since the Unix epoch.
    pub expires_ts: i64,
}

static SAVE: Statement = Statement {
    table: "sticky_events",
    key: 1,
    sql: "INSERT INTO sticky_events (event_nid, room_nid, position, expires_ts)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT),
              CAST(value->>3 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (event_nid) DO UPDATE SET position = excluded.position",
};

/// Notes that an event of a room is sticky until then, from the job's position `offset` on; None while
/// the room's current state forbids it.
pub fn save(
    tx: &mut WriteTx,
    (room, event): (RoomNid, EventNid),
    offset: Option<u32>,
    expires_ts: u64,
) {
    let position = offset.map_or(Cell::Null, Cell::Position);
    tx.push(&SAVE, vec![event.into(), room.into(), position, expires_ts.cast_signed().into()]);
}

/// What is sticky at a moment, in the order of the stream.
pub async fn list(db: &Database, now_ts: u64) -> Result<Vec<StickyEventRow>, StorageError> {
    let sql = "SELECT event_nid, room_nid, position, expires_ts FROM sticky_events
               WHERE expires_ts > $1 ORDER BY position";
    let rows: Vec<(i64, i64, Option<i64>, i64)> = db.fetch_all(sql, &params![now_ts]).await?;
    let row = |(event, room, position, expires_ts)| StickyEventRow {
        event: EventNid(event),
        room: RoomNid(room),
        position,
        expires_ts,
    };
    Ok(rows.into_iter().map(row).collect())
}

/// Forgets what is not sticky any more.
pub async fn delete_expired(
    tx: &mut WriteTransaction<'_>,
    now_ts: u64,
) -> Result<u64, StorageError> {
    tx.execute("DELETE FROM sticky_events WHERE expires_ts <= $1", &params![now_ts]).await
}
