//! Wires every component once. The command line and the tests both call [`build`].

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use crate::http::{App, AppState};
use crate::{
    accounts::Accounts,
    clock::Clock,
    config::{Config, DatabaseLocation},
    http::rate_limit::RateLimits,
    storage::{Database, MigrateError, StorageError, Writer, migrate, run_checkpoints},
};

/// The lock file in the data directory.
const LOCK_FILE: &str = "lock";
/// How often SQLite's write-ahead log is moved into the database file.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(1);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the data directory {path} cannot be used: {source}")]
    DataDir { path: PathBuf, source: io::Error },
    #[error("another Hearth uses the data directory {path}; stop it first")]
    DataDirInUse { path: PathBuf },
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl App {
    /// Opens the database, brings its schema up to date and starts the components. The router
    /// (`http::router::build_router`) and listeners come after it.
    pub async fn build(config: Config, clock: Clock) -> Result<AppState, StartError> {
        let config = Arc::new(config);
        let data_dir_lock = lock_data_dir(&config.server.data_dir)?;
        let database = open_database(&config).await?;
        for name in migrate(&database).await? {
            tracing::info!(migration.name = name, "the database was migrated");
        }
        let writer = Writer::start(database.clone()).await?;
        let accounts =
            Accounts::start(config.clone(), clock.clone(), database.clone(), writer.clone())
                .await?;
        let app = Arc::new(Self {
            rate_limits: RateLimits::new(config.rate_limits.clone()),
            config,
            clock,
            database,
            writer,
            accounts,
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            _data_dir_lock: data_dir_lock,
        });
        app.spawn_tasks();
        Ok(app)
    }

    /// Ends background tasks and leaves an empty write-ahead log. Requests must have ended before;
    /// the connections close when the last handle of the writer goes.
    pub async fn stop(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(error) = self.database.checkpoint(true).await {
            tracing::warn!(%error, "the write-ahead log was not emptied");
        }
    }

    fn spawn_tasks(&self) {
        self.accounts.spawn_tasks(&self.tasks, &self.shutdown);
        let checkpoints = run_checkpoints(Arc::new(self.database.clone()), CHECKPOINT_PAUSE);
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = checkpoints => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
}

/// Opens the configured database, without migrating it.
pub async fn open_database(config: &Config) -> Result<Database, StorageError> {
    let connections_max = config.database.connections;
    match config.database_location() {
        DatabaseLocation::Sqlite(path) => Database::open_sqlite(&path, connections_max).await,
        DatabaseLocation::Postgres(url) => {
            Database::open_postgres(url.expose(), connections_max + 1).await
        }
    }
}

/// Makes the data directory when it is missing, and keeps other processes out of it as long as
/// the returned file is open.
pub fn lock_data_dir(data_dir: &Path) -> Result<File, StartError> {
    let failed = |source| StartError::DataDir { path: data_dir.to_owned(), source };
    std::fs::create_dir_all(data_dir).map_err(failed)?;
    let path = data_dir.join(LOCK_FILE);
    let file = File::options().create(true).append(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(StartError::DataDirInUse { path: data_dir.to_owned() })
        }
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}
