//! Rows of `relations`: which events point at which (`m.relates_to`).

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

/// What points at these events, oldest first, at most `limit` rows.
pub async fn list_of_targets(
    db: &Database,
    targets: &[Vec<u8>],
    limit: usize,
) -> Result<Vec<RelationRow>, StorageError> {
    use std::fmt::Write;
    let mut list = String::from("[");
    for (number, key) in targets.iter().enumerate() {
        list.push_str(if number == 0 { "[\"" } else { ",[\"" });
        for byte in key {
            write!(list, "{byte:02x}").expect("writing to a String cannot fail");
        }
        list.push_str("\"]");
    }
    list.push(']');
    let sql = "SELECT target_key, event_nid, rel_type, kind, sender FROM relations
               WHERE target_key IN (SELECT unhex(value->>0) FROM json_each($1))
               ORDER BY event_nid LIMIT $2";
    let rows: Vec<(Vec<u8>, i64, String, String, String)> =
        db.fetch_all(sql, &params![list, limit]).await?;
    let row = |(target_key, event, rel_type, kind, sender)| RelationRow {
        target_key,
        event: EventNid(event),
        rel_type,
        kind,
        sender,
    };
    Ok(rows.into_iter().map(row).collect())
}

/// Whether the user sent something with this relation to the event.
pub async fn has_related(
    db: &Database,
    target_key: &[u8],
    rel_type: &str,
    sender: &str,
) -> Result<bool, StorageError> {
    let sql = "SELECT 1 FROM relations WHERE target_key = $1 AND rel_type = $2 AND sender = $3
               LIMIT 1";
    let row: Option<(i32,)> =
        db.fetch_optional(sql, &params![target_key, rel_type, sender]).await?;
    Ok(row.is_some())
}
