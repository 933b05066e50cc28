//! Rows of `events`, `event_keys` and `transactions`.

use super::{
    Cell, Database, EventNid, Param, RoomNid, StateKeyNid, StateNid, Statement, StorageError,
    WriteTx,
};
use crate::params;

/// What is known of an event beside its bytes; bits of `events.flags`.
pub mod flags {
    pub const SOFT_FAILED: i64 = 1;
    pub const REJECTED: i64 = 2;
    pub const OUTLIER: i64 = 4;
    pub const REDACTED: i64 = 8;
    pub const NOTIFIES: i64 = 16;
}

/// A row of `events`.
#[derive(Clone, Debug)]
pub struct EventRow {
    pub nid: EventNid,
    pub room_nid: RoomNid,
    pub ordering: i64,
    pub position: Option<i64>,
    /// The state before the event.
    pub state_nid: StateNid,
    pub state_key_nid: Option<StateKeyNid>,
    /// The state event that it replaced.
    pub replaces_nid: Option<EventNid>,
    pub flags: i64,
    pub notify_ordinal: i64,
    pub event_key: Vec<u8>,
    /// `device NUL transaction` of the client that sent it.
    pub sent_by: Option<Vec<u8>>,
    pub json: String,
}

/// A new event: its position and ordering are assigned at commit.
pub struct NewEvent<'a> {
    pub nid: EventNid,
    pub room_nid: RoomNid,
    /// Counted within the job.
    pub position: u32,
    pub state_nid: StateNid,
    pub state_key_nid: Option<StateKeyNid>,
    /// The state event that it replaced.
    pub replaces_nid: Option<EventNid>,
    pub flags: i64,
    pub notify_ordinal: i64,
    pub origin_server_ts: i64,
    pub event_key: &'a [u8],
    pub sent_by: Option<&'a [u8]>,
    pub json: &'a str,
}

static INSERT: Statement = Statement {
    table: "events",
    key: 0,
    sql: "INSERT INTO events (nid, room_nid, ordering, position, state_nid, state_key_nid, flags,
              replaces_nid, notify_ordinal, origin_server_ts, event_key, sent_by, json)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT),
              CAST(value->>3 AS BIGINT), CAST(value->>4 AS BIGINT), CAST(value->>5 AS BIGINT),
              CAST(value->>6 AS BIGINT), CAST(value->>7 AS BIGINT), CAST(value->>8 AS BIGINT),
              CAST(value->>9 AS BIGINT), unhex(value->>10), unhex(value->>11), value->>12
          FROM json_each($1)",
};

static INSERT_KEY: Statement = Statement {
    table: "event_keys",
    key: 0,
    sql: "INSERT INTO event_keys (event_key, event_nid)
          SELECT unhex(value->>0), CAST(value->>1 AS BIGINT) FROM json_each($1)",
};

static INSERT_TRANSACTION: Statement = Statement {
    table: "transactions",
    key: 0,
    sql: "INSERT INTO transactions (hash, event_nid)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT) FROM json_each($1)",
};

static REDACT: Statement = Statement {
    table: "events_redacted",
    key: 1,
    sql: "UPDATE events SET json = v.json, flags = flags | 8
          FROM (SELECT CAST(value->>0 AS BIGINT) AS nid, value->>1 AS json FROM json_each($1)) AS v
          WHERE events.nid = v.nid",
};

type Columns = (
    i64,
    i64,
    i64,
    Option<i64>,
    i64,
    Option<i64>,
    i64,
    Option<i64>,
    i64,
    Vec<u8>,
    Option<Vec<u8>>,
    String,
);

impl EventRow {
    fn from_columns(columns: Columns) -> Self {
        Self {
            nid: EventNid(columns.0),
            room_nid: RoomNid(columns.1),
            ordering: columns.2,
            position: columns.3,
            state_nid: StateNid(columns.4),
            state_key_nid: columns.5.map(StateKeyNid),
            flags: columns.6,
            replaces_nid: columns.7.map(EventNid),
            notify_ordinal: columns.8,
            event_key: columns.9,
            sent_by: columns.10,
            json: columns.11,
        }
    }
}

pub fn insert(tx: &mut WriteTx, event: &NewEvent<'_>) {
    let row = vec![
        event.nid.into(),
        event.room_nid.into(),
        Cell::Ordering(event.position),
        Cell::Position(event.position),
        event.state_nid.into(),
        event.state_key_nid.map(|nid| nid.0).into(),
        event.flags.into(),
        event.replaces_nid.map(|nid| nid.0).into(),
        event.notify_ordinal.into(),
        event.origin_server_ts.into(),
        event.event_key.into(),
        event.sent_by.into(),
        event.json.into(),
    ];
    tx.push(&INSERT, row);
    tx.push(&INSERT_KEY, vec![event.event_key.into(), event.nid.into()]);
}

/// Notes that the transaction with this hash made the event.
pub fn insert_transaction(tx: &mut WriteTx, hash: i64, event: EventNid) {
    tx.push(&INSERT_TRANSACTION, vec![hash.into(), event.into()]);
}

/// Replaces an event's bytes by its redacted form.
pub fn redact(tx: &mut WriteTx, nid: EventNid, redacted_json: &str) {
    tx.push(&REDACT, vec![nid.into(), redacted_json.into()]);
}

macro_rules! select_events {
    ($rest:literal) => {
        concat!(
            "SELECT nid, room_nid, ordering, position, state_nid, state_key_nid, flags, ",
            "replaces_nid, notify_ordinal, event_key, sent_by, json FROM events ",
            $rest
        )
    };
}

/// The events with these numbers, in no particular order; those not found are left out.
pub async fn list(db: &Database, nids: &[EventNid]) -> Result<Vec<EventRow>, StorageError> {
    let sql = select_events!("WHERE nid IN (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))");
    fetch(db, sql, &params![super::json_rows(nids.iter().map(|nid| nid.0))]).await
}

/// The event with this key, in whichever room.
pub async fn find_nid(db: &Database, key: &[u8]) -> Result<Option<EventNid>, StorageError> {
    let sql = "SELECT event_nid FROM event_keys WHERE event_key = $1";
    Ok(db.fetch_optional::<(i64,)>(sql, &params![key]).await?.map(|(nid,)| EventNid(nid)))
}

/// Events of a room that a sync or a page of history may hold, newest first, with
/// `after < ordering < before`.
pub async fn list_backwards(
    db: &Database,
    room: RoomNid,
    (after, before): (i64, i64),
    limit: usize,
) -> Result<Vec<EventRow>, StorageError> {
    let sql = select_events!(
        "WHERE room_nid = $1 AND ordering > $2 AND ordering < $3 AND flags & 7 = 0
         ORDER BY ordering DESC LIMIT $4"
    );
    fetch(db, sql, &params![room, after, before, limit]).await
}

/// As [`list_backwards`], oldest first.
pub async fn list_forwards(
    db: &Database,
    room: RoomNid,
    (after, before): (i64, i64),
    limit: usize,
) -> Result<Vec<EventRow>, StorageError> {
    let sql = select_events!(
        "WHERE room_nid = $1 AND ordering > $2 AND ordering < $3 AND flags & 7 = 0
         ORDER BY ordering LIMIT $4"
    );
    fetch(db, sql, &params![room, after, before, limit]).await
}

/// State events of a room with `after < ordering < before`, oldest first: what changed.
pub async fn list_state_changes(
    db: &Database,
    room: RoomNid,
    (after, before): (i64, i64),
) -> Result<Vec<(StateKeyNid, EventNid)>, StorageError> {
    let sql = "SELECT state_key_nid, nid FROM events
               WHERE room_nid = $1 AND ordering > $2 AND ordering < $3 AND flags & 7 = 0
                   AND state_key_nid IS NOT NULL
               ORDER BY ordering";
    let rows: Vec<(i64, i64)> = db.fetch_all(sql, &params![room, after, before]).await?;
    Ok(rows.into_iter().map(|(key, nid)| (StateKeyNid(key), EventNid(nid))).collect())
}

/// Events with numbers above the first and positions above the second, in the order of the stream.
pub async fn list_behind(
    db: &Database,
    (nid, position): (EventNid, i64),
    limit: usize,
) -> Result<Vec<EventRow>, StorageError> {
    let sql = select_events!(
        "WHERE nid > $1 AND position > $2 AND flags & 7 = 0 ORDER BY position LIMIT $3"
    );
    fetch(db, sql, &params![nid, position, limit]).await
}

/// The transactions whose hashes lie in a range: those of one device.
pub async fn list_transactions(
    db: &Database,
    (first, last): (i64, i64),
    limit: usize,
) -> Result<Vec<(i64, EventNid)>, StorageError> {
    let sql = "SELECT hash, event_nid FROM transactions WHERE hash BETWEEN $1 AND $2
               ORDER BY event_nid DESC LIMIT $3";
    let rows: Vec<(i64, i64)> = db.fetch_all(sql, &params![first, last, limit]).await?;
    Ok(rows.into_iter().map(|(hash, nid)| (hash, EventNid(nid))).collect())
}

/// The event of a room closest to a time, forwards (at or after) or backwards (at or before).
pub async fn find_by_time(
    db: &Database,
    room: RoomNid,
    timestamp_ms: i64,
    forwards: bool,
) -> Result<Option<EventNid>, StorageError> {
    let sql = match forwards {
        true => {
            "SELECT nid FROM events WHERE room_nid = $1 AND origin_server_ts >= $2
             AND flags & 7 = 0 ORDER BY origin_server_ts, ordering LIMIT 1"
        }
        false => {
            "SELECT nid FROM events WHERE room_nid = $1 AND origin_server_ts <= $2
             AND flags & 7 = 0 ORDER BY origin_server_ts DESC, ordering DESC LIMIT 1"
        }
    };
    let row = db.fetch_optional::<(i64,)>(sql, &params![room, timestamp_ms]).await?;
    Ok(row.map(|(nid,)| EventNid(nid)))
}

/// The highest number in use.
pub async fn load_newest(db: &Database) -> Result<EventNid, StorageError> {
    let (nid,): (Option<i64>,) = db.fetch_one("SELECT max(nid) FROM events", &[]).await?;
    Ok(EventNid(nid.unwrap_or(0)))
}

async fn fetch(
    db: &Database,
    sql: &'static str,
    params: &[Param],
) -> Result<Vec<EventRow>, StorageError> {
    let rows = db.fetch_all::<Columns>(sql, params).await?;
    Ok(rows.into_iter().map(EventRow::from_columns).collect())
}
