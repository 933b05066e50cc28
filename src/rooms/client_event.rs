//! Writes events as clients get them (client-server API, "Room event format"): slices of the
//! stored bytes are copied, nothing is parsed. Decides nothing about who may see what.

use std::fmt::Write;

use ruma::UserId;

use super::event_store::StoredEvent;
use crate::protocol::{membership::Membership, room_version::RoomVersion};

/// What differs by recipient and moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventView<'a> {
    /// Who reads. Only the sender's own device is told its `transaction_id`.
    pub user_id: Option<&'a UserId>,
    pub device_id: Option<&'a str>,
    /// Milliseconds since the Unix epoch, for `age`.
    pub now_ms: u64,
    /// Whether `room_id` is written; `/sync` implies it.
    pub with_room_id: bool,
    /// The reader's membership at the event, including what the event changes.
    pub membership: Option<Membership>,
    /// The state event that this one replaced.
    pub prev: Option<&'a StoredEvent>,
    /// Whether the reader may not see `prev`, so that only its ID is told.
    pub prev_is_hidden: bool,
    /// `m.relations` as JSON (see `bundle`).
    pub relations: Option<&'a str>,
    /// How many milliseconds the event is sticky yet (MSC4354).
    pub sticky_ttl_ms: Option<u64>,
}

/// Appends an event in client format.
pub fn write_client_event(out: &mut String, stored: &StoredEvent, view: &EventView<'_>) {
    let event = &stored.event;
    out.reserve(event.content_json().len() + 512);
    let redacts = (event.kind() == "m.room.redaction").then(|| Redacts::of(stored)).flatten();
    out.push_str(r#"{"content":"#);
    write_content(out, event.content_json(), redacts.as_ref());
    write_field(out, r#","event_id":"#, event.event_id().as_str());
    if let Some(sticky_ms) = event.sticky_ms() {
        write_number(out, r#","msc4354_sticky":{"duration_ms":"#, i64::from(sticky_ms));
        out.push('}');
    }
    write_number(out, r#","origin_server_ts":"#, event.origin_server_ts());
    if let Some(redacts) = &redacts {
        write_field(out, r#","redacts":"#, redacts.target.as_str());
    }
    if view.with_room_id {
        write_field(out, r#","room_id":"#, event.room_id().as_str());
    }
    write_field(out, r#","sender":"#, event.sender().as_str());
    if let Some(state_key) = event.state_key() {
        write_field(out, r#","state_key":"#, state_key);
    }
    write_field(out, r#","type":"#, event.kind());
    out.push_str(r#","unsigned":"#);
    write_unsigned(out, stored, view);
    out.push('}');
}

/// Appends an event as stripped state (client-server API, "Stripped state"). The create event keeps its ID
/// and time (MSC4311).
pub fn write_stripped_event(out: &mut String, stored: &StoredEvent) {
    let event = &stored.event;
    out.push_str(r#"{"content":"#);
    out.push_str(event.content_json());
    if event.kind() == "m.room.create" {
        write_field(out, r#","event_id":"#, event.event_id().as_str());
        write_number(out, r#","origin_server_ts":"#, event.origin_server_ts());
    }
    write_field(out, r#","sender":"#, event.sender().as_str());
    write_field(out, r#","state_key":"#, event.state_key().unwrap_or_default());
    write_field(out, r#","type":"#, event.kind());
    out.push('}');
}

/// Appends a JSON string.
pub fn write_json_string(out: &mut String, text: &str) {
    out.push('"');
    let mut clean_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[clean_from..at]);
        clean_from = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            _ => write!(out, "\\u{byte:04x}").expect("writing to a String cannot fail"),
        }
    }
    out.push_str(&text[clean_from..]);
    out.push('"');
}

/// What a redaction redacts. Room version 11 moved it into the content; clients of both ages
/// find it where they look (rooms/v11, "Moving the `redacts` property").
struct Redacts {
    target: ruma::OwnedEventId,
    /// Whether the content lacks it.
    is_top_level_only: bool,
}

impl Redacts {
    fn of(stored: &StoredEvent) -> Option<Self> {
        let in_content = stored.event.redacts(RoomVersion::V11.rules());
        let top_level = stored.event.redacts(RoomVersion::V1.rules());
        let is_top_level_only = in_content.is_none();
        Some(Self { target: top_level.or(in_content)?, is_top_level_only })
    }
}

fn write_content(out: &mut String, content: &str, redacts: Option<&Redacts>) {
    match redacts.filter(|redacts| redacts.is_top_level_only) {
        Some(redacts) if !content.contains("\"redacts\"") => {
            let rest = &content[1..];
            write_field(out, r#"{"redacts":"#, redacts.target.as_str());
            if !rest.trim_start().starts_with('}') {
                out.push(',');
            }
            out.push_str(rest);
        }
        _ => out.push_str(content),
    }
}

fn write_unsigned(out: &mut String, stored: &StoredEvent, view: &EventView<'_>) {
    let age = view.now_ms.cast_signed() - stored.event.origin_server_ts();
    write_number(out, r#"{"age":"#, age);
    if let Some(relations) = view.relations {
        out.push_str(r#","m.relations":"#);
        out.push_str(relations);
    }
    if let Some(membership) = view.membership {
        write_field(out, r#","membership":"#, membership.as_str());
    }
    if let Some(prev) = view.prev {
        if !view.prev_is_hidden {
            out.push_str(r#","prev_content":"#);
            out.push_str(prev.event.content_json());
            write_field(out, r#","prev_sender":"#, prev.event.sender().as_str());
        }
        write_field(out, r#","replaces_state":"#, prev.event.event_id().as_str());
    }
    if let Some(redaction) = &stored.redacted_by {
        out.push_str(r#","redacted_because":"#);
        let EventView { user_id, device_id, now_ms, with_room_id, .. } = *view;
        let view = EventView { user_id, device_id, now_ms, with_room_id, ..EventView::default() };
        write_client_event(out, redaction, &view);
    }
    if let Some(ttl_ms) = view.sticky_ttl_ms {
        write_number(out, r#","msc4354_sticky_duration_ttl_ms":"#, ttl_ms.cast_signed());
    }
    if let (Some(user_id), Some(device_id)) = (view.user_id, view.device_id)
        && stored.event.sender() == user_id
        && let Some(transaction_id) = stored.transaction_id(device_id)
    {
        write_field(out, r#","transaction_id":"#, transaction_id);
    }
    out.push('}');
}

fn write_field(out: &mut String, key: &str, value: &str) {
    out.push_str(key);
    write_json_string(out, value);
}

fn write_number(out: &mut String, key: &str, value: i64) {
    write!(out, "{key}{value}").expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ruma::{event_id, room_id, user_id};
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        protocol::event::Event,
        rooms::event_store::NewStoredEvent,
        storage::{EventNid, RoomNid, StateNid},
    };

    fn stored(fields: Value) -> StoredEvent {
        let mut object = json!({
            "auth_events": [], "prev_events": [], "depth": 1, "origin_server_ts": 1000,
            "room_id": "!r:localhost", "sender": "@a:localhost",
        });
        for (key, value) in fields.as_object().expect("is an object") {
            object[key] = value.clone();
        }
        let rules = RoomVersion::V10.rules();
        let (id, room) = (event_id!("$event"), room_id!("!r:localhost"));
        let event = Event::from_stored(&object.to_string(), id, room, rules).expect("is an event");
        StoredEvent::new(NewStoredEvent {
            nid: EventNid(1),
            room_nid: RoomNid(1),
            state_nid: StateNid(1),
            state_key_nid: None,
            replaces_nid: None,
            flags: 0,
            notify_ordinal: 0,
            redacted_by: None,
            sent_by: Some(b"PHONE\0txn \"1\"".to_vec().into()),
            event: Arc::new(event),
        })
    }

    fn written(stored: &StoredEvent, view: &EventView<'_>) -> Value {
        let mut out = String::new();
        write_client_event(&mut out, stored, view);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    #[test]
    fn messages_keep_their_content_and_tell_the_sending_device() {
        let message =
            stored(json!({ "type": "a\"b\\c\n", "content": { "body": "\u{0}ü\"", "n": 1 } }));
        let alice = user_id!("@a:localhost");
        let view = EventView {
            user_id: Some(alice),
            device_id: Some("PHONE"),
            now_ms: 1500,
            with_room_id: true,
            membership: Some(Membership::Join),
            relations: Some(r#"{"m.thread":{}}"#),
            ..EventView::default()
        };
        let expect = json!({
            "content": { "body": "\u{0}ü\"", "n": 1 }, "event_id": "$event",
            "origin_server_ts": 1000, "room_id": "!r:localhost", "sender": "@a:localhost",
            "type": "a\"b\\c\n",
            "unsigned": { "age": 500, "m.relations": { "m.thread": {} }, "membership": "join",
                "transaction_id": "txn \"1\"" },
        });
        assert_eq!(written(&message, &view), expect);
        // Another user's device may have the same name.
        let view = EventView { user_id: Some(user_id!("@b:localhost")), ..view };
        assert_eq!(written(&message, &view)["unsigned"].get("transaction_id"), None);
    }

    #[test]
    fn replaced_state_is_told_as_far_as_it_may_be_seen() {
        let old =
            stored(json!({ "type": "m.room.name", "state_key": "", "content": { "name": 1 } }));
        let new = stored(json!({ "type": "m.room.name", "state_key": "", "content": {} }));
        let view = EventView { prev: Some(&old), ..EventView::default() };
        let unsigned = &written(&new, &view)["unsigned"];
        assert_eq!(unsigned["prev_content"], json!({ "name": 1 }));
        assert_eq!(unsigned["replaces_state"], "$event");
        let view = EventView { prev_is_hidden: true, ..view };
        let unsigned = &written(&new, &view)["unsigned"];
        assert_eq!(unsigned.get("prev_content"), None);
        assert_eq!(unsigned["replaces_state"], "$event");
    }

    #[test]
    fn redactions_name_their_target_in_both_places() {
        for fields in [
            json!({ "content": {}, "redacts": "$target" }),
            json!({ "content": { "reason": "x" }, "redacts": "$target" }),
            json!({ "content": { "redacts": "$target" } }),
        ] {
            let mut fields = fields;
            fields["type"] = json!("m.room.redaction");
            let event = written(&stored(fields), &EventView::default());
            assert_eq!(event["redacts"], "$target");
            assert_eq!(event["content"]["redacts"], "$target");
        }
    }
}
