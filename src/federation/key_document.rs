//! The document in which a server publishes its keys (server-server API, "Publishing Keys"):
//! reading and checking that of others, writing our own.

use ruma::ServerName;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    protocol::{
        canonical_json,
        signing::{SigningKey, VerifyKey, list_signature_key_ids, verify_json},
    },
    storage::{own_keys::OldKeyRow, server_keys::ServerKeyRow},
};

/// "Servers MUST use the lesser of this field and 7 days into the future."
const VALIDITY_MS_MAX: i64 = 7 * 24 * 60 * 60 * 1000;
/// For how long our own answers are valid.
const OWN_VALIDITY_MS: u64 = 24 * 60 * 60 * 1000;
/// Keys of one server; honest ones have a handful, from decades.
const KEYS_MAX: usize = 256;
/// The longest key ID.
const KEY_ID_BYTES_MAX: usize = 255;

/// What a document says, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDocument {
    pub keys: Vec<ServerKeyRow>,
    /// As the server says, at most seven days from now.
    pub valid_until_ts: i64,
}

/// Why a document says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyDocumentError {
    #[error("it is of another shape: {0}")]
    Malformed(String),
    #[error("it is of another server")]
    OtherServer,
    #[error("it is not signed with one of its keys")]
    Unsigned,
}

#[derive(Deserialize)]
struct Read {
    server_name: String,
    valid_until_ts: i64,
    verify_keys: Map<String, Value>,
    #[serde(default)]
    old_verify_keys: Map<String, Value>,
}

impl KeyDocument {
    /// Checks that the document is of `server` and signed with one of the keys that it names as
    /// current; signatures that do not match make all of it worthless.
    pub fn check(
        document: &Map<String, Value>,
        server: &ServerName,
        now_ms: u64,
    ) -> Result<Self, KeyDocumentError> {
        let read: Read = serde_json::from_value(Value::Object(document.clone()))
            .map_err(|error| KeyDocumentError::Malformed(error.to_string()))?;
        if read.server_name != server.as_str() {
            return Err(KeyDocumentError::OtherServer);
        }
        let mut is_signed = false;
        for key_id in list_signature_key_ids(document, server.as_str()).take(KEYS_MAX) {
            let Some(key) = read.verify_keys.get(key_id).and_then(public_key) else { continue };
            let key = VerifyKey::from_base64(key).map_err(|_| KeyDocumentError::Unsigned)?;
            verify_json(document, server.as_str(), key_id, &key)
                .map_err(|_| KeyDocumentError::Unsigned)?;
            is_signed = true;
        }
        if !is_signed {
            return Err(KeyDocumentError::Unsigned);
        }
        let valid_until_ts = read.valid_until_ts.min(now_ms.cast_signed() + VALIDITY_MS_MAX);
        let current = read.verify_keys.iter().map(|(id, key)| (id, key, None));
        let old = read.old_verify_keys.iter().filter_map(|(id, key)| {
            // A key in use is no old one, whatever else is said.
            let is_old = !read.verify_keys.contains_key(id);
            Some((id, key, Some(key.get("expired_ts")?.as_i64()?))).filter(|_| is_old)
        });
        let keys = current.chain(old).filter_map(|(key_id, key, expired_ts)| {
            let public_key = public_key(key)?;
            VerifyKey::from_base64(public_key).ok()?;
            let is_known = key_id.starts_with("ed25519:") && key_id.len() <= KEY_ID_BYTES_MAX;
            is_known.then(|| ServerKeyRow {
                key_id: key_id.clone(),
                public_key: public_key.to_owned(),
                valid_until_ts,
                expired_ts,
            })
        });
        Ok(Self { keys: keys.take(KEYS_MAX).collect(), valid_until_ts })
    }
}

/// Our own document, valid for a day from now.
pub fn write_own_document(
    server: &ServerName,
    key: &SigningKey,
    old_keys: &[OldKeyRow],
    now_ms: u64,
) -> Map<String, Value> {
    let old = old_keys.iter().map(|old| {
        let value = json!({ "key": old.public_key, "expired_ts": old.expired_ts });
        (old.key_id.clone(), value)
    });
    let document = json!({
        "server_name": server,
        "valid_until_ts": now_ms + OWN_VALIDITY_MS,
        "verify_keys": { key.key_id(): { "key": key.public_key_base64() } },
        "old_verify_keys": old.collect::<Map<String, Value>>(),
    });
    let Value::Object(mut document) = document else { return Map::new() };
    key.sign_json(&mut document, server.as_str());
    document
}

/// The canonical text of a document.
pub fn to_text(document: Map<String, Value>) -> String {
    canonical_json::encode(&Value::Object(document))
}

fn public_key(key: &Value) -> Option<&str> {
    key.get("key")?.as_str()
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn own() -> Map<String, Value> {
        let key = SigningKey::from_seed("k1", &[7; 32]).unwrap();
        let old = OldKeyRow {
            key_id: "ed25519:k0".to_owned(),
            public_key: SigningKey::from_seed("k0", &[8; 32]).unwrap().public_key_base64(),
            expired_ts: 5,
        };
        write_own_document(server_name!("a.example"), &key, &[old], NOW_MS)
    }

    #[test]
    fn our_document_is_understood() {
        let read = KeyDocument::check(&own(), server_name!("a.example"), NOW_MS).unwrap();
        assert_eq!(read.valid_until_ts, (NOW_MS + OWN_VALIDITY_MS).cast_signed());
        let keys: Vec<_> = read.keys.iter().map(|k| (k.key_id.as_str(), k.expired_ts)).collect();
        assert_eq!(keys, [("ed25519:k1", None), ("ed25519:k0", Some(5))]);
    }

    #[test]
    fn documents_that_prove_nothing_are_refused() {
        let other = KeyDocument::check(&own(), server_name!("b.example"), NOW_MS);
        assert_eq!(other, Err(KeyDocumentError::OtherServer));
        let mut changed = own();
        changed.insert("valid_until_ts".to_owned(), 1.into());
        let changed = KeyDocument::check(&changed, server_name!("a.example"), NOW_MS);
        assert_eq!(changed, Err(KeyDocumentError::Unsigned));
        let mut unsigned = own();
        unsigned.remove("signatures");
        let unsigned = KeyDocument::check(&unsigned, server_name!("a.example"), NOW_MS);
        assert_eq!(unsigned, Err(KeyDocumentError::Unsigned));
    }

    #[test]
    fn nobody_is_believed_for_more_than_a_week() {
        let key = SigningKey::from_seed("k1", &[7; 32]).unwrap();
        let far = NOW_MS * 2;
        let document = write_own_document(server_name!("a.example"), &key, &[], far);
        let read = KeyDocument::check(&document, server_name!("a.example"), NOW_MS).unwrap();
        assert_eq!(read.valid_until_ts, NOW_MS.cast_signed() + VALIDITY_MS_MAX);
    }
}
