//! Events that could not be judged when they came, because what they build upon was not told: they wait,
//! and are asked for again. Not for when (`federation`), nor for what becomes of them once it has come
//! (`receive`).

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedRoomId, OwnedServerName, RoomId};

use super::{
    gap::Hunt, placement::by_depth, receive::ReceiveError, registry::Rooms, room::Room,
    source::OTHERS_MAX,
};
use crate::{
    protocol::event::Event,
    storage::{self, StorageError},
};

/// Waiting events of a room that are looked at together.
const EVENTS_MAX: usize = 100;
/// Servers that are asked because an event that waits comes from them; the rest are any in the room.
const SENDERS_MAX: usize = 2;

impl Rooms {
    /// Rooms in which events wait, at most `limit`.
    pub async fn list_rooms_with_waiting(
        &self,
        limit: usize,
    ) -> Result<Vec<OwnedRoomId>, StorageError> {
        let ids = storage::graph::list_rooms_with_waiting(self.database(), limit).await?;
        Ok(ids.into_iter().filter_map(|id| OwnedRoomId::try_from(id).ok()).collect())
    }

    /// Asks other servers of the room for what its waiting events lack: those that sent them, and
    /// others, each time different ones. Returns whether any event waits afterwards; false also where
    /// nobody would answer, because this server has left.
    pub async fn ask_again(&self, room_id: &RoomId) -> Result<bool, ReceiveError> {
        let Some(room) = self.find(room_id).await? else { return Ok(false) };
        if !self.is_server_in_room(&room, self.server_name()).await? {
            return Ok(false);
        }
        let waiting = self.load_waiting(&room).await?;
        if !waiting.is_empty() {
            let servers = self.choose_servers(&room, &waiting).await?;
            let Some((first, others)) = servers.split_first() else { return Ok(false) };
            Hunt::asking(self, (first, others.to_vec()), &room).resume(&waiting).await?;
            self.join_extremities(&room).await;
        }
        let left = storage::graph::count_waiting(self.database(), room.nid).await?;
        Ok(left > 0)
    }

    /// Some events that wait, as they follow one another: all of them, unless there are many. Those that
    /// wait no more are noted.
    async fn load_waiting(&self, room: &Arc<Room>) -> Result<Vec<Arc<Event>>, StorageError> {
        let mut nids = storage::graph::list_all_waiting(self.database(), room.nid).await?;
        let first = self.clock().choose(nids.len());
        nids.rotate_left(first);
        nids.truncate(EVENTS_MAX);
        let mut events = Vec::with_capacity(nids.len());
        for nid in nids {
            match self.load_of_room(room, nid).await? {
                Some(stored) if !stored.is_in_graph() => events.push(Arc::clone(&stored.event)),
                _ => self.forget_wait(room, nid).await?,
            }
        }
        by_depth(&mut events);
        Ok(events)
    }

    /// Whom to ask, the first one first; nobody where this server is alone.
    async fn choose_servers(
        &self,
        room: &Arc<Room>,
        waiting: &[Arc<Event>],
    ) -> Result<Vec<OwnedServerName>, StorageError> {
        let known = self.servers_in_room(room).await?;
        let senders: BTreeSet<_> =
            waiting.iter().map(|event| event.sender().server_name()).collect();
        let others = known.iter().filter(|server| **server != *self.server_name()).cloned();
        let (mut senders, mut others): (Vec<_>, Vec<_>) =
            others.partition(|server| senders.contains(&**server));
        for servers in [&mut senders, &mut others] {
            let first = self.clock().choose(servers.len());
            servers.rotate_left(first);
        }
        let rest = senders.split_off(senders.len().min(SENDERS_MAX));
        senders.extend(others.into_iter().chain(rest));
        senders.truncate(1 + OTHERS_MAX);
        Ok(senders)
    }
}
