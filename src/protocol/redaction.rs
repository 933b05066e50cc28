//! The redaction algorithm of each room version: what remains of an event when its content must go.
//!
//! Not for deciding whether a redaction applies (see `authorisation::may_redact`). Source:
//! specification, content/rooms/, "Redactions" of each version.

use serde_json::{Map, Value};

use super::{
    canonical_json,
    event::Event,
    room_version::{RedactionRules, RoomRules},
};

/// What remains of `event`, an event in the federation format, after its redaction. `unsigned` is gone.
pub fn redact(rules: &RoomRules, event: &Map<String, Value>) -> Map<String, Value> {
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    let mut kept = Map::new();
    for (key, value) in event {
        if key == "content" {
            let content = value.as_object().map(|content| redact_content(rules, kind, content));
            kept.insert(key.clone(), Value::Object(content.unwrap_or_default()));
        } else if keeps_field(&rules.redaction, key) {
            kept.insert(key.clone(), value.clone());
        }
    }
    kept
}

/// The redacted form of `event`, with the same ID.
pub fn redact_event(event: &Event, rules: &RoomRules) -> Event {
    let object = event.to_object();
    let json = canonical_json::encode(&Value::Object(redact(rules, &object)));
    Event::from_stored(&json, event.event_id(), event.room_id(), rules)
        .expect("a redaction keeps every field that an event must have")
}

/// What remains of the content of an event of type `kind`.
pub fn redact_content(
    rules: &RoomRules,
    kind: &str,
    content: &Map<String, Value>,
) -> Map<String, Value> {
    let redaction = &rules.redaction;
    if kind == "m.room.create" && redaction.keep_create_content {
        return content.clone();
    }
    let mut kept = Map::new();
    for key in kept_content_keys(redaction, kind) {
        if let Some(value) = content.get(*key) {
            kept.insert((*key).to_owned(), value.clone());
        }
    }
    if kind == "m.room.member" && redaction.keep_third_party_signed {
        let signed = content.get("third_party_invite").and_then(|invite| invite.get("signed"));
        if let Some(signed) = signed {
            let invite = Map::from_iter([("signed".to_owned(), signed.clone())]);
            kept.insert("third_party_invite".to_owned(), Value::Object(invite));
        }
    }
    kept
}

/// Whether the top-level `key` survives.
pub fn keeps_field(redaction: &RedactionRules, key: &str) -> bool {
    match key {
        "event_id" | "type" | "room_id" | "sender" | "state_key" | "content" | "hashes"
        | "signatures" | "depth" | "prev_events" | "auth_events" | "origin_server_ts" => true,
        "origin" | "membership" | "prev_state" => redaction.keep_legacy_fields,
        _ => false,
    }
}

/// The keys of the content that survive, for events that do not keep everything.
fn kept_content_keys(redaction: &RedactionRules, kind: &str) -> &'static [&'static str] {
    match kind {
        "m.room.member" if redaction.keep_join_authorised => {
            &["join_authorised_via_users_server", "membership"]
        }
        "m.room.member" => &["membership"],
        "m.room.create" => &["creator"],
        "m.room.join_rules" if redaction.keep_allow => &["allow", "join_rule"],
        "m.room.join_rules" => &["join_rule"],
        "m.room.power_levels" if redaction.keep_invite_level => &[
            "ban",
            "events",
            "events_default",
            "invite",
            "kick",
            "redact",
            "state_default",
            "users",
            "users_default",
        ],
        "m.room.power_levels" => &[
            "ban",
            "events",
            "events_default",
            "kick",
            "redact",
            "state_default",
            "users",
            "users_default",
        ],
        "m.room.aliases" if redaction.keep_aliases => &["aliases"],
        "m.room.history_visibility" => &["history_visibility"],
        "m.room.redaction" if redaction.keep_redacts => &["redacts"],
        _ => &[],
    }
}
