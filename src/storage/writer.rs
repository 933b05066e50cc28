//! The group-commit writer: the one task that writes, assigns stream positions and publishes
//! them. It drains its queue and commits what it finds as one transaction; a batch that fails
//! is written again job by job, so that one bad row harms nobody else.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Cell, Committed, Database, Dialect, Param, Statement, StorageError, WriteTransaction, WriteTx,
    database::WriterConnection,
};

/// Jobs that wait for the writer; further ones wait outside.
const QUEUE_JOBS_MAX: usize = 4096;
/// A batch ends at this many jobs or bytes, so that no commit takes long.
const BATCH_JOBS_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 2 << 20;
/// Pauses between attempts to reach a lost database again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Hands writes to the writer task. Clones share it.
#[derive(Clone)]
pub struct Writer {
    queue: mpsc::Sender<Job>,
    published: watch::Receiver<i64>,
}

/// A place in the writer's queue, so that handing over needs no waiting.
pub struct WritePermit<'a>(mpsc::Permit<'a, Job>);

/// Resolves when the job is durable, or has failed.
pub struct CommitTicket(oneshot::Receiver<Result<Committed, StorageError>>);

enum Job {
    Batch(WriteTx, oneshot::Sender<Result<Committed, StorageError>>),
    Transaction(TransactionBody),
}

type TransactionBody = Box<
    dyn for<'a> FnOnce(&'a mut WriterConnection, WriterState) -> BoxFuture<'a, TransactionOutcome>
        + Send,
>;

type Hooks = Vec<Box<dyn FnOnce() + Send>>;

/// What a committed transaction left behind; None when it was rolled back.
type TransactionOutcome = Option<TransactionEnd>;

struct TransactionEnd {
    position: i64,
    commit_hooks: Hooks,
    /// The answer comes last.
    publish_hooks: Hooks,
}

impl Writer {
    /// Starts the writer task. It ends when all handles are gone and the queue is empty.
    pub async fn start(database: Database) -> Result<Self, StorageError> {
        let mut connection = database.acquire_writer().await?;
        let state = WriterState::take_over(&mut connection).await?;
        let (queue, jobs) = mpsc::channel(QUEUE_JOBS_MAX);
        let (publish, published) = watch::channel(state.position);
        let task = WriterTask { database, connection, jobs, publish, state, postponed: None };
        tokio::spawn(task.run());
        Ok(Self { queue, published })
    }

    /// Waits for a place in the queue.
    pub async fn reserve(&self) -> Result<WritePermit<'_>, StorageError> {
        Ok(WritePermit(self.queue.reserve().await.map_err(|_| StorageError::Closed)?))
    }

    /// Commits the rows; returns when they are durable and published.
    pub async fn commit(&self, tx: WriteTx) -> Result<Committed, StorageError> {
        self.reserve().await?.submit(tx).committed().await
    }

    /// Runs `body` alone in a transaction of its own, in the order of the queue, and commits
    /// when it returns Ok. For reads and writes that depend on one another.
    pub async fn transact<R, E, F>(&self, body: F) -> Result<R, E>
    where
        R: Send + 'static,
        E: From<StorageError> + Send + 'static,
        F: for<'a> FnOnce(&'a mut WriteTransaction<'_>) -> BoxFuture<'a, Result<R, E>>
            + Send
            + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: TransactionBody = Box::new(move |connection, state| {
            Box::pin(async move {
                match run_transaction(connection, state, body).await {
                    Ok((value, mut end)) => {
                        end.publish_hooks.push(Box::new(|| drop(answer.send(Ok(value)))));
                        Some(end)
                    }
                    Err(error) => {
                        let _ = answer.send(Err(error));
                        None
                    }
                }
            })
        });
        let sent = self.queue.send(Job::Transaction(job)).await;
        sent.map_err(|_| StorageError::Closed)?;
        answered.await.map_err(|_| StorageError::Closed)?
    }

    /// The highest position below which everything is committed and applied.
    pub fn position(&self) -> i64 {
        *self.published.borrow()
    }

    /// Follows the published position.
    pub fn subscribe(&self) -> watch::Receiver<i64> {
        self.published.clone()
    }
}

impl WritePermit<'_> {
    /// Queues the job. Jobs are written in the order in which they are submitted.
    pub fn submit(self, tx: WriteTx) -> CommitTicket {
        let (answer, answered) = oneshot::channel();
        self.0.send(Job::Batch(tx, answer));
        CommitTicket(answered)
    }
}

impl CommitTicket {
    pub async fn committed(self) -> Result<Committed, StorageError> {
        self.0.await.map_err(|_| StorageError::Closed)?
    }
}

async fn run_transaction<R, E, F>(
    connection: &mut WriterConnection,
    state: WriterState,
    body: F,
) -> Result<(R, TransactionEnd), E>
where
    E: From<StorageError>,
    F: for<'a> FnOnce(&'a mut WriteTransaction<'_>) -> BoxFuture<'a, Result<R, E>>,
{
    let mut tx = connection.begin(state.position).await?;
    let value = body(&mut tx).await?;
    let position = tx.position;
    let commit_hooks = std::mem::take(&mut tx.commit_hooks);
    let publish_hooks = std::mem::take(&mut tx.publish_hooks);
    let sql = "UPDATE writer SET position = $1 WHERE epoch = $2";
    if tx.execute(sql, &crate::params![position, state.epoch]).await? == 0 {
        return Err(StorageError::WriterReplaced.into());
    }
    tx.commit().await?;
    Ok((value, TransactionEnd { position, commit_hooks, publish_hooks }))
}

/// What the table `writer` holds.
#[derive(Clone, Copy)]
struct WriterState {
    /// The last batch, to learn whether one of unknown outcome was committed.
    batch: i64,
    /// Rises with every process that takes the database over.
    epoch: i64,
    /// The last stream position given out.
    position: i64,
}

impl WriterState {
    async fn take_over(connection: &mut WriterConnection) -> Result<Self, StorageError> {
        let mut tx = connection.begin(0).await?;
        tx.execute("UPDATE writer SET epoch = epoch + 1", &[]).await?;
        let (batch, epoch, position) = load_state(&mut tx).await?;
        tx.commit().await?;
        Ok(Self { batch, epoch, position })
    }
}

async fn load_state(tx: &mut WriteTransaction<'_>) -> Result<(i64, i64, i64), StorageError> {
    let row = tx.fetch_optional("SELECT batch, epoch, position FROM writer", &[]).await?;
    row.ok_or(StorageError::RowMissing)
}

struct WriterTask {
    database: Database,
    connection: WriterConnection,
    jobs: mpsc::Receiver<Job>,
    publish: watch::Sender<i64>,
    state: WriterState,
    /// A job that was taken from the queue but belongs into the next batch.
    postponed: Option<Job>,
}

type Waiting = (WriteTx, oneshot::Sender<Result<Committed, StorageError>>);

impl WriterTask {
    async fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            let job = match self.postponed.take() {
                Some(job) => job,
                None => match self.jobs.recv().await {
                    Some(job) => job,
                    None => return,
                },
            };
            match job {
                Job::Transaction(body) => self.run_body(body).await,
                Job::Batch(tx, answer) => {
                    self.fill_batch((tx, answer), &mut batch);
                    self.write_batch(&mut batch).await;
                }
            }
        }
    }

    async fn run_body(&mut self, body: TransactionBody) {
        // A fault in one operation is not the end of all writing: what it has begun is rolled back, and
        // who waits for it is told.
        let running = AssertUnwindSafe(body(&mut self.connection, self.state)).catch_unwind();
        let Some(end) = running.await.unwrap_or(None) else {
            self.reconnect_if_lost().await;
            return;
        };
        self.state.position = end.position;
        end.commit_hooks.into_iter().for_each(run_hook);
        self.publish.send_replace(end.position);
        end.publish_hooks.into_iter().for_each(run_hook);
    }

    /// Takes what already waits in the queue, as far as it fits into one batch.
    fn fill_batch(&mut self, first: Waiting, batch: &mut Vec<Waiting>) {
        let mut scopes = Scopes::default();
        scopes.admit(&first.0);
        let mut bytes = first.0.weight_bytes();
        batch.push(first);
        while batch.len() < BATCH_JOBS_MAX && bytes < BATCH_BYTES_MAX {
            match self.jobs.try_recv() {
                Ok(Job::Batch(tx, answer)) if scopes.admit(&tx) => {
                    bytes += tx.weight_bytes();
                    batch.push((tx, answer));
                }
                Ok(job) => {
                    self.postponed = Some(job);
                    return;
                }
                Err(_) => return,
            }
        }
    }

    async fn write_batch(&mut self, batch: &mut Vec<Waiting>) {
        metrics::histogram!("hearth_writer_batch_jobs").record(batch.len() as f64);
        let jobs = self.without_superseded(batch);
        let prepared = self.prepare(&jobs);
        let Err(error) = self.write(prepared).await else {
            return self.conclude(jobs);
        };
        if jobs.len() > 1 {
            tracing::warn!(batch.jobs = jobs.len(), %error, "a batch failed and is written job by job");
            for job in jobs {
                self.write_alone(job).await;
            }
        } else if let Some(job) = jobs.into_iter().next() {
            fail(job, error);
        }
    }

    async fn write_alone(&mut self, job: Waiting) {
        let mut job = self.without_superseded(&mut vec![job]);
        if job.is_empty() {
            return;
        }
        let prepared = self.prepare(&job);
        match self.write(prepared).await {
            Ok(()) => self.conclude(job),
            Err(error) => fail(job.remove(0), error),
        }
    }

    /// Answers the jobs that build upon something that was not committed.
    fn without_superseded(&self, batch: &mut Vec<Waiting>) -> Vec<Waiting> {
        let (superseded, current) =
            batch.drain(..).partition::<Vec<_>, _>(|(tx, _)| tx.is_superseded());
        superseded.into_iter().for_each(|job| fail(job, StorageError::Superseded));
        current
    }

    /// The text and parameters that commit the jobs as one transaction.
    fn prepare(&mut self, jobs: &[Waiting]) -> Result<(String, Vec<Param>), StorageError> {
        let rows = jobs.iter().flat_map(|(tx, _)| &tx.rows);
        if rows.flat_map(|(_, row)| row).any(|cell| !cell.is_storable()) {
            return Err(StorageError::NulInText);
        }
        let positions: u32 = jobs.iter().map(|(tx, _)| tx.positions).sum();
        let last_position = self.state.position + i64::from(positions);
        self.state.batch += 1;
        let folded = Folded::from_jobs(jobs.iter().map(|(tx, _)| tx), self.state.position + 1);
        let (batch, epoch) = (self.state.batch, self.state.epoch);
        Ok(folded.into_sql(self.database.dialect(), batch, epoch, last_position))
    }

    /// Commits what was prepared. An error means that nothing of it is committed.
    async fn write(
        &mut self,
        prepared: Result<(String, Vec<Param>), StorageError>,
    ) -> Result<(), StorageError> {
        let (sql, params) = prepared?;
        match self.connection.execute_batch(sql, &params).await {
            Err(error) if self.reconnect_if_lost().await => {
                self.settle().await.unwrap_or(Err(error))
            }
            result => result,
        }
    }

    /// Whether the last batch, during which the connection was lost, is committed.
    async fn settle(&mut self) -> Option<Result<(), StorageError>> {
        let mut tx = self.connection.begin(0).await.ok()?;
        let (committed, epoch, _) = load_state(&mut tx).await.ok()?;
        if epoch != self.state.epoch {
            return Some(Err(StorageError::WriterReplaced));
        }
        (committed == self.state.batch).then_some(Ok(()))
    }

    /// True when the connection had been lost and there is a new one.
    async fn reconnect_if_lost(&mut self) -> bool {
        if self.connection.is_alive().await {
            return false;
        }
        loop {
            match self.database.acquire_writer().await {
                Ok(mut connection) => {
                    if connection.is_alive().await {
                        self.connection = connection;
                        return true;
                    }
                }
                Err(error) => tracing::error!(%error, "the database cannot be reached"),
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Applies committed jobs in order, publishes their positions, answers.
    ///
    /// Who waits is woken before who wrote is answered, so that a client's own event can reach it by
    /// `/sync` before the answer to its `PUT`: the two travel on different connections, and clients know
    /// the event by `unsigned.transaction_id`. The other way round would promise no more. Waking a task
    /// only puts it into a queue; with the answer last, its task is the one that this thread takes up
    /// next. And what a publish hook hands on (to the outbox, to what sticks) is there for whatever the
    /// writer does after its answer. What does hold: it finds its event in a sync that it begins then,
    /// since the position is published first.
    fn conclude(&mut self, jobs: Vec<Waiting>) {
        let mut answers = Vec::with_capacity(jobs.len());
        for (tx, answer) in jobs {
            let committed = Committed { first_position: self.state.position + 1 };
            self.state.position += i64::from(tx.positions);
            tx.commit_hooks.into_iter().for_each(|hook| run_hook(|| hook(committed)));
            answers.push((tx.publish_hooks, answer, committed));
        }
        self.publish.send_replace(self.state.position);
        for (hooks, answer, committed) in answers {
            hooks.into_iter().for_each(|hook| run_hook(|| hook(committed)));
            let _ = answer.send(Ok(committed));
        }
    }
}

fn fail((tx, answer): Waiting, error: StorageError) {
    tx.failure_hooks.into_iter().for_each(run_hook);
    let _ = answer.send(Err(error));
}

/// What follows one job is not the end of all writing when it has a fault.
fn run_hook(hook: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(hook)).is_err() {
        tracing::error!("what was to follow a write broke off; what was written stands");
    }
}

/// Which statement writes which part of a table in a batch.
#[derive(Default)]
struct Scopes(HashMap<(&'static str, Cell), *const Statement>);

// The pointers are compared, never followed.
impl Scopes {
    /// Whether the job fits into the batch: no other statement writes where it writes.
    fn admit(&mut self, tx: &WriteTx) -> bool {
        let scopes = || {
            let keyed = tx.rows.iter().filter(|(statement, _)| statement.key > 0);
            keyed.map(|(statement, row)| ((statement.table, row[0].clone()), *statement))
        };
        let clash = |(scope, statement): ((&'static str, Cell), &'static Statement)| {
            self.0.get(&scope).is_some_and(|&other| !std::ptr::eq(other, statement))
        };
        if scopes().any(clash) {
            return false;
        }
        self.0.extend(scopes().map(|(scope, statement)| (scope, std::ptr::from_ref(statement))));
        true
    }
}

/// A row and the first stream position of its job.
type PlacedRow<'a> = (i64, &'a [Cell]);

/// The rows of a batch, one final row per key, as JSON per statement.
struct Folded(Vec<(&'static Statement, String)>);

impl Folded {
    fn from_jobs<'a>(jobs: impl Iterator<Item = &'a WriteTx>, first_position: i64) -> Self {
        let mut statements: Vec<(&'static Statement, Vec<PlacedRow<'a>>)> = Vec::new();
        let mut latest: HashMap<(*const Statement, &[Cell]), usize> = HashMap::new();
        let mut position = first_position;
        for tx in jobs {
            for (statement, row) in &tx.rows {
                let at = statements.iter().position(|(s, _)| std::ptr::eq(*s, *statement));
                let at = at.unwrap_or_else(|| {
                    statements.push((statement, Vec::new()));
                    statements.len() - 1
                });
                let rows = &mut statements[at].1;
                let key = (std::ptr::from_ref::<Statement>(statement), &row[..statement.key]);
                match statement.key {
                    0 => rows.push((position, row)),
                    _ => match latest.get(&key) {
                        Some(&index) => rows[index] = (position, row),
                        None => {
                            latest.insert(key, rows.len());
                            rows.push((position, row));
                        }
                    },
                }
            }
            position += i64::from(tx.positions);
        }
        // In a fixed order, so that the databases' statement caches know the text.
        statements.sort_by_key(|(statement, _)| statement.sql);
        Self(statements.into_iter().map(|(s, rows)| (s, rows_json(&rows))).collect())
    }

    fn into_sql(
        self,
        dialect: Dialect,
        batch: i64,
        epoch: i64,
        position: i64,
    ) -> (String, Vec<Param>) {
        let mut params = vec![Param::Int(batch), Param::Int(epoch), Param::Int(position)];
        let mut texts = vec![dialect.fence_statement().to_owned()];
        for (statement, json) in self.0 {
            params.push(Param::Text(json));
            texts.push(statement.sql.replace("$1", &format!("${}", params.len())));
        }
        (dialect.join_statements(&texts), params)
    }
}

fn rows_json(rows: &[PlacedRow<'_>]) -> String {
    let mut json = String::from("[");
    for (number, (first_position, row)) in rows.iter().enumerate() {
        json.push_str(if number == 0 { "[" } else { ",[" });
        for (column, cell) in row.iter().enumerate() {
            if column > 0 {
                json.push(',');
            }
            cell.write_json(*first_position, &mut json);
        }
        json.push(']');
    }
    json.push(']');
    json
}
