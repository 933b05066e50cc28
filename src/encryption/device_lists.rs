//! Whose device lists changed, for clients: `device_lists` of a sync and `GET /keys/changes`
//! (client-server API, "Tracking the device list for a user"). The latest changes are in memory, so
//! that a sync that is up to date reads nothing.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};

use super::{
    Encryption,
    device_news::{DeviceNews, NewsPlace},
};
use crate::{
    protocol::membership::Membership,
    rooms::{Room, Rooms, StoredEvent, UserRoom, UserRooms, ordering_of_position},
    storage::{
        self, EventNid, ORDERING_STEP, StateKeyNid, StorageError, WriteTransaction, WriteTx,
        device_lists,
    },
};

/// What a change costs in memory, bytes.
const CHANGE_BYTES: u64 = 160;
/// Users whose rooms are compared in memory; more of them are compared by the database.
const COMPARED_USERS_MAX: usize = 50;

/// The user IDs of both sections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceListChanges {
    /// Whose lists changed, or who shares a room only now.
    pub changed: BTreeSet<String>,
    /// Who shares no room any more.
    pub left: BTreeSet<String>,
}

/// The latest changes, and how they are told.
pub(super) struct DeviceLists {
    rooms: Rooms,
    log: Arc<Mutex<Log>>,
    news: NewsPlace,
}

/// Changes in the order of their positions.
struct Log {
    changes: VecDeque<Change>,
    /// All changes above this position are there.
    complete_above: i64,
    changes_max: usize,
}

#[derive(Clone)]
struct Change {
    position: i64,
    user: OwnedUserId,
    /// None: everybody who shares a room.
    only_for: Option<OwnedUserId>,
}

/// Who is told of a change.
#[derive(Clone)]
pub(super) struct Audience(Vec<Arc<Room>>);

impl Log {
    fn push(&mut self, change: Change) {
        self.changes.push_back(change);
        while self.changes.len() > self.changes_max {
            if let Some(gone) = self.changes.pop_front() {
                self.complete_above = gone.position;
            }
        }
    }

    /// The changes of a range, unless some of them are forgotten.
    fn between(&self, (since, upto): (i64, i64)) -> Option<Vec<Change>> {
        if since < self.complete_above {
            return None;
        }
        let newest_first = self.changes.iter().rev().take_while(|change| change.position > since);
        Some(newest_first.filter(|change| change.position <= upto).cloned().collect())
    }
}

impl DeviceLists {
    pub fn new(rooms: Rooms, memory_bytes: u64, news: NewsPlace) -> Self {
        let changes_max = (memory_bytes / CHANGE_BYTES).max(256) as usize;
        let complete_above = rooms.writer().position();
        let log = Log { changes: VecDeque::new(), complete_above, changes_max };
        Self { rooms, log: Arc::new(Mutex::new(log)), news }
    }

    /// Who is told of a user's changes now.
    pub async fn audience(&self, user: &UserId) -> Result<Audience, StorageError> {
        let joined = self.rooms.rooms_of(user).await?.list_joined();
        Ok(Audience(joined.into_iter().map(|place| place.room).collect()))
    }

    /// Adds the change of a device of this server to a write, and has everybody told.
    pub fn announce(&self, tx: &mut WriteTx, user: &UserId, device: &str, audience: Audience) {
        let offset = tx.next_position();
        device_lists::push_change(tx, user.as_str(), device, offset);
        let (noting, noted, told) = (self.clone_parts(), user.to_owned(), audience.clone());
        tx.after_commit(move |committed| noting.note(&noted, committed.position(offset), &told));
        let (waking, user) = (self.clone_parts(), user.to_owned());
        tx.after_publish(move |_| waking.wake(&user, &audience));
    }

    /// Notes in a transaction that a user's list changed, and has everybody told.
    pub async fn change_in(
        &self,
        tx: &mut WriteTransaction<'_>,
        user: &UserId,
        audience: Audience,
    ) -> Result<(), StorageError> {
        let position = tx.next_position();
        device_lists::note_list_change(tx, user.as_str(), position).await?;
        self.announce_in(tx, user, position, audience);
        Ok(())
    }

    /// Has everybody told of a change that the transaction notes at `position`.
    pub fn announce_in(
        &self,
        tx: &mut WriteTransaction<'_>,
        user: &UserId,
        position: i64,
        audience: Audience,
    ) {
        let (noting, noted, told) = (self.clone_parts(), user.to_owned(), audience.clone());
        tx.after_commit(move || noting.note(&noted, position, &told));
        let (waking, user) = (self.clone_parts(), user.to_owned());
        tx.after_publish(move || waking.wake(&user, &audience));
    }

    /// Has a user's own devices told whose keys the user signed.
    pub fn announce_signed(
        &self,
        tx: &mut WriteTransaction<'_>,
        signer: &UserId,
        position: i64,
        targets: Vec<String>,
    ) {
        let (noting, signer) = (self.clone_parts(), signer.to_owned());
        let (waking, woken) = (self.clone_parts(), signer.clone());
        tx.after_commit(move || {
            let mut log = noting.log.lock();
            for user in targets.iter().filter_map(|target| UserId::parse(target).ok()) {
                log.push(Change { position, user, only_for: Some(signer.clone()) });
            }
            drop(log);
            noting.rooms.note_user_activity(&signer, position);
        });
        tx.after_publish(move || waking.rooms.notifier().wake(&woken));
    }

    /// Whose lists changed in a range, unless some of it is forgotten.
    pub fn list_recent(&self, range: (i64, i64)) -> Option<BTreeSet<OwnedUserId>> {
        let recent = self.log.lock().between(range)?;
        let for_all = recent.into_iter().filter(|change| change.only_for.is_none());
        Some(for_all.map(|change| change.user).collect())
    }

    fn clone_parts(&self) -> Self {
        Self { rooms: self.rooms.clone(), log: Arc::clone(&self.log), news: self.news.clone() }
    }

    fn note(&self, user: &UserId, position: i64, audience: &Audience) {
        let change = Change { position, user: user.to_owned(), only_for: None };
        self.log.lock().push(change);
        self.rooms.note_user_activity(user, position);
        audience.0.iter().for_each(|room| room.note_activity(position));
    }

    fn wake(&self, user: &UserId, audience: &Audience) {
        self.rooms.notifier().wake(user);
        audience.0.iter().for_each(|room| room.wake_listeners());
        self.news.tell(DeviceNews::List(user));
    }
}

impl Encryption {
    /// What changed for a user above the position `since` up to `upto`. The same for `/sync`, sliding
    /// sync and `/keys/changes`.
    pub async fn list_device_changes(
        &self,
        viewer: &UserRooms,
        (since, upto): (i64, i64),
    ) -> Result<DeviceListChanges, StorageError> {
        let mut changes = DeviceListChanges::default();
        // What `to` of `/keys/changes` says of the future is not known yet.
        let upto = upto.min(self.0.rooms.writer().position());
        if since >= upto {
            return Ok(changes);
        }
        self.add_changed_lists(viewer, (since, upto), &mut changes.changed).await?;
        let mut left: BTreeSet<StateKeyNid> = BTreeSet::new();
        let mut places = Vec::new();
        viewer.for_each(|place| {
            let has_events = place.room.head().latest_position > since;
            if place.position > since || place.is_joined() && has_events {
                places.push(place.clone());
            }
        });
        for place in places {
            let (joined, gone) = self.list_arrivals(viewer, &place, (since, upto)).await?;
            changes.changed.extend(joined);
            left.extend(gone);
        }
        if !left.is_empty() {
            let candidates: Vec<StateKeyNid> = left.into_iter().collect();
            changes.left = self.list_strangers(viewer, &candidates).await?;
        }
        changes.left.remove(viewer.user_id.as_str());
        let left = &changes.left;
        changes.changed.retain(|user| !left.contains(user));
        Ok(changes)
    }

    async fn add_changed_lists(
        &self,
        viewer: &UserRooms,
        range: (i64, i64),
        changed: &mut BTreeSet<String>,
    ) -> Result<(), StorageError> {
        let recent = self.0.lists.log.lock().between(range);
        match recent.filter(|recent| recent.len() <= COMPARED_USERS_MAX) {
            Some(recent) => {
                for change in recent {
                    let is_told = match &change.only_for {
                        Some(only) => *only == viewer.user_id,
                        None if change.user == viewer.user_id => true,
                        None => {
                            let theirs = self.0.rooms.rooms_of(&change.user).await?;
                            viewer.shares_room_with(&theirs)
                        }
                    };
                    if is_told {
                        changed.insert(change.user.to_string());
                    }
                }
            }
            None => {
                let (database, user) = (self.0.rooms.database(), viewer.user_id.as_str());
                if let Some(nid) = self.0.rooms.keys().find_user(user).await? {
                    let sharing = device_lists::list_changed_sharing(database, nid, range).await?;
                    changed.extend(sharing);
                }
                let own = device_lists::find_position(database, user).await?;
                if own.is_some_and(|own| own > range.0 && own <= range.1) {
                    changed.insert(user.to_owned());
                }
                let signed =
                    storage::cross_signing::list_signed_users(database, user, range).await?;
                changed.extend(signed.into_iter().filter(|signed| signed != user));
            }
        }
        Ok(())
    }

    /// Who came into one of the viewer's rooms, by name, and who may share none any more, by number.
    async fn list_arrivals(
        &self,
        viewer: &UserRooms,
        place: &UserRoom,
        (since, upto): (i64, i64),
    ) -> Result<(Vec<String>, Vec<StateKeyNid>), StorageError> {
        let room = &place.room;
        let range = (ordering_of_position(since), ordering_of_position(upto) + ORDERING_STEP);
        let own = self.0.rooms.keys().find_user(viewer.user_id.as_str()).await?;
        let mut changes: HashMap<StateKeyNid, Vec<EventNid>> = HashMap::new();
        for (key, event) in self.0.rooms.list_state_changes(room, range).await? {
            if key.is_membership() {
                changes.entry(key).or_default().push(event);
            }
        }
        // Of an encrypted room whose members came after the viewer, all are new: "who now share an encrypted
        // room with the client".
        let came_later = (since + 1..=upto).contains(&room.completed_position())
            && room.head().find_pinned("m.room.encryption").is_some();
        let was_joined = match own.and_then(|own| changes.get(&own)) {
            Some(events) => self.was_joined_throughout(room, events).await?,
            None => place.is_joined() && place.position <= since,
        };
        match (was_joined && !came_later, place.is_joined()) {
            (false, false) => Ok((Vec::new(), Vec::new())),
            (false, true) => Ok((self.list_members(room).await?, Vec::new())),
            (true, false) => {
                let members = self.list_members_since(room, since).await?;
                Ok((Vec::new(), members.into_iter().map(|(nid, _)| nid).collect()))
            }
            (true, true) => self.compare_members(room, changes).await,
        }
    }

    /// Of the users whose membership changed: who is a member now and was not all the time, and who was
    /// one and is not.
    async fn compare_members(
        &self,
        room: &Arc<Room>,
        changes: HashMap<StateKeyNid, Vec<EventNid>>,
    ) -> Result<(Vec<String>, Vec<StateKeyNid>), StorageError> {
        let (mut joined, mut gone) = (Vec::new(), Vec::new());
        let head = room.head();
        for (key, events) in changes {
            let Some(current) = head.state.get(key) else { continue };
            let current = self.load_event(room, current).await?;
            match Membership::of_event(&current.event) == Some(Membership::Join) {
                true if self.was_joined_throughout(room, &events).await? => {}
                true => joined.extend(current.event.state_key().map(str::to_owned)),
                false if self.was_joined_before(room, events[0]).await? => gone.push(key),
                false => {}
            }
        }
        Ok((joined, gone))
    }

    /// Whether the user was a member before these membership events and between them: of what changed
    /// while somebody was away, another server may have told nobody here.
    async fn was_joined_throughout(
        &self,
        room: &Room,
        events: &[EventNid],
    ) -> Result<bool, StorageError> {
        for event in events {
            if !self.was_joined_before(room, *event).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the user was a member before a membership event.
    async fn was_joined_before(&self, room: &Room, event: EventNid) -> Result<bool, StorageError> {
        let event = self.load_event(room, event).await?;
        let Some(replaced) = event.replaces_nid else { return Ok(false) };
        let replaced = self.load_event(room, replaced).await?;
        Ok(Membership::of_event(&replaced.event) == Some(Membership::Join))
    }

    async fn load_event(
        &self,
        room: &Room,
        event: EventNid,
    ) -> Result<Arc<StoredEvent>, StorageError> {
        self.0.rooms.events().load_one(room.facts(), event).await
    }

    /// The members of a room, by name.
    pub(super) async fn list_members(&self, room: &Room) -> Result<Vec<String>, StorageError> {
        let members = self.list_members_since(room, i64::MAX).await?;
        Ok(members.into_iter().filter_map(|(_, name)| String::from_utf8(name).ok()).collect())
    }

    /// The members of a room and whose membership changed above a position.
    async fn list_members_since(
        &self,
        room: &Room,
        since: i64,
    ) -> Result<Vec<(StateKeyNid, Vec<u8>)>, StorageError> {
        let known: Vec<StateKeyNid> = room.head().state.members().map(|(key, _)| key).collect();
        let database = self.0.rooms.database();
        device_lists::list_members_among(database, (room.nid, since), &known).await
    }

    /// Those of `users` who share no room with the viewer.
    async fn list_strangers(
        &self,
        viewer: &UserRooms,
        users: &[StateKeyNid],
    ) -> Result<BTreeSet<String>, StorageError> {
        let Some(own) = self.0.rooms.keys().find_user(viewer.user_id.as_str()).await? else {
            return Ok(BTreeSet::new());
        };
        let database = self.0.rooms.database();
        let names = device_lists::list_not_sharing(database, own, users).await?;
        Ok(names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect())
    }
}
