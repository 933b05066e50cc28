//! Which events authorise an event, and rules 2 and 3, which look at nothing else.
//!
//! Source: server-server API, "Auth events selection".

use std::collections::HashSet;

use ruma::UserId;

use super::{AuthRejection, Candidate};
use crate::protocol::{
    event::Event,
    membership::{MemberContent, Membership},
    room_version::RoomRules,
};

/// An event that another one names for its authorisation, or the room's create event.
#[derive(Clone, Copy, Debug)]
pub struct AuthEvent<'a> {
    pub event: &'a Event,
    /// Whether it was rejected when it was received.
    pub rejected: bool,
}

/// The entries of the state that authorise an event: those of them that the state has go into the
/// `auth_events` of a new event. `content` is read only for `m.room.member`.
pub fn auth_event_keys(
    rules: &RoomRules,
    kind: &str,
    sender: &UserId,
    state_key: Option<&str>,
    content: impl FnOnce() -> Option<MemberContent>,
) -> Vec<(String, String)> {
    if kind == "m.room.create" {
        return Vec::new();
    }
    let mut keys = Vec::with_capacity(6);
    let mut add = |kind: &str, state_key: &str| {
        let key = (kind.to_owned(), state_key.to_owned());
        if !keys.contains(&key) {
            keys.push(key);
        }
    };
    if !rules.room_id_is_create_hash {
        add("m.room.create", "");
    }
    add("m.room.power_levels", "");
    add("m.room.member", sender.as_str());
    if kind == "m.room.member" {
        let content = content().unwrap_or_default();
        let membership = content.membership();
        if let Some(target) = state_key {
            add("m.room.member", target);
        }
        if matches!(membership, Some(Membership::Join | Membership::Invite | Membership::Knock)) {
            add("m.room.join_rules", "");
        }
        if membership == Some(Membership::Invite)
            && let Some(token) = content.third_party_token()
        {
            add("m.room.third_party_invite", token);
        }
        if membership == Some(Membership::Join)
            && rules.restricted
            && let Some(authoriser) = content.authorising_user()
        {
            add("m.room.member", authoriser.as_str());
        }
    }
    keys
}

/// As [`auth_event_keys`], for an event or a draft.
pub fn list_auth_event_keys(rules: &RoomRules, event: &impl Candidate) -> Vec<(String, String)> {
    auth_event_keys(rules, event.kind(), event.sender(), event.state_key(), || event.read_content())
}

/// The keys of the state that the rules look at: those that the event names, and that of the create event, which
/// from version 12 on is not named but still judges.
pub fn list_judging_keys(rules: &RoomRules, event: &impl Candidate) -> Vec<(String, String)> {
    let mut keys = list_auth_event_keys(rules, event);
    let create = ("m.room.create".to_owned(), String::new());
    if !keys.contains(&create) {
        keys.push(create);
    }
    keys
}

/// Rules 2 and 3, checked once, when an event is received: `auth_events` are all the events that it
/// names in its `auth_events`; `create` is, from version 12 on, the event that its room ID is the hash of.
pub fn check_auth_events<'a>(
    event: &Event,
    rules: &RoomRules,
    create: Option<AuthEvent<'_>>,
    auth_events: impl IntoIterator<Item = AuthEvent<'a>>,
) -> Result<(), AuthRejection> {
    // Rule 1 says everything about create events.
    if event.kind() == "m.room.create" {
        return super::create::check(event, rules);
    }
    check_create(event, rules, create)?;
    let content = || event.read_content();
    let expected = auth_event_keys(rules, event.kind(), event.sender(), event.state_key(), content);
    let mut seen = HashSet::new();
    for AuthEvent { event: auth_event, rejected } in auth_events {
        let id = || auth_event.event_id().to_owned();
        let Some(state_key) = auth_event.state_key() else {
            return Err(AuthRejection::NeedlessAuthEvent(id()));
        };
        // Rule 3.1: if there are duplicate entries for a type and state key, reject.
        if !seen.insert((auth_event.kind(), state_key)) {
            return Err(AuthRejection::DuplicateAuthEvent(id()));
        }
        // Rule 3.2: if there are entries that the selection does not ask for, reject.
        if !expected.iter().any(|(kind, key)| auth_event.kind() == kind && state_key == key) {
            return Err(AuthRejection::NeedlessAuthEvent(id()));
        }
        // Rule 3.3: if there are entries that were rejected, reject.
        if rejected {
            return Err(AuthRejection::AuthEventRejected(id()));
        }
        // Rule 3.5: if any entry is of another room, reject.
        if auth_event.room_id() != event.room_id() {
            return Err(AuthRejection::AuthEventOfAnotherRoom(id()));
        }
    }
    // Rule 3.4, up to version 11: if there is no create event among the entries, reject.
    if !rules.room_id_is_create_hash && !seen.contains(&("m.room.create", "")) {
        return Err(AuthRejection::NoCreateInAuthEvents);
    }
    Ok(())
}

/// Rule 2 of version 12: the room ID must be that of an accepted create event.
fn check_create(
    event: &Event,
    rules: &RoomRules,
    create: Option<AuthEvent<'_>>,
) -> Result<(), AuthRejection> {
    if !rules.room_id_is_create_hash {
        return Ok(());
    }
    let create = create.ok_or(AuthRejection::CreateMissing)?;
    let names_room = create.event.kind() == "m.room.create"
        && create.event.event_id().as_str()[1..] == event.room_id().as_str()[1..];
    if !names_room {
        return Err(AuthRejection::CreateMissing);
    }
    if create.rejected { Err(AuthRejection::CreateRejected) } else { Ok(()) }
}
