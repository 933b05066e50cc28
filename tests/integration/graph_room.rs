//! A room as made-up servers see it: branches of events, signed, and a network of which the test says
//! what it answers.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use base64::Engine as _;
use futures_util::future::BoxFuture;
use hearth::{
    protocol::{
        authorisation::list_auth_event_keys,
        event::Event,
        event_builder::{EventDraft, OpaqueNames},
        event_hash,
        policy_server::PolicyServer,
        room_version::{RoomRules, RoomVersion},
        signing::{SigningKey, UNPADDED_BASE64},
        state_key::{StateKey, StateLookup as _},
    },
    rooms::{EventSource, PolicyRefusal, Question, Room, Rooms, StateIds, Verdict},
};
use ruma::{EventId, OwnedEventId, RoomId, ServerName, UserId};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::harness::Client;

pub const BOB: &str = "@bob:b.test";
pub const CAROL: &str = "@carol:c.test";

/// One line of a room's history: what its next event builds upon.
#[derive(Clone)]
pub struct Branch {
    rules: &'static RoomRules,
    room_id: ruma::OwnedRoomId,
    pub tips: Vec<Arc<Event>>,
    pub state: HashMap<StateKey, Arc<Event>>,
    depth: i64,
    clock: Arc<Mutex<i64>>,
}

impl Branch {
    /// Goes on from where a room of the server under test stands.
    pub async fn of_room(rooms: &Rooms, room: &Arc<Room>) -> Self {
        let head = room.head();
        let mut state = HashMap::new();
        for chunk in 0.. {
            let events = rooms.load_state_events(room, &head.state, chunk).await.unwrap();
            if events.is_empty() {
                break;
            }
            for stored in events {
                state.insert(StateKey::of_event(&stored.event).unwrap(), Arc::clone(&stored.event));
            }
        }
        Self {
            rules: room.rules,
            room_id: room.room_id.clone(),
            tips: head.extremities.iter().map(|stored| Arc::clone(&stored.event)).collect(),
            state,
            depth: head.depth,
            clock: Arc::new(Mutex::new(1_900_000_000_000)),
        }
    }

    /// Goes on from where the room stands now.
    pub async fn catch_up(&mut self, rooms: &Rooms, room: &Arc<Room>) {
        let clock = Arc::clone(&self.clock);
        *self = Self { clock, ..Self::of_room(rooms, room).await };
    }

    /// A room that Bob makes on his server, open to everybody.
    pub fn new_room(version: RoomVersion, name: &str) -> (Self, Vec<Arc<Event>>) {
        Self::new_room_of(version, name, (BOB, 1_900_000_000_000))
    }

    /// A room that somebody makes at a time, open to everybody.
    pub fn new_room_of(
        version: RoomVersion,
        name: &str,
        (creator, time_ms): (&str, i64),
    ) -> (Self, Vec<Arc<Event>>) {
        let (_, server) = creator.split_once(':').unwrap();
        let mut branch = Self {
            rules: version.rules(),
            room_id: RoomId::parse(format!("!{name}:{server}")).unwrap(),
            tips: Vec::new(),
            state: HashMap::new(),
            depth: 0,
            clock: Arc::new(Mutex::new(time_ms)),
        };
        let mut create = json!({ "room_version": version.as_str(), "name": name });
        if version.rules().creator_in_content {
            create["creator"] = json!(creator);
        }
        let create = branch.state(creator, "m.room.create", "", create);
        branch.room_id = create.room_id().to_owned();
        let events = vec![
            create,
            branch.member(creator, creator, "join"),
            branch.state(creator, "m.room.join_rules", "", json!({ "join_rule": "public" })),
        ];
        (branch, events)
    }

    /// Says what time its servers have. Without it, they are in a future in which no key is valid.
    pub fn set_time(&mut self, now_ms: u64) {
        self.clock = Arc::new(Mutex::new(now_ms.cast_signed()));
    }

    pub fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    pub fn message(&mut self, sender: &str, body: &str) -> Arc<Event> {
        self.send(sender, "m.room.message", None, json!({ "msgtype": "m.text", "body": body }))
    }

    pub fn state(&mut self, sender: &str, kind: &str, key: &str, content: Value) -> Arc<Event> {
        self.send(sender, kind, Some(key), content)
    }

    pub fn member(&mut self, sender: &str, target: &str, membership: &str) -> Arc<Event> {
        self.state(sender, "m.room.member", target, json!({ "membership": membership }))
    }

    pub fn topic(&mut self, sender: &str, topic: &str) -> Arc<Event> {
        self.state(sender, "m.room.topic", "", json!({ "topic": topic }))
    }

    /// Makes an event behind the tips, whether or not it is allowed.
    pub fn send(
        &mut self,
        sender: &str,
        kind: &str,
        key: Option<&str>,
        content: Value,
    ) -> Arc<Event> {
        let draft = self.draft(sender, kind, key, content);
        self.seal(draft)
    }

    pub fn redact(&mut self, sender: &str, target: &Event) -> Arc<Event> {
        let mut draft = self.draft(sender, "m.room.redaction", None, json!({}));
        draft.redacts = Some(target.event_id().to_owned());
        self.seal(draft)
    }

    pub fn draft(
        &mut self,
        sender: &str,
        kind: &str,
        key: Option<&str>,
        content: Value,
    ) -> EventDraft {
        let implied = kind == "m.room.create" && self.rules.room_id_is_create_hash;
        let now = {
            let mut clock = self.clock.lock().unwrap();
            *clock += 1;
            *clock
        };
        let mut draft = EventDraft {
            room_id: (!implied).then(|| self.room_id.clone()),
            sender: UserId::parse(sender).unwrap(),
            kind: kind.to_owned(),
            state_key: key.map(str::to_owned),
            content,
            prev_events: self.tips.iter().map(|event| event.event_id().to_owned()).collect(),
            auth_events: Vec::new(),
            depth: self.depth + 1,
            origin_server_ts: now,
            redacts: None,
            sticky_ms: None,
            opaque_names: None,
        };
        let keys = list_auth_event_keys(self.rules, &draft);
        let found = keys.iter().filter_map(|(kind, key)| self.state.find(kind, key));
        let auth_events: Vec<_> = found.collect();
        draft.auth_events = auth_events.iter().map(|event| event.event_id().to_owned()).collect();
        if self.rules.has_event_id_field() {
            let hash = |event: &Arc<Event>| {
                let hash = event_hash::reference_hash(self.rules, &event.to_object());
                (event.event_id().to_owned(), UNPADDED_BASE64.encode(hash))
            };
            let reference_hashes: BTreeMap<_, _> =
                self.tips.iter().chain(&auth_events).map(hash).collect();
            let opaque_id = format!("e{now}{}", self.room_id.as_str().replace(['!', ':', '.'], ""));
            draft.opaque_names = Some(OpaqueNames { opaque_id, reference_hashes });
        }
        draft
    }

    pub fn seal(&mut self, draft: EventDraft) -> Arc<Event> {
        let server = draft.sender.server_name().to_owned();
        let key = SigningKey::from_seed("test", &[7; 32]).unwrap();
        let event = Arc::new(draft.seal(self.rules, &server, &key).unwrap());
        self.depth += 1;
        self.tips = vec![Arc::clone(&event)];
        if let Some(key) = StateKey::of_event(&event) {
            self.state.insert(key, Arc::clone(&event));
        }
        event
    }

    /// The events behind which both branches meet. The state is this branch's.
    pub fn join_tips(&mut self, other: &Self) {
        self.tips.extend(other.tips.iter().cloned());
        self.depth = self.depth.max(other.depth);
    }
}

/// Has Bob's server join a local room.
pub async fn join_bob(rooms: &Rooms, room: &Arc<Room>) -> Branch {
    let mut branch = Branch::of_room(rooms, room).await;
    // Nobody is in the room from his server yet, so this one comes as a signed join.
    let join = branch.member(BOB, BOB, "join");
    rooms.take_signed(server("b.test"), room, join).await.unwrap();
    branch
}

pub fn server(name: &str) -> &ServerName {
    name.try_into().unwrap()
}

pub async fn receive(rooms: &Rooms, room: &Arc<Room>, event: &Arc<Event>) -> Verdict {
    let origin = event.sender().server_name().to_owned();
    rooms.receive(&origin, room, Arc::clone(event)).await.unwrap()
}

/// A public room of Alice, and the room as the engine knows it.
pub async fn public_room(rooms: &Rooms, alice: &Client, version: &str) -> Arc<Room> {
    let body = json!({ "preset": "public_chat", "room_version": version });
    let answer = alice.post("/_matrix/client/v3/createRoom", &body).await.ok();
    let room_id: &RoomId = answer["room_id"].as_str().unwrap().try_into().unwrap();
    rooms.find(room_id).await.unwrap().unwrap()
}

/// The current state by type and state key: contents.
pub async fn contents(rooms: &Rooms, room: &Arc<Room>) -> BTreeMap<(String, String), Value> {
    let branch = Branch::of_room(rooms, room).await;
    let entry = |(key, event): (StateKey, Arc<Event>)| {
        ((key.kind.into(), key.state_key.into()), event.content_as::<Value>().unwrap())
    };
    branch.state.into_iter().map(entry).collect()
}

/// Other servers, as far as they answer.
#[derive(Default)]
pub struct Network {
    pub events: Mutex<HashMap<OwnedEventId, Arc<Event>>>,
    /// The state before events.
    pub states: Mutex<HashMap<OwnedEventId, Vec<Arc<Event>>>>,
    /// Whether `get_missing_events` is answered.
    pub fills_gaps: bool,
    pub asked: Mutex<Vec<String>>,
}

impl Network {
    pub fn knows<'a>(&self, events: impl IntoIterator<Item = &'a Arc<Event>>) {
        let mut known = self.events.lock().unwrap();
        known.extend(events.into_iter().map(|e| (e.event_id().to_owned(), Arc::clone(e))));
    }

    fn find(&self, id: &EventId) -> Option<Arc<Event>> {
        self.events.lock().unwrap().get(id).cloned()
    }

    fn note(&self, what: &str) {
        self.asked.lock().unwrap().push(what.to_owned());
    }
}

impl EventSource for Network {
    fn fetch_missing<'a>(
        &'a self,
        _: Question<'a>,
        earliest: &'a [OwnedEventId],
        latest: &'a [OwnedEventId],
    ) -> BoxFuture<'a, Option<Vec<Arc<Event>>>> {
        self.note("missing");
        let mut found: Vec<Arc<Event>> = Vec::new();
        let mut work: Vec<OwnedEventId> = latest.to_vec();
        while let Some(event) = work.pop().and_then(|id| self.find(&id)) {
            for prev in event.prev_events().filter(|prev| !earliest.iter().any(|e| e == prev)) {
                if let Some(event) = self.find(prev)
                    && found.len() < 20
                {
                    work.push(event.event_id().to_owned());
                    found.push(event);
                }
            }
        }
        let fills = self.fills_gaps;
        Box::pin(async move { fills.then_some(found) })
    }

    fn fetch_events<'a>(
        &'a self,
        _: Question<'a>,
        ids: &'a [OwnedEventId],
    ) -> BoxFuture<'a, Vec<Arc<Event>>> {
        self.note("events");
        Box::pin(async move { ids.iter().filter_map(|id| self.find(id)).collect() })
    }

    fn fetch_state_ids<'a>(
        &'a self,
        _: Question<'a>,
        at: &'a EventId,
    ) -> BoxFuture<'a, Option<StateIds>> {
        self.note("state_ids");
        let state = self.states.lock().unwrap().get(at).cloned();
        let ids = state.map(|events| StateIds {
            state: events.iter().map(|event| event.event_id().to_owned()).collect(),
            auth_chain: events
                .iter()
                .flat_map(|e| e.auth_events().map(ToOwned::to_owned))
                .collect(),
        });
        Box::pin(async move { ids })
    }

    fn stream_state<'a>(
        &'a self,
        _: Question<'a>,
        at: &'a EventId,
        batches: mpsc::Sender<Vec<Arc<Event>>>,
    ) -> BoxFuture<'a, bool> {
        self.note("state");
        let state = self.states.lock().unwrap().get(at).cloned();
        Box::pin(async move {
            match state {
                Some(state) => batches.send(state).await.is_ok(),
                None => false,
            }
        })
    }

    fn fetch_event_auth<'a>(
        &'a self,
        _: Question<'a>,
        id: &'a EventId,
    ) -> BoxFuture<'a, Vec<Arc<Event>>> {
        self.note("event_auth");
        let event = self.find(id);
        let chain: Vec<_> = event
            .iter()
            .flat_map(|event| event.auth_events().filter_map(|id| self.find(id)))
            .collect();
        Box::pin(async move { chain })
    }

    fn ask_policy_server<'a>(
        &'a self,
        _: Question<'a>,
        _: &'a PolicyServer,
        _: &'a Event,
    ) -> BoxFuture<'a, Result<Arc<Event>, PolicyRefusal>> {
        Box::pin(async { Err(PolicyRefusal::NoAnswer("nobody is there".to_owned())) })
    }
}
