//! Messages to devices (client-server API, "Send-to-Device messaging"): kept until the device says
//! with its next sync that it has them, delivered once and in order.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedServerName, OwnedUserId, UserId};
use serde_json::value::RawValue;

use super::{
    Encryption,
    device_news::DeviceNews,
    devices_in_use::DeviceName,
    sent_requests::{Begun, REQUESTS_KEPT, hash_request},
};
use crate::{
    rooms::write_json_string,
    storage::{self, CommitTicket, StorageError, WriteTx, to_device},
};

/// Messages in one answer of a sync ("100 messages is recommended").
pub const TO_DEVICE_PAGE_MAX: usize = 100;
/// Bytes of a message's content.
const CONTENT_BYTES_MAX: usize = 256 << 10;
/// Bytes of an event type and of a transaction ID.
const NAME_BYTES_MAX: usize = 255;
/// Length of the ID of a message for another server; 32 at most.
const MESSAGE_ID_LENGTH: usize = 24;
/// Stands for all devices of a user.
const ALL_DEVICES: &str = "*";

/// Contents by user and device; `*` stands for all devices.
pub type Messages = BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>;

/// `PUT /sendToDevice/{eventType}/{txnId}`.
#[derive(Debug)]
pub struct SendRequest {
    pub sender: OwnedUserId,
    pub device_id: String,
    pub kind: String,
    pub transaction_id: String,
    pub messages: Messages,
}

/// Messages for a device, whole events as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaitingMessages {
    pub events: Vec<String>,
    /// The position up to which these are all.
    pub upto: i64,
}

/// Why messages were not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendToDeviceError {
    #[error("a content is not an object")]
    NoObject,
    #[error("a content, the type or the transaction ID is too long")]
    TooLong,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Messages with their recipients.
#[derive(Default)]
pub(super) struct Addressed {
    /// With the whole event.
    local: Vec<(DeviceName, String)>,
    /// Contents of `m.direct_to_device` by server.
    remote: Vec<(OwnedServerName, String)>,
}

impl Encryption {
    /// Sends messages; they are durable when this returns. The same request again sends nothing.
    pub async fn send_to_devices(&self, request: SendRequest) -> Result<(), SendToDeviceError> {
        check_request(&request)?;
        let sending = DeviceName::new(&request.sender, &request.device_id);
        let hash = hash_request(&request.transaction_id, &request.kind);
        let addressed = self.address(&request).await?;
        let ticket = loop {
            self.load_requests(&sending).await?;
            let permit = self.0.rooms.writer().reserve().await?;
            // Made before the lock is taken, since most requests are new ones.
            let tx = self.to_write(&addressed, &sending, hash);
            match self.0.requests.begin(&sending, hash, || permit.submit(tx)) {
                Begun::New(ticket) => break ticket,
                Begun::Unknown => {}
                Begun::Repeated => {
                    // What was queued before is committed when this is.
                    self.0.rooms.writer().commit(WriteTx::new()).await?;
                    if self.0.requests.contains(&sending, hash) {
                        return Ok(());
                    }
                }
            }
        };
        self.conclude(ticket, &sending).await?;
        Ok(())
    }

    /// Messages that a device has not seen, at most `limit`, at positions above `since` up to `upto`.
    /// Those up to `since` are deleted: the device has them.
    pub async fn list_messages(
        &self,
        user: &UserId,
        device: &str,
        (since, upto): (i64, i64),
        limit: usize,
    ) -> Result<WaitingMessages, StorageError> {
        let name = DeviceName::new(user, device);
        let (inbox, has_seen) = self
            .0
            .devices
            .look(&name, |device| {
                let has_seen = device.inbox.note_deleted(since);
                (device.inbox, has_seen)
            })
            .await?;
        if has_seen {
            self.delete_messages(&name, since).await?;
        }
        if inbox.first == 0 || inbox.last <= since {
            return Ok(WaitingMessages { events: Vec::new(), upto });
        }
        // What is being deleted may still be there.
        let since = since.max(inbox.first - 1);
        self.read_messages(&name, (since, upto), limit).await
    }

    /// Whether messages wait for a device above a position.
    pub async fn has_messages(
        &self,
        user: &UserId,
        device: &str,
        since: i64,
    ) -> Result<bool, StorageError> {
        let name = DeviceName::new(user, device);
        self.0.devices.look(&name, |device| device.inbox.last > since).await
    }

    /// The messages of a range, without deleting any.
    pub(super) async fn read_messages(
        &self,
        name: &DeviceName,
        (since, upto): (i64, i64),
        limit: usize,
    ) -> Result<WaitingMessages, StorageError> {
        let database = self.0.rooms.database();
        let rows = to_device::list(database, name.pair(), (since, upto), limit).await?;
        let is_full = rows.len() == limit;
        let last = rows.last().map(|(position, _)| *position);
        let events = rows.into_iter().map(|(_, message)| message).collect();
        Ok(WaitingMessages { events, upto: last.filter(|_| is_full).unwrap_or(upto) })
    }

    /// Nobody waits for this: what is deleted late is not delivered again, since its device asks for
    /// later ones only.
    async fn delete_messages(&self, name: &DeviceName, upto: i64) -> Result<(), StorageError> {
        let mut tx = WriteTx::new();
        to_device::push_delete(&mut tx, name.pair(), upto);
        self.0.rooms.writer().reserve().await?.submit(tx);
        Ok(())
    }

    async fn load_requests(&self, name: &DeviceName) -> Result<(), StorageError> {
        if !self.0.requests.is_known(name) {
            let database = self.0.rooms.database();
            let rows = to_device::list_requests(database, name.pair(), 2 * REQUESTS_KEPT).await?;
            self.0.requests.admit(name, rows);
        }
        Ok(())
    }

    async fn conclude(
        &self,
        ticket: CommitTicket,
        sending: &DeviceName,
    ) -> Result<(), StorageError> {
        ticket.committed().await?;
        let Some(before) = self.0.requests.trim(sending) else { return Ok(()) };
        let name = sending.clone();
        let trimmed = self.0.rooms.writer().transact(move |tx| {
            Box::pin(async move { to_device::delete_requests(tx, name.pair(), before).await })
        });
        trimmed.await
    }

    /// Who gets what, with `*` spelled out.
    async fn address(&self, request: &SendRequest) -> Result<Addressed, StorageError> {
        let sender = &request.sender;
        let mut addressed = Addressed::default();
        let is_for_all = |devices: &BTreeMap<String, _>| devices.contains_key(ALL_DEVICES);
        let everywhere = request.messages.iter().filter(|(_, devices)| is_for_all(devices));
        let users: Vec<&str> = everywhere.map(|(user, _)| user.as_str()).collect();
        let devices = match users.is_empty() {
            true => Vec::new(),
            false => storage::device_keys::list_devices(self.0.rooms.database(), &users).await?,
        };
        let mut elsewhere: BTreeMap<
            OwnedServerName,
            Vec<(&UserId, &BTreeMap<String, Box<RawValue>>)>,
        > = BTreeMap::new();
        for (user, messages) in &request.messages {
            if !self.is_local(user) {
                elsewhere.entry(user.server_name().to_owned()).or_default().push((user, messages));
                continue;
            }
            for (device, content) in messages.iter().filter(|(device, _)| *device != ALL_DEVICES) {
                let event = write_event(sender, &request.kind, content.get());
                addressed.local.push((DeviceName::new(user, device), event));
            }
            let Some(content) = messages.get(ALL_DEVICES) else { continue };
            let event = write_event(sender, &request.kind, content.get());
            for (_, device) in devices.iter().filter(|(owner, _)| owner == user.as_str()) {
                if !messages.contains_key(device) {
                    addressed.local.push((DeviceName::new(user, device), event.clone()));
                }
            }
        }
        for (server, messages) in elsewhere {
            let message_id = self.0.rooms.clock().random_text(MESSAGE_ID_LENGTH);
            let content = write_direct(request, &message_id, &messages);
            addressed.remote.push((server, content));
        }
        Ok(addressed)
    }

    /// The rows, and what happens when they are committed.
    fn to_write(&self, addressed: &Addressed, sending: &DeviceName, hash: i64) -> WriteTx {
        let mut tx = WriteTx::new();
        let offset = tx.next_position();
        to_device::push_request(&mut tx, sending.pair(), hash, offset);
        for (server, content) in &addressed.remote {
            to_device::push_outbox(&mut tx, server.as_str(), offset, content);
        }
        for (name, event) in &addressed.local {
            to_device::push_message(&mut tx, name.pair(), offset, event);
        }
        let names: Vec<_> = addressed.local.iter().map(|(name, _)| name.clone()).collect();
        let (requests, name) = (self.0.requests.clone(), sending.clone());
        tx.after_failure(move || requests.finish(&name, hash, None));
        let (requests, name) = (self.0.requests.clone(), sending.clone());
        let users = list_users(&names);
        let (encryption, told) = (self.clone(), users.clone());
        tx.after_commit(move |committed| {
            let position = committed.position(offset);
            requests.finish(&name, hash, Some(position));
            encryption.note_messages(&names, &told, position);
        });
        let encryption = self.clone();
        tx.after_publish(move |_| encryption.wake(&users));
        tx
    }

    /// To be called with the commit of messages.
    pub(super) fn note_messages(&self, names: &[DeviceName], users: &[OwnedUserId], position: i64) {
        self.0.devices.note_messages(names, position);
        users.iter().for_each(|user| self.0.rooms.note_user_activity(user, position));
    }

    pub(super) fn wake(&self, users: &[OwnedUserId]) {
        users.iter().for_each(|user| self.0.rooms.notifier().wake(user));
        self.tell(DeviceNews::Messages(users));
    }
}

/// The users of some devices, each once.
pub(super) fn list_users(names: &[DeviceName]) -> Vec<OwnedUserId> {
    let users: BTreeSet<&str> = names.iter().map(|name| &*name.user).collect();
    users.into_iter().filter_map(|user| UserId::parse(user).ok()).collect()
}

/// An event as a sync carries it.
pub(super) fn write_event(sender: &UserId, kind: &str, content: &str) -> String {
    let mut event = String::with_capacity(content.len() + kind.len() + 96);
    event.push_str("{\"content\":");
    event.push_str(content);
    event.push_str(",\"sender\":");
    write_json_string(&mut event, sender.as_str());
    event.push_str(",\"type\":");
    write_json_string(&mut event, kind);
    event.push('}');
    event
}

fn write_direct(
    request: &SendRequest,
    message_id: &str,
    messages: &[(&UserId, &BTreeMap<String, Box<RawValue>>)],
) -> String {
    #[derive(serde::Serialize)]
    struct Direct<'a> {
        sender: &'a UserId,
        #[serde(rename = "type")]
        kind: &'a str,
        message_id: &'a str,
        messages: BTreeMap<&'a UserId, &'a BTreeMap<String, Box<RawValue>>>,
    }
    let direct = Direct {
        sender: &request.sender,
        kind: &request.kind,
        message_id,
        messages: messages.iter().copied().collect(),
    };
    serde_json::to_string(&direct).expect("texts and JSON are always JSON")
}

fn check_request(request: &SendRequest) -> Result<(), SendToDeviceError> {
    if request.kind.len() > NAME_BYTES_MAX || request.transaction_id.len() > NAME_BYTES_MAX {
        return Err(SendToDeviceError::TooLong);
    }
    for content in request.messages.values().flat_map(BTreeMap::values) {
        if !content.get().starts_with('{') {
            return Err(SendToDeviceError::NoObject);
        }
        if content.get().len() > CONTENT_BYTES_MAX {
            return Err(SendToDeviceError::TooLong);
        }
    }
    Ok(())
}
