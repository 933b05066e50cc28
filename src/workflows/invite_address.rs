//! Inviting a mail address (client-server API, "Third-party invites"): an identity server is asked
//! whose it is. If it is nobody's, the invitation waits there and in the room.

use std::sync::Arc;

use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::member_content::load_member_content;
use crate::{
    accounts::{
        Accounts,
        validation::{EMAIL, canonical_address},
    },
    federation::{
        IdentityAccess, IdentityError, IdentityServers, StoredInvite, THIRD_PARTY_INVITE,
        WaitingInvite,
    },
    protocol::membership::Membership,
    rooms::{AppendError, EventRequest, Room, Rooms},
    storage::StorageError,
};

/// Whom a client invites (`definitions/invite_3pid.yaml`).
#[derive(Clone, Debug, Deserialize)]
pub struct AddressInvite {
    #[serde(flatten)]
    pub access: IdentityAccess,
    pub medium: String,
    pub address: String,
}

/// Why an address was not invited.
#[derive(Debug, thiserror::Error)]
pub enum InviteAddressError {
    #[error("you may not invite to this room")]
    NotAllowed,
    #[error("this is no mail address")]
    InvalidAddress,
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

type Result<T> = std::result::Result<T, InviteAddressError>;

/// Invites an address. When it is a user's, nothing is sent and that user is returned, to be invited
/// as any other.
pub async fn invite_address(
    (rooms, accounts, identity_servers): (&Rooms, &Accounts, &IdentityServers),
    room: &Arc<Room>,
    sender: &UserId,
    invite: &AddressInvite,
) -> Result<Option<OwnedUserId>> {
    // Before any address leaves this server.
    let power = room.power_levels();
    if rooms.membership_of(room, sender).await? != Membership::Join
        || power.user(sender) < power.invite()
    {
        return Err(InviteAddressError::NotAllowed);
    }
    let address = match invite.medium == EMAIL {
        true => canonical_address(&invite.address).ok_or(InviteAddressError::InvalidAddress)?,
        false => invite.address.clone(),
    };
    let threepid = (invite.medium.as_str(), address.as_str());
    let access = &invite.access;
    if let Some(user) = identity_servers.find_user(access, threepid).await? {
        return Ok(Some(user));
    }
    let request = describe(rooms, accounts, room, sender, threepid).await?;
    match identity_servers.store_invite(access, &request).await? {
        StoredInvite::Bound(user) => Ok(Some(user)),
        StoredInvite::Waiting(waiting) => {
            let content = waiting_content(&waiting);
            let event = EventRequest::state(sender, THIRD_PARTY_INVITE, &waiting.token, content);
            rooms.send(room, event).await?;
            Ok(None)
        }
    }
}

/// What the identity server writes to the invited person, as far as the room tells it.
async fn describe(
    rooms: &Rooms,
    accounts: &Accounts,
    room: &Room,
    sender: &UserId,
    (medium, address): (&str, &str),
) -> Result<Value> {
    let mut request = Map::new();
    for (name, kind, field) in [
        ("room_alias", "m.room.canonical_alias", "alias"),
        ("room_avatar_url", "m.room.avatar", "url"),
        ("room_join_rules", "m.room.join_rules", "join_rule"),
        ("room_name", "m.room.name", "name"),
        ("room_type", "m.room.create", "type"),
    ] {
        let event = rooms.find_state_event(room, kind, "").await?;
        let content = event.and_then(|e| e.event.content_as::<Map<String, Value>>().ok());
        if let Some(text @ Value::String(_)) = content.and_then(|mut c| c.remove(field)) {
            request.insert(name.to_owned(), text);
        }
    }
    let mut profile = load_member_content(accounts, sender, None).await?;
    for (name, field) in
        [("sender_display_name", "displayname"), ("sender_avatar_url", "avatar_url")]
    {
        if let Some(value) = profile.remove(field) {
            request.insert(name.to_owned(), value);
        }
    }
    for (name, value) in [
        ("medium", medium),
        ("address", address),
        ("room_id", room.room_id.as_str()),
        ("sender", sender.as_str()),
    ] {
        request.insert(name.to_owned(), value.into());
    }
    Ok(Value::Object(request))
}

/// The content of the event that waits in the room. The first key stands alone as well, for those who
/// know no lists.
fn waiting_content(waiting: &WaitingInvite) -> Value {
    let first = waiting.public_keys.first();
    json!({
        "display_name": waiting.display_name,
        "public_key": first.map(|key| &key.public_key),
        "key_validity_url": first.map(|key| &key.key_validity_url),
        "public_keys": waiting.public_keys,
    })
}
