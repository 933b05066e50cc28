//! Who has pushers, and which members of a room do. Users who have none cost nothing.

use std::{collections::HashMap, sync::Arc};

use parking_lot::{Mutex, RwLock};
use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedUserId, UserId};

use super::mailbox::{Kind, Mailbox};
use crate::storage::{
    Database, RoomNid, StorageError,
    pushers::{self, PusherProgress},
};

/// What a room costs in memory, and each of its members with pushers.
const ROOM_BYTES: u64 = 128;
const MEMBER_BYTES: u64 = 8;

/// A user with pushers.
pub struct Subscriber {
    pub user_id: OwnedUserId,
    mailboxes: RwLock<Vec<Arc<Mailbox>>>,
}

/// Members of one room who have pushers, or had some.
type Reach = Arc<Mutex<Vec<Arc<Subscriber>>>>;

/// All users with pushers.
pub struct Subscribers {
    by_user: RwLock<HashMap<OwnedUserId, Arc<Subscriber>>>,
    /// By room, read when the room notifies somebody.
    rooms: Cache<RoomNid, Reach, ReachWeighter>,
}

#[derive(Clone)]
struct ReachWeighter;

impl Weighter<RoomNid, Reach> for ReachWeighter {
    fn weight(&self, _: &RoomNid, reach: &Reach) -> u64 {
        ROOM_BYTES + MEMBER_BYTES * reach.lock().capacity() as u64
    }
}

impl Subscriber {
    pub fn mailboxes(&self) -> Vec<Arc<Mailbox>> {
        self.mailboxes.read().clone()
    }

    /// Calls `visit` with each of them.
    pub fn for_each(&self, visit: impl FnMut(&Arc<Mailbox>)) {
        self.mailboxes.read().iter().for_each(visit);
    }
}

impl Subscribers {
    pub fn new(memory_bytes: u64) -> Self {
        let estimate = (memory_bytes / ROOM_BYTES / 4).max(64) as usize;
        let rooms = Cache::with_weighter(estimate, memory_bytes, ReachWeighter);
        Self { by_user: RwLock::default(), rooms }
    }

    /// Reads all pushers; true when there are any.
    pub async fn load(&self, database: &Database) -> Result<bool, StorageError> {
        for (user_id, (app_id, pushkey, kind), progress) in pushers::list_all(database).await? {
            let Ok(user_id) = OwnedUserId::try_from(user_id) else { continue };
            self.add(&user_id, (app_id, pushkey, read_kind(&kind)), progress);
        }
        Ok(!self.by_user.read().is_empty())
    }

    pub fn find(&self, user: &UserId) -> Option<Arc<Subscriber>> {
        self.by_user.read().get(user).cloned()
    }

    pub fn list(&self) -> Vec<Arc<Subscriber>> {
        self.by_user.read().values().cloned().collect()
    }

    /// The mailbox of a pusher, made when it is new; and whether its user is new.
    pub fn add(
        &self,
        user: &UserId,
        (app_id, pushkey, kind): (String, String, Kind),
        progress: PusherProgress,
    ) -> (Arc<Mailbox>, bool) {
        let mut by_user = self.by_user.write();
        let is_new = !by_user.contains_key(user);
        let subscriber = by_user.entry(user.to_owned()).or_insert_with(|| {
            Arc::new(Subscriber { user_id: user.to_owned(), mailboxes: RwLock::default() })
        });
        let mut mailboxes = subscriber.mailboxes.write();
        // One that has become of another kind is another one.
        mailboxes.retain(|known| {
            known.app_id != app_id || known.pushkey != pushkey || known.kind == kind
        });
        let is_same = |known: &&Arc<Mailbox>| known.app_id == app_id && known.pushkey == pushkey;
        if let Some(known) = mailboxes.iter().find(is_same) {
            return (Arc::clone(known), is_new);
        }
        let mailbox = Arc::new(Mailbox::new(user.to_owned(), (app_id, pushkey, kind), progress));
        mailboxes.push(Arc::clone(&mailbox));
        (mailbox, is_new)
    }

    /// Forgets a pusher that is gone. The user stays known: rooms hold them.
    pub fn remove(&self, mailbox: &Mailbox) {
        if let Some(subscriber) = self.find(&mailbox.user_id) {
            let mut mailboxes = subscriber.mailboxes.write();
            mailboxes.retain(|known| !std::ptr::eq(&**known, mailbox));
        }
    }

    /// Reads the members of a room anew when it notifies somebody.
    pub fn forget_room(&self, room: RoomNid) {
        self.rooms.remove(&room);
    }

    /// A user has entered a room, or is in it no more.
    pub fn note_member(&self, room: RoomNid, user: &UserId, is_joined: bool) {
        let Some(reach) = self.rooms.get(&room) else { return };
        let mut members = reach.lock();
        members.retain(|member| member.user_id != user);
        if let Some(subscriber) = self.find(user).filter(|_| is_joined) {
            members.push(subscriber);
        }
    }

    /// The members of a room who have pushers.
    pub async fn of_room(
        &self,
        database: &Database,
        room: RoomNid,
    ) -> Result<Vec<Arc<Subscriber>>, StorageError> {
        let read = async {
            let users = pushers::list_users_in_room(database, room).await?;
            let by_user = self.by_user.read();
            let found =
                users.iter().filter_map(|user| by_user.get(<&UserId>::try_from(&**user).ok()?));
            Ok::<_, StorageError>(Arc::new(Mutex::new(found.cloned().collect())))
        };
        let reach = self.rooms.get_or_insert_async(&room, read).await?;
        let members = reach.lock();
        Ok(members.clone())
    }
}

pub fn read_kind(kind: &str) -> Kind {
    if kind == "email" { Kind::Email } else { Kind::Http }
}
