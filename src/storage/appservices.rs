//! Rows of `appservices`, `appservice_streams`, `appservice_transactions` and `network_rooms`: which
//! services the database registers, how far each has got, and what it is being sent.

use super::{
    Database, EventNid, RoomNid, Statement, StorageError, WriteTransaction, WriteTx,
    directory::DirectoryRow,
};
use crate::params;

/// A row of `appservices`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRegistration {
    pub id: String,
    /// YAML, as it was given.
    pub registration: String,
}

/// A row of `appservice_streams`: how far a service has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRow {
    /// Everything up to this place in the stream was sent, or is of no interest.
    pub position: i64,
    /// Everything up to this place that concerns devices was put into a transaction.
    pub devices: i64,
    /// The number of the latest transaction.
    pub transaction: i64,
    /// Since when nothing gets through, milliseconds since the Unix epoch.
    pub failing_since_ts: Option<i64>,
}

/// A row of `appservice_transactions`: what was or will be sent until it is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionRow {
    pub number: i64,
    /// The place in the stream that is reached with it.
    pub position: i64,
    /// The body, exactly.
    pub content: String,
}

/// An event of the stream, without its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamEvent {
    pub position: i64,
    pub event: EventNid,
    pub room: RoomNid,
}

static SAVE_STREAM: Statement = Statement {
    table: "appservice_streams",
    key: 1,
    sql: "INSERT INTO appservice_streams
              (id, position, transaction_number, failing_since_ts, devices_position)
          SELECT value->>0, CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT),
              CAST(value->>3 AS BIGINT), CAST(value->>4 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (id) DO UPDATE SET position = excluded.position,
              transaction_number = excluded.transaction_number,
              failing_since_ts = excluded.failing_since_ts,
              devices_position = excluded.devices_position",
};

static SAVE_TRANSACTION: Statement = Statement {
    table: "appservice_transactions",
    key: 1,
    sql: "INSERT INTO appservice_transactions (id, number, position, content)
          SELECT value->>0, CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT), value->>3
          FROM json_each($1) WHERE true
          ON CONFLICT (id) DO UPDATE SET number = excluded.number, position = excluded.position,
              content = excluded.content",
};

static DELETE_TRANSACTION: Statement = Statement {
    table: "appservice_transactions",
    key: 1,
    sql: "DELETE FROM appservice_transactions
          WHERE id IN (SELECT value->>0 FROM json_each($1))",
};

static PUBLISH: Statement = Statement {
    table: "network_rooms",
    key: 3,
    sql: "INSERT INTO network_rooms (appservice_id, network_id, room_nid)
          SELECT value->>0, value->>1, CAST(value->>2 AS BIGINT)
          FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
};

static WITHDRAW: Statement = Statement {
    table: "network_rooms",
    key: 3,
    sql: "DELETE FROM network_rooms WHERE (appservice_id, network_id, room_nid) IN
              (SELECT value->>0, value->>1, CAST(value->>2 AS BIGINT) FROM json_each($1))",
};

/// Writes how far a service has got.
pub fn save_stream(tx: &mut WriteTx, id: &str, row: StreamRow) {
    let StreamRow { position, devices, transaction, failing_since_ts } = row;
    let numbers = [position.into(), transaction.into(), failing_since_ts.into(), devices.into()];
    let cells = std::iter::once(id.into()).chain(numbers).collect();
    tx.push(&SAVE_STREAM, cells);
}

/// Keeps a transaction, in the place of the one before it.
pub fn save_transaction(tx: &mut WriteTx, id: &str, row: &TransactionRow) {
    let cells =
        vec![id.into(), row.number.into(), row.position.into(), row.content.as_str().into()];
    tx.push(&SAVE_TRANSACTION, cells);
}

/// Forgets a transaction that was acknowledged.
pub fn delete_transaction(tx: &mut WriteTx, id: &str) {
    tx.push(&DELETE_TRANSACTION, vec![id.into()]);
}

/// Lists a room in the directory of a network, or takes it out.
pub fn publish(tx: &mut WriteTx, (id, network): (&str, &str), room: RoomNid, is_listed: bool) {
    let cells = vec![id.into(), network.into(), room.into()];
    tx.push(if is_listed { &PUBLISH } else { &WITHDRAW }, cells);
}

/// All registrations of the database, in the order in which they came.
pub async fn list(db: &Database) -> Result<Vec<StoredRegistration>, StorageError> {
    let sql = "SELECT id, registration FROM appservices ORDER BY added_ts, id";
    let rows: Vec<(String, String)> = db.fetch_all(sql, &[]).await?;
    Ok(rows.into_iter().map(|(id, registration)| StoredRegistration { id, registration }).collect())
}

/// Adds a registration; false when there is one with this ID.
pub async fn insert(
    tx: &mut WriteTransaction<'_>,
    row: &StoredRegistration,
    now_ts: u64,
) -> Result<bool, StorageError> {
    let sql = "INSERT INTO appservices (id, registration, added_ts) VALUES ($1, $2, $3)
               ON CONFLICT (id) DO NOTHING";
    let is_new = tx.execute(sql, &params![&row.id, &row.registration, now_ts]).await? > 0;
    if is_new {
        // What was said before is not for it, even if nobody was told of it yet. A row can be left
        // of a service of this name that was removed while it was being served.
        let sql = "INSERT INTO appservice_streams
                       (id, position, transaction_number, devices_position)
                   VALUES ($1, $2, $3, $2)
                   ON CONFLICT (id) DO UPDATE SET position = excluded.position,
                       devices_position = excluded.devices_position,
                       transaction_number = excluded.transaction_number,
                       failing_since_ts = NULL";
        let position = tx.position;
        tx.execute(sql, &params![&row.id, position, now_ts]).await?;
    }
    Ok(is_new)
}

/// Removes a registration and everything that is kept for the service; false when there is none.
pub async fn delete(tx: &mut WriteTransaction<'_>, id: &str) -> Result<bool, StorageError> {
    let gone = tx.execute("DELETE FROM appservices WHERE id = $1", &params![id]).await?;
    for sql in [
        "DELETE FROM appservice_streams WHERE id = $1",
        "DELETE FROM appservice_transactions WHERE id = $1",
        "DELETE FROM network_rooms WHERE appservice_id = $1",
    ] {
        tx.execute(sql, &params![id]).await?;
    }
    Ok(gone > 0)
}

pub async fn find_stream(db: &Database, id: &str) -> Result<Option<StreamRow>, StorageError> {
    let sql = "SELECT position, devices_position, transaction_number, failing_since_ts
               FROM appservice_streams WHERE id = $1";
    let row: Option<(i64, i64, i64, Option<i64>)> = db.fetch_optional(sql, &params![id]).await?;
    Ok(row.map(|(position, devices, transaction, failing_since_ts)| StreamRow {
        position,
        devices,
        transaction,
        failing_since_ts,
    }))
}

/// The transaction that waits for its acknowledgement.
pub async fn find_transaction(
    db: &Database,
    id: &str,
) -> Result<Option<TransactionRow>, StorageError> {
    let sql = "SELECT number, position, content FROM appservice_transactions WHERE id = $1";
    let row: Option<(i64, i64, String)> = db.fetch_optional(sql, &params![id]).await?;
    Ok(row.map(|(number, position, content)| TransactionRow { number, position, content }))
}

/// Accepted events of the stream with `after < position <= upto`, in its order.
pub async fn list_events(
    db: &Database,
    (after, upto): (i64, i64),
    limit: usize,
) -> Result<Vec<StreamEvent>, StorageError> {
    let sql = "SELECT position, nid, room_nid FROM events
               WHERE position > $1 AND position <= $2 AND flags & 7 = 0
               ORDER BY position LIMIT $3";
    let rows: Vec<(i64, i64, i64)> = db.fetch_all(sql, &params![after, upto, limit]).await?;
    let event = |(position, event, room)| StreamEvent {
        position,
        event: EventNid(event),
        room: RoomNid(room),
    };
    Ok(rows.into_iter().map(event).collect())
}

/// Rooms with public or private receipts behind a place in the stream.
pub async fn list_rooms_with_receipts(
    db: &Database,
    (after, upto): (i64, i64),
) -> Result<Vec<RoomNid>, StorageError> {
    let sql = "SELECT DISTINCT room_nid FROM receipts WHERE position > $1 AND position <= $2";
    let rows: Vec<(i64,)> = db.fetch_all(sql, &params![after, upto]).await?;
    Ok(rows.into_iter().map(|(room,)| RoomNid(room)).collect())
}

/// The user IDs of these members.
pub async fn list_user_ids(
    db: &Database,
    users: &[super::UserNid],
) -> Result<Vec<(super::UserNid, String)>, StorageError> {
    let sql = "SELECT nid, state_key FROM state_keys
               WHERE nid IN (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))";
    let params = params![super::json_rows(users.iter().map(|user| user.0))];
    let rows: Vec<(i64, Vec<u8>)> = db.fetch_all(sql, &params).await?;
    let read = |(nid, id)| Some((super::StateKeyNid(nid), String::from_utf8(id).ok()?));
    Ok(rows.into_iter().filter_map(read).collect())
}

/// The rooms of a network's directory, the largest first.
pub async fn list_network(
    db: &Database,
    (id, network): (&str, &str),
    (skip, limit): (usize, usize),
) -> Result<Vec<DirectoryRow>, StorageError> {
    let sql = super::directory::select_listed!(
        "JOIN network_rooms n ON n.room_nid = r.nid
         WHERE n.appservice_id = $1 AND n.network_id = $2 AND r.joined_count > 0
         ORDER BY r.joined_count DESC, r.nid LIMIT $3 OFFSET $4"
    );
    super::directory::fetch_rows(db, sql, &params![id, network, limit, skip]).await
}
