//! What users store for themselves, globally and per room, with the position at which a sync
//! carries it; and their filters.

use super::{Cell, Database, Statement, StorageError, WriteTransaction, WriteTx};
use crate::params;

/// One piece of account data. `room_id` is empty for a global one; `content` is a JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAccountData {
    pub room_id: String,
    pub kind: String,
    pub content: String,
    pub position: i64,
}

static UPSERT_DATA: Statement = Statement {
    table: "account_data",
    key: 3,
    sql: "INSERT INTO account_data (user_id, room_id, kind, content, position)
        SELECT value->>0, value->>1, value->>2, value->>3, CAST(value->>4 AS BIGINT)
        FROM json_each($1) WHERE true
        ON CONFLICT (user_id, room_id, kind)
        DO UPDATE SET content = excluded.content, position = excluded.position",
};

static INSERT_FILTERS: Statement = Statement {
    table: "filters",
    key: 2,
    sql: "INSERT INTO filters (user_id, filter_id, filter)
        SELECT value->>0, value->>1, value->>2 FROM json_each($1) WHERE true
        ON CONFLICT (user_id, filter_id) DO NOTHING",
};

/// Adds a piece of account data to a batch, at a position of its own.
pub fn push_data(tx: &mut WriteTx, user_id: &str, room_id: &str, kind: &str, content: &str) {
    let position = Cell::Position(tx.next_position());
    tx.push(
        &UPSERT_DATA,
        vec![user_id.into(), room_id.into(), kind.into(), content.into(), position],
    );
}

/// Sets a piece of account data that depends on what was read in the same transaction; returns its
/// position.
pub async fn set(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    room_id: &str,
    kind: &str,
    content: &str,
) -> Result<i64, StorageError> {
    let position = tx.next_position();
    let sql = "INSERT INTO account_data (user_id, room_id, kind, content, position)
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT (user_id, room_id, kind)
        DO UPDATE SET content = excluded.content, position = excluded.position";
    tx.execute(sql, &params![user_id, room_id, kind, content, position]).await?;
    Ok(position)
}

/// The content of a piece of account data.
pub async fn find(
    database: &Database,
    user_id: &str,
    room_id: &str,
    kind: &str,
) -> Result<Option<String>, StorageError> {
    let row: Option<(String,)> =
        database.fetch_optional(FIND_SQL, &params![user_id, room_id, kind]).await?;
    Ok(row.map(|(content,)| content))
}

pub async fn find_in(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    room_id: &str,
    kind: &str,
) -> Result<Option<String>, StorageError> {
    let row: Option<(String,)> =
        tx.fetch_optional(FIND_SQL, &params![user_id, room_id, kind]).await?;
    Ok(row.map(|(content,)| content))
}

/// What changed behind `since` up to `upto`, in the order of positions.
pub async fn list_changed(
    database: &Database,
    user_id: &str,
    since: i64,
    upto: i64,
) -> Result<Vec<StoredAccountData>, StorageError> {
    let rows: Vec<(String, String, String, i64)> = database
        .fetch_all(
            "SELECT room_id, kind, content, position FROM account_data
            WHERE user_id = $1 AND position > $2 AND position <= $3 ORDER BY position",
            &params![user_id, since, upto],
        )
        .await?;
    Ok(rows
        .into_iter()
        .map(|(room_id, kind, content, position)| StoredAccountData {
            room_id,
            kind,
            content,
            position,
        })
        .collect())
}

/// What a user has stored for one room, as pairs of type and content.
pub async fn list_of_room(
    database: &Database,
    user_id: &str,
    room_id: &str,
) -> Result<Vec<(String, String)>, StorageError> {
    let sql = "SELECT kind, content FROM account_data WHERE user_id = $1 AND room_id = $2
        ORDER BY kind";
    database.fetch_all(sql, &params![user_id, room_id]).await
}

/// How many pieces a user has, and how many bytes they take.
pub async fn measure(database: &Database, user_id: &str) -> Result<(i64, i64), StorageError> {
    let sql = "SELECT count(*), CAST(coalesce(sum(length(content)), 0) AS BIGINT)
        FROM account_data WHERE user_id = $1";
    database.fetch_one(sql, &params![user_id]).await
}

/// Adds a filter to a batch; one with the same ID is the same filter.
pub fn push_filter(tx: &mut WriteTx, user_id: &str, filter_id: &str, filter: &str) {
    tx.push(&INSERT_FILTERS, vec![user_id.into(), filter_id.into(), filter.into()]);
}

/// A filter as JSON.
pub async fn find_filter(
    database: &Database,
    user_id: &str,
    filter_id: &str,
) -> Result<Option<String>, StorageError> {
    let sql = "SELECT filter FROM filters WHERE user_id = $1 AND filter_id = $2";
    let row: Option<(String,)> = database.fetch_optional(sql, &params![user_id, filter_id]).await?;
    Ok(row.map(|(filter,)| filter))
}

pub async fn count_filters(database: &Database, user_id: &str) -> Result<i64, StorageError> {
    let sql = "SELECT count(*) FROM filters WHERE user_id = $1";
    let (count,): (i64,) = database.fetch_one(sql, &params![user_id]).await?;
    Ok(count)
}

const FIND_SQL: &str = "SELECT content FROM account_data
    WHERE user_id = $1 AND room_id = $2 AND kind = $3";
