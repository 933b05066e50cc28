//! What passes, from other servers: typing, receipts, presence (server-server API, "Typing
//! Notifications", "Receipts", "Presence"). What is malformed or not theirs to say is ignored.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, ServerName, UserId};
use serde::Deserialize;
use serde_json::Value;

use super::Federation;
use crate::{
    encryption::EduError,
    ephemeral::{NewReceipt, PresenceState, ReceiptKind, RemotePresence},
    protocol::server_acl::is_server_allowed,
    rooms::{Room, ordering_of_position},
    storage::{StorageError, WriteTx},
};

/// How long a user of another server types without saying so again, ms.
const TYPING_TIMEOUT_MS: u64 = 60_000;
/// Changes of presence that one EDU may carry.
const PRESENCES_MAX: usize = 1000;
/// Receipts that one EDU may carry.
const RECEIPTS_MAX: usize = 1000;
/// The longest status message that is kept, bytes.
const STATUS_BYTES_MAX: usize = 1024;

#[derive(Deserialize)]
struct Edu {
    edu_type: String,
    content: Value,
}

#[derive(Deserialize)]
struct TypingContent {
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    typing: bool,
}

#[derive(Deserialize)]
struct PresenceContent {
    push: Vec<Value>,
}

#[derive(Deserialize)]
struct PresenceUpdate {
    user_id: OwnedUserId,
    presence: String,
    status_msg: Option<String>,
    #[serde(default)]
    last_active_ago: u64,
    #[serde(default)]
    currently_active: bool,
}

/// By room, by kind, by user.
type ReceiptContent = BTreeMap<OwnedRoomId, BTreeMap<String, BTreeMap<OwnedUserId, UserReceipt>>>;

#[derive(Deserialize)]
struct UserReceipt {
    #[serde(default)]
    data: ReceiptData,
    /// One that is no event ID leaves the other receipts of the EDU alone.
    event_ids: Vec<String>,
}

#[derive(Default, Deserialize)]
struct ReceiptData {
    ts: Option<u64>,
    thread_id: Option<String>,
}

impl Federation {
    /// Takes the EDUs of a transaction, one after another. What the database cannot take for the moment
    /// fails the transaction, so that it comes again; messages to devices that came before are known by
    /// then. What it can never take is left out, and delays nothing.
    pub(super) async fn receive_edus(
        &self,
        origin: &ServerName,
        edus: Vec<Value>,
    ) -> Result<(), StorageError> {
        for edu in edus {
            let Ok(edu) = serde_json::from_value::<Edu>(edu) else { continue };
            match self.receive_edu(origin, edu).await {
                Ok(()) => {}
                Err(error) if error.may_pass() => return Err(error),
                Err(error) => {
                    tracing::warn!(server.name = %origin, %error, "an EDU was lost");
                }
            }
        }
        Ok(())
    }

    async fn receive_edu(&self, origin: &ServerName, edu: Edu) -> Result<(), StorageError> {
        let (encryption, content) = (self.encryption(), edu.content);
        let applied = match edu.edu_type.as_str() {
            "m.typing" => return self.receive_typing(origin, content).await,
            "m.receipt" => return self.receive_receipts(origin, content).await,
            "m.presence" => return self.receive_presence(origin, content).await,
            "m.device_list_update" => encryption.apply_device_list_update(origin, content).await,
            "m.signing_key_update" | "org.matrix.signing_key_update" => {
                encryption.apply_signing_key_update(origin, content).await
            }
            "m.direct_to_device" => encryption.apply_direct_to_device(origin, content).await,
            _ => return Ok(()),
        };
        match applied {
            Err(EduError::Storage(error)) => Err(error),
            Err(error) => {
                tracing::debug!(server.name = %origin, %error, "an EDU is ignored");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn receive_typing(
        &self,
        origin: &ServerName,
        content: Value,
    ) -> Result<(), StorageError> {
        let Ok(content) = serde_json::from_value::<TypingContent>(content) else { return Ok(()) };
        let user = &content.user_id;
        let Some(room) = self.rooms().find(&content.room_id).await? else { return Ok(()) };
        if !self.may_speak(origin, &room, user).await? {
            return Ok(());
        }
        match content.typing {
            true => self.ephemeral().typing.start(&room, user, TYPING_TIMEOUT_MS),
            false => self.ephemeral().typing.stop(&room, user),
        }
        Ok(())
    }

    async fn receive_receipts(
        &self,
        origin: &ServerName,
        content: Value,
    ) -> Result<(), StorageError> {
        let Ok(content) = serde_json::from_value::<ReceiptContent>(content) else { return Ok(()) };
        let mut count = 0;
        for (room_id, mut kinds) in content {
            let Some(room) = self.rooms().find(&room_id).await? else { continue };
            for (user, receipt) in kinds.remove("m.read").unwrap_or_default() {
                count += 1;
                if count > RECEIPTS_MAX {
                    return Ok(());
                }
                if self.may_speak(origin, &room, &user).await? {
                    self.receive_receipt(&room, user, receipt).await?;
                }
            }
        }
        Ok(())
    }

    async fn receive_receipt(
        &self,
        room: &Arc<Room>,
        user_id: OwnedUserId,
        receipt: UserReceipt,
    ) -> Result<(), StorageError> {
        let Some(event_id) = receipt.event_ids.into_iter().next() else { return Ok(()) };
        let Ok(event_id) = OwnedEventId::try_from(event_id) else { return Ok(()) };
        let Some(ordering) = self.find_read_place(room, &event_id).await? else { return Ok(()) };
        let new = NewReceipt {
            user_id,
            kind: ReceiptKind::Read,
            thread: receipt.data.thread_id.filter(|thread| thread.len() <= 255),
            event_id,
            ordering,
            ts: receipt.data.ts.unwrap_or_else(|| self.clock().now_ms()),
        };
        let receipts = self.ephemeral().receipts.of_room(room).await?;
        let permit = self.writer().reserve().await?;
        let ticket = {
            let order = receipts.lock_order();
            let mut tx = WriteTx::new();
            if !self.ephemeral().receipts.add(room, (&receipts, &order), new, &mut tx) {
                return Ok(());
            }
            let woken = Arc::clone(room);
            tx.after_publish(move |_| woken.wake_listeners());
            permit.submit(tx)
        };
        ticket.committed().await.map(drop)
    }

    /// The place in the room up to which a user of another server has read. An event that is not here may be on
    /// its way from a third server, or lie in a gap: it counts as just behind what is here. None for an event
    /// that nobody is shown.
    async fn find_read_place(
        &self,
        room: &Room,
        event_id: &EventId,
    ) -> Result<Option<i64>, StorageError> {
        Ok(match self.rooms().find_any_event(room, event_id).await? {
            Some(event) if event.is_hidden() || event.ordering() == 0 => None,
            Some(event) => Some(event.ordering()),
            None => Some(ordering_of_position(room.head().latest_position) + 1),
        })
    }

    async fn receive_presence(
        &self,
        origin: &ServerName,
        content: Value,
    ) -> Result<(), StorageError> {
        let presence = &self.ephemeral().presence;
        let Ok(content) = serde_json::from_value::<PresenceContent>(content) else { return Ok(()) };
        for update in content.push.into_iter().take(PRESENCES_MAX) {
            let Ok(update) = serde_json::from_value::<PresenceUpdate>(update) else { continue };
            let Some(state) = PresenceState::parse(&update.presence) else { continue };
            let user = &update.user_id;
            // Whom nobody here knows is nobody's business here.
            let is_known = user.server_name() == origin && self.is_known(user).await?;
            if !is_known {
                continue;
            }
            let status_message = update.status_msg.filter(|text| text.len() <= STATUS_BYTES_MAX);
            let remote = RemotePresence {
                state,
                status_message,
                last_active_ago_ms: update.last_active_ago,
                is_currently_active: update.currently_active,
            };
            presence.set_remote(user, remote).await;
        }
        Ok(())
    }

    /// Whether the user is in a room with somebody here, or may be in one whose members are missing.
    async fn is_known(&self, user: &UserId) -> Result<bool, StorageError> {
        if !self.rooms().rooms_of(user).await?.list_joined().is_empty() {
            return Ok(true);
        }
        let partial = self.rooms().list_partial().await?;
        let is_there = |room: &Arc<Room>| {
            room.head().partial().is_some_and(|partial| partial.has_server(user.server_name()))
        };
        Ok(partial.iter().any(is_there))
    }

    /// Whether the server is allowed in the room and the user one of its users there.
    async fn may_speak(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
        user: &UserId,
    ) -> Result<bool, StorageError> {
        let head = room.head();
        let acl = head.find_pinned("m.room.server_acl").map(|stored| &*stored.event);
        if user.server_name() != origin || !is_server_allowed(acl, origin) {
            return Ok(false);
        }
        self.rooms().may_be_joined(room, user).await
    }
}
