//! Rows of `sliding_connections` and `sliding_rooms`: what connections of sliding sync were told.
//! What the texts in them mean is known to `sync` alone.

use super::{Database, RoomNid, Statement, StorageError, WriteTransaction, WriteTx};
use crate::params;

/// Who a connection belongs to: user, device, and the client's name for it.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionName<'a> {
    pub user_id: &'a str,
    pub device_id: &'a str,
    pub conn_id: &'a str,
}

/// A connection without its rooms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredConnection {
    pub nid: i64,
    pub generation: i64,
    pub configs: String,
    pub told: String,
    /// Milliseconds since the epoch.
    pub used_ms: i64,
}

static SAVE_CONNECTION: Statement = Statement {
    table: "sliding_connections",
    key: 3,
    sql: "INSERT INTO sliding_connections
            (user_id, device_id, conn_id, connection_nid, generation, configs, told, used_ms)
        SELECT value->>0, value->>1, value->>2, CAST(value->>3 AS BIGINT),
            CAST(value->>4 AS BIGINT), value->>5, value->>6, CAST(value->>7 AS BIGINT)
        FROM json_each($1) WHERE true
        ON CONFLICT (user_id, device_id, conn_id) DO UPDATE SET
            connection_nid = excluded.connection_nid, generation = excluded.generation,
            configs = excluded.configs, told = excluded.told, used_ms = excluded.used_ms",
};

static SAVE_ROOM: Statement = Statement {
    table: "sliding_rooms",
    key: 2,
    sql: "INSERT INTO sliding_rooms (connection_nid, room_nid, sent)
        SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), value->>2
        FROM json_each($1) WHERE true
        ON CONFLICT (connection_nid, room_nid) DO UPDATE SET sent = excluded.sent",
};

/// Writes a connection in the place of an earlier one of this name.
pub fn save_connection(tx: &mut WriteTx, name: ConnectionName<'_>, stored: &StoredConnection) {
    let cells = vec![
        name.user_id.into(),
        name.device_id.into(),
        name.conn_id.into(),
        stored.nid.into(),
        stored.generation.into(),
        stored.configs.as_str().into(),
        stored.told.as_str().into(),
        stored.used_ms.into(),
    ];
    tx.push(&SAVE_CONNECTION, cells);
}

/// Writes what a connection was told of a room.
pub fn save_room(tx: &mut WriteTx, connection_nid: i64, room: RoomNid, sent: String) {
    tx.push(&SAVE_ROOM, vec![connection_nid.into(), room.into(), sent.into()]);
}

/// The connection of this name.
pub async fn find_connection(
    database: &Database,
    name: ConnectionName<'_>,
) -> Result<Option<StoredConnection>, StorageError> {
    let sql = "SELECT connection_nid, generation, configs, told, used_ms FROM sliding_connections
        WHERE user_id = $1 AND device_id = $2 AND conn_id = $3";
    let params = params![name.user_id, name.device_id, name.conn_id];
    let row: Option<(i64, i64, String, String, i64)> =
        database.fetch_optional(sql, &params).await?;
    Ok(row.map(|(nid, generation, configs, told, used_ms)| StoredConnection {
        nid,
        generation,
        configs,
        told,
        used_ms,
    }))
}

/// What a connection was told of its rooms.
pub async fn list_rooms(
    database: &Database,
    connection_nid: i64,
) -> Result<Vec<(RoomNid, String)>, StorageError> {
    let sql = "SELECT room_nid, sent FROM sliding_rooms WHERE connection_nid = $1";
    let rows: Vec<(i64, String)> = database.fetch_all(sql, &params![connection_nid]).await?;
    Ok(rows.into_iter().map(|(room, sent)| (RoomNid(room), sent)).collect())
}

/// Deletes connections that nobody used since `used_ms`, that belong to devices that are gone, or
/// that are one too many for their device; and the rooms of connections that are no more.
pub async fn delete_abandoned(
    tx: &mut WriteTransaction<'_>,
    used_ms: u64,
    per_device_max: usize,
) -> Result<(), StorageError> {
    tx.execute(
        "DELETE FROM sliding_connections WHERE used_ms < $1 OR NOT EXISTS (SELECT 1 FROM devices
            WHERE devices.user_id = sliding_connections.user_id
                AND devices.device_id = sliding_connections.device_id)",
        &params![used_ms],
    )
    .await?;
    tx.execute(
        "DELETE FROM sliding_connections WHERE $1 <= (SELECT count(*) FROM sliding_connections newer
            WHERE newer.user_id = sliding_connections.user_id
                AND newer.device_id = sliding_connections.device_id
                AND newer.connection_nid > sliding_connections.connection_nid)",
        &params![per_device_max],
    )
    .await?;
    tx.execute(
        "DELETE FROM sliding_rooms WHERE NOT EXISTS (SELECT 1 FROM sliding_connections
            WHERE sliding_connections.connection_nid = sliding_rooms.connection_nid)",
        &[],
    )
    .await?;
    Ok(())
}
