//! Keys of this server's devices: identity keys, batches of one-time keys with how many of them
//! were claimed, fallback keys. Rows are written only for devices that exist.

use super::{Cell, Database, Param, Statement, StorageError, WriteTransaction, WriteTx};
use crate::params;

/// Whose device, and which.
pub type DevicePair = (String, String);

/// What is stored for one device, piece by piece.
#[derive(Clone, Debug)]
pub enum StoredPiece {
    /// Identity keys as JSON.
    Identity(String),
    /// One-time keys that were uploaded together: a JSON array of `[key ID, key]`.
    Batch {
        algorithm: String,
        number: i64,
        keys: String,
        taken: i64,
    },
    Fallback {
        algorithm: String,
        key_id: String,
        key: String,
        used: bool,
    },
    /// Positions of the oldest and the newest message that waits.
    Inbox {
        first: i64,
        last: i64,
    },
}

/// Identity keys with the name of their device.
#[derive(Clone, Debug)]
pub struct StoredDeviceKeys {
    pub user_id: String,
    pub device_id: String,
    pub keys: String,
    pub display_name: Option<String>,
}

static UPSERT_KEYS: Statement = Statement {
    table: "device_keys",
    key: 2,
    sql: "INSERT INTO device_keys (user_id, device_id, keys)
        SELECT value->>0, value->>1, value->>2 FROM json_each($1)
        WHERE EXISTS (SELECT 1 FROM devices
            WHERE devices.user_id = value->>0 AND devices.device_id = value->>1)
        ON CONFLICT (user_id, device_id) DO UPDATE SET keys = excluded.keys",
};

static INSERT_BATCH: Statement = Statement {
    table: "one_time_keys",
    key: 4,
    sql: "INSERT INTO one_time_keys (user_id, device_id, algorithm, batch, keys)
        SELECT value->>0, value->>1, value->>2, CAST(value->>3 AS BIGINT), value->>4
        FROM json_each($1) WHERE EXISTS (SELECT 1 FROM devices
            WHERE devices.user_id = value->>0 AND devices.device_id = value->>1)
        ON CONFLICT (user_id, device_id, algorithm, batch) DO UPDATE SET keys = excluded.keys",
};

static UPSERT_CLAIM: Statement = Statement {
    table: "one_time_key_claims",
    key: 4,
    sql: "INSERT INTO one_time_key_claims (user_id, device_id, algorithm, batch, taken)
        SELECT value->>0, value->>1, value->>2, CAST(value->>3 AS BIGINT),
            CAST(value->>4 AS BIGINT)
        FROM json_each($1) WHERE EXISTS (SELECT 1 FROM devices
            WHERE devices.user_id = value->>0 AND devices.device_id = value->>1)
        ON CONFLICT (user_id, device_id, algorithm, batch) DO UPDATE SET taken = excluded.taken
        WHERE excluded.taken > one_time_key_claims.taken",
};

static DELETE_BATCHES: Statement = Statement {
    table: "one_time_keys",
    key: 3,
    sql: "DELETE FROM one_time_keys WHERE (user_id, device_id, algorithm, batch) IN (
        SELECT o.user_id, o.device_id, o.algorithm, o.batch FROM json_each($1) AS v
        JOIN one_time_keys o ON o.user_id = v.value->>0 AND o.device_id = v.value->>1
            AND o.algorithm = v.value->>2 AND o.batch < CAST(v.value->>3 AS BIGINT))",
};

static DELETE_CLAIMS: Statement = Statement {
    table: "one_time_key_claims",
    key: 3,
    sql: "DELETE FROM one_time_key_claims WHERE (user_id, device_id, algorithm, batch) IN (
        SELECT o.user_id, o.device_id, o.algorithm, o.batch FROM json_each($1) AS v
        JOIN one_time_key_claims o ON o.user_id = v.value->>0 AND o.device_id = v.value->>1
            AND o.algorithm = v.value->>2 AND o.batch < CAST(v.value->>3 AS BIGINT))",
};

static UPSERT_FALLBACK: Statement = Statement {
    table: "fallback_keys",
    key: 3,
    sql: "INSERT INTO fallback_keys (user_id, device_id, algorithm, key_id, key, used)
        SELECT value->>0, value->>1, value->>2, value->>3, value->>4, CAST(value->>5 AS BIGINT)
        FROM json_each($1) WHERE EXISTS (SELECT 1 FROM devices
            WHERE devices.user_id = value->>0 AND devices.device_id = value->>1)
        ON CONFLICT (user_id, device_id, algorithm) DO UPDATE
        SET key_id = excluded.key_id, key = excluded.key, used = excluded.used",
};

/// Adds the identity keys of a device.
pub fn push_keys(tx: &mut WriteTx, (user, device): (&str, &str), keys: &str) {
    tx.push(&UPSERT_KEYS, vec![user.into(), device.into(), keys.into()]);
}

/// Adds a batch of one-time keys.
pub fn push_batch(
    tx: &mut WriteTx,
    (user, device): (&str, &str),
    algorithm: &str,
    (number, keys): (i64, &str),
) {
    let row = vec![user.into(), device.into(), algorithm.into(), number.into(), keys.into()];
    tx.push(&INSERT_BATCH, row);
}

/// Notes how many keys of a batch have been claimed.
pub fn push_claim(
    tx: &mut WriteTx,
    (user, device): (&str, &str),
    algorithm: &str,
    (number, taken): (i64, usize),
) {
    let row = vec![user.into(), device.into(), algorithm.into(), number.into(), taken.into()];
    tx.push(&UPSERT_CLAIM, row);
}

/// Adds or changes a fallback key.
pub fn push_fallback(
    tx: &mut WriteTx,
    (user, device): (&str, &str),
    algorithm: &str,
    (key_id, key, used): (&str, &str, bool),
) {
    let row =
        vec![user.into(), device.into(), algorithm.into(), key_id.into(), key.into(), used.into()];
    tx.push(&UPSERT_FALLBACK, row);
}

/// Deletes the batches of an algorithm below a number.
pub fn push_delete_batches(
    tx: &mut WriteTx,
    (user, device): (&str, &str),
    algorithm: &str,
    below: i64,
) {
    let row: Vec<Cell> = vec![user.into(), device.into(), algorithm.into(), below.into()];
    tx.push(&DELETE_BATCHES, row.clone());
    tx.push(&DELETE_CLAIMS, row);
}

static DELETE_ONE_TIME_KEYS: Statement = Statement {
    table: "one_time_keys",
    key: 2,
    sql: "DELETE FROM one_time_keys WHERE (user_id, device_id) IN
        (SELECT value->>0, value->>1 FROM json_each($1))",
};

static DELETE_ALL_CLAIMS: Statement = Statement {
    table: "one_time_key_claims",
    key: 2,
    sql: "DELETE FROM one_time_key_claims WHERE (user_id, device_id) IN
        (SELECT value->>0, value->>1 FROM json_each($1))",
};

static DELETE_FALLBACK: Statement = Statement {
    table: "fallback_keys",
    key: 2,
    sql: "DELETE FROM fallback_keys WHERE (user_id, device_id) IN
        (SELECT value->>0, value->>1 FROM json_each($1))",
};

/// Deletes one-time and fallback keys of a device: those of an earlier identity.
pub fn push_delete_keys(tx: &mut WriteTx, (user, device): (&str, &str)) {
    for statement in [&DELETE_ONE_TIME_KEYS, &DELETE_ALL_CLAIMS, &DELETE_FALLBACK] {
        tx.push(statement, vec![user.into(), device.into()]);
    }
}

/// Deletes all keys of a device; tells whether it had identity keys.
pub async fn delete_of_device(
    tx: &mut WriteTransaction<'_>,
    (user, device): (&str, &str),
) -> Result<bool, StorageError> {
    let params = params![user, device];
    for sql in [
        "DELETE FROM one_time_keys WHERE user_id = $1 AND device_id = $2",
        "DELETE FROM one_time_key_claims WHERE user_id = $1 AND device_id = $2",
        "DELETE FROM fallback_keys WHERE user_id = $1 AND device_id = $2",
    ] {
        tx.execute(sql, &params).await?;
    }
    let sql = "DELETE FROM device_keys WHERE user_id = $1 AND device_id = $2";
    Ok(tx.execute(sql, &params).await? > 0)
}

/// Discards every one-time key of every device, for a database that was restored from a backup:
/// some of them have been handed out since.
pub async fn discard_all_one_time_keys(tx: &mut WriteTransaction<'_>) -> Result<(), StorageError> {
    tx.execute("DELETE FROM one_time_keys", &[]).await?;
    tx.execute("DELETE FROM one_time_key_claims", &[]).await.map(drop)
}

/// What is stored for some devices; nothing for those that have nothing.
pub async fn load_pieces(
    database: &Database,
    devices: &[(&str, &str)],
) -> Result<Vec<(DevicePair, StoredPiece)>, StorageError> {
    let list = serde_json::to_string(devices).expect("texts are always JSON");
    let rows: Vec<PieceRow> = database
        .fetch_all(
            "SELECT CAST(1 AS BIGINT), k.user_id, k.device_id, NULL, NULL, k.keys,
                CAST(0 AS BIGINT), CAST(0 AS BIGINT)
            FROM json_each($1) AS v JOIN device_keys k
                ON k.user_id = v.value->>0 AND k.device_id = v.value->>1
            UNION ALL
            SELECT 2, o.user_id, o.device_id, o.algorithm, NULL, o.keys, o.batch,
                coalesce(c.taken, 0)
            FROM json_each($1) AS v JOIN one_time_keys o
                ON o.user_id = v.value->>0 AND o.device_id = v.value->>1
            LEFT JOIN one_time_key_claims c ON c.user_id = o.user_id
                AND c.device_id = o.device_id AND c.algorithm = o.algorithm AND c.batch = o.batch
            UNION ALL
            SELECT 3, f.user_id, f.device_id, f.algorithm, f.key_id, f.key, f.used, 0
            FROM json_each($1) AS v JOIN fallback_keys f
                ON f.user_id = v.value->>0 AND f.device_id = v.value->>1
            UNION ALL
            SELECT 4, m.user_id, m.device_id, NULL, NULL, '', min(m.position), max(m.position)
            FROM json_each($1) AS v JOIN to_device_messages m
                ON m.user_id = v.value->>0 AND m.device_id = v.value->>1
            GROUP BY m.user_id, m.device_id",
            &[Param::Text(list)],
        )
        .await?;
    Ok(rows.into_iter().map(read_piece).collect())
}

/// Identity keys of all devices of some users, or of those devices that are named.
pub async fn list_keys(
    database: &Database,
    users: &[&str],
) -> Result<Vec<StoredDeviceKeys>, StorageError> {
    let rows: Vec<(String, String, String, Option<String>)> = database
        .fetch_all(
            "SELECT k.user_id, k.device_id, k.keys, d.display_name
            FROM json_each($1) AS v JOIN device_keys k ON k.user_id = v.value->>0
            JOIN devices d ON d.user_id = k.user_id AND d.device_id = k.device_id
            ORDER BY k.user_id, k.device_id",
            &[Param::Text(super::json_text_rows(users.iter().copied()))],
        )
        .await?;
    let read = |(user_id, device_id, keys, display_name)| StoredDeviceKeys {
        user_id,
        device_id,
        keys,
        display_name,
    };
    Ok(rows.into_iter().map(read).collect())
}

/// The identity keys of one device.
pub async fn find_keys_in(
    tx: &mut WriteTransaction<'_>,
    (user, device): (&str, &str),
) -> Result<Option<String>, StorageError> {
    let sql = "SELECT keys FROM device_keys WHERE user_id = $1 AND device_id = $2";
    let row: Option<(String,)> = tx.fetch_optional(sql, &params![user, device]).await?;
    Ok(row.map(|(keys,)| keys))
}

/// The devices of some users, as pairs of user and device.
pub async fn list_devices(
    database: &Database,
    users: &[&str],
) -> Result<Vec<DevicePair>, StorageError> {
    let sql = "SELECT d.user_id, d.device_id FROM json_each($1) AS v
        JOIN devices d ON d.user_id = v.value->>0";
    let users = super::json_text_rows(users.iter().copied());
    database.fetch_all(sql, &[Param::Text(users)]).await
}

/// Devices with identity keys of the accounts that a service has made.
pub async fn list_devices_of_service(
    database: &Database,
    service: &str,
) -> Result<Vec<DevicePair>, StorageError> {
    let sql = "SELECT k.user_id, k.device_id FROM accounts a
        JOIN device_keys k ON k.user_id = a.user_id WHERE a.appservice_id = $1";
    database.fetch_all(sql, &params![service]).await
}

/// Those of `users` who have an account.
pub async fn list_existing_users(
    database: &Database,
    users: &[&str],
) -> Result<Vec<String>, StorageError> {
    let sql = "SELECT a.user_id FROM json_each($1) AS v JOIN accounts a ON a.user_id = v.value->>0";
    let users = super::json_text_rows(users.iter().copied());
    let rows: Vec<(String,)> = database.fetch_all(sql, &[Param::Text(users)]).await?;
    Ok(rows.into_iter().map(|(user,)| user).collect())
}

type PieceRow = (i64, String, String, Option<String>, Option<String>, String, i64, i64);

fn read_piece(row: PieceRow) -> (DevicePair, StoredPiece) {
    let (kind, user, device, algorithm, key_id, text, one, two) = row;
    let algorithm = algorithm.unwrap_or_default();
    let piece = match kind {
        1 => StoredPiece::Identity(text),
        2 => StoredPiece::Batch { algorithm, number: one, keys: text, taken: two },
        3 => {
            let key_id = key_id.unwrap_or_default();
            StoredPiece::Fallback { algorithm, key_id, key: text, used: one != 0 }
        }
        _ => StoredPiece::Inbox { first: one, last: two },
    };
    ((user, device), piece)
}
