//! Uploaded media: what is known about them, and media IDs that wait for their content.
//! The contents themselves are files (see `media::content`).

use super::{Database, Statement, StorageError, WriteTransaction, WriteTx};
use crate::params;

/// SHA-256 of a content.
pub const CONTENT_HASH_BYTES: usize = 32;

/// One upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMedia {
    pub media_id: String,
    pub content_hash: [u8; CONTENT_HASH_BYTES],
    pub size_bytes: u64,
    pub content_type: String,
    pub filename: Option<String>,
    pub user_id: String,
    /// Milliseconds since the Unix epoch.
    pub created_ts: u64,
    /// Uploaded while the paths that ask for no login handed out new media.
    pub is_open: bool,
}

/// A media ID without content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredReservation {
    pub user_id: String,
    /// Milliseconds since the Unix epoch.
    pub expires_ts: u64,
}

static INSERT_MEDIA: Statement = Statement {
    table: "media",
    key: 1,
    sql: "INSERT INTO media (media_id, content_hash, size_bytes, content_type, filename, user_id,
            created_ts, is_open)
        SELECT value->>0, unhex(value->>1), CAST(value->>2 AS BIGINT), value->>3, value->>4,
            value->>5, CAST(value->>6 AS BIGINT), CAST(value->>7 AS BIGINT)
        FROM json_each($1)",
};

/// Adds an upload under a new media ID to a batch.
pub fn push_media(tx: &mut WriteTx, media: &StoredMedia) {
    let row = vec![
        media.media_id.as_str().into(),
        media.content_hash.as_slice().into(),
        media.size_bytes.into(),
        media.content_type.as_str().into(),
        media.filename.as_deref().into(),
        media.user_id.as_str().into(),
        media.created_ts.into(),
        media.is_open.into(),
    ];
    tx.push(&INSERT_MEDIA, row);
}

pub async fn find(
    database: &Database,
    media_id: &str,
) -> Result<Option<StoredMedia>, StorageError> {
    let row: Option<MediaRow> = database
        .fetch_optional(
            "SELECT media_id, content_hash, size_bytes, content_type, filename, user_id,
                created_ts, is_open
            FROM media WHERE media_id = $1",
            &params![media_id],
        )
        .await?;
    row.map(StoredMedia::try_from).transpose()
}

/// By what uploads are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaOrder {
    Created,
    Size,
    Type,
    Filename,
}

/// A part of a list of uploads.
#[derive(Clone, Copy, Debug)]
pub struct MediaPage {
    pub order: MediaOrder,
    pub backwards: bool,
    pub from: usize,
    pub limit: usize,
}

/// The list in both directions.
macro_rules! list_by {
    ($column:literal) => {
        [
            concat!(
                "SELECT media_id, content_hash, size_bytes, content_type, filename, user_id,
                     created_ts, is_open
                 FROM media WHERE user_id = $1 ORDER BY ",
                $column,
                ", media_id LIMIT $2 OFFSET $3"
            ),
            concat!(
                "SELECT media_id, content_hash, size_bytes, content_type, filename, user_id,
                     created_ts, is_open
                 FROM media WHERE user_id = $1 ORDER BY ",
                $column,
                " DESC, media_id DESC LIMIT $2 OFFSET $3"
            ),
        ]
    };
}

/// What a user has uploaded.
pub async fn list_of_user(
    database: &Database,
    user_id: &str,
    page: MediaPage,
) -> Result<Vec<StoredMedia>, StorageError> {
    let [forwards, backwards] = match page.order {
        MediaOrder::Created => list_by!("created_ts"),
        MediaOrder::Size => list_by!("size_bytes"),
        MediaOrder::Type => list_by!("content_type"),
        MediaOrder::Filename => list_by!("coalesce(filename, '')"),
    };
    let sql = if page.backwards { backwards } else { forwards };
    let rows: Vec<MediaRow> =
        database.fetch_all(sql, &params![user_id, page.limit, page.from]).await?;
    rows.into_iter().map(StoredMedia::try_from).collect()
}

pub async fn count_of_user(database: &Database, user_id: &str) -> Result<u64, StorageError> {
    let sql = "SELECT count(*) FROM media WHERE user_id = $1";
    let (count,): (i64,) = database.fetch_one(sql, &params![user_id]).await?;
    Ok(count.cast_unsigned())
}

/// A content of another server, which nobody of this one has uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteMediaRow {
    pub media_id: String,
    pub content_hash: [u8; CONTENT_HASH_BYTES],
    pub size_bytes: u64,
    /// When it was last wanted, to a day. Milliseconds since the Unix epoch.
    pub used_ts: u64,
}

static TOUCH: Statement = Statement {
    table: "media_used",
    key: 1,
    sql: "UPDATE media SET created_ts = (SELECT max(CAST(v.value->>1 AS BIGINT))
            FROM json_each($1) AS v WHERE v.value->>0 = media.media_id)
        WHERE media_id IN (SELECT value->>0 FROM json_each($1))",
};

/// Notes when a content of another server was last wanted.
pub fn touch(tx: &mut WriteTx, media_id: &str, used_ts: u64) {
    tx.push(&TOUCH, vec![media_id.into(), used_ts.into()]);
}

/// Contents of other servers, those first that were not wanted for longest.
pub async fn list_remote(
    database: &Database,
    limit: usize,
) -> Result<Vec<RemoteMediaRow>, StorageError> {
    let sql = "SELECT media_id, content_hash, size_bytes, created_ts FROM media
        WHERE user_id = '' ORDER BY created_ts LIMIT $1";
    let rows: Vec<(String, Vec<u8>, i64, i64)> = database.fetch_all(sql, &params![limit]).await?;
    let read = |(media_id, hash, size_bytes, used_ts): (String, Vec<u8>, i64, i64)| {
        Ok(RemoteMediaRow {
            media_id,
            content_hash: read_hash(hash)?,
            size_bytes: size_bytes.cast_unsigned(),
            used_ts: used_ts.cast_unsigned(),
        })
    };
    rows.into_iter().map(read).collect()
}

/// What contents of other servers take, bytes.
pub async fn sum_remote(database: &Database) -> Result<u64, StorageError> {
    load_sum_of_uploads(database, "").await
}

/// Deletes media IDs with what is known about them.
pub async fn delete(
    tx: &mut WriteTransaction<'_>,
    media_ids: &[String],
) -> Result<(), StorageError> {
    let sql = "DELETE FROM media WHERE media_id = $1";
    for media_id in media_ids {
        tx.execute(sql, &params![media_id]).await?;
    }
    Ok(())
}

/// Whether a media ID has this content.
pub async fn is_content_known(
    database: &Database,
    content_hash: &[u8; CONTENT_HASH_BYTES],
) -> Result<bool, StorageError> {
    let sql = "SELECT size_bytes FROM media WHERE content_hash = $1 LIMIT 1";
    let row: Option<(i64,)> =
        database.fetch_optional(sql, &params![content_hash.as_slice()]).await?;
    Ok(row.is_some())
}

pub async fn find_reservation(
    database: &Database,
    media_id: &str,
) -> Result<Option<StoredReservation>, StorageError> {
    let sql = "SELECT user_id, expires_ts FROM media_reservations WHERE media_id = $1";
    let row: Option<(String, i64)> = database.fetch_optional(sql, &params![media_id]).await?;
    Ok(row.map(|(user_id, expires_ts)| StoredReservation {
        user_id,
        expires_ts: expires_ts.cast_unsigned(),
    }))
}

/// How many media IDs of a user wait for their content, and when the first of them expires.
pub async fn count_reservations(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    now_ts: u64,
) -> Result<(u64, Option<u64>), StorageError> {
    let sql = "SELECT count(*), min(expires_ts) FROM media_reservations
        WHERE user_id = $1 AND expires_ts > $2";
    let row: Option<(i64, Option<i64>)> = tx.fetch_optional(sql, &params![user_id, now_ts]).await?;
    let (count, first) = row.ok_or(StorageError::RowMissing)?;
    Ok((count.cast_unsigned(), first.map(i64::cast_unsigned)))
}

pub async fn insert_reservation(
    tx: &mut WriteTransaction<'_>,
    media_id: &str,
    user_id: &str,
    expires_ts: u64,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO media_reservations (media_id, user_id, expires_ts) VALUES ($1, $2, $3)";
    tx.execute(sql, &params![media_id, user_id, expires_ts]).await.map(drop)
}

/// What a user has uploaded in all, bytes.
pub async fn sum_uploads(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
) -> Result<u64, StorageError> {
    let row: Option<(i64,)> = tx.fetch_optional(SUM_SQL, &params![user_id]).await?;
    let (bytes,) = row.ok_or(StorageError::RowMissing)?;
    Ok(bytes.cast_unsigned())
}

/// The same, as far as it is committed.
pub async fn load_sum_of_uploads(database: &Database, user_id: &str) -> Result<u64, StorageError> {
    let (bytes,): (i64,) = database.fetch_one(SUM_SQL, &params![user_id]).await?;
    Ok(bytes.cast_unsigned())
}

/// Turns a reservation into media; false when there is none.
pub async fn fulfil_reservation(
    tx: &mut WriteTransaction<'_>,
    media: &StoredMedia,
) -> Result<bool, StorageError> {
    let sql = "DELETE FROM media_reservations WHERE media_id = $1";
    if tx.execute(sql, &params![&media.media_id]).await? == 0 {
        return Ok(false);
    }
    insert(tx, media).await?;
    Ok(true)
}

/// Adds an upload under a new media ID.
pub async fn insert(
    tx: &mut WriteTransaction<'_>,
    media: &StoredMedia,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO media (media_id, content_hash, size_bytes, content_type, filename,
            user_id, created_ts, is_open)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let params = params![
        &media.media_id,
        media.content_hash.as_slice(),
        media.size_bytes,
        &media.content_type,
        media.filename.as_deref(),
        &media.user_id,
        media.created_ts,
        i64::from(media.is_open),
    ];
    tx.execute(sql, &params).await.map(drop)
}

pub async fn delete_expired_reservations(
    tx: &mut WriteTransaction<'_>,
    now_ts: u64,
) -> Result<u64, StorageError> {
    tx.execute("DELETE FROM media_reservations WHERE expires_ts <= $1", &params![now_ts]).await
}

const SUM_SQL: &str =
    "SELECT CAST(coalesce(sum(size_bytes), 0) AS BIGINT) FROM media WHERE user_id = $1";

type MediaRow = (String, Vec<u8>, i64, String, Option<String>, String, i64, i64);

impl TryFrom<MediaRow> for StoredMedia {
    type Error = StorageError;

    fn try_from(row: MediaRow) -> Result<Self, StorageError> {
        let (media_id, hash, size_bytes, content_type, filename, user_id, created_ts, is_open) =
            row;
        Ok(Self {
            media_id,
            content_hash: read_hash(hash)?,
            size_bytes: size_bytes.cast_unsigned(),
            content_type,
            filename,
            user_id,
            created_ts: created_ts.cast_unsigned(),
            is_open: is_open != 0,
        })
    }
}

fn read_hash(hash: Vec<u8>) -> Result<[u8; CONTENT_HASH_BYTES], StorageError> {
    hash.try_into().map_err(|hash: Vec<u8>| {
        StorageError::Damaged(format!("a content hash of {} bytes", hash.len()))
    })
}
