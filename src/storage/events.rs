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
    /// The room's current state on one side of it is not the state before it, or after it.
    pub const FORKED: i64 = 32;
    /// Events directly before it are missing here.
    pub const GAP: i64 = 64;
    /// An outlier that cannot be judged before others arrive.
    pub const WAITING: i64 = 128;
    /// Bits of what no timeline shows.
    pub const HIDDEN: i64 = SOFT_FAILED | REJECTED | OUTLIER;
}

/// Where a new event lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Next in the stream; counted within the job.
    Live(u32),
    /// At a place in the room that no sync carries.
    Late(i64),
    /// Nowhere: outliers, rejected and soft-failed events.
    Nowhere,
}

impl Place {
    /// The cells of `ordering` and `position`.
    fn cells(self) -> [Cell; 2] {
        match self {
            Self::Live(offset) => [Cell::Ordering(offset), Cell::Position(offset)],
            Self::Late(ordering) => [ordering.into(), Cell::Null],
            Self::Nowhere => [0.into(), Cell::Null],
        }
    }
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

/// A new event, or one that gets its place.
pub struct NewEvent<'a> {
    pub nid: EventNid,
    pub room_nid: RoomNid,
    pub place: Place,
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
    table: "events_changed",
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
    let [ordering, position] = event.place.cells();
    let row = vec![
        event.nid.into(),
        event.room_nid.into(),
        ordering,
        position,
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

static PLACE: Statement = Statement {
    table: "events_changed",
    key: 1,
    sql: "UPDATE events SET ordering = v.ordering, position = v.position,
              state_nid = v.state_nid, flags = v.flags, replaces_nid = v.replaces_nid,
              notify_ordinal = v.notify_ordinal
          FROM (SELECT CAST(value->>0 AS BIGINT) AS nid, CAST(value->>1 AS BIGINT) AS ordering,
                    CAST(value->>2 AS BIGINT) AS position, CAST(value->>3 AS BIGINT) AS state_nid,
                    CAST(value->>4 AS BIGINT) AS flags, CAST(value->>5 AS BIGINT) AS replaces_nid,
                    CAST(value->>6 AS BIGINT) AS notify_ordinal
                FROM json_each($1)) AS v
          WHERE events.nid = v.nid",
};

/// Gives an event that is stored already its place in the graph.
pub fn place(tx: &mut WriteTx, event: &NewEvent<'_>) {
    let [ordering, position] = event.place.cells();
    let row = vec![
        event.nid.into(),
        ordering,
        position,
        event.state_nid.into(),
        event.flags.into(),
        event.replaces_nid.map(|nid| nid.0).into(),
        event.notify_ordinal.into(),
    ];
    tx.push(&PLACE, row);
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

/// The events with these keys, in whichever room, in no particular order; those not found are left out.
pub async fn list_nids(
    db: &Database,
    keys: &[Vec<u8>],
) -> Result<Vec<(Vec<u8>, EventNid)>, StorageError> {
    let sql = "SELECT event_key, event_nid FROM event_keys
               WHERE event_key IN (SELECT unhex(value->>0) FROM json_each($1))";
    let rows: Vec<(Vec<u8>, i64)> =
        db.fetch_all(sql, &params![super::json_hex_rows(keys.iter().map(Vec::as_slice))]).await?;
    Ok(rows.into_iter().map(|(key, nid)| (key, EventNid(nid))).collect())
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

/// Accepted events about members of a room behind a place in it and not before a time (milliseconds since the
/// Unix epoch): their places and numbers.
pub async fn list_members_since(
    db: &Database,
    room: RoomNid,
    (after, from_ts): (i64, i64),
    limit: usize,
) -> Result<Vec<(i64, EventNid)>, StorageError> {
    // Numbers of memberships are odd (`StateKeyNid::is_membership`).
    let sql = "SELECT ordering, nid FROM events
               WHERE room_nid = $1 AND ordering > $2 AND origin_server_ts >= $3
                   AND flags & 7 = 0 AND state_key_nid & 1 = 1
               ORDER BY ordering LIMIT $4";
    let rows: Vec<(i64, i64)> = db.fetch_all(sql, &params![room, after, from_ts, limit]).await?;
    Ok(rows.into_iter().map(|(ordering, nid)| (ordering, EventNid(nid))).collect())
}

/// Events of a room that a timeline may show and that may name media, behind a place in it: their places
/// and JSON.
pub async fn list_naming_media(
    db: &Database,
    room: RoomNid,
    after: i64,
    limit: usize,
) -> Result<Vec<(i64, String)>, StorageError> {
    let sql = "SELECT ordering, json FROM events
               WHERE room_nid = $1 AND ordering > $2 AND flags & 7 = 0 AND json LIKE '%mxc://%'
               ORDER BY ordering LIMIT $3";
    db.fetch_all(sql, &params![room, after, limit]).await
}

/// Changes of a room's current state with `after < ordering < before`, oldest first; 0 stands for no
/// event.
pub async fn list_state_changes(
    db: &Database,
    room: RoomNid,
    (after, before): (i64, i64),
) -> Result<Vec<(StateKeyNid, EventNid)>, StorageError> {
    let sql = "SELECT state_key_nid, nid, ordering FROM events
               WHERE room_nid = $1 AND ordering > $2 AND ordering < $3 AND flags & 39 = 0
                   AND state_key_nid IS NOT NULL
               UNION ALL
               SELECT state_key_nid, event_nid, ordering FROM state_changes
               WHERE room_nid = $1 AND ordering > $2 AND ordering < $3
               ORDER BY ordering";
    let rows: Vec<(i64, i64, i64)> = db.fetch_all(sql, &params![room, after, before]).await?;
    Ok(rows.into_iter().map(|(key, nid, _)| (StateKeyNid(key), EventNid(nid))).collect())
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

/// Accepted events of a room behind a time and place in the room (both exclusive) in a direction, by time.
pub async fn list_by_time(
    db: &Database,
    room: RoomNid,
    (timestamp_ms, ordering): (i64, i64),
    forwards: bool,
    limit: usize,
) -> Result<Vec<EventNid>, StorageError> {
    let sql = match forwards {
        true => {
            "SELECT nid FROM events
             WHERE room_nid = $1 AND (origin_server_ts, ordering) > ($2, $3) AND flags & 7 = 0
             ORDER BY origin_server_ts, ordering LIMIT $4"
        }
        false => {
            "SELECT nid FROM events
             WHERE room_nid = $1 AND (origin_server_ts, ordering) < ($2, $3) AND flags & 7 = 0
             ORDER BY origin_server_ts DESC, ordering DESC LIMIT $4"
        }
    };
    let params = params![room, timestamp_ms, ordering, limit];
    let rows: Vec<(i64,)> = db.fetch_all(sql, &params).await?;
    Ok(rows.into_iter().map(|(nid,)| EventNid(nid)).collect())
}

/// The room of an event.
pub async fn find_room(db: &Database, nid: EventNid) -> Result<Option<RoomNid>, StorageError> {
    let sql = "SELECT room_nid FROM events WHERE nid = $1";
    Ok(db.fetch_optional::<(i64,)>(sql, &params![nid]).await?.map(|(nid,)| RoomNid(nid)))
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
