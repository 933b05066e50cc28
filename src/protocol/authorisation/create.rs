//! Rule 1: the create event.

use ruma::UserId;
use serde_json::{Map, Value};

use super::{AuthRejection, Candidate};
use crate::protocol::{
    event_format::FIELD_BYTES_MAX,
    room_version::{RoomRules, RoomVersion},
};

pub(super) fn check(event: &impl Candidate, rules: &RoomRules) -> Result<(), AuthRejection> {
    // Rule 1.1: if it has any `prev_events`, reject.
    if event.has_prev_events() {
        return Err(AuthRejection::CreateHasPrevEvents);
    }
    check_room_id(event, rules)?;
    let content: Map<String, Value> = event.read_content().unwrap_or_default();
    // Rule 1.3: if `content.room_version` is present and is not a recognised version, reject.
    if let Some(version) = content.get("room_version")
        && version.as_str().and_then(RoomVersion::parse).is_none()
    {
        return Err(AuthRejection::UnknownRoomVersion);
    }
    // Rule 1.4 up to version 10: if `content` has no `creator` property, reject.
    if rules.creator_in_content && !content.contains_key("creator") {
        return Err(AuthRejection::CreatorMissing);
    }
    // Rule 1.4 of version 12: `additional_creators`, if present, is an array of user IDs.
    if rules.creators_privileged
        && content.get("additional_creators").is_some_and(|creators| !is_user_list(creators))
    {
        return Err(AuthRejection::BadAdditionalCreators);
    }
    // Rule 1.5: otherwise, allow.
    Ok(())
}

fn check_room_id(event: &impl Candidate, rules: &RoomRules) -> Result<(), AuthRejection> {
    if rules.room_id_is_create_hash {
        // Rule 1.2 of version 12: if the event has a `room_id`, reject.
        return match event.room_id() {
            Some(_) => Err(AuthRejection::CreateHasRoomId),
            None => Ok(()),
        };
    }
    // Rule 1.2: if the domain of the `room_id` is not the domain of the `sender`, reject.
    let room_server = event.room_id().and_then(|room_id| room_id.server_name());
    if room_server == Some(event.sender().server_name()) {
        Ok(())
    } else {
        Err(AuthRejection::CreateRoomOfAnotherServer)
    }
}

fn is_user_list(value: &Value) -> bool {
    let is_user = |item: &Value| {
        item.as_str()
            .is_some_and(|text| text.len() <= FIELD_BYTES_MAX && <&UserId>::try_from(text).is_ok())
    };
    value.as_array().is_some_and(|items| items.iter().all(is_user))
}
