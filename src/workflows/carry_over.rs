//! What a user has set for a room goes along into the room that replaces it: tags, the mark of a
//! direct room, push rules (client-server API, "Room Upgrades", "Server behaviour").

use ruma::{
    RoomId, UserId,
    push::{NewConditionalPushRule, NewPushRule, NewSimplePushRule, PushCondition},
};
use serde_json::{Map, Value, json};

use crate::{
    accounts::{
        Accounts,
        account_data::StoreDataError,
        push_rules::{ChangePushRulesError, PushRuleChange},
    },
    protocol::{membership::Membership, room_content::CreateContent},
    rooms::{Room, Rooms},
    storage::StorageError,
};

/// The account data that name direct rooms.
const DIRECT_KIND: &str = "m.direct";
/// Members of a new room who are looked at when the old one comes to its end.
const EARLY_MEMBERS_MAX: usize = 1000;

/// Why settings did not go along. The user is in the room all the same.
#[derive(Debug, thiserror::Error)]
pub enum CarryOverError {
    #[error(transparent)]
    Data(#[from] StoreDataError),
    #[error(transparent)]
    PushRules(#[from] ChangePushRulesError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Copies a user's settings of the room that this one replaces, if it replaces one that the user
/// was in.
pub async fn carry_settings_over(
    accounts: &Accounts,
    rooms: &Rooms,
    user_id: &UserId,
    room: &Room,
) -> Result<(), CarryOverError> {
    let head = room.head();
    let create = head.find_pinned("m.room.create");
    let create = create.map(|event| CreateContent::of_event(&event.event, room.rules));
    let Some(old) = create.and_then(|create| create.predecessor) else { return Ok(()) };
    let Some(old) = rooms.find(&old).await? else { return Ok(()) };
    // Only a room that names this one as its successor hands settings on.
    let tombstone = rooms.find_state_event(&old, "m.room.tombstone", "").await?;
    let names_room = |content: Value| content["replacement_room"] == room.room_id.as_str();
    let is_successor = tombstone.is_some_and(|t| t.event.content_as().is_ok_and(names_room));
    if !is_successor || rooms.rooms_of(user_id).await?.find(old.nid).is_none() {
        return Ok(());
    }
    carry_tags(accounts, user_id, (&old.room_id, &room.room_id)).await?;
    carry_direct(accounts, user_id, (&old.room_id, &room.room_id)).await?;
    carry_push_rules(accounts, user_id, (&old.room_id, &room.room_id)).await
}

/// The same for who was in the new room before the old one named it as its successor: whoever
/// replaces a room by hand makes the new one first.
pub async fn carry_settings_of_members(
    accounts: &Accounts,
    rooms: &Rooms,
    old: &Room,
) -> Result<(), CarryOverError> {
    let tombstone = rooms.find_state_event(old, "m.room.tombstone", "").await?;
    let content = tombstone.and_then(|tombstone| tombstone.event.content_as::<Value>().ok());
    let new = content.and_then(|content| content["replacement_room"].as_str().map(RoomId::parse));
    let Some(Ok(new)) = new else { return Ok(()) };
    let Some(new) = rooms.find(&new).await? else { return Ok(()) };
    let members: Vec<_> = new.head().state.members().map(|(_, nid)| nid).collect();
    let members = &members[..members.len().min(EARLY_MEMBERS_MAX)];
    for member in rooms.events().load(new.facts(), members).await? {
        let user = member.event.state_key().and_then(|user| <&UserId>::try_from(user).ok());
        let is_ours = |user: &&UserId| user.server_name() == rooms.server_name();
        if Membership::of_event(&member.event) == Some(Membership::Join)
            && let Some(user) = user.filter(is_ours)
        {
            carry_settings_over(accounts, rooms, user, &new).await?;
        }
    }
    Ok(())
}

async fn carry_tags(
    accounts: &Accounts,
    user_id: &UserId,
    (old, new): (&RoomId, &RoomId),
) -> Result<(), CarryOverError> {
    if !accounts.load_tags(user_id, new).await?.is_empty() {
        return Ok(());
    }
    for (tag, content) in accounts.load_tags(user_id, old).await? {
        accounts.change_tag(user_id, new, &tag, Some(content)).await?;
    }
    Ok(())
}

async fn carry_direct(
    accounts: &Accounts,
    user_id: &UserId,
    (old, new): (&RoomId, &RoomId),
) -> Result<(), CarryOverError> {
    let Some(content) = accounts.find_data(user_id, None, DIRECT_KIND).await? else {
        return Ok(());
    };
    let mut direct: Map<String, Value> = serde_json::from_str(&content).unwrap_or_default();
    let mut changed = false;
    for rooms in direct.values_mut().filter_map(Value::as_array_mut) {
        if rooms.iter().any(|id| id == old.as_str()) && !rooms.iter().any(|id| id == new.as_str()) {
            rooms.push(new.as_str().into());
            changed = true;
        }
    }
    if changed {
        let content = Value::Object(direct).to_string();
        accounts.store_data(user_id, None, DIRECT_KIND, &content).await?;
    }
    Ok(())
}

/// The rule for the room, and the one with which clients mute it.
async fn carry_push_rules(
    accounts: &Accounts,
    user_id: &UserId,
    (old, new): (&RoomId, &RoomId),
) -> Result<(), CarryOverError> {
    let rules = accounts.load_push_rules(user_id).await?;
    let insert = |rule| PushRuleChange::Insert { rule, before: None, after: None };
    let knows_new = rules.global.room.iter().any(|rule| rule.rule_id == *new)
        || rules.global.override_.iter().any(|rule| rule.rule_id == new.as_str());
    if knows_new {
        return Ok(());
    }
    if let Some(rule) = rules.global.room.iter().find(|rule| rule.rule_id == *old) {
        let rule = NewSimplePushRule::new(new.to_owned(), rule.actions.clone());
        accounts.change_push_rules(user_id, insert(NewPushRule::Room(rule))).await?;
    }
    let muting = rules.global.override_.iter().find(|rule| rule.rule_id == old.as_str());
    let here = json!({ "kind": "event_match", "key": "room_id", "pattern": new });
    if let (Some(rule), Ok(here)) = (muting, serde_json::from_value::<PushCondition>(here)) {
        let actions = rule.actions.clone();
        let rule = NewConditionalPushRule::new(new.to_string(), vec![here], actions);
        accounts.change_push_rules(user_id, insert(NewPushRule::Override(rule))).await?;
    }
    Ok(())
}
