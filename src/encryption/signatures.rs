//! `POST /keys/signatures/upload` (client-server API, "Cross-signing"): signatures on one's own
//! devices and keys, and on the master keys of others. Each stands or fails alone.

use std::{collections::BTreeMap, time::Duration};

use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value};

use super::{
    Encryption, KeysQuery,
    identity::{check_signature, find_public_key, is_same_key},
    query::QueriedKeys,
};
use crate::{
    protocol::signing::{find_signature, list_signature_key_ids},
    storage::{self, StorageError, cross_signing::StoredSignature, device_lists},
};

/// How long another server may take to tell the master key that is signed.
const REMOTE_TIMEOUT: Duration = Duration::from_secs(10);

/// Users, and of each the signed devices and keys by name.
pub type SignaturesUpload = BTreeMap<OwnedUserId, BTreeMap<String, Map<String, Value>>>;

/// Why one signature was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFailure {
    #[error("there is no such device or key")]
    NotFound,
    #[error("the signed key is not the one that is known here")]
    KeyDiffers,
    #[error("the signature is missing, wrong, or by a key that may not sign this")]
    Invalid,
}

/// By user and name.
pub type SignatureFailures = BTreeMap<OwnedUserId, BTreeMap<String, SignatureFailure>>;

impl Encryption {
    /// Stores signatures by `signer`; returns those that failed.
    pub async fn upload_signatures(
        &self,
        signer: &UserId,
        upload: SignaturesUpload,
    ) -> Result<SignatureFailures, StorageError> {
        let users: KeysQuery = upload.keys().map(|user| (user.clone(), Vec::new())).collect();
        let mut known = self.query_keys(signer, users, REMOTE_TIMEOUT).await?;
        if !upload.contains_key(signer) {
            // The user-signing key has to be known.
            let own = KeysQuery::from([(signer.to_owned(), Vec::new())]);
            let own = self.query_keys(signer, own, REMOTE_TIMEOUT).await?;
            known.user_signing_keys.extend(own.user_signing_keys);
        }
        let mut failures = SignatureFailures::new();
        let mut valid = Vec::new();
        for (user, keys) in upload {
            for (name, signed) in keys {
                match check_signed(&known, signer, (&user, &name), &signed) {
                    Ok(rows) => valid.extend(rows),
                    Err(failure) => {
                        failures.entry(user.clone()).or_default().insert(name, failure);
                    }
                }
            }
        }
        self.save_signatures(signer, valid).await?;
        Ok(failures)
    }

    /// Everybody learns of signatures on own devices and keys; of others only the signer.
    async fn save_signatures(
        &self,
        signer: &UserId,
        rows: Vec<StoredSignature>,
    ) -> Result<(), StorageError> {
        if rows.is_empty() {
            return Ok(());
        }
        let audience = self.0.lists.audience(signer).await?;
        let (encryption, signer) = (self.clone(), signer.to_owned());
        let saved = self.0.rooms.writer().transact(move |tx| {
            Box::pin(async move {
                let (mut own, mut others) = (Vec::new(), Vec::new());
                let position = tx.next_position();
                for row in rows {
                    if !storage::cross_signing::save_signature(tx, &row, position).await? {
                        continue;
                    }
                    match row.target_user == signer.as_str() {
                        true => own.push(row.target_key),
                        false => others.push(row.target_user),
                    }
                }
                for key in own {
                    let is_device = storage::devices::exists_in(tx, signer.as_str(), &key).await?;
                    let device = if is_device { key.as_str() } else { "" };
                    let position = device_lists::note_change(tx, signer.as_str(), device).await?;
                    encryption.0.lists.announce_in(tx, &signer, position, audience.clone());
                }
                encryption.0.lists.announce_signed(tx, &signer, position, others);
                Ok(())
            })
        });
        saved.await
    }
}

/// The signatures on a device or key that may be stored; at least one, or why there is none.
fn check_signed(
    known: &QueriedKeys,
    signer: &UserId,
    (user, name): (&UserId, &str),
    signed: &Map<String, Value>,
) -> Result<Vec<StoredSignature>, SignatureFailure> {
    let object = |keys: &Map<String, Value>| keys.get(user.as_str())?.as_object().cloned();
    let master = object(&known.master_keys);
    let is_master = master.as_ref().and_then(find_public_key) == Some(name);
    let device = || object(&known.device_keys)?.get(name)?.as_object().cloned();
    let (target, signers) = if is_master {
        (
            master,
            if user == signer { own_devices(known, signer) } else { user_signing(known, signer) },
        )
    } else if user == signer {
        (device(), self_signing(known, signer))
    } else {
        (None, Vec::new())
    };
    let target = target.ok_or(SignatureFailure::NotFound)?;
    if !is_same_key(&target, signed) {
        return Err(SignatureFailure::KeyDiffers);
    }
    let mut rows = Vec::new();
    for key_id in list_signature_key_ids(signed, signer.as_str()) {
        let signature = find_signature(signed, signer.as_str(), key_id).unwrap_or_default();
        if find_signature(&target, signer.as_str(), key_id) == Some(signature) {
            // Clients send along what the key had already; that is no error.
            rows.push(None);
            continue;
        }
        let public = signers.iter().find(|(id, _)| id == key_id);
        let (_, public) = public.ok_or(SignatureFailure::Invalid)?;
        check_signature(signed, signer.as_str(), (key_id, public))
            .map_err(|_| SignatureFailure::Invalid)?;
        rows.push(Some(StoredSignature {
            target_user: user.to_string(),
            target_key: name.to_owned(),
            signer_user: signer.to_string(),
            signer_key: key_id.trim_start_matches("ed25519:").to_owned(),
            signature: signature.to_owned(),
        }));
    }
    if rows.is_empty() {
        return Err(SignatureFailure::Invalid);
    }
    Ok(rows.into_iter().flatten().collect())
}

/// Keys that may sign, as pairs of key ID and public key.
type Signers = Vec<(String, String)>;

fn own_devices(known: &QueriedKeys, signer: &UserId) -> Signers {
    let devices = known.device_keys.get(signer.as_str()).and_then(Value::as_object);
    let keys = devices.into_iter().flatten().filter_map(|(device, keys)| {
        let key_id = format!("ed25519:{device}");
        let public = keys.get("keys")?.get(&key_id)?.as_str()?.to_owned();
        Some((key_id, public))
    });
    keys.collect()
}

fn self_signing(known: &QueriedKeys, signer: &UserId) -> Signers {
    named_by_itself(known.self_signing_keys.get(signer.as_str()))
}

fn user_signing(known: &QueriedKeys, signer: &UserId) -> Signers {
    named_by_itself(known.user_signing_keys.get(signer.as_str()))
}

fn named_by_itself(key: Option<&Value>) -> Signers {
    let public = key.and_then(Value::as_object).and_then(find_public_key);
    public.map(|public| (format!("ed25519:{public}"), public.to_owned())).into_iter().collect()
}
