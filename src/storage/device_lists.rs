//! When whose device list changed, for clients (`device_list_changes`) and for other servers
//! (`device_changes`); and who shares rooms with whom.

use super::{
    Cell, Database, Param, RoomNid, Statement, StorageError, UserNid, WriteTransaction, WriteTx,
};
use crate::params;

/// The latest change of one device; an empty `device_id` stands for cross-signing keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceChange {
    pub user_id: String,
    pub device_id: String,
    pub position: i64,
    /// The user's change before it.
    pub previous: Option<i64>,
}

static UPSERT_CHANGE: Statement = Statement {
    table: "device_list_changes",
    key: 1,
    sql: "INSERT INTO device_list_changes (user_id, position)
        SELECT value->>0, CAST(value->>1 AS BIGINT) FROM json_each($1) WHERE true
        ON CONFLICT (user_id) DO UPDATE SET position = excluded.position",
};

// `previous` must have been the `stream_id` of an earlier `m.device_list_update` (server-server API): the
// cross-signing keys have none.
static UPSERT_DEVICE: Statement = Statement {
    table: "device_changes",
    key: 2,
    sql: "INSERT INTO device_changes (user_id, device_id, position, previous)
        SELECT value->>0, value->>1, CAST(value->>2 AS BIGINT),
            (SELECT max(c.position) FROM device_changes c
                WHERE c.user_id = value->>0 AND c.device_id <> '')
        FROM json_each($1) WHERE true
        ON CONFLICT (user_id, device_id)
        DO UPDATE SET position = excluded.position, previous = excluded.previous",
};

/// Notes a change of a device of this server at the job's position `position`.
pub fn push_change(tx: &mut WriteTx, user: &str, device: &str, position: u32) {
    tx.push(&UPSERT_DEVICE, vec![user.into(), device.into(), Cell::Position(position)]);
    push_list_change(tx, user, position);
}

/// Notes that something of a user's device list changed, for clients only.
pub fn push_list_change(tx: &mut WriteTx, user: &str, position: u32) {
    tx.push(&UPSERT_CHANGE, vec![user.into(), Cell::Position(position)]);
}

/// Notes a change of a device of this server within a transaction; returns its position.
pub async fn note_change(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    device: &str,
) -> Result<i64, StorageError> {
    let position = note_device(tx, user, device).await?;
    note_list_change(tx, user, position).await?;
    Ok(position)
}

/// Notes a device of this server within a transaction, for other servers only; returns the position.
pub async fn note_device(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    device: &str,
) -> Result<i64, StorageError> {
    let position = tx.next_position();
    let row = Param::Text(serde_json::json!([[user, device, position]]).to_string());
    tx.execute(UPSERT_DEVICE.sql, &[row]).await?;
    Ok(position)
}

/// Whether other servers were told of a device of this server.
pub async fn is_told(
    tx: &mut WriteTransaction<'_>,
    (user, device): (&str, &str),
) -> Result<bool, StorageError> {
    let sql = "SELECT position FROM device_changes WHERE user_id = $1 AND device_id = $2";
    let row: Option<(i64,)> = tx.fetch_optional(sql, &params![user, device]).await?;
    Ok(row.is_some())
}

/// Notes at a position that something of a user's device list changed, for clients only.
pub async fn note_list_change(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    position: i64,
) -> Result<(), StorageError> {
    let row = Param::Text(serde_json::json!([[user, position]]).to_string());
    tx.execute(UPSERT_CHANGE.sql, &[row]).await.map(drop)
}

/// Users whose device lists changed above `since` up to `upto` and who share one of the viewer's
/// joined rooms.
pub async fn list_changed_sharing(
    database: &Database,
    viewer: UserNid,
    (since, upto): (i64, i64),
) -> Result<Vec<String>, StorageError> {
    let rows: Vec<(String,)> = database
        .fetch_all(
            "SELECT c.user_id FROM device_list_changes c
            JOIN state_keys k ON k.kind = unhex('6d2e726f6f6d2e6d656d626572')
                AND k.state_key = unhex(hex(c.user_id))
            WHERE c.position > $2 AND c.position <= $3 AND EXISTS (
                SELECT 1 FROM memberships t JOIN memberships m
                    ON m.user_nid = $1 AND m.room_nid = t.room_nid AND m.membership = 1
                WHERE t.user_nid = k.nid AND t.membership = 1)",
            &params![viewer, since, upto],
        )
        .await?;
    Ok(rows.into_iter().map(|(user,)| user).collect())
}

/// Those of `users` who are members of a room now, or whose membership there changed above the
/// position `since`, with their identifiers.
pub async fn list_members_among(
    database: &Database,
    (room, since): (RoomNid, i64),
    users: &[UserNid],
) -> Result<Vec<(UserNid, Vec<u8>)>, StorageError> {
    let rows: Vec<(i64, Vec<u8>)> = database
        .fetch_all(
            "SELECT k.nid, k.state_key FROM json_each($1) AS v
            JOIN memberships m ON m.user_nid = CAST(v.value->>0 AS BIGINT) AND m.room_nid = $2
            JOIN state_keys k ON k.nid = m.user_nid
            WHERE m.membership = 1 OR m.position > $3",
            &[
                Param::Text(super::json_rows(users.iter().map(|user| user.0))),
                room.into(),
                since.into(),
            ],
        )
        .await?;
    Ok(rows.into_iter().map(|(nid, user)| (super::StateKeyNid(nid), user)).collect())
}

/// Those of `users` who share no joined room with the viewer, with their identifiers.
pub async fn list_not_sharing(
    database: &Database,
    viewer: UserNid,
    users: &[UserNid],
) -> Result<Vec<Vec<u8>>, StorageError> {
    let rows: Vec<(Vec<u8>,)> = database
        .fetch_all(
            "SELECT k.state_key FROM json_each($1) AS v
            JOIN state_keys k ON k.nid = CAST(v.value->>0 AS BIGINT)
            WHERE NOT EXISTS (SELECT 1 FROM memberships t JOIN memberships m
                    ON m.user_nid = $2 AND m.room_nid = t.room_nid AND m.membership = 1
                WHERE t.user_nid = k.nid AND t.membership = 1)",
            &[Param::Text(super::json_rows(users.iter().map(|user| user.0))), viewer.into()],
        )
        .await?;
    Ok(rows.into_iter().map(|(user,)| user).collect())
}

/// The latest changes of devices above `after`, in the order of positions.
pub async fn list_device_changes(
    database: &Database,
    (after, upto): (i64, i64),
    limit: usize,
) -> Result<Vec<DeviceChange>, StorageError> {
    let sql = "SELECT user_id, device_id, position, previous FROM device_changes
        WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3";
    let rows: Vec<ChangeRow> = database.fetch_all(sql, &params![after, upto, limit]).await?;
    Ok(rows.into_iter().map(read_change).collect())
}

/// The latest change of each device that a user of this server has, and of the cross-signing keys,
/// newest first.
pub async fn list_devices_of(
    database: &Database,
    user: &str,
    limit: usize,
) -> Result<Vec<DeviceChange>, StorageError> {
    let sql = "SELECT c.user_id, c.device_id, c.position, c.previous FROM device_changes c
        WHERE c.user_id = $1 AND (c.device_id = '' OR EXISTS (SELECT 1 FROM devices d
            WHERE d.user_id = c.user_id AND d.device_id = c.device_id))
        ORDER BY c.position DESC LIMIT $2";
    let rows: Vec<ChangeRow> = database.fetch_all(sql, &params![user, limit]).await?;
    Ok(rows.into_iter().map(read_change).collect())
}

/// Devices of a user of this server that nobody was told of, newest first.
pub async fn list_untold(
    database: &Database,
    user: &str,
    limit: usize,
) -> Result<Vec<String>, StorageError> {
    let sql = "SELECT d.device_id FROM devices d WHERE d.user_id = $1
        AND NOT EXISTS (SELECT 1 FROM device_changes c
            WHERE c.user_id = d.user_id AND c.device_id = d.device_id)
        ORDER BY d.created_ts DESC, d.device_id LIMIT $2";
    let rows: Vec<(String,)> = database.fetch_all(sql, &params![user, limit]).await?;
    Ok(rows.into_iter().map(|(device,)| device).collect())
}

/// Users whose lists changed above `after` up to `upto`, with when they did, oldest first.
pub async fn list_changed(
    database: &Database,
    (after, upto): (i64, i64),
    limit: usize,
) -> Result<Vec<(String, i64)>, StorageError> {
    let sql = "SELECT user_id, position FROM device_list_changes
        WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3";
    database.fetch_all(sql, &params![after, upto, limit]).await
}

/// The `stream_id` of the latest change of a device of a user of this server; 0 when there was none.
pub async fn find_stream_id(database: &Database, user: &str) -> Result<i64, StorageError> {
    let sql = "SELECT coalesce(max(position), 0) FROM device_changes
        WHERE user_id = $1 AND device_id <> ''";
    let row: Option<(i64,)> = database.fetch_optional(sql, &params![user]).await?;
    Ok(row.map_or(0, |(stream_id,)| stream_id))
}

/// The position of a user's latest change.
pub async fn find_position(database: &Database, user: &str) -> Result<Option<i64>, StorageError> {
    let sql = "SELECT position FROM device_list_changes WHERE user_id = $1";
    let row: Option<(i64,)> = database.fetch_optional(sql, &params![user]).await?;
    Ok(row.map(|(position,)| position))
}

type ChangeRow = (String, String, i64, Option<i64>);

fn read_change((user_id, device_id, position, previous): ChangeRow) -> DeviceChange {
    DeviceChange { user_id, device_id, position, previous }
}
