//! Where a room is that somebody wants to enter: on this server, or on others that are named along
//! with it, by its alias, by the invitation, or by its ID; and entering one that is here.

use std::sync::Arc;

use ruma::{OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, UserId};

use crate::{
    federation::{Federation, HandshakeError, RemoteEntry},
    protocol::membership::Membership,
    rooms::{MemberChange, MembershipError, Room, RoomName, Rooms},
};

/// A room, and how to get there.
pub enum RoomPlace {
    /// This server takes part in it.
    Here(Arc<Room>),
    Elsewhere {
        room_id: OwnedRoomId,
        servers: Vec<OwnedServerName>,
    },
}

impl RoomPlace {
    pub fn room_id(&self) -> &RoomId {
        match self {
            Self::Here(room) => &room.room_id,
            Self::Elsewhere { room_id, .. } => room_id,
        }
    }
}

/// Finds a room by what the user calls it. `via` names servers that the user knows of. `None` when
/// there is no such alias.
pub async fn find_place(
    (rooms, federation): (&Rooms, &Federation),
    user: &UserId,
    name: &RoomName,
    via: Vec<OwnedServerName>,
) -> Result<Option<RoomPlace>, HandshakeError> {
    let (room_id, mut servers) = match name {
        RoomName::Id(room_id) => (room_id.clone(), via),
        RoomName::Alias(alias) => match find_alias(rooms, federation, alias).await? {
            Some((room_id, servers)) => (room_id, servers.into_iter().chain(via).collect()),
            None => return Ok(None),
        },
    };
    if let Some(room) = federation.find_own_room(&room_id).await? {
        return Ok(Some(RoomPlace::Here(room)));
    }
    servers.extend(find_inviter(rooms, user, &room_id).await?);
    // Room IDs are opaque; the server that made one is asked where nobody names any other.
    if servers.is_empty() {
        servers.extend(room_id.server_name().map(ToOwned::to_owned));
    }
    Ok(Some(RoomPlace::Elsewhere { room_id, servers }))
}

/// Joins a room that this server is in; where nobody here can let the user in, or not all members are
/// known, through a server that can (server-server API, "Restricted rooms"; MSC3902).
pub async fn join_here(
    (rooms, federation): (&Rooms, &Federation),
    room: &Arc<Room>,
    change: MemberChange,
) -> Result<(), HandshakeError> {
    // Who is banned may not be known yet; a server that knows it decides.
    let partial = room.head().partial().cloned();
    let is_member = rooms.membership_of(room, &change.target).await? == Membership::Join;
    if partial.is_none() || is_member {
        match rooms.join(room, change.clone()).await {
            Err(MembershipError::NobodyCanVouch) => {}
            joined => return Ok(joined?),
        }
    }
    let mut servers: Vec<_> = partial.iter().map(|partial| partial.origin.clone()).collect();
    servers.extend(rooms.servers_in_room(room).await?.iter().cloned());
    let (user, room_id, content) = (change.target, room.room_id.clone(), change.content);
    federation.join_remote(&RemoteEntry { user, room_id, servers, content }).await?;
    Ok(())
}

async fn find_alias(
    rooms: &Rooms,
    federation: &Federation,
    alias: &RoomAliasId,
) -> Result<Option<(OwnedRoomId, Vec<OwnedServerName>)>, HandshakeError> {
    if alias.server_name() == rooms.server_name() {
        let room = rooms.find_by_alias(alias).await?;
        return Ok(room.map(|room| (room.room_id.clone(), Vec::new())));
    }
    let found = federation.find_remote_alias(alias).await?;
    Ok(found.map(|found| {
        let mut servers = found.servers;
        servers.push(alias.server_name().to_owned());
        (found.room_id, servers)
    }))
}

/// The server of who invited the user.
async fn find_inviter(
    rooms: &Rooms,
    user: &UserId,
    room_id: &OwnedRoomId,
) -> Result<Option<OwnedServerName>, HandshakeError> {
    let Some(room) = rooms.find(room_id).await? else { return Ok(None) };
    let Some(place) = rooms.rooms_of(user).await?.find(room.nid) else { return Ok(None) };
    let event = rooms.events().load_one(room.facts(), place.event).await?;
    let inviter = event.event.sender().server_name();
    Ok((inviter != rooms.server_name()).then(|| inviter.to_owned()))
}
