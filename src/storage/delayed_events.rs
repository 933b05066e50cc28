//! Rows of `delayed_events`: events that are sent later, and what became of them.

use super::{Database, StorageError, WriteTransaction};
use crate::params;

/// An event that waits or has waited. Times in milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayedEventRow {
    pub delay_id: String,
    pub user_id: String,
    pub room_id: String,
    pub kind: String,
    pub state_key: Option<String>,
    /// A JSON object.
    pub content: String,
    pub delay_ms: i64,
    pub scheduled_ms: i64,
    pub send_ms: i64,
    pub finalised_ms: Option<i64>,
    pub event_id: Option<String>,
    /// A standard error response, as JSON.
    pub error: Option<String>,
    /// For how long the event is sticky when it is sent.
    pub sticky_ms: Option<i64>,
}

type Columns = (
    String,
    String,
    String,
    String,
    Option<String>,
    String,
    i64,
    i64,
    i64,
    Option<i64>,
    Option<String>,
    Option<String>,
    Option<i64>,
);

/// A query for whole rows.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT delay_id, user_id, room_id, kind, state_key, content, delay_ms, scheduled_ms,
                send_ms, finalised_ms, event_id, error, sticky_ms FROM delayed_events ",
            $rest
        )
    };
}

/// Adds an event that waits; `request` names the client's transaction.
pub async fn insert(
    tx: &mut WriteTransaction<'_>,
    row: &DelayedEventRow,
    request: Option<&str>,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO delayed_events (delay_id, user_id, room_id, kind, state_key, content,
            delay_ms, scheduled_ms, send_ms, request, sticky_ms)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    let params = params![
        &row.delay_id,
        &row.user_id,
        &row.room_id,
        &row.kind,
        row.state_key.clone(),
        &row.content,
        row.delay_ms,
        row.scheduled_ms,
        row.send_ms,
        request,
        row.sticky_ms,
    ];
    tx.execute(sql, &params).await.map(drop)
}

/// The ID that an earlier request of this transaction got.
pub async fn find_by_request(
    tx: &mut WriteTransaction<'_>,
    request: &str,
) -> Result<Option<String>, StorageError> {
    let sql = "SELECT delay_id FROM delayed_events WHERE request = $1";
    let row: Option<(String,)> = tx.fetch_optional(sql, &params![request]).await?;
    Ok(row.map(|(delay_id,)| delay_id))
}

/// The same, outside of a transaction.
pub async fn find_request(db: &Database, request: &str) -> Result<Option<String>, StorageError> {
    let sql = "SELECT delay_id FROM delayed_events WHERE request = $1";
    let row: Option<(String,)> = db.fetch_optional(sql, &params![request]).await?;
    Ok(row.map(|(delay_id,)| delay_id))
}

/// How many events of a user wait, and when the first of them is sent.
pub async fn count_waiting(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
) -> Result<(i64, i64), StorageError> {
    let sql = "SELECT count(*), CAST(coalesce(min(send_ms), 0) AS BIGINT) FROM delayed_events
        WHERE user_id = $1 AND finalised_ms IS NULL";
    let row: Option<(i64, i64)> = tx.fetch_optional(sql, &params![user_id]).await?;
    Ok(row.unwrap_or((0, 0)))
}

/// The event of this ID, waiting or not.
pub async fn find(
    database: &Database,
    delay_id: &str,
) -> Result<Option<DelayedEventRow>, StorageError> {
    let sql = select!("WHERE delay_id = $1");
    let row: Option<Columns> = database.fetch_optional(sql, &params![delay_id]).await?;
    Ok(row.map(DelayedEventRow::from))
}

/// A user's waiting events, the next one first.
pub async fn list_waiting(
    database: &Database,
    user_id: &str,
) -> Result<Vec<DelayedEventRow>, StorageError> {
    let sql = select!("WHERE user_id = $1 AND finalised_ms IS NULL ORDER BY send_ms, delay_id");
    let rows: Vec<Columns> = database.fetch_all(sql, &params![user_id]).await?;
    Ok(rows.into_iter().map(DelayedEventRow::from).collect())
}

/// Events whose time has come, the first one first.
pub async fn list_due(
    database: &Database,
    now_ms: u64,
    limit: usize,
) -> Result<Vec<DelayedEventRow>, StorageError> {
    let sql = select!("WHERE finalised_ms IS NULL AND send_ms <= $1 ORDER BY send_ms LIMIT $2");
    let rows: Vec<Columns> = database.fetch_all(sql, &params![now_ms, limit]).await?;
    Ok(rows.into_iter().map(DelayedEventRow::from).collect())
}

/// When the next event after a moment is sent.
pub async fn find_next(database: &Database, now_ms: u64) -> Result<Option<i64>, StorageError> {
    let sql = "SELECT min(send_ms) FROM delayed_events
        WHERE finalised_ms IS NULL AND send_ms > $1";
    let row: Option<(Option<i64>,)> = database.fetch_optional(sql, &params![now_ms]).await?;
    Ok(row.and_then(|(send_ms,)| send_ms))
}

/// Has a waiting event wait its whole time again.
pub async fn restart(
    tx: &mut WriteTransaction<'_>,
    delay_id: &str,
    now_ms: u64,
) -> Result<bool, StorageError> {
    let sql = "UPDATE delayed_events SET scheduled_ms = $2, send_ms = $2 + delay_ms
        WHERE delay_id = $1 AND finalised_ms IS NULL";
    Ok(tx.execute(sql, &params![delay_id, now_ms]).await? > 0)
}

/// Ends the wait: `event_id` when it was sent, `error` when it could not be, neither when it was
/// cancelled.
pub async fn finalise(
    tx: &mut WriteTransaction<'_>,
    delay_id: &str,
    now_ms: u64,
    (event_id, error): (Option<&str>, Option<&str>),
) -> Result<bool, StorageError> {
    let sql = "UPDATE delayed_events SET finalised_ms = $2, event_id = $3, error = $4
        WHERE delay_id = $1 AND finalised_ms IS NULL";
    Ok(tx.execute(sql, &params![delay_id, now_ms, event_id, error]).await? > 0)
}

/// Forgets what became of events before a moment.
pub async fn delete_finalised(
    tx: &mut WriteTransaction<'_>,
    finalised_before_ms: u64,
) -> Result<u64, StorageError> {
    let sql = "DELETE FROM delayed_events WHERE finalised_ms < $1";
    tx.execute(sql, &params![finalised_before_ms]).await
}

impl From<Columns> for DelayedEventRow {
    fn from(columns: Columns) -> Self {
        Self {
            delay_id: columns.0,
            user_id: columns.1,
            room_id: columns.2,
            kind: columns.3,
            state_key: columns.4,
            content: columns.5,
            delay_ms: columns.6,
            scheduled_ms: columns.7,
            send_ms: columns.8,
            finalised_ms: columns.9,
            event_id: columns.10,
            error: columns.11,
            sticky_ms: columns.12,
        }
    }
}
