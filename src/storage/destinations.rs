//! Rows of `destinations`, `destination_rooms`, `outgoing_transactions` and `outbox_cursor`: what
//! other servers have not got yet.

use super::{Database, EventNid, RoomNid, Statement, StorageError, WriteTx, events::EventRow};
use crate::params;

/// A row of `destinations`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRow {
    pub server_name: String,
    pub failing_since_ts: Option<i64>,
    pub retry_ts: i64,
    /// One after another.
    pub failures: i64,
    /// Empty when there is none.
    pub last_error: String,
}

/// A row of `destination_rooms`, less the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissedRoomRow {
    pub room: RoomNid,
    pub event: EventNid,
    pub position: i64,
}

/// A row of `outgoing_transactions`, less the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionRow {
    pub transaction_id: String,
    pub edu_position: i64,
    pub content: String,
}

/// How far the stream has been looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxCursor {
    pub position: i64,
    pub event: EventNid,
}

impl OutboxCursor {
    /// Before everything.
    pub const START: Self = Self { position: 0, event: EventNid(0) };
}

static SAVE: Statement = Statement {
    table: "destinations",
    key: 1,
    sql: "INSERT INTO destinations (server_name, failing_since_ts, retry_ts, failures, last_error)
          SELECT value->>0, CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT),
              CAST(value->>3 AS BIGINT), value->>4
          FROM json_each($1) WHERE true
          ON CONFLICT (server_name) DO UPDATE SET failing_since_ts = excluded.failing_since_ts,
              retry_ts = excluded.retry_ts, failures = excluded.failures,
              last_error = excluded.last_error",
};

static DELETE: Statement = Statement {
    table: "destinations",
    key: 1,
    sql: "DELETE FROM destinations WHERE server_name IN (SELECT value->>0 FROM json_each($1))",
};

static SAVE_ROOM: Statement = Statement {
    table: "destination_rooms",
    key: 2,
    sql: "INSERT INTO destination_rooms (server_name, room_nid, event_nid, position)
          SELECT value->>0, CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT),
              CAST(value->>3 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (server_name, room_nid) DO UPDATE SET event_nid = excluded.event_nid,
              position = excluded.position",
};

static DELETE_ROOMS: Statement = Statement {
    table: "destination_rooms",
    key: 1,
    sql: "DELETE FROM destination_rooms
          WHERE server_name IN (SELECT value->>0 FROM json_each($1))",
};

static SAVE_TRANSACTION: Statement = Statement {
    table: "outgoing_transactions",
    key: 1,
    sql: "INSERT INTO outgoing_transactions (server_name, transaction_id, edu_position, content)
          SELECT value->>0, value->>1, CAST(value->>2 AS BIGINT), value->>3
          FROM json_each($1) WHERE true
          ON CONFLICT (server_name) DO UPDATE SET transaction_id = excluded.transaction_id,
              edu_position = excluded.edu_position, content = excluded.content",
};

static DELETE_TRANSACTION: Statement = Statement {
    table: "outgoing_transactions",
    key: 1,
    sql: "DELETE FROM outgoing_transactions
          WHERE transaction_id IN (SELECT value->>1 FROM json_each($1))",
};

static SAVE_CURSOR: Statement = Statement {
    table: "outbox_cursor",
    key: 1,
    sql: "INSERT INTO outbox_cursor (id, position, event_nid)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (id) DO UPDATE SET position = excluded.position,
              event_nid = excluded.event_nid",
};

/// Writes how a server is doing.
pub fn save(tx: &mut WriteTx, row: &DestinationRow) {
    let cells = vec![
        row.server_name.as_str().into(),
        row.failing_since_ts.into(),
        row.retry_ts.into(),
        row.failures.into(),
        row.last_error.as_str().into(),
    ];
    tx.push(&SAVE, cells);
}

/// Forgets a server that has everything. Its rooms go in a job of their own ([`delete_rooms`]).
pub fn delete(tx: &mut WriteTx, server_name: &str) {
    tx.push(&DELETE, vec![server_name.into()]);
}

/// Writes the latest event that a server missed in a room.
pub fn save_room(tx: &mut WriteTx, server_name: &str, row: MissedRoomRow) {
    let cells = vec![server_name.into(), row.room.into(), row.event.into(), row.position.into()];
    tx.push(&SAVE_ROOM, cells);
}

/// Forgets what a server missed.
pub fn delete_rooms(tx: &mut WriteTx, server_name: &str) {
    tx.push(&DELETE_ROOMS, vec![server_name.into()]);
}

/// Keeps a transaction until it has been answered.
pub fn save_transaction(tx: &mut WriteTx, server_name: &str, row: &TransactionRow) {
    let cells = vec![
        server_name.into(),
        row.transaction_id.as_str().into(),
        row.edu_position.into(),
        row.content.as_str().into(),
    ];
    tx.push(&SAVE_TRANSACTION, cells);
}

/// Forgets a transaction that has been answered, unless another one has taken its place.
pub fn delete_transaction(tx: &mut WriteTx, server_name: &str, transaction_id: &str) {
    tx.push(&DELETE_TRANSACTION, vec![server_name.into(), transaction_id.into()]);
}

pub fn save_cursor(tx: &mut WriteTx, cursor: OutboxCursor) {
    tx.push(&SAVE_CURSOR, vec![1.into(), cursor.position.into(), cursor.event.into()]);
}

/// All servers that something waits for.
pub async fn list(db: &Database) -> Result<Vec<DestinationRow>, StorageError> {
    let sql = "SELECT server_name, failing_since_ts, retry_ts, failures, last_error
               FROM destinations ORDER BY server_name";
    let rows: Vec<(String, Option<i64>, i64, i64, String)> = db.fetch_all(sql, &[]).await?;
    let row = |(server_name, failing_since_ts, retry_ts, failures, last_error)| DestinationRow {
        server_name,
        failing_since_ts,
        retry_ts,
        failures,
        last_error,
    };
    Ok(rows.into_iter().map(row).collect())
}

/// What a server missed.
pub async fn list_rooms(
    db: &Database,
    server_name: &str,
) -> Result<Vec<MissedRoomRow>, StorageError> {
    let sql = "SELECT room_nid, event_nid, position FROM destination_rooms
               WHERE server_name = $1 ORDER BY position";
    let rows: Vec<(i64, i64, i64)> = db.fetch_all(sql, &params![server_name]).await?;
    let row = |(room, event, position)| MissedRoomRow {
        room: RoomNid(room),
        event: EventNid(event),
        position,
    };
    Ok(rows.into_iter().map(row).collect())
}

/// The transactions that have not been answered, by server.
pub async fn list_transactions(
    db: &Database,
) -> Result<Vec<(String, TransactionRow)>, StorageError> {
    let sql = "SELECT server_name, transaction_id, edu_position, content
               FROM outgoing_transactions";
    let rows: Vec<(String, String, i64, String)> = db.fetch_all(sql, &[]).await?;
    let row = |(server_name, transaction_id, edu_position, content)| {
        (server_name, TransactionRow { transaction_id, edu_position, content })
    };
    Ok(rows.into_iter().map(row).collect())
}

static SAVE_DEVICES: Statement = Statement {
    table: "destination_devices",
    key: 1,
    sql: "INSERT INTO destination_devices (server_name, position)
          SELECT value->>0, CAST(value->>1 AS BIGINT) FROM json_each($1) WHERE true
          ON CONFLICT (server_name) DO UPDATE SET position = excluded.position",
};

static DELETE_DEVICES: Statement = Statement {
    table: "destination_devices_told",
    key: 1,
    sql: "DELETE FROM destination_devices
          WHERE server_name IN (SELECT value->>0 FROM json_each($1))",
};

/// Notes that a server has heard of changed devices up to a position only.
pub fn save_devices(tx: &mut WriteTx, server_name: &str, position: i64) {
    tx.push(&SAVE_DEVICES, vec![server_name.into(), position.into()]);
}

/// Notes that a server has heard of all changed devices.
pub fn delete_devices(tx: &mut WriteTx, server_name: &str) {
    tx.push(&DELETE_DEVICES, vec![server_name.into()]);
}

/// The servers that have not heard of all changed devices, and up to where they have.
pub async fn list_devices(db: &Database) -> Result<Vec<(String, i64)>, StorageError> {
    db.fetch_all("SELECT server_name, position FROM destination_devices", &[]).await
}

/// How many rooms have events that a server misses.
pub async fn count_rooms(db: &Database, server_name: &str) -> Result<i64, StorageError> {
    let sql = "SELECT count(*) FROM destination_rooms WHERE server_name = $1";
    Ok(db.fetch_one::<(i64,)>(sql, &params![server_name]).await?.0)
}

/// The cursor of what is no event: changes of devices.
pub fn save_device_cursor(tx: &mut WriteTx, cursor: OutboxCursor) {
    tx.push(&SAVE_CURSOR, vec![2.into(), cursor.position.into(), cursor.event.into()]);
}

/// `None` before anything was ever looked through.
pub async fn find_cursor(db: &Database) -> Result<Option<OutboxCursor>, StorageError> {
    find_cursor_of(db, 1).await
}

/// As [`find_cursor`], for what is no event.
pub async fn find_device_cursor(db: &Database) -> Result<Option<OutboxCursor>, StorageError> {
    find_cursor_of(db, 2).await
}

async fn find_cursor_of(db: &Database, id: i64) -> Result<Option<OutboxCursor>, StorageError> {
    let sql = "SELECT position, event_nid FROM outbox_cursor WHERE id = $1";
    let row: Option<(i64, i64)> = db.fetch_optional(sql, &params![id]).await?;
    Ok(row.map(|(position, event)| OutboxCursor { position, event: EventNid(event) }))
}

/// Events behind the cursor that a sync carries, in the order of the stream.
pub async fn list_behind(
    db: &Database,
    cursor: OutboxCursor,
    limit: usize,
) -> Result<Vec<EventRow>, StorageError> {
    super::events::list_behind(db, (cursor.event, cursor.position), limit).await
}
