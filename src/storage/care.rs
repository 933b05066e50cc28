//! What the care for rooms reads and corrects: the facts of all events of a room, and the tables that are derived
//! from them. Not for the daily work, which never reads a whole room.

mod search;

use super::{
    Database, EventNid, RoomNid, StateKeyNid, StateNid, Statement, StorageError, UserNid, WriteTx,
    rooms::RoomRow,
};
use crate::params;

pub use self::search::{clear_search, count_stray_terms, count_terms, find_search_cursor};

/// Writes rows of a table that are known by their first cells, with the one cell that may be wrong.
macro_rules! correct_rows {
    ($table:literal by $key:literal: $known_by:literal, $column:literal, $cells:literal) => {
        Statement {
            table: $table,
            key: $key,
            sql: concat!(
                "INSERT INTO ",
                $table,
                " (",
                $known_by,
                ", ",
                $column,
                ") SELECT ",
                $cells,
                " FROM json_each($1) WHERE true ON CONFLICT (",
                $known_by,
                ") DO UPDATE SET ",
                $column,
                " = excluded.",
                $column
            ),
        }
    };
}

/// Deletes the rows of a table that are known by these cells.
macro_rules! delete_rows {
    ($table:literal by $key:literal: $known_by:literal, $cells:literal) => {
        Statement {
            table: concat!($table, "_deleted"),
            key: $key,
            sql: concat!(
                "DELETE FROM ",
                $table,
                " WHERE (",
                $known_by,
                ") IN (SELECT ",
                $cells,
                " FROM json_each($1))"
            ),
        }
    };
}

/// What is known of an event beside its text.
#[derive(Clone, Debug)]
pub struct EventFacts {
    pub nid: EventNid,
    pub ordering: i64,
    pub position: Option<i64>,
    pub state: StateNid,
    pub key: Option<StateKeyNid>,
    pub replaces: Option<EventNid>,
    pub flags: i64,
    pub notify_ordinal: i64,
    pub event_key: Vec<u8>,
}

type FactColumns = (i64, i64, Option<i64>, i64, Option<i64>, Option<i64>, i64, i64, Vec<u8>);

fn from_columns(columns: FactColumns) -> EventFacts {
    EventFacts {
        nid: EventNid(columns.0),
        ordering: columns.1,
        position: columns.2,
        state: StateNid(columns.3),
        key: columns.4.map(StateKeyNid),
        replaces: columns.5.map(EventNid),
        flags: columns.6,
        notify_ordinal: columns.7,
        event_key: columns.8,
    }
}

/// The events of a room behind a place and number, in this order.
pub async fn list_events(
    db: &Database,
    room: RoomNid,
    (ordering, nid): (i64, EventNid),
    limit: usize,
) -> Result<Vec<EventFacts>, StorageError> {
    let sql = "SELECT nid, ordering, position, state_nid, state_key_nid, replaces_nid, flags,
                   notify_ordinal, event_key
               FROM events WHERE room_nid = $1 AND (ordering, nid) > ($2, $3)
               ORDER BY ordering, nid LIMIT $4";
    let rows: Vec<FactColumns> = db.fetch_all(sql, &params![room, ordering, nid, limit]).await?;
    Ok(rows.into_iter().map(from_columns).collect())
}

/// How many events a room has.
pub async fn count_events(db: &Database, room: RoomNid) -> Result<i64, StorageError> {
    let sql = "SELECT count(*) FROM events WHERE room_nid = $1";
    Ok(db.fetch_one::<(i64,)>(sql, &params![room]).await?.0)
}

/// The highest number of a state that an event, a room or a fork names.
pub async fn load_highest_state(db: &Database) -> Result<StateNid, StorageError> {
    let sql = "SELECT max(highest) FROM
               (SELECT max(state_nid) AS highest FROM events
                UNION ALL SELECT max(state_nid) FROM rooms
                UNION ALL SELECT max(state_nid) FROM room_forks) AS named";
    let (nid,): (Option<i64>,) = db.fetch_one(sql, &[]).await?;
    Ok(StateNid(nid.unwrap_or(0)))
}

/// The events of a room that cannot be found by their IDs.
pub async fn list_lost_keys(
    db: &Database,
    room: RoomNid,
) -> Result<Vec<(Vec<u8>, EventNid)>, StorageError> {
    let sql = "SELECT e.event_key, e.nid FROM events e WHERE e.room_nid = $1 AND NOT EXISTS
                   (SELECT 1 FROM event_keys k
                    WHERE k.event_key = e.event_key AND k.event_nid = e.nid)";
    let rows: Vec<(Vec<u8>, i64)> = db.fetch_all(sql, &params![room]).await?;
    Ok(rows.into_iter().map(|(key, nid)| (key, EventNid(nid))).collect())
}

static SAVE_KEY: Statement = Statement {
    table: "event_keys",
    key: 1,
    sql: "INSERT INTO event_keys (event_key, event_nid)
          SELECT unhex(value->>0), CAST(value->>1 AS BIGINT) FROM json_each($1) WHERE true
          ON CONFLICT (event_key) DO UPDATE SET event_nid = excluded.event_nid",
};

/// Has an event be found by its ID.
pub fn save_key(tx: &mut WriteTx, key: &[u8], event: EventNid) {
    tx.push(&SAVE_KEY, vec![key.into(), event.into()]);
}

static CORRECT_EVENT: Statement = Statement {
    table: "events_corrected",
    key: 1,
    sql:
        "UPDATE events SET state_nid = v.state_nid, replaces_nid = v.replaces_nid, flags = v.flags,
              notify_ordinal = v.notify_ordinal
          FROM (SELECT CAST(value->>0 AS BIGINT) AS nid, CAST(value->>1 AS BIGINT) AS state_nid,
                    CAST(value->>2 AS BIGINT) AS replaces_nid, CAST(value->>3 AS BIGINT) AS flags,
                    CAST(value->>4 AS BIGINT) AS notify_ordinal
                FROM json_each($1)) AS v
          WHERE events.nid = v.nid",
};

/// Writes what is derived of an event's own row: state, replaced event, flags, ordinal.
pub fn correct_event(tx: &mut WriteTx, event: &EventFacts) {
    let cells = vec![
        event.nid.into(),
        event.state.into(),
        event.replaces.map(|nid| nid.0).into(),
        event.flags.into(),
        event.notify_ordinal.into(),
    ];
    tx.push(&CORRECT_EVENT, cells);
}

static CORRECT_ROOM: Statement = Statement {
    table: "rooms",
    key: 1,
    sql: "UPDATE rooms SET extremities = v.extremities, state_nid = v.state_nid, depth = v.depth,
              notify_ordinal = v.notify_ordinal, latest_position = v.latest_position,
              joined_count = v.joined_count, invited_count = v.invited_count
          FROM (SELECT CAST(value->>0 AS BIGINT) AS nid, value->>1 AS extremities,
                    CAST(value->>2 AS BIGINT) AS state_nid, CAST(value->>3 AS BIGINT) AS depth,
                    CAST(value->>4 AS BIGINT) AS notify_ordinal,
                    CAST(value->>5 AS BIGINT) AS latest_position,
                    CAST(value->>6 AS BIGINT) AS joined_count,
                    CAST(value->>7 AS BIGINT) AS invited_count
                FROM json_each($1)) AS v
          WHERE rooms.nid = v.nid",
};

/// Writes where a room stands, without adding to its timeline.
pub fn correct_room(tx: &mut WriteTx, row: &RoomRow) {
    let cells = vec![
        row.nid.into(),
        row.extremities.as_str().into(),
        row.state_nid.into(),
        row.depth.into(),
        row.notify_ordinal.into(),
        row.latest_position.into(),
        row.joined_count.into(),
        row.invited_count.into(),
    ];
    tx.push(&CORRECT_ROOM, cells);
}

/// A membership of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberRow {
    /// 1 join, 2 invite, 3 knock, 4 leave, 5 ban.
    pub membership: i64,
    pub event: EventNid,
    pub position: i64,
}

/// All memberships of a room.
pub async fn list_members(
    db: &Database,
    room: RoomNid,
) -> Result<Vec<(UserNid, MemberRow)>, StorageError> {
    let sql =
        "SELECT user_nid, membership, event_nid, position FROM memberships WHERE room_nid = $1";
    let rows: Vec<(i64, i64, i64, i64)> = db.fetch_all(sql, &params![room]).await?;
    let row = |(user, membership, event, position)| {
        (StateKeyNid(user), MemberRow { membership, event: EventNid(event), position })
    };
    Ok(rows.into_iter().map(row).collect())
}

static CORRECT_MEMBER: Statement = Statement {
    table: "memberships",
    key: 2,
    sql: "INSERT INTO memberships (user_nid, room_nid, membership, event_nid, position, forgotten)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT),
              CAST(value->>3 AS BIGINT), CAST(value->>4 AS BIGINT), 0
          FROM json_each($1) WHERE true
          ON CONFLICT (user_nid, room_nid) DO UPDATE SET membership = excluded.membership,
              event_nid = excluded.event_nid, position = excluded.position,
              forgotten = CASE WHEN memberships.event_nid = excluded.event_nid
                  AND excluded.membership IN (4, 5) THEN memberships.forgotten ELSE 0 END",
};

static DELETE_MEMBER: Statement = delete_rows!(
    "memberships" by 2: "user_nid, room_nid",
    "CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT)"
);

/// Writes a membership; a room that the user forgot stays forgotten.
pub fn correct_member(tx: &mut WriteTx, (user, room): (UserNid, RoomNid), row: MemberRow) {
    let cells = vec![
        user.into(),
        room.into(),
        row.membership.into(),
        row.event.into(),
        row.position.into(),
    ];
    tx.push(&CORRECT_MEMBER, cells);
}

/// Deletes a membership that the room does not know.
pub fn delete_member(tx: &mut WriteTx, user: UserNid, room: RoomNid) {
    tx.push(&DELETE_MEMBER, vec![user.into(), room.into()]);
}

/// A relation of an event: its target, the type of the relation, the event's type and sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationFacts {
    pub target_key: Vec<u8>,
    pub event: EventNid,
    pub rel_type: String,
    pub kind: String,
    pub sender: String,
}

/// The relations of a room behind a type and event, in this order.
pub async fn list_relations(
    db: &Database,
    room: RoomNid,
    (rel_type, event): (&str, EventNid),
    limit: usize,
) -> Result<Vec<RelationFacts>, StorageError> {
    let sql = "SELECT target_key, event_nid, rel_type, kind, sender FROM relations
               WHERE room_nid = $1 AND (rel_type, event_nid) > ($2, $3)
               ORDER BY rel_type, event_nid LIMIT $4";
    let rows: Vec<(Vec<u8>, i64, String, String, String)> =
        db.fetch_all(sql, &params![room, rel_type, event, limit]).await?;
    let row = |(target_key, event, rel_type, kind, sender)| RelationFacts {
        target_key,
        event: EventNid(event),
        rel_type,
        kind,
        sender,
    };
    Ok(rows.into_iter().map(row).collect())
}

static CORRECT_RELATION: Statement = Statement {
    table: "relations_corrected",
    key: 2,
    sql: "UPDATE relations SET room_nid = v.room_nid, rel_type = v.rel_type, kind = v.kind,
              sender = v.sender
          FROM (SELECT unhex(value->>0) AS target_key, CAST(value->>1 AS BIGINT) AS event_nid,
                    CAST(value->>2 AS BIGINT) AS room_nid, value->>3 AS rel_type,
                    value->>4 AS kind, value->>5 AS sender
                FROM json_each($1)) AS v
          WHERE relations.target_key = v.target_key AND relations.event_nid = v.event_nid",
};

/// Writes what a relation is, of which the row is there.
pub fn correct_relation(tx: &mut WriteTx, room: RoomNid, relation: &RelationFacts) {
    let cells = vec![
        relation.target_key.as_slice().into(),
        relation.event.into(),
        room.into(),
        relation.rel_type.as_str().into(),
        relation.kind.as_str().into(),
        relation.sender.as_str().into(),
    ];
    tx.push(&CORRECT_RELATION, cells);
}

/// An edge from an event to one that names it for its authorisation, with the state key of the latter.
pub type Edge = (EventNid, EventNid, StateKeyNid);

/// The edges that begin at these events.
pub async fn list_edges(db: &Database, parents: &[EventNid]) -> Result<Vec<Edge>, StorageError> {
    let sql = "SELECT parent_nid, child_nid, child_key_nid FROM auth_edges
               WHERE parent_nid IN (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))";
    let params = params![super::json_rows(parents.iter().map(|nid| nid.0))];
    let rows: Vec<(i64, i64, i64)> = db.fetch_all(sql, &params).await?;
    let edge = |(parent, child, key)| (EventNid(parent), EventNid(child), StateKeyNid(key));
    Ok(rows.into_iter().map(edge).collect())
}

static DELETE_EDGE: Statement = delete_rows!(
    "auth_edges" by 2: "parent_nid, child_nid",
    "CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT)"
);

static CORRECT_EDGE: Statement = correct_rows!(
    "auth_edges" by 2: "parent_nid, child_nid", "child_key_nid",
    "CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT)"
);

pub fn correct_edge(tx: &mut WriteTx, (parent, child, key): Edge) {
    tx.push(&CORRECT_EDGE, vec![parent.into(), child.into(), key.into()]);
}

pub fn delete_edge(tx: &mut WriteTx, (parent, child, _): Edge) {
    tx.push(&DELETE_EDGE, vec![parent.into(), child.into()]);
}

/// A previous event that is missing: its key, the event that names it, and the place of that one.
pub type MissingRow = (Vec<u8>, EventNid, i64);

/// The missing previous events of a room.
pub async fn list_missing(db: &Database, room: RoomNid) -> Result<Vec<MissingRow>, StorageError> {
    let sql = "SELECT event_key, child_nid, ordering FROM missing_events WHERE room_nid = $1";
    let rows: Vec<(Vec<u8>, i64, i64)> = db.fetch_all(sql, &params![room]).await?;
    Ok(rows.into_iter().map(|(key, child, ordering)| (key, EventNid(child), ordering)).collect())
}

static CORRECT_MISSING: Statement = correct_rows!(
    "missing_events" by 3: "room_nid, event_key, child_nid", "ordering",
    "CAST(value->>0 AS BIGINT), unhex(value->>1), CAST(value->>2 AS BIGINT),
     CAST(value->>3 AS BIGINT)"
);

static DELETE_MISSING: Statement = delete_rows!(
    "missing_events" by 3: "room_nid, event_key, child_nid",
    "CAST(value->>0 AS BIGINT), unhex(value->>1), CAST(value->>2 AS BIGINT)"
);

pub fn correct_missing(tx: &mut WriteTx, room: RoomNid, (key, child, ordering): &MissingRow) {
    let cells = vec![room.into(), key.as_slice().into(), (*child).into(), (*ordering).into()];
    tx.push(&CORRECT_MISSING, cells);
}

pub fn delete_missing(tx: &mut WriteTx, room: RoomNid, (key, child, _): &MissingRow) {
    tx.push(&DELETE_MISSING, vec![room.into(), key.as_slice().into(), (*child).into()]);
}

/// Events of a room that count as waiting although they are in the graph, or not there at all.
pub async fn list_idle_waits(db: &Database, room: RoomNid) -> Result<Vec<EventNid>, StorageError> {
    let sql = "SELECT DISTINCT a.waiting_nid FROM awaited_events a
               WHERE a.room_nid = $1 AND NOT EXISTS
                   (SELECT 1 FROM events e WHERE e.nid = a.waiting_nid AND e.room_nid = $1
                        AND e.flags & 4 = 4)";
    let rows: Vec<(i64,)> = db.fetch_all(sql, &params![room]).await?;
    Ok(rows.into_iter().map(|(nid,)| EventNid(nid)).collect())
}

/// The states behind events that did not simply follow the head, by place in the room.
pub async fn list_forks(
    db: &Database,
    room: RoomNid,
) -> Result<Vec<(i64, StateNid)>, StorageError> {
    let sql = "SELECT ordering, state_nid FROM room_forks WHERE room_nid = $1 ORDER BY ordering";
    let rows: Vec<(i64, i64)> = db.fetch_all(sql, &params![room]).await?;
    Ok(rows.into_iter().map(|(ordering, state)| (ordering, StateNid(state))).collect())
}

/// How often a room has forked or was merged.
pub async fn count_forks(db: &Database, room: RoomNid) -> Result<i64, StorageError> {
    let sql = "SELECT count(*) FROM room_forks WHERE room_nid = $1";
    Ok(db.fetch_one::<(i64,)>(sql, &params![room]).await?.0)
}

/// A change of the state at such an event: place in the room, key, event (0 for none).
pub type ChangeRow = (i64, StateKeyNid, EventNid);

/// What such events changed.
pub async fn list_changes(db: &Database, room: RoomNid) -> Result<Vec<ChangeRow>, StorageError> {
    let sql = "SELECT ordering, state_key_nid, event_nid FROM state_changes WHERE room_nid = $1";
    let rows: Vec<(i64, i64, i64)> = db.fetch_all(sql, &params![room]).await?;
    let row = |(ordering, key, event)| (ordering, StateKeyNid(key), EventNid(event));
    Ok(rows.into_iter().map(row).collect())
}

static CORRECT_FORK: Statement = correct_rows!(
    "room_forks" by 2: "room_nid, ordering", "state_nid",
    "CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT)"
);

static DELETE_FORK: Statement = delete_rows!(
    "room_forks" by 2: "room_nid, ordering",
    "CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT)"
);

static CORRECT_CHANGE: Statement = correct_rows!(
    "state_changes" by 3: "room_nid, ordering, state_key_nid", "event_nid",
    "CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT),
     CAST(value->>3 AS BIGINT)"
);

static DELETE_CHANGE: Statement = delete_rows!(
    "state_changes" by 3: "room_nid, ordering, state_key_nid",
    "CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT)"
);

pub fn correct_fork(tx: &mut WriteTx, room: RoomNid, (ordering, state): (i64, StateNid)) {
    tx.push(&CORRECT_FORK, vec![room.into(), ordering.into(), state.into()]);
}

pub fn delete_fork(tx: &mut WriteTx, room: RoomNid, ordering: i64) {
    tx.push(&DELETE_FORK, vec![room.into(), ordering.into()]);
}

pub fn correct_change(tx: &mut WriteTx, room: RoomNid, (ordering, key, event): ChangeRow) {
    tx.push(&CORRECT_CHANGE, vec![room.into(), ordering.into(), key.into(), event.into()]);
}

pub fn delete_change(tx: &mut WriteTx, room: RoomNid, (ordering, key, _): ChangeRow) {
    tx.push(&DELETE_CHANGE, vec![room.into(), ordering.into(), key.into()]);
}
