//! Events as they arrive from other servers: format, required signatures, content hash.

use std::collections::BTreeSet;

use hearth::protocol::{
    canonical_json::{self, CanonicalJsonError},
    event::Event,
    event_builder::countersign,
    event_format::EventFormatError,
    event_signatures::{KeyLookup, ReceivedEvent, SignatureFailure, list_required_signers},
    policy_server::PolicyServer,
    room_version::RoomVersion,
    signing::{SignatureError, SigningKey, VerifyKey},
};
use ruma::{CanonicalJsonObject, OwnedServerName, ServerName};
use serde_json::{Map, Value, json};

use crate::{
    oracle,
    room::{ALICE, BOB, CAROL, Room},
};

/// Keys of all servers: that of the rooms in these tests, and one more.
struct Keys;

impl KeyLookup for Keys {
    fn find(&self, _server: &ServerName, key_id: &str, _at: i64) -> Option<VerifyKey> {
        match key_id {
            "ed25519:test" => Some(SigningKey::from_seed("test", &[7; 32]).unwrap().verify_key()),
            "ed25519:other" => Some(SigningKey::from_seed("other", &[8; 32]).unwrap().verify_key()),
            _ => None,
        }
    }
}

fn server(name: &str) -> OwnedServerName {
    ServerName::parse(name).unwrap()
}

fn encode(object: Map<String, Value>) -> String {
    canonical_json::encode(&Value::Object(object))
}

fn verify(version: RoomVersion, json: &str) -> Result<Event, SignatureFailure> {
    ReceivedEvent::parse(json, version.rules()).unwrap().verify(version.rules(), &Keys)
}

#[test]
fn altered_content_is_redacted_and_altered_essentials_are_refused() {
    for version in RoomVersion::ALL {
        let mut room = Room::public(version);
        let event = room.make(BOB, "m.room.message", None, json!({"body": "hello"}));
        let kept = verify(version, event.json()).unwrap();
        assert_eq!(kept.json(), event.json());

        let mut altered = event.to_object();
        altered["content"]["body"] = json!("goodbye");
        let redacted = verify(version, &encode(altered)).unwrap();
        assert_eq!(redacted.content_json(), "{}");
        assert_eq!(redacted.event_id(), event.event_id());

        let mut moved = event.to_object();
        moved["origin_server_ts"] = json!(1);
        let verdict = verify(version, &encode(moved)).unwrap_err();
        assert_eq!(verdict, SignatureFailure::Mismatch(server("b.example")));
    }
}

#[test]
fn signatures_must_be_there_known_and_all_right() {
    let version = RoomVersion::V12;
    let mut room = Room::public(version);
    let event = room.make(BOB, "m.room.message", None, json!({"body": "hello"}));
    let with = |signatures: Value| {
        let mut object = event.to_object();
        object["signatures"] = signatures;
        verify(version, &encode(object)).map(|event| event.event_id().to_owned())
    };
    let good = event.to_object()["signatures"]["b.example"]["ed25519:test"].clone();
    let bob = server("b.example");
    assert_eq!(with(json!({})), Err(SignatureFailure::Unsigned(bob.clone())));
    let other = json!({"a.example": {"ed25519:test": good}});
    assert_eq!(with(other), Err(SignatureFailure::Unsigned(bob.clone())));
    let algorithm = json!({"b.example": {"rsa:test": good}});
    assert_eq!(with(algorithm), Err(SignatureFailure::Unsigned(bob.clone())));
    let unknown = json!({"b.example": {"ed25519:unknown": good}});
    assert_eq!(with(unknown), Err(SignatureFailure::NoKnownKey(bob.clone())));
    let skipped = json!({"b.example": {"ed25519:unknown": "x", "ed25519:test": good}});
    assert_eq!(with(skipped), Ok(event.event_id().to_owned()));
    let one_wrong = json!({"b.example": {"ed25519:other": good, "ed25519:test": good}});
    assert_eq!(with(one_wrong), Err(SignatureFailure::Mismatch(bob.clone())));
    for odd in ["", "!", "AAAA"] {
        let wrong = json!({"b.example": {"ed25519:test": odd}});
        assert_eq!(with(wrong), Err(SignatureFailure::Mismatch(bob.clone())));
    }
}

#[test]
fn countersigned_event_carries_both_signatures() {
    let version = RoomVersion::V10;
    let mut room = Room::public(version);
    let content = json!({"membership": "join", "join_authorised_via_users_server": ALICE});
    let event = room.make(CAROL, "m.room.member", Some(CAROL), content);
    let verdict = verify(version, event.json()).unwrap_err();
    assert_eq!(verdict, SignatureFailure::Unsigned(server("a.example")));
    let key = SigningKey::from_seed("other", &[8; 32]).unwrap();
    let both = countersign(&event, version.rules(), &server("a.example"), &key).unwrap();
    assert_eq!(verify(version, both.json()).unwrap().event_id(), event.event_id());
}

#[test]
fn required_signers_agree_with_ruma() {
    for version in RoomVersion::ALL {
        let mut room = Room::public(version);
        let contents = [
            json!({"membership": "join"}),
            json!({"membership": "join", "join_authorised_via_users_server": ALICE}),
            json!({"membership": "leave", "join_authorised_via_users_server": ALICE}),
            json!({"membership": "join", "join_authorised_via_users_server": CAROL}),
            json!({"membership": "invite", "third_party_invite": {"signed": {}}}),
            json!({"membership": "join", "third_party_invite": {"signed": {}}}),
        ];
        for content in contents {
            let event = room.make(CAROL, "m.room.member", Some(CAROL), content.clone());
            let object: CanonicalJsonObject = serde_json::from_str(event.json()).unwrap();
            let rules = oracle::rules(version);
            let theirs = ruma::signatures::required_server_signatures_to_verify_event(
                &object,
                &rules.signatures,
            );
            let ours: BTreeSet<_> =
                list_required_signers(&event, version.rules()).into_iter().collect();
            assert_eq!(ours, theirs.unwrap(), "{version} {content}");
        }
    }
}

#[test]
fn policy_server_recommends_by_its_signature() {
    for version in RoomVersion::ALL {
        let rules = version.rules();
        let key = SigningKey::from_seed("policy_server", &[3; 32]).unwrap();
        let mut room = Room::public(version);
        let content =
            json!({"via": "p.example", "public_keys": {"ed25519": key.public_key_base64()}});
        let policy = room.make(ALICE, "m.room.policy", Some(""), content);
        let server = PolicyServer::of_state(&policy).unwrap();
        assert_eq!(server.check(&policy, rules), Ok(()), "it is not asked about itself");
        let event = room.make(BOB, "m.room.message", None, json!({"body": "hello"}));
        assert!(matches!(server.check(&event, rules), Err(SignatureError::Missing { .. })));

        let signed = countersign(&event, rules, &server.via, &key).unwrap();
        let answer = signed.to_object()["signatures"].as_object().unwrap().clone();
        let recommended = server.add_signature(&event, &answer, rules).unwrap();
        assert_eq!(recommended.json(), signed.json());
        assert_eq!(server.check(&recommended, rules), Ok(()));
        assert_eq!(verify(version, recommended.json()).unwrap().event_id(), event.event_id());
        assert!(server.add_signature(&event, &Map::new(), rules).is_err());
        for malformed in [json!({"via": "p.example"}), json!({"via": 1, "public_keys": {}})] {
            let policy = room.make(ALICE, "m.room.policy", Some(""), malformed);
            assert_eq!(PolicyServer::of_state(&policy), None);
        }
    }
}

/// What [`Event::parse`] says about a good event of `version` with `alter` done to it.
fn altered(
    version: RoomVersion,
    alter: impl Fn(&mut Map<String, Value>),
) -> Result<(), EventFormatError> {
    let mut room = Room::public(version);
    let event = room.make(BOB, "m.room.message", None, json!({"body": "hello"}));
    let mut object = event.to_object();
    alter(&mut object);
    Event::parse(&encode(object), version.rules()).map(drop)
}

#[test]
fn lengths_count_characters_in_rooms_before_version_11() {
    let key = "💥".repeat(70);
    for (version, expected) in [
        (RoomVersion::V6, Ok(())),
        (RoomVersion::V10, Ok(())),
        (RoomVersion::V11, Err(EventFormatError::FieldTooLong("state_key"))),
        (RoomVersion::V12, Err(EventFormatError::FieldTooLong("state_key"))),
    ] {
        let result = altered(version, |event| {
            event.insert("state_key".to_owned(), json!(key));
        });
        assert_eq!(result, expected, "version {version}");
    }
}

#[test]
fn events_must_have_the_format_of_their_version() {
    use EventFormatError::{
        BadEventLink, BadRoomId, BadSender, DepthOutOfRange, FieldTooLong, Missing,
        TooManyAuthEvents, TooManyPrevEvents, WrongType,
    };
    let long = "x".repeat(256);
    let long_user = format!("@{}:b.example", "x".repeat(250));
    let long_room = format!("!{}:b.example", "x".repeat(250));
    let cases: Vec<(&str, Option<Value>, EventFormatError)> = vec![
        ("type", None, Missing("type")),
        ("type", Some(json!(1)), WrongType("type")),
        ("type", Some(json!(long)), FieldTooLong("type")),
        ("state_key", Some(json!(null)), WrongType("state_key")),
        ("state_key", Some(json!(long)), FieldTooLong("state_key")),
        ("sender", None, Missing("sender")),
        ("sender", Some(json!("bob")), BadSender),
        ("sender", Some(json!("@bob:b example")), BadSender),
        ("sender", Some(json!(long_user)), FieldTooLong("sender")),
        ("room_id", None, Missing("room_id")),
        ("room_id", Some(json!(7)), WrongType("room_id")),
        ("room_id", Some(json!("room:a.example")), BadRoomId),
        ("room_id", Some(json!(long_room)), FieldTooLong("room_id")),
        ("content", None, Missing("content")),
        ("content", Some(json!([])), WrongType("content")),
        ("depth", None, Missing("depth")),
        ("depth", Some(json!("1")), WrongType("depth")),
        ("depth", Some(json!(-1)), DepthOutOfRange),
        ("origin_server_ts", None, Missing("origin_server_ts")),
        ("origin_server_ts", Some(json!("now")), WrongType("origin_server_ts")),
        ("prev_events", None, Missing("prev_events")),
        ("prev_events", Some(json!({})), WrongType("prev_events")),
        ("prev_events", Some(json!([1])), WrongType("prev_events")),
        ("auth_events", None, Missing("auth_events")),
        ("auth_events", Some(json!([[[]]])), WrongType("auth_events")),
        ("hashes", None, Missing("hashes")),
        ("hashes", Some(json!([])), WrongType("hashes")),
        ("hashes", Some(json!({"sha256": 1})), WrongType("hashes")),
        ("signatures", None, Missing("signatures")),
        ("signatures", Some(json!({"a": 1})), WrongType("signatures")),
        ("signatures", Some(json!({"a": {"b": 1}})), WrongType("signatures")),
    ];
    for version in RoomVersion::ALL {
        for (key, value, expected) in &cases {
            let verdict = altered(version, |object| match value {
                Some(value) => drop(object.insert((*key).to_owned(), value.clone())),
                None => drop(object.remove(*key)),
            });
            assert_eq!(verdict.unwrap_err(), *expected, "{version} {key} {value:?}");
        }
        let link = |id: &str| {
            if version.rules().has_event_id_field() {
                json!([id, {"sha256": "x"}])
            } else {
                json!(id)
            }
        };
        let links = |key: &'static str, ids: Vec<Value>| {
            altered(version, move |object| object[key] = json!(ids.clone()))
        };
        let good = link("$a:b");
        assert_eq!(links("prev_events", vec![good.clone(); 20]), Ok(()));
        assert_eq!(links("prev_events", vec![good.clone(); 21]), Err(TooManyPrevEvents));
        assert_eq!(links("prev_events", vec![good.clone(); 10_000]), Err(TooManyPrevEvents));
        assert_eq!(links("auth_events", vec![good.clone(); 10]), Ok(()));
        assert_eq!(links("auth_events", vec![good.clone(); 11]), Err(TooManyAuthEvents));
        for odd in ["a:b", "", "$a\\b:c", "$a\"b:c", "$a\nb:c", &format!("${long}:b")] {
            assert_eq!(links("prev_events", vec![link(odd)]), Err(BadEventLink), "{odd}");
        }
    }
}

#[test]
fn event_of_another_versions_shape_is_refused() {
    let mut old = Room::public(RoomVersion::V1);
    let old = old.make(BOB, "m.room.message", None, json!({}));
    let mut new = Room::public(RoomVersion::V11);
    let new = new.make(BOB, "m.room.message", None, json!({}));
    let mut newest = Room::public(RoomVersion::V12);
    let newest = newest.make(BOB, "m.room.message", None, json!({}));
    let parse = |event: &Event, version: RoomVersion| {
        Event::parse(event.json(), version.rules()).map(drop).unwrap_err()
    };
    assert_eq!(parse(&old, RoomVersion::V3), EventFormatError::WrongType("prev_events"));
    assert_eq!(parse(&new, RoomVersion::V2), EventFormatError::WrongType("prev_events"));
    assert_eq!(parse(&new, RoomVersion::V12), EventFormatError::BadRoomId);
    assert_eq!(parse(&newest, RoomVersion::V11), EventFormatError::BadRoomId);
}

#[test]
fn create_event_of_version_12_must_not_name_its_room() {
    let room = Room::new(RoomVersion::V12);
    let create = room.state.values().next().unwrap();
    assert_eq!(create.room_id().as_str()[1..], create.event_id().as_str()[1..]);
    assert!(!create.states_room_id());
    let mut object = create.to_object();
    object.insert("room_id".to_owned(), json!(create.room_id()));
    let verdict = Event::parse(&encode(object), RoomVersion::V12.rules());
    assert_eq!(verdict.unwrap_err(), EventFormatError::RoomIdOnCreate);
}

#[test]
fn strict_versions_refuse_odd_numbers_and_old_ones_keep_them() {
    let json = |number: &str| {
        let mut room = Room::public(RoomVersion::V3);
        let event = room.make(BOB, "m.room.message", None, json!({"n": 4711}));
        event.json().replace("4711", number)
    };
    let parse = |version: RoomVersion, number: &str| {
        Event::parse(&json(number), version.rules()).map(|event| event.content_json().to_owned())
    };
    let error = |error: CanonicalJsonError| Err(EventFormatError::Json(error));
    for (number, kept, refused) in [
        ("50.0", "{\"n\":50.0}", CanonicalJsonError::NotAnInteger),
        ("1e10", "{\"n\":10000000000.0}", CanonicalJsonError::NotAnInteger),
        ("9007199254740992", "{\"n\":9007199254740992}", CanonicalJsonError::IntegerOutOfRange),
        (
            "18446744073709551615",
            "{\"n\":18446744073709551615}",
            CanonicalJsonError::IntegerOutOfRange,
        ),
    ] {
        assert_eq!(parse(RoomVersion::V5, number), Ok(kept.to_owned()));
        assert_eq!(parse(RoomVersion::V6, number), error(refused));
    }
}

#[test]
fn unsigned_data_of_others_is_dropped() {
    let version = RoomVersion::V12;
    let mut room = Room::public(version);
    let event = room.make(BOB, "m.room.message", None, json!({"body": "hello"}));
    let mut object = event.to_object();
    object.insert("unsigned".to_owned(), json!({"redacted_because": {}, "n": 1.5}));
    assert_eq!(Event::parse(&encode(object), version.rules()).unwrap().json(), event.json());
}

#[test]
fn escapes_in_strings_are_read() {
    let version = RoomVersion::V12;
    let mut room = Room::public(version);
    let event = room.make(BOB, "quo\"ted \\ \u{1}", Some("kéy\n"), json!({"\"": "\\"}));
    for event in [&*event, &Event::parse(event.json(), version.rules()).unwrap()] {
        assert_eq!(event.kind(), "quo\"ted \\ \u{1}");
        assert_eq!(event.state_key(), Some("kéy\n"));
        assert_eq!(event.content_json(), r#"{"\"":"\\"}"#);
    }
}

#[test]
fn oversized_text_is_not_even_read() {
    let rules = RoomVersion::V12.rules();
    let huge = format!("{{\"a\":\"{}\"}}", "x".repeat(2_000_000));
    assert_eq!(Event::parse(&huge, rules).unwrap_err(), EventFormatError::TooLarge);
    let deep = format!("{{\"content\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let too_deep = EventFormatError::Json(CanonicalJsonError::TooDeep);
    assert_eq!(Event::parse(&deep, rules).unwrap_err(), too_deep);
}
