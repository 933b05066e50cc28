//! Rows of `pushers`: where a user's notifications go.

use super::{Database, StorageError, WriteTransaction};
use crate::params;

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
