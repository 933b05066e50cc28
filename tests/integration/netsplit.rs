//! Three servers that share a room while lines break, answers get lost, servers restart and are killed, all
//! by a seed; when everything is whole again and each has said one more thing, they agree, and each with its own events.

use std::{collections::BTreeMap, time::Duration};

use hearth::clock::Clock;
use ruma::{EventId, RoomId};
use serde_json::json;

use crate::{
    conversation::say,
    federation::{create, join, state_of},
    harness::{Backend, Client, Front, Line, Network, Server, Switchboard, run_trio_test},
};

/// Times of trouble in one run.
const ROUNDS: usize = 5;
/// What each user does in one of them.
const DEEDS_PER_ROUND: usize = 4;
/// Tells which seeds to run, such as `1..41`; a few without it.
const SEEDS_VARIABLE: &str = "HEARTH_NETSPLIT_SEEDS";
/// How often it is looked whether an event has arrived, a hundredth of a second each, before the test fails.
const LOOKS_MAX: usize = 2500;

const NAMES: [&str; 3] = ["alice", "bob", "carol"];

#[test]
fn servers_agree_after_netsplits_sqlite() {
    for seed in seeds(&[1, 2, 3]) {
        run_trio_test(Backend::sqlite, async |backends| run(backends, seed).await);
    }
}

#[test]
fn servers_agree_after_netsplits_postgres() {
    for seed in seeds(&[4]) {
        run_trio_test(Backend::postgres, async |backends| run(backends, seed).await);
    }
}

fn seeds(few: &[u64]) -> Vec<u64> {
    let Ok(range) = std::env::var(SEEDS_VARIABLE) else { return few.to_vec() };
    let (first, end) = range.split_once("..").unwrap();
    (first.parse().unwrap()..end.parse().unwrap()).collect()
}

/// What is random in a run.
struct Dice(Clock);

impl Dice {
    fn roll(&self, sides: usize) -> usize {
        let mut bytes = [0; 4];
        self.0.fill_random(&mut bytes);
        u32::from_le_bytes(bytes) as usize % sides
    }
}

/// Three servers with a user each, in one room.
struct World<'a> {
    seed: u64,
    network: Network,
    board: Switchboard,
    _fronts: Vec<Front>,
    backends: [&'a Backend; 3],
    names: Vec<String>,
    /// Taken out while a server is down.
    servers: Vec<Option<Server>>,
    users: Vec<Client>,
    room: String,
    dice: Dice,
    /// What was answered with 200, and by which server.
    acknowledged: Vec<(usize, String)>,
}

async fn run(backends: [&Backend; 3], seed: u64) {
    let mut world = World::begin(backends, seed).await;
    for round in 0..ROUNDS {
        world.make_trouble().await;
        world.act(round).await;
    }
    world.heal().await;
    world.check_state().await;
    world.check_events().await;
    world.check_derived().await;
    for server in world.servers.iter_mut().filter_map(Option::take) {
        server.stop().await;
    }
}

impl<'a> World<'a> {
    async fn begin(backends: [&'a Backend; 3], seed: u64) -> Self {
        let (network, board) = (Network::new(), Switchboard::default());
        let names: Vec<String> = (0..3).map(|_| network.new_name()).collect();
        let (mut fronts, mut servers, mut users) = (Vec::new(), Vec::new(), Vec::new());
        for ((name, backend), user) in names.iter().zip(backends).zip(NAMES) {
            fronts.push(board.connect(&network, name).await);
            let server = network.start_behind(backend, name).await;
            board.set_url(name, Some(&server.url));
            users.push(server.register(user).await);
            servers.push(Some(server));
        }
        // Everybody may do everything, so that they get in each other's way.
        let powers: BTreeMap<_, _> = users.iter().map(|user| (&user.user_id, 100)).collect();
        let levels = json!({ "users": powers, "state_default": 50 });
        let body = json!({ "preset": "public_chat", "room_version": "11",
            "power_level_content_override": levels });
        let room = create(&users[0], body).await;
        // Whoever entered without the members has them before anything else: a server that does not know
        // them sends others elsewhere, and to invite or ban a stranger waits for them.
        let members = format!("/_matrix/client/v3/rooms/{room}/joined_members");
        for number in 1..users.len() {
            join(&users[number], &room, &names[number - 1]).await;
            users[number].get(&members).await.ok();
        }
        Self {
            seed,
            network,
            board,
            _fronts: fronts,
            backends,
            names,
            servers,
            users,
            room,
            dice: Dice(Clock::scripted(0, seed)),
            acknowledged: Vec::new(),
        }
    }

    /// Lines break or mend, and a server may stop or die and come back.
    async fn make_trouble(&mut self) {
        for from in 0..3 {
            for to in (0..3).filter(|to| *to != from) {
                let line = match self.dice.roll(6) {
                    0 | 1 => Line::Cut,
                    2 => Line::Deaf,
                    3 => Line::Slow(Duration::from_millis(self.dice.roll(200) as u64)),
                    _ => Line::Open,
                };
                self.board.set_line(&self.names[from], &self.names[to], line);
            }
        }
        let (victim, fate) = (self.dice.roll(3), self.dice.roll(3));
        if fate == 0 {
            return;
        }
        self.board.set_url(&self.names[victim], None);
        let server = self.servers[victim].take().unwrap();
        match fate {
            1 => server.stop().await,
            _ => server.kill().await,
        }
        let started = self.network.start_behind(self.backends[victim], &self.names[victim]).await;
        self.board.set_url(&self.names[victim], Some(&started.url));
        self.users[victim] = started.reconnect(&self.users[victim]);
        self.servers[victim] = Some(started);
    }

    /// Everybody does something, without waiting for the others.
    async fn act(&mut self, round: usize) {
        let plans: Vec<Vec<(usize, usize)>> = (0..3)
            .map(|_| {
                let plan = (0..DEEDS_PER_ROUND).map(|_| (self.dice.roll(8), self.dice.roll(3)));
                plan.collect()
            })
            .collect();
        let work = plans.iter().enumerate().map(|(number, plan)| {
            let (user, room) = (&self.users[number], &self.room);
            async move {
                let mut done = Vec::new();
                for (step, (deed, detail)) in plan.iter().enumerate() {
                    let mark = format!("{}/{round}/{step}", NAMES[number]);
                    done.extend(act(user, room, (*deed, *detail), &mark).await);
                }
                done
            }
        });
        let done = futures_util::future::join_all(work).await;
        for (number, events) in done.into_iter().enumerate() {
            self.acknowledged.extend(events.into_iter().map(|event| (number, event)));
        }
        // Some of it may get through meanwhile, or not.
        for server in self.servers.iter().flatten() {
            server.app.federation.outbox().retry(None).await.unwrap();
        }
    }

    /// Everything is whole again, and everybody says one more thing that all others hear, twice: the
    /// second time they have heard of all there is.
    async fn heal(&mut self) {
        self.board.heal();
        for round in 0..2 {
            for (speaker, name) in NAMES.iter().enumerate() {
                let text = format!("{name} is back {round}");
                let event = say(&self.users[speaker], &self.room, &text).await;
                for listener in (0..3).filter(|listener| *listener != speaker) {
                    self.await_event(listener, &event).await;
                }
                self.acknowledged.push((speaker, event));
            }
        }
    }

    async fn await_event(&self, listener: usize, event: &str) {
        for _ in 0..LOOKS_MAX {
            if self.fate_of(listener, event).await == Fate::Present {
                return;
            }
            for server in self.servers.iter().flatten() {
                server.app.federation.outbox().retry(None).await.unwrap();
            }
            // There is nothing to wait for: what is tried again has no signal.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let listed = self.servers.iter().flatten();
        let mut waiting = Vec::new();
        for server in listed {
            waiting.push(server.app.federation.outbox().list_destinations().await.unwrap());
        }
        let fate = self.fate_of(listener, event).await;
        panic!("seed {}: {event} is {fate:?} at {}: {waiting:?}", self.seed, NAMES[listener]);
    }

    async fn check_state(&self) {
        let mut states = Vec::new();
        for user in &self.users {
            states.push(state_of(user, &self.room).await);
        }
        for (number, state) in states.iter().enumerate() {
            assert_eq!(*state, states[0], "seed {}: {}", self.seed, NAMES[number]);
        }
    }

    /// What was acknowledged is at its origin, and elsewhere too unless there is a reason.
    async fn check_events(&self) {
        for (origin, event) in &self.acknowledged {
            let path = format!("/_matrix/client/v3/rooms/{}/event/{event}", self.room);
            self.users[*origin].get(&path).await.ok();
            for other in (0..3).filter(|other| other != origin) {
                let mut fate = self.fate_of(other, event).await;
                if fate == Fate::Missing {
                    // It lies in a gap that was bridged by the state behind it: whoever reads on finds it.
                    self.read_all(other).await;
                    fate = self.fate_of(other, event).await;
                }
                match fate {
                    Fate::Present => {}
                    // The current state there did not allow it when it came.
                    Fate::SoftFailed(reason) => assert!(!reason.is_empty()),
                    fate => panic!("seed {}: {event} is {fate:?} at {}", self.seed, NAMES[other]),
                }
            }
        }
    }

    /// What each server has derived of the room agrees with its events.
    async fn check_derived(&self) {
        let room: &RoomId = self.room.as_str().try_into().unwrap();
        for (number, server) in self.servers.iter().flatten().enumerate() {
            let found = server.app.rooms.check_room(room, &|_, _| ()).await.unwrap();
            assert_eq!(found, Some(Vec::new()), "seed {}: {}", self.seed, NAMES[number]);
        }
    }

    /// Reads the room's history to its beginning.
    async fn read_all(&self, number: usize) {
        let mut from = String::new();
        loop {
            let path =
                format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=50{from}", self.room);
            let page = self.users[number].get(&path).await.ok();
            let Some(end) = page["end"].as_str() else { return };
            from = format!("&from={end}");
        }
    }

    async fn fate_of(&self, number: usize, event: &str) -> Fate {
        let rooms = &self.servers[number].as_ref().unwrap().app.rooms;
        let room: &RoomId = self.room.as_str().try_into().unwrap();
        let event: &EventId = event.try_into().unwrap();
        let room = rooms.find(room).await.unwrap().unwrap();
        let Some(stored) = rooms.find_any_event(&room, event).await.unwrap() else {
            return Fate::Missing;
        };
        let database = rooms.database();
        let reason = hearth::storage::graph::find_verdict(database, stored.nid).await.unwrap();
        match (stored.is_rejected(), stored.is_in_graph(), stored.is_hidden()) {
            (true, ..) => Fate::Rejected(reason.unwrap_or_default()),
            // It came as part of a state, and has no place in the history yet.
            (_, false, _) if reason.is_none() => Fate::Missing,
            (_, false, _) => Fate::Waiting(reason.unwrap_or_default()),
            (.., true) => Fate::SoftFailed(reason.unwrap_or_default()),
            _ => Fate::Present,
        }
    }
}

/// What became of an event on a server.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Present,
    SoftFailed(String),
    Rejected(String),
    Waiting(String),
    Missing,
}

/// Does something; returns the ID of the event if the server took it.
async fn act(
    user: &Client,
    room: &str,
    (deed, detail): (usize, usize),
    mark: &str,
) -> Option<String> {
    let state =
        |kind: &str, key: &str| format!("/_matrix/client/v3/rooms/{room}/state/{kind}/{key}");
    let nobody = format!("@nobody{detail}:nowhere.example");
    let answer = match deed {
        0 => user.put(&state("m.room.topic", ""), &json!({ "topic": mark })).await,
        1 => user.put(&state("m.room.name", ""), &json!({ "name": mark })).await,
        2 => {
            let kind = format!("org.example.{detail}");
            user.put(&state(&kind, "key"), &json!({ "mark": mark })).await
        }
        3 => {
            let levels = user.get(&state("m.room.power_levels", "")).await.ok();
            let mut levels = levels;
            levels["events"][format!("org.example.{detail}")] = json!(detail * 10);
            user.put(&state("m.room.power_levels", ""), &levels).await
        }
        4 => {
            let path = format!("/_matrix/client/v3/rooms/{room}/ban");
            let body = json!({ "user_id": nobody, "reason": mark });
            // The answer does not name the event.
            user.post(&path, &body).await;
            return None;
        }
        _ => return Some(say(user, room, mark).await),
    };
    let id: Option<&str> = answer.body["event_id"].as_str();
    id.filter(|_| answer.status.is_success()).map(str::to_owned)
}
