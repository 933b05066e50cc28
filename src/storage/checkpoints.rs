//! SQLite's write-ahead log is moved into the database file now and then, off the path of those who write, and kept
//! short. PostgreSQL does so by itself.

use std::{sync::Arc, time::Duration};

use super::{Database, StorageError};

/// Pages in the write-ahead log from which on it is begun anew.
const LOG_PAGES_MAX: i64 = 256;

/// Looks after the log until the database closes.
pub async fn run_checkpoints(database: Arc<Database>, pause: Duration) {
    let mut interval = tokio::time::interval(pause);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut logged_before = 0;
    loop {
        interval.tick().await;
        match tend_log(&database, logged_before).await {
            Ok(logged) => logged_before = logged,
            Err(StorageError::Database(sqlx::Error::PoolClosed)) => return,
            Err(error) => tracing::warn!(%error, "the write-ahead log was not checkpointed"),
        }
    }
}

/// Checkpoints once; returns how many pages the log holds. One that has become long is begun anew, and cut when
/// nobody has written since the last time.
async fn tend_log(database: &Database, logged_before: i64) -> Result<i64, StorageError> {
    let logged = database.checkpoint().await?;
    if logged > LOG_PAGES_MAX {
        match logged == logged_before {
            true => database.truncate_log().await?,
            false => database.restart_log().await?,
        }
    }
    Ok(logged)
}
