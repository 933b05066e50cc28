//! The answer of `send_join`: the room's state before the join with its authorisation chain, as
//! JSON, and the state that is shown to who is invited or knocks.

use std::{collections::HashSet, sync::Arc};

use ruma::{OwnedEventId, UserId};
use serde_json::{Map, Value};

use super::{Federation, HandshakeError};
use crate::{
    protocol::event::Event,
    rooms::{MEMBER, Room, Rooms, StoredEvent, Taken},
    storage::EventNid,
};

/// Members whose events go along when members are omitted and the room has no name ("m.heroes").
const HEROES_MAX: usize = 5;
/// State that is shown to who is not in the room yet ("Stripped state", recommended types).
const SHOWN_KINDS: [&str; 8] = [
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.power_levels",
];

/// A room as a new resident gets it.
pub struct JoinAnswer {
    event: Arc<Event>,
    state: Vec<Arc<StoredEvent>>,
    auth_chain: Vec<Arc<StoredEvent>>,
    /// The servers in the room, when members were omitted.
    partial: Option<Vec<ruma::OwnedServerName>>,
    origin: String,
}

impl JoinAnswer {
    pub(super) async fn load(
        rooms: &Rooms,
        room: &Arc<Room>,
        taken: Taken,
        omit_members: bool,
    ) -> Result<Self, HandshakeError> {
        let mut state = Vec::new();
        for chunk in 0.. {
            let events = rooms.load_state_events(room, &taken.state_before, chunk).await?;
            if events.is_empty() {
                break;
            }
            state.extend(events);
        }
        let own_name = rooms.server_name();
        let mut partial = None;
        if omit_members {
            let servers = rooms.servers_in_room(room).await?;
            let joiner = taken.event.sender().server_name();
            let others = servers.iter().filter(|server| *server != joiner || *server == own_name);
            partial = Some(others.cloned().collect());
            omit_all_but_heroes(&mut state, taken.event.sender());
        }
        let mut roots: Vec<OwnedEventId> =
            taken.event.auth_events().map(ToOwned::to_owned).collect();
        roots.extend(state.iter().map(|event| event.event.event_id().to_owned()));
        let mut auth_chain = rooms.auth_chain(room, &roots).await?;
        // The chain of the join holds what the join names, too.
        let named: Vec<EventNid> = auth_chain.iter().map(|event| event.nid).collect();
        let mut present: HashSet<EventNid> = named.into_iter().collect();
        for id in taken.event.auth_events() {
            if let Some(event) = rooms.find_any_event(room, id).await?
                && present.insert(event.nid)
            {
                auth_chain.push(event);
            }
        }
        if omit_members {
            // "Any events that are returned in `state` may be omitted from `auth_chain`."
            let in_state: HashSet<EventNid> = state.iter().map(|event| event.nid).collect();
            auth_chain.retain(|event| !in_state.contains(&event.nid));
        }
        let origin = own_name.to_string();
        Ok(Self { event: taken.event, state, auth_chain, partial, origin })
    }

    /// The JSON of the answer. Events are written as they lie in memory.
    pub fn write(&self) -> String {
        let size = |events: &[Arc<StoredEvent>]| -> usize {
            events.iter().map(|event| event.event.json().len() + 1).sum()
        };
        let capacity = size(&self.state) + size(&self.auth_chain) + self.event.json().len() + 256;
        let mut text = String::with_capacity(capacity);
        text.push_str("{\"auth_chain\":");
        write_events(&mut text, &self.auth_chain);
        text.push_str(",\"event\":");
        text.push_str(self.event.json());
        text.push_str(",\"members_omitted\":");
        text.push_str(if self.partial.is_some() { "true" } else { "false" });
        text.push_str(",\"origin\":");
        text.push_str(&Value::from(self.origin.as_str()).to_string());
        if let Some(servers) = &self.partial {
            text.push_str(",\"servers_in_room\":");
            text.push_str(&serde_json::json!(servers).to_string());
        }
        text.push_str(",\"state\":");
        write_events(&mut text, &self.state);
        text.push('}');
        text
    }
}

impl Federation {
    /// `invite_room_state` and `knock_room_state`: full events, `m.room.create` among them, and the
    /// member event of who invites.
    pub(super) async fn list_shown_state(
        &self,
        room: &Arc<Room>,
        inviter: &UserId,
    ) -> Result<Vec<Value>, HandshakeError> {
        let head = room.head();
        let pinned = SHOWN_KINDS.iter().filter_map(|kind| head.find_pinned(kind).cloned());
        let mut events: Vec<Arc<StoredEvent>> = pinned.collect();
        events.extend(self.rooms().find_member(room, inviter).await?);
        let json = |event: &Arc<StoredEvent>| Value::Object(event.event.to_object());
        Ok(events.iter().map(json).collect())
    }
}

/// Appends events as a JSON array.
pub fn write_events(text: &mut String, events: &[Arc<StoredEvent>]) {
    text.push('[');
    for (number, event) in events.iter().enumerate() {
        text.push_str(if number > 0 { "," } else { "" });
        text.push_str(event.event.json());
    }
    text.push(']');
}

/// Leaves the members out; some of them stay when the room has neither name nor alias, and the one
/// who joins in any case.
fn omit_all_but_heroes(state: &mut Vec<Arc<StoredEvent>>, joiner: &UserId) {
    let names_itself = |event: &Arc<StoredEvent>| {
        let content: Map<String, Value> = event.event.content_as().unwrap_or_default();
        let text =
            |key: &str| content.get(key).and_then(Value::as_str).is_some_and(|t| !t.is_empty());
        event.event.is_state_of("m.room.name", "") && text("name")
            || event.event.is_state_of("m.room.canonical_alias", "") && text("alias")
    };
    let mut heroes = if state.iter().any(names_itself) { 0 } else { HEROES_MAX };
    state.retain(|event| {
        if event.event.kind() != MEMBER || event.event.state_key() == Some(joiner.as_str()) {
            return true;
        }
        let is_hero = heroes > 0
            && matches!(
                crate::protocol::membership::Membership::of_event(&event.event),
                Some(
                    crate::protocol::membership::Membership::Join
                        | crate::protocol::membership::Membership::Invite
                )
            );
        heroes -= usize::from(is_hero);
        is_hero
    });
}
