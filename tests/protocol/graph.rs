//! A seeded generator of rooms as graphs: several servers act on what each has seen, so that histories fork
//! and join again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
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
    state_key::{StateKey, StateLookup},
    state_resolution::{EventSource as _, KnownEvent, StateMap, resolve_states},
};
use ruma::{OwnedEventId, OwnedRoomId, RoomId, UserId};
use serde_json::{Value, json};

/// A small generator of numbers (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % sides as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.roll(items.len())]
    }

    pub fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }
}

/// A room whose history forks.
pub struct Graph {
    pub version: RoomVersion,
    pub events: HashMap<OwnedEventId, KnownEvent>,
    /// The state after each event.
    pub states: HashMap<OwnedEventId, StateMap>,
    /// Every accepted event, in the order of its making.
    pub order: Vec<OwnedEventId>,
    /// Events that nobody has followed yet.
    pub ends: BTreeSet<OwnedEventId>,
    users: Vec<String>,
    room_id: OwnedRoomId,
    key: SigningKey,
    made: usize,
}

/// What one step of the generator did.
pub struct Step {
    pub event: Arc<Event>,
    /// The states after the previous events, and what they resolve to.
    pub states: Vec<StateMap>,
    pub state: StateMap,
    pub verdict: Result<(), AuthRejection>,
}

/// A state map as the authorisation rules ask it.
pub struct View<'a> {
    pub state: &'a StateMap,
    pub events: &'a HashMap<OwnedEventId, KnownEvent>,
}

impl StateLookup for View<'_> {
    fn find(&self, kind: &str, state_key: &str) -> Option<Arc<Event>> {
        let id = self.state.get(&StateKey::new(kind, state_key))?;
        Some(self.events.find(id)?.event)
    }
}

impl Graph {
    /// A room that its creator has set up, with a few members.
    pub fn new(version: RoomVersion, dice: &mut Dice) -> Self {
        let users = (0..3 + dice.roll(4)).map(|n| format!("@user{n}:s{}.example", n % 4)).collect();
        let mut graph = Self {
            version,
            events: HashMap::new(),
            states: HashMap::new(),
            order: Vec::new(),
            ends: BTreeSet::new(),
            users,
            room_id: RoomId::parse("!room:s0.example").unwrap(),
            key: SigningKey::from_seed("test", &[7; 32]).unwrap(),
            made: 0,
        };
        let creator = graph.users[0].clone();
        let mut create = json!({"room_version": version.as_str(), "creator": creator});
        if dice.one_in(3) {
            create["additional_creators"] = json!([graph.users[1]]);
        }
        graph.must_append(dice, &creator, "m.room.create", "", create);
        graph.must_append(dice, &creator, "m.room.member", &creator, json!({"membership": "join"}));
        if !dice.one_in(8) {
            let mut levels = json!({"users": {}, "invite": dice.roll(2) * 25});
            if version < RoomVersion::V12 {
                levels["users"][&creator] = json!(100);
            }
            graph.must_append(dice, &creator, "m.room.power_levels", "", levels);
        }
        let rule = json!({"join_rule": "public"});
        graph.must_append(dice, &creator, "m.room.join_rules", "", rule);
        for user in graph.users.clone().iter().skip(1) {
            if !dice.one_in(4) {
                graph.must_append(dice, user, "m.room.member", user, json!({"membership": "join"}));
            }
        }
        graph
    }

    pub fn rules(&self) -> &'static RoomRules {
        self.version.rules()
    }

    /// One server acts on what it has seen.
    pub fn step(&mut self, dice: &mut Dice) -> Step {
        let prev_events = self.choose_prev_events(dice);
        let sender = dice.pick(&self.users).clone();
        let (kind, state_key, content) = self.choose_action(dice, &sender, &prev_events);
        self.act(dice, prev_events, &sender, kind, &state_key, content)
    }

    /// Mostly recent ends, sometimes something older, one to three of them.
    fn choose_prev_events(&self, dice: &mut Dice) -> Vec<OwnedEventId> {
        let ends: Vec<_> = self.ends.iter().cloned().collect();
        let mut chosen = BTreeSet::new();
        for _ in 0..=dice.roll(3) {
            if dice.one_in(4) {
                let recent = self.order.len().min(12);
                let index = self.order.len() - 1 - dice.roll(recent);
                chosen.insert(self.order[index].clone());
            } else {
                chosen.insert(dice.pick(&ends).clone());
            }
        }
        chosen.into_iter().collect()
    }

    fn choose_action(
        &self,
        dice: &mut Dice,
        sender: &str,
        prev_events: &[OwnedEventId],
    ) -> (&'static str, String, Value) {
        let target = dice.pick(&self.users).clone();
        let member = |membership: &str| json!({ "membership": membership });
        match dice.roll(16) {
            0 | 1 => ("m.room.topic", String::new(), json!({"topic": dice.roll(1000)})),
            2 => ("m.room.name", String::new(), json!({"name": dice.roll(1000)})),
            3 => ("org.example.status", sender.to_owned(), json!({"status": dice.roll(1000)})),
            4 | 5 => ("m.room.member", target, member("ban")),
            6 => ("m.room.member", target, member("leave")),
            7 => ("m.room.member", target, member("invite")),
            8 => ("m.room.member", sender.to_owned(), member("leave")),
            9 => ("m.room.member", sender.to_owned(), member("knock")),
            10 => {
                let mut join = member("join");
                join["join_authorised_via_users_server"] = json!(target);
                ("m.room.member", sender.to_owned(), join)
            }
            11 => ("m.room.member", sender.to_owned(), member("join")),
            12 => {
                let rules = ["public", "invite", "knock", "restricted", "knock_restricted"];
                ("m.room.join_rules", String::new(), json!({"join_rule": dice.pick(&rules)}))
            }
            _ => {
                let levels = self.change_levels(dice, &target, prev_events);
                ("m.room.power_levels", String::new(), levels)
            }
        }
    }

    /// The power levels that hold, with one change.
    fn change_levels(&self, dice: &mut Dice, target: &str, prev_events: &[OwnedEventId]) -> Value {
        let key = StateKey::new("m.room.power_levels", "");
        let current = prev_events.iter().find_map(|id| self.states[id].get(&key));
        let mut levels: Value = match current {
            Some(id) => serde_json::from_str(self.events[id].event.content_json()).unwrap(),
            None => json!({}),
        };
        let level = json!([0, 25, 50, 75, 100][dice.roll(5)]);
        match dice.roll(6) {
            0 => levels["events"]["m.room.topic"] = level,
            1 => levels["state_default"] = level,
            2 => levels["ban"] = level,
            _ => levels["users"][target] = level,
        }
        levels
    }

    fn must_append(
        &mut self,
        dice: &mut Dice,
        sender: &str,
        kind: &'static str,
        state_key: &str,
        content: Value,
    ) {
        let prev_events = self.ends.iter().cloned().collect();
        let step = self.act(dice, prev_events, sender, kind, state_key, content);
        assert_eq!(step.verdict, Ok(()), "{kind}");
    }

    pub fn act(
        &mut self,
        dice: &mut Dice,
        prev_events: Vec<OwnedEventId>,
        sender: &str,
        kind: &'static str,
        state_key: &str,
        content: Value,
    ) -> Step {
        let states: Vec<StateMap> = prev_events.iter().map(|id| self.states[id].clone()).collect();
        let references: Vec<&StateMap> = states.iter().collect();
        let state = resolve_states(&references, self.rules(), &self.events).unwrap();
        let event = self.make(dice, prev_events, sender, kind, state_key, content, &state);
        let view = View { state: &state, events: &self.events };
        let verdict = authorise(&*event, self.rules(), &view);
        if verdict.is_ok() {
            self.append(&event, &state);
        }
        Step { event, states, state, verdict }
    }

    #[expect(clippy::too_many_arguments, reason = "an event has that many parts")]
    fn make(
        &mut self,
        dice: &mut Dice,
        prev_events: Vec<OwnedEventId>,
        sender: &str,
        kind: &'static str,
        state_key: &str,
        content: Value,
        state: &StateMap,
    ) -> Arc<Event> {
        self.made += 1;
        let implied = kind == "m.room.create" && self.rules().room_id_is_create_hash;
        let depth = prev_events.iter().map(|id| self.events[id].event.depth()).max();
        let mut draft = EventDraft {
            room_id: (!implied).then(|| self.room_id.clone()),
            sender: UserId::parse(sender).unwrap(),
            kind: kind.to_owned(),
            state_key: Some(state_key.to_owned()),
            content,
            prev_events,
            auth_events: Vec::new(),
            depth: depth.map_or(1, |depth| depth + 1),
            // Clocks are neither exact nor equal, and ties must be broken too.
            origin_server_ts: 1_700_000_000_000 + (self.made / 4 + dice.roll(4)) as i64,
            redacts: None,
            opaque_names: None,
        };
        let view = View { state, events: &self.events };
        let keys = list_auth_event_keys(self.rules(), &draft);
        let found = keys.iter().filter_map(|(kind, key)| view.find(kind, key));
        draft.auth_events = found.map(|event| event.event_id().to_owned()).collect();
        if self.rules().has_event_id_field() {
            draft.opaque_names = Some(self.opaque_names(dice, &draft));
        }
        let server = draft.sender.server_name().to_owned();
        Arc::new(draft.seal(self.rules(), &server, &self.key).unwrap())
    }

    fn opaque_names(&self, dice: &mut Dice, draft: &EventDraft) -> OpaqueNames {
        let links = draft.prev_events.iter().chain(&draft.auth_events);
        let hash = |id: &OwnedEventId| {
            let object = self.events[id].event.to_object();
            UNPADDED_BASE64.encode(event_hash::reference_hash(self.rules(), &object))
        };
        let reference_hashes: BTreeMap<_, _> = links.map(|id| (id.clone(), hash(id))).collect();
        // IDs must not grow with time, or ties would be broken by age.
        let opaque_id = format!("{:08x}{}", dice.roll(1 << 32), self.made);
        OpaqueNames { opaque_id, reference_hashes }
    }

    fn append(&mut self, event: &Arc<Event>, state: &StateMap) {
        let id = event.event_id().to_owned();
        if event.kind() == "m.room.create" {
            self.room_id = event.room_id().to_owned();
        }
        let mut after = state.clone();
        after.insert(StateKey::of_event(event).unwrap(), id.clone());
        for prev in event.prev_events() {
            self.ends.remove(prev);
        }
        self.ends.insert(id.clone());
        self.states.insert(id.clone(), after);
        self.order.push(id.clone());
        self.events.insert(id, KnownEvent { event: Arc::clone(event), rejected: false });
    }
}
