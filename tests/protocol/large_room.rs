//! Rooms of many members whose history forks into many branches: what the cost of state resolution is
//! measured on. States are kept as the store keeps them: persistent maps of numbers.
//!
//! Not for finding errors (`graph` makes rooms for that): here everybody is allowed what they do.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hearth::protocol::{
    authorisation::list_auth_event_keys,
    event::Event,
    event_builder::EventDraft,
    room_version::{RoomRules, RoomVersion, StateResolutionVersion},
    signing::SigningKey,
    state_key::{StateKey, StatePair},
    state_resolution::{
        Conflict, Holders, KnownEvent, NoVerdicts, SharedSplit, UnconflictedState,
        auth_difference_beyond, conflicted_subgraph, resolve, split_shared,
    },
};
use imbl::OrdMap;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, UserId};
use serde_json::{Value, json};

/// Who may ban and set topics.
const MODERATORS: usize = 20;
/// The least that the branches need to have somebody to act upon.
pub const MEMBERS_MIN: usize = 200;

/// Numbers of state keys and of events.
pub type State = OrdMap<u32, u32>;

pub struct LargeRoom {
    pub version: RoomVersion,
    pub events: HashMap<OwnedEventId, KnownEvent>,
    /// By the number of the event.
    pub ids: Vec<OwnedEventId>,
    pub base: State,
    /// The state at the end of each branch.
    pub branches: Vec<State>,
    keys: HashMap<StateKey, u32>,
    /// Who names an event for its authorisation.
    children: Vec<Vec<u32>>,
    room_id: OwnedRoomId,
    key: SigningKey,
}

/// What resolution is given, and the numbers that it is measured by.
pub struct Prepared {
    pub split: SharedSplit<u32, u32>,
    pub auth_difference: Vec<OwnedEventId>,
    pub subgraph: Vec<OwnedEventId>,
}

/// Looks up the agreed state by the names of keys.
struct Unconflicted<'a> {
    room: &'a LargeRoom,
    state: &'a State,
}

impl UnconflictedState for Unconflicted<'_> {
    fn find(&self, kind: &str, state_key: &str) -> Option<OwnedEventId> {
        let key = self.room.keys.get(&(kind, state_key) as &dyn StatePair)?;
        Some(self.room.ids[*self.state.get(key)? as usize].clone())
    }
}

impl LargeRoom {
    pub fn new(version: RoomVersion, members: usize, branches: usize) -> Self {
        assert!(members >= MEMBERS_MIN && branches <= MEMBERS_MIN / 2);
        assert!(!version.rules().has_event_id_field(), "only versions whose event IDs are hashes");
        let mut room = Self {
            version,
            events: HashMap::new(),
            ids: Vec::new(),
            base: State::new(),
            branches: Vec::new(),
            keys: HashMap::new(),
            children: Vec::new(),
            room_id: RoomId::parse("!room:s0.example").unwrap(),
            key: SigningKey::from_seed("test", &[7; 32]).unwrap(),
        };
        let mut state = State::new();
        let creator = user(0);
        let create = json!({"room_version": version.as_str()});
        room.send(&mut state, &creator, "m.room.create", "", create);
        room.send(&mut state, &creator, "m.room.member", &creator, json!({"membership": "join"}));
        let levels = room.levels(None);
        room.send(&mut state, &creator, "m.room.power_levels", "", levels);
        let rule = json!({"join_rule": "public"});
        room.send(&mut state, &creator, "m.room.join_rules", "", rule);
        for user in (1..members).map(user) {
            room.send(&mut state, &user, "m.room.member", &user, json!({"membership": "join"}));
        }
        room.base = state;
        room.branches = (0..branches).map(|number| room.branch(number)).collect();
        room
    }

    pub fn rules(&self) -> &'static RoomRules {
        self.version.rules()
    }

    /// What one server sees alone: power changes, a ban, a topic, a new member, a new name, a widget.
    fn branch(&mut self, number: usize) -> State {
        let mut state = self.base.clone();
        let (creator, moderator) = (user(0), user(1 + number % MODERATORS));
        let member = |membership: &str| json!({ "membership": membership });
        let levels = self.levels(Some(number));
        self.send(&mut state, &creator, "m.room.power_levels", "", levels);
        let target = user(MEMBERS_MIN / 2 + number);
        self.send(&mut state, &moderator, "m.room.member", &target, member("ban"));
        self.send(&mut state, &moderator, "m.room.topic", "", json!({ "topic": number }));
        let newcomer = format!("@new{number}:s9.example");
        self.send(&mut state, &newcomer, "m.room.member", &newcomer, member("join"));
        let renamed = user(MODERATORS + 1 + number % 70);
        let mut content = member("join");
        content["displayname"] = json!(format!("name {number}"));
        self.send(&mut state, &renamed, "m.room.member", &renamed, content);
        let widget = format!("widget{}", number % 7);
        self.send(&mut state, &moderator, "org.example.widget", &widget, json!({ "n": number }));
        state
    }

    fn levels(&self, branch: Option<usize>) -> Value {
        let mut users: BTreeMap<String, i64> =
            (1..=MODERATORS).map(|number| (user(number), 50)).collect();
        if !self.rules().creators_privileged {
            users.insert(user(0), 100);
        }
        if let Some(number) = branch {
            users.insert(user(MODERATORS + 1 + number), 10);
        }
        json!({ "users": users, "events": {"m.room.topic": 50} })
    }

    fn send(
        &mut self,
        state: &mut State,
        sender: &str,
        kind: &str,
        state_key: &str,
        content: Value,
    ) {
        let implied = kind == "m.room.create" && self.rules().room_id_is_create_hash;
        let mut draft = EventDraft {
            room_id: (!implied).then(|| self.room_id.clone()),
            sender: UserId::parse(sender).unwrap(),
            kind: kind.to_owned(),
            state_key: Some(state_key.to_owned()),
            content,
            prev_events: self.ids.last().cloned().into_iter().collect(),
            auth_events: Vec::new(),
            depth: self.ids.len() as i64 + 1,
            origin_server_ts: 1_700_000_000_000 + self.ids.len() as i64,
            redacts: None,
            sticky_ms: None,
            opaque_names: None,
        };
        let cited: Vec<u32> = list_auth_event_keys(self.rules(), &draft)
            .iter()
            .filter_map(|(kind, key)| {
                self.keys.get(&(kind.as_str(), key.as_str()) as &dyn StatePair)
            })
            .filter_map(|key| state.get(key).copied())
            .collect();
        draft.auth_events = cited.iter().map(|nid| self.ids[*nid as usize].clone()).collect();
        let server = draft.sender.server_name().to_owned();
        let event = draft.seal(self.rules(), &server, &self.key).unwrap();
        if kind == "m.room.create" {
            self.room_id = event.room_id().to_owned();
        }
        let (nid, fresh_key) = (self.ids.len() as u32, self.keys.len() as u32);
        let key = *self.keys.entry(StateKey::new(kind, state_key)).or_insert(fresh_key);
        state.insert(key, nid);
        cited.iter().for_each(|parent| self.children[*parent as usize].push(nid));
        self.children.push(Vec::new());
        self.ids.push(event.event_id().to_owned());
        let known = KnownEvent { event: Arc::new(event), rejected: false };
        self.events.insert(self.ids[nid as usize].clone(), known);
    }

    /// All of what the store does where branches meet: takes their states apart, finds the difference of
    /// their authorisation chains, resolves, and makes the state that results.
    pub fn resolve(&self, branches: &[State]) -> State {
        let prepared = self.prepare(branches);
        self.resolve_prepared(&prepared)
    }

    pub fn prepare(&self, branches: &[State]) -> Prepared {
        let states: Vec<&State> = branches.iter().collect();
        let split = split_shared(&states, self.rules());
        let held: Vec<(OwnedEventId, Holders)> = split
            .conflicted
            .iter()
            .map(|(nid, holders)| (self.ids[*nid as usize].clone(), holders.clone()))
            .collect();
        let is_shared = |id: &EventId| self.is_shared(id, &split.unconflicted);
        let auth_difference =
            auth_difference_beyond(&held, states.len(), &is_shared, &self.events).unwrap();
        let subgraph = if self.rules().state_resolution == StateResolutionVersion::V2_1 {
            let ends: Vec<OwnedEventId> = held.into_iter().map(|(id, _)| id).collect();
            conflicted_subgraph(&ends, &self.events).unwrap()
        } else {
            Vec::new()
        };
        Prepared { split, auth_difference, subgraph }
    }

    pub fn resolve_prepared(&self, prepared: &Prepared) -> State {
        let unconflicted = Unconflicted { room: self, state: &prepared.split.unconflicted };
        let conflicted = prepared.split.conflicted.keys();
        let conflict = Conflict {
            unconflicted: &unconflicted,
            conflicted: conflicted.map(|nid| self.ids[*nid as usize].clone()).collect(),
            auth_difference: prepared.auth_difference.clone(),
            conflicted_subgraph: prepared.subgraph.clone(),
            verdicts: &NoVerdicts,
        };
        let resolved = resolve(&conflict, self.rules(), &self.events).unwrap();
        let mut state = prepared.split.unconflicted.clone();
        for (key, id) in resolved {
            state.insert(self.keys[&key], self.number_of(&id));
        }
        state
    }

    /// Whether the event is agreed on, or in the authorisation chain of one that is: as the store finds
    /// out, from the event to those that name it.
    fn is_shared(&self, id: &EventId, unconflicted: &State) -> bool {
        let holds = |nid: &u32| {
            let key = StateKey::of_event(&self.events[&self.ids[*nid as usize]].event);
            key.is_some_and(|key| unconflicted.get(&self.keys[&key]) == Some(nid))
        };
        let mut work = vec![self.number_of(id)];
        while let Some(nid) = work.pop() {
            if holds(&nid) || self.children[nid as usize].iter().any(holds) {
                return true;
            }
            work.extend(&self.children[nid as usize]);
        }
        false
    }

    fn number_of(&self, id: &EventId) -> u32 {
        // Events are made one after the other: their depth tells their number.
        self.events[id].event.depth() as u32 - 1
    }

    pub fn event(&self, nid: u32) -> &Arc<Event> {
        &self.events[&self.ids[nid as usize]].event
    }
}

fn user(number: usize) -> String {
    format!("@user{number}:s{}.example", number % 50)
}
