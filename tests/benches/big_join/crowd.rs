//! A room of many members, made without an engine: the events and what other servers are told of them.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use hearth::{
    clock::Clock,
    protocol::{
        authorisation::list_auth_event_keys, event::Event, event_builder::EventDraft,
        room_version::RoomVersion, signing::SigningKey,
    },
};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, UserId};
use serde_json::{Value, json};

/// The version whose rooms the benchmark makes.
pub const VERSION: RoomVersion = RoomVersion::V11;

/// A public room in which everybody is of one server.
pub struct Crowd {
    name: OwnedServerName,
    pub key: SigningKey,
    pub room_id: OwnedRoomId,
    founder: String,
    clock: Clock,
    /// The state by type and state key.
    state: HashMap<(String, String), Arc<Event>>,
    /// The latest event.
    tip: Option<Arc<Event>>,
    depth: i64,
}

impl Crowd {
    /// Makes a room with a founder and further members.
    pub fn gather(name: &OwnedServerName, members: usize) -> Self {
        let founder = format!("@founder:{name}");
        let mut crowd = Self {
            name: name.clone(),
            key: SigningKey::from_seed("bench", &[7; 32]).expect("is a key"),
            room_id: RoomId::parse(format!("!crowd:{name}")).expect("is an ID"),
            founder: founder.clone(),
            clock: Clock::real(),
            state: HashMap::new(),
            tip: None,
            depth: 0,
        };
        let create = json!({ "room_version": VERSION.as_str() });
        crowd.add(&founder, ("m.room.create", ""), create);
        crowd.add(&founder, ("m.room.member", &founder), json!({ "membership": "join" }));
        let levels = json!({ "users": { &founder: 100 } });
        crowd.add(&founder, ("m.room.power_levels", ""), levels);
        crowd.add(&founder, ("m.room.join_rules", ""), json!({ "join_rule": "public" }));
        crowd.add(&founder, ("m.room.name", ""), json!({ "name": "Crowd" }));
        for number in 1..members {
            let user = format!("@member{number}:{name}");
            let content = json!({ "membership": "join", "displayname": format!("No. {number}") });
            crowd.add(&user, ("m.room.member", &user), content);
        }
        crowd
    }

    fn add(&mut self, sender: &str, key: (&str, &str), content: Value) {
        let draft = self.draft(sender, key, content);
        self.depth = draft.depth;
        let event = draft.seal(VERSION.rules(), &self.name, &self.key).expect("is an event");
        let event = Arc::new(event);
        self.state.insert((key.0.to_owned(), key.1.to_owned()), Arc::clone(&event));
        self.tip = Some(event);
    }

    fn draft(&self, sender: &str, (kind, key): (&str, &str), content: Value) -> EventDraft {
        let mut draft = EventDraft {
            room_id: Some(self.room_id.clone()),
            sender: UserId::parse(sender).expect("is a user"),
            kind: kind.to_owned(),
            state_key: Some(key.to_owned()),
            content,
            prev_events: self.tip.iter().map(|event| event.event_id().to_owned()).collect(),
            auth_events: Vec::new(),
            depth: self.depth + 1,
            origin_server_ts: self.clock.now_ms().cast_signed(),
            redacts: None,
            sticky_ms: None,
            opaque_names: None,
        };
        let keys = list_auth_event_keys(VERSION.rules(), &draft);
        let found = keys.iter().filter_map(|key| self.state.get(key));
        draft.auth_events = found.map(|event| event.event_id().to_owned()).collect();
        draft
    }

    /// The answer of `make_join`.
    pub fn write_template(&self, user: &str) -> Bytes {
        let draft = self.draft(user, ("m.room.member", user), json!({ "membership": "join" }));
        let template = draft.into_template(VERSION.rules(), &self.name).expect("is a template");
        json!({ "room_version": VERSION.as_str(), "event": template }).to_string().into()
    }

    /// The answer of `send_join` without the members (MSC3706).
    pub fn write_entry(&self, join: &str) -> Bytes {
        let (chain, state) = (join_texts(self.list_chain()), join_texts(self.list_others()));
        let name = &self.name;
        format!(
            r#"{{"auth_chain":[{chain}],"event":{join},"members_omitted":true,"origin":"{name}","servers_in_room":["{name}"],"state":[{state}]}}"#
        )
        .into()
    }

    /// The answer of `GET /state`, the same at all events after the last member came.
    pub fn write_state(&self) -> Bytes {
        let (chain, state) = (join_texts(self.list_chain()), join_texts(self.list_all()));
        format!(r#"{{"auth_chain":[{chain}],"pdus":[{state}]}}"#).into()
    }

    /// The answer of `GET /state_ids`.
    pub fn write_state_ids(&self) -> Bytes {
        let chain: Vec<&str> = self.list_chain().map(|event| event.event_id().as_str()).collect();
        let state: Vec<&str> = self.list_all().map(|event| event.event_id().as_str()).collect();
        json!({ "auth_chain_ids": chain, "pdu_ids": state }).to_string().into()
    }

    fn list_all(&self) -> impl Iterator<Item = &Event> {
        self.state.values().map(|event| &**event)
    }

    fn list_others(&self) -> impl Iterator<Item = &Event> {
        self.list_all().filter(|event| event.kind() != "m.room.member")
    }

    /// What authorised all of it: everything but the members, and the founder.
    fn list_chain(&self) -> impl Iterator<Item = &Event> {
        let founder = self.state.get(&("m.room.member".to_owned(), self.founder.clone()));
        self.list_others().chain(founder.map(|event| &**event))
    }
}

fn join_texts<'a>(events: impl Iterator<Item = &'a Event>) -> String {
    events.map(Event::json).collect::<Vec<_>>().join(",")
}
