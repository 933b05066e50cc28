//! The format that an event from an untrusted source must have, and its size limits.
//!
//! Not for signatures, hashes or permissions. Source: specification, content/rooms/, "Event format" of
//! each version; client-server API, "Size limits"; server-server API, "PDUs".

use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, UserId};
use serde_json::{Map, Value};

use super::{
    canonical_json::{self, CanonicalJsonError},
    event_hash::{event_id_of_hash, reference_hash},
    room_version::RoomRules,
};

/// The largest event, as canonical JSON with its signatures (client-server API, "Size limits").
pub const PDU_SIZE_BYTES_MAX: usize = 65_536;

/// The longest text that is read at all as an event: an event at the limit whose characters are all written
/// as `\u` escapes, and as much again of `unsigned`.
pub const PDU_INPUT_BYTES_MAX: usize = 12 * PDU_SIZE_BYTES_MAX;

/// The longest `type`, `state_key`, `sender`, `room_id` and event ID ("Size limits").
pub const FIELD_BYTES_MAX: usize = 255;

/// The most events that `prev_events` may name (server-server API, "PDUs").
pub const PREV_EVENTS_MAX: usize = 20;

/// The most events that `auth_events` may name (server-server API, "PDUs").
pub const AUTH_EVENTS_MAX: usize = 10;

/// Why a text is not an event of the room version. Such a text is dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventFormatError {
    #[error(transparent)]
    Json(#[from] CanonicalJsonError),
    #[error("the event is not of the expected structure: {0}")]
    Structure(String),
    #[error("the event has no `{0}`")]
    Missing(&'static str),
    #[error("`{0}` is not of the type that it must have")]
    WrongType(&'static str),
    #[error("the event is larger than {PDU_SIZE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("`{0}` is longer than {FIELD_BYTES_MAX} bytes")]
    FieldTooLong(&'static str),
    #[error("the event names more than {PREV_EVENTS_MAX} previous events")]
    TooManyPrevEvents,
    #[error("the event names more than {AUTH_EVENTS_MAX} authorisation events")]
    TooManyAuthEvents,
    #[error("`depth` is negative or too large")]
    DepthOutOfRange,
    #[error("`sender` is not a user ID")]
    BadSender,
    #[error("`room_id` is not a room ID of this room version")]
    BadRoomId,
    #[error("the create event of this room version must not carry a `room_id`")]
    RoomIdOnCreate,
    #[error("the event ID is not valid in this room version")]
    BadEventId,
    #[error("`prev_events` or `auth_events` name something that is not an event ID")]
    BadEventLink,
}

/// The identifiers of an event, whether it carries them or implies them.
pub(super) struct Names {
    pub event_id: OwnedEventId,
    pub room_id: OwnedRoomId,
}

/// Checks an untrusted text and gives its object, its canonical text (both without `unsigned`) and
/// its names.
pub(super) fn check_and_name(
    json: &str,
    rules: &RoomRules,
) -> Result<(Map<String, Value>, String, Names), EventFormatError> {
    if json.len() > PDU_INPUT_BYTES_MAX {
        return Err(EventFormatError::TooLarge);
    }
    let mut object = canonical_json::parse_object(json)?;
    object.remove("unsigned");
    if rules.canonical_json_strict {
        canonical_json::check_strict_object(&object)?;
    }
    check_fields(&object, rules)?;
    let canonical = canonical_json::encode_without(&object, &[]);
    if canonical.len() > PDU_SIZE_BYTES_MAX {
        return Err(EventFormatError::TooLarge);
    }
    let names = name_event(&object, rules)?;
    Ok((object, canonical, names))
}

fn check_fields(event: &Map<String, Value>, rules: &RoomRules) -> Result<(), EventFormatError> {
    let kind = required_string(event, "type")?;
    check_length("type", kind, rules)?;
    check_sender(event, rules)?;
    if let Some(state_key) = event.get("state_key") {
        let state_key = state_key.as_str().ok_or(EventFormatError::WrongType("state_key"))?;
        check_length("state_key", state_key, rules)?;
    }
    required(event, "content")?.as_object().ok_or(EventFormatError::WrongType("content"))?;
    required(event, "origin_server_ts")?
        .as_i64()
        .ok_or(EventFormatError::WrongType("origin_server_ts"))?;
    check_depth(event, rules)?;
    check_links(event, "prev_events", PREV_EVENTS_MAX, rules)?;
    check_links(event, "auth_events", AUTH_EVENTS_MAX, rules)?;
    if kind == "m.room.redaction" && !rules.redacts_in_content {
        let redacts = event.get("redacts");
        if redacts.is_some_and(|redacts| !redacts.is_string()) {
            return Err(EventFormatError::WrongType("redacts"));
        }
    }
    check_hashes_and_signatures(event)
}

fn check_sender(event: &Map<String, Value>, rules: &RoomRules) -> Result<(), EventFormatError> {
    let sender = required_string(event, "sender")?;
    check_length("sender", sender, rules)?;
    <&UserId>::try_from(sender).map_err(|_| EventFormatError::BadSender)?;
    Ok(())
}

/// Depth is at least 0 and fits 63 bits; strict versions have bounded all integers already.
fn check_depth(event: &Map<String, Value>, rules: &RoomRules) -> Result<(), EventFormatError> {
    let depth = required(event, "depth")?;
    match depth.as_i64() {
        Some(0..) => Ok(()),
        Some(_) => Err(EventFormatError::DepthOutOfRange),
        None if depth.is_u64() || (depth.is_f64() && rules.canonical_json_strict) => {
            Err(EventFormatError::DepthOutOfRange)
        }
        None => Err(EventFormatError::WrongType("depth")),
    }
}

fn check_hashes_and_signatures(event: &Map<String, Value>) -> Result<(), EventFormatError> {
    let hashes =
        required(event, "hashes")?.as_object().ok_or(EventFormatError::WrongType("hashes"))?;
    if hashes.get("sha256").is_some_and(|hash| !hash.is_string()) {
        return Err(EventFormatError::WrongType("hashes"));
    }
    let signatures = required(event, "signatures")?
        .as_object()
        .ok_or(EventFormatError::WrongType("signatures"))?;
    let well_formed = |by_key: &Value| {
        by_key.as_object().is_some_and(|by_key| by_key.values().all(Value::is_string))
    };
    if signatures.values().all(well_formed) {
        Ok(())
    } else {
        Err(EventFormatError::WrongType("signatures"))
    }
}

/// Links are event IDs, or (versions 1 and 2) pairs of an ID and an object of hashes.
fn check_links(
    event: &Map<String, Value>,
    key: &'static str,
    count_max: usize,
    rules: &RoomRules,
) -> Result<(), EventFormatError> {
    let links = required(event, key)?.as_array().ok_or(EventFormatError::WrongType(key))?;
    if links.len() > count_max {
        return Err(if key == "prev_events" {
            EventFormatError::TooManyPrevEvents
        } else {
            EventFormatError::TooManyAuthEvents
        });
    }
    for link in links {
        let id = if rules.has_event_id_field() {
            match link.as_array().map(Vec::as_slice) {
                Some([Value::String(id), Value::Object(_)]) => Some(id.as_str()),
                _ => None,
            }
        } else {
            link.as_str()
        };
        check_event_id(id.ok_or(EventFormatError::WrongType(key))?, rules)
            .map_err(|_| EventFormatError::BadEventLink)?;
    }
    Ok(())
}

/// An event ID in the format of the room version. IDs that would need escaping in JSON name no event
/// that anybody could have made, and are refused.
fn check_event_id(id: &str, rules: &RoomRules) -> Result<(), EventFormatError> {
    let escaped = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    let well_formed = id.len() <= FIELD_BYTES_MAX
        && !id.bytes().any(escaped)
        && <&EventId>::try_from(id).is_ok()
        && (!rules.has_event_id_field() || id.contains(':'));
    if well_formed { Ok(()) } else { Err(EventFormatError::BadEventId) }
}

fn name_event(event: &Map<String, Value>, rules: &RoomRules) -> Result<Names, EventFormatError> {
    let event_id = match event_id_of_hash(rules, &reference_hash(rules, event)) {
        Some(id) => id,
        None => required_string(event, "event_id")?.to_owned(),
    };
    check_event_id(&event_id, rules)?;
    let room_id = find_room_id(event, &event_id, rules)?;
    Ok(Names {
        event_id: EventId::parse(&event_id).map_err(|_| EventFormatError::BadEventId)?,
        room_id: RoomId::parse(&room_id).map_err(|_| EventFormatError::BadRoomId)?,
    })
}

/// The room of an event. In version 12 the create event implies it: `!` and the hash that its own ID has.
fn find_room_id(
    event: &Map<String, Value>,
    event_id: &str,
    rules: &RoomRules,
) -> Result<String, EventFormatError> {
    let is_create = event.get("type").and_then(Value::as_str) == Some("m.room.create");
    if is_create && rules.room_id_is_create_hash {
        // Auth rule 1.2 of version 12: if the event has a `room_id`, reject.
        return match event.get("room_id") {
            Some(_) => Err(EventFormatError::RoomIdOnCreate),
            None => Ok(format!("!{}", &event_id[1..])),
        };
    }
    let room_id = required_string(event, "room_id")?;
    check_length("room_id", room_id, rules)?;
    let well_formed = if rules.room_id_is_create_hash {
        !room_id.contains(':')
    } else {
        room_id
            .split_once(':')
            .is_some_and(|(_, server)| <&ruma::ServerName>::try_from(server).is_ok())
    };
    if well_formed { Ok(room_id.to_owned()) } else { Err(EventFormatError::BadRoomId) }
}

fn required<'a>(
    event: &'a Map<String, Value>,
    key: &'static str,
) -> Result<&'a Value, EventFormatError> {
    event.get(key).ok_or(EventFormatError::Missing(key))
}

fn required_string<'a>(
    event: &'a Map<String, Value>,
    key: &'static str,
) -> Result<&'a str, EventFormatError> {
    required(event, key)?.as_str().ok_or(EventFormatError::WrongType(key))
}

/// Bytes count. Rooms before version 11 hold events in which other servers counted characters, and whoever
/// refuses these loses what follows them (docs/decisions/0004).
fn check_length(
    field: &'static str,
    text: &str,
    rules: &RoomRules,
) -> Result<(), EventFormatError> {
    let length = match rules.strict_field_lengths {
        true => text.len(),
        false => text.chars().count(),
    };
    if length <= FIELD_BYTES_MAX { Ok(()) } else { Err(EventFormatError::FieldTooLong(field)) }
}
