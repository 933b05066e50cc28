//! `POST /keys/claim` (client-server API): hands out one-time keys in the order of their upload, each
//! once, and a fallback key when there are none left. A claim is durable before its answer.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use ruma::{OwnedServerName, OwnedUserId};
use serde_json::{Map, Value, json};

use super::{
    Encryption,
    devices_in_use::{DeviceName, Keys},
    one_time_keys::OneTimeKey,
    remote::failure_of,
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
        let asked = by_server.into_iter().map(|(server, users)| async move {
            let users_json = json!({ "one_time_keys": users });
            let answer = match self.0.remote.get() {
                Some(remote) => remote.claim(&server, users_json, timeout).await,
                None => Err(super::RemoteError::unreachable()),
            };
            (server, users, answer)
        });
        for (server, users, answer) in join_all(asked).await {
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
        Ok(claimed)
    }

    /// Claims keys of this server's users. What does not exist is missing from the answer.
    pub async fn claim_local_keys(
        &self,
        request: ClaimRequest,
    ) -> Result<Vec<ClaimedKey>, StorageError> {
        let mut wanted = Vec::new();
        for (user, devices) in &request {
            for (device, algorithm) in devices {
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
            for (name, algorithm) in wanted {
                let keys = devices.keys(name);
                if let Some(OneTimeKey { key_id, key }) = take_key(keys, tx, (name, algorithm)) {
                    let (user, device) = (name.user.clone(), name.device.clone());
                    claimed.push(ClaimedKey { user, device, key_id, key });
                }
            }
            self.0.news.announce_counts(tx, &names);
            Ok::<_, StorageError>(claimed)
        });
        let (claimed, ticket) = changed.await?;
        if let Some(ticket) = ticket {
            ticket.committed().await?;
        }
        Ok(claimed)
    }
}

fn take_key(
    device: &mut Keys,
    tx: &mut WriteTx,
    (name, algorithm): (&DeviceName, &str),
) -> Option<OneTimeKey> {
    if let Some((key, batch, taken)) =
        device.one_time.get_mut(algorithm).and_then(super::one_time_keys::Pool::claim)
    {
        device_keys::push_claim(tx, name.pair(), algorithm, (batch, taken));
        return Some(key);
    }
    let fallback = device.fallback.get_mut(algorithm)?;
    if !fallback.used {
        fallback.used = true;
        let row = (&*fallback.key.key_id, &*fallback.key.key, true);
        device_keys::push_fallback(tx, name.pair(), algorithm, row);
    }
    Some(fallback.key.clone())
}
