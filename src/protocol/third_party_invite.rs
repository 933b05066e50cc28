//! Invitations by e-mail address or telephone number: the signature of the identity server.
//!
//! Source: server-server API, "Verifying the invite"; auth rule 4.3.1.7 ("any signature in `signed` matches
//! any public key").

use serde_json::{Map, Value};

use super::{
    event::Event,
    signing::{VerifyKey, signed_bytes},
};

/// The most public keys of one invitation that are tried, and the most signatures: an honest event has one
/// or two of each, and every pair costs a verification.
const KEYS_MAX: usize = 16;
const SIGNATURES_MAX: usize = 16;

/// Whether any signature in `signed` (of an `m.room.member` event's `third_party_invite`) was made with
/// any public key that `invite`, the room's `m.room.third_party_invite` event, names.
pub fn is_signed_by_inviter(signed: &Map<String, Value>, invite: &Event) -> bool {
    let keys = list_public_keys(invite);
    let message = signed_bytes(signed);
    let mut signatures = list_signatures(signed);
    signatures
        .any(|signature| keys.iter().any(|key| key.verify(message.as_bytes(), signature).is_ok()))
}

/// A key of an identity server, as the room names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InviteSigner {
    pub public_key: String,
    /// Where its validity can be asked for; "if not present, the key must be considered valid
    /// indefinitely".
    pub key_validity_url: Option<String>,
}

/// The key of `invite` with which one of the signatures in `signed` was made.
pub fn find_signer(signed: &Map<String, Value>, invite: &Event) -> Option<InviteSigner> {
    let content: Map<String, Value> = invite.content_as().unwrap_or_default();
    let several = content.get("public_keys").and_then(Value::as_array).into_iter().flatten();
    let single = content.get("public_key").map(|_| &content);
    let entries = several.filter_map(Value::as_object).chain(single).take(KEYS_MAX);
    let message = signed_bytes(signed);
    let text = |entry: &Map<String, Value>, name: &str| {
        entry.get(name).and_then(Value::as_str).map(str::to_owned)
    };
    for entry in entries {
        let Some(public_key) = text(entry, "public_key") else { continue };
        let Ok(key) = VerifyKey::from_base64(&public_key) else { continue };
        let mut signatures = list_signatures(signed);
        if signatures.any(|signature| key.verify(message.as_bytes(), signature).is_ok()) {
            let key_validity_url = text(entry, "key_validity_url");
            return Some(InviteSigner { public_key, key_validity_url });
        }
    }
    None
}

/// The public keys that an `m.room.third_party_invite` event names, malformed ones left out.
pub fn list_public_keys(invite: &Event) -> Vec<VerifyKey> {
    let content: Map<String, Value> = invite.content_as().unwrap_or_default();
    let single = content.get("public_key");
    let several = content.get("public_keys").and_then(Value::as_array);
    let several = several.into_iter().flatten().filter_map(|entry| entry.get("public_key"));
    let texts = single.into_iter().chain(several).filter_map(Value::as_str);
    texts.take(KEYS_MAX).filter_map(|text| VerifyKey::from_base64(text).ok()).collect()
}

fn list_signatures(signed: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let servers = signed.get("signatures").and_then(Value::as_object);
    let by_server = servers.into_iter().flat_map(Map::values).filter_map(Value::as_object);
    by_server
        .flatten()
        .filter(|(key_id, _)| key_id.starts_with("ed25519:"))
        .filter_map(|(_, signature)| signature.as_str())
        .take(SIGNATURES_MAX)
}
