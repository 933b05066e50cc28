//! Rows of what a room's graph needs beside its events: edges, gaps, waiting events, verdicts, forks
//! (`auth_edges`, `missing_events`, `awaited_events`, `awaited_redactions`, `verdicts`, `room_forks`,
//! `state_changes`, `stripped_states`).

use std::collections::{HashMap, HashSet};

use super::{
    Cell, Database, EventNid, RoomNid, StateKeyNid, StateNid, Statement, StorageError, WriteTx,
    events::Place,
};
use crate::params;

static INSERT_AUTH_EDGE: Statement = Statement {
    table: "auth_edges",
    key: 2,
    sql: "INSERT INTO auth_edges (parent_nid, child_nid, child_key_nid)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT)
          FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
};

/// Notes that the state event `child` names `parent` for its authorisation.
pub fn insert_auth_edge(
    tx: &mut WriteTx,
    parent: EventNid,
    (child, child_key): (EventNid, StateKeyNid),
) {
    tx.push(&INSERT_AUTH_EDGE, vec![parent.into(), child.into(), child_key.into()]);
}

/// A state event that names another for its authorisation.
#[derive(Clone, Copy, Debug)]
pub struct AuthEdge {
    pub parent: EventNid,
    pub child: EventNid,
    pub child_key: StateKeyNid,
}

fn to_edges(rows: Vec<(i64, i64, i64)>) -> Vec<AuthEdge> {
    let edge = |(parent, child, key)| AuthEdge {
        parent: EventNid(parent),
        child: EventNid(child),
        child_key: StateKeyNid(key),
    };
    rows.into_iter().map(edge).collect()
}

/// The state events that name `parent`, the latest first, from those below `before` on.
pub async fn list_auth_children(
    db: &Database,
    parent: EventNid,
    before: EventNid,
    limit: usize,
) -> Result<Vec<AuthEdge>, StorageError> {
    let sql = "SELECT parent_nid, child_nid, child_key_nid FROM auth_edges
               WHERE parent_nid = $1 AND child_nid < $2 ORDER BY child_nid DESC LIMIT $3";
    db.fetch_all(sql, &params![parent, before, limit]).await.map(to_edges)
}

/// Of each of `parents` the latest state events that name it, at most `most`.
pub async fn list_latest_auth_children(
    db: &Database,
    parents: &[EventNid],
    most: usize,
) -> Result<Vec<AuthEdge>, StorageError> {
    // The inner limit is for PostgreSQL, which would otherwise look for the lowest child once for every child.
    let sql = "SELECT e.parent_nid, e.child_nid, e.child_key_nid
               FROM (SELECT w.nid, coalesce((
                         SELECT i.child_nid FROM auth_edges i WHERE i.parent_nid = w.nid
                         ORDER BY i.child_nid DESC LIMIT 1 OFFSET $2), 0) AS lowest
                     FROM (SELECT CAST(value->>0 AS BIGINT) AS nid FROM json_each($1)) w
                     LIMIT $3) AS wanted
               JOIN auth_edges e ON e.parent_nid = wanted.nid AND e.child_nid >= wanted.lowest";
    let rows = super::json_rows(parents.iter().map(|nid| nid.0));
    let params = params![rows, most.saturating_sub(1), parents.len()];
    db.fetch_all(sql, &params).await.map(to_edges)
}

static INSERT_MISSING: Statement = Statement {
    table: "missing_events",
    key: 3,
    sql: "INSERT INTO missing_events (room_nid, event_key, child_nid, ordering)
          SELECT CAST(value->>0 AS BIGINT), unhex(value->>1), CAST(value->>2 AS BIGINT),
              CAST(value->>3 AS BIGINT)
          FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
};

static DELETE_MISSING: Statement = Statement {
    table: "missing_events_found",
    key: 2,
    sql: "DELETE FROM missing_events WHERE (room_nid, event_key) IN
              (SELECT CAST(value->>0 AS BIGINT), unhex(value->>1) FROM json_each($1))",
};

/// Notes that `child` names an event that is not in the graph.
pub fn insert_missing(
    tx: &mut WriteTx,
    room: RoomNid,
    key: &[u8],
    (child, place): (EventNid, Place),
) {
    let ordering = match place {
        Place::Live(offset) => Cell::Ordering(offset),
        Place::Late(ordering) => ordering.into(),
        Place::Nowhere => 0.into(),
    };
    tx.push(&INSERT_MISSING, vec![room.into(), key.into(), child.into(), ordering]);
}

/// Notes that an event is in the graph now.
pub fn delete_missing(tx: &mut WriteTx, room: RoomNid, key: &[u8]) {
    tx.push(&DELETE_MISSING, vec![room.into(), key.into()]);
}

/// The events that name a missing event, with their places in the room, the lowest first.
pub async fn list_children_of_missing(
    db: &Database,
    room: RoomNid,
    key: &[u8],
) -> Result<Vec<(EventNid, i64)>, StorageError> {
    let sql = "SELECT child_nid, ordering FROM missing_events
               WHERE room_nid = $1 AND event_key = $2 ORDER BY ordering";
    let rows: Vec<(i64, i64)> = db.fetch_all(sql, &params![room, key]).await?;
    Ok(rows.into_iter().map(|(nid, ordering)| (EventNid(nid), ordering)).collect())
}

/// The keys of missing events whose children lie at or above a place in the room, the closest first.
pub async fn list_missing(
    db: &Database,
    room: RoomNid,
    ordering: i64,
    limit: usize,
) -> Result<Vec<Vec<u8>>, StorageError> {
    let sql = "SELECT event_key, min(ordering) AS place FROM missing_events
               WHERE room_nid = $1 AND ordering >= $2 GROUP BY event_key ORDER BY place LIMIT $3";
    let rows: Vec<(Vec<u8>, i64)> = db.fetch_all(sql, &params![room, ordering, limit]).await?;
    Ok(rows.into_iter().map(|(key, _)| key).collect())
}

/// The place of the highest event in a range (without its lower end) that names a missing one.
pub async fn find_gap_between(
    db: &Database,
    room: RoomNid,
    (after, upto): (i64, i64),
) -> Result<Option<i64>, StorageError> {
    let sql = "SELECT max(ordering) FROM missing_events
               WHERE room_nid = $1 AND ordering > $2 AND ordering <= $3 AND ordering <> 0";
    let row: (Option<i64>,) = db.fetch_one(sql, &params![room, after, upto]).await?;
    Ok(row.0)
}

/// Whether an event names one that is missing.
pub async fn has_missing(
    db: &Database,
    room: RoomNid,
    child: EventNid,
) -> Result<bool, StorageError> {
    let sql = "SELECT child_nid FROM missing_events WHERE room_nid = $1 AND child_nid = $2 LIMIT 1";
    Ok(db.fetch_optional::<(i64,)>(sql, &params![room, child]).await?.is_some())
}

/// Those of the keys that anything here knows: as an event, as one that is missing or awaited, or as
/// the target of a redaction.
pub async fn list_noted(
    db: &Database,
    room: RoomNid,
    keys: &[Vec<u8>],
) -> Result<HashSet<Vec<u8>>, StorageError> {
    // With its OFFSET PostgreSQL looks each key up, where it may read a whole table otherwise.
    let sql = "SELECT w.event_key FROM
               (SELECT unhex(value->>0) AS event_key FROM json_each($1)) AS w
               WHERE EXISTS (SELECT 1 FROM event_keys k
                       WHERE k.event_key = w.event_key LIMIT 1 OFFSET 0)
                   OR EXISTS (SELECT 1 FROM missing_events m
                       WHERE m.room_nid = $2 AND m.event_key = w.event_key LIMIT 1 OFFSET 0)
                   OR EXISTS (SELECT 1 FROM awaited_events a
                       WHERE a.event_key = w.event_key AND a.room_nid = $2 LIMIT 1 OFFSET 0)
                   OR EXISTS (SELECT 1 FROM awaited_redactions r
                       WHERE r.target_key = w.event_key LIMIT 1 OFFSET 0)";
    let keys = super::json_hex_rows(keys.iter().map(Vec::as_slice));
    let rows: Vec<(Vec<u8>,)> = db.fetch_all(sql, &params![keys, room]).await?;
    Ok(rows.into_iter().map(|(key,)| key).collect())
}

static INSERT_AWAITED: Statement = Statement {
    table: "awaited_events",
    key: 2,
    sql: "INSERT INTO awaited_events (event_key, waiting_nid, room_nid)
          SELECT unhex(value->>0), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT)
          FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
};

static DELETE_AWAITED: Statement = Statement {
    table: "awaited_events_arrived",
    key: 2,
    sql: "DELETE FROM awaited_events WHERE (room_nid, waiting_nid) IN
              (SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT) FROM json_each($1))",
};

/// Notes that `waiting` cannot be judged before the event with this key is here.
pub fn insert_awaited(tx: &mut WriteTx, key: &[u8], waiting: EventNid, room: RoomNid) {
    tx.push(&INSERT_AWAITED, vec![key.into(), waiting.into(), room.into()]);
}

/// Notes that an event waits no more.
pub fn delete_awaited(tx: &mut WriteTx, room: RoomNid, waiting: EventNid) {
    tx.push(&DELETE_AWAITED, vec![room.into(), waiting.into()]);
}

/// The events that wait for the one with this key.
pub async fn list_waiting(
    db: &Database,
    room: RoomNid,
    key: &[u8],
) -> Result<Vec<EventNid>, StorageError> {
    let sql = "SELECT waiting_nid FROM awaited_events WHERE event_key = $1 AND room_nid = $2
               ORDER BY waiting_nid";
    let rows: Vec<(i64,)> = db.fetch_all(sql, &params![key, room]).await?;
    Ok(rows.into_iter().map(|(nid,)| EventNid(nid)).collect())
}

/// All events of a room that wait for others, in the order in which they came.
pub async fn list_all_waiting(db: &Database, room: RoomNid) -> Result<Vec<EventNid>, StorageError> {
    let sql = "SELECT DISTINCT waiting_nid FROM awaited_events WHERE room_nid = $1
               ORDER BY waiting_nid";
    let rows: Vec<(i64,)> = db.fetch_all(sql, &params![room]).await?;
    Ok(rows.into_iter().map(|(nid,)| EventNid(nid)).collect())
}

/// The IDs of rooms in which events wait for others.
pub async fn list_rooms_with_waiting(
    db: &Database,
    limit: usize,
) -> Result<Vec<String>, StorageError> {
    let sql = "SELECT r.room_id FROM rooms r
               WHERE r.nid IN (SELECT a.room_nid FROM awaited_events a) LIMIT $1";
    let rows: Vec<(String,)> = db.fetch_all(sql, &params![limit]).await?;
    Ok(rows.into_iter().map(|(room_id,)| room_id).collect())
}

/// The keys of the events of a room that others wait for.
pub async fn list_awaited(db: &Database, room: RoomNid) -> Result<HashSet<Vec<u8>>, StorageError> {
    let sql = "SELECT DISTINCT event_key FROM awaited_events WHERE room_nid = $1";
    let rows: Vec<(Vec<u8>,)> = db.fetch_all(sql, &params![room]).await?;
    Ok(rows.into_iter().map(|(key,)| key).collect())
}

/// How many events of a room wait for others.
pub async fn count_waiting(db: &Database, room: RoomNid) -> Result<i64, StorageError> {
    let sql = "SELECT count(DISTINCT waiting_nid) FROM awaited_events WHERE room_nid = $1";
    Ok(db.fetch_one::<(i64,)>(sql, &params![room]).await?.0)
}

static SAVE_VERDICT: Statement = Statement {
    table: "verdicts",
    key: 1,
    sql: "INSERT INTO verdicts (event_nid, room_nid, reason)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), value->>2
          FROM json_each($1) WHERE true
          ON CONFLICT (event_nid) DO UPDATE SET reason = excluded.reason",
};

static DELETE_VERDICT: Statement = Statement {
    table: "verdicts",
    key: 1,
    sql: "DELETE FROM verdicts WHERE event_nid IN
              (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))",
};

/// Keeps why an event was rejected or soft-failed, or what it waits for.
pub fn save_verdict(tx: &mut WriteTx, event: EventNid, room: RoomNid, reason: &str) {
    tx.push(&SAVE_VERDICT, vec![event.into(), room.into(), reason.replace('\0', "").into()]);
}

/// Notes that an event was accepted after all.
pub fn delete_verdict(tx: &mut WriteTx, event: EventNid) {
    tx.push(&DELETE_VERDICT, vec![event.into()]);
}

/// Events of a room that were not accepted and why, from those below `before` on, the latest first.
pub async fn list_verdicts(
    db: &Database,
    room: RoomNid,
    before: EventNid,
    limit: usize,
) -> Result<Vec<(EventNid, String)>, StorageError> {
    let sql = "SELECT event_nid, reason FROM verdicts WHERE room_nid = $1 AND event_nid < $2
               ORDER BY event_nid DESC LIMIT $3";
    let rows: Vec<(i64, String)> = db.fetch_all(sql, &params![room, before, limit]).await?;
    Ok(rows.into_iter().map(|(nid, reason)| (EventNid(nid), reason)).collect())
}

/// Why one event was not accepted.
pub async fn find_verdict(db: &Database, event: EventNid) -> Result<Option<String>, StorageError> {
    let sql = "SELECT reason FROM verdicts WHERE event_nid = $1";
    Ok(db.fetch_optional::<(String,)>(sql, &params![event]).await?.map(|(reason,)| reason))
}

static INSERT_AWAITED_REDACTION: Statement = Statement {
    table: "awaited_redactions",
    key: 2,
    sql: "INSERT INTO awaited_redactions (target_key, redaction_nid)
          SELECT unhex(value->>0), CAST(value->>1 AS BIGINT)
          FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
};

/// Notes that a redaction came before what it redacts.
pub fn insert_awaited_redaction(tx: &mut WriteTx, target: &[u8], redaction: EventNid) {
    tx.push(&INSERT_AWAITED_REDACTION, vec![target.into(), redaction.into()]);
}

/// The redactions that came before the event with this key.
pub async fn list_awaited_redactions(
    db: &Database,
    target: &[u8],
) -> Result<Vec<EventNid>, StorageError> {
    let sql = "SELECT redaction_nid FROM awaited_redactions WHERE target_key = $1
               ORDER BY redaction_nid";
    let rows: Vec<(i64,)> = db.fetch_all(sql, &params![target]).await?;
    Ok(rows.into_iter().map(|(nid,)| EventNid(nid)).collect())
}

static INSERT_FORK: Statement = Statement {
    table: "room_forks",
    key: 0,
    sql: "INSERT INTO room_forks (room_nid, ordering, state_nid)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT)
          FROM json_each($1)",
};

static INSERT_CHANGE: Statement = Statement {
    table: "state_changes",
    key: 0,
    sql: "INSERT INTO state_changes (room_nid, ordering, state_key_nid, event_nid)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT),
              CAST(value->>3 AS BIGINT)
          FROM json_each($1)",
};

/// Notes the current state behind the event at the job's position `offset`, and what it changed.
pub fn insert_fork(
    tx: &mut WriteTx,
    (room, offset): (RoomNid, u32),
    state: StateNid,
    changes: &[(StateKeyNid, EventNid)],
) {
    let place = || [room.into(), Cell::Ordering(offset)];
    let [room_cell, ordering] = place();
    tx.push(&INSERT_FORK, vec![room_cell, ordering, state.into()]);
    for (key, event) in changes {
        let [room_cell, ordering] = place();
        tx.push(&INSERT_CHANGE, vec![room_cell, ordering, (*key).into(), (*event).into()]);
    }
}

/// The current state behind the event at a place of the room, if that did not simply follow the head.
pub async fn find_fork(
    db: &Database,
    room: RoomNid,
    ordering: i64,
) -> Result<Option<StateNid>, StorageError> {
    let sql = "SELECT state_nid FROM room_forks WHERE room_nid = $1 AND ordering = $2";
    let row = db.fetch_optional::<(i64,)>(sql, &params![room, ordering]).await?;
    Ok(row.map(|(nid,)| StateNid(nid)))
}

/// The place of the latest event of each of these rooms that did not simply follow the head; rooms where all
/// did are left out.
pub async fn list_latest_forks(
    db: &Database,
    rooms: &[RoomNid],
) -> Result<HashMap<RoomNid, i64>, StorageError> {
    let sql = "SELECT room_nid, max(ordering) FROM room_forks
               WHERE room_nid IN (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))
               GROUP BY room_nid";
    let list = super::json_rows(rooms.iter().map(|room| room.0));
    let rows: Vec<(i64, i64)> = db.fetch_all(sql, &params![list]).await?;
    Ok(rows.into_iter().map(|(room, ordering)| (RoomNid(room), ordering)).collect())
}

static SAVE_STRIPPED: Statement = Statement {
    table: "stripped_states",
    key: 1,
    sql: "INSERT INTO stripped_states (event_nid, state)
          SELECT CAST(value->>0 AS BIGINT), value->>1
          FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
};

/// Keeps the state that came with a membership: a JSON array without U+0000.
pub fn save_stripped(tx: &mut WriteTx, event: EventNid, state: &str) {
    tx.push(&SAVE_STRIPPED, vec![event.into(), state.into()]);
}

/// The state that came with a membership.
pub async fn find_stripped(db: &Database, event: EventNid) -> Result<Option<String>, StorageError> {
    let sql = "SELECT state FROM stripped_states WHERE event_nid = $1";
    Ok(db.fetch_optional::<(String,)>(sql, &params![event]).await?.map(|(state,)| state))
}

/// The users with a row in `memberships` for the room, and what they are (1 join …), in no order.
pub async fn list_members(
    db: &Database,
    room: RoomNid,
) -> Result<Vec<(StateKeyNid, Vec<u8>, i64)>, StorageError> {
    let sql = "SELECT m.user_nid, k.state_key, m.membership
               FROM memberships m JOIN state_keys k ON k.nid = m.user_nid WHERE m.room_nid = $1";
    let rows: Vec<(i64, Vec<u8>, i64)> = db.fetch_all(sql, &params![room]).await?;
    let member = |(nid, user, membership)| (StateKeyNid(nid), user, membership);
    Ok(rows.into_iter().map(member).collect())
}
