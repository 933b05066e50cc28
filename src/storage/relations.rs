//! Rows of `relations`: which events point at which (`m.relates_to`).

use std::fmt::Write as _;

use super::{Database, EventNid, RoomNid, Statement, StorageError, WriteTx};
use crate::params;

static INSERT: Statement = Statement {
    table: "relations",
    key: 2,
    sql: "INSERT INTO relations (target_key, event_nid, room_nid, rel_type, kind, sender)
          SELECT unhex(value->>0), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT),
              value->>3, value->>4, value->>5
          FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
};

static DELETE: Statement = Statement {
    table: "relations_deleted",
    key: 2,
    sql: "DELETE FROM relations WHERE (target_key, event_nid) IN
              (SELECT unhex(value->>0), CAST(value->>1 AS BIGINT) FROM json_each($1))",
};

/// One event's relation to another.
#[derive(Clone, Debug)]
pub struct Relation<'a> {
    /// The key of the event it points at.
    pub target_key: &'a [u8],
    pub event: EventNid,
    pub room: RoomNid,
    pub rel_type: &'a str,
    /// The type of the event that points.
    pub kind: &'a str,
    pub sender: &'a str,
}

pub fn insert(tx: &mut WriteTx, relation: &Relation<'_>) {
    let cells = vec![
        relation.target_key.into(),
        relation.event.into(),
        relation.room.into(),
        relation.rel_type.into(),
        relation.kind.into(),
        relation.sender.into(),
    ];
    tx.push(&INSERT, cells);
}

/// A redacted event relates to nothing any more.
pub fn delete(tx: &mut WriteTx, target_key: &[u8], event: EventNid) {
    tx.push(&DELETE, vec![target_key.into(), event.into()]);
}

/// A row that points at one of several targets.
#[derive(Clone, Debug)]
pub struct RelationRow {
    pub target_key: Vec<u8>,
    pub event: EventNid,
    pub rel_type: String,
    pub kind: String,
    pub sender: String,
}

/// What points at these events of a room, oldest first, at most `limit` rows.
pub async fn list_of_targets(
    db: &Database,
    (room, targets): (RoomNid, &[Vec<u8>]),
    limit: usize,
) -> Result<Vec<RelationRow>, StorageError> {
    let list = hex_rows(targets);
    let sql = "SELECT target_key, event_nid, rel_type, kind, sender FROM relations
               WHERE target_key IN (SELECT unhex(value->>0) FROM json_each($1))
                   AND room_nid = $2
               ORDER BY event_nid LIMIT $3";
    let rows: Vec<(Vec<u8>, i64, String, String, String)> =
        db.fetch_all(sql, &params![list, room, limit]).await?;
    let row = |(target_key, event, rel_type, kind, sender)| RelationRow {
        target_key,
        event: EventNid(event),
        rel_type,
        kind,
        sender,
    };
    Ok(rows.into_iter().map(row).collect())
}

/// What is summed up of the events that point at one target.
#[derive(Clone, Debug)]
pub struct Aggregate {
    pub target_key: Vec<u8>,
    pub rel_type: String,
    pub kind: String,
    pub sender: String,
    /// For threads: how many events of this sender.
    pub count: i64,
    /// For threads the latest event of this sender, for edits the one that holds, for references
    /// each one.
    pub event: EventNid,
    /// For references.
    pub event_key: Option<Vec<u8>>,
}

/// Sums up threads by sender, the edits that hold by sender, and lists references, leaving out
/// what `ignored` users sent (JSON of `json_text_rows`) and what is newer than `newest`. Only events
/// of the targets' room count: anybody can point there from a room of their own.
pub async fn aggregate(
    db: &Database,
    (room, targets): (RoomNid, &[Vec<u8>]),
    ignored: String,
    newest: EventNid,
) -> Result<Vec<Aggregate>, StorageError> {
    let sql = "SELECT r.target_key, r.rel_type, r.kind, r.sender, CAST(1 AS BIGINT), r.event_nid,
                   e.event_key
               FROM relations r JOIN events e ON e.nid = r.event_nid
               WHERE r.target_key IN (SELECT unhex(value->>0) FROM json_each($1))
                   AND r.rel_type = 'm.reference' AND r.event_nid <= $3 AND r.room_nid = $4
                   AND r.sender NOT IN (SELECT value->>0 FROM json_each($2))
               UNION ALL
               SELECT target_key, rel_type, kind, sender, CAST(1 AS BIGINT), event_nid, NULL
               FROM (SELECT r.target_key, r.rel_type, r.kind, r.sender, r.event_nid,
                         row_number() OVER (PARTITION BY r.target_key, r.kind, r.sender
                             ORDER BY e.origin_server_ts DESC, e.event_key DESC) AS place
                     FROM relations r JOIN events e ON e.nid = r.event_nid
                     WHERE r.target_key IN (SELECT unhex(value->>0) FROM json_each($1))
                         AND r.rel_type = 'm.replace' AND r.event_nid <= $3
                         AND r.room_nid = $4
                         AND r.sender NOT IN (SELECT value->>0 FROM json_each($2))) AS edits
               WHERE place = 1
               UNION ALL
               SELECT target_key, rel_type, 'any', sender, count(*), max(event_nid), NULL
               FROM relations
               WHERE target_key IN (SELECT unhex(value->>0) FROM json_each($1))
                   AND rel_type = 'm.thread' AND event_nid <= $3 AND room_nid = $4
                   AND sender NOT IN (SELECT value->>0 FROM json_each($2))
               GROUP BY target_key, rel_type, sender
               ORDER BY 6";
    type Columns = (Vec<u8>, String, String, String, i64, i64, Option<Vec<u8>>);
    let params = params![hex_rows(targets), ignored, newest, room];
    let rows: Vec<Columns> = db.fetch_all(sql, &params).await?;
    let row = |(target_key, rel_type, kind, sender, count, event, event_key)| Aggregate {
        target_key,
        rel_type,
        kind,
        sender,
        count,
        event: EventNid(event),
        event_key,
    };
    Ok(rows.into_iter().map(row).collect())
}

/// Between which places in the room children lie, exclusively, and in which order they come.
#[derive(Clone, Copy, Debug)]
pub struct ChildRange {
    pub after: i64,
    pub before: i64,
    /// Newest first.
    pub backwards: bool,
}

macro_rules! select_children {
    ($order:literal) => {
        concat!(
            "SELECT DISTINCT e.nid, e.ordering FROM relations r JOIN events e ON e.nid = r.event_nid
             WHERE r.target_key IN (SELECT unhex(value->>0) FROM json_each($1))
                 AND r.room_nid = $2 AND ($3 = '' OR r.rel_type = $3) AND ($4 = '' OR r.kind = $4)
                 AND e.ordering > $5 AND e.ordering < $6 AND e.flags & 7 = 0
             ORDER BY e.ordering ",
            $order,
            " LIMIT $7"
        )
    };
}

/// What points at these events of a room, by type of relation and of event where asked for.
pub async fn list_children(
    db: &Database,
    (room, targets): (RoomNid, &[Vec<u8>]),
    (rel_type, kind): (Option<&str>, Option<&str>),
    range: ChildRange,
    limit: usize,
) -> Result<Vec<EventNid>, StorageError> {
    let sql = match range.backwards {
        true => select_children!("DESC"),
        false => select_children!("ASC"),
    };
    let (rel_type, kind) = (rel_type.unwrap_or_default(), kind.unwrap_or_default());
    let params = params![hex_rows(targets), room, rel_type, kind, range.after, range.before, limit];
    let rows: Vec<(i64, i64)> = db.fetch_all(sql, &params).await?;
    Ok(rows.into_iter().map(|(nid, _)| EventNid(nid)).collect())
}

/// A thread of a room.
#[derive(Clone, Debug)]
pub struct ThreadRow {
    pub root_key: Vec<u8>,
    pub latest: EventNid,
    /// Whether the user sent something into it.
    pub participated: bool,
}

/// The threads whose latest event is older than `before`, the latest first, without what `ignored`
/// users sent (JSON of `json_text_rows`).
pub async fn list_threads(
    db: &Database,
    room: RoomNid,
    (user, ignored): (&str, String),
    before: EventNid,
    limit: usize,
) -> Result<Vec<ThreadRow>, StorageError> {
    let sql = "SELECT target_key, max(event_nid), max(CASE WHEN sender = $2 THEN CAST(1 AS BIGINT)
                   ELSE CAST(0 AS BIGINT) END)
               FROM relations
               WHERE room_nid = $1 AND rel_type = 'm.thread'
                   AND sender NOT IN (SELECT value->>0 FROM json_each($3))
               GROUP BY target_key HAVING max(event_nid) < $4 ORDER BY 2 DESC LIMIT $5";
    let params = params![room, user, ignored, before, limit];
    let rows: Vec<(Vec<u8>, i64, i64)> = db.fetch_all(sql, &params).await?;
    let row = |(root_key, latest, participated)| ThreadRow {
        root_key,
        latest: EventNid(latest),
        participated: participated != 0,
    };
    Ok(rows.into_iter().map(row).collect())
}

/// The latest annotations of an event of a room that are of one type and sender.
pub async fn list_annotations(
    db: &Database,
    (room, target_key): (RoomNid, &[u8]),
    (kind, sender): (&str, &str),
    limit: usize,
) -> Result<Vec<EventNid>, StorageError> {
    let sql = "SELECT event_nid FROM relations
               WHERE target_key = $1 AND rel_type = 'm.annotation' AND kind = $2 AND sender = $3
                   AND room_nid = $4
               ORDER BY event_nid DESC LIMIT $5";
    let params = params![target_key, kind, sender, room, limit];
    let rows: Vec<(i64,)> = db.fetch_all(sql, &params).await?;
    Ok(rows.into_iter().map(|(nid,)| EventNid(nid)).collect())
}

/// A list of keys as the JSON that `json_each($1)` with `unhex(value->>0)` reads.
fn hex_rows(keys: &[Vec<u8>]) -> String {
    let mut list = String::from("[");
    for (number, key) in keys.iter().enumerate() {
        list.push_str(if number == 0 { "[\"" } else { ",[\"" });
        for byte in key {
            write!(list, "{byte:02x}").expect("writing to a String cannot fail");
        }
        list.push_str("\"]");
    }
    list.push(']');
    list
}
