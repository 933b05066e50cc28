//! Rows of `receipts`: how far users have read, as others see it.

use super::{Cell, Database, RoomNid, Statement, StorageError, WriteTx};
use crate::params;

/// A row of `receipts`. `kind` is 1 for `m.read`, 2 for `m.read.private`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptRow {
    pub room: RoomNid,
    pub user_id: String,
    pub kind: i64,
    /// Empty: unthreaded; `main`, or the event ID of a thread's root.
    pub thread: String,
    pub event_id: String,
    /// The event's place in the room.
    pub ordering: i64,
    /// Milliseconds since the epoch.
    pub ts: i64,
    pub position: i64,
}

static SAVE: Statement = Statement {
    table: "receipts",
    key: 4,
    sql: "INSERT INTO receipts (room_nid, user_id, kind, thread, event_id, ordering, ts, position)
          SELECT CAST(value->>0 AS BIGINT), value->>1, CAST(value->>2 AS BIGINT), value->>3,
              value->>4, CAST(value->>5 AS BIGINT), CAST(value->>6 AS BIGINT),
              CAST(value->>7 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (room_nid, user_id, kind, thread) DO UPDATE SET
              event_id = excluded.event_id, ordering = excluded.ordering, ts = excluded.ts,
              position = excluded.position
          WHERE excluded.ordering > receipts.ordering",
};

/// Writes a receipt at the job's position `position`; one that is further ahead stays.
pub fn save(tx: &mut WriteTx, row: &ReceiptRow, position: u32) {
    let cells = vec![
        row.room.into(),
        row.user_id.as_str().into(),
        row.kind.into(),
        row.thread.as_str().into(),
        row.event_id.as_str().into(),
        row.ordering.into(),
        row.ts.into(),
        Cell::Position(position),
    ];
    tx.push(&SAVE, cells);
}

type Columns = (i64, String, i64, String, String, i64, i64, i64);

/// All receipts of these rooms.
pub async fn list(db: &Database, rooms: &[RoomNid]) -> Result<Vec<ReceiptRow>, StorageError> {
    let sql = "SELECT room_nid, user_id, kind, thread, event_id, ordering, ts, position
               FROM receipts
               WHERE room_nid IN (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))";
    let params = params![super::json_rows(rooms.iter().map(|nid| nid.0))];
    let rows: Vec<Columns> = db.fetch_all(sql, &params).await?;
    let row = |(room, user_id, kind, thread, event_id, ordering, ts, position)| ReceiptRow {
        room: RoomNid(room),
        user_id,
        kind,
        thread,
        event_id,
        ordering,
        ts,
        position,
    };
    Ok(rows.into_iter().map(row).collect())
}
