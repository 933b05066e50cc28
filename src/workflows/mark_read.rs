//! Marking a room as read: receipts, the unread counts that follow from them, and the fully-read
//! marker in one commit (client-server API, "Receipts" and "Fully read markers").

use std::sync::Arc;

use ruma::{EventId, OwnedEventId, OwnedUserId, UserId};
use serde_json::{Value, json};

use crate::{
    accounts::Accounts,
    ephemeral::{Ephemeral, NewReceipt, ReceiptKind},
    push::{MAIN, Push, find_thread, leads_to},
    rooms::{Room, Rooms, StoredEvent},
    storage::{StorageError, WriteTx, account_data},
};

/// The type of the fully-read marker in a room's account data.
pub const FULLY_READ: &str = "m.fully_read";

/// What is to be marked; None stays as it is.
#[derive(Clone, Debug, Default)]
pub struct ReadMarkers {
    pub fully_read: Option<OwnedEventId>,
    pub read: Option<OwnedEventId>,
    pub read_private: Option<OwnedEventId>,
    /// The thread of the receipts: `main` or a root. None: unthreaded.
    pub thread: Option<String>,
}

/// Why nothing was marked.
#[derive(Debug, thiserror::Error)]
pub enum MarkReadError {
    #[error("you are not in this room")]
    NotJoined,
    #[error("there is no event {0} in this room")]
    UnknownEvent(OwnedEventId),
    #[error("the event does not belong to the thread")]
    OtherThread,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What takes part.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    pub rooms: &'a Rooms,
    pub accounts: &'a Accounts,
    pub ephemeral: &'a Ephemeral,
    pub push: &'a Push,
}

/// Events found in the room, checked against the thread.
struct Found {
    fully_read: Option<Arc<StoredEvent>>,
    receipts: Vec<(ReceiptKind, Arc<StoredEvent>)>,
}

/// Moves the markers ahead; those that are as far already stay. Returns when that is durable, and whether
/// a receipt moved of which others learn.
pub async fn mark_read(
    parts: Parts<'_>,
    room: &Arc<Room>,
    user: &UserId,
    markers: ReadMarkers,
) -> Result<bool, MarkReadError> {
    let user_rooms = parts.rooms.rooms_of(user).await?;
    let place = user_rooms.find(room.nid);
    if !place.is_some_and(|place| place.is_joined()) {
        return Err(MarkReadError::NotJoined);
    }
    let found = find_events(parts, room, user, &markers).await?;
    let receipts = parts.ephemeral.receipts.of_room(room).await?;
    let permit = parts.rooms.writer().reserve().await?;
    let (ticket, has_public) = {
        let order = receipts.lock_order();
        let mut tx = WriteTx::new();
        let mut has_public = false;
        let mut has_changed = false;
        for (kind, event) in &found.receipts {
            let new = NewReceipt {
                user_id: user.to_owned(),
                kind: *kind,
                thread: markers.thread.clone(),
                event_id: event.event.event_id().to_owned(),
                ordering: event.ordering(),
                ts: parts.rooms.clock().now_ms(),
            };
            if parts.ephemeral.receipts.add(room, (&receipts, &order), new, &mut tx) {
                parts.push.counts().add_receipt(&mut tx, user, markers.thread.as_deref(), event);
                has_public |= *kind == ReceiptKind::Read;
                has_changed = true;
            }
        }
        if let Some(event) = &found.fully_read {
            let content = json!({ "event_id": event.event.event_id() }).to_string();
            let room_id = room.room_id.as_str();
            account_data::push_data(&mut tx, user.as_str(), room_id, FULLY_READ, &content);
            has_changed = true;
        }
        if !has_changed {
            return Ok(false);
        }
        announce(parts.rooms, has_public.then(|| Arc::clone(room)), user.to_owned(), &mut tx);
        (permit.submit(tx), has_public)
    };
    ticket.committed().await?;
    Ok(has_public)
}

/// Tells syncs of the change: everybody's in the room, or the user's own.
fn announce(rooms: &Rooms, room: Option<Arc<Room>>, user: OwnedUserId, tx: &mut WriteTx) {
    // The last position of the job is that of its last row.
    let last = tx.positions() - 1;
    let (noting, noted) = (rooms.clone(), user.clone());
    tx.after_commit(move |committed| {
        noting.note_user_activity(&noted, committed.position(last));
    });
    let notifier = rooms.notifier().clone();
    tx.after_publish(move |_| {
        if let Some(room) = room {
            room.wake_listeners();
        }
        notifier.wake(&user);
    });
}

async fn find_events(
    parts: Parts<'_>,
    room: &Room,
    user: &UserId,
    markers: &ReadMarkers,
) -> Result<Found, MarkReadError> {
    let mut receipts = Vec::new();
    let kinds =
        [(ReceiptKind::Read, &markers.read), (ReceiptKind::ReadPrivate, &markers.read_private)];
    for (kind, event_id) in kinds {
        if let Some(event_id) = event_id {
            let event = find_event(parts.rooms, room, event_id).await?;
            if let Some(thread) = &markers.thread {
                check_thread(parts.rooms, room, &event, thread).await?;
            }
            receipts.push((kind, event));
        }
    }
    let mut fully_read = None;
    if let Some(event_id) = &markers.fully_read {
        let event = find_event(parts.rooms, room, event_id).await?;
        let before = load_fully_read(parts, room, user).await?;
        if before.is_none_or(|ordering| ordering < event.ordering()) {
            fully_read = Some(event);
        }
    }
    Ok(Found { fully_read, receipts })
}

async fn find_event(
    rooms: &Rooms,
    room: &Room,
    event_id: &EventId,
) -> Result<Arc<StoredEvent>, MarkReadError> {
    let event = rooms.find_event(room, event_id).await?;
    // One that is on its way has no place yet, and nobody has seen it.
    let event = event.filter(|event| event.ordering() != 0);
    event.ok_or_else(|| MarkReadError::UnknownEvent(event_id.to_owned()))
}

/// 400 is for an event that "is not related to the `thread_id`" (`POST /receipt`). A thread's root is, and so
/// is what relates to it in another way than by the thread, though both lie in the main timeline.
async fn check_thread(
    rooms: &Rooms,
    room: &Room,
    event: &StoredEvent,
    thread: &str,
) -> Result<(), MarkReadError> {
    let found = find_thread(rooms, room, event).await?;
    let found = found.as_ref().map_or(MAIN, |root| root.as_str());
    let is_in = found == thread || event.event.event_id() == thread;
    match is_in || leads_to(rooms, room, event, thread).await? {
        true => Ok(()),
        false => Err(MarkReadError::OtherThread),
    }
}

/// The place of the fully-read marker, if it is set to an event of the room.
async fn load_fully_read(
    parts: Parts<'_>,
    room: &Room,
    user: &UserId,
) -> Result<Option<i64>, MarkReadError> {
    let content = parts.accounts.find_data(user, Some(&room.room_id), FULLY_READ).await?;
    let content = content.and_then(|content| serde_json::from_str::<Value>(&content).ok());
    let event_id = content.and_then(|content| EventId::parse(content["event_id"].as_str()?).ok());
    let Some(event_id) = event_id else {
        return Ok(None);
    };
    let event = parts.rooms.find_event(room, &event_id).await?;
    Ok(event.map(|event| event.ordering()))
}
