//! What other servers tell: changes of their users' devices, and messages to devices here
//! (server-server API, "Device Management", "Send-to-device messaging"). For `federation`, which has
//! verified that the EDU comes from `origin`.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedUserId, ServerName, UserId};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{
    Encryption,
    cross_signing::KEY_BYTES_MAX,
    devices_in_use::DeviceName,
    identity::check_cross_signing_key,
    remote_lists::FetchedDevice,
    to_device::{list_users, write_event},
};
use crate::{
    accounts::login::is_device_id,
    protocol::membership::Membership,
    rooms::Room,
    storage::{
        self, StorageError, WriteTransaction, cross_signing,
        remote_devices::{self, RemoteList},
        to_device,
    },
};

/// Changes that are told again when a room becomes whole. Of an encrypted room, all members are told anyway.
const TOLD_AGAIN_MAX: usize = 1000;
/// Characters of a message's ID at most.
const MESSAGE_ID_LENGTH_MAX: usize = 32;

/// Why an EDU was not taken.
#[derive(Debug, thiserror::Error)]
pub enum EduError {
    #[error("the EDU is not as specified: {0}")]
    BadShape(String),
    #[error("the EDU speaks of a user of another server")]
    ForeignUser,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

#[derive(Debug, Deserialize)]
struct DeviceListUpdate {
    user_id: OwnedUserId,
    device_id: String,
    device_display_name: Option<String>,
    stream_id: i64,
    #[serde(default)]
    prev_id: Vec<i64>,
    #[serde(default)]
    deleted: bool,
    keys: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
struct SigningKeyUpdate {
    user_id: OwnedUserId,
    master_key: Option<Map<String, Value>>,
    self_signing_key: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
struct DirectToDevice {
    sender: OwnedUserId,
    #[serde(rename = "type")]
    kind: String,
    message_id: String,
    messages: BTreeMap<OwnedUserId, BTreeMap<String, Value>>,
}

impl Encryption {
    /// Applies an `m.device_list_update`. After a gap the list is fetched again.
    pub async fn apply_device_list_update(
        &self,
        origin: &ServerName,
        content: Value,
    ) -> Result<(), EduError> {
        let update: DeviceListUpdate = parse(content)?;
        check_origin(origin, &update.user_id)?;
        if !is_device_id(&update.device_id) {
            return Err(EduError::BadShape("the device ID".to_owned()));
        }
        let audience = self.0.lists.audience(&update.user_id).await?;
        let is_shared = self.may_share_room(&update.user_id).await?;
        let encryption = self.clone();
        let applied: Result<bool, StorageError> = self
            .0
            .rooms
            .writer()
            .transact(move |tx| {
                Box::pin(async move {
                    let user = update.user_id.clone();
                    if !is_shared {
                        // Nobody here is in a room with them, so nobody will be told of more.
                        remote_devices::delete_list(tx, user.as_str()).await?;
                        return Ok(false);
                    }
                    let applied = apply_to_list(tx, update).await?;
                    if applied == Applied::Known {
                        return Ok(false);
                    }
                    encryption.0.lists.change_in(tx, &user, audience).await?;
                    Ok(applied == Applied::Stale)
                })
            })
            .await;
        if applied? {
            self.0.remote_lists.ring();
        }
        Ok(())
    }

    /// Applies an `m.signing_key_update`.
    pub async fn apply_signing_key_update(
        &self,
        origin: &ServerName,
        content: Value,
    ) -> Result<(), EduError> {
        let update: SigningKeyUpdate = parse(content)?;
        check_origin(origin, &update.user_id)?;
        let audience = self.0.lists.audience(&update.user_id).await?;
        let is_shared = self.may_share_room(&update.user_id).await?;
        let encryption = self.clone();
        let applied: Result<(), StorageError> = self
            .0
            .rooms
            .writer()
            .transact(move |tx| {
                Box::pin(async move {
                    let user = &update.user_id;
                    let list = remote_devices::find_list(tx, user.as_str()).await?;
                    let is_news = match list {
                        Some(_) => {
                            // Servers tell by the specified name and by an older one.
                            let before = cross_signing::list_of_user(tx, user.as_str()).await?;
                            let keys = (update.master_key, update.self_signing_key);
                            save_cross_signing_keys(tx, user, keys).await?;
                            cross_signing::list_of_user(tx, user.as_str()).await? != before
                        }
                        // Somebody may have asked for them together with others.
                        None => is_shared,
                    };
                    if !is_news {
                        return Ok(());
                    }
                    encryption.0.lists.change_in(tx, user, audience).await
                })
            })
            .await;
        Ok(applied?)
    }

    /// Tells of changes since a position again whose users are found to be in a room: when they came, nobody
    /// knew whom they concern (MSC3902, "Device List Tracking").
    pub async fn tell_changes_again(
        &self,
        room: &Arc<Room>,
        since: i64,
    ) -> Result<(), StorageError> {
        let range = (since, self.0.rooms.writer().position());
        let (users, _) = self.list_changed_users(range, TOLD_AGAIN_MAX).await?;
        let mut found = Vec::new();
        for user in users.into_iter().filter(|user| !self.is_local(user)) {
            if self.0.rooms.membership_of(room, &user).await? == Membership::Join {
                let audience = self.0.lists.audience(&user).await?;
                found.push((user, audience));
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        let encryption = self.clone();
        let tell = self.0.rooms.writer().transact(move |tx| {
            Box::pin(async move {
                for (user, audience) in found {
                    encryption.0.lists.change_in(tx, &user, audience).await?;
                }
                Ok(())
            })
        });
        tell.await
    }

    /// Whether a user elsewhere is in a room here, as far as that is known: where members are missing,
    /// everybody of a server that was in the room may be in it.
    async fn may_share_room(&self, user: &UserId) -> Result<bool, StorageError> {
        if !self.0.rooms.rooms_of(user).await?.list_joined().is_empty() {
            return Ok(true);
        }
        let partial = self.0.rooms.list_partial().await?;
        let may_hold = |room: &Arc<Room>| {
            room.head().partial().is_some_and(|partial| partial.has_server(user.server_name()))
        };
        Ok(partial.iter().any(may_hold))
    }

    /// Delivers an `m.direct_to_device`, once.
    pub async fn apply_direct_to_device(
        &self,
        origin: &ServerName,
        content: Value,
    ) -> Result<(), EduError> {
        let direct: DirectToDevice = parse(content)?;
        check_origin(origin, &direct.sender)?;
        if direct.message_id.chars().count() > MESSAGE_ID_LENGTH_MAX
            || direct.message_id.contains('\0')
        {
            return Err(EduError::BadShape("the message ID".to_owned()));
        }
        let addressed = self.address_direct(&direct).await?;
        let (encryption, origin) = (self.clone(), origin.to_owned());
        let now_ts = self.0.rooms.clock().now_ms();
        let delivered: Result<(), StorageError> = self
            .0
            .rooms
            .writer()
            .transact(move |tx| {
                Box::pin(async move {
                    let (server, id) = (origin.as_str(), direct.message_id.as_str());
                    if !to_device::note_received(tx, server, id, now_ts).await? {
                        return Ok(());
                    }
                    let position = tx.next_position();
                    for (name, event) in &addressed {
                        to_device::insert_message(tx, name.pair(), position, event).await?;
                    }
                    let names: Vec<_> = addressed.into_iter().map(|(name, _)| name).collect();
                    let users = list_users(&names);
                    let (noting, told) = (encryption.clone(), users.clone());
                    tx.after_commit(move || noting.note_messages(&names, &told, position));
                    tx.after_publish(move || encryption.wake(&users));
                    Ok(())
                })
            })
            .await;
        Ok(delivered?)
    }

    async fn address_direct(
        &self,
        direct: &DirectToDevice,
    ) -> Result<Vec<(DeviceName, String)>, StorageError> {
        let local = direct.messages.iter().filter(|(user, _)| self.is_local(user));
        let users: Vec<&str> = local.clone().map(|(user, _)| user.as_str()).collect();
        let devices = storage::device_keys::list_devices(self.0.rooms.database(), &users).await?;
        let mut addressed = Vec::new();
        for (user, messages) in local {
            for (_, device) in devices.iter().filter(|(owner, _)| owner == user.as_str()) {
                let content = messages.get(device).or_else(|| messages.get("*"));
                if let Some(content) = content.filter(|content| content.is_object()) {
                    let content = content.to_string();
                    let event = write_event(&direct.sender, &direct.kind, &content);
                    addressed.push((DeviceName::new(user, device), event));
                }
            }
        }
        Ok(addressed)
    }
}

/// Stores the cross-signing keys of a user elsewhere, as far as they are well-formed.
pub(super) async fn save_cross_signing_keys(
    tx: &mut WriteTransaction<'_>,
    user: &UserId,
    (master, self_signing): (Option<Map<String, Value>>, Option<Map<String, Value>>),
) -> Result<(), StorageError> {
    for (usage, key) in [("master", master), ("self_signing", self_signing)] {
        let Some(key) = key else { continue };
        let is_good = check_cross_signing_key(&key, user.as_str(), usage).is_ok();
        let json = Value::Object(key).to_string();
        if is_good && json.len() <= KEY_BYTES_MAX {
            cross_signing::save_key(tx, (user.as_str(), usage), &json).await?;
        }
    }
    Ok(())
}

/// What a change means for the list that is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Applied {
    /// It is part of the list already.
    Known,
    /// It is in the list now, or no list is kept.
    New,
    /// The list has to be fetched again.
    Stale,
}

/// Applies a change to the list that is kept of its user, if one is.
async fn apply_to_list(
    tx: &mut WriteTransaction<'_>,
    update: DeviceListUpdate,
) -> Result<Applied, StorageError> {
    let user = update.user_id.as_str();
    let Some(list) = remote_devices::find_list(tx, user).await? else {
        return Ok(Applied::New);
    };
    let follows =
        !update.prev_id.is_empty() && update.prev_id.iter().all(|id| *id == list.stream_id);
    if update.stream_id <= list.stream_id && !list.is_stale {
        return Ok(Applied::Known);
    }
    let is_stale = list.is_stale || !follows;
    let stream_id = update.stream_id.max(list.stream_id);
    remote_devices::save_list(tx, user, RemoteList { stream_id, is_stale, ..list }).await?;
    if is_stale {
        return Ok(Applied::Stale);
    }
    if update.deleted {
        remote_devices::delete_device(tx, user, &update.device_id).await?;
        return Ok(Applied::New);
    }
    let device = FetchedDevice {
        device_id: update.device_id.clone(),
        keys: update.keys,
        device_display_name: update.device_display_name,
    };
    remote_devices::save_device(tx, user, &device.keep(user)).await?;
    Ok(Applied::New)
}

fn parse<T: DeserializeOwned>(content: Value) -> Result<T, EduError> {
    serde_json::from_value(content).map_err(|error| EduError::BadShape(error.to_string()))
}

fn check_origin(origin: &ServerName, user: &UserId) -> Result<(), EduError> {
    if user.server_name() == origin { Ok(()) } else { Err(EduError::ForeignUser) }
}
