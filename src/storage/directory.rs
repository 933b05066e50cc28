//! Rows of `published_rooms`, and the directory that they make with the rooms' summaries.

use super::{Database, RoomNid, Statement, StorageError, WriteTx, rooms::SummaryRow};
use crate::params;

static PUBLISH: Statement = Statement {
    table: "published_rooms",
    key: 1,
    sql: "INSERT INTO published_rooms (room_nid)
          SELECT CAST(value->>0 AS BIGINT) FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
};

static WITHDRAW: Statement = Statement {
    table: "published_rooms",
    key: 1,
    sql: "DELETE FROM published_rooms
          WHERE room_nid IN (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))",
};

/// Lists a room in the directory.
pub fn publish(tx: &mut WriteTx, room: RoomNid) {
    tx.push(&PUBLISH, vec![room.into()]);
}

pub fn withdraw(tx: &mut WriteTx, room: RoomNid) {
    tx.push(&WITHDRAW, vec![room.into()]);
}

pub async fn is_published(db: &Database, room: RoomNid) -> Result<bool, StorageError> {
    let sql = "SELECT room_nid FROM published_rooms WHERE room_nid = $1";
    Ok(db.fetch_optional::<(i64,)>(sql, &params![room]).await?.is_some())
}

/// How many rooms the directory has.
pub async fn count(db: &Database) -> Result<i64, StorageError> {
    let sql = "SELECT count(*) FROM published_rooms";
    Ok(db.fetch_one::<(i64,)>(sql, &[]).await?.0)
}

/// A room of the directory.
#[derive(Clone, Debug)]
pub struct DirectoryRow {
    pub room: RoomNid,
    pub room_id: String,
    pub joined_count: i64,
    pub summary: SummaryRow,
}

/// A place in the directory, which is ordered by falling size and rising number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryPlace {
    pub joined_count: i64,
    pub room: RoomNid,
}

/// What a directory shows of rooms, with further tables and conditions.
macro_rules! select_listed {
    ($rest:literal) => {
        concat!(
            "SELECT r.nid, r.room_id, r.joined_count, s.name, s.topic, s.canonical_alias,
                 s.avatar_url, s.join_rule, CAST(s.world_readable AS BIGINT),
                 CAST(s.guest_can_join AS BIGINT), s.room_type, s.encryption
             FROM rooms r JOIN room_summaries s ON s.room_nid = r.nid ",
            $rest
        )
    };
}
pub(super) use select_listed;

type Columns = (
    i64,
    String,
    i64,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    String,
    i64,
    i64,
    Option<String>,
    Option<String>,
);

/// Published rooms with members behind a place, in the order of the directory.
pub async fn list_after(
    db: &Database,
    place: DirectoryPlace,
    limit: usize,
) -> Result<Vec<DirectoryRow>, StorageError> {
    let sql = select_listed!(
        "JOIN published_rooms p ON p.room_nid = r.nid
         WHERE r.joined_count > 0
             AND (r.joined_count < $1 OR (r.joined_count = $1 AND r.nid > $2))
         ORDER BY r.joined_count DESC, r.nid LIMIT $3"
    );
    let params = params![place.joined_count, place.room, limit];
    fetch_rows(db, sql, &params).await
}

/// Published rooms with members before a place, in the opposite order.
pub async fn list_before(
    db: &Database,
    place: DirectoryPlace,
    limit: usize,
) -> Result<Vec<DirectoryRow>, StorageError> {
    let sql = select_listed!(
        "JOIN published_rooms p ON p.room_nid = r.nid
         WHERE r.joined_count > 0
             AND (r.joined_count > $1 OR (r.joined_count = $1 AND r.nid < $2))
         ORDER BY r.joined_count, r.nid DESC LIMIT $3"
    );
    let params = params![place.joined_count, place.room, limit];
    fetch_rows(db, sql, &params).await
}

/// What a directory would show of a room.
pub async fn find_listed(
    db: &Database,
    room: RoomNid,
) -> Result<Option<DirectoryRow>, StorageError> {
    let sql = select_listed!("WHERE r.nid = $1");
    Ok(fetch_rows(db, sql, &params![room]).await?.pop())
}

/// Runs a query made by [`select_listed!`].
pub(super) async fn fetch_rows(
    db: &Database,
    sql: &'static str,
    params: &[super::Param],
) -> Result<Vec<DirectoryRow>, StorageError> {
    let rows: Vec<Columns> = db.fetch_all(sql, params).await?;
    Ok(rows.into_iter().map(from_columns).collect())
}

fn from_columns(columns: Columns) -> DirectoryRow {
    DirectoryRow {
        room: RoomNid(columns.0),
        room_id: columns.1,
        joined_count: columns.2,
        summary: SummaryRow {
            name: columns.3,
            topic: columns.4,
            canonical_alias: columns.5,
            avatar_url: columns.6,
            join_rule: columns.7,
            world_readable: columns.8 != 0,
            guest_can_join: columns.9 != 0,
            room_type: columns.10,
            encryption: columns.11,
        },
    }
}
