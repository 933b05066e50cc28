//! The devices of users of ours who enter rooms are told to the servers there that do not hear of them yet
//! (server-server API, "Device Management"). Not for changes of devices (`device_keys`).
//!
//! Nobody waits for an introduction: who wants to write to a device asks for it. So it may wait until the room
//! is whole, when all servers in it are known, and until the user has stayed for a moment; who enters several
//! rooms is introduced to each server once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ruma::{OwnedServerName, OwnedUserId, UserId};
use tokio::{sync::mpsc::UnboundedReceiver, time::sleep};

use super::outbox::Outbox;
use crate::{
    rooms::Room,
    storage::{RoomNid, StorageError},
};

/// Who has been in a whole room for this long, and for twice as long at most, is introduced there.
const STAY: Duration = Duration::from_secs(3);
/// Rooms of a new member that are looked through for servers which hear of their devices already. One
/// that is told again knows what it is told by its `stream_id`.
const SHARED_ROOMS_MAX: usize = 100;

/// A user of ours who has just entered a room.
pub(super) struct Newcomer {
    pub room: Arc<Room>,
    pub user: OwnedUserId,
    /// The stream position of the entry. What changes later is told to all in the room.
    pub position: i64,
}

/// Who is not introduced yet.
#[derive(Default)]
struct Lobby {
    /// Those of whole rooms who were here when it was looked the last time.
    settled: Vec<Newcomer>,
    others: Vec<Newcomer>,
}

impl Lobby {
    fn is_empty(&self) -> bool {
        self.settled.is_empty() && self.others.is_empty()
    }

    /// Takes in who has come and returns, by user, who has stayed long enough.
    fn turn(&mut self, feed: &mut UnboundedReceiver<Newcomer>) -> BTreeMap<OwnedUserId, Group> {
        while let Ok(newcomer) = feed.try_recv() {
            self.others.push(newcomer);
        }
        let is_whole = |newcomer: &Newcomer| newcomer.room.head().partial().is_none();
        let (whole, others) = std::mem::take(&mut self.others).into_iter().partition(is_whole);
        let due = std::mem::replace(&mut self.settled, whole);
        self.others = others;
        let mut groups: BTreeMap<OwnedUserId, Group> = BTreeMap::new();
        for newcomer in due {
            groups.entry(newcomer.user.clone()).or_default().due.push(newcomer);
        }
        for newcomer in self.settled.iter().chain(&self.others) {
            if let Some(group) = groups.get_mut(&newcomer.user) {
                group.later.insert(newcomer.room.nid);
            }
        }
        groups
    }
}

/// The rooms that one user has entered.
#[derive(Default)]
struct Group {
    due: Vec<Newcomer>,
    /// Those in which the user is introduced another time.
    later: BTreeSet<RoomNid>,
}

impl Outbox {
    /// Introduces the devices of users of ours to the servers in the rooms that they enter, until
    /// shutdown.
    pub async fn run_introductions(self) {
        let Some(mut feed) = self.0.newcomers.lock().take() else { return };
        let mut lobby = Lobby::default();
        loop {
            let next = async {
                if lobby.is_empty() {
                    let newcomer = feed.recv().await?;
                    lobby.others.push(newcomer);
                }
                sleep(STAY).await;
                Some(())
            };
            let next = tokio::select! {
                next = next => next,
                () = self.stopping() => None,
            };
            if next.is_none() {
                return;
            }
            for (user, group) in lobby.turn(&mut feed) {
                if let Err(error) = self.introduce(&user, group).await {
                    // They ask for the devices when they need them.
                    tracing::warn!(%error, "other servers were not told of the devices of a new member");
                }
            }
        }
    }

    /// Tells the servers in rooms of a new member's devices, unless they hear of them already ("when
    /// that user joins a room which contains servers which are not already receiving updates for that
    /// user's device list").
    async fn introduce(&self, user: &UserId, group: Group) -> Result<(), StorageError> {
        let rooms = &self.0.rooms;
        let joined = rooms.rooms_of(user).await?.list_joined();
        let mut strangers: BTreeSet<OwnedServerName> = BTreeSet::new();
        let (mut entered, mut position) = (group.later, i64::MAX);
        for newcomer in &group.due {
            entered.insert(newcomer.room.nid);
            if joined.iter().any(|place| place.room.nid == newcomer.room.nid) {
                strangers.extend(rooms.servers_in_room(&newcomer.room).await?.iter().cloned());
                position = position.min(newcomer.position);
            }
        }
        strangers.remove(self.server_name());
        let others = joined.into_iter().filter(|place| !entered.contains(&place.room.nid));
        for place in others.take(SHARED_ROOMS_MAX) {
            if strangers.is_empty() {
                break;
            }
            for server in rooms.servers_in_room(&place.room).await?.iter() {
                strangers.remove(server);
            }
        }
        if strangers.is_empty() {
            return Ok(());
        }
        let mut updates = self.0.encryption.introduce_devices(user).await?;
        updates.retain(|update| update.position <= position);
        for server in &strangers {
            for update in &updates {
                self.give(server, |state| state.add_device_update(update.clone()));
            }
        }
        Ok(())
    }
}
