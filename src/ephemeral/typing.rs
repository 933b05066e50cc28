//! Who is typing (client-server API, "Typing Notifications"). In memory only.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    push_json_text,
    volatile::{EphemeralChange, Volatile},
};
use crate::{clock::Clock, rooms::Room, storage::RoomNid};

/// The longest time for which one request can make a user type, ms.
pub const TYPING_TIMEOUT_MS_MAX: u64 = 120_000;
/// Users typing at once in one room; further ones are not shown.
const TYPISTS_MAX: usize = 100;
/// Rooms whose latest change is remembered.
const ROOMS_MAX: usize = 65_536;

/// Who types where. Clones share it.
#[derive(Clone)]
pub struct Typing(Arc<Inner>);

struct Inner {
    clock: Clock,
    volatile: Arc<Volatile>,
    /// The epoch of the latest change anywhere; the highest number during a change.
    latest: AtomicU64,
    rooms: Mutex<TypingRooms>,
    /// Rung when the earliest deadline changed.
    rescheduled: Notify,
}

#[derive(Default)]
struct TypingRooms {
    by_room: HashMap<RoomNid, RoomTyping>,
    deadlines: BTreeSet<(u64, RoomNid, OwnedUserId)>,
}

struct RoomTyping {
    epoch: u64,
    typists: Vec<Typist>,
}

struct Typist {
    user_id: OwnedUserId,
    until_ms: u64,
    room: Arc<Room>,
}

impl Typing {
    pub(super) fn new(clock: Clock, volatile: Arc<Volatile>) -> Self {
        Self(Arc::new(Inner {
            clock,
            volatile,
            latest: AtomicU64::new(0),
            rooms: Mutex::default(),
            rescheduled: Notify::new(),
        }))
    }

    /// Notes that a member types for the next `timeout_ms`.
    pub fn start(&self, room: &Arc<Room>, user: &UserId, timeout_ms: u64) {
        let until_ms = self.0.clock.now_ms() + timeout_ms.min(TYPING_TIMEOUT_MS_MAX);
        let mut rooms = self.0.rooms.lock();
        let entry = rooms.by_room.entry(room.nid);
        let entry = entry.or_insert_with(|| RoomTyping { epoch: 0, typists: Vec::new() });
        let known = entry.typists.iter_mut().find(|typist| typist.user_id == user);
        let before_ms = known.map(|typist| std::mem::replace(&mut typist.until_ms, until_ms));
        if before_ms.is_none() {
            if entry.typists.len() >= TYPISTS_MAX {
                return;
            }
            let (user_id, room) = (user.to_owned(), Arc::clone(room));
            entry.typists.push(Typist { user_id, until_ms, room });
        }
        if let Some(before_ms) = before_ms {
            rooms.deadlines.remove(&(before_ms, room.nid, user.to_owned()));
        }
        rooms.deadlines.insert((until_ms, room.nid, user.to_owned()));
        if before_ms.is_none() {
            self.0.note_change(&mut rooms, room.nid);
        }
        drop(rooms);
        self.0.rescheduled.notify_one();
        if before_ms.is_none() {
            room.wake_listeners();
            self.0.volatile.tell(EphemeralChange::Typing(room));
        }
    }

    /// Notes that a user types no more, or has left the room.
    pub fn stop(&self, room: &Room, user: &UserId) {
        let mut rooms = self.0.rooms.lock();
        if let Some(room) = self.0.remove(&mut rooms, room.nid, user) {
            drop(rooms);
            room.wake_listeners();
            self.0.volatile.tell(EphemeralChange::Typing(&room));
        }
    }

    /// The epoch of the room's latest change; 0 when nobody typed for long.
    pub fn room_epoch(&self, room: &Room) -> u64 {
        self.0.rooms.lock().by_room.get(&room.nid).map_or(0, |typing| typing.epoch)
    }

    /// Appends the event `m.typing` if it changed after `since_epoch`; for an initial sync
    /// (`since_epoch` 0), if anybody types.
    pub fn write_since(&self, out: &mut String, room: &Room, since_epoch: u64) -> bool {
        if self.0.latest.load(Ordering::Acquire) <= since_epoch {
            return false;
        }
        let rooms = self.0.rooms.lock();
        let Some(typing) = rooms.by_room.get(&room.nid) else {
            return false;
        };
        let is_news = typing.epoch > since_epoch;
        if !is_news || since_epoch == 0 && typing.typists.is_empty() {
            return false;
        }
        out.push_str("{\"content\":{\"user_ids\":[");
        for (number, typist) in typing.typists.iter().enumerate() {
            if number > 0 {
                out.push(',');
            }
            push_json_text(out, typist.user_id.as_str());
        }
        out.push_str("]},\"type\":\"m.typing\"}");
        true
    }

    /// Who types in a room.
    pub fn list(&self, room: &Room) -> Vec<OwnedUserId> {
        let rooms = self.0.rooms.lock();
        let typists = rooms.by_room.get(&room.nid).map(|typing| &typing.typists);
        typists.into_iter().flatten().map(|typist| typist.user_id.clone()).collect()
    }

    /// Ends what is not renewed in time, until `shutdown`: one task for everybody.
    pub(super) async fn run_expiry(self, shutdown: CancellationToken) {
        loop {
            let rescheduled = self.0.rescheduled.notified();
            let next_ms = self.0.rooms.lock().deadlines.first().map(|(until_ms, ..)| *until_ms);
            let pause = async {
                match next_ms {
                    Some(next_ms) => {
                        let pause_ms = next_ms.saturating_sub(self.0.clock.now_ms());
                        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause => self.expire(),
                () = rescheduled => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    fn expire(&self) {
        let now_ms = self.0.clock.now_ms();
        let mut woken = Vec::new();
        let mut rooms = self.0.rooms.lock();
        while let Some((until_ms, nid, user)) = rooms.deadlines.first().cloned()
            && until_ms <= now_ms
        {
            rooms.deadlines.pop_first();
            woken.extend(self.0.remove(&mut rooms, nid, &user));
        }
        drop(rooms);
        for room in &woken {
            room.wake_listeners();
            self.0.volatile.tell(EphemeralChange::Typing(room));
        }
    }
}

impl Inner {
    /// Returns the room if the user was typing there.
    fn remove(&self, rooms: &mut TypingRooms, nid: RoomNid, user: &UserId) -> Option<Arc<Room>> {
        let typing = rooms.by_room.get_mut(&nid)?;
        let index = typing.typists.iter().position(|typist| typist.user_id == user)?;
        let typist = typing.typists.remove(index);
        rooms.deadlines.remove(&(typist.until_ms, nid, typist.user_id));
        self.note_change(rooms, nid);
        Some(typist.room)
    }

    fn note_change(&self, rooms: &mut TypingRooms, nid: RoomNid) {
        // Whoever sees the new epoch must not see the old `latest`.
        self.latest.store(u64::MAX, Ordering::Release);
        let epoch = self.volatile.advance();
        if let Some(typing) = rooms.by_room.get_mut(&nid) {
            typing.epoch = epoch;
        }
        self.latest.store(epoch, Ordering::Release);
        if rooms.by_room.len() > ROOMS_MAX {
            let mut epochs: Vec<_> = rooms.by_room.values().map(|typing| typing.epoch).collect();
            let (_, &mut middle, _) = epochs.select_nth_unstable(ROOMS_MAX / 2);
            // The older half of the rooms where nobody types.
            rooms.by_room.retain(|_, typing| !typing.typists.is_empty() || typing.epoch > middle);
        }
    }
}
