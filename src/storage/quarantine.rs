//! Rows of `quarantined_media` and `protected_media`: what administrators have said of media. What a subject
//! is, `media::quarantine` knows.

use super::{Database, Statement, StorageError, WriteTx};
use crate::params;

static QUARANTINE: Statement = Statement {
    table: "quarantined_media",
    key: 1,
    sql: "INSERT INTO quarantined_media (subject, quarantined_by, quarantined_ts)
          SELECT value->>0, value->>1, CAST(value->>2 AS BIGINT)
          FROM json_each($1) WHERE true ON CONFLICT (subject) DO NOTHING",
};

static RELEASE: Statement = Statement {
    table: "quarantined_media",
    key: 1,
    sql: "DELETE FROM quarantined_media WHERE subject IN (SELECT value->>0 FROM json_each($1))",
};

static PROTECT: Statement = Statement {
    table: "protected_media",
    key: 1,
    sql: "INSERT INTO protected_media (media_id, protected_by, protected_ts)
          SELECT value->>0, value->>1, CAST(value->>2 AS BIGINT)
          FROM json_each($1) WHERE true ON CONFLICT (media_id) DO NOTHING",
};

static UNPROTECT: Statement = Statement {
    table: "protected_media",
    key: 1,
    sql: "DELETE FROM protected_media WHERE media_id IN (SELECT value->>0 FROM json_each($1))",
};

/// Puts a subject away; `now_ts` in milliseconds since the Unix epoch.
pub fn quarantine(tx: &mut WriteTx, subject: &str, by: &str, now_ts: u64) {
    tx.push(&QUARANTINE, vec![subject.into(), by.into(), now_ts.into()]);
}

pub fn release(tx: &mut WriteTx, subject: &str) {
    tx.push(&RELEASE, vec![subject.into()]);
}

/// Keeps a content from every quarantine.
pub fn protect(tx: &mut WriteTx, media_id: &str, by: &str, now_ts: u64) {
    tx.push(&PROTECT, vec![media_id.into(), by.into(), now_ts.into()]);
}

pub fn unprotect(tx: &mut WriteTx, media_id: &str) {
    tx.push(&UNPROTECT, vec![media_id.into()]);
}

/// Those of the subjects that are put away, and by whom.
pub async fn list_quarantined(
    database: &Database,
    subjects: &[&str],
) -> Result<Vec<(String, String)>, StorageError> {
    let sql = "SELECT subject, quarantined_by FROM quarantined_media
               WHERE subject IN (SELECT value->>0 FROM json_each($1))";
    database.fetch_all(sql, &params![super::json_text_rows(subjects.iter().copied())]).await
}

/// Those of the media that are protected.
pub async fn list_protected(
    database: &Database,
    media_ids: &[&str],
) -> Result<Vec<String>, StorageError> {
    let sql = "SELECT media_id FROM protected_media
               WHERE media_id IN (SELECT value->>0 FROM json_each($1))";
    let rows: Vec<(String,)> =
        database.fetch_all(sql, &params![super::json_text_rows(media_ids.iter().copied())]).await?;
    Ok(rows.into_iter().map(|(media_id,)| media_id).collect())
}

/// Whether a content is put away by either of its subjects, and not protected.
pub async fn is_quarantined(
    database: &Database,
    media_id: &str,
    hash: &str,
) -> Result<bool, StorageError> {
    let sql = "SELECT quarantined_by FROM quarantined_media WHERE subject IN ($1, $2)
               AND NOT EXISTS (SELECT 1 FROM protected_media WHERE media_id = $1)";
    let found: Vec<(String,)> = database.fetch_all(sql, &params![media_id, hash]).await?;
    Ok(!found.is_empty())
}
