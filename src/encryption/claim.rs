//! `POST /keys/claim` (client-server API): hands out one-time keys in the order of their upload, each
//! once, and a fallback key when there are none left. A claim is durable before its answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ruma::{OwnedServerName, OwnedUserId};
use serde_json::{Map, Value, json};

use super::{
    Encryption, RemoteError,
    devices_in_use::{DeviceName, Keys},
    one_time_keys::{OneTimeKey, Pool},
    remote::{failure_of, gather},
    to_device::list_users,
};
use crate::storage::{StorageError, WriteTx, device_keys};

/// Devices of one claim; a request with more gets its keys in several commits.
const CLAIM_DEVICES_MAX: usize = 500;

/// User, device, algorithm.
pub type ClaimRequest = BTreeMap<OwnedUserId, BTreeMap<String, String>>;

/// A key that was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedKey {
    pub user: Box<str>,
    pub device: Box<str>,
    /// `<algorithm>:<key ID>`.
    pub key_id: Box<str>,
    /// JSON.
    pub key: Box<str>,
}

/// What a claim got.
#[derive(Clone, Debug, Default)]
pub struct ClaimedKeys {
    /// Of this server's users, in the order of users and devices.
    pub local: Vec<ClaimedKey>,
    /// Of other servers: user, device, key ID, key.
    pub remote: Map<String, Value>,
    /// By server that could not be reached.
    pub failures: Map<String, Value>,
}

impl Encryption {
    /// Claims keys of users here and elsewhere.
    pub async fn claim_keys(
        &self,
        request: ClaimRequest,
        timeout: Duration,
    ) -> Result<ClaimedKeys, StorageError> {
        let mut claimed = ClaimedKeys::default();
        let (local, remote): (ClaimRequest, ClaimRequest) =
            request.into_iter().partition(|(user, _)| self.is_local(user));
        claimed.local = self.claim_local_keys(local).await?;
        let mut by_server: BTreeMap<OwnedServerName, ClaimRequest> = BTreeMap::new();
        for (user, devices) in remote {
            let server = user.server_name().to_owned();
            by_server.entry(server).or_default().insert(user, devices);
        }
        let mut silent: BTreeSet<OwnedServerName> = by_server.keys().cloned().collect();
        let asked = by_server.into_iter().map(|(server, users)| async move {
            let users_json = json!({ "one_time_keys": users });
            let answer = match self.0.remote.get() {
                Some(remote) => remote.claim(&server, users_json, timeout).await,
                None => Err(RemoteError::unreachable()),
            };
            (server, users, answer)
        });
        for (server, users, answer) in gather(asked.collect(), timeout).await {
            silent.remove(&server);
            match answer {
                Ok(mut answer) => {
                    let keys = answer.get_mut("one_time_keys").and_then(Value::as_object_mut);
                    for user in users.keys() {
                        let user_keys = keys.as_ref().and_then(|keys| keys.get(user.as_str()));
                        if let Some(keys) = user_keys.filter(|keys| keys.is_object()) {
                            claimed.remote.insert(user.to_string(), keys.clone());
                        }
                    }
                }
                Err(error) => {
                    claimed.failures.insert(server.to_string(), failure_of(&error));
                }
            }
        }
        for server in silent {
            claimed.failures.insert(server.to_string(), failure_of(&RemoteError::late()));
        }
        Ok(claimed)
    }

    /// Claims keys of this server's users. What does not exist is missing from the answer.
    pub async fn claim_local_keys(
        &self,
        request: ClaimRequest,
    ) -> Result<Vec<ClaimedKey>, StorageError> {
        let mut wanted = Vec::new();
        for (user, devices) in &request {
            // No device has an ID with U+0000, and PostgreSQL reads none: devices are read together, so
            // that one of these would fail for others as well.
            for (device, algorithm) in devices.iter().filter(|(device, _)| !device.contains('\0')) {
                wanted.push((DeviceName::new(user, device), algorithm.as_str()));
            }
        }
        let mut claimed = Vec::with_capacity(wanted.len());
        for wanted in wanted.chunks(CLAIM_DEVICES_MAX) {
            claimed.extend(self.claim_at_once(wanted).await?);
        }
        Ok(claimed)
    }

    async fn claim_at_once(
        &self,
        wanted: &[(DeviceName, &str)],
    ) -> Result<Vec<ClaimedKey>, StorageError> {
        let names: Vec<_> = wanted.iter().map(|(name, _)| name.clone()).collect();
        let changed = self.0.devices.change(&names, |devices, tx| {
            let mut claimed = Vec::with_capacity(wanted.len());
            let mut poorer = Vec::with_capacity(wanted.len());
            for (name, algorithm) in wanted {
                let taken = take_key(devices.keys(name), tx, (name, algorithm));
                let Some(Taken { key: OneTimeKey { key_id, key }, is_news }) = taken else {
                    continue;
                };
                let (user, device) = (name.user.clone(), name.device.clone());
                claimed.push(ClaimedKey { user, device, key_id, key });
                if is_news {
                    poorer.push(name.clone());
                }
            }
            if !poorer.is_empty() {
                self.announce_claims(tx, poorer);
            }
            Ok::<_, StorageError>(claimed)
        });
        let (claimed, ticket) = changed.await?;
        if let Some(ticket) = ticket {
            ticket.committed().await?;
        }
        Ok(claimed)
    }

    /// Has the owners of devices learn at once that there are fewer keys: waiting syncs are answered, so
    /// that the device brings new ones while it is awake (client-server API, "One-time and fallback keys").
    fn announce_claims(&self, tx: &mut WriteTx, devices: Vec<DeviceName>) {
        let offset = tx.next_position();
        self.0.news.announce_counts(tx, &devices);
        let users = list_users(&devices);
        let (encryption, told) = (self.clone(), users.clone());
        tx.after_commit(move |committed| {
            let position = committed.position(offset);
            encryption.0.devices.note_claims(&devices, position);
            told.iter().for_each(|user| encryption.0.rooms.note_user_activity(user, position));
        });
        let notifier = self.0.rooms.notifier().clone();
        tx.after_publish(move |_| users.iter().for_each(|user| notifier.wake(user)));
    }
}

/// A key that goes out.
struct Taken {
    key: OneTimeKey,
    /// Whether a sync of the device tells something else now.
    is_news: bool,
}

fn take_key(
    device: &mut Keys,
    tx: &mut WriteTx,
    (name, algorithm): (&DeviceName, &str),
) -> Option<Taken> {
    if let Some((key, batch, taken)) = device.one_time.get_mut(algorithm).and_then(Pool::claim) {
        device_keys::push_claim(tx, name.pair(), algorithm, (batch, taken));
        return Some(Taken { key, is_news: true });
    }
    let fallback = device.fallback.get_mut(algorithm)?;
    let is_news = !std::mem::replace(&mut fallback.used, true);
    if is_news {
        let row = (&*fallback.key.key_id, &*fallback.key.key, true);
        device_keys::push_fallback(tx, name.pair(), algorithm, row);
    }
    Some(Taken { key: fallback.key.clone(), is_news })
}
