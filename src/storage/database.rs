//! One handle for both databases: connections, reads and rare multi-statement transactions.
//! Not for ordinary writes, which go through the [`Writer`](super::Writer).

use std::{path::Path, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection, FromRow, Postgres, SqlSafeStr, SqlStr, Sqlite,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgRow},
    sqlite::{
        SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
        SqliteRow, SqliteSynchronous,
    },
};

use super::{Dialect, Param, StorageError, readers::Readers};

/// How long a connection waits for SQLite's write lock, and for a free connection of the pool.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a checkpoint may keep writers waiting to empty the write-ahead log.
const CHECKPOINT_PATIENCE: Duration = Duration::from_millis(10);
/// The write-ahead log is cut to this length when it is begun anew after a time of many writes.
const LOG_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// How long PostgreSQL may take to let the first connection in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Of PostgreSQL's connections these write: the writer's, and one that begins while that one is lost.
const POSTGRES_WRITERS_MAX: u32 = 2;
const POSTGRES_CONNECTIONS_MIN: u32 = 4;
/// SQLite's page cache of the writing connection and of each reading one, in KiB.
const WRITER_CACHE_KIB: u32 = 8192;
const READER_CACHE_KIB: u32 = 2048;

/// Has PostgreSQL compress large values (keys of devices, above all) by LZ4 instead of its own older way,
/// which takes several times as long, where it is built with it.
const COMPRESS_QUICKLY: &str = "SELECT set_config(name, 'lz4', false) FROM pg_settings
    WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)";

/// A row that can be read from either database. Tuples of `i64`, `String`, `Vec<u8>` and
/// `Option`s of them are such rows.
pub trait StoredRow:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin
{
}

impl<T> StoredRow for T where
    T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin
{
}

/// Pools of connections. Clones share them.
#[derive(Clone, Debug)]
pub struct Database(Pools);

#[derive(Clone, Debug)]
enum Pools {
    Sqlite {
        readers: Readers<SqliteConnection>,
        writer: SqlitePool,
        /// For checkpoints, which give up at once where they would keep others waiting.
        checkpoints: SqlitePool,
    },
    Postgres {
        readers: Readers<PgConnection>,
        writer: PgPool,
    },
}

/// A transaction of several statements, rolled back when dropped. Whole-batch writes are
/// cheaper; this is for reads and writes that depend on one another.
pub struct WriteTransaction<'c> {
    kind: TransactionKind<'c>,
    /// The last stream position given out.
    pub(super) position: i64,
    pub(super) commit_hooks: Vec<Box<dyn FnOnce() + Send>>,
    pub(super) publish_hooks: Vec<Box<dyn FnOnce() + Send>>,
}

enum TransactionKind<'c> {
    Sqlite(sqlx::Transaction<'c, Sqlite>),
    Postgres(sqlx::Transaction<'c, Postgres>),
}

pub(super) enum WriterConnection {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

/// Binds the parameters one by one, since their types are known only here.
macro_rules! bound {
    ($query:expr, $params:expr) => {{
        let mut query = $query;
        for param in $params {
            query = match param {
                Param::Int(value) => query.bind(*value),
                Param::Text(value) => query.bind(value.clone()),
                Param::Bytes(value) => query.bind(value.clone()),
                Param::NullInt => query.bind(None::<i64>),
                Param::NullText => query.bind(None::<String>),
                Param::NullBytes => query.bind(None::<Vec<u8>>),
            };
        }
        query
    }};
}

/// Asks one connection.
macro_rules! read {
    ($database:ty, $row:ty, $readers:expr, ($sql:expr, $params:expr), $fetch:ident) => {{
        let mut reader = $readers.borrow().await?;
        let query = bound!(sqlx::query_as::<$database, $row>($sql), $params);
        let found = query.$fetch(reader.connection()).await?;
        reader.give_back();
        found
    }};
}

/// Neither database takes U+0000 in text, so a query with it is refused, the same on both.
fn check_params(params: &[Param]) -> Result<(), StorageError> {
    let has_nul = |param: &Param| matches!(param, Param::Text(text) if text.contains('\0'));
    if params.iter().any(has_nul) { Err(StorageError::NulInText) } else { Ok(()) }
}

impl Database {
    /// Opens the SQLite file, making it if it is not there. The caller keeps other processes
    /// out (the lock on the data directory).
    pub async fn open_sqlite(path: &Path, readers_max: u32) -> Result<Self, StorageError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(false)
            .optimize_on_close(true, None)
            .pragma("temp_store", "memory");
        let write_options = options
            .clone()
            // Checkpoints belong off the writer's path; see `checkpoint`.
            .pragma("wal_autocheckpoint", "0")
            .pragma("journal_size_limit", LOG_BYTES_MAX.to_string())
            .pragma("cache_size", format!("-{WRITER_CACHE_KIB}"));
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(BUSY_TIMEOUT)
            .test_before_acquire(false)
            .connect_with(write_options)
            .await?;
        let checkpoints = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(BUSY_TIMEOUT)
            .test_before_acquire(false)
            .connect_lazy_with(options.clone().busy_timeout(CHECKPOINT_PATIENCE));
        let read_options =
            options.pragma("query_only", "1").pragma("cache_size", format!("-{READER_CACHE_KIB}"));
        let readers = Readers::new(read_options, readers_max.max(1), BUSY_TIMEOUT);
        Ok(Self(Pools::Sqlite { readers, writer, checkpoints }))
    }

    /// Connects to PostgreSQL. When it cannot, the error says where and why; it never holds the password.
    pub async fn open_postgres(url: &str, connections_max: u32) -> Result<Self, StorageError> {
        let options: PgConnectOptions = url.parse()?;
        // A pool would try again until its patience ends, and then know no reason.
        let first = tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options));
        let too_late = |_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
        let first = first.await.map_err(too_late).and_then(|connected| connected);
        let first = first.map_err(|source| unreachable_at(&options, source))?;
        first.close().await?;
        let connections_max = connections_max.max(POSTGRES_CONNECTIONS_MIN);
        let readers =
            Readers::new(options.clone(), connections_max - POSTGRES_WRITERS_MAX, BUSY_TIMEOUT);
        let writer = PgPoolOptions::new()
            .max_connections(POSTGRES_WRITERS_MAX)
            .acquire_timeout(BUSY_TIMEOUT)
            .test_before_acquire(false)
            .connect_lazy_with(options);
        Ok(Self(Pools::Postgres { readers, writer }))
    }

    pub fn dialect(&self) -> Dialect {
        match self.0 {
            Pools::Sqlite { .. } => Dialect::Sqlite,
            Pools::Postgres { .. } => Dialect::Postgres,
        }
    }

    /// All rows of a query. The query bounds their number itself.
    pub async fn fetch_all<T: StoredRow>(
        &self,
        sql: &'static str,
        params: &[Param],
    ) -> Result<Vec<T>, StorageError> {
        check_params(params)?;
        Ok(match &self.0 {
            Pools::Sqlite { readers, .. } => read!(Sqlite, T, readers, (sql, params), fetch_all),
            Pools::Postgres { readers, .. } => {
                read!(Postgres, T, readers, (sql, params), fetch_all)
            }
        })
    }

    /// The first row of a query, if there is one.
    pub async fn fetch_optional<T: StoredRow>(
        &self,
        sql: &'static str,
        params: &[Param],
    ) -> Result<Option<T>, StorageError> {
        check_params(params)?;
        Ok(match &self.0 {
            Pools::Sqlite { readers, .. } => {
                read!(Sqlite, T, readers, (sql, params), fetch_optional)
            }
            Pools::Postgres { readers, .. } => {
                read!(Postgres, T, readers, (sql, params), fetch_optional)
            }
        })
    }

    /// The only row of a query that always has one (a count, a maximum).
    pub async fn fetch_one<T: StoredRow>(
        &self,
        sql: &'static str,
        params: &[Param],
    ) -> Result<T, StorageError> {
        self.fetch_optional(sql, params).await?.ok_or(StorageError::RowMissing)
    }

    /// Begins a transaction on a writing connection, for start-up and migrations. Running
    /// operations use [`Writer::transact`](super::Writer::transact), which keeps their order.
    pub async fn begin(&self) -> Result<WriteTransaction<'static>, StorageError> {
        let kind = match self.acquire_writer().await? {
            WriterConnection::Sqlite(connection) => {
                TransactionKind::Sqlite(sqlx::Transaction::begin(connection, begin_sql()).await?)
            }
            WriterConnection::Postgres(connection) => {
                TransactionKind::Postgres(sqlx::Transaction::begin(connection, None).await?)
            }
        };
        Ok(WriteTransaction {
            kind,
            position: 0,
            commit_hooks: Vec::new(),
            publish_hooks: Vec::new(),
        })
    }

    /// Moves what SQLite's write-ahead log holds into the database file, without keeping anybody waiting;
    /// returns how many pages the log holds. PostgreSQL does all of this by itself.
    pub async fn checkpoint(&self) -> Result<i64, StorageError> {
        self.run_checkpoint("PRAGMA wal_checkpoint(PASSIVE)").await
    }

    /// Moves the rest too, and has the next write begin the log anew, unless somebody is using it; then one of
    /// the next calls succeeds. A log that keeps its length is flushed in half the time, since nothing has to be
    /// allocated for what is written over older pages.
    pub async fn restart_log(&self) -> Result<(), StorageError> {
        self.run_checkpoint("PRAGMA wal_checkpoint(RESTART)").await.map(drop)
    }

    /// The same, and gives the disk back what the log took of it.
    pub async fn truncate_log(&self) -> Result<(), StorageError> {
        self.run_checkpoint("PRAGMA wal_checkpoint(TRUNCATE)").await.map(drop)
    }

    async fn run_checkpoint(&self, sql: &'static str) -> Result<i64, StorageError> {
        let Pools::Sqlite { checkpoints, .. } = &self.0 else {
            return Ok(0);
        };
        // The first column says whether somebody was in the way.
        let (_, logged, _): (i64, i64, i64) = sqlx::query_as(sql).fetch_one(checkpoints).await?;
        Ok(logged)
    }

    pub async fn close(&self) {
        match &self.0 {
            Pools::Sqlite { readers, writer, checkpoints } => {
                checkpoints.close().await;
                readers.close().await;
                writer.close().await;
            }
            Pools::Postgres { readers, writer } => {
                readers.close().await;
                writer.close().await;
            }
        }
    }

    pub(super) async fn acquire_writer(&self) -> Result<WriterConnection, StorageError> {
        Ok(match &self.0 {
            Pools::Sqlite { writer, .. } => WriterConnection::Sqlite(writer.acquire().await?),
            Pools::Postgres { writer, .. } => {
                let mut connection = writer.acquire().await?;
                sqlx::query::<Postgres>(COMPRESS_QUICKLY).execute(&mut *connection).await?;
                WriterConnection::Postgres(connection)
            }
        })
    }
}

impl WriterConnection {
    /// Runs one text, which may hold several statements on SQLite, with its own BEGIN and COMMIT.
    pub(super) async fn execute_batch(
        &mut self,
        sql: String,
        params: &[Param],
    ) -> Result<(), StorageError> {
        match self {
            Self::Sqlite(connection) => {
                let query = sqlx::query::<Sqlite>(AssertSqlSafe(sql));
                let result = bound!(query, params).execute(&mut **connection).await;
                if result.is_err() {
                    // Without effect where the failed text had already ended its transaction.
                    let _ = sqlx::query::<Sqlite>("ROLLBACK").execute(&mut **connection).await;
                }
                result?;
            }
            Self::Postgres(connection) => {
                let query = sqlx::query::<Postgres>(AssertSqlSafe(sql));
                bound!(query, params).execute(&mut **connection).await?;
            }
        }
        Ok(())
    }

    /// Begins a transaction whose stream positions follow `position`.
    pub(super) async fn begin(
        &mut self,
        position: i64,
    ) -> Result<WriteTransaction<'_>, StorageError> {
        let kind = match self {
            Self::Sqlite(connection) => TransactionKind::Sqlite(
                sqlx::Transaction::begin(&mut **connection, begin_sql()).await?,
            ),
            Self::Postgres(connection) => {
                TransactionKind::Postgres(sqlx::Transaction::begin(&mut **connection, None).await?)
            }
        };
        Ok(WriteTransaction { kind, position, commit_hooks: Vec::new(), publish_hooks: Vec::new() })
    }

    pub(super) async fn is_alive(&mut self) -> bool {
        match self {
            Self::Sqlite(_) => true,
            Self::Postgres(connection) => connection.ping().await.is_ok(),
        }
    }
}

/// SQLite takes its write lock at once, so that no transaction fails half-way for want of it.
fn unreachable_at(options: &PgConnectOptions, source: sqlx::Error) -> StorageError {
    let host = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let database = options.get_database().unwrap_or(options.get_username());
    let place = format!("{host} (database {database}, user {})", options.get_username());
    StorageError::Unreachable { place, source }
}

fn begin_sql() -> Option<SqlStr> {
    Some("BEGIN IMMEDIATE".into_sql_str())
}

impl WriteTransaction<'_> {
    /// The next position of the stream, for rows that a sync carries. Only within
    /// [`Writer::transact`](super::Writer::transact).
    pub fn next_position(&mut self) -> i64 {
        self.position += 1;
        self.position
    }

    /// Has `hook` run right after the commit, before the new positions are published.
    pub fn after_commit(&mut self, hook: impl FnOnce() + Send + 'static) {
        self.commit_hooks.push(Box::new(hook));
    }

    /// Has `hook` run when the new positions are published: the place to wake who waits.
    pub fn after_publish(&mut self, hook: impl FnOnce() + Send + 'static) {
        self.publish_hooks.push(Box::new(hook));
    }

    /// Runs one statement; returns how many rows it touched.
    pub async fn execute(
        &mut self,
        sql: &'static str,
        params: &[Param],
    ) -> Result<u64, StorageError> {
        check_params(params)?;
        Ok(match &mut self.kind {
            TransactionKind::Sqlite(tx) => {
                bound!(sqlx::query::<Sqlite>(sql), params).execute(&mut **tx).await?.rows_affected()
            }
            TransactionKind::Postgres(tx) => {
                let query = bound!(sqlx::query::<Postgres>(sql), params);
                query.execute(&mut **tx).await?.rows_affected()
            }
        })
    }

    pub async fn fetch_all<T: StoredRow>(
        &mut self,
        sql: &'static str,
        params: &[Param],
    ) -> Result<Vec<T>, StorageError> {
        check_params(params)?;
        Ok(match &mut self.kind {
            TransactionKind::Sqlite(tx) => {
                bound!(sqlx::query_as::<Sqlite, T>(sql), params).fetch_all(&mut **tx).await?
            }
            TransactionKind::Postgres(tx) => {
                bound!(sqlx::query_as::<Postgres, T>(sql), params).fetch_all(&mut **tx).await?
            }
        })
    }

    pub async fn fetch_optional<T: StoredRow>(
        &mut self,
        sql: &'static str,
        params: &[Param],
    ) -> Result<Option<T>, StorageError> {
        check_params(params)?;
        Ok(match &mut self.kind {
            TransactionKind::Sqlite(tx) => {
                bound!(sqlx::query_as::<Sqlite, T>(sql), params).fetch_optional(&mut **tx).await?
            }
            TransactionKind::Postgres(tx) => {
                bound!(sqlx::query_as::<Postgres, T>(sql), params).fetch_optional(&mut **tx).await?
            }
        })
    }

    /// Runs a migration's text: several statements, no parameters.
    pub(super) async fn execute_script(&mut self, sql: &'static str) -> Result<(), StorageError> {
        match &mut self.kind {
            TransactionKind::Sqlite(tx) => sqlx::raw_sql(sql).execute(&mut **tx).await.map(drop)?,
            TransactionKind::Postgres(tx) => {
                sqlx::raw_sql(sql).execute(&mut **tx).await.map(drop)?;
            }
        }
        Ok(())
    }

    /// Makes what was written durable.
    pub async fn commit(self) -> Result<(), StorageError> {
        match self.kind {
            TransactionKind::Sqlite(tx) => tx.commit().await?,
            TransactionKind::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }
}
