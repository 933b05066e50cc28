//! Takes back what a user has sent, room by room: what administrators do after spam. Each event is redacted
//! by the user themselves where they are still in the room, otherwise by the administrator.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedRoomId, OwnedUserId, UserId};
use serde_json::{Value, json};

use crate::{
    protocol::membership::Membership,
    rooms::{AppendError, EventRequest, MEMBER, Room, Rooms, StoredEvent},
    storage::StorageError,
};

/// Events of one room that are looked through, the latest first.
const SCANNED_EVENTS_MAX: usize = 100_000;
/// Events read at once.
const STEP: usize = 500;

/// What is to be taken back.
#[derive(Clone, Debug)]
pub struct UserRedaction {
    pub user: OwnedUserId,
    pub administrator: OwnedUserId,
    /// Whether the administrator redacts even where the user could.
    pub by_administrator: bool,
    /// All rooms that the user is in or was banned from when empty.
    pub rooms: Vec<OwnedRoomId>,
    pub reason: Option<String>,
    /// Events of one room.
    pub limit: usize,
}

/// Redacts the latest events; returns those that could not be, with a sentence why not.
pub async fn redact_user(
    rooms: &Rooms,
    redaction: &UserRedaction,
) -> Result<BTreeMap<String, String>, StorageError> {
    let mut failed = BTreeMap::new();
    for room in list_rooms(rooms, redaction).await? {
        let sender = find_redactor(rooms, &room, redaction).await?;
        for event in list_events(rooms, &room, redaction).await? {
            let content = match &redaction.reason {
                Some(reason) => json!({ "reason": reason }),
                None => json!({}),
            };
            let request = EventRequest {
                redacts: Some(event.event.event_id().to_owned()),
                by_administrator: true,
                ..EventRequest::message(sender, "m.room.redaction", content)
            };
            match rooms.send(&room, request).await {
                Ok(_) => {}
                Err(AppendError::Storage(error)) => return Err(error),
                Err(error) => {
                    failed.insert(event.event.event_id().to_string(), error.to_string());
                }
            }
        }
    }
    Ok(failed)
}

async fn list_rooms(
    rooms: &Rooms,
    redaction: &UserRedaction,
) -> Result<Vec<Arc<Room>>, StorageError> {
    let mut found = Vec::new();
    if redaction.rooms.is_empty() {
        rooms.rooms_of(&redaction.user).await?.for_each(|place| {
            if matches!(place.membership, Membership::Join | Membership::Ban) {
                found.push(Arc::clone(&place.room));
            }
        });
    }
    for room_id in &redaction.rooms {
        found.extend(rooms.find(room_id).await?);
    }
    Ok(found)
}

/// Who redacts in a room.
async fn find_redactor<'a>(
    rooms: &Rooms,
    room: &Room,
    redaction: &'a UserRedaction,
) -> Result<&'a UserId, StorageError> {
    let user = &redaction.user;
    let is_ours = user.server_name() == rooms.server_name();
    let may_redact = is_ours
        && !redaction.by_administrator
        && rooms.membership_of(room, user).await? == Membership::Join;
    let redactor = if may_redact { user } else { &redaction.administrator };
    Ok(redactor)
}

/// The latest messages and joins of the user that are not redacted yet.
async fn list_events(
    rooms: &Rooms,
    room: &Room,
    redaction: &UserRedaction,
) -> Result<Vec<Arc<StoredEvent>>, StorageError> {
    let (mut found, mut scanned, mut before) = (Vec::new(), 0, i64::MAX);
    while scanned < SCANNED_EVENTS_MAX && found.len() < redaction.limit {
        let page = rooms.list_backwards(room, (i64::MIN, before), STEP).await?;
        let Some(oldest) = page.last() else { break };
        before = oldest.ordering();
        scanned += page.len();
        found.extend(page.into_iter().filter(|event| is_redactable(event, &redaction.user)));
    }
    found.truncate(redaction.limit);
    Ok(found)
}

/// Other state belongs to the room, and a redaction that is redacted brings nothing back.
fn is_redactable(event: &StoredEvent, user: &UserId) -> bool {
    if event.event.sender() != user || event.is_redacted() {
        return false;
    }
    let joins = || {
        let content: Value = event.event.content_as().unwrap_or_default();
        content["membership"] == "join"
    };
    match (event.event.kind(), event.event.is_state()) {
        (MEMBER, true) => joins(),
        (kind, is_state) => !is_state && kind != "m.room.redaction",
    }
}
