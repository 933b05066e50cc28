//! Events: made, read back, and compared with an independent implementation of hashing and signing.

use std::collections::BTreeMap;

use hearth::protocol::{
    canonical_json,
    event::Event,
    event_builder::{EventDraft, OpaqueNames, SealError},
    event_hash,
    redaction::{redact, redact_event},
    room_version::RoomVersion,
    signing::SigningKey,
};
use ruma::{
    CanonicalJsonObject, EventId, OwnedEventId, RoomId, RoomVersionId, ServerName, UserId,
    signatures::{PublicKeySet, Verified, verify_event},
};
use serde_json::{Value, json};

fn key() -> SigningKey {
    SigningKey::from_seed("test", &[7; 32]).unwrap()
}

fn server() -> &'static ServerName {
    "example.org".try_into().unwrap()
}

fn id(version: RoomVersion, name: &str) -> OwnedEventId {
    if version.rules().has_event_id_field() {
        EventId::parse(format!("${name}:example.org")).unwrap()
    } else {
        EventId::parse(format!("${name:_<43}")).unwrap()
    }
}

fn draft(version: RoomVersion, kind: &str, state_key: Option<&str>, content: Value) -> EventDraft {
    let implied = version.rules().room_id_is_create_hash;
    let links = [id(version, "one"), id(version, "two")];
    EventDraft {
        room_id: if implied && kind == "m.room.create" {
            None
        } else if implied {
            Some(RoomId::parse(format!("!{:_<43}", "room")).unwrap())
        } else {
            Some(RoomId::parse("!room:example.org").unwrap())
        },
        sender: UserId::parse("@alice:example.org").unwrap(),
        kind: kind.to_owned(),
        state_key: state_key.map(str::to_owned),
        content,
        prev_events: links.to_vec(),
        auth_events: links.to_vec(),
        depth: 12,
        origin_server_ts: 1_700_000_000_123,
        redacts: None,
        sticky_ms: None,
        opaque_names: version.rules().has_event_id_field().then(|| OpaqueNames {
            opaque_id: "opaque".to_owned(),
            reference_hashes: links.iter().map(|id| (id.clone(), "aGFzaA".to_owned())).collect(),
        }),
    }
}

/// Contents with something to lose in every version.
fn samples() -> Vec<(&'static str, Option<&'static str>, Value)> {
    vec![
        ("m.room.message", None, json!({"body": "Grüße \u{1}\"\\ 😀", "msgtype": "m.text"})),
        (
            "m.room.create",
            Some(""),
            json!({"creator": "@alice:example.org", "room_version": "x",
            "m.federate": true}),
        ),
        (
            "m.room.member",
            Some("@bob:example.org"),
            json!({"membership": "join",
            "displayname": "Bob", "join_authorised_via_users_server": "@alice:example.org",
            "third_party_invite": {"display_name": "b", "signed": {"token": "t"}}}),
        ),
        ("m.room.join_rules", Some(""), json!({"join_rule": "restricted", "allow": [], "x": 1})),
        (
            "m.room.power_levels",
            Some(""),
            json!({"ban": 1, "events": {"a": 1}, "events_default": 1,
            "invite": 1, "kick": 1, "redact": 1, "state_default": 1, "users": {},
            "users_default": 1, "notifications": {"room": 1}}),
        ),
        ("m.room.aliases", Some("example.org"), json!({"aliases": ["#a:example.org"], "x": 1})),
        ("m.room.history_visibility", Some(""), json!({"history_visibility": "joined", "x": 1})),
        ("m.room.redaction", None, json!({"reason": "spam"})),
        ("org.example.empty", Some("key \"quoted\" \\"), json!({})),
    ]
}

fn all_sealed() -> Vec<(RoomVersion, Event)> {
    let mut events = Vec::new();
    for version in RoomVersion::ALL {
        for (kind, state_key, content) in samples() {
            let mut draft = draft(version, kind, state_key, content);
            if kind == "m.room.redaction" {
                draft.redacts = Some(id(version, "gone"));
            }
            events.push((version, draft.seal(version.rules(), server(), &key()).unwrap()));
        }
    }
    events
}

fn ruma_rules(version: RoomVersion) -> ruma::room_version_rules::RoomVersionRules {
    RoomVersionId::try_from(version.as_str()).unwrap().rules().unwrap()
}

fn ruma_object(event: &Event) -> CanonicalJsonObject {
    serde_json::from_str(event.json()).unwrap()
}

#[test]
fn sealed_event_reads_back_as_itself() {
    for (version, event) in all_sealed() {
        let rules = version.rules();
        let read = Event::parse(event.json(), rules).unwrap();
        assert_eq!(read.json(), event.json());
        assert_eq!(read.event_id(), event.event_id());
        assert_eq!(read.room_id(), event.room_id());
        assert_eq!(read.kind(), event.kind());
        assert_eq!(read.state_key(), event.state_key());
        assert_eq!(read.sender(), "@alice:example.org");
        assert_eq!(read.content().get(), event.content_json());
        assert_eq!((read.depth(), read.origin_server_ts()), (12, 1_700_000_000_123));
        let links = vec![id(version, "one"), id(version, "two")];
        assert_eq!(read.prev_events().map(ToOwned::to_owned).collect::<Vec<_>>(), links);
        assert_eq!(read.auth_events().map(ToOwned::to_owned).collect::<Vec<_>>(), links);
        let redacts = (event.kind() == "m.room.redaction").then(|| id(version, "gone"));
        assert_eq!(read.redacts(rules), redacts);
        assert!(event_hash::has_valid_content_hash(&read.to_object()));
    }
}

#[test]
fn hashes_and_signatures_agree_with_ruma() {
    let keys = BTreeMap::from([(
        "example.org".to_owned(),
        PublicKeySet::from([(
            "ed25519:test".to_owned(),
            ruma::serde::Base64::parse(key().public_key_base64()).unwrap(),
        )]),
    )]);
    for (version, event) in all_sealed() {
        let rules = ruma_rules(version);
        let object = ruma_object(&event);
        let hash = ruma::signatures::reference_hash(&object, &rules).unwrap();
        if !version.rules().has_event_id_field() {
            assert_eq!(event.event_id(), format!("${hash}").as_str());
        }
        let verified = verify_event(&keys, &object, &rules);
        assert!(matches!(verified, Ok(Verified::All)), "{version} {event:?} {verified:?}");
    }
}

#[test]
fn redaction_agrees_with_ruma_in_every_version() {
    for (version, event) in all_sealed() {
        let mut object = event.to_object();
        for key in ["origin", "membership", "prev_state", "x", "unsigned", "redacts", "age"] {
            object.insert(key.to_owned(), json!("value"));
        }
        let ours = redact(version.rules(), &object);
        let ruma_object: CanonicalJsonObject =
            serde_json::from_value(Value::Object(object)).unwrap();
        let theirs =
            ruma::canonical_json::redact(ruma_object, &ruma_rules(version).redaction, None)
                .unwrap();
        let theirs = serde_json::to_value(theirs).unwrap();
        assert_eq!(Value::Object(ours), theirs, "version {version}");
    }
}

#[test]
fn redacted_event_keeps_its_name_and_its_signature() {
    for (version, event) in all_sealed() {
        let redacted = redact_event(&event, version.rules());
        let read = Event::parse(redacted.json(), version.rules()).unwrap();
        assert_eq!(read.event_id(), event.event_id());
        let object = read.to_object();
        let key_id = "ed25519:test";
        let verdict = hearth::protocol::signing::verify_json(
            &redact(version.rules(), &object),
            "example.org",
            key_id,
            &key().verify_key(),
        );
        assert_eq!(verdict, Ok(()));
    }
}

#[test]
fn limits_hold_for_drafts() {
    let version = RoomVersion::V11;
    let seal = |draft: EventDraft| draft.seal(version.rules(), server(), &key());
    let message = |content| draft(version, "m.room.message", None, content);
    let check = |draft: EventDraft, expected: SealError| {
        assert_eq!(seal(draft).unwrap_err(), expected);
    };
    check(message(json!([])), SealError::ContentNotAnObject);
    check(
        message(json!({"a": 1.5})),
        SealError::ContentNotCanonical(canonical_json::CanonicalJsonError::NotAnInteger),
    );
    check(message(json!({"body": "x".repeat(65_536)})), SealError::TooLarge);
    check(EventDraft { room_id: None, ..message(json!({})) }, SealError::RoomIdMissing);
    check(EventDraft { depth: -1, ..message(json!({})) }, SealError::DepthOutOfRange);
    check(
        EventDraft { kind: "x".repeat(256), ..message(json!({})) },
        SealError::FieldTooLong("type"),
    );
    check(
        EventDraft { state_key: Some("x".repeat(256)), ..message(json!({})) },
        SealError::FieldTooLong("state_key"),
    );
    let many = |count: usize| vec![id(version, "a"); count];
    check(EventDraft { prev_events: many(21), ..message(json!({})) }, SealError::TooManyPrevEvents);
    check(EventDraft { auth_events: many(11), ..message(json!({})) }, SealError::TooManyAuthEvents);
    let overhead = seal(message(json!({"body": ""}))).unwrap().json().len();
    let largest = seal(message(json!({"body": "x".repeat(65_536 - overhead)}))).unwrap();
    assert_eq!(largest.json().len(), 65_536);
    assert!(Event::parse(largest.json(), version.rules()).is_ok());
    check(message(json!({"body": "x".repeat(65_537 - overhead)})), SealError::TooLarge);
}

#[test]
fn deepest_content_that_is_sealed_can_be_read() {
    let version = RoomVersion::V12;
    let nested = |levels: usize| (0..levels).fold(json!({}), |inner, _| json!({ "a": inner }));
    let seal =
        |levels| draft(version, "x", None, nested(levels)).seal(version.rules(), server(), &key());
    let deepest = (100..140).rev().find_map(|levels| seal(levels).ok()).unwrap();
    assert!(Event::parse(deepest.json(), version.rules()).is_ok());
}

#[test]
fn weight_of_a_cached_message_is_little_more_than_its_text() {
    let version = RoomVersion::V12;
    let event = draft(version, "m.room.message", None, json!({"body": "hello"}))
        .seal(version.rules(), server(), &key())
        .unwrap();
    assert!(event.weight_bytes() < event.json().len() + 300, "{}", event.weight_bytes());
}
