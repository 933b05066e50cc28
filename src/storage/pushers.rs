//! Rows of `pushers`: where a user's notifications go; and of `push_progress`: how far they have got.

use super::{Database, RoomNid, Statement, StorageError, WriteTransaction, WriteTx};
use crate::params;

/// How far a pusher has got, beside the place that all have reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PusherProgress {
    /// What it was not told of lies behind this place of the stream.
    pub waiting_from: Option<i64>,
    /// Since when its gateway takes nothing, milliseconds since the Unix epoch.
    pub failing_since_ts: Option<u64>,
    /// When it is tried again.
    pub retry_at_ts: u64,
}

/// A pusher of the whole list: its user; its app, key and kind; how far it has got.
pub type ListedPusher = (String, (String, String, String), PusherProgress);

static SAVE_PROGRESS: Statement = Statement {
    table: "pushers",
    key: 3,
    sql: "UPDATE pushers SET waiting_from = v.waiting_from,
              failing_since_ts = v.failing_since_ts, retry_at_ts = v.retry_at_ts
          FROM (SELECT value->>0 AS user_id, value->>1 AS app_id, value->>2 AS pushkey,
                    CAST(value->>3 AS BIGINT) AS waiting_from,
                    CAST(value->>4 AS BIGINT) AS failing_since_ts,
                    CAST(value->>5 AS BIGINT) AS retry_at_ts
                FROM json_each($1)) AS v
          WHERE pushers.user_id = v.user_id AND pushers.app_id = v.app_id
              AND pushers.pushkey = v.pushkey",
};

static SAVE_POSITION: Statement = Statement {
    table: "push_progress",
    key: 1,
    sql: "UPDATE push_progress SET position = v.position
          FROM (SELECT CAST(value->>1 AS BIGINT) AS position FROM json_each($1)) AS v
          WHERE push_progress.position < v.position",
};

/// Writes how far a pusher (its user, app and key) has got.
pub fn save_progress(tx: &mut WriteTx, key: (&str, &str, &str), progress: PusherProgress) {
    let cells = vec![
        key.0.into(),
        key.1.into(),
        key.2.into(),
        progress.waiting_from.into(),
        progress.failing_since_ts.map(u64::cast_signed).into(),
        progress.retry_at_ts.into(),
    ];
    tx.push(&SAVE_PROGRESS, cells);
}

/// Writes up to where all have got that have no place of their own.
pub fn save_position(tx: &mut WriteTx, position: i64) {
    tx.push(&SAVE_POSITION, vec![0.into(), position.into()]);
}

/// Up to where all have got that have no place of their own.
pub async fn find_position(database: &Database) -> Result<i64, StorageError> {
    let row: Option<(i64,)> =
        database.fetch_optional("SELECT max(position) FROM push_progress", &[]).await?;
    Ok(row.map_or(0, |(position,)| position))
}

/// All pushers.
pub async fn list_all(database: &Database) -> Result<Vec<ListedPusher>, StorageError> {
    type Row = (String, String, String, String, Option<i64>, Option<i64>, i64);
    let sql = "SELECT user_id, app_id, pushkey, kind, waiting_from, failing_since_ts, retry_at_ts
               FROM pushers";
    let rows: Vec<Row> = database.fetch_all(sql, &[]).await?;
    let pusher = |row: Row| {
        let progress = PusherProgress {
            waiting_from: row.4,
            failing_since_ts: row.5.map(i64::cast_unsigned),
            retry_at_ts: row.6.cast_unsigned(),
        };
        (row.0, (row.1, row.2, row.3), progress)
    };
    Ok(rows.into_iter().map(pusher).collect())
}

/// Joined members of a room who have pushers.
pub async fn list_users_in_room(
    database: &Database,
    room: RoomNid,
) -> Result<Vec<String>, StorageError> {
    // The hexadecimal digits are `m.room.member`.
    let sql = "SELECT DISTINCT p.user_id FROM pushers p
               JOIN state_keys k ON k.kind = unhex('6d2e726f6f6d2e6d656d626572')
                   AND k.state_key = unhex(hex(p.user_id))
               JOIN memberships m ON m.user_nid = k.nid AND m.room_nid = $1
               WHERE m.membership = 1";
    let rows: Vec<(String,)> = database.fetch_all(sql, &params![room]).await?;
    Ok(rows.into_iter().map(|(user,)| user).collect())
}

/// Users with pushers who were invited somewhere behind a place of the stream.
pub async fn list_invited_after(
    database: &Database,
    position: i64,
) -> Result<Vec<String>, StorageError> {
    let sql = "SELECT DISTINCT p.user_id FROM pushers p
               JOIN state_keys k ON k.kind = unhex('6d2e726f6f6d2e6d656d626572')
                   AND k.state_key = unhex(hex(p.user_id))
               JOIN memberships m ON m.user_nid = k.nid
               WHERE m.membership = 2 AND m.position > $1";
    let rows: Vec<(String,)> = database.fetch_all(sql, &params![position]).await?;
    Ok(rows.into_iter().map(|(user,)| user).collect())
}

/// One pusher by its user, app and key, and when it was made, milliseconds since the Unix epoch.
pub async fn find(
    database: &Database,
    key: (&str, &str, &str),
) -> Result<Option<(StoredPusher, i64)>, StorageError> {
    type Row = (String, String, String, Option<String>, String, String, String, i64);
    let sql = "SELECT kind, app_display_name, device_display_name, profile_tag, lang, data,
                   device_id, created_ts
               FROM pushers WHERE user_id = $1 AND app_id = $2 AND pushkey = $3";
    let row: Option<Row> = database.fetch_optional(sql, &params![key.0, key.1, key.2]).await?;
    let pusher = |row: Row| {
        let pusher = StoredPusher {
            app_id: key.1.to_owned(),
            pushkey: key.2.to_owned(),
            kind: row.0,
            app_display_name: row.1,
            device_display_name: row.2,
            profile_tag: row.3,
            lang: row.4,
            data: row.5,
            device_id: row.6,
        };
        (pusher, row.7)
    };
    Ok(row.map(pusher))
}

/// A pusher as it is stored. `data` is a JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPusher {
    pub app_id: String,
    pub pushkey: String,
    pub kind: String,
    pub app_display_name: String,
    pub device_display_name: String,
    pub profile_tag: Option<String>,
    pub lang: String,
    pub data: String,
    /// The device that set it.
    pub device_id: String,
}

/// Makes a pusher, or changes the one with the same app and key.
pub async fn save(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    pusher: &StoredPusher,
    now_ts: u64,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO pushers (user_id, app_id, pushkey, kind, app_display_name,
            device_display_name, profile_tag, lang, data, device_id, created_ts)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        ON CONFLICT (user_id, app_id, pushkey) DO UPDATE SET kind = excluded.kind,
            app_display_name = excluded.app_display_name,
            device_display_name = excluded.device_display_name,
            profile_tag = excluded.profile_tag, lang = excluded.lang, data = excluded.data,
            device_id = excluded.device_id";
    let params = params![
        user_id,
        &pusher.app_id,
        &pusher.pushkey,
        &pusher.kind,
        &pusher.app_display_name,
        &pusher.device_display_name,
        pusher.profile_tag.clone(),
        &pusher.lang,
        &pusher.data,
        &pusher.device_id,
        now_ts,
    ];
    tx.execute(sql, &params).await.map(drop)
}

/// Deletes one pusher; without effect when there is none.
pub async fn delete(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    app_id: &str,
    pushkey: &str,
) -> Result<(), StorageError> {
    let sql = "DELETE FROM pushers WHERE user_id = $1 AND app_id = $2 AND pushkey = $3";
    tx.execute(sql, &params![user_id, app_id, pushkey]).await.map(drop)
}

/// Deletes what others than this user have with the same app and key.
pub async fn delete_of_others(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    app_id: &str,
    pushkey: &str,
) -> Result<(), StorageError> {
    let sql = "DELETE FROM pushers WHERE user_id <> $1 AND app_id = $2 AND pushkey = $3";
    tx.execute(sql, &params![user_id, app_id, pushkey]).await.map(drop)
}

/// How many pushers a user has.
pub async fn count(tx: &mut WriteTransaction<'_>, user_id: &str) -> Result<i64, StorageError> {
    let sql = "SELECT count(*) FROM pushers WHERE user_id = $1";
    let row: Option<(i64,)> = tx.fetch_optional(sql, &params![user_id]).await?;
    Ok(row.map_or(0, |(count,)| count))
}

/// All pushers of a user; their number is limited when they are made.
pub async fn list(database: &Database, user_id: &str) -> Result<Vec<StoredPusher>, StorageError> {
    type Row = (String, String, String, String, String, Option<String>, String, String, String);
    let rows: Vec<Row> = database
        .fetch_all(
            "SELECT app_id, pushkey, kind, app_display_name, device_display_name, profile_tag,
                lang, data, device_id
            FROM pushers WHERE user_id = $1 ORDER BY app_id, pushkey",
            &params![user_id],
        )
        .await?;
    let pusher = |row: Row| StoredPusher {
        app_id: row.0,
        pushkey: row.1,
        kind: row.2,
        app_display_name: row.3,
        device_display_name: row.4,
        profile_tag: row.5,
        lang: row.6,
        data: row.7,
        device_id: row.8,
    };
    Ok(rows.into_iter().map(pusher).collect())
}
