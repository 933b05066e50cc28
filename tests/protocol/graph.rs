//! A seeded generator of rooms as graphs: two to six servers act on what each has seen, so that histories
//! fork and join again. What they do is in `deeds`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use base64::Engine as _;
use hearth::protocol::{
    authorisation::{AuthEvent, AuthRejection, authorise, check_auth_events, list_auth_event_keys},
    event::Event,
    event_builder::{EventDraft, OpaqueNames},
    event_hash,
    room_version::{RoomRules, RoomVersion},
    signing::{SigningKey, UNPADDED_BASE64},
    state_key::{StateKey, StateLookup},
    state_resolution::{EventSource as _, KnownEvent, StateMap, resolve_states},
};
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, UserId};
use serde_json::json;

use crate::deeds::{self, Deed};

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

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.roll(last + 1));
        }
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
    /// Events that were refused and kept.
    pub rejected: Vec<OwnedEventId>,
    pub users: Vec<String>,
    /// Whether only users of the creator's server may take part (`m.federate`).
    pub is_closed: bool,
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
    /// What the rules say by that state.
    pub verdict: Result<(), AuthRejection>,
    /// The state that the event's own authorisation events make, and what the rules say by it.
    pub cited_state: StateMap,
    pub cited: Result<(), AuthRejection>,
    /// What the rules about the choice of authorisation events say.
    pub receipt: Result<(), AuthRejection>,
}

impl Step {
    pub fn is_accepted(&self) -> bool {
        self.verdict.is_ok() && self.cited.is_ok() && self.receipt.is_ok()
    }
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
        let servers = 2 + dice.roll(5);
        let users = (0..servers.max(3) + dice.roll(3))
            .map(|n| format!("@user{n}:s{}.example", n % servers))
            .collect();
        let mut graph = Self {
            version,
            events: HashMap::new(),
            states: HashMap::new(),
            order: Vec::new(),
            ends: BTreeSet::new(),
            rejected: Vec::new(),
            users,
            is_closed: dice.one_in(12),
            room_id: RoomId::parse("!room:s0.example").unwrap(),
            key: SigningKey::from_seed("test", &[7; 32]).unwrap(),
            made: 0,
        };
        let creator = graph.users[0].clone();
        let mut create = json!({"room_version": version.as_str(), "creator": creator});
        if dice.one_in(3) {
            create["additional_creators"] = json!([graph.users[1]]);
        }
        if graph.is_closed {
            create["m.federate"] = json!(false);
        }
        graph.must_append(dice, &creator, Deed::state("m.room.create", "", create));
        graph.must_append(dice, &creator, Deed::member(&creator, "join"));
        if !dice.one_in(8) {
            let mut levels = json!({"users": {}, "invite": dice.roll(2) * 25});
            if version < RoomVersion::V12 {
                levels["users"][&creator] = json!(100);
            }
            graph.must_append(dice, &creator, Deed::state("m.room.power_levels", "", levels));
        }
        let rule = json!({"join_rule": "public"});
        graph.must_append(dice, &creator, Deed::state("m.room.join_rules", "", rule));
        for user in graph.users.clone().iter().skip(1) {
            if !dice.one_in(4) {
                let ends = graph.ends.iter().cloned().collect();
                // Refused where the room is closed to other servers.
                graph.act(dice, ends, user, Deed::member(user, "join"));
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
        let deed = deeds::choose(self, dice, &sender, &prev_events);
        let is_honest = !dice.one_in(16);
        self.attempt(dice, prev_events, &sender, deed, is_honest)
    }

    /// Mostly recent ends, sometimes something older (what arrives late), one to three of them. Nothing from
    /// before the room had join rules: `ruma` lets nobody join then, where Synapse and Hearth ask for an
    /// invitation.
    fn choose_prev_events(&self, dice: &mut Dice) -> Vec<OwnedEventId> {
        let join_rules = StateKey::new("m.room.join_rules", "");
        let ends: Vec<_> = self.ends.iter().cloned().collect();
        let mut chosen = BTreeSet::new();
        for _ in 0..=dice.roll(3) {
            let age = match dice.roll(16) {
                0 => Some(dice.roll(self.order.len())),
                1..=4 => Some(dice.roll(self.order.len().min(12))),
                _ => None,
            };
            let old = age.map(|age| &self.order[self.order.len() - 1 - age]);
            let old = old.filter(|id| self.states[*id].contains_key(&join_rules));
            chosen.insert(old.unwrap_or_else(|| dice.pick(&ends)).clone());
        }
        chosen.into_iter().collect()
    }

    fn must_append(&mut self, dice: &mut Dice, sender: &str, deed: Deed) {
        let prev_events = self.ends.iter().cloned().collect();
        let kind = deed.kind;
        let step = self.act(dice, prev_events, sender, deed);
        assert!(step.is_accepted(), "{kind}: {:?}", step.verdict);
    }

    fn act(
        &mut self,
        dice: &mut Dice,
        prev_events: Vec<OwnedEventId>,
        sender: &str,
        deed: Deed,
    ) -> Step {
        self.attempt(dice, prev_events, sender, deed, true)
    }

    /// Makes an event and judges it; it joins the room if it is accepted. Who is not honest cites other
    /// events for its authorisation than those of the state.
    fn attempt(
        &mut self,
        dice: &mut Dice,
        prev_events: Vec<OwnedEventId>,
        sender: &str,
        deed: Deed,
        is_honest: bool,
    ) -> Step {
        let states: Vec<StateMap> = prev_events.iter().map(|id| self.states[id].clone()).collect();
        let references: Vec<&StateMap> = states.iter().collect();
        let state = resolve_states(&references, self.rules(), &self.events).unwrap();
        let mut draft = self.draft(dice, prev_events, sender, deed, &state);
        if !is_honest {
            self.cite_otherwise(dice, &mut draft.auth_events);
        }
        let event = self.seal(dice, draft);
        let cited_state = self.cited_state(&event);
        let judge = |state: &StateMap| {
            authorise(&*event, self.rules(), &View { state, events: &self.events })
        };
        let (verdict, cited) = (judge(&state), judge(&cited_state));
        let receipt = self.check_receipt(&event);
        let step = Step { event, states, state, verdict, cited_state, cited, receipt };
        if step.is_accepted() {
            self.append(&step.event, &step.state);
        } else if dice.one_in(3) {
            let id = step.event.event_id().to_owned();
            let known = KnownEvent { event: Arc::clone(&step.event), rejected: true };
            self.events.insert(id.clone(), known);
            self.rejected.push(id);
        }
        step
    }

    /// Leaves one out, puts another in its place, or adds one. Join rules stay: what is without them is
    /// undefined, and `ruma` decides otherwise than Synapse and Hearth.
    fn cite_otherwise(&self, dice: &mut Dice, auth_events: &mut Vec<OwnedEventId>) {
        let other = match dice.roll(4) {
            0 if !self.rejected.is_empty() => dice.pick(&self.rejected).clone(),
            _ => dice.pick(&self.order).clone(),
        };
        let is_spared = |id: &OwnedEventId| self.events[id].event.kind() == "m.room.join_rules";
        let place = dice.roll(auth_events.len().max(1));
        let is_free = auth_events.get(place).is_some_and(|id| !is_spared(id));
        let is_new = !auth_events.contains(&other);
        match dice.roll(3) {
            0 if is_free => drop(auth_events.remove(place)),
            1 if is_free && is_new => auth_events[place] = other,
            _ if is_new => auth_events.push(other),
            _ => {}
        }
    }

    /// The state that the authorisation events of `event` make, with the create event that it may imply.
    fn cited_state(&self, event: &Event) -> StateMap {
        let implied = self.order.first().filter(|_| self.rules().room_id_is_create_hash).cloned();
        let cited = event.auth_events().map(ToOwned::to_owned).chain(implied);
        cited
            .filter(|id| !self.events[id].rejected)
            .filter_map(|id| Some((StateKey::of_event(&self.events[&id].event)?, id)))
            .collect()
    }

    fn check_receipt(&self, event: &Event) -> Result<(), AuthRejection> {
        let known = |id: &EventId| {
            let known = &self.events[id];
            AuthEvent { event: &known.event, rejected: known.rejected }
        };
        let create = self.order.first().map(|id| known(id));
        check_auth_events(event, self.rules(), create, event.auth_events().map(known))
    }

    fn draft(
        &mut self,
        dice: &mut Dice,
        prev_events: Vec<OwnedEventId>,
        sender: &str,
        deed: Deed,
        state: &StateMap,
    ) -> EventDraft {
        self.made += 1;
        let implied = deed.kind == "m.room.create" && self.rules().room_id_is_create_hash;
        let depth = prev_events.iter().map(|id| self.events[id].event.depth()).max();
        let mut draft = EventDraft {
            room_id: (!implied).then(|| self.room_id.clone()),
            sender: UserId::parse(sender).unwrap(),
            kind: deed.kind.to_owned(),
            state_key: deed.state_key,
            content: deed.content,
            prev_events,
            auth_events: Vec::new(),
            depth: depth.map_or(1, |depth| depth + 1),
            // Clocks are neither exact nor equal, and ties must be broken too.
            origin_server_ts: 1_700_000_000_000 + (self.made / 4 + dice.roll(4)) as i64,
            redacts: deed.redacts,
            sticky_ms: None,
            opaque_names: None,
        };
        let view = View { state, events: &self.events };
        let keys = list_auth_event_keys(self.rules(), &draft);
        let found = keys.iter().filter_map(|(kind, key)| view.find(kind, key));
        draft.auth_events = found.map(|event| event.event_id().to_owned()).collect();
        draft
    }

    fn seal(&self, dice: &mut Dice, mut draft: EventDraft) -> Arc<Event> {
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
        if let Some(key) = StateKey::of_event(event) {
            after.insert(key, id.clone());
        }
        for prev in event.prev_events() {
            self.ends.remove(prev);
        }
        self.ends.insert(id.clone());
        self.states.insert(id.clone(), after);
        self.order.push(id.clone());
        self.events.insert(id, KnownEvent { event: Arc::clone(event), rejected: false });
    }
}
