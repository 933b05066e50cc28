//! Signing of JSON and the key file: the vectors of the appendices.

use base64::Engine as _;
use hearth::protocol::{
    event_builder::seal_object,
    event_hash,
    room_version::RoomVersion,
    signing::{
        KeyError, SignatureError, SigningKey, UNPADDED_BASE64, VerifyKey, find_signature,
        verify_json,
    },
};
use ruma::ServerName;
use serde_json::{Map, Value, json};

fn vector_key() -> SigningKey {
    let seed = UNPADDED_BASE64.decode("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").unwrap();
    SigningKey::from_seed("1", &seed.try_into().unwrap()).unwrap()
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn unpadded_base64_vectors_hold() {
    let vectors = [
        ("", ""),
        ("f", "Zg"),
        ("fo", "Zm8"),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg"),
        ("fooba", "Zm9vYmE"),
        ("foobar", "Zm9vYmFy"),
    ];
    for (text, encoded) in vectors {
        assert_eq!(UNPADDED_BASE64.encode(text), encoded);
        assert_eq!(UNPADDED_BASE64.decode(encoded).unwrap(), text.as_bytes());
    }
}

#[test]
fn json_signing_vectors_hold() {
    let vectors = [
        (
            json!({}),
            "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ",
        ),
        (
            json!({"one": 1, "two": "Two"}),
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
        ),
    ];
    for (value, signature) in vectors {
        let mut object = object(value);
        vector_key().sign_json(&mut object, "domain");
        assert_eq!(find_signature(&object, "domain", "ed25519:1"), Some(signature));
        object.insert("unsigned".to_owned(), json!({"age": 1}));
        let key = VerifyKey::from_base64(&vector_key().public_key_base64()).unwrap();
        assert_eq!(verify_json(&object, "domain", "ed25519:1", &key), Ok(()));
        object.insert("three".to_owned(), json!(3));
        let verdict = verify_json(&object, "domain", "ed25519:1", &key);
        assert_eq!(verdict, Err(SignatureError::Mismatch));
    }
}

#[test]
fn minimal_event_vector_holds() {
    let event = object(json!({
        "room_id": "!x:domain", "sender": "@a:domain", "origin": "domain",
        "origin_server_ts": 1000000, "signatures": {}, "hashes": {}, "type": "X", "content": {},
        "prev_events": [], "auth_events": [], "depth": 3, "unsigned": {"age_ts": 1000000},
    }));
    let domain = <&ServerName>::try_from("domain").unwrap();
    // The vector is of the time before room versions, when an event had to have an ID too.
    let sealed = seal_object(event, RoomVersion::V3.rules(), domain, &vector_key()).unwrap();
    let sealed = sealed.to_object();
    assert_eq!(sealed["hashes"]["sha256"], "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos");
    assert_eq!(
        find_signature(&sealed, "domain", "ed25519:1"),
        Some(
            "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"
        )
    );
}

#[test]
fn event_with_redactable_content_vector_holds() {
    let mut event = object(json!({
        "content": {"body": "Here is the message content"}, "event_id": "$0:domain",
        "origin": "domain", "origin_server_ts": 1000000, "type": "m.room.message",
        "room_id": "!r:domain", "sender": "@u:domain", "signatures": {},
        "unsigned": {"age_ts": 1000000},
    }));
    let hash = UNPADDED_BASE64.encode(event_hash::content_hash(&event));
    assert_eq!(hash, "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g");
    event.insert("hashes".to_owned(), json!({"sha256": hash}));
    assert!(event_hash::has_valid_content_hash(&event));
    let mut redacted = hearth::protocol::redaction::redact(RoomVersion::V1.rules(), &event);
    vector_key().sign_json(&mut redacted, "domain");
    assert_eq!(
        find_signature(&redacted, "domain", "ed25519:1"),
        Some(
            "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"
        )
    );
}

#[test]
fn key_file_survives_a_round_trip() {
    let text = "ed25519 a_AbCd YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0\n";
    let key = SigningKey::parse_key_file(text).unwrap();
    assert_eq!(key.key_id(), "ed25519:a_AbCd");
    assert_eq!(key.format_key_file(), text);
    assert!(!format!("{key:?}").contains("YJDB"), "the seed must not be printed");
}

#[test]
fn broken_key_files_are_explained() {
    let seed = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0";
    let cases = [
        (String::new(), KeyError::BadKeyLine),
        ("ed25519 a".to_owned(), KeyError::BadKeyLine),
        (format!("ed25519 a {seed} more"), KeyError::BadKeyLine),
        (format!("rsa a {seed}"), KeyError::UnknownAlgorithm),
        (format!("ed25519 a-b {seed}"), KeyError::BadKeyName),
        ("ed25519 a YJDB".to_owned(), KeyError::BadKeyBytes),
        ("ed25519 a !!!!".to_owned(), KeyError::BadKeyBytes),
    ];
    for (text, expected) in cases {
        assert_eq!(SigningKey::parse_key_file(&text).unwrap_err(), expected, "{text}");
    }
}
