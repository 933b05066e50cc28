//! What web pages said about themselves, until when that is believed, and the pictures in it.

use super::{Database, StorageError, WriteTransaction};
use crate::params;

/// The preview of a page as JSON, if one is kept that is still believed.
pub async fn find(
    database: &Database,
    url: &str,
    now_ts: u64,
) -> Result<Option<String>, StorageError> {
    let row: Option<(String,)> = database
        .fetch_optional(
            "SELECT preview FROM url_previews WHERE url = $1 AND expires_ts > $2",
            &params![url, now_ts],
        )
        .await?;
    Ok(row.map(|(preview,)| preview))
}

pub async fn put(
    tx: &mut WriteTransaction<'_>,
    url: &str,
    preview: &str,
    expires_ts: u64,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO url_previews (url, preview, expires_ts) VALUES ($1, $2, $3)
        ON CONFLICT (url) DO UPDATE
        SET preview = excluded.preview, expires_ts = excluded.expires_ts";
    tx.execute(sql, &params![url, preview, expires_ts]).await.map(drop)
}

pub async fn delete_expired(
    tx: &mut WriteTransaction<'_>,
    now_ts: u64,
) -> Result<(), StorageError> {
    tx.execute("DELETE FROM url_previews WHERE expires_ts <= $1", &params![now_ts]).await.map(drop)
}

/// Notes until when a picture is shown.
pub async fn keep_picture(
    tx: &mut WriteTransaction<'_>,
    media_id: &str,
    expires_ts: u64,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO preview_pictures (media_id, expires_ts) VALUES ($1, $2)
        ON CONFLICT (media_id) DO UPDATE SET expires_ts = excluded.expires_ts";
    tx.execute(sql, &params![media_id, expires_ts]).await.map(drop)
}

/// Media IDs of pictures that no preview shows any more.
pub async fn list_expired_pictures(
    database: &Database,
    now_ts: u64,
    limit: usize,
) -> Result<Vec<String>, StorageError> {
    let sql = "SELECT media_id FROM preview_pictures WHERE expires_ts <= $1
        ORDER BY expires_ts LIMIT $2";
    let rows: Vec<(String,)> = database.fetch_all(sql, &params![now_ts, limit]).await?;
    Ok(rows.into_iter().map(|(media_id,)| media_id).collect())
}

/// Whether a picture is shown by no preview any more.
pub async fn is_picture_expired(
    database: &Database,
    media_id: &str,
    now_ts: u64,
) -> Result<bool, StorageError> {
    let sql = "SELECT media_id FROM preview_pictures WHERE media_id = $1 AND expires_ts <= $2";
    let row: Option<(String,)> = database.fetch_optional(sql, &params![media_id, now_ts]).await?;
    Ok(row.is_some())
}

/// Forgets a picture.
pub async fn delete_picture(
    tx: &mut WriteTransaction<'_>,
    media_id: &str,
) -> Result<(), StorageError> {
    let sql = "DELETE FROM preview_pictures WHERE media_id = $1";
    tx.execute(sql, &params![media_id]).await.map(drop)
}
