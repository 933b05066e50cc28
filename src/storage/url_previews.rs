//! What web pages said about themselves, and until when that is believed.

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
