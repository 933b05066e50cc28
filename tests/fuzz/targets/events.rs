//! Events of any bytes, in every room version: refused exactly, or read so that everything that can be
//! asked of them has an answer, and the same one when they are read again.

use std::sync::Arc;

use hearth::protocol::{
    authorisation::list_auth_event_keys,
    event::Event,
    event_hash,
    event_signatures::{KeyLookup, ReceivedEvent},
    history_visibility::HistoryVisibility,
    membership::Membership,
    power_levels::PowerLevels,
    push_rules::{CompiledRules, Mentions, PushEvent},
    redaction::redact_event,
    room_content::{CreateContent, GuestAccess, JoinRules},
    room_version::RoomVersion,
    signing::{SigningKey, VerifyKey},
    third_party_invite::list_public_keys,
};
use ruma::{ServerName, UserId};
use serde_json::json;

use super::{kind_of_error, split_version, with_version};
use crate::room::{ALICE, BOB, Room};

/// One key for all servers: the one with which the seeds are signed.
struct OneKey(VerifyKey);

impl KeyLookup for OneKey {
    fn find(&self, _: &ServerName, _: &str, _: i64) -> Option<VerifyKey> {
        Some(self.0.clone())
    }
}

pub fn run(input: &[u8]) -> String {
    let Some((version, text)) = split_version(input) else { return "not a text".to_owned() };
    let rules = version.rules();
    let received = match ReceivedEvent::parse(text, rules) {
        Ok(received) => received,
        Err(error) => return kind_of_error(&error),
    };
    use_event(version, received.unverified());
    let key = SigningKey::from_seed("test", &[7; 32]).unwrap();
    match received.verify(rules, &OneKey(key.verify_key())) {
        Ok(event) => format!("{version} {} {}", event.kind().len() > 20, event.is_state()),
        Err(error) => kind_of_error(&error),
    }
}

fn use_event(version: RoomVersion, event: &Event) {
    let rules = version.rules();
    let read = Event::parse(event.json(), rules).unwrap();
    assert_eq!(read.json(), event.json());
    assert_eq!(read.event_id(), event.event_id());
    let redacted = redact_event(event, rules);
    let read = Event::parse(redacted.json(), rules).unwrap();
    assert_eq!(read.event_id(), event.event_id());
    assert_eq!(redact_event(&read, rules).json(), redacted.json());
    event_hash::has_valid_content_hash(&event.to_object());
    list_auth_event_keys(rules, event);
    list_public_keys(event);
    event.redacts(rules);
    CreateContent::of_event(event, rules);
    Membership::of_event(event);
    JoinRules::of_state(Some(event));
    GuestAccess::of_state(Some(event));
    HistoryVisibility::of_state(Some(event));
    let power = PowerLevels::from_events(Some(event), Some(event), rules);
    let defaults = CompiledRules::server_default(Mentions::ByName);
    let prepared = PushEvent::new(event, 2, &power, &defaults);
    let bob = <&UserId>::try_from(BOB).unwrap();
    defaults.evaluate(&prepared, bob, Some("*"));
}

/// A room of each version, with an event of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    RoomVersion::ALL
        .into_iter()
        .flat_map(|version| {
            let room = furnished(version);
            room.events.into_values().map(move |event| with_version(version, event.json()))
        })
        .collect()
}

/// A room in which something of everything has happened.
pub fn furnished(version: RoomVersion) -> Room {
    let mut room = Room::public(version);
    room.power_of(&[(BOB, 50)]);
    let mut send = |kind: &str, state_key: Option<&str>, content| {
        let event: Arc<Event> = room.make(ALICE, kind, state_key, content);
        room.apply(&event);
    };
    let invite = json!({ "display_name": "x", "public_key": "a", "public_keys":
        [{ "public_key": "Fn3iqz4NV3+wzjSMWzGtHJfnQfQbBbvkQ5pHrXoPUZ0", "key_validity_url": "https://x" }] });
    send("m.room.third_party_invite", Some("token"), invite);
    send("m.room.history_visibility", Some(""), json!({ "history_visibility": "shared" }));
    send("m.room.guest_access", Some(""), json!({ "guest_access": "can_join" }));
    send(
        "m.room.join_rules",
        Some(""),
        json!({ "join_rule": "restricted", "allow":
        [{ "type": "m.room_membership", "room_id": "!other:a.example" }] }),
    );
    send("m.room.aliases", Some("a.example"), json!({ "aliases": ["#alias:a.example"] }));
    send(
        "m.room.member",
        Some("@carol:c.example"),
        json!({ "membership": "invite",
        "third_party_invite": { "display_name": "x", "signed": { "mxid": "@carol:c.example",
        "token": "token", "signatures": { "x": { "ed25519:0": "c2ln" } } } } }),
    );
    send(
        "m.room.message",
        None,
        json!({ "msgtype": "m.text", "body": "hello \u{1f408} \u{0}", "n": -3,
        "m.mentions": { "user_ids": [BOB], "room": true }, "m.relates_to": { "rel_type": "m.thread" } }),
    );
    send("m.room.redaction", None, json!({ "redacts": "$event:a.example", "reason": "spam" }));
    room
}
