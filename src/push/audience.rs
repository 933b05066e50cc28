//! Which members of a room have push rules of their own: everybody else gets what is default, so
//! that a message costs nothing per member. One audience per room in memory, read on demand.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::Value;

use super::wishes::Wishes;
use crate::{
    cache_figures::CacheFigures,
    protocol::{
        membership::Membership,
        power_levels::PowerLevels,
        push_rules::{CompiledRules, Mentions, Names},
    },
    rooms::{Head, MEMBER, NotedWeight, NotedWeighter, Room, Rooms, Weighed, reweigh},
    storage::{self, EventNid, RoomNid, StorageError, counts::list_local_members},
};

const ROOM_BYTES: u64 = 512;
/// What a remembered user takes, roughly.
const PLAIN_BYTES: u64 = 120;
/// What a listener takes beside their rules, roughly.
const LISTENER_BYTES: u64 = 200;
/// Users whom one text calls, at most; whoever is called as one more is not heard of.
const CALLED_MAX: usize = 1000;

/// A member whose rules are not the default ones, or who ignores somebody.
#[derive(Clone)]
pub(super) struct Listener {
    pub user_id: OwnedUserId,
    pub rules: Arc<CompiledRules>,
    pub ignored: HashSet<OwnedUserId>,
    /// Their name in the room.
    pub display_name: Option<String>,
    /// Whether nothing notifies them by default now.
    pub is_quiet: bool,
    /// How often that changed while the audience was in memory.
    pub turns: u8,
}

/// The listeners of one room.
#[derive(Default)]
pub(super) struct Audience {
    pub listeners: Mutex<Vec<Listener>>,
    /// All members of this server, where a name in a text mentions somebody.
    names: Mutex<Names>,
    /// Whether members have to be read, all (at first) or those of `unchecked`.
    is_outdated: AtomicBool,
    unchecked: Mutex<Unchecked>,
    reading: tokio::sync::Mutex<()>,
    weight: NotedWeight,
    power_levels: Mutex<Option<(Option<EventNid>, Arc<PowerLevels>)>>,
}

enum Unchecked {
    All,
    Users(Vec<OwnedUserId>),
}

impl Default for Unchecked {
    fn default() -> Self {
        Self::Users(Vec::new())
    }
}

/// The audiences of the rooms in use.
pub(super) struct Audiences {
    rooms: Cache<RoomNid, Arc<Audience>, NotedWeighter>,
    /// Users who were found to have no rules of their own, so that a join need not ask again.
    plain: Cache<OwnedUserId, ()>,
    /// Rises with every change of somebody's rules: what was read before may be old.
    epoch: AtomicU64,
    mentions: Mentions,
}

impl Weighed for Audience {
    fn noted_weight(&self) -> &NotedWeight {
        &self.weight
    }

    fn weigh_bytes(&self) -> u64 {
        let listeners = self.listeners.lock();
        let rules: u64 = listeners.iter().map(|listener| listener.rules.weight_bytes()).sum();
        let names = self.names.lock().weight_bytes();
        ROOM_BYTES + LISTENER_BYTES * listeners.len() as u64 + rules + names
    }
}

impl Audiences {
    pub fn new(mentions: Mentions, memory_bytes: u64) -> Self {
        let (plain_bytes, room_bytes) = (memory_bytes / 8, memory_bytes - memory_bytes / 8);
        let estimate = (room_bytes / ROOM_BYTES / 2).max(64) as usize;
        let rooms = Cache::with_weighter(estimate, room_bytes, NotedWeighter);
        let plain = Cache::new((plain_bytes / PLAIN_BYTES).max(64) as usize);
        Self { rooms, plain, epoch: AtomicU64::new(0), mentions }
    }

    pub fn cache_figures(&self) -> CacheFigures {
        CacheFigures::of("audiences", &self.rooms)
    }

    /// The audience of a room, up to date.
    pub async fn load(
        &self,
        rooms: &Rooms,
        room: &Arc<Room>,
    ) -> Result<Arc<Audience>, StorageError> {
        // In the cache before the rows are read, so that no change in between is missed.
        let made = || self.rooms.get_or_insert_with(&room.nid, || Ok::<_, ()>(Audience::unread()));
        let audience = self.rooms.get(&room.nid);
        let audience = audience.unwrap_or_else(|| made().unwrap_or_else(|()| Audience::unread()));
        if audience.is_outdated.load(Ordering::Acquire) {
            audience.update(self, rooms, room).await?;
            reweigh(&self.rooms, &room.nid);
        }
        Ok(audience)
    }

    /// Reads the room's audience anew at its next event.
    pub fn forget(&self, room: RoomNid) {
        self.rooms.remove(&room);
    }

    /// Looks at a user's rules again, wherever they are.
    pub fn recheck(&self, user: &UserId) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.plain.remove(user);
        self.rooms.iter().for_each(|(_, audience)| audience.recheck(user));
    }

    /// A user who has just registered, and so has no rules yet.
    pub fn note_new(&self, user: &UserId) {
        self.plain.insert(user.to_owned(), ());
    }

    /// The wishes of those users who have some.
    async fn list_wishes(
        &self,
        rooms: &Rooms,
        users: &[OwnedUserId],
    ) -> Result<BTreeMap<String, Wishes>, StorageError> {
        let epoch = self.epoch.load(Ordering::SeqCst);
        let unknown = users.iter().filter(|user| self.plain.get(*user).is_none());
        let unknown: Vec<&str> = unknown.map(|user| user.as_str()).collect();
        if unknown.is_empty() {
            return Ok(BTreeMap::new());
        }
        let found = Wishes::load(rooms.database(), &unknown).await?;
        for user in users.iter().filter(|user| !found.contains_key(user.as_str())) {
            self.plain.insert(user.clone(), ());
            if self.epoch.load(Ordering::SeqCst) != epoch {
                self.plain.remove(user);
            }
        }
        Ok(found)
    }
}

impl Audience {
    fn unread() -> Arc<Self> {
        let unchecked = Mutex::new(Unchecked::All);
        Arc::new(Self { is_outdated: true.into(), unchecked, ..Self::default() })
    }

    /// Looks at a user's rules and name again before the next event.
    pub fn recheck(&self, user: &UserId) {
        if let Unchecked::Users(users) = &mut *self.unchecked.lock()
            && !users.iter().any(|known| known == user)
        {
            users.push(user.to_owned());
        }
        self.is_outdated.store(true, Ordering::Release);
    }

    /// The user is no member any more.
    pub fn remove(&self, user: &UserId) {
        self.listeners.lock().retain(|listener| listener.user_id != user);
        self.names.lock().remove(user);
    }

    /// Whom an event to come calls by name in its text, with their display names. What has `m.mentions`
    /// says itself whom it mentions.
    pub fn list_called(&self, content: &Value) -> Vec<(OwnedUserId, Option<String>)> {
        match content["body"].as_str() {
            Some(body) if content.get("m.mentions").is_none() => {
                self.names.lock().find_in(body, CALLED_MAX)
            }
            _ => Vec::new(),
        }
    }

    /// The power levels of the room where it stands.
    pub fn power_levels(&self, room: &Room, head: &Head) -> Arc<PowerLevels> {
        let power = head.find_pinned("m.room.power_levels");
        let nid = power.map(|event| event.nid);
        let mut cached = self.power_levels.lock();
        if let Some((known, levels)) = &*cached
            && *known == nid
        {
            return Arc::clone(levels);
        }
        let create = head.find_pinned("m.room.create");
        let event = |stored: &'_ Arc<crate::rooms::StoredEvent>| Arc::clone(&stored.event);
        let (create, power) = (create.map(event), power.map(event));
        let levels = PowerLevels::from_events(create.as_deref(), power.as_deref(), room.rules);
        let levels = Arc::new(levels);
        *cached = Some((nid, Arc::clone(&levels)));
        levels
    }

    async fn update(
        &self,
        audiences: &Audiences,
        rooms: &Rooms,
        room: &Arc<Room>,
    ) -> Result<(), StorageError> {
        let _alone = self.reading.lock().await;
        if !self.is_outdated.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let unchecked = std::mem::take(&mut *self.unchecked.lock());
        let result = self.check(audiences, rooms, room, &unchecked).await;
        if result.is_err() {
            *self.unchecked.lock() = Unchecked::All;
            self.is_outdated.store(true, Ordering::Release);
        }
        result
    }

    async fn check(
        &self,
        audiences: &Audiences,
        rooms: &Rooms,
        room: &Arc<Room>,
        unchecked: &Unchecked,
    ) -> Result<(), StorageError> {
        let database = rooms.database();
        if audiences.mentions == Mentions::ByName {
            self.read_names(rooms, room, unchecked).await?;
        }
        let wishes = match unchecked {
            Unchecked::All => {
                Wishes::group(storage::counts::list_wishes_of_members(database, room.nid).await?)
            }
            Unchecked::Users(users) => audiences.list_wishes(rooms, users).await?,
        };
        let user_ids: Vec<&str> = wishes.keys().map(String::as_str).collect();
        let quiet = match user_ids.is_empty() {
            true => Vec::new(),
            false => storage::counts::list_quiet_in_room(database, &user_ids, room.nid).await?,
        };
        let mut found = Vec::new();
        for (user, wishes) in &wishes {
            let is_quiet = quiet.iter().any(|row| row.user_id == *user);
            found.extend(listen(rooms, room, (user, wishes, audiences.mentions), is_quiet).await?);
        }
        let mut listeners = self.listeners.lock();
        match unchecked {
            Unchecked::All => listeners.clear(),
            Unchecked::Users(users) => listeners.retain(|l| !users.contains(&l.user_id)),
        }
        listeners.extend(found);
        Ok(())
    }

    /// Notes how the members of this server are called.
    async fn read_names(
        &self,
        rooms: &Rooms,
        room: &Room,
        unchecked: &Unchecked,
    ) -> Result<(), StorageError> {
        let Unchecked::Users(users) = unchecked else {
            let members = list_local_members(rooms.database(), room.nid).await?;
            let mut names = self.names.lock();
            names.clear();
            for (user, json) in members {
                let Ok(user) = OwnedUserId::try_from(user) else { continue };
                let event: Option<MemberJson> = serde_json::from_str(&json).ok();
                names.insert(&user, event.and_then(|event| event.content.displayname));
            }
            return Ok(());
        };
        for user in users {
            let member = rooms.find_state_event(room, MEMBER, user.as_str()).await?;
            let membership = Membership::of_state(member.as_ref().map(|event| &*event.event));
            let content = member.and_then(|event| event.event.content_as::<MemberContent>().ok());
            let mut names = self.names.lock();
            match membership {
                Membership::Join => names.insert(user, content.and_then(|it| it.displayname)),
                _ => names.remove(user),
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct MemberJson {
    content: MemberContent,
}

#[derive(Deserialize)]
struct MemberContent {
    displayname: Option<String>,
}

/// The user as a listener, if they are a member; also when their rules are the default ones
/// again, while a quiet range has to be ended.
async fn listen(
    rooms: &Rooms,
    room: &Room,
    (user, wishes, mentions): (&str, &Wishes, Mentions),
    is_quiet: bool,
) -> Result<Option<Listener>, StorageError> {
    let Ok(user_id) = OwnedUserId::try_from(user) else {
        return Ok(None);
    };
    let member = rooms.find_state_event(room, MEMBER, user).await?;
    let membership = Membership::of_state(member.as_ref().map(|event| &*event.event));
    if membership != Membership::Join {
        return Ok(None);
    }
    let (rules, ignored) = (wishes.compile_rules(&user_id, mentions)?, wishes.ignored_users());
    if rules.is_default() && ignored.is_empty() && !is_quiet {
        return Ok(None);
    }
    let content = member.and_then(|event| event.event.content_as::<MemberContent>().ok());
    let display_name = content.and_then(|content| content.displayname);
    Ok(Some(Listener {
        user_id,
        rules: Arc::new(rules),
        ignored,
        display_name,
        is_quiet,
        turns: 0,
    }))
}
