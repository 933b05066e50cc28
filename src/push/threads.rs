//! Which thread an event belongs to (client-server API, "Threading" and "Threaded read receipts").

use ruma::{EventId, OwnedEventId};
use serde_json::Value;

use crate::{
    rooms::{EventRequest, Room, Rooms, StoredEvent, relation_of},
    storage::StorageError,
};

/// Relations followed from an event to the thread it belongs to; the specification recommends 3.
const HOPS_MAX: usize = 3;
const THREAD: &str = "m.thread";

/// The root of the thread that an event is in; None for the main timeline.
pub async fn find_thread(
    rooms: &Rooms,
    room: &Room,
    event: &StoredEvent,
) -> Result<Option<OwnedEventId>, StorageError> {
    match relation_of(&event.event) {
        Some((kind, target)) if kind == THREAD => Ok(Some(target)),
        Some((_, target)) => follow(rooms, room, target).await,
        None => Ok(None),
    }
}

/// Whether an event relates to another one, itself or by way of events that it relates to.
pub async fn leads_to(
    rooms: &Rooms,
    room: &Room,
    event: &StoredEvent,
    wanted: &str,
) -> Result<bool, StorageError> {
    let mut relation = relation_of(&event.event);
    for _ in 0..HOPS_MAX {
        let Some((_, target)) = relation else { return Ok(false) };
        if target == wanted {
            return Ok(true);
        }
        let next = rooms.find_event(room, &target).await?;
        relation = next.and_then(|next| relation_of(&next.event));
    }
    Ok(false)
}

/// The thread of an event that is going to be sent; for a redaction, that of the event it redacts.
pub(super) async fn find_thread_of_request(
    rooms: &Rooms,
    room: &Room,
    request: &EventRequest,
) -> Result<Option<OwnedEventId>, StorageError> {
    if request.state_key.is_some() {
        return Ok(None);
    }
    if let Some(target) = &request.redacts {
        return follow(rooms, room, target.clone()).await;
    }
    let relation = &request.content["m.relates_to"];
    let target = relation["event_id"].as_str().and_then(|id| EventId::parse(id).ok());
    let kind = relation["rel_type"].as_str();
    match (kind, target.filter(|id| !id.as_str().contains('\0'))) {
        (Some(THREAD), target) => Ok(target),
        (Some(_), Some(target)) => follow(rooms, room, target).await,
        _ => Ok(None),
    }
}

/// The users that `m.mentions` names, as far as they can be users.
pub(super) fn list_mentions(content: &Value) -> impl Iterator<Item = &str> {
    let mentioned = content["m.mentions"]["user_ids"].as_array();
    mentioned.into_iter().flatten().filter_map(Value::as_str)
}

async fn follow(
    rooms: &Rooms,
    room: &Room,
    target: OwnedEventId,
) -> Result<Option<OwnedEventId>, StorageError> {
    let mut next = target;
    for _ in 0..HOPS_MAX {
        let Some(event) = rooms.find_event(room, &next).await? else {
            return Ok(None);
        };
        match relation_of(&event.event) {
            Some((kind, target)) if kind == THREAD => return Ok(Some(target)),
            Some((_, target)) => next = target,
            None => return Ok(None),
        }
    }
    Ok(None)
}
