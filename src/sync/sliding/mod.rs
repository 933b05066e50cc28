//! Simplified sliding sync (MSC4186): windows into a user's rooms. A connection knows what its
//! client was told of each room; an answer is what differs from that. Reads everything, decides
//! nothing about rooms.

mod connection;
mod connections;
mod devices;
mod extensions;
mod joined;
mod left;
mod lists;
mod position;
mod request;
mod required_state;
mod room_traits;
mod rooms;
mod sent_room;
mod state;
mod sticky;
mod threads;
mod timeline;
mod user_data;
mod wait;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use connection::{Connection, Resumed, Told};
use connections::Connections;
use parking_lot::Mutex;
pub use position::{MalformedPosition, Position};
use quick_cache::sync::Cache;
pub use request::{SlidingBody, SlidingRequest};
use room_traits::KnownTraits;
use ruma::OwnedUserId;
use sent_room::SentRoom;
pub use threads::{
    THREAD_CHANGES_DEFAULT, THREAD_CHANGES_MAX, group_thread_changes, parse_thread_token,
    thread_token,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use user_data::{KnownUserData, UserData};

use super::{Parts, Sync, SyncSettings};
use crate::{
    accounts::Accounts,
    cache_figures::CacheFigures,
    encryption::Encryption,
    ephemeral::Ephemeral,
    protocol::invite_permission::InvitePermission,
    push::Counts,
    rooms::Rooms,
    storage::{EventNid, RoomNid, StorageError},
};

/// Rooms whose bump stamps are remembered; 48 bytes each.
const BUMP_STAMPS_MAX: usize = 50_000;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum SlidingError {
    #[error("this position is not known any more; begin a new connection")]
    UnknownPosition,
    #[error("{0}")]
    Invalid(&'static str),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Builds answers. Clones share it.
#[derive(Clone)]
pub struct SlidingSync(Arc<Inner>);

struct Inner {
    rooms: Rooms,
    accounts: Arc<Accounts>,
    ephemeral: Ephemeral,
    encryption: Encryption,
    counts: Counts,
    connections: Connections,
    traits: KnownTraits,
    user_data: KnownUserData,
    /// By room: the position up to which it is known, and the stamp.
    bump_stamps: Cache<RoomNid, (i64, i64)>,
    settings: SyncSettings,
}

impl SlidingSync {
    /// Stands on the same parts as `/sync`.
    pub fn new(sync: &Sync) -> Self {
        let Parts { rooms, accounts, ephemeral, encryption, counts, settings, .. } = &*sync.0;
        let (database, writer) = (rooms.database().clone(), rooms.writer().clone());
        let memory_bytes = settings.memory_bytes / 2;
        let connections = Connections::new(database, writer, rooms.clock().clone(), memory_bytes);
        Self(Arc::new(Inner {
            rooms: rooms.clone(),
            accounts: accounts.clone(),
            ephemeral: ephemeral.clone(),
            encryption: encryption.clone(),
            counts: counts.clone(),
            connections,
            traits: KnownTraits::new(),
            user_data: KnownUserData::new(memory_bytes),
            bump_stamps: Cache::new(BUMP_STAMPS_MAX),
            settings: settings.clone(),
        }))
    }

    /// How well the cache of users' account data does.
    pub fn cache_figures(&self) -> CacheFigures {
        self.0.user_data.cache_figures()
    }

    /// Starts what saves connections, until `shutdown`.
    pub fn spawn_tasks(&self, tasks: &TaskTracker, shutdown: &CancellationToken) {
        let (sliding, shutdown) = (self.clone(), shutdown.clone());
        tasks.spawn(async move { sliding.0.connections.run(shutdown).await });
    }

    /// Saves what connections were told, so that they go on after a restart. Requests must have
    /// ended before.
    pub async fn save_connections(&self) -> Result<(), StorageError> {
        self.0.connections.save_changed().await
    }
}

/// One answer being built: what the client does not know of, up to `upto`.
struct Answer<'a> {
    inner: &'a Inner,
    request: &'a SlidingRequest,
    connection: &'a Connection,
    resumed: &'a Resumed,
    /// What the client saw last; at the beginning of a connection nothing counts as live.
    before: Option<Position>,
    /// The stream position that this answer reaches, and the epoch of typing.
    upto: i64,
    volatile: u64,
    now_ms: u64,
    ignored_users: Arc<HashSet<OwnedUserId>>,
    invite_permission: Arc<InvitePermission>,
    data: Arc<UserData>,
    /// Pairs of type and state key that no room has, so that none is looked for twice.
    absent_keys: Mutex<HashSet<(String, String)>>,
    /// Where the timelines begin that were written so far.
    timelines: Mutex<HashMap<RoomNid, i64>>,
    /// Sticky events in the timelines that were written so far.
    sticky_shown: Mutex<HashSet<EventNid>>,
}

/// What an answer changes in what the client knows.
#[derive(Default)]
struct News {
    told: Told,
    /// Rooms of which the answer says something.
    rooms: HashMap<RoomNid, SentRoom>,
    /// Rooms of which there is nothing to say, although the store has moved on.
    silent: HashMap<RoomNid, SentRoom>,
}

impl News {
    /// What will be known of a room, as far as the answer has been built.
    fn find(&self, resumed: &Resumed, room: RoomNid) -> Option<SentRoom> {
        let told = self.rooms.get(&room).or_else(|| self.silent.get(&room));
        told.or_else(|| resumed.rooms.get(&room)).cloned()
    }

    fn tell(&mut self, room: RoomNid, sent: SentRoom) {
        self.silent.remove(&room);
        self.rooms.insert(room, sent);
    }

    fn note(&mut self, room: RoomNid, sent: SentRoom) {
        match self.rooms.get_mut(&room) {
            Some(told) => *told = sent,
            None => drop(self.silent.insert(room, sent)),
        }
    }
}

type Result<T, E = StorageError> = std::result::Result<T, E>;
