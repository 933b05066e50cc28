//! Checks of keys that owners sign: identity keys of devices, cross-signing keys. Pure. Clients check
//! all of it again; a server only keeps out what can never be right.

use serde_json::{Map, Value};

use crate::protocol::signing::{SignatureError, VerifyKey, verify_json};

/// Why a key cannot be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("{0}")]
    BadShape(&'static str),
    #[error("the keys are not those of the device that uploads them")]
    WrongOwner,
    #[error("the signature of {signer} is missing or wrong")]
    BadSignature { signer: String },
}

/// Reads a JSON object.
pub fn parse_object(json: &str) -> Result<Map<String, Value>, IdentityError> {
    serde_json::from_str(json).map_err(|_| IdentityError::BadShape("a key is not an object"))
}

/// Checks identity keys (client-server API, "Device keys"): that they name their owner and are as
/// specified. Whether the device signed them, who uses them has to check, and nobody but their owner is
/// harmed when it did not.
pub fn check_device_keys(
    keys: &Map<String, Value>,
    (user, device): (&str, &str),
) -> Result<(), IdentityError> {
    if text(keys, "user_id") != Some(user) || text(keys, "device_id") != Some(device) {
        return Err(IdentityError::WrongOwner);
    }
    if !keys.get("algorithms").is_some_and(Value::is_array) {
        return Err(IdentityError::BadShape("`algorithms` is not a list"));
    }
    let Some(public) = keys.get("keys").and_then(Value::as_object) else {
        return Err(IdentityError::BadShape("`keys` is not an object"));
    };
    if public.values().any(|key| !key.is_string()) {
        return Err(IdentityError::BadShape("a key is not a text"));
    }
    if !keys.get("signatures").is_some_and(Value::is_object) {
        return Err(IdentityError::BadShape("`signatures` is not an object"));
    }
    Ok(())
}

/// The public part of a cross-signing key (definitions/cross_signing_key.yaml), checked to be of
/// this user and for this usage.
pub fn check_cross_signing_key<'a>(
    key: &'a Map<String, Value>,
    user: &str,
    usage: &str,
) -> Result<&'a str, IdentityError> {
    if text(key, "user_id") != Some(user) {
        return Err(IdentityError::WrongOwner);
    }
    let usages = key.get("usage").and_then(Value::as_array);
    if !usages.is_some_and(|usages| usages.iter().any(|known| known == usage)) {
        return Err(IdentityError::BadShape("`usage` does not name what the key is for"));
    }
    find_public_key(key).ok_or(IdentityError::BadShape("`keys` must hold exactly one ed25519 key"))
}

/// The only public key of a cross-signing key, which is named by itself.
pub fn find_public_key(key: &Map<String, Value>) -> Option<&str> {
    let keys = key.get("keys")?.as_object().filter(|keys| keys.len() == 1)?;
    let (key_id, public) = keys.iter().next()?;
    let public = public.as_str()?;
    (key_id.strip_prefix("ed25519:") == Some(public)).then_some(public)
}

/// Checks that `user` signed the object with a key, given by ID and public part.
pub fn check_signature(
    object: &Map<String, Value>,
    user: &str,
    (key_id, public): (&str, &str),
) -> Result<(), IdentityError> {
    let bad = || IdentityError::BadSignature { signer: format!("{user} {key_id}") };
    let key = VerifyKey::from_base64(public).map_err(|_| bad())?;
    let verified = verify_json(object, user, key_id, &key);
    verified.map_err(|_: SignatureError| bad())
}

/// Whether two keys are the same but for what no signature covers.
pub fn is_same_key(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    let covered = |key: &Map<String, Value>| {
        let mut key = key.clone();
        key.remove("signatures");
        key.remove("unsigned");
        key
    };
    covered(one) == covered(other)
}

/// A field that is a text.
pub fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    object.get(field)?.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::signing::SigningKey;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn device_keys_must_name_their_device() {
        let keys = object(json!({
            "user_id": "@a:b", "device_id": "PHONE", "algorithms": ["m.olm"],
            "keys": { "ed25519:PHONE": "x" }, "signatures": {},
        }));
        assert_eq!(check_device_keys(&keys, ("@a:b", "PHONE")), Ok(()));
        let other = check_device_keys(&keys, ("@a:b", "LAPTOP"));
        assert_eq!(other, Err(IdentityError::WrongOwner));
    }

    #[test]
    fn signatures_are_checked_with_the_key_of_the_signer() {
        let key = SigningKey::from_seed("PHONE", &[7; 32]).unwrap();
        let public = key.public_key_base64();
        let mut signed = object(json!({ "a": 1 }));
        key.sign_json(&mut signed, "@a:b");
        assert_eq!(check_signature(&signed, "@a:b", ("ed25519:PHONE", &public)), Ok(()));
        signed["a"] = json!(2);
        assert!(check_signature(&signed, "@a:b", ("ed25519:PHONE", &public)).is_err());
    }

    #[test]
    fn cross_signing_keys_have_one_key_that_names_itself() {
        let key = |keys: Value| object(json!({ "user_id": "@a:b", "usage": ["m"], "keys": keys }));
        let check = |keys| check_cross_signing_key(&key(keys), "@a:b", "m").map(str::to_owned);
        assert_eq!(check(json!({ "ed25519:x": "x" })), Ok("x".to_owned()));
        assert!(check(json!({ "ed25519:x": "y" })).is_err());
        assert!(check(json!({ "ed25519:x": "x", "ed25519:y": "y" })).is_err());
    }
}
