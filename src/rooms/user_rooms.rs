//! Which rooms a user is in, in memory for those who sync. Follows the commits.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use parking_lot::RwLock;
use quick_cache::sync::Cache;
use ruma::{OwnedUserId, UserId};
use tokio::sync::OnceCell;

use super::{
    head_change::membership_of_number,
    noted_weight::{NotedWeight, NotedWeighter, Weighed, reweigh},
    registry::Rooms,
    room::Room,
};
use crate::{
    cache_figures::CacheFigures,
    notifier::UserWaker,
    protocol::membership::Membership,
    storage::{self, EventNid, RoomNid, StorageError, memberships::MembershipRow},
};

/// What a membership costs in memory beside the room itself, bytes.
const ENTRY_BYTES: u64 = 96;
const USER_BYTES: u64 = 512;

/// A user's place in one room.
#[derive(Clone)]
pub struct UserRoom {
    pub room: Arc<Room>,
    pub membership: Membership,
    /// The membership event and its place in the stream.
    pub event: EventNid,
    pub position: i64,
    pub forgotten: bool,
}

/// A user's rooms. There may be an outdated copy for a moment after one was evicted, so take
/// it anew from [`Rooms::rooms_of`] for every request.
pub struct UserRooms {
    pub user_id: OwnedUserId,
    pub waker: Arc<UserWaker>,
    rooms: RwLock<HashMap<RoomNid, UserRoom>>,
    loaded: OnceCell<()>,
    /// The latest position of anything of the user's own (account data, private receipts …).
    activity: AtomicI64,
    weight: NotedWeight,
}

impl Weighed for UserRooms {
    fn noted_weight(&self) -> &NotedWeight {
        &self.weight
    }

    fn weigh_bytes(&self) -> u64 {
        USER_BYTES + ENTRY_BYTES * self.rooms.read().len() as u64
    }
}

/// The users whose rooms are in memory.
pub(super) struct AllUserRooms(Cache<OwnedUserId, Arc<UserRooms>, NotedWeighter>);

impl AllUserRooms {
    pub fn new(memory_bytes: u64) -> Self {
        Self(Cache::with_weighter(4096, memory_bytes, NotedWeighter))
    }

    pub fn cache_figures(&self) -> CacheFigures {
        CacheFigures::of("rooms_of_users", &self.0)
    }

    /// Lets go of a room that is gone.
    pub fn drop_room(&self, room: RoomNid) {
        for (_, rooms) in self.0.iter() {
            rooms.rooms.write().remove(&room);
        }
    }

    /// Notes a committed membership.
    pub fn apply(&self, user: &UserId, place: UserRoom) {
        if let Some(rooms) = self.0.get(user) {
            rooms.apply(place);
        }
    }
}

impl UserRoom {
    /// Whether the user is a member now.
    pub fn is_joined(&self) -> bool {
        self.membership == Membership::Join
    }
}

impl UserRooms {
    /// All rooms that the user was ever in and has not forgotten.
    pub fn list(&self) -> Vec<UserRoom> {
        self.rooms.read().values().filter(|place| !place.forgotten).cloned().collect()
    }

    /// The joined rooms.
    pub fn list_joined(&self) -> Vec<UserRoom> {
        let rooms = self.rooms.read();
        let joined = rooms.values().filter(|place| place.membership == Membership::Join);
        joined.cloned().collect()
    }

    /// Calls `visit` with every room, forgotten ones too, without copying.
    pub fn for_each(&self, mut visit: impl FnMut(&UserRoom)) {
        self.rooms.read().values().for_each(&mut visit);
    }

    pub fn find(&self, room: RoomNid) -> Option<UserRoom> {
        self.rooms.read().get(&room).cloned()
    }

    /// Whether both are joined members of some room.
    pub fn shares_room_with(&self, other: &Self) -> bool {
        if std::ptr::eq(self, other) {
            return true;
        }
        let is_joined = |place: &UserRoom| place.membership == Membership::Join;
        // One lock at a time, so that two who ask after each other do not wait for each other.
        let theirs: Vec<RoomNid> = {
            let rooms = other.rooms.read();
            rooms.iter().filter(|(_, place)| is_joined(place)).map(|(nid, _)| *nid).collect()
        };
        let rooms = self.rooms.read();
        theirs.iter().any(|nid| rooms.get(nid).is_some_and(is_joined))
    }

    /// The position since when both are joined members of a room for certain, the earliest of all
    /// rooms; None when they share none.
    pub fn shares_room_since(&self, other: &Self) -> Option<i64> {
        let theirs: Vec<(RoomNid, i64)> = {
            let rooms = other.rooms.read();
            let joined = rooms.iter().filter(|(_, place)| place.is_joined());
            joined.map(|(nid, place)| (*nid, place.position)).collect()
        };
        let rooms = self.rooms.read();
        let shared = theirs.iter().filter_map(|(nid, position)| {
            let own = rooms.get(nid).filter(|place| place.is_joined())?;
            Some(own.position.max(*position))
        });
        shared.min()
    }

    /// The latest position of anything of the user's own.
    pub fn activity(&self) -> i64 {
        self.activity.load(Ordering::Acquire)
    }

    /// Notes that something of the user's own has this position.
    pub fn note_activity(&self, position: i64) {
        self.activity.fetch_max(position, Ordering::AcqRel);
    }

    fn apply(&self, place: UserRoom) {
        match place.membership {
            Membership::Join | Membership::Invite | Membership::Knock => {
                place.room.add_listener(&self.waker);
            }
            Membership::Leave | Membership::Ban => place.room.remove_listener(&self.waker),
        }
        self.note_activity(place.position);
        let mut rooms = self.rooms.write();
        let known = rooms.get(&place.room.nid).map_or(-1, |known| known.position);
        if known <= place.position {
            rooms.insert(place.room.nid, place);
        }
    }
}

impl Rooms {
    /// Notes that something of the user's own (account data, push rules) has this position.
    pub fn note_user_activity(&self, user: &UserId, position: i64) {
        if let Some(rooms) = self.0.users.0.get(user) {
            rooms.note_activity(position);
        }
    }

    /// The user's rooms, read into memory if need be.
    pub async fn rooms_of(&self, user: &UserId) -> Result<Arc<UserRooms>, StorageError> {
        let engine = &self.0;
        let rooms = match engine.users.0.get(user) {
            Some(rooms) => rooms,
            None => {
                let made = UserRooms {
                    user_id: user.to_owned(),
                    waker: engine.notifier.watch(user),
                    rooms: RwLock::default(),
                    loaded: OnceCell::new(),
                    activity: AtomicI64::new(engine.writer.position()),
                    weight: NotedWeight::default(),
                };
                // In the cache before the rows are read, so that no commit in between is missed.
                let made = async { Ok::<_, StorageError>(Arc::new(made)) };
                engine.users.0.get_or_insert_async(user, made).await?
            }
        };
        let read = || async {
            let user_nid = self.0.keys.find_user(user.as_str()).await?;
            if let Some(user_nid) = user_nid {
                let rows = storage::memberships::list_of_user(&self.0.database, user_nid).await?;
                self.add_rows(&rooms, rows).await?;
            }
            Ok::<_, StorageError>(())
        };
        if !rooms.loaded.initialized() {
            rooms.loaded.get_or_try_init(read).await?;
            reweigh(&engine.users.0, user);
        }
        Ok(rooms)
    }

    async fn add_rows(
        &self,
        rooms: &UserRooms,
        rows: Vec<MembershipRow>,
    ) -> Result<(), StorageError> {
        let nids: Vec<RoomNid> = rows.iter().map(|row| row.room).collect();
        for (row, room) in rows.into_iter().zip(self.load_all(&nids).await?) {
            rooms.apply(UserRoom {
                room,
                membership: membership_of_number(row.membership),
                event: row.event,
                position: row.position,
                forgotten: row.forgotten,
            });
        }
        Ok(())
    }

    /// Forgets a room that the user has left; false when the user has not left it.
    pub async fn forget(&self, user: &UserId, room: &Room) -> Result<bool, StorageError> {
        let rooms = self.rooms_of(user).await?;
        let Some(place) = rooms.find(room.nid) else {
            return Ok(false);
        };
        if !matches!(place.membership, Membership::Leave | Membership::Ban) {
            return Ok(false);
        }
        let Some(user_nid) = self.0.keys.find_user(user.as_str()).await? else {
            return Ok(false);
        };
        let mut tx = storage::WriteTx::new();
        storage::memberships::forget(&mut tx, user_nid, room.nid);
        let rooms = Arc::clone(&rooms);
        tx.after_commit(move |_| {
            rooms.apply(UserRoom { forgotten: true, ..place });
        });
        self.0.writer.commit(tx).await?;
        Ok(true)
    }
}
