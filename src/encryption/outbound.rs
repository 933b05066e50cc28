//! What other servers are to learn: changes of devices and messages to their devices. For
//! `federation`, which keeps a cursor per destination and asks what lies above it. Not for whom it
//! concerns: which servers share rooms with a user, `federation` knows.

use ruma::{OwnedUserId, ServerName, UserId};
use serde_json::{Map, Value, json};

use super::{
    Encryption, KeysQuery, Viewer,
    query::{QueriedKeys, device_json},
};
use crate::storage::{
    self, StorageError,
    device_keys::StoredDeviceKeys,
    device_lists::{self, DeviceChange},
};

/// Devices of which a server is told that does not hear of their user yet: the latest ones. It finds
/// the others when somebody there wants to write to them.
const INTRODUCED_DEVICES_MAX: usize = 20;

/// A change of a local user's device list, at a stream position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceUpdate {
    pub user_id: OwnedUserId,
    /// The EDU's `stream_id` too.
    pub position: i64,
    /// None: the cross-signing keys.
    pub device_id: Option<String>,
    /// Whether it is told to a server that does not hear of the user yet, and not because of the change.
    pub is_introduction: bool,
    previous: Option<i64>,
}

impl DeviceUpdate {
    fn read(row: DeviceChange) -> Option<Self> {
        Some(Self {
            user_id: UserId::parse(&row.user_id).ok()?,
            position: row.position,
            device_id: Some(row.device_id).filter(|device| !device.is_empty()),
            is_introduction: false,
            previous: row.previous,
        })
    }
}

/// An `m.direct_to_device` for a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectMessage {
    pub position: i64,
    /// The EDU's content as JSON.
    pub content: String,
}

impl Encryption {
    /// Changes of local users' devices above `after` up to `upto`, oldest first, for all servers. Of
    /// a device that changed twice only the later change is there.
    pub async fn list_device_updates(
        &self,
        range: (i64, i64),
        limit: usize,
    ) -> Result<Vec<DeviceUpdate>, StorageError> {
        let database = self.0.rooms.database();
        let rows = device_lists::list_device_changes(database, range, limit).await?;
        Ok(rows.into_iter().filter_map(DeviceUpdate::read).collect())
    }

    /// What a server has to be told that does not hear of a user of ours yet, oldest first. Devices of
    /// which nobody was told so far, since they have no keys, count as changed now.
    pub async fn introduce_devices(
        &self,
        user: &UserId,
    ) -> Result<Vec<DeviceUpdate>, StorageError> {
        let (database, limit) = (self.0.rooms.database(), INTRODUCED_DEVICES_MAX);
        let untold = device_lists::list_untold(database, user.as_str(), limit).await?;
        if !untold.is_empty() {
            let user = user.to_owned();
            let noted: Result<(), StorageError> = self
                .0
                .rooms
                .writer()
                .transact(move |tx| {
                    Box::pin(async move {
                        for device in untold.iter().rev() {
                            device_lists::note_device(tx, user.as_str(), device).await?;
                        }
                        Ok(())
                    })
                })
                .await;
            noted?;
        }
        let rows = device_lists::list_devices_of(database, user.as_str(), limit).await?;
        let updates = rows.into_iter().rev().filter_map(DeviceUpdate::read);
        Ok(updates.map(|update| DeviceUpdate { is_introduction: true, ..update }).collect())
    }

    /// The EDUs that tell of a change, with the keys as they are now: `edu_type` and content. One
    /// for a device; for cross-signing keys the specified name and the one before it.
    pub async fn describe_device_update(
        &self,
        update: &DeviceUpdate,
    ) -> Result<Vec<(&'static str, Value)>, StorageError> {
        let user = update.user_id.as_str();
        let Some(device) = &update.device_id else {
            let mut found = QueriedKeys::default();
            let users = [user];
            let signatures = self.load_signatures(Viewer::Server, &users).await?;
            self.add_cross_signing_keys(Viewer::Server, &users, &signatures, &mut found).await?;
            let mut content = Map::from_iter([("user_id".to_owned(), Value::from(user))]);
            add_cross_signing(&mut content, &mut found, user);
            let content = Value::Object(content);
            let names = ["m.signing_key_update", "org.matrix.signing_key_update"];
            return Ok(names.map(|name| (name, content.clone())).into());
        };
        let mut content = json!({
            "user_id": user,
            "device_id": device,
            "stream_id": update.position,
            "prev_id": update.previous.into_iter().collect::<Vec<i64>>(),
        });
        let database = self.0.rooms.database();
        let stored = storage::device_keys::list_keys(database, &[user]).await?;
        match stored.iter().find(|keys| keys.device_id == *device) {
            Some(keys) => {
                let signatures = self.load_signatures(Viewer::Server, &[user]).await?;
                content["keys"] = device_json(keys, &signatures).unwrap_or_default();
                if let Some(name) = &keys.display_name {
                    content["device_display_name"] = name.as_str().into();
                }
            }
            None => match storage::devices::find(database, user, device).await? {
                Some(found) => {
                    if let Some(name) = found.display_name {
                        content["device_display_name"] = name.into();
                    }
                }
                None => content["deleted"] = true.into(),
            },
        }
        Ok(vec![("m.device_list_update", content)])
    }

    /// Messages for the devices of a server above `after` up to `upto`, oldest first.
    pub async fn list_direct_messages(
        &self,
        destination: &ServerName,
        range: (i64, i64),
        limit: usize,
    ) -> Result<Vec<DirectMessage>, StorageError> {
        let (database, destination) = (self.0.rooms.database(), destination.as_str());
        let rows = storage::to_device::list_outbox(database, destination, range, limit).await?;
        let read = |(position, content)| DirectMessage { position, content };
        Ok(rows.into_iter().map(read).collect())
    }

    /// Deletes the messages up to a position that a server has confirmed.
    pub async fn confirm_direct_messages(
        &self,
        destination: &ServerName,
        upto: i64,
    ) -> Result<(), StorageError> {
        let destination = destination.to_owned();
        let confirmed = self.0.rooms.writer().transact(move |tx| {
            Box::pin(async move {
                storage::to_device::delete_outbox(tx, destination.as_str(), upto).await
            })
        });
        confirmed.await
    }

    /// Servers for which messages wait above a position.
    pub async fn list_message_destinations(&self, after: i64) -> Result<Vec<String>, StorageError> {
        storage::to_device::list_destinations(self.0.rooms.database(), after).await
    }

    /// The answer to `GET /user/devices/{userId}` of another server.
    pub async fn describe_devices(&self, user: &UserId) -> Result<Value, StorageError> {
        let database = self.0.rooms.database();
        let stream_id = device_lists::find_stream_id(database, user.as_str()).await?;
        let query = KeysQuery::from([(user.to_owned(), Vec::new())]);
        let mut found = self.query_local_keys(Viewer::Server, &query).await?;
        let stored = storage::device_keys::list_keys(database, &[user.as_str()]).await?;
        let name_of = |device: &str| {
            let keys = stored.iter().find(|keys: &&StoredDeviceKeys| keys.device_id == device);
            keys.and_then(|keys| keys.display_name.clone())
        };
        let devices = found.device_keys.remove(user.as_str());
        let devices = devices.as_ref().and_then(Value::as_object).into_iter().flatten();
        let devices: Vec<Value> = devices
            .map(|(device, keys)| {
                let mut entry = json!({ "device_id": device, "keys": keys });
                if let Some(name) = name_of(device) {
                    entry["device_display_name"] = name.into();
                }
                entry
            })
            .collect();
        let mut answer = Map::from_iter([
            ("user_id".to_owned(), Value::from(user.as_str())),
            ("stream_id".to_owned(), stream_id.into()),
            ("devices".to_owned(), devices.into()),
        ]);
        add_cross_signing(&mut answer, &mut found, user.as_str());
        Ok(answer.into())
    }
}

fn add_cross_signing(object: &mut Map<String, Value>, found: &mut QueriedKeys, user: &str) {
    if let Some(key) = found.master_keys.remove(user) {
        object.insert("master_key".to_owned(), key);
    }
    if let Some(key) = found.self_signing_keys.remove(user) {
        object.insert("self_signing_key".to_owned(), key);
    }
}
