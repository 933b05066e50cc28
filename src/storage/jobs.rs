//! Work that must be done even if the server stops meanwhile: one row per kind and subject.

use super::{Cell, Database, Statement, StorageError, WriteTransaction, WriteTx};
use crate::params;

/// A job that is due. `payload` is JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredJob {
    pub kind: String,
    pub subject: String,
    pub payload: String,
    /// Rises when the job is requested again.
    pub version: i64,
    /// How often it has failed.
    pub attempts: i64,
}

static UPSERT_JOBS: Statement = Statement {
    table: "jobs",
    key: 2,
    sql: "INSERT INTO jobs (kind, subject, payload, version, attempts, next_try_ts)
        SELECT value->>0, value->>1, value->>2, CAST(value->>3 AS BIGINT), 0, 0
        FROM json_each($1) WHERE true
        ON CONFLICT (kind, subject) DO UPDATE
        SET payload = excluded.payload, version = excluded.version, attempts = 0, next_try_ts = 0",
};

/// Adds a job to a batch; a request for the same kind and subject that waits is replaced.
pub fn push_job(tx: &mut WriteTx, kind: &str, subject: &str, payload: &str) {
    let version = Cell::Position(tx.next_position());
    tx.push(&UPSERT_JOBS, vec![kind.into(), subject.into(), payload.into(), version]);
}

/// Requests a job within a transaction.
pub async fn request(
    tx: &mut WriteTransaction<'_>,
    kind: &str,
    subject: &str,
    payload: &str,
) -> Result<(), StorageError> {
    let version = tx.next_position();
    let sql = "INSERT INTO jobs (kind, subject, payload, version, attempts, next_try_ts)
        VALUES ($1, $2, $3, $4, 0, 0) ON CONFLICT (kind, subject) DO UPDATE
        SET payload = excluded.payload, version = excluded.version, attempts = 0, next_try_ts = 0";
    tx.execute(sql, &params![kind, subject, payload, version]).await.map(drop)
}

/// Jobs that are due, oldest first.
pub async fn list_due(
    database: &Database,
    now_ts: u64,
    limit: u32,
) -> Result<Vec<StoredJob>, StorageError> {
    let rows: Vec<(String, String, String, i64, i64)> = database
        .fetch_all(
            "SELECT kind, subject, payload, version, attempts FROM jobs
            WHERE next_try_ts <= $1 ORDER BY next_try_ts, version LIMIT $2",
            &params![now_ts, limit],
        )
        .await?;
    Ok(rows
        .into_iter()
        .map(|(kind, subject, payload, version, attempts)| StoredJob {
            kind,
            subject,
            payload,
            version,
            attempts,
        })
        .collect())
}

/// When the next job behind `after_ts` is due, in milliseconds since the Unix epoch.
pub async fn find_next_try(
    database: &Database,
    after_ts: u64,
) -> Result<Option<i64>, StorageError> {
    let sql = "SELECT min(next_try_ts) FROM jobs WHERE next_try_ts > $1";
    let row: (Option<i64>,) = database.fetch_one(sql, &params![after_ts]).await?;
    Ok(row.0)
}

/// Deletes a job that is done, unless it was requested again meanwhile.
pub async fn finish(tx: &mut WriteTransaction<'_>, job: &StoredJob) -> Result<(), StorageError> {
    let sql = "DELETE FROM jobs WHERE kind = $1 AND subject = $2 AND version = $3";
    tx.execute(sql, &params![&job.kind, &job.subject, job.version]).await.map(drop)
}

/// Notes that a job failed and when to try it again.
pub async fn postpone(
    tx: &mut WriteTransaction<'_>,
    job: &StoredJob,
    next_try_ts: u64,
) -> Result<(), StorageError> {
    let sql = "UPDATE jobs SET attempts = attempts + 1, next_try_ts = $4
        WHERE kind = $1 AND subject = $2 AND version = $3";
    let params = params![&job.kind, &job.subject, job.version, next_try_ts];
    tx.execute(sql, &params).await.map(drop)
}
