//! `POST /keys/upload` (client-server API, "Uploading keys"): identity keys of a device, its
//! one-time keys and its fallback keys.

use std::collections::BTreeMap;

use ruma::{DeviceId, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Encryption,
    devices_in_use::{DeviceName, Keys},
    identity::{self, IdentityError},
    one_time_keys::{FallbackKey, KeyConflict, ONE_TIME_KEYS_MAX, OneTimeKey, is_same},
};
use crate::{
    protocol::signing::VerifyKey,
    rooms::write_json_string,
    storage::{StorageError, WriteTx, cross_signing, device_keys},
};

/// Every client has keys of this algorithm, and wants to know when there are none left.
const USUAL_ALGORITHM: &str = "signed_curve25519";
/// Algorithms that one device may have keys of.
const ALGORITHMS_MAX: usize = 20;
/// Bytes of a key ID with its algorithm, and of a key.
const KEY_ID_BYTES_MAX: usize = 255;
const KEY_BYTES_MAX: usize = 4096;
/// Bytes of identity keys with their signatures.
pub(super) const IDENTITY_BYTES_MAX: usize = 32 << 10;

/// What a device uploads.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct KeysUpload {
    pub device_keys: Option<Box<RawValue>>,
    /// By `<algorithm>:<key ID>`.
    pub one_time_keys: Option<BTreeMap<String, Box<RawValue>>>,
    pub fallback_keys: Option<BTreeMap<String, Box<RawValue>>>,
    /// The name of the same before it was specified.
    #[serde(rename = "org.matrix.msc2732.fallback_keys")]
    pub unstable_fallback_keys: Option<BTreeMap<String, Box<RawValue>>>,
}

/// How many keys of a device can be claimed, and which fallback keys have not been used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// By algorithm.
    pub one_time: BTreeMap<String, usize>,
    pub unused_fallback: Vec<String>,
}

/// Why keys were not stored.
#[derive(Debug, thiserror::Error)]
pub enum UploadKeysError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("{0}")]
    BadKey(&'static str),
    #[error(transparent)]
    Conflict(#[from] KeyConflict),
    #[error("the device has as many keys as it may have")]
    TooMany,
    #[error("the device has the name of a cross-signing key")]
    NamedLikeKey,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// An upload that is well-formed, by algorithm.
#[derive(Default)]
struct CheckedUpload {
    identity: Option<Box<str>>,
    one_time: BTreeMap<Box<str>, Vec<OneTimeKey>>,
    fallback: BTreeMap<Box<str>, OneTimeKey>,
}

impl Encryption {
    /// Stores keys; returns how many can be claimed now. Keys that were uploaded before are left as
    /// they are.
    pub async fn upload_keys(
        &self,
        user: &UserId,
        device: &DeviceId,
        upload: KeysUpload,
    ) -> Result<KeyCounts, UploadKeysError> {
        let checked = CheckedUpload::new(upload, (user.as_str(), device.as_str()))?;
        let name = DeviceName::new(user, device);
        let mut audience = None;
        if let Some(new) = &checked.identity {
            let current = self.0.devices.find_identity(&name).await?;
            if current.as_ref().is_none_or(|current| !is_same(current, new)) {
                self.check_device_name(&name).await?;
                audience = Some(self.0.lists.audience(user).await?);
            }
            if current.is_some_and(|current| !has_same_keys(&current, new)) {
                self.discard_signed(&name).await?;
            }
        }
        let names = std::slice::from_ref(&name);
        let changed = self.0.devices.change(names, |devices, tx| {
            let known = devices.keys(&name);
            checked.check_against(known)?;
            let announce = checked.apply(known, &name, tx)?;
            if let (true, Some(audience)) = (announce, audience) {
                self.0.lists.announce(tx, user, &name.device, audience);
            }
            let counts = KeyCounts::of(known);
            self.0.news.announce_counts(tx, names);
            Ok::<_, UploadKeysError>(counts)
        });
        let (counts, ticket) = changed.await?;
        if let Some(ticket) = ticket {
            ticket.committed().await?;
        }
        Ok(counts)
    }

    /// How many keys a device has left.
    pub async fn count_keys(&self, user: &UserId, device: &str) -> Result<KeyCounts, StorageError> {
        let name = DeviceName::new(user, device);
        self.0.devices.look(&name, |device| device.counts.clone()).await
    }

    /// Whether keys of a device were claimed in a range of positions, as far as memory goes: what it does
    /// not know is told with the next answer, since the counts are in each.
    pub async fn were_keys_claimed(
        &self,
        user: &UserId,
        device: &str,
        (since, upto): (i64, i64),
    ) -> Result<bool, StorageError> {
        let name = DeviceName::new(user, device);
        let claimed_at = self.0.devices.look(&name, |device| device.claimed_at).await?;
        Ok(claimed_at > since && claimed_at <= upto)
    }

    /// "Servers therefore must ensure that device IDs will not collide with cross-signing public
    /// keys" (client-server API, "Cross-signing").
    async fn check_device_name(&self, name: &DeviceName) -> Result<(), UploadKeysError> {
        if VerifyKey::from_base64(&name.device).is_err() {
            // No public key looks like this.
            return Ok(());
        }
        let database = self.0.rooms.database();
        let keys = cross_signing::list_keys(database, &[&name.user]).await?;
        let is_taken = keys.iter().any(|(_, _, key)| {
            let key = identity::parse_object(key).unwrap_or_default();
            identity::find_public_key(&key) == Some(&name.device)
        });
        if is_taken { Err(UploadKeysError::NamedLikeKey) } else { Ok(()) }
    }

    /// One-time keys are signed by the identity that they belong to, and others have signed that one: with
    /// another identity nobody could use either.
    async fn discard_signed(&self, name: &DeviceName) -> Result<(), StorageError> {
        let names = std::slice::from_ref(name);
        let changed = self.0.devices.change(names, |devices, tx| {
            let known = devices.keys(name);
            known.one_time.clear();
            known.fallback.clear();
            device_keys::push_delete_keys(tx, name.pair());
            cross_signing::push_delete_signatures_on(tx, name.pair());
            Ok::<_, StorageError>(())
        });
        if let ((), Some(ticket)) = changed.await? {
            ticket.committed().await?;
        }
        Ok(())
    }

    /// Discards the one-time keys of all devices: in a database that was restored from a backup some
    /// of them may have been handed out since. Uploads and claims under way fail.
    pub async fn discard_all_one_time_keys(&self) -> Result<(), StorageError> {
        let encryption = self.clone();
        let discarded = self.0.rooms.writer().transact(move |tx| {
            Box::pin(async move {
                device_keys::discard_all_one_time_keys(tx).await?;
                tx.after_commit(move || encryption.0.devices.forget_all());
                Ok(())
            })
        });
        discarded.await
    }
}

impl KeysUpload {
    /// Whether the upload is well-formed and that of the device.
    pub(super) fn check(&self, owner: (&str, &str)) -> Result<(), UploadKeysError> {
        CheckedUpload::new(self.clone(), owner).map(drop)
    }
}

impl KeyCounts {
    /// Appends `device_one_time_keys_count` and `device_unused_fallback_key_types` as JSON, with
    /// a comma before each.
    pub fn write_json(&self, out: &mut String) {
        for (number, (algorithm, count)) in self.one_time.iter().enumerate() {
            out.push_str(if number == 0 { ",\"device_one_time_keys_count\":{" } else { "," });
            write_json_string(out, algorithm);
            out.push(':');
            out.push_str(&count.to_string());
        }
        out.push_str(if self.one_time.is_empty() { "" } else { "}" });
        out.push_str(",\"device_unused_fallback_key_types\":[");
        for (number, algorithm) in self.unused_fallback.iter().enumerate() {
            out.push_str(if number == 0 { "" } else { "," });
            write_json_string(out, algorithm);
        }
        out.push(']');
    }

    pub(super) fn of(device: &Keys) -> Self {
        let mut one_time: BTreeMap<String, usize> = device
            .one_time
            .iter()
            .map(|(algorithm, pool)| (algorithm.to_string(), pool.count()))
            .filter(|(_, count)| *count > 0)
            .collect();
        one_time.entry(USUAL_ALGORITHM.to_owned()).or_insert(0);
        let unused = device.fallback.iter().filter(|(_, key)| !key.used);
        let unused_fallback = unused.map(|(algorithm, _)| algorithm.to_string()).collect();
        Self { one_time, unused_fallback }
    }
}

impl CheckedUpload {
    fn new(upload: KeysUpload, owner: (&str, &str)) -> Result<Self, UploadKeysError> {
        let mut checked = Self::default();
        if let Some(keys) = upload.device_keys.filter(|keys| keys.get() != "null") {
            if keys.get().len() > IDENTITY_BYTES_MAX {
                return Err(UploadKeysError::BadKey("the device keys are too long"));
            }
            identity::check_device_keys(&identity::parse_object(keys.get())?, owner)?;
            checked.identity = Some(keys.get().into());
        }
        for (key_id, key) in upload.one_time_keys.unwrap_or_default() {
            let (algorithm, key) = check_key(key_id, &key)?;
            checked.one_time.entry(algorithm).or_default().push(key);
        }
        let fallback = upload.fallback_keys.or(upload.unstable_fallback_keys);
        for (key_id, key) in fallback.unwrap_or_default() {
            let (algorithm, key) = check_key(key_id, &key)?;
            if checked.fallback.insert(algorithm, key).is_some() {
                let message = "there can be one fallback key per algorithm";
                return Err(UploadKeysError::BadKey(message));
            }
        }
        if checked.one_time.len() > ALGORITHMS_MAX || checked.fallback.len() > ALGORITHMS_MAX {
            return Err(UploadKeysError::BadKey("there are keys of too many algorithms"));
        }
        if checked.one_time.values().any(|keys| keys.len() > ONE_TIME_KEYS_MAX) {
            return Err(UploadKeysError::TooMany);
        }
        Ok(checked)
    }

    /// What could make the upload fail, before anything is changed.
    fn check_against(&self, device: &Keys) -> Result<(), UploadKeysError> {
        for (algorithm, keys) in &self.one_time {
            let Some(pool) = device.one_time.get(algorithm) else {
                if device.one_time.len() >= ALGORITHMS_MAX {
                    return Err(UploadKeysError::TooMany);
                }
                continue;
            };
            let new = pool.select_new(keys.clone())?;
            if !new.is_empty() && pool.count() + new.len() > ONE_TIME_KEYS_MAX {
                return Err(UploadKeysError::TooMany);
            }
        }
        Ok(())
    }

    /// Changes the device and adds the rows; true when others have to learn of its identity keys.
    fn apply(
        self,
        device: &mut Keys,
        name: &DeviceName,
        tx: &mut WriteTx,
    ) -> Result<bool, UploadKeysError> {
        for (algorithm, keys) in self.one_time {
            let pool = device.one_time.entry(algorithm.clone()).or_default();
            let new = pool.select_new(keys)?;
            if new.is_empty() {
                continue;
            }
            let json = batch_json(&new);
            let (number, forgotten) = pool.push(new);
            device_keys::push_batch(tx, name.pair(), &algorithm, (number, &json));
            if let Some(below) = forgotten {
                device_keys::push_delete_batches(tx, name.pair(), &algorithm, below);
            }
        }
        for (algorithm, key) in self.fallback {
            let known = device.fallback.get(&algorithm).map(|known| &known.key);
            let is_known =
                |known: &OneTimeKey| known.key_id == key.key_id && is_same(&known.key, &key.key);
            if known.is_some_and(is_known) {
                continue;
            }
            let row = (&*key.key_id, &*key.key, false);
            device_keys::push_fallback(tx, name.pair(), &algorithm, row);
            device.fallback.insert(algorithm, FallbackKey { key, used: false });
        }
        let Some(identity) = self.identity else {
            return Ok(false);
        };
        if device.identity.as_ref().is_some_and(|known| is_same(known, &identity)) {
            return Ok(false);
        }
        device_keys::push_keys(tx, name.pair(), &identity);
        device.identity = Some(identity);
        Ok(true)
    }
}

/// A key with its algorithm.
fn check_key(key_id: String, key: &RawValue) -> Result<(Box<str>, OneTimeKey), UploadKeysError> {
    let (algorithm, rest) = key_id.split_once(':').unwrap_or_default();
    if algorithm.is_empty() || rest.is_empty() || key_id.contains('\0') {
        return Err(UploadKeysError::BadKey("a key is not named `<algorithm>:<key ID>`"));
    }
    let is_key = key.get().starts_with(['"', '{']);
    if key_id.len() > KEY_ID_BYTES_MAX || key.get().len() > KEY_BYTES_MAX || !is_key {
        return Err(UploadKeysError::BadKey("a key is not a short text or a small object"));
    }
    let algorithm = algorithm.into();
    Ok((algorithm, OneTimeKey { key_id: key_id.into(), key: key.get().into() }))
}

/// A batch as it is stored: a JSON array of `[key ID, key]`.
fn batch_json(keys: &[OneTimeKey]) -> String {
    let mut json = String::from("[");
    for (number, key) in keys.iter().enumerate() {
        json.push_str(if number == 0 { "[" } else { ",[" });
        write_json_string(&mut json, &key.key_id);
        json.push(',');
        json.push_str(&key.key);
        json.push(']');
    }
    json.push(']');
    json
}

/// Whether two identities have the same public keys.
fn has_same_keys(one: &str, other: &str) -> bool {
    let keys = |json: &str| identity::parse_object(json).ok()?.remove("keys");
    keys(one) == keys(other)
}
