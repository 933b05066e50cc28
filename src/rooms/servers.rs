//! Which servers have a joined user in a room, in memory, kept in step with the room's state.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedServerName, ServerName, UserId};

use super::{
    partial::PartialState,
    registry::Rooms,
    room::Room,
    state::{StateMap, differences},
};
use crate::{
    protocol::membership::Membership,
    storage::{self, StateKeyNid, StorageError},
};

/// The joined users of each server as of one state of the room.
#[derive(Clone, Default)]
pub(super) struct KnownServers {
    state: StateMap,
    members: imbl::OrdMap<OwnedServerName, imbl::OrdSet<StateKeyNid>>,
    /// Servers that were in the room when it was entered, while its members are not all known.
    before: Option<Arc<PartialState>>,
    /// Of all of them.
    names: Arc<[OwnedServerName]>,
}

impl KnownServers {
    fn set(&mut self, user: &UserId, key: StateKeyNid, is_joined: bool) {
        let server = user.server_name();
        let mut members = self.members.get(server).cloned().unwrap_or_default();
        match is_joined {
            true => members.insert(key),
            false => members.remove(&key),
        };
        match members.is_empty() {
            true => self.members.remove(server),
            false => self.members.insert(server.to_owned(), members),
        };
    }

    fn note_names(&mut self) {
        if let Some(partial) = &self.before {
            let mut names: BTreeSet<OwnedServerName> = partial.servers.iter().cloned().collect();
            names.extend(self.members.keys().cloned());
            self.names = names.into_iter().collect();
        } else if !self.names.iter().eq(self.members.keys()) {
            self.names = self.members.keys().cloned().collect();
        }
    }
}

impl Room {
    /// Has the servers read anew, at once, where so much changed that it would take long to follow.
    pub(super) fn forget_servers(&self) {
        *self.servers.lock() = None;
    }
}

impl Rooms {
    /// The servers with a joined user in the room, sorted, this one included. While the members are not
    /// all known, those that were in the room when it was entered count as well (MSC3706,
    /// `servers_in_room`).
    pub async fn servers_in_room(
        &self,
        room: &Arc<Room>,
    ) -> Result<Arc<[OwnedServerName]>, StorageError> {
        Ok(self.load_servers(room).await?.names)
    }

    /// Whether a server has a joined user in the room; asked with our own name: whether this server
    /// takes part in the room, or only knows of it. As with [`Rooms::servers_in_room`], other servers are
    /// believed to be in a room whose members are not all known.
    pub async fn is_server_in_room(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
    ) -> Result<bool, StorageError> {
        let known = self.load_servers(room).await?;
        let is_believed = |partial: &Arc<PartialState>| partial.has_server(server);
        let was_there =
            server != self.server_name() && known.before.as_ref().is_some_and(is_believed);
        Ok(was_there || known.members.contains_key(server))
    }

    /// The joined users of a server, by their state keys, at most `limit`.
    pub(super) async fn list_joined_of(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        limit: usize,
    ) -> Result<Vec<StateKeyNid>, StorageError> {
        let known = self.load_servers(room).await?;
        let members = known.members.get(server).into_iter().flatten();
        Ok(members.take(limit).copied().collect())
    }

    async fn load_servers(&self, room: &Arc<Room>) -> Result<KnownServers, StorageError> {
        let head = room.head();
        let known = room.servers.lock().clone();
        let mut known = match known {
            Some(known) => known,
            None => self.read_servers(room, head.state.map()).await?,
        };
        if known.state.ptr_eq(head.state.map()) && known.before == head.partial {
            return Ok(known);
        }
        for difference in differences(&known.state, head.state.map()) {
            let Some(nid) = difference.new.or(difference.old) else {
                continue;
            };
            if !difference.key.is_membership() {
                continue;
            }
            let event = self.0.events.load_one(room.facts(), nid).await?;
            let is_joined = difference.new.is_some()
                && Membership::of_event(&event.event) == Some(Membership::Join);
            let user = event.event.state_key().and_then(|key| <&UserId>::try_from(key).ok());
            if let Some(user) = user {
                known.set(user, difference.key, is_joined);
            }
        }
        known.state = head.state.map().clone();
        known.before = head.partial.clone();
        known.note_names();
        *room.servers.lock() = Some(known.clone());
        Ok(known)
    }

    /// What the memberships say. They may be newer than `state`; to learn of a change twice does no
    /// harm.
    async fn read_servers(
        &self,
        room: &Room,
        state: &StateMap,
    ) -> Result<KnownServers, StorageError> {
        let mut known = KnownServers { state: state.clone(), ..KnownServers::default() };
        let mut members: std::collections::BTreeMap<OwnedServerName, Vec<StateKeyNid>> =
            std::collections::BTreeMap::new();
        for (key, user, membership) in
            storage::graph::list_members(&self.0.database, room.nid).await?
        {
            let user = std::str::from_utf8(&user).ok().and_then(|u| <&UserId>::try_from(u).ok());
            if let Some(user) = user.filter(|_| membership == JOINED) {
                members.entry(user.server_name().to_owned()).or_default().push(key);
            }
        }
        known.members = members
            .into_iter()
            .map(|(server, keys)| (server, keys.into_iter().collect::<imbl::OrdSet<_>>()))
            .collect();
        known.note_names();
        *room.servers.lock() = Some(known.clone());
        Ok(known)
    }
}

/// `memberships.membership` of who is joined.
const JOINED: i64 = 1;
