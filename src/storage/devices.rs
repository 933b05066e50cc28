//! Devices: their names, and when they were last used.

use super::{Database, Statement, StorageError, WriteTransaction, WriteTx};
use crate::params;

/// A device with its latest visit.
#[derive(Clone, Debug)]
pub struct StoredDevice {
    pub device_id: String,
    pub display_name: Option<String>,
    pub created_ts: i64,
    pub seen_ts: Option<i64>,
    pub ip: Option<String>,
}

static UPSERT_VISITS: Statement = Statement {
    table: "device_visits",
    key: 2,
    sql:
        "INSERT INTO device_visits (user_id, device_id, seen_ts, ip)
        SELECT value->>0, value->>1, CAST(value->>2 AS BIGINT), value->>3
        FROM json_each($1) WHERE EXISTS (SELECT 1 FROM devices
            WHERE devices.user_id = value->>0 AND devices.device_id = value->>1)
        ON CONFLICT (user_id, device_id) DO UPDATE SET seen_ts = excluded.seen_ts, ip = excluded.ip",
};

/// Adds a visit to a batch; without effect for a device that is gone.
pub fn push_visit(
    tx: &mut WriteTx,
    user_id: &str,
    device_id: &str,
    seen_ts: u64,
    ip: Option<String>,
) {
    tx.push(&UPSERT_VISITS, vec![user_id.into(), device_id.into(), seen_ts.into(), ip.into()]);
}

/// Makes a device unless it exists; tells whether it is new.
pub async fn insert(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    device_id: &str,
    display_name: Option<&str>,
    created_ts: u64,
) -> Result<bool, StorageError> {
    let sql = "INSERT INTO devices (user_id, device_id, display_name, created_ts)
        VALUES ($1, $2, $3, $4) ON CONFLICT (user_id, device_id) DO NOTHING";
    Ok(tx.execute(sql, &params![user_id, device_id, display_name, created_ts]).await? > 0)
}

pub async fn count(tx: &mut WriteTransaction<'_>, user_id: &str) -> Result<i64, StorageError> {
    let sql = "SELECT count(*) FROM devices WHERE user_id = $1";
    let row: Option<(i64,)> = tx.fetch_optional(sql, &params![user_id]).await?;
    Ok(row.map_or(0, |(count,)| count))
}

/// All devices of a user (their number is limited when they are made).
pub async fn list(database: &Database, user_id: &str) -> Result<Vec<StoredDevice>, StorageError> {
    let rows: Vec<DeviceRow> = database
        .fetch_all(
            "SELECT d.device_id, d.display_name, d.created_ts, v.seen_ts, v.ip
            FROM devices d LEFT JOIN device_visits v
                ON v.user_id = d.user_id AND v.device_id = d.device_id
            WHERE d.user_id = $1 ORDER BY d.device_id",
            &params![user_id],
        )
        .await?;
    Ok(rows.into_iter().map(StoredDevice::from).collect())
}

pub async fn find(
    database: &Database,
    user_id: &str,
    device_id: &str,
) -> Result<Option<StoredDevice>, StorageError> {
    let row: Option<DeviceRow> = database
        .fetch_optional(
            "SELECT d.device_id, d.display_name, d.created_ts, v.seen_ts, v.ip
            FROM devices d LEFT JOIN device_visits v
                ON v.user_id = d.user_id AND v.device_id = d.device_id
            WHERE d.user_id = $1 AND d.device_id = $2",
            &params![user_id, device_id],
        )
        .await?;
    Ok(row.map(StoredDevice::from))
}

/// Whether a user has a device of this ID.
pub async fn exists_in(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    device_id: &str,
) -> Result<bool, StorageError> {
    let sql = "SELECT created_ts FROM devices WHERE user_id = $1 AND device_id = $2";
    let row: Option<(i64,)> = tx.fetch_optional(sql, &params![user_id, device_id]).await?;
    Ok(row.is_some())
}

/// Renames a device; false when there is none.
pub async fn rename(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    device_id: &str,
    display_name: Option<&str>,
) -> Result<bool, StorageError> {
    let sql = "UPDATE devices SET display_name = $3 WHERE user_id = $1 AND device_id = $2";
    Ok(tx.execute(sql, &params![user_id, device_id, display_name]).await? > 0)
}

/// Deletes a device without its sessions (see `tokens::delete_of_device`); false when there is none.
pub async fn delete(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    device_id: &str,
) -> Result<bool, StorageError> {
    let params = params![user_id, device_id];
    tx.execute("DELETE FROM device_visits WHERE user_id = $1 AND device_id = $2", &params).await?;
    tx.execute("DELETE FROM pushers WHERE user_id = $1 AND device_id = $2", &params).await?;
    let sql = "DELETE FROM devices WHERE user_id = $1 AND device_id = $2";
    Ok(tx.execute(sql, &params).await? > 0)
}

/// Deletes all devices of a user but `kept`; returns their IDs.
pub async fn delete_of_user(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    kept: Option<&str>,
) -> Result<Vec<String>, StorageError> {
    let params = params![user_id, kept];
    for sql in [
        "DELETE FROM device_visits WHERE user_id = $1 AND ($2 IS NULL OR device_id <> $2)",
        "DELETE FROM pushers WHERE user_id = $1 AND ($2 IS NULL OR device_id <> $2)",
    ] {
        tx.execute(sql, &params).await?;
    }
    let gone: Vec<(String,)> = tx
        .fetch_all(
            "DELETE FROM devices WHERE user_id = $1 AND ($2 IS NULL OR device_id <> $2)
            RETURNING device_id",
            &params,
        )
        .await?;
    Ok(gone.into_iter().map(|(device_id,)| device_id).collect())
}

type DeviceRow = (String, Option<String>, i64, Option<i64>, Option<String>);

impl From<DeviceRow> for StoredDevice {
    fn from((device_id, display_name, created_ts, seen_ts, ip): DeviceRow) -> Self {
        Self { device_id, display_name, created_ts, seen_ts, ip }
    }
}
