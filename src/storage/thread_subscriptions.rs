//! Rows of `thread_subscriptions`: which threads users follow.

use super::{Database, RoomNid, StorageError, WriteTransaction};
use crate::params;

/// A thread: its room, and the event ID of its root.
#[derive(Clone, Copy, Debug)]
pub struct ThreadName<'a> {
    pub room: RoomNid,
    pub root: &'a str,
}

/// A row, with the room's ID in the place of its number. `level`: 0 not followed any more, 1 followed
/// automatically, 2 by the user's choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadSubscriptionRow {
    pub room_id: String,
    pub root: String,
    pub level: i64,
    pub position: i64,
}

/// Level and position of a user's row for a thread.
pub async fn find(
    db: &Database,
    user_id: &str,
    thread: ThreadName<'_>,
) -> Result<Option<(i64, i64)>, StorageError> {
    db.fetch_optional(FIND_SQL, &params![user_id, thread.room, thread.root]).await
}

pub async fn find_in(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    thread: ThreadName<'_>,
) -> Result<Option<(i64, i64)>, StorageError> {
    tx.fetch_optional(FIND_SQL, &params![user_id, thread.room, thread.root]).await
}

/// Writes a row at a position of its own, which is returned.
pub async fn set(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    thread: ThreadName<'_>,
    level: i64,
) -> Result<i64, StorageError> {
    let position = tx.next_position();
    let sql = "INSERT INTO thread_subscriptions (user_id, room_nid, root, level, position)
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT (user_id, room_nid, root)
        DO UPDATE SET level = excluded.level, position = excluded.position";
    tx.execute(sql, &params![user_id, thread.room, thread.root, level, position]).await?;
    Ok(position)
}

/// How many rows a user has.
pub async fn count_in(tx: &mut WriteTransaction<'_>, user_id: &str) -> Result<i64, StorageError> {
    let sql = "SELECT count(*) FROM thread_subscriptions WHERE user_id = $1";
    let row: Option<(i64,)> = tx.fetch_optional(sql, &params![user_id]).await?;
    Ok(row.map_or(0, |(count,)| count))
}

/// A user's rows with `after < position <= upto`, the latest first.
pub async fn list_changed(
    db: &Database,
    user_id: &str,
    (after, upto): (i64, i64),
    limit: usize,
) -> Result<Vec<ThreadSubscriptionRow>, StorageError> {
    let sql = "SELECT r.room_id, t.root, t.level, t.position
        FROM thread_subscriptions t JOIN rooms r ON r.nid = t.room_nid
        WHERE t.user_id = $1 AND t.position > $2 AND t.position <= $3
        ORDER BY t.position DESC LIMIT $4";
    let rows: Vec<(String, String, i64, i64)> =
        db.fetch_all(sql, &params![user_id, after, upto, limit]).await?;
    let row =
        |(room_id, root, level, position)| ThreadSubscriptionRow { room_id, root, level, position };
    Ok(rows.into_iter().map(row).collect())
}

/// Who follows a thread, at most `limit` of them.
pub async fn list_followers(
    db: &Database,
    thread: ThreadName<'_>,
    limit: usize,
) -> Result<Vec<String>, StorageError> {
    let sql = "SELECT user_id FROM thread_subscriptions
        WHERE room_nid = $1 AND root = $2 AND level > 0 LIMIT $3";
    let rows: Vec<(String,)> = db.fetch_all(sql, &params![thread.room, thread.root, limit]).await?;
    Ok(rows.into_iter().map(|(user,)| user).collect())
}

const FIND_SQL: &str = "SELECT level, position FROM thread_subscriptions
    WHERE user_id = $1 AND room_nid = $2 AND root = $3";
