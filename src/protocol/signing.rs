//! Signing of JSON with ed25519, and the text format of the key file.
//!
//! Not for deciding whose signature an event needs (see `event_signatures`), nor for fetching keys.
//! Source: specification, appendices, "Signing JSON".

use std::fmt;

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig},
    },
};
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use serde_json::{Map, Value};

use super::canonical_json;

/// Length of a seed and of a public key in bytes.
pub const KEY_BYTES: usize = 32;

/// Unpadded Base64 for what we write; padding and stray trailing bits are tolerated in what we read
/// (appendices, "Unpadded Base64").
pub const UNPADDED_BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The keys of an object that its signature does not cover (appendices, "Signing details").
const UNSIGNED_KEYS: [&str; 2] = ["signatures", "unsigned"];

/// A private key with its identifier, such as `ed25519:a_AbCd`.
#[derive(Clone)]
pub struct SigningKey {
    key: ed25519_dalek::SigningKey,
    key_id: Box<str>,
}

/// A public key that a server, or an identity server, has published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyKey(VerifyingKey);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the key is not ed25519")]
    UnknownAlgorithm,
    #[error("the key's name may only contain letters, digits and underscores")]
    BadKeyName,
    #[error("the key is not Base64 of {KEY_BYTES} bytes")]
    BadKeyBytes,
    #[error("expected a line with algorithm, name and Base64 seed, such as `ed25519 a_xyz …`")]
    BadKeyLine,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("there is no signature of {server} with key {key_id}")]
    Missing { server: String, key_id: String },
    #[error("the signature is not Base64 of 64 bytes")]
    Malformed,
    #[error("the signature does not match")]
    Mismatch,
}

impl SigningKey {
    /// A key from its seed. `name` is the part of the identifier after `ed25519:`.
    pub fn from_seed(name: &str, seed: &[u8; KEY_BYTES]) -> Result<Self, KeyError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(allowed) {
            return Err(KeyError::BadKeyName);
        }
        let key = ed25519_dalek::SigningKey::from_bytes(seed);
        Ok(Self { key, key_id: format!("ed25519:{name}").into() })
    }

    /// Reads the first key of a key file: lines of `ed25519 NAME BASE64-SEED`, the format that other
    /// homeservers use too. Empty lines are skipped.
    pub fn parse_key_file(text: &str) -> Result<Self, KeyError> {
        let line = text.lines().find(|line| !line.trim().is_empty()).ok_or(KeyError::BadKeyLine)?;
        let mut words = line.split_whitespace();
        let (Some(algorithm), Some(name), Some(seed), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(KeyError::BadKeyLine);
        };
        if algorithm != "ed25519" {
            return Err(KeyError::UnknownAlgorithm);
        }
        Self::from_seed(name, &decode_key_bytes(seed)?)
    }

    /// The key as the content of a key file, with its secret seed.
    pub fn format_key_file(&self) -> String {
        let seed = UNPADDED_BASE64.encode(self.key.to_bytes());
        format!("ed25519 {} {seed}\n", self.name())
    }

    /// `ed25519:NAME`.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    pub fn public_key_base64(&self) -> String {
        UNPADDED_BASE64.encode(self.key.verifying_key().as_bytes())
    }

    pub fn verify_key(&self) -> VerifyKey {
        VerifyKey(self.key.verifying_key())
    }

    /// The signature of `message` in unpadded Base64.
    pub fn sign(&self, message: &[u8]) -> String {
        UNPADDED_BASE64.encode(self.key.sign(message).to_bytes())
    }

    /// Signs `object` in the name of `server` and adds the signature to it.
    pub fn sign_json(&self, object: &mut Map<String, Value>, server: &str) {
        let message = canonical_json::encode_without(object, &UNSIGNED_KEYS);
        add_signature(object, server, &self.key_id, self.sign(message.as_bytes()));
    }

    fn name(&self) -> &str {
        self.key_id.trim_start_matches("ed25519:")
    }
}

impl fmt::Debug for SigningKey {
    /// Shows the identifier only: the seed must never reach a log.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SigningKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl VerifyKey {
    /// Reads a key in Base64, standard or URL-safe (identity servers may use either).
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        let standard = text.replace('-', "+").replace('_', "/");
        let bytes = decode_key_bytes(&standard)?;
        VerifyingKey::from_bytes(&bytes).map(Self).map_err(|_| KeyError::BadKeyBytes)
    }

    pub fn to_base64(&self) -> String {
        UNPADDED_BASE64.encode(self.0.as_bytes())
    }

    /// Checks `signature` (Base64) of `message`. Weak keys and malleable signatures are refused, as
    /// libsodium refuses them.
    pub fn verify(&self, message: &[u8], signature: &str) -> Result<(), SignatureError> {
        let signature = decode_signature(signature)?;
        self.0.verify_strict(message, &signature).map_err(|_| SignatureError::Mismatch)
    }
}

/// Checks the signature of `object` that `server` made with the key called `key_id`.
pub fn verify_json(
    object: &Map<String, Value>,
    server: &str,
    key_id: &str,
    key: &VerifyKey,
) -> Result<(), SignatureError> {
    let signature = find_signature(object, server, key_id).ok_or_else(|| {
        SignatureError::Missing { server: server.to_owned(), key_id: key_id.to_owned() }
    })?;
    key.verify(signed_bytes(object).as_bytes(), signature)
}

/// The canonical encoding that a signature of `object` covers.
pub fn signed_bytes(object: &Map<String, Value>) -> String {
    canonical_json::encode_without(object, &UNSIGNED_KEYS)
}

/// The identifiers of the ed25519 keys with which `server` has signed `object`; unknown algorithms are
/// left out (appendices, "Checking for a signature", step 2).
pub fn list_signature_key_ids<'a>(
    object: &'a Map<String, Value>,
    server: &str,
) -> impl Iterator<Item = &'a str> {
    object
        .get("signatures")
        .and_then(|signatures| signatures.get(server))
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::keys)
        .map(String::as_str)
        .filter(|key_id| key_id.starts_with("ed25519:"))
}

/// The signature (Base64) of `server` with `key_id` on `object`.
pub fn find_signature<'a>(
    object: &'a Map<String, Value>,
    server: &str,
    key_id: &str,
) -> Option<&'a str> {
    object.get("signatures")?.get(server)?.get(key_id)?.as_str()
}

/// Adds a signature to `object`, beside those it has.
pub fn add_signature(
    object: &mut Map<String, Value>,
    server: &str,
    key_id: &str,
    signature: String,
) {
    let signatures = child_object(object, "signatures");
    child_object(signatures, server).insert(key_id.to_owned(), Value::String(signature));
}

/// The object at `key`, created if it is missing and replaced if it is something else.
fn child_object<'a>(object: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let child = object.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if !child.is_object() {
        *child = Value::Object(Map::new());
    }
    child.as_object_mut().expect("made an object just above")
}

fn decode_key_bytes(text: &str) -> Result<[u8; KEY_BYTES], KeyError> {
    let bytes = UNPADDED_BASE64.decode(text).map_err(|_| KeyError::BadKeyBytes)?;
    bytes.try_into().map_err(|_| KeyError::BadKeyBytes)
}

fn decode_signature(text: &str) -> Result<Signature, SignatureError> {
    let bytes = UNPADDED_BASE64.decode(text).map_err(|_| SignatureError::Malformed)?;
    Signature::from_slice(&bytes).map_err(|_| SignatureError::Malformed)
}
