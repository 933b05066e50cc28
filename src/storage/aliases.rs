//! Rows of `aliases`: this server's names for rooms.

use super::{Database, RoomNid, Statement, StorageError, WriteTx};
use crate::params;

static SAVE: Statement = Statement {
    table: "aliases",
    key: 1,
    sql: "INSERT INTO aliases (alias, room_nid, creator)
          SELECT value->>0, CAST(value->>1 AS BIGINT), value->>2 FROM json_each($1) WHERE true
          ON CONFLICT (alias) DO UPDATE SET room_nid = excluded.room_nid",
};

static DELETE: Statement = Statement {
    table: "aliases",
    key: 1,
    sql: "DELETE FROM aliases WHERE alias IN (SELECT value->>0 FROM json_each($1))",
};

/// An alias and what it stands for.
#[derive(Clone, Debug)]
pub struct AliasRow {
    pub alias: String,
    pub room: RoomNid,
    /// The user who made it.
    pub creator: String,
}

/// Makes an alias, or lets it point at another room; who made it stays.
pub fn save(tx: &mut WriteTx, row: &AliasRow) {
    let cells = vec![row.alias.as_str().into(), row.room.into(), row.creator.as_str().into()];
    tx.push(&SAVE, cells);
}

pub fn delete(tx: &mut WriteTx, alias: &str) {
    tx.push(&DELETE, vec![alias.into()]);
}

pub async fn find(db: &Database, alias: &str) -> Result<Option<AliasRow>, StorageError> {
    let sql = "SELECT alias, room_nid, creator FROM aliases WHERE alias = $1";
    let row: Option<(String, i64, String)> = db.fetch_optional(sql, &params![alias]).await?;
    Ok(row.map(from_columns))
}

/// A room's aliases in alphabetical order (their number is limited when they are made).
pub async fn list_of_room(db: &Database, room: RoomNid) -> Result<Vec<AliasRow>, StorageError> {
    let sql = "SELECT alias, room_nid, creator FROM aliases WHERE room_nid = $1 ORDER BY alias";
    let rows: Vec<(String, i64, String)> = db.fetch_all(sql, &params![room]).await?;
    Ok(rows.into_iter().map(from_columns).collect())
}

fn from_columns((alias, room, creator): (String, i64, String)) -> AliasRow {
    AliasRow { alias, room: RoomNid(room), creator }
}
