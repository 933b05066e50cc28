//! `POST /keys/query` (client-server API): identity keys of devices and cross-signing keys, with the
//! signatures that whoever asks may see ("Key and signature security").

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use ruma::{OwnedServerName, OwnedUserId, UserId};
use serde_json::{Map, Value, json};

use super::{
    Encryption, RemoteError,
    identity::{find_public_key, parse_object, text},
    remote::{failure_of, gather},
};
use crate::{
    protocol::signing::add_signature,
    storage::{self, StorageError, cross_signing::StoredSignature, device_keys::StoredDeviceKeys},
};

/// Users, and of each the wanted devices (empty: all).
pub type KeysQuery = BTreeMap<OwnedUserId, Vec<String>>;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Viewer<'a> {
    User(&'a UserId),
    /// Another server, on behalf of its users.
    Server,
}

/// What was found, by user.
#[derive(Clone, Debug, Default)]
pub struct QueriedKeys {
    pub device_keys: Map<String, Value>,
    pub master_keys: Map<String, Value>,
    pub self_signing_keys: Map<String, Value>,
    pub user_signing_keys: Map<String, Value>,
    /// By server that could not be reached.
    pub failures: Map<String, Value>,
}

impl QueriedKeys {
    /// The body of the answer to a client.
    pub fn into_json(self) -> Value {
        json!({
            "device_keys": self.device_keys,
            "master_keys": self.master_keys,
            "self_signing_keys": self.self_signing_keys,
            "user_signing_keys": self.user_signing_keys,
            "failures": self.failures,
        })
    }

    fn insert_cross_signing(&mut self, user: &str, usage: &str, key: Value) {
        let keys = match usage {
            "master" => &mut self.master_keys,
            "self_signing" => &mut self.self_signing_keys,
            _ => &mut self.user_signing_keys,
        };
        keys.insert(user.to_owned(), key);
    }
}

impl Encryption {
    /// Keys of users here and elsewhere, as `viewer` may see them.
    pub async fn query_keys(
        &self,
        viewer: &UserId,
        query: KeysQuery,
        timeout: Duration,
    ) -> Result<QueriedKeys, StorageError> {
        let (local, remote): (KeysQuery, KeysQuery) =
            query.into_iter().partition(|(user, _)| self.is_local(user));
        let mut found = self.query_local_keys(Viewer::User(viewer), &local).await?;
        if !remote.is_empty() {
            self.query_remote(viewer, remote, timeout, &mut found).await?;
        }
        Ok(found)
    }

    /// Keys of this server's users. Who does not exist is missing; who has no devices with keys has
    /// an empty entry.
    pub async fn query_local_keys(
        &self,
        viewer: Viewer<'_>,
        query: &KeysQuery,
    ) -> Result<QueriedKeys, StorageError> {
        let users: Vec<&str> = query.keys().map(|user| user.as_str()).collect();
        let database = self.0.rooms.database();
        let stored = storage::device_keys::list_keys(database, &users).await?;
        let signatures = self.load_signatures(viewer, &users).await?;
        let mut found = QueriedKeys::default();
        for (user, wanted) in query {
            let devices: Map<String, Value> = stored
                .iter()
                .filter(|keys| keys.user_id == user.as_str())
                .filter(|keys| wanted.is_empty() || wanted.contains(&keys.device_id))
                .filter_map(|keys| Some((keys.device_id.clone(), device_json(keys, &signatures)?)))
                .collect();
            found.device_keys.insert(user.to_string(), devices.into());
        }
        self.add_cross_signing_keys(viewer, &users, &signatures, &mut found).await?;
        let is_empty =
            |user: &&str| found.device_keys[*user].as_object().is_some_and(Map::is_empty);
        let empty: Vec<&str> = users.iter().copied().filter(is_empty).collect();
        if !empty.is_empty() {
            let existing = storage::device_keys::list_existing_users(database, &empty).await?;
            for user in empty.iter().filter(|user| !existing.iter().any(|known| known == *user)) {
                found.device_keys.remove(*user);
            }
        }
        Ok(found)
    }

    pub(super) async fn load_signatures(
        &self,
        viewer: Viewer<'_>,
        users: &[&str],
    ) -> Result<Signatures, StorageError> {
        let viewer = match viewer {
            Viewer::User(viewer) => viewer.as_str(),
            Viewer::Server => "",
        };
        let database = self.0.rooms.database();
        let rows = storage::cross_signing::list_signatures(database, users, viewer).await?;
        Ok(Signatures::new(rows))
    }

    /// Everybody sees master and self-signing keys; user-signing keys only their owners.
    pub(super) async fn add_cross_signing_keys(
        &self,
        viewer: Viewer<'_>,
        users: &[&str],
        signatures: &Signatures,
        found: &mut QueriedKeys,
    ) -> Result<(), StorageError> {
        let database = self.0.rooms.database();
        for (user, usage, key) in storage::cross_signing::list_keys(database, users).await? {
            let is_own = matches!(viewer, Viewer::User(viewer) if viewer.as_str() == user);
            if usage == "user_signing" && !is_own {
                continue;
            }
            let Ok(mut key) = parse_object(&key) else { continue };
            if let Some(public) = find_public_key(&key).map(str::to_owned) {
                signatures.add_to(&mut key, &user, &public);
            }
            found.insert_cross_signing(&user, &usage, key.into());
        }
        Ok(())
    }

    /// From the lists that are kept here, and from the users' servers.
    async fn query_remote(
        &self,
        viewer: &UserId,
        query: KeysQuery,
        timeout: Duration,
        found: &mut QueriedKeys,
    ) -> Result<(), StorageError> {
        let users: Vec<&UserId> = query.keys().map(|user| &**user).collect();
        let kept = self.refresh_remote_lists(viewer, &users, timeout).await?;
        for (server, error) in &kept.failures {
            found.failures.insert(server.to_string(), failure_of(error));
        }
        self.query_kept_lists(viewer, &query, &kept.fresh, found).await?;
        let mut by_server: BTreeMap<OwnedServerName, KeysQuery> = BTreeMap::new();
        for (user, devices) in query {
            let is_answered = kept.fresh.contains(&user);
            if !is_answered && !kept.failures.contains_key(user.server_name()) {
                let server = user.server_name().to_owned();
                by_server.entry(server).or_default().insert(user, devices);
            }
        }
        let mut silent: BTreeSet<OwnedServerName> = by_server.keys().cloned().collect();
        let asked = by_server.into_iter().map(|(server, query)| async move {
            let body = json!({ "device_keys": query });
            let answer = match self.0.remote.get() {
                Some(remote) => remote.query(&server, body, timeout).await,
                None => Err(RemoteError::unreachable()),
            };
            (server, query, answer)
        });
        let answers = gather(asked.collect(), timeout).await;
        let users: Vec<&str> =
            answers.iter().flat_map(|(_, query, _)| query.keys()).map(|u| u.as_str()).collect();
        let signatures = self.load_signatures(Viewer::User(viewer), &users).await?;
        for (server, query, answer) in &answers {
            silent.remove(server);
            match answer {
                Ok(answer) => add_remote_answer(answer, query, &signatures, found),
                Err(error) => {
                    found.failures.insert(server.to_string(), failure_of(error));
                }
            }
        }
        for server in silent {
            found.failures.insert(server.to_string(), failure_of(&RemoteError::late()));
        }
        Ok(())
    }

    async fn query_kept_lists(
        &self,
        viewer: &UserId,
        query: &KeysQuery,
        fresh: &[OwnedUserId],
        found: &mut QueriedKeys,
    ) -> Result<(), StorageError> {
        let users: Vec<&str> = fresh.iter().map(|user| user.as_str()).collect();
        if users.is_empty() {
            return Ok(());
        }
        let viewer = Viewer::User(viewer);
        let signatures = self.load_signatures(viewer, &users).await?;
        let rows = storage::remote_devices::list_devices(self.0.rooms.database(), &users).await?;
        for user in fresh {
            let wanted = query.get(user).map_or(&[][..], Vec::as_slice);
            let devices: Map<String, Value> = rows
                .iter()
                .filter(|(owner, device)| {
                    owner == user.as_str()
                        && (wanted.is_empty() || wanted.contains(&device.device_id))
                })
                .filter_map(|(owner, device)| {
                    let keys = StoredDeviceKeys {
                        user_id: owner.clone(),
                        device_id: device.device_id.clone(),
                        keys: device.keys.clone()?,
                        display_name: device.display_name.clone(),
                    };
                    Some((device.device_id.clone(), device_json(&keys, &signatures)?))
                })
                .collect();
            found.device_keys.insert(user.to_string(), devices.into());
        }
        self.add_cross_signing_keys(viewer, &users, &signatures, found).await
    }
}

/// Signatures by user and signed key.
pub(super) struct Signatures(HashMap<(String, String), Vec<StoredSignature>>);

impl Signatures {
    fn new(rows: Vec<StoredSignature>) -> Self {
        let mut by_key: HashMap<_, Vec<_>> = HashMap::new();
        for row in rows {
            let key = (row.target_user.clone(), row.target_key.clone());
            by_key.entry(key).or_default().push(row);
        }
        Self(by_key)
    }

    pub fn add_to(&self, key: &mut Map<String, Value>, user: &str, name: &str) {
        for row in self.0.get(&(user.to_owned(), name.to_owned())).into_iter().flatten() {
            let key_id = format!("ed25519:{}", row.signer_key);
            add_signature(key, &row.signer_user, &key_id, row.signature.clone());
        }
    }
}

/// The keys of a device as whoever asks sees them.
pub(super) fn device_json(stored: &StoredDeviceKeys, signatures: &Signatures) -> Option<Value> {
    let mut keys = parse_object(&stored.keys).ok()?;
    signatures.add_to(&mut keys, &stored.user_id, &stored.device_id);
    let mut unsigned = Map::new();
    if let Some(name) = &stored.display_name {
        unsigned.insert("device_display_name".to_owned(), name.as_str().into());
    }
    keys.insert("unsigned".to_owned(), unsigned.into());
    Some(keys.into())
}

/// Takes over what a server says of its own users, as far as it was asked for and names its owner.
fn add_remote_answer(
    answer: &Value,
    query: &KeysQuery,
    signatures: &Signatures,
    found: &mut QueriedKeys,
) {
    for user in query.keys().map(|user| user.as_str()) {
        let devices = answer.get("device_keys").and_then(|keys| keys.get(user));
        let devices: Map<String, Value> = devices
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(device, keys)| {
                let mut keys = keys.as_object()?.clone();
                let is_owner = text(&keys, "user_id") == Some(user)
                    && text(&keys, "device_id") == Some(device);
                signatures.add_to(&mut keys, user, device);
                is_owner.then(|| (device.clone(), keys.into()))
            })
            .collect();
        found.device_keys.insert(user.to_owned(), devices.into());
        for (field, usage) in [("master_keys", "master"), ("self_signing_keys", "self_signing")] {
            let key = answer.get(field).and_then(|keys| keys.get(user)).and_then(Value::as_object);
            let Some(key) = key.filter(|key| text(key, "user_id") == Some(user)) else { continue };
            let mut key = key.clone();
            if let Some(public) = find_public_key(&key).map(str::to_owned) {
                signatures.add_to(&mut key, user, &public);
            }
            found.insert_cross_signing(user, usage, key.into());
        }
    }
}
