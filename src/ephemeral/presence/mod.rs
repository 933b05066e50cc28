//! Who is online (client-server API, "Presence"), for users who share a room. In memory only, but
//! for what people say of themselves: after a restart everybody is offline until they come back.

mod entry;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::entry::Entry;
use super::{
    push_json_text,
    volatile::{EphemeralChange, Volatile},
};
use crate::{
    clock::Clock,
    hook::Hook,
    rooms::{Rooms, UserRooms},
    storage::{StorageError, WriteTx, status_messages},
};

/// Users whose presence is remembered; of more, those longest offline are forgotten.
const USERS_MAX: usize = 100_000;

/// How presence is set up.
#[derive(Clone, Debug)]
pub struct PresenceSettings {
    pub enabled: bool,
    /// Without activity for this long, somebody counts as unavailable, ms.
    pub unavailable_after_ms: u64,
    /// Without a connection for this long, somebody counts as offline, ms.
    pub offline_after_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceState {
    Online,
    Unavailable,
    Offline,
}

/// What others see of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceStatus {
    pub state: PresenceState,
    pub status_message: Option<String>,
    /// None when the user was never active.
    pub last_active_ago_ms: Option<u64>,
    pub is_currently_active: bool,
}

/// What another server says of a user of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemotePresence {
    pub state: PresenceState,
    pub status_message: Option<String>,
    pub last_active_ago_ms: u64,
    pub is_currently_active: bool,
}

/// Hears of users of this server whom others see differently now.
pub type PresenceListener = dyn Fn(&UserId) + Send + Sync;

/// Everybody's presence. Clones share it.
#[derive(Clone)]
pub struct Presence(Arc<Inner>);

struct Inner {
    rooms: Rooms,
    volatile: Arc<Volatile>,
    settings: PresenceSettings,
    users: Mutex<Users>,
    /// Rung when the earliest deadline changed.
    rescheduled: Notify,
    listener: Hook<PresenceListener>,
}

#[derive(Default)]
struct Users {
    by_id: HashMap<OwnedUserId, Entry>,
    /// Whose presence changed when.
    by_epoch: BTreeMap<u64, OwnedUserId>,
    deadlines: BTreeSet<(u64, OwnedUserId)>,
}

/// Keeps a user connected as long as it lives.
#[must_use]
pub struct SyncGuard(Option<(Presence, OwnedUserId)>);

impl PresenceState {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "online" => Some(Self::Online),
            "unavailable" => Some(Self::Unavailable),
            "offline" => Some(Self::Offline),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Unavailable => "unavailable",
            Self::Offline => "offline",
        }
    }
}

impl PresenceStatus {
    /// The properties of the event's content, without braces.
    pub fn write_json(&self, out: &mut String) {
        out.push_str("\"presence\":\"");
        out.push_str(self.state.as_str());
        out.push('"');
        if let Some(ago_ms) = self.last_active_ago_ms {
            out.push_str(",\"last_active_ago\":");
            out.push_str(&ago_ms.to_string());
        }
        if let Some(message) = &self.status_message {
            out.push_str(",\"status_msg\":");
            push_json_text(out, message);
        }
        if self.state == PresenceState::Online {
            out.push_str(",\"currently_active\":");
            out.push_str(if self.is_currently_active { "true" } else { "false" });
        }
    }
}

impl Presence {
    pub(super) fn new(rooms: Rooms, volatile: Arc<Volatile>, settings: PresenceSettings) -> Self {
        let (users, rescheduled) = (Mutex::default(), Notify::new());
        let listener = Hook::default();
        Self(Arc::new(Inner { rooms, volatile, settings, users, rescheduled, listener }))
    }

    /// Has `listener` hear of every change that others see. Only the first call counts.
    pub fn set_listener(&self, listener: Arc<PresenceListener>) {
        let _ = self.0.listener.set(listener);
    }

    pub(super) fn release_listener(&self) {
        self.0.listener.release();
    }

    /// Notes what another server says of a user of its own.
    pub async fn set_remote(&self, user: &UserId, remote: RemotePresence) {
        if !self.0.settings.enabled {
            return;
        }
        let changed = self.change(user, |entry, now_ms| {
            entry.is_remote = true;
            entry.state = remote.state;
            entry.status_message = remote.status_message;
            entry.last_active_ms = Some(now_ms.saturating_sub(remote.last_active_ago_ms));
            entry.is_currently_active = remote.is_currently_active;
            entry.last_sync_ms = now_ms;
        });
        if changed {
            self.wake_neighbours(user).await;
        }
    }

    /// Takes up again what people said of themselves before the server was restarted.
    pub async fn restore(&self) -> Result<(), StorageError> {
        if !self.0.settings.enabled {
            return Ok(());
        }
        let now_ms = self.0.clock().now_ms();
        let rows = status_messages::list(self.0.rooms.database(), USERS_MAX).await?;
        let mut users = self.0.users.lock();
        for (user_id, message) in rows {
            if let Ok(user_id) = UserId::parse(user_id) {
                let entry = Entry { status_message: Some(message), ..Entry::offline(now_ms) };
                users.by_id.insert(user_id, entry);
            }
        }
        Ok(())
    }

    pub fn is_enabled(&self) -> bool {
        self.0.settings.enabled
    }

    /// A client syncs with this `set_presence`. `offline` and a server without presence cost
    /// nothing. Keep the guard until the answer is written.
    pub async fn begin_sync(&self, user: &UserId, state: PresenceState) -> SyncGuard {
        if !self.0.settings.enabled || state == PresenceState::Offline {
            return SyncGuard(None);
        }
        let changed = self.change(user, |entry, now_ms| {
            entry.syncs += 1;
            match (entry.state, state) {
                // To wait for news is no activity: who is idle stays so.
                (PresenceState::Offline, PresenceState::Online) => {
                    entry.state = PresenceState::Online;
                    entry.last_active_ms = Some(now_ms);
                }
                (_, PresenceState::Unavailable) => entry.state = PresenceState::Unavailable,
                _ => {}
            }
        });
        // Made before anything is waited for, so that a request that goes away is noticed.
        let guard = SyncGuard(Some((self.clone(), user.to_owned())));
        if changed {
            self.wake_neighbours(user).await;
        }
        guard
    }

    /// Sets what the user says of themself (`PUT /presence/{userId}/status`).
    pub async fn set(
        &self,
        user: &UserId,
        state: PresenceState,
        status_message: Option<String>,
    ) -> Result<(), StorageError> {
        if !self.0.settings.enabled {
            return Ok(());
        }
        if self.find(user).and_then(|status| status.status_message) != status_message {
            let mut tx = WriteTx::new();
            status_messages::save(&mut tx, user.as_str(), status_message.as_deref());
            self.0.rooms.writer().commit(tx).await?;
        }
        let changed = self.change(user, |entry, now_ms| {
            entry.state = state;
            entry.status_message = status_message;
            entry.last_active_ms = Some(now_ms);
            if state != PresenceState::Offline && entry.syncs == 0 {
                entry.last_sync_ms = now_ms;
            }
        });
        if changed {
            self.wake_neighbours(user).await;
        }
        Ok(())
    }

    /// The user did something: sent a message, a receipt, typed. Who hides stays hidden.
    pub async fn note_active(&self, user: &UserId) {
        if !self.0.settings.enabled || !self.0.users.lock().by_id.contains_key(user) {
            return;
        }
        let changed = self.change(user, |entry, now_ms| {
            if entry.state != PresenceState::Offline {
                entry.last_active_ms = Some(now_ms);
                entry.state = PresenceState::Online;
            }
        });
        if changed {
            self.wake_neighbours(user).await;
        }
    }

    /// Tells everybody who shares a room with the user anew, for example after a join.
    pub async fn announce(&self, user: &UserId) {
        if !self.0.settings.enabled {
            return;
        }
        let is_known = {
            let mut users = self.0.users.lock();
            let is_known = users.by_id.contains_key(user);
            if is_known {
                users.move_to(user, &self.0.volatile);
            }
            is_known
        };
        if is_known {
            self.wake_neighbours(user).await;
        }
    }

    /// What is known of a user; None when that is nothing.
    pub fn find(&self, user: &UserId) -> Option<PresenceStatus> {
        let now_ms = self.0.clock().now_ms();
        self.0.users.lock().by_id.get(user).map(|entry| entry.status(now_ms))
    }

    /// Whether `viewer` may see the presence of `user`: their own, or that of somebody who is in
    /// a room with them.
    pub async fn may_see(&self, viewer: &UserRooms, user: &UserId) -> Result<bool, StorageError> {
        if viewer.user_id == user {
            return Ok(true);
        }
        let theirs = self.0.rooms.rooms_of(user).await?;
        Ok(viewer.shares_room_with(&theirs))
    }

    /// Makes users idle and offline in time, until `shutdown`: one task for everybody.
    pub(super) async fn run_timeouts(self, shutdown: CancellationToken) {
        if !self.0.settings.enabled {
            return;
        }
        loop {
            let rescheduled = self.0.rescheduled.notified();
            let next_ms = self.0.users.lock().deadlines.first().map(|(at_ms, _)| *at_ms);
            let pause = async {
                match next_ms {
                    Some(next_ms) => {
                        let pause_ms = next_ms.saturating_sub(self.0.clock().now_ms());
                        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause => self.pass_deadlines().await,
                () = rescheduled => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn pass_deadlines(&self) {
        let now_ms = self.0.clock().now_ms();
        let due: Vec<OwnedUserId> = {
            let users = self.0.users.lock();
            let due = users.deadlines.iter().take_while(|(at_ms, _)| *at_ms <= now_ms);
            due.map(|(_, user)| user.clone()).collect()
        };
        for user in due {
            if self.change(&user, |_, _| ()) {
                self.wake_neighbours(&user).await;
            }
        }
    }

    /// Changes an entry, applies what time did to it, and sets its next deadline. True when
    /// others see a difference.
    fn change(&self, user: &UserId, change: impl FnOnce(&mut Entry, u64)) -> bool {
        let (settings, now_ms) = (&self.0.settings, self.0.clock().now_ms());
        let mut users = self.0.users.lock();
        if !users.by_id.contains_key(user) {
            users.make_room();
            users.by_id.insert(user.to_owned(), Entry::offline(now_ms));
        }
        let Some(entry) = users.by_id.get_mut(user) else {
            return false;
        };
        let before = entry.seen();
        change(entry, now_ms);
        entry.apply_time(settings, now_ms);
        let has_changed = entry.seen() != before;
        let deadline_before = entry.deadline_ms;
        entry.deadline_ms = entry.next_deadline_ms(settings, now_ms);
        let deadline_after = entry.deadline_ms;
        if deadline_before != deadline_after {
            if let Some(at_ms) = deadline_before {
                users.deadlines.remove(&(at_ms, user.to_owned()));
            }
            if let Some(at_ms) = deadline_after {
                users.deadlines.insert((at_ms, user.to_owned()));
                if deadline_before.is_none_or(|before_ms| at_ms < before_ms) {
                    self.0.rescheduled.notify_one();
                }
            }
        }
        if has_changed {
            users.move_to(user, &self.0.volatile);
        }
        has_changed
    }

    async fn wake_neighbours(&self, user: &UserId) {
        if let Some(listener) = self.0.listener.get() {
            listener(user);
        }
        self.0.volatile.tell(EphemeralChange::Presence(user));
        match self.0.rooms.rooms_of(user).await {
            Ok(rooms) => {
                rooms.list_joined().iter().for_each(|place| place.room.wake_listeners());
                rooms.waker.wake();
            }
            // They hear of it with their next sync.
            Err(error) => tracing::warn!(%error, "a change of presence woke nobody"),
        }
    }
}

impl Inner {
    fn clock(&self) -> &Clock {
        self.rooms.clock()
    }
}

impl Drop for SyncGuard {
    fn drop(&mut self) {
        if let Some((presence, user)) = self.0.take() {
            // Nobody sees a difference: the user stays online for a while.
            presence.change(&user, |entry, now_ms| {
                entry.syncs = entry.syncs.saturating_sub(1);
                entry.last_sync_ms = now_ms;
            });
        }
    }
}

impl Users {
    /// Notes that the user changed now.
    fn move_to(&mut self, user: &UserId, volatile: &Volatile) {
        if let Some(entry) = self.by_id.get_mut(user) {
            let epoch = volatile.advance();
            let before = std::mem::replace(&mut entry.epoch, epoch);
            let id = self.by_epoch.remove(&before).unwrap_or_else(|| user.to_owned());
            self.by_epoch.insert(epoch, id);
        }
    }

    /// Forgets the longer half of those who are offline when there are too many.
    fn make_room(&mut self) {
        if self.by_id.len() < USERS_MAX {
            return;
        }
        let is_offline = |user: &OwnedUserId| {
            let entry = self.by_id.get(user);
            entry.is_some_and(|entry| entry.syncs == 0 && entry.state == PresenceState::Offline)
        };
        let oldest_first = self.by_epoch.iter().filter(|(_, user)| is_offline(user));
        let gone: Vec<_> =
            oldest_first.take(USERS_MAX / 2).map(|(epoch, user)| (*epoch, user.clone())).collect();
        for (epoch, user) in gone {
            self.by_epoch.remove(&epoch);
            self.by_id.remove(&user);
        }
    }
}
