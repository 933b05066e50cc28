//! Messages to devices: those that wait for local ones, requests that were carried out, what is on
//! its way to other servers, and what arrived from them.

use super::{Cell, Database, Param, Statement, StorageError, WriteTransaction, WriteTx};
use crate::params;

static INSERT_MESSAGE: Statement = Statement {
    table: "to_device_messages",
    key: 0,
    sql: "INSERT INTO to_device_messages (user_id, device_id, position, message)
        SELECT value->>0, value->>1, CAST(value->>2 AS BIGINT), value->>3
        FROM json_each($1) WHERE EXISTS (SELECT 1 FROM devices
            WHERE devices.user_id = value->>0 AND devices.device_id = value->>1)",
};

static DELETE_MESSAGES: Statement = Statement {
    table: "to_device_messages",
    key: 2,
    sql: "DELETE FROM to_device_messages WHERE (user_id, device_id, position) IN (
        SELECT m.user_id, m.device_id, m.position FROM json_each($1) AS v
        JOIN to_device_messages m ON m.user_id = v.value->>0 AND m.device_id = v.value->>1
            AND m.position <= CAST(v.value->>2 AS BIGINT))",
};

static INSERT_REQUEST: Statement = Statement {
    table: "to_device_requests",
    key: 3,
    sql: "INSERT INTO to_device_requests (user_id, device_id, hash, position)
        SELECT value->>0, value->>1, CAST(value->>2 AS BIGINT), CAST(value->>3 AS BIGINT)
        FROM json_each($1) WHERE true ON CONFLICT (user_id, device_id, hash) DO NOTHING",
};

static INSERT_OUTBOX: Statement = Statement {
    table: "to_device_outbox",
    key: 0,
    sql: "INSERT INTO to_device_outbox (destination, position, content)
        SELECT value->>0, CAST(value->>1 AS BIGINT), value->>2 FROM json_each($1)",
};

/// Adds a message (the whole event as JSON) at the job's position `position`; without effect for a
/// device that does not exist. A device gets at most one message per position.
pub fn push_message(tx: &mut WriteTx, (user, device): (&str, &str), position: u32, message: &str) {
    let row = vec![user.into(), device.into(), Cell::Position(position), message.into()];
    tx.push(&INSERT_MESSAGE, row);
}

/// Deletes a device's messages up to a position.
pub fn push_delete(tx: &mut WriteTx, (user, device): (&str, &str), upto: i64) {
    tx.push(&DELETE_MESSAGES, vec![user.into(), device.into(), upto.into()]);
}

/// Notes that a request of a device was carried out.
pub fn push_request(tx: &mut WriteTx, (user, device): (&str, &str), hash: i64, position: u32) {
    let row = vec![user.into(), device.into(), hash.into(), Cell::Position(position)];
    tx.push(&INSERT_REQUEST, row);
}

/// Adds the content of an `m.direct_to_device` for another server.
pub fn push_outbox(tx: &mut WriteTx, destination: &str, position: u32, content: &str) {
    let row = vec![destination.into(), Cell::Position(position), content.into()];
    tx.push(&INSERT_OUTBOX, row);
}

/// Adds a message within a transaction.
pub async fn insert_message(
    tx: &mut WriteTransaction<'_>,
    (user, device): (&str, &str),
    position: i64,
    message: &str,
) -> Result<(), StorageError> {
    let row = serde_json::json!([[user, device, position, message]]).to_string();
    tx.execute(INSERT_MESSAGE.sql, &[Param::Text(row)]).await.map(drop)
}

/// Messages for a device above `since` up to `upto`, oldest first, with their positions.
pub async fn list(
    database: &Database,
    (user, device): (&str, &str),
    (since, upto): (i64, i64),
    limit: usize,
) -> Result<Vec<(i64, String)>, StorageError> {
    let sql = "SELECT position, message FROM to_device_messages
        WHERE user_id = $1 AND device_id = $2 AND position > $3 AND position <= $4
        ORDER BY position LIMIT $5";
    database.fetch_all(sql, &params![user, device, since, upto, limit]).await
}

/// A message with the device for which it waits.
#[derive(Clone, Debug)]
pub struct WaitingRow {
    pub user_id: String,
    pub device_id: String,
    pub position: i64,
    pub message: String,
}

/// Messages for all devices of some users above `since` up to `upto`, oldest first.
pub async fn list_of_users(
    database: &Database,
    users: &[&str],
    (since, upto): (i64, i64),
    limit: usize,
) -> Result<Vec<WaitingRow>, StorageError> {
    let rows: Vec<(String, String, i64, String)> = database
        .fetch_all(
            "SELECT m.user_id, m.device_id, m.position, m.message FROM json_each($1) AS v
            JOIN to_device_messages m ON m.user_id = v.value->>0
            WHERE m.position > $2 AND m.position <= $3
            ORDER BY m.position, m.user_id, m.device_id LIMIT $4",
            &params![super::json_text_rows(users.iter().copied()), since, upto, limit],
        )
        .await?;
    let read = |(user_id, device_id, position, message)| WaitingRow {
        user_id,
        device_id,
        position,
        message,
    };
    Ok(rows.into_iter().map(read).collect())
}

/// Users for whose devices messages wait above a position.
pub async fn list_waiting_users(
    database: &Database,
    after: i64,
) -> Result<Vec<String>, StorageError> {
    let sql = "SELECT DISTINCT user_id FROM to_device_messages WHERE position > $1";
    let rows: Vec<(String,)> = database.fetch_all(sql, &params![after]).await?;
    Ok(rows.into_iter().map(|(user,)| user).collect())
}

/// Deletes everything that waits for a device, and what it has sent.
pub async fn delete_of_device(
    tx: &mut WriteTransaction<'_>,
    (user, device): (&str, &str),
) -> Result<(), StorageError> {
    let params = params![user, device];
    let sql = "DELETE FROM to_device_messages WHERE user_id = $1 AND device_id = $2";
    tx.execute(sql, &params).await?;
    let sql = "DELETE FROM to_device_requests WHERE user_id = $1 AND device_id = $2";
    tx.execute(sql, &params).await.map(drop)
}

/// The latest requests of a device, newest first, as hashes with positions.
pub async fn list_requests(
    database: &Database,
    (user, device): (&str, &str),
    limit: usize,
) -> Result<Vec<(i64, i64)>, StorageError> {
    let sql = "SELECT hash, position FROM to_device_requests
        WHERE user_id = $1 AND device_id = $2 ORDER BY position DESC LIMIT $3";
    database.fetch_all(sql, &params![user, device, limit]).await
}

/// Forgets the requests of a device before a position.
pub async fn delete_requests(
    tx: &mut WriteTransaction<'_>,
    (user, device): (&str, &str),
    before: i64,
) -> Result<(), StorageError> {
    let sql = "DELETE FROM to_device_requests
        WHERE user_id = $1 AND device_id = $2 AND position < $3";
    tx.execute(sql, &params![user, device, before]).await.map(drop)
}

/// Of every device for which more than `limit` messages wait, deletes the oldest ones; returns how
/// many went.
pub async fn delete_overflow(
    tx: &mut WriteTransaction<'_>,
    limit: usize,
) -> Result<u64, StorageError> {
    let crowded: Vec<(String, String)> = tx
        .fetch_all(
            "SELECT user_id, device_id FROM to_device_messages
            GROUP BY user_id, device_id HAVING count(*) > $1",
            &params![limit],
        )
        .await?;
    let mut gone = 0;
    for (user, device) in crowded {
        let sql = "DELETE FROM to_device_messages WHERE user_id = $1 AND device_id = $2
            AND position <= (SELECT position FROM to_device_messages
                WHERE user_id = $1 AND device_id = $2 ORDER BY position DESC LIMIT 1 OFFSET $3)";
        gone += tx.execute(sql, &params![user, device, limit]).await?;
    }
    Ok(gone)
}

/// Of every server for which more than `limit` messages wait, deletes the oldest ones; returns how many
/// went.
pub async fn delete_outbox_overflow(
    tx: &mut WriteTransaction<'_>,
    limit: usize,
) -> Result<u64, StorageError> {
    let sql = "SELECT destination FROM to_device_outbox GROUP BY destination HAVING count(*) > $1";
    let crowded: Vec<(String,)> = tx.fetch_all(sql, &params![limit]).await?;
    let mut gone = 0;
    for (destination,) in crowded {
        let sql = "DELETE FROM to_device_outbox WHERE destination = $1
            AND position <= (SELECT position FROM to_device_outbox
                WHERE destination = $1 ORDER BY position DESC LIMIT 1 OFFSET $2)";
        gone += tx.execute(sql, &params![destination, limit]).await?;
    }
    Ok(gone)
}

/// Contents of `m.direct_to_device` for a server above `after`, oldest first, with positions.
pub async fn list_outbox(
    database: &Database,
    destination: &str,
    (after, upto): (i64, i64),
    limit: usize,
) -> Result<Vec<(i64, String)>, StorageError> {
    let sql = "SELECT position, content FROM to_device_outbox
        WHERE destination = $1 AND position > $2 AND position <= $3 ORDER BY position LIMIT $4";
    database.fetch_all(sql, &params![destination, after, upto, limit]).await
}

/// Deletes what a server has confirmed.
pub async fn delete_outbox(
    tx: &mut WriteTransaction<'_>,
    destination: &str,
    upto: i64,
) -> Result<(), StorageError> {
    let sql = "DELETE FROM to_device_outbox WHERE destination = $1 AND position <= $2";
    tx.execute(sql, &params![destination, upto]).await.map(drop)
}

/// Servers for which messages wait, above a position.
pub async fn list_destinations(
    database: &Database,
    after: i64,
) -> Result<Vec<String>, StorageError> {
    let sql = "SELECT DISTINCT destination FROM to_device_outbox WHERE position > $1";
    let rows: Vec<(String,)> = database.fetch_all(sql, &params![after]).await?;
    Ok(rows.into_iter().map(|(destination,)| destination).collect())
}

/// Notes a message of another server; false when it arrived before.
pub async fn note_received(
    tx: &mut WriteTransaction<'_>,
    origin: &str,
    message_id: &str,
    now_ts: u64,
) -> Result<bool, StorageError> {
    let sql = "INSERT INTO to_device_received (origin, message_id, received_ts)
        VALUES ($1, $2, $3) ON CONFLICT (origin, message_id) DO NOTHING";
    Ok(tx.execute(sql, &params![origin, message_id, now_ts]).await? > 0)
}

/// Forgets messages of other servers that arrived before a time.
pub async fn delete_received(
    tx: &mut WriteTransaction<'_>,
    before_ts: u64,
) -> Result<(), StorageError> {
    let sql = "DELETE FROM to_device_received WHERE received_ts < $1";
    tx.execute(sql, &params![before_ts]).await.map(drop)
}
