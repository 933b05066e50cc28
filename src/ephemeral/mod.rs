//! What passes: who types, who has read how far, who is online. Receipts and status messages are
//! kept; everything else lives in memory only and is lost with it.

mod presence;
mod receipts;
mod typing;
mod volatile;

use std::sync::Arc;

pub use presence::{
    Presence, PresenceListener, PresenceSettings, PresenceState, PresenceStatus, RemotePresence,
    SyncGuard,
};
pub use receipts::{NewReceipt, ReceiptKind, Receipts, RoomReceipts};
use ruma::UserId;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
pub use typing::{TYPING_TIMEOUT_MS_MAX, Typing};
pub use volatile::{EphemeralChange, EphemeralHook, Volatile};

use crate::{
    protocol::membership::Membership,
    rooms::{Room, Rooms, UserRooms},
    storage::{RoomNid, StorageError},
};

/// How it is set up.
#[derive(Clone, Debug)]
pub struct EphemeralSettings {
    /// The part of the memory budget for receipts, bytes.
    pub memory_bytes: u64,
    pub presence: PresenceSettings,
}

/// The three of them. Clones share them.
#[derive(Clone)]
pub struct Ephemeral {
    pub typing: Typing,
    pub receipts: Receipts,
    pub presence: Presence,
    volatile: Arc<Volatile>,
}

impl Ephemeral {
    pub fn new(rooms: &Rooms, settings: EphemeralSettings) -> Self {
        let volatile = Arc::new(Volatile::new(rooms.clock()));
        Self {
            typing: Typing::new(rooms.clock().clone(), Arc::clone(&volatile)),
            receipts: Receipts::new(rooms.clone(), settings.memory_bytes, Arc::clone(&volatile)),
            presence: Presence::new(rooms.clone(), Arc::clone(&volatile), settings.presence),
            volatile,
        }
    }

    /// Registers who hears of every change; once, at start.
    pub fn set_hook(&self, hook: Arc<EphemeralHook>) {
        self.volatile.set_hook(hook);
    }

    /// Lets go of what was registered from above, when the server ends.
    pub fn release_hooks(&self) {
        self.volatile.release_hook();
        self.presence.release_listener();
    }

    /// Starts what ends typing and presence when their time is over, until `shutdown`.
    pub fn spawn_tasks(&self, tasks: &TaskTracker, shutdown: &CancellationToken) {
        tasks.spawn(self.typing.clone().run_expiry(shutdown.clone()));
        tasks.spawn(self.presence.clone().run_timeouts(shutdown.clone()));
    }

    /// A user's membership of a room has changed: who has come is shown as present, who is gone
    /// types no more.
    pub async fn note_membership(&self, room: &Room, user: &UserId, membership: Membership) {
        match membership {
            Membership::Join => self.presence.announce(user).await,
            _ => self.typing.stop(room, user),
        }
    }

    /// The epoch of what is volatile now: everything up to it is known to whoever asks after.
    pub fn epoch(&self) -> u64 {
        self.volatile.epoch()
    }

    /// The epoch of the latest change of who types in the room; 0 when nobody did for long.
    pub fn room_epoch(&self, room: &Room) -> u64 {
        self.typing.room_epoch(room)
    }

    /// See [`Presence::write_since`].
    pub async fn write_presence_since(
        &self,
        out: &mut String,
        viewer: &UserRooms,
        since_epoch: u64,
        entered: &[RoomNid],
    ) -> Result<bool, StorageError> {
        self.presence.write_since(out, viewer, since_epoch, entered).await
    }

    /// See [`Typing::write_since`].
    pub fn write_typing_since(&self, out: &mut String, room: &Room, since_epoch: u64) -> bool {
        self.typing.write_since(out, room, since_epoch)
    }

    /// See [`Receipts::write_since`].
    pub async fn write_receipts_since(
        &self,
        out: &mut String,
        room: &Room,
        user: &UserId,
        range: (i64, i64),
    ) -> Result<bool, StorageError> {
        self.receipts.write_since(out, room, user, range).await
    }
}

/// Appends a text as JSON.
fn push_json_text(out: &mut String, text: &str) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::to_string(text).expect("a text is always JSON"));
    }
}
