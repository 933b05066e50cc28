//! A room in memory, with one server per user: what the tables of rules and the generators build on.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use base64::Engine as _;
use hearth::protocol::{
    authorisation::{AuthRejection, authorise, list_auth_event_keys},
    event::Event,
    event_builder::{EventDraft, OpaqueNames},
    event_hash,
    room_version::{RoomRules, RoomVersion},
    signing::{SigningKey, UNPADDED_BASE64},
    state_key::{StateKey, StateLookup as _},
};
use ruma::{OwnedEventId, OwnedRoomId, RoomId, UserId};
use serde_json::{Value, json};

pub const ALICE: &str = "@alice:a.example";
pub const BOB: &str = "@bob:b.example";
pub const CAROL: &str = "@carol:c.example";

pub type State = HashMap<StateKey, Arc<Event>>;

/// A room without forks: every accepted event follows the last one.
pub struct Room {
    pub version: RoomVersion,
    pub room_id: OwnedRoomId,
    pub state: State,
    pub events: HashMap<OwnedEventId, Arc<Event>>,
    pub head: Vec<OwnedEventId>,
    key: SigningKey,
    counter: i64,
}

impl Room {
    /// A room that Alice has just created and not yet joined.
    pub fn new(version: RoomVersion) -> Self {
        Self::with_create(version, json!({}))
    }

    pub fn with_create(version: RoomVersion, mut content: Value) -> Self {
        content["room_version"] = json!(version.as_str());
        if version.rules().creator_in_content {
            content["creator"] = json!(ALICE);
        }
        let mut room = Self {
            version,
            room_id: RoomId::parse("!room:a.example").unwrap(),
            state: State::new(),
            events: HashMap::new(),
            head: Vec::new(),
            key: SigningKey::from_seed("test", &[7; 32]).unwrap(),
            counter: 0,
        };
        let create = room.send(ALICE, "m.room.create", Some(""), content).unwrap();
        room.room_id = create.room_id().to_owned();
        room
    }

    /// A room that Alice has created and joined.
    pub fn joined(version: RoomVersion) -> Self {
        let mut room = Self::new(version);
        room.member(ALICE, ALICE, "join").unwrap();
        room
    }

    /// As [`Room::joined`], open to everybody, and joined by Bob.
    pub fn public(version: RoomVersion) -> Self {
        let mut room = Self::joined(version);
        room.join_rule("public");
        room.member(BOB, BOB, "join").unwrap();
        room
    }

    pub fn rules(&self) -> &'static RoomRules {
        self.version.rules()
    }

    /// Makes an event on top of the current state, whether or not it is allowed.
    pub fn make(
        &mut self,
        sender: &str,
        kind: &str,
        state_key: Option<&str>,
        content: Value,
    ) -> Arc<Event> {
        let mut draft = self.draft(sender, kind, state_key, content);
        let keys = list_auth_event_keys(self.rules(), &draft);
        let found = keys.iter().filter_map(|(kind, key)| self.state.find(kind, key));
        draft.auth_events = found.map(|event| event.event_id().to_owned()).collect();
        self.seal(draft)
    }

    pub fn draft(
        &mut self,
        sender: &str,
        kind: &str,
        state_key: Option<&str>,
        content: Value,
    ) -> EventDraft {
        self.counter += 1;
        let implied = kind == "m.room.create" && self.rules().room_id_is_create_hash;
        EventDraft {
            room_id: (!implied).then(|| self.room_id.clone()),
            sender: UserId::parse(sender).unwrap(),
            kind: kind.to_owned(),
            state_key: state_key.map(str::to_owned),
            content,
            prev_events: self.head.clone(),
            auth_events: Vec::new(),
            depth: self.counter,
            origin_server_ts: 1_700_000_000_000 + self.counter,
            redacts: None,
            sticky_ms: None,
            opaque_names: None,
        }
    }

    pub fn seal(&self, mut draft: EventDraft) -> Arc<Event> {
        let rules = self.rules();
        if rules.has_event_id_field() {
            let links = draft.prev_events.iter().chain(&draft.auth_events);
            let hash = |id: &OwnedEventId| {
                let object = self.events[id].to_object();
                UNPADDED_BASE64.encode(event_hash::reference_hash(rules, &object))
            };
            let reference_hashes: BTreeMap<_, _> = links.map(|id| (id.clone(), hash(id))).collect();
            let opaque_id = format!("event{}", self.counter);
            draft.opaque_names = Some(OpaqueNames { opaque_id, reference_hashes });
        }
        let server = draft.sender.server_name().to_owned();
        Arc::new(draft.seal(rules, &server, &self.key).unwrap())
    }

    /// Makes an event, judges it by the current state, and applies it if it is allowed.
    pub fn send(
        &mut self,
        sender: &str,
        kind: &str,
        state_key: Option<&str>,
        content: Value,
    ) -> Result<Arc<Event>, AuthRejection> {
        let event = self.make(sender, kind, state_key, content);
        self.judge(&event)?;
        self.apply(&event);
        Ok(event)
    }

    pub fn judge(&self, event: &Event) -> Result<(), AuthRejection> {
        authorise(event, self.rules(), &self.state)
    }

    pub fn apply(&mut self, event: &Arc<Event>) {
        self.events.insert(event.event_id().to_owned(), Arc::clone(event));
        self.head = vec![event.event_id().to_owned()];
        if let Some(key) = StateKey::of_event(event) {
            self.state.insert(key, Arc::clone(event));
        }
    }

    pub fn member(
        &mut self,
        sender: &str,
        target: &str,
        membership: &str,
    ) -> Result<Arc<Event>, AuthRejection> {
        self.send(sender, "m.room.member", Some(target), json!({ "membership": membership }))
    }

    pub fn message(&mut self, sender: &str) -> Result<Arc<Event>, AuthRejection> {
        self.send(sender, "m.room.message", None, json!({"body": "hello"}))
    }

    pub fn join_rule(&mut self, rule: &str) {
        self.send(ALICE, "m.room.join_rules", Some(""), json!({ "join_rule": rule })).unwrap();
    }

    pub fn power(&mut self, sender: &str, content: Value) -> Result<Arc<Event>, AuthRejection> {
        self.send(sender, "m.room.power_levels", Some(""), content)
    }

    /// Power levels that give `users` their levels, and Alice 100 where she may be named.
    pub fn power_of(&mut self, users: &[(&str, i64)]) {
        let mut levels: BTreeMap<_, _> = users.iter().copied().collect();
        if !self.rules().creators_privileged {
            levels.insert(ALICE, 100);
        }
        self.power(ALICE, json!({ "users": levels })).unwrap();
    }
}
