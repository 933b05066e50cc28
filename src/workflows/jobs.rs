//! Runs the jobs that wait in the database, each kind by its own [`Job`]. A job that fails is tried
//! again later and delays no other. What a job does must not matter when it is done twice.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    rooms::MembershipError,
    storage::{
        Database, StorageError, Writer,
        jobs::{self, StoredJob},
    },
};

/// Jobs that run at once.
const RUNNING_MAX: usize = 8;
/// The pause after a job's first failure; it doubles with each further one, up to the longest.
const RETRY_PAUSE_MS: u64 = 1_000;
const RETRY_PAUSE_MS_MAX: u64 = 60 * 60 * 1_000;
/// How long the runner sleeps at most; jobs are also announced by the bell.
const SLEEP_MAX: Duration = Duration::from_secs(5 * 60);

/// One kind of job.
pub trait Job: Send + Sync {
    /// The kind under which it is stored.
    fn kind(&self) -> &'static str;

    /// Does the work for one subject.
    fn run<'a>(&'a self, subject: &'a str) -> BoxFuture<'a, Result<(), JobError>>;
}

/// Why a job must be tried again.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

/// Finds due jobs and runs them.
pub struct JobRunner {
    pub database: Database,
    pub writer: Writer,
    pub clock: Clock,
    /// Rung when a job was requested.
    pub bell: Arc<Notify>,
    pub jobs: Vec<Arc<dyn Job>>,
}

type JobKey = (String, String);

impl JobRunner {
    /// Runs until `shutdown`. Jobs under way are broken off and begin again at the next start.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut running = JoinSet::new();
        let mut keys = HashSet::new();
        loop {
            let pause = self.start_due(&mut running, &mut keys).await;
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.bell.notified() => {}
                () = tokio::time::sleep(pause) => {}
                Some(done) = running.join_next() => {
                    let (job, result) = done.expect("jobs do not panic, and nobody aborts them");
                    keys.remove(&key_of(&job));
                    self.note_result(job, result).await;
                }
            }
        }
    }

    /// Starts as many due jobs as may run; returns how long to sleep until the next is due.
    async fn start_due(
        &self,
        running: &mut JoinSet<(StoredJob, Result<(), JobError>)>,
        keys: &mut HashSet<JobKey>,
    ) -> Duration {
        let now_ts = self.clock.now_ms();
        let limit = (RUNNING_MAX + keys.len()) as u32;
        let due = match jobs::list_due(&self.database, now_ts, limit).await {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(%error, "due jobs could not be read");
                return Duration::from_millis(RETRY_PAUSE_MS);
            }
        };
        self.await_publication(&due).await;
        for stored in due {
            let job = self.jobs.iter().find(|job| job.kind() == stored.kind);
            if running.len() >= RUNNING_MAX || keys.contains(&key_of(&stored)) {
                continue;
            }
            let Some(job) = job.cloned() else {
                tracing::error!(job.kind = stored.kind, "nothing runs this kind of job");
                continue;
            };
            keys.insert(key_of(&stored));
            running.spawn(async move {
                let result = job.run(&stored.subject).await;
                (stored, result)
            });
        }
        match jobs::find_next_try(&self.database, now_ts).await {
            Ok(Some(ts)) => Duration::from_millis(ts.cast_unsigned() - now_ts).min(SLEEP_MAX),
            _ => SLEEP_MAX,
        }
    }

    /// A committed row can be read a moment before what was committed with it (the head of a room)
    /// is in memory. A job that ran in between would see nothing to do, and be gone.
    async fn await_publication(&self, jobs: &[StoredJob]) {
        let newest = jobs.iter().map(|job| job.version).max().unwrap_or_default();
        // It fails only when the writer has ended, and then no job can do anything.
        let _ = self.writer.subscribe().wait_for(|&published| published >= newest).await;
    }

    async fn note_result(&self, job: StoredJob, result: Result<(), JobError>) {
        let noted: Result<(), StorageError> = match result {
            Ok(()) => {
                self.writer
                    .transact(move |tx| Box::pin(async move { jobs::finish(tx, &job).await }))
                    .await
            }
            Err(error) => {
                tracing::warn!(job.kind = job.kind, %error, "a job failed and is tried again");
                let doublings = job.attempts.clamp(0, 20) as u32;
                let pause_ms = (RETRY_PAUSE_MS << doublings).min(RETRY_PAUSE_MS_MAX);
                let next_try_ts = self.clock.now_ms() + pause_ms;
                self.writer
                    .transact(move |tx| {
                        Box::pin(async move { jobs::postpone(tx, &job, next_try_ts).await })
                    })
                    .await
            }
        };
        if let Err(error) = noted {
            tracing::error!(%error, "what became of a job could not be written");
        }
    }
}

fn key_of(job: &StoredJob) -> JobKey {
    (job.kind.clone(), job.subject.clone())
}
