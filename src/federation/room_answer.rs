//! The answer of `send_join`: the room's state before the join with its authorisation chain, and the
//! state that is shown to who is invited or knocks.

use std::{collections::HashSet, sync::Arc};

use ruma::{OwnedServerName, UserId};
use serde_json::Value;

use super::{Federation, HandshakeError, events_answer::EventsAnswer};
use crate::{
    protocol::{event::Event, membership::Membership},
    rooms::{Room, Rooms, StoredEvent, Taken},
    storage::EventNid,
};

/// Members whose events go along when members are omitted and the room has no name ("m.heroes").
const HEROES_MAX: usize = 5;
/// Members looked at to find them.
const HERO_CANDIDATES_MAX: usize = 64;
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
struct JoinAnswer {
    state: Vec<EventNid>,
    auth_chain: Vec<EventNid>,
    /// The servers in the room, when members were omitted.
    partial: Option<Vec<OwnedServerName>>,
}

impl JoinAnswer {
    async fn load(
        rooms: &Rooms,
        room: &Arc<Room>,
        taken: &Taken,
        omit_members: bool,
    ) -> Result<Self, HandshakeError> {
        let before = &taken.state_before;
        let mut state: Vec<EventNid> = before.iter().map(|(_, nid)| nid).collect();
        let mut partial = None;
        if omit_members {
            partial = Some(list_servers_before(rooms, room, taken).await?);
            state = before.iter().filter(|(key, _)| !key.is_membership()).map(|(_, n)| n).collect();
            state.extend(list_kept_members(rooms, room, taken).await?);
        }
        let mut roots = state.clone();
        let named: Vec<_> = taken.event.auth_events().collect();
        let mut named_nids = Vec::with_capacity(named.len());
        for id in named {
            named_nids.extend(rooms.find_any_event(room, id).await?.map(|event| event.nid));
        }
        roots.extend(&named_nids);
        let mut auth_chain = rooms.list_auth_chain(room, &roots).await?;
        // The chain of the join holds what the join names, too.
        let present: HashSet<EventNid> = auth_chain.iter().copied().collect();
        auth_chain.extend(named_nids.into_iter().filter(|nid| !present.contains(nid)));
        if omit_members {
            // "Any events that are returned in `state` may be omitted from `auth_chain`."
            let in_state: HashSet<EventNid> = state.iter().copied().collect();
            auth_chain.retain(|nid| !in_state.contains(nid));
        }
        Ok(Self { state, auth_chain, partial })
    }

    /// The chain comes first, so that the other server can judge the state while it comes in.
    fn into_events(self, (rooms, room): (&Rooms, &Arc<Room>), event: &Event) -> EventsAnswer {
        let origin = Value::from(rooms.server_name().as_str());
        let mut middle = format!(
            ",\"event\":{},\"members_omitted\":{},\"origin\":{origin}",
            event.json(),
            self.partial.is_some()
        );
        if let Some(servers) = &self.partial {
            middle.push_str(",\"servers_in_room\":");
            middle.push_str(&serde_json::json!(servers).to_string());
        }
        middle.push_str(",\"state\":");
        EventsAnswer::new(rooms, room)
            .text("{\"auth_chain\":")
            .events(self.auth_chain)
            .text(middle)
            .events(self.state)
            .text("}")
    }
}

/// The answer of `send_join`.
pub(super) async fn answer_join(
    rooms: &Rooms,
    room: &Arc<Room>,
    taken: Taken,
    omit_members: bool,
) -> Result<EventsAnswer, HandshakeError> {
    let answer = JoinAnswer::load(rooms, room, &taken, omit_members).await?;
    Ok(answer.into_events((rooms, room), &taken.event))
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

/// `servers_in_room`: "the servers active in the room (ie, those with joined members) before the join".
async fn list_servers_before(
    rooms: &Rooms,
    room: &Arc<Room>,
    taken: &Taken,
) -> Result<Vec<OwnedServerName>, HandshakeError> {
    let servers = rooms.servers_in_room(room).await?;
    let joiner = taken.event.sender().server_name();
    let was_there = |server: &&OwnedServerName| *server != joiner || *server == rooms.server_name();
    Ok(servers.iter().filter(was_there).cloned().collect())
}

/// The members that stay when the others are left out: the one who joins and, when the room has neither
/// name nor alias, those who stand for one (`m.heroes`).
async fn list_kept_members(
    rooms: &Rooms,
    room: &Arc<Room>,
    taken: &Taken,
) -> Result<Vec<EventNid>, HandshakeError> {
    let before = &taken.state_before;
    let mut kept = Vec::new();
    if let Some(own) = rooms.keys().find_user(taken.event.sender().as_str()).await? {
        kept.extend(before.get(own));
    }
    let head = room.head();
    let names = [("m.room.name", "name"), ("m.room.canonical_alias", "alias")];
    let has_text = |(kind, property): &(&str, &str)| {
        let content =
            head.find_pinned(kind).and_then(|event| event.event.content_as::<Value>().ok());
        content.and_then(|c| Some(!c.get(property)?.as_str()?.is_empty())).unwrap_or(false)
    };
    if names.iter().any(has_text) {
        return Ok(kept);
    }
    let mut candidates: Vec<EventNid> = before.members().map(|(_, nid)| nid).collect();
    candidates.sort_unstable();
    candidates.truncate(HERO_CANDIDATES_MAX);
    let mut heroes = 0;
    for member in rooms.events().load(room.facts(), &candidates).await? {
        let membership = Membership::of_event(&member.event);
        let is_hero = matches!(membership, Some(Membership::Join | Membership::Invite));
        if is_hero && heroes < HEROES_MAX && !kept.contains(&member.nid) {
            heroes += 1;
            kept.push(member.nid);
        }
    }
    Ok(kept)
}
