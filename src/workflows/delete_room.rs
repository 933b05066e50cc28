//! Has everybody of this server leave a room, takes its names away and, if wanted, deletes it: what
//! administrators do with rooms that should not be.

use std::sync::Arc;

use ruma::{OwnedRoomId, OwnedUserId, UserId};
use serde_json::{Map, Value, json};

use super::member_content::load_member_content;
use crate::{
    accounts::Accounts,
    protocol::{membership::Membership, room_version::RoomVersion},
    rooms::{
        AppendError, CreateRoomError, DirectoryVisibility, EventRequest, MemberChange,
        MembershipError, NewRoom, Preset, Room, Rooms,
    },
    storage::{StorageError, WriteTx, aliases, directory},
};

/// Below the level of whoever writes messages, in the room that takes the place of a deleted one.
const SILENT_LEVEL: i64 = -10;

/// How a room is deleted.
#[derive(Clone, Debug)]
pub struct RoomDeletion {
    /// Whether its rows are deleted as well, or only its people leave.
    pub purge: bool,
    pub successor: Option<Successor>,
}

/// A room to which the people are moved, and in which they are told why.
#[derive(Clone, Debug)]
pub struct Successor {
    pub creator: OwnedUserId,
    pub version: RoomVersion,
    pub name: String,
    pub message: String,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct DeletedRoom {
    pub kicked: Vec<OwnedUserId>,
    pub not_kicked: Vec<OwnedUserId>,
    pub aliases: Vec<String>,
    pub successor: Option<OwnedRoomId>,
}

/// Why a room was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteRoomError {
    #[error(transparent)]
    Create(#[from] CreateRoomError),
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Deletes the room. Who cannot be removed is told in the result.
pub async fn delete_room(
    (accounts, rooms): (&Accounts, &Rooms),
    room: &Arc<Room>,
    deletion: &RoomDeletion,
) -> Result<DeletedRoom, DeleteRoomError> {
    let successor = match &deletion.successor {
        Some(successor) => Some(make_successor(accounts, rooms, successor).await?),
        None => None,
    };
    let mut deleted = DeletedRoom {
        successor: successor.as_ref().map(|room| room.room_id.clone()),
        ..DeletedRoom::default()
    };
    for user in list_local_members(rooms, room).await? {
        let leaving = leave(&user);
        match rooms.leave(room, leaving).await {
            Ok(()) => deleted.kicked.push(user),
            Err(MembershipError::Storage(error)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(room.id = %room.room_id, %error, "somebody stays in a room");
                deleted.not_kicked.push(user);
                continue;
            }
        }
        let last = deleted.kicked.last();
        if let (Some(successor), Some(user)) = (&successor, last) {
            let content = load_member_content(accounts, user, None).await?;
            let (membership, is_guest) = (Membership::Join, false);
            let (sender, target) = (user.clone(), user.clone());
            let change = MemberChange { sender, target, membership, content, is_guest };
            rooms.join(successor, change).await?;
        }
    }
    let mut tx = WriteTx::new();
    for row in rooms.list_alias_rows(room).await? {
        aliases::delete(&mut tx, &row.alias);
        deleted.aliases.push(row.alias);
    }
    directory::withdraw(&mut tx, room.nid);
    rooms.writer().commit(tx).await?;
    if deletion.purge {
        rooms.purge(room).await?;
    }
    Ok(deleted)
}

/// Users of this server who are in the room, invited or knocking.
pub async fn list_local_members(
    rooms: &Rooms,
    room: &Room,
) -> Result<Vec<OwnedUserId>, StorageError> {
    /// Members read at once.
    const STEP: usize = 1000;
    let nids: Vec<_> = room.head().state.members().map(|(_, nid)| nid).collect();
    let mut members = Vec::new();
    for step in nids.chunks(STEP) {
        for event in rooms.events().load(room.facts(), step).await? {
            let is_in = Membership::of_event(&event.event)
                .is_some_and(|it| !matches!(it, Membership::Leave | Membership::Ban));
            let user = event.event.state_key().and_then(|key| UserId::parse(key).ok());
            let is_ours = |user: &OwnedUserId| user.server_name() == rooms.server_name();
            members.extend(user.filter(|user| is_in && is_ours(user)));
        }
    }
    Ok(members)
}

fn leave(user: &OwnedUserId) -> MemberChange {
    MemberChange {
        sender: user.clone(),
        target: user.clone(),
        membership: Membership::Leave,
        content: Map::new(),
        is_guest: false,
    }
}

async fn make_successor(
    accounts: &Accounts,
    rooms: &Rooms,
    successor: &Successor,
) -> Result<Arc<Room>, DeleteRoomError> {
    let silence = json!({ "users_default": SILENT_LEVEL });
    let Value::Object(silence) = silence else { return Err(AppendError::Contended.into()) };
    let new = NewRoom {
        creator: successor.creator.clone(),
        version: successor.version,
        visibility: DirectoryVisibility::Private,
        preset: Some(Preset::PublicChat),
        name: Some(successor.name.clone()),
        topic: None,
        invites: Vec::new(),
        creator_profile: load_member_content(accounts, &successor.creator, None).await?,
        creation_content: Map::new(),
        initial_state: Vec::new(),
        power_level_content_override: silence,
    };
    let room = rooms.create(&new, None).await?;
    let content = json!({ "msgtype": "m.text", "body": successor.message });
    let message = EventRequest::message(successor.creator.clone(), "m.room.message", content);
    rooms.send(&room, message).await?;
    Ok(room)
}
