//! Replacing a room by one of another version (client-server API, "Room Upgrades").

use std::sync::Arc;

use ruma::{OwnedUserId, RoomId, UserId};
use serde_json::{Map, Value, json};

use super::member_content::load_member_content;
use crate::{
    accounts::Accounts,
    protocol::{
        membership::Membership,
        power_levels::{NamedLevel, PowerLevel},
        room_version::RoomVersion,
    },
    rooms::{
        AppendError, CreateRoomError, DirectoryVisibility, EventRequest, InitialState, NewRoom,
        Preset, ReplaceError, Room, Rooms,
    },
    storage::{RoomNid, StorageError, WriteTx, aliases, aliases::AliasRow},
};

/// State that goes along to the new room, apart from the power levels and bans.
const CARRIED_KINDS: [&str; 8] = [
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
];
/// Members read at once.
const BANS_STEP: usize = 1000;
/// The level that the tombstone takes at least from version 12 on, above `state_default`.
const TOMBSTONE_LEVEL: i64 = 150;

/// What shall become of the room.
#[derive(Clone, Debug)]
pub struct Upgrade {
    pub user_id: OwnedUserId,
    pub version: RoomVersion,
    /// As the client sent them; version 12 checks them.
    pub additional_creators: Option<Value>,
}

/// Why a room was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error("you cannot upgrade this room")]
    Forbidden,
    #[error(transparent)]
    Create(#[from] CreateRoomError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<ReplaceError> for UpgradeError {
    fn from(error: ReplaceError) -> Self {
        match error {
            ReplaceError::New(error) => error.into(),
            ReplaceError::Old(error) => error.into(),
        }
    }
}

/// Makes the new room, moves aliases and the place in the directory, and closes the old room.
pub async fn upgrade_room(
    accounts: &Accounts,
    rooms: &Rooms,
    old: &Arc<Room>,
    upgrade: &Upgrade,
) -> Result<Arc<Room>, UpgradeError> {
    // 1. The user must be allowed to send the tombstone.
    if !rooms.may_send_state(old, &upgrade.user_id, "m.room.tombstone").await? {
        return Err(UpgradeError::Forbidden);
    }
    // 2. to 6. in one commit, so that a crash leaves both rooms or neither: the replacement, with its
    // predecessor and the state that goes along, the names that lead there, and the end of the old room.
    let new = design(accounts, rooms, old, upgrade).await?;
    let aliases = rooms.list_alias_rows(old).await?;
    let was_published = rooms.is_published(old).await?;
    let move_names = |tx: &mut WriteTx, room: RoomNid| {
        for row in &aliases {
            aliases::save(tx, &AliasRow { room, ..row.clone() });
        }
        if was_published {
            crate::storage::directory::publish(tx, room);
            crate::storage::directory::withdraw(tx, old.nid);
        }
    };
    let restriction = restrict_power_levels(old, &upgrade.user_id);
    let close = |id: &RoomId| {
        let mut closing = vec![tombstone(upgrade, id)];
        closing.extend(restriction.clone());
        closing
    };
    let room = match rooms.replace(old, &new, &close, &move_names).await {
        // "If possible, the power levels in the old room should also be modified".
        Err(ReplaceError::Old(AppendError::Rejected(_))) if restriction.is_some() => {
            let close = |id: &RoomId| vec![tombstone(upgrade, id)];
            rooms.replace(old, &new, &close, &move_names).await?
        }
        outcome => outcome?,
    };
    carry_names(rooms, old, (&room, &aliases), &upgrade.user_id).await;
    Ok(room)
}

/// Has the new room go by the names of the old one, as far as they lead to it now. Where that fails, it has
/// been replaced all the same.
async fn carry_names(
    rooms: &Rooms,
    old: &Room,
    (room, moved): (&Arc<Room>, &[AliasRow]),
    user: &UserId,
) {
    let head = old.head();
    let names = head.find_pinned("m.room.canonical_alias");
    let content = names.and_then(|event| event.event.content_as().ok());
    let Some(mut content): Option<Map<String, Value>> = content else { return };
    let leads_there = |name: &Value| moved.iter().any(|row| *name == *row.alias);
    if content.get("alias").is_some_and(|alias| !leads_there(alias)) {
        content.remove("alias");
    }
    if let Some(Value::Array(others)) = content.get_mut("alt_aliases") {
        others.retain(leads_there);
    }
    let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    if content.values().all(is_empty) {
        return;
    }
    let content = Value::Object(content);
    let request = EventRequest::state(user.to_owned(), "m.room.canonical_alias", "", content);
    if let Err(error) = rooms.append(room, &[request], None).await {
        tracing::warn!(room.id = %room.room_id, %error, "a new room does not go by its old names");
    }
}

fn tombstone(upgrade: &Upgrade, replacement: &RoomId) -> EventRequest {
    let content = json!({ "body": "This room has been replaced", "replacement_room": replacement });
    EventRequest::state(upgrade.user_id.clone(), "m.room.tombstone", "", content)
}

async fn design(
    accounts: &Accounts,
    rooms: &Rooms,
    old: &Arc<Room>,
    upgrade: &Upgrade,
) -> Result<NewRoom, UpgradeError> {
    let head = old.head();
    let mut initial_state = Vec::new();
    for kind in CARRIED_KINDS {
        if let Some(event) = rooms.find_state_event(old, kind, "").await? {
            let content = event.event.content_as().unwrap_or_default();
            let (kind, state_key) = (kind.to_owned(), String::new());
            initial_state.push(InitialState { kind, state_key, content });
        }
    }
    initial_state.extend(list_bans(rooms, old).await?);
    let (levels, restored) = carry_power_levels(old, upgrade);
    initial_state.extend(restored.map(|content| InitialState {
        kind: "m.room.power_levels".to_owned(),
        state_key: String::new(),
        content,
    }));
    let create = head.find_pinned("m.room.create");
    let create: Map<String, Value> =
        create.and_then(|event| event.event.content_as().ok()).unwrap_or_default();
    let mut creation_content = Map::new();
    for key in ["type", "m.federate"] {
        creation_content.extend(create.get(key).map(|value| (key.to_owned(), value.clone())));
    }
    creation_content.insert("predecessor".to_owned(), predecessor(old, upgrade.version));
    let creators = upgrade.additional_creators.as_ref();
    if let Some(creators) = creators.filter(|_| upgrade.version.rules().creators_privileged) {
        creation_content.insert("additional_creators".to_owned(), creators.clone());
    }
    Ok(NewRoom {
        creator: upgrade.user_id.clone(),
        version: upgrade.version,
        visibility: DirectoryVisibility::Private,
        preset: Some(Preset::PrivateChat),
        name: None,
        topic: None,
        invites: Vec::new(),
        creator_profile: load_member_content(accounts, &upgrade.user_id, None).await?,
        power_level_content_override: levels,
        creation_content,
        initial_state,
    })
}

/// The room that is replaced, with its last event. From version 12 on clients look for the tombstone
/// themselves (client-server API, "Room upgrades": it may be omitted).
fn predecessor(old: &Room, version: RoomVersion) -> Value {
    let head = old.head();
    let names_event = !version.rules().room_id_is_create_hash;
    match head.extremities.first().filter(|_| names_event) {
        Some(last) => json!({ "room_id": old.room_id, "event_id": last.event.event_id() }),
        None => json!({ "room_id": old.room_id }),
    }
}

/// The bans of users, so that nobody slips in through the new room.
async fn list_bans(rooms: &Rooms, old: &Room) -> Result<Vec<InitialState>, StorageError> {
    let head = old.head();
    let nids: Vec<_> = head.state.members().map(|(_, nid)| nid).collect();
    let mut bans = Vec::new();
    for step in nids.chunks(BANS_STEP) {
        for event in rooms.events().load(old.facts(), step).await? {
            if Membership::of_event(&event.event) == Some(Membership::Ban) {
                bans.push(InitialState {
                    kind: "m.room.member".to_owned(),
                    state_key: event.event.state_key().unwrap_or_default().to_owned(),
                    content: event.event.content_as().unwrap_or_default(),
                });
            }
        }
    }
    Ok(bans)
}

/// The old room's levels in the form of the new version: creators of version 12 are listed no
/// more, those of older versions are. Where the user who upgrades needs more power than they had
/// to set the room up, the second content takes it back.
fn carry_power_levels(
    old: &Room,
    upgrade: &Upgrade,
) -> (Map<String, Value>, Option<Map<String, Value>>) {
    let head = old.head();
    let event = head.find_pinned("m.room.power_levels");
    let mut content: Map<String, Value> =
        event.and_then(|event| event.event.content_as().ok()).unwrap_or_default();
    let rules = upgrade.version.rules();
    normalise_levels(&mut content);
    let mut users = content.get("users").and_then(Value::as_object).cloned().unwrap_or_default();
    let power = old.power_levels();
    if rules.creators_privileged {
        users.remove(upgrade.user_id.as_str());
        let creators = upgrade.additional_creators.as_ref().and_then(Value::as_array);
        for creator in creators.into_iter().flatten().filter_map(Value::as_str) {
            users.remove(creator);
        }
        raise_tombstone(&mut content);
    } else {
        // Whoever stood above all numbers gets the highest one that the room uses.
        let highest = users.values().filter_map(Value::as_i64).max().unwrap_or(100).max(100);
        for user in list_creators(old) {
            if power.user(&user) == PowerLevel::Infinite {
                users.insert(user.to_string(), highest.into());
            }
        }
        let user = upgrade.user_id.to_string();
        if users.get(&user).and_then(Value::as_i64).is_none_or(|level| level < highest) {
            content.insert("users".to_owned(), users.clone().into());
            let restored = content.clone();
            users.insert(user, highest.into());
            content.insert("users".to_owned(), users.into());
            return (content, Some(restored));
        }
    }
    content.insert("users".to_owned(), users.into());
    (content, None)
}

/// Levels as integers, which version 10 and later demand.
fn normalise_levels(content: &mut Map<String, Value>) {
    fn normalise(value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Ok(level) = text.trim().parse::<i64>() {
                    *value = level.into();
                }
            }
            Value::Number(number) if number.is_f64() => {
                *value = (number.as_f64().unwrap_or_default() as i64).into();
            }
            Value::Object(levels) => levels.values_mut().for_each(normalise),
            _ => {}
        }
    }
    content.values_mut().for_each(normalise);
}

/// "the power level for sending `m.room.tombstone` events MUST explicitly be higher than
/// `state_default`".
fn raise_tombstone(content: &mut Map<String, Value>) {
    let state_default = content.get("state_default").and_then(Value::as_i64).unwrap_or(50);
    let events = content.entry("events").or_insert_with(|| json!({}));
    if let Value::Object(events) = events {
        let level = events.get("m.room.tombstone").and_then(Value::as_i64).unwrap_or(0);
        if level <= state_default || level <= 100 {
            let level = TOMBSTONE_LEVEL.max(state_default + 1);
            events.insert("m.room.tombstone".to_owned(), level.into());
        }
    }
}

fn list_creators(room: &Room) -> Vec<OwnedUserId> {
    let power = room.power_levels();
    let create = power.create();
    create
        .into_iter()
        .flat_map(|create| create.creator.iter().chain(&create.additional_creators).cloned())
        .collect()
}

/// The old room's levels, so that ordinary users can neither speak nor invite there any more.
fn restrict_power_levels(old: &Room, user: &UserId) -> Option<EventRequest> {
    let head = old.head();
    let event = head.find_pinned("m.room.power_levels")?;
    let mut content: Map<String, Value> = event.event.content_as().ok()?;
    let power = old.power_levels();
    let least = (power.named(NamedLevel::UsersDefault) + 1).max(50);
    for level in [NamedLevel::EventsDefault, NamedLevel::Invite] {
        let raised = power.named(level).max(least);
        content.insert(level.as_str().to_owned(), raised.into());
    }
    let content = Value::Object(content);
    Some(EventRequest::state(user.to_owned(), "m.room.power_levels", "", content))
}
