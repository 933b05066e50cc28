//! The two hashes of an event: of its content, and of its essentials (its identity from version 3 on).
//!
//! Source: specification, server-server API, "Calculating the content hash for an event" and
//! "Calculating the reference hash for an event".

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{
    canonical_json,
    redaction::redact,
    room_version::{EventIdFormat, RoomRules},
    signing::UNPADDED_BASE64,
};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

pub fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// The hash of everything in `event` but its hashes, signatures and unsigned data.
pub fn content_hash(event: &Map<String, Value>) -> Hash {
    sha256(canonical_json::encode_without(event, &["hashes", "signatures", "unsigned"]).as_bytes())
}

/// The hash of what a redaction leaves of `event`, without its signatures.
pub fn reference_hash(rules: &RoomRules, event: &Map<String, Value>) -> Hash {
    let redacted = redact(rules, event);
    sha256(canonical_json::encode_without(&redacted, &["signatures", "unsigned"]).as_bytes())
}

/// Whether `event` states the content hash that it has. If not, only its redacted form may be used
/// ("Checks performed on receipt of a PDU", 3).
pub fn has_valid_content_hash(event: &Map<String, Value>) -> bool {
    let stated =
        event.get("hashes").and_then(|hashes| hashes.get("sha256")).and_then(Value::as_str);
    let Some(stated) = stated.and_then(|text| UNPADDED_BASE64.decode(text).ok()) else {
        return false;
    };
    stated == content_hash(event)
}

/// The event ID that `reference_hash` gives, or `None` in versions 1 and 2, where an event carries its ID.
pub fn event_id_of_hash(rules: &RoomRules, reference_hash: &Hash) -> Option<String> {
    match rules.event_id_format {
        EventIdFormat::Opaque => None,
        EventIdFormat::Base64 => Some(format!("${}", UNPADDED_BASE64.encode(reference_hash))),
        EventIdFormat::UrlSafeBase64 => {
            Some(format!("${}", URL_SAFE_NO_PAD.encode(reference_hash)))
        }
    }
}
