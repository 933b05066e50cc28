//! What is derived from an event or a head when it is appended: the directory's summary of a
//! room, relations, whether an event notifies by default.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    event_store::{StoredEvent, event_key},
    relationships::relationship_of,
    room::Head,
};
use crate::{
    protocol::{
        event::Event,
        history_visibility::HistoryVisibility,
        push_rules::{POLL_END, POLL_START},
        room_content::{CreateContent, JoinRules},
        room_version::RoomRules,
    },
    storage::{self, WriteTx, relations::Relation, rooms::SummaryRow},
};

#[derive(Deserialize)]
struct RelatesTo<'a> {
    #[serde(borrow)]
    rel_type: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    event_id: Option<std::borrow::Cow<'a, str>>,
}

/// What `m.relates_to` says: type of the relation and the event it points at (client-server
/// API, "Forming relationships between events").
pub fn relation_of(event: &Event) -> Option<(String, ruma::OwnedEventId)> {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow, rename = "m.relates_to")]
        relates_to: Option<&'a RawValue>,
    }
    if !event.content_json().contains("m.relates_to") {
        return None;
    }
    let content: Content<'_> = event.content_as().ok()?;
    let relates_to: RelatesTo<'_> = serde_json::from_str(content.relates_to?.get()).ok()?;
    relates_to.into_relation()
}

/// As [`relation_of`], of content on its way to become an event.
pub(super) fn relation_of_content(content: &Value) -> Option<(String, ruma::OwnedEventId)> {
    RelatesTo::deserialize(content.get("m.relates_to")?).ok()?.into_relation()
}

impl RelatesTo<'_> {
    fn into_relation(self) -> Option<(String, ruma::OwnedEventId)> {
        let target = ruma::EventId::parse(self.event_id?.as_ref()).ok()?;
        let rel_type = self.rel_type?.into_owned();
        (!rel_type.contains('\0')).then_some((rel_type, target))
    }
}

/// The relation that the store keeps of an event. State events do not relate.
pub(super) fn relation_to_keep(event: &Event) -> Option<(String, ruma::OwnedEventId)> {
    let can_relate = !event.is_state() && !event.kind().contains('\0');
    can_relate.then(|| relationship_of(event)).flatten()
}

/// Adds the row of the event's relation, if it has one.
pub(super) fn insert_relation(tx: &mut WriteTx, stored: &StoredEvent) {
    let event = &stored.event;
    if let Some((rel_type, target)) = relation_to_keep(event) {
        let relation = Relation {
            target_key: &event_key(&target),
            event: stored.nid,
            room: stored.room_nid,
            rel_type: &rel_type,
            kind: event.kind(),
            sender: event.sender().as_str(),
        };
        storage::relations::insert(tx, &relation);
    }
}

/// Removes the row of a redacted event's relation.
pub(super) fn delete_relation(tx: &mut WriteTx, stored: &StoredEvent) {
    if let Some((_, target)) = relationship_of(&stored.event) {
        storage::relations::delete(tx, &event_key(&target), stored.nid);
    }
}

/// Whether the server-default push rules notify of the event in every room: messages and
/// encrypted events, less notices and edits (client-server API, "Predefined rules"), and polls.
pub fn notifies_by_default(event: &Event) -> bool {
    if event.is_state() {
        return false;
    }
    match event.kind() {
        "m.room.message" => {
            let notice = event.content_json().contains("m.notice")
                && event.content_as::<Value>().is_ok_and(|c| c["msgtype"] == "m.notice");
            !notice && relation_of(event).is_none_or(|(rel_type, _)| rel_type != "m.replace")
        }
        "m.room.encrypted" | POLL_START | POLL_END => {
            relation_of(event).is_none_or(|(rel_type, _)| rel_type != "m.replace")
        }
        "m.call.invite" => true,
        _ => false,
    }
}

/// What the room directory shows of a room.
pub(super) fn of_head(head: &Head, rules: &RoomRules) -> SummaryRow {
    let text = |kind: &str, property: &str| {
        let content: Value = head.find_pinned(kind)?.event.content_as().ok()?;
        Some(content.get(property)?.as_str()?.to_owned()).filter(|text| !text.is_empty())
    };
    let event = |kind: &str| head.find_pinned(kind).map(|stored| &*stored.event);
    let create = event("m.room.create").map(|create| CreateContent::of_event(create, rules));
    SummaryRow {
        name: text("m.room.name", "name"),
        topic: text("m.room.topic", "topic"),
        canonical_alias: text("m.room.canonical_alias", "alias"),
        avatar_url: text("m.room.avatar", "url"),
        join_rule: JoinRules::of_state(event("m.room.join_rules")).join_rule.as_str().to_owned(),
        world_readable: HistoryVisibility::of_state(event("m.room.history_visibility"))
            == HistoryVisibility::WorldReadable,
        guest_can_join: text("m.room.guest_access", "guest_access").as_deref() == Some("can_join"),
        room_type: create.and_then(|create| create.room_type),
        encryption: text("m.room.encryption", "algorithm"),
    }
}
