//! Rows of `partial_rooms` and `partial_events`: rooms whose state is not whole yet, and what was judged
//! meanwhile.

use super::{Cell, Database, EventNid, RoomNid, StateNid, Statement, StorageError, WriteTx};
use crate::params;

/// A row of `partial_rooms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialRoomRow {
    pub room: RoomNid,
    pub join: EventNid,
    /// JSON array of server names.
    pub servers: String,
    /// None while the state is not whole.
    pub completed_position: Option<i64>,
}

static SAVE: Statement = Statement {
    table: "partial_rooms",
    key: 1,
    sql: "INSERT INTO partial_rooms (room_nid, join_nid, servers, completed_position)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), value->>2,
              CAST(value->>3 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (room_nid) DO UPDATE SET join_nid = excluded.join_nid,
              servers = excluded.servers, completed_position = excluded.completed_position",
};

/// Notes that the room was entered by `join` and that its state is not whole.
pub fn begin(tx: &mut WriteTx, room: RoomNid, join: EventNid, servers: &str) {
    tx.push(&SAVE, vec![room.into(), join.into(), servers.into(), Cell::Null]);
}

/// Notes that the room's state is whole since the job's position `offset`.
pub fn complete(tx: &mut WriteTx, room: RoomNid, join: EventNid, offset: u32) {
    tx.push(&SAVE, vec![room.into(), join.into(), "[]".into(), Cell::Position(offset)]);
    tx.push(&DELETE_EVENTS, vec![room.into()]);
}

static DELETE: Statement = Statement {
    table: "partial_rooms",
    key: 1,
    sql: "DELETE FROM partial_rooms WHERE room_nid IN
              (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))",
};

/// Notes that nobody completes the room any more.
pub fn give_up(tx: &mut WriteTx, room: RoomNid) {
    tx.push(&DELETE, vec![room.into()]);
}

/// All rooms that were ever entered without their members.
pub async fn list(db: &Database) -> Result<Vec<PartialRoomRow>, StorageError> {
    let sql = "SELECT room_nid, join_nid, servers, completed_position FROM partial_rooms";
    let rows: Vec<(i64, i64, String, Option<i64>)> = db.fetch_all(sql, &[]).await?;
    let row = |(room, join, servers, completed_position)| PartialRoomRow {
        room: RoomNid(room),
        join: EventNid(join),
        servers,
        completed_position,
    };
    Ok(rows.into_iter().map(row).collect())
}

static INSERT_EVENT: Statement = Statement {
    table: "partial_events",
    key: 2,
    sql: "INSERT INTO partial_events (room_nid, event_nid, position)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT)
          FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
};

static DELETE_EVENTS: Statement = Statement {
    table: "partial_events_done",
    key: 1,
    sql: "DELETE FROM partial_events WHERE room_nid IN
              (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))",
};

/// Notes that an event was judged by a state that is not whole; `offset` is a position of the job.
pub fn insert_event(tx: &mut WriteTx, room: RoomNid, event: EventNid, offset: u32) {
    tx.push(&INSERT_EVENT, vec![room.into(), event.into(), Cell::Position(offset)]);
}

/// The events of a room that were judged by a state that is not whole, as they arrived.
pub async fn list_events(db: &Database, room: RoomNid) -> Result<Vec<EventNid>, StorageError> {
    let sql = "SELECT event_nid FROM partial_events WHERE room_nid = $1
               ORDER BY position, event_nid";
    let rows: Vec<(i64,)> = db.fetch_all(sql, &params![room]).await?;
    Ok(rows.into_iter().map(|(nid,)| EventNid(nid)).collect())
}

/// Whether an event was judged by a state that is not whole.
pub async fn has_event(
    db: &Database,
    room: RoomNid,
    event: EventNid,
) -> Result<bool, StorageError> {
    let sql = "SELECT event_nid FROM partial_events WHERE room_nid = $1 AND event_nid = $2";
    Ok(db.fetch_optional::<(i64,)>(sql, &params![room, event]).await?.is_some())
}

static REBASE: Statement = Statement {
    table: "events_changed",
    key: 1,
    sql: "UPDATE events SET ordering = v.ordering, state_nid = v.state_nid, flags = v.flags,
              replaces_nid = v.replaces_nid
          FROM (SELECT CAST(value->>0 AS BIGINT) AS nid, CAST(value->>1 AS BIGINT) AS ordering,
                    CAST(value->>2 AS BIGINT) AS state_nid, CAST(value->>3 AS BIGINT) AS flags,
                    CAST(value->>4 AS BIGINT) AS replaces_nid
                FROM json_each($1)) AS v
          WHERE events.nid = v.nid",
};

/// An event as it stands upon the whole state.
#[derive(Clone, Copy, Debug)]
pub struct Rebased {
    pub nid: EventNid,
    pub ordering: i64,
    pub state_nid: StateNid,
    pub flags: i64,
    pub replaces_nid: Option<EventNid>,
}

/// Puts an event upon another state.
pub fn rebase(tx: &mut WriteTx, event: Rebased) {
    let cells = vec![
        event.nid.into(),
        event.ordering.into(),
        event.state_nid.into(),
        event.flags.into(),
        event.replaces_nid.map(|nid| nid.0).into(),
    ];
    tx.push(&REBASE, cells);
}

static SAVE_FORK: Statement = Statement {
    table: "room_forks_changed",
    key: 2,
    sql: "INSERT INTO room_forks (room_nid, ordering, state_nid)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (room_nid, ordering) DO UPDATE SET state_nid = excluded.state_nid",
};

/// Corrects the current state behind an event that did not simply follow the head.
pub fn save_fork(tx: &mut WriteTx, room: RoomNid, ordering: i64, state: StateNid) {
    tx.push(&SAVE_FORK, vec![room.into(), ordering.into(), state.into()]);
}
