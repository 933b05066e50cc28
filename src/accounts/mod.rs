//! Users of this server: who they are, how they log in, and what they store for themselves.
//! Not for what they are in rooms (see `rooms`).

pub mod flags;
pub mod sessions;

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::Clock,
    config::{CacheShare, Config},
    storage::{Database, StorageError, Writer},
};

/// Half of what users' caches may hold goes to sessions, the rest to profiles and push rules.
const SESSIONS_PART: u64 = 2;

/// Everything about accounts. Its operations are in the files of this folder.
pub struct Accounts {
    pub sessions: Arc<sessions::Sessions>,
    config: Arc<Config>,
    clock: Clock,
    database: Database,
    writer: Writer,
}

impl Accounts {
    /// Wires the parts; reads what must be known from the start.
    pub async fn start(
        config: Arc<Config>,
        clock: Clock,
        database: Database,
        writer: Writer,
    ) -> Result<Self, StorageError> {
        let cache_bytes = config.memory.share(CacheShare::Users) / SESSIONS_PART;
        let sessions = sessions::Sessions::new(database.clone(), writer.clone(), cache_bytes);
        Ok(Self { sessions: Arc::new(sessions), config, clock, database, writer })
    }

    /// Starts what runs in the background until `shutdown`.
    pub fn spawn_tasks(&self, tasks: &TaskTracker, shutdown: &CancellationToken) {
        tasks.spawn(self.sessions.clone().run_visits(shutdown.clone()));
    }
}
