//! `POST /keys/device_signing/upload` (client-server API, "Cross-signing"): a user's master,
//! self-signing and user-signing keys.

use std::collections::BTreeMap;

use ruma::UserId;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Encryption,
    identity::{
        IdentityError, check_cross_signing_key, check_signature, find_public_key, parse_object,
    },
};
use crate::storage::{self, StorageError, WriteTransaction, cross_signing as store, device_lists};

const MASTER: &str = "master";
const SELF_SIGNING: &str = "self_signing";
const USER_SIGNING: &str = "user_signing";
/// Bytes of a cross-signing key with its signatures.
pub(super) const KEY_BYTES_MAX: usize = 32 << 10;

/// What a user uploads; JSON objects.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CrossSigningUpload {
    pub master_key: Option<Map<String, Value>>,
    pub self_signing_key: Option<Map<String, Value>>,
    pub user_signing_key: Option<Map<String, Value>>,
}

/// Why keys were not stored.
#[derive(Debug, thiserror::Error)]
pub enum CrossSigningError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("there is no master key, neither here nor in the request")]
    NoMasterKey,
    #[error("a key has the name of one of the user's devices")]
    KeyIdInUse,
    #[error("a key is too long")]
    TooLong,
    #[error("who the user is has to be proven again")]
    NeedsProof,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

type Keys = BTreeMap<&'static str, Map<String, Value>>;

impl CrossSigningUpload {
    fn keys(&self) -> impl Iterator<Item = (&'static str, &Map<String, Value>)> {
        let keys = [
            (MASTER, &self.master_key),
            (SELF_SIGNING, &self.self_signing_key),
            (USER_SIGNING, &self.user_signing_key),
        ];
        keys.into_iter().filter_map(|(usage, key)| Some((usage, key.as_ref()?)))
    }
}

impl Encryption {
    /// Stores keys. A new master key takes the place of all earlier keys. Unless the user `is_proven` to
    /// be who they say, only the first master key with its keys is taken, and keys that are here already:
    /// this is decided in the same commit, so that of two first uploads at a time one is the first.
    pub async fn upload_cross_signing_keys(
        &self,
        user: &UserId,
        upload: CrossSigningUpload,
        is_proven: bool,
    ) -> Result<(), CrossSigningError> {
        let audience = self.0.lists.audience(user).await?;
        let (encryption, user) = (self.clone(), user.to_owned());
        let stored = self.0.rooms.writer().transact(move |tx| {
            Box::pin(async move {
                let known = read_keys(store::list_of_user(tx, user.as_str()).await?);
                if !is_proven && needs_proof(&upload, &known) {
                    return Err(CrossSigningError::NeedsProof);
                }
                check_shape(&upload, &user)?;
                check_upload(tx, &user, &upload, &known).await?;
                if !save_upload(tx, &user, &upload, &known).await? {
                    return Ok(());
                }
                let position = device_lists::note_change(tx, user.as_str(), "").await?;
                encryption.0.lists.announce_in(tx, &user, position, audience);
                Ok(())
            })
        });
        stored.await
    }
}

/// Whether something is replaced or added to what is there.
fn needs_proof(upload: &CrossSigningUpload, known: &Keys) -> bool {
    let public =
        |key: Option<&Map<String, Value>>| key.and_then(find_public_key).map(str::to_owned);
    known.contains_key(MASTER)
        && upload.keys().any(|(usage, key)| public(known.get(usage)) != public(Some(key)))
}

/// What can be seen without other keys.
fn check_shape(upload: &CrossSigningUpload, user: &UserId) -> Result<(), CrossSigningError> {
    for (usage, key) in upload.keys() {
        check_cross_signing_key(key, user.as_str(), usage)?;
        if serde_json::to_string(key).is_ok_and(|json| json.len() > KEY_BYTES_MAX) {
            return Err(CrossSigningError::TooLong);
        }
    }
    Ok(())
}

fn read_keys(rows: impl IntoIterator<Item = (String, String)>) -> Keys {
    let usage_of = |usage: &str| {
        [MASTER, SELF_SIGNING, USER_SIGNING].into_iter().find(|known| *known == usage)
    };
    let keys = rows.into_iter();
    keys.filter_map(|(usage, key)| Some((usage_of(&usage)?, parse_object(&key).ok()?))).collect()
}

/// What depends on other keys: the signature of the master key, and names of devices.
async fn check_upload(
    tx: &mut WriteTransaction<'_>,
    user: &UserId,
    upload: &CrossSigningUpload,
    known: &Keys,
) -> Result<(), CrossSigningError> {
    let master = upload.master_key.as_ref().or_else(|| known.get(MASTER));
    let master = master.and_then(find_public_key).ok_or(CrossSigningError::NoMasterKey)?;
    for (usage, key) in upload.keys() {
        if usage != MASTER {
            let key_id = format!("ed25519:{master}");
            check_signature(key, user.as_str(), (&key_id, master))?;
        }
        let public = find_public_key(key).unwrap_or_default();
        if storage::devices::exists_in(tx, user.as_str(), public).await? {
            return Err(CrossSigningError::KeyIdInUse);
        }
    }
    Ok(())
}

/// Saves what is new; false when nothing was.
async fn save_upload(
    tx: &mut WriteTransaction<'_>,
    user: &UserId,
    upload: &CrossSigningUpload,
    known: &Keys,
) -> Result<bool, CrossSigningError> {
    let mut is_changed = false;
    let new_master = upload.master_key.as_ref().and_then(find_public_key);
    let is_new_master =
        new_master.is_some() && known.get(MASTER).and_then(find_public_key) != new_master;
    if is_new_master {
        // What the old master key signed has nobody to vouch for it any more.
        for (usage, key) in known {
            store::delete_key(tx, (user.as_str(), usage)).await?;
            let public = find_public_key(key).unwrap_or_default();
            store::delete_signatures_by(tx, user.as_str(), public).await?;
        }
    }
    for (usage, key) in upload.keys() {
        if !is_new_master && known.get(usage) == Some(key) {
            continue;
        }
        let public = find_public_key(key);
        let replaced = known.get(usage).filter(|_| !is_new_master).and_then(find_public_key);
        if let Some(replaced) = replaced.filter(|replaced| Some(*replaced) != public) {
            store::delete_signatures_by(tx, user.as_str(), replaced).await?;
        }
        let json = Value::Object(key.clone()).to_string();
        store::save_key(tx, (user.as_str(), usage), &json).await?;
        is_changed = true;
    }
    Ok(is_changed)
}
