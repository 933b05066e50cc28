//! `/sync` and sliding sync held against each other: whatever happens, and whichever windows a client
//! looks through, both end at the same picture.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{next_batch, register, say},
    harness::{Client, Server},
    sliding_sync::{poll, pos},
};

const SEEDS: u64 = 8;
const STEPS: usize = 80;
/// Events that both clients must agree upon at the end of a timeline.
const TAIL: usize = 3;

/// SplitMix64 (Steele et al. 2014): the same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// What a client knows of a room.
#[derive(Clone, Debug, Default)]
struct RoomModel {
    membership: String,
    /// Event IDs by type and state key.
    state: BTreeMap<(String, String), String>,
    /// The latest event IDs without a gap.
    timeline: Vec<String>,
    counts: (i64, i64),
    joined: i64,
}

type Model = BTreeMap<String, RoomModel>;

/// Threads that a client knows to be followed, by room and root, or not any more.
type Threads = BTreeMap<(String, String), bool>;

const THREADS: &str = "io.element.msc4308.thread_subscriptions";

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

impl RoomModel {
    fn apply_state<'e>(&mut self, events: impl IntoIterator<Item = &'e Value>) {
        for event in events.into_iter().filter(|event| event["state_key"].is_string()) {
            let key = (text(&event["type"]), text(&event["state_key"]));
            self.state.insert(key, text(&event["event_id"]));
        }
    }

    fn apply_timeline(&mut self, events: &[Value], starts_anew: bool) {
        if starts_anew {
            self.timeline.clear();
        }
        for event in events {
            let id = text(&event["event_id"]);
            assert!(!self.timeline.contains(&id), "{id} came twice");
            self.timeline.push(id);
        }
    }
}

fn apply_sync(model: &mut Model, answer: &Value) {
    for section in ["join", "invite", "leave"] {
        let rooms = answer["rooms"][section].as_object().cloned().unwrap_or_default();
        for (id, news) in rooms {
            let room = model.entry(id).or_default();
            room.membership = section.to_owned();
            if section == "invite" {
                continue;
            }
            let events = list(&news["timeline"]["events"]);
            room.apply_state(list(&news["state"]["events"]).iter().chain(events));
            room.apply_timeline(events, news["timeline"]["limited"] == true);
            let unread = &news["unread_notifications"];
            if let Some(count) = unread["notification_count"].as_i64() {
                room.counts = (count, unread["highlight_count"].as_i64().unwrap());
            }
            if let Some(joined) = news["summary"]["m.joined_member_count"].as_i64() {
                room.joined = joined;
            }
        }
    }
}

fn apply_sliding(model: &mut Model, answer: &Value) {
    for (id, news) in answer["rooms"].as_object().unwrap() {
        let room = model.entry(id.clone()).or_default();
        if news["initial"] == true {
            *room = RoomModel::default();
        }
        room.membership = text(&news["membership"]);
        room.apply_state(list(&news["required_state"]));
        let starts_anew = news["limited"] == true || news["unstable_expanded_timeline"] == true;
        room.apply_timeline(list(&news["timeline"]), starts_anew);
        if let Some(count) = news["notification_count"].as_i64() {
            room.counts = (count, news["highlight_count"].as_i64().unwrap());
        }
        if let Some(joined) = news["joined_count"].as_i64() {
            room.joined = joined;
        }
    }
}

/// Notes what an answer or a page says of threads that are followed.
fn apply_threads(threads: &mut Threads, section: &Value) {
    for (name, follows) in [("subscribed", true), ("unsubscribed", false)] {
        for (room, roots) in section[name].as_object().into_iter().flatten() {
            for (root, _) in roots.as_object().into_iter().flatten() {
                threads.insert((room.clone(), root.clone()), follows);
            }
        }
    }
}

fn compare(seed: u64, sync: &Model, sliding: &Model) {
    let with = |model: &Model, membership: &str| -> BTreeSet<String> {
        let rooms = model.iter().filter(|(_, room)| room.membership == membership);
        rooms.map(|(id, _)| id.clone()).collect()
    };
    for membership in ["join", "invite"] {
        assert_eq!(with(sync, membership), with(sliding, membership), "{membership}, seed {seed}");
    }
    for id in with(sync, "join") {
        let (one, other) = (&sync[&id], &sliding[&id]);
        assert_eq!(one.state, other.state, "the state of {id}, seed {seed}");
        assert_eq!(one.counts, other.counts, "the counts of {id}, seed {seed}");
        assert_eq!(one.joined, other.joined, "the members of {id}, seed {seed}");
        let length = one.timeline.len().min(other.timeline.len()).min(TAIL);
        assert!(length > 0, "a timeline of {id} is empty, seed {seed}");
        let tail = |room: &RoomModel| room.timeline[room.timeline.len() - length..].to_vec();
        assert_eq!(tail(one), tail(other), "the timeline of {id}, seed {seed}");
    }
}

/// The people, and the observer who syncs in both ways.
struct World {
    dice: Dice,
    people: Vec<Client>,
    rooms: Vec<String>,
    /// Messages, each with its room.
    said: Vec<(String, String)>,
    steps: usize,
}

impl World {
    /// Whom the observer ignores and whose invitations they do not see, for some from the beginning.
    async fn set_aside(&mut self, seed: u64) {
        let (bob, others) = (&self.people[0], &self.people[1..]);
        let data =
            |kind: &str| format!("/_matrix/client/v3/user/{}/account_data/{kind}", bob.user_id);
        if seed.is_multiple_of(2) {
            let ignored = json!({ "ignored_users": { (others[1].user_id.as_str()): {} } });
            bob.put(&data("m.ignored_user_list"), &ignored).await.ok();
        }
        if seed.is_multiple_of(3) {
            let filter = json!({ "ignored_users": [others[0].user_id] });
            let kind = "org.matrix.msc4155.invite_permission_config";
            bob.put(&data(kind), &filter).await.ok();
        }
    }

    /// Something is made of a message: an answer in its thread, a reaction, a new text, nothing. Or the
    /// observer follows its thread.
    async fn relate(&mut self) {
        let steps = self.steps;
        if self.said.is_empty() {
            return;
        }
        let (room, event) = self.dice.pick(&self.said).clone();
        let actor = self.dice.pick(&self.people).clone();
        let at = |rest: &str| format!("/_matrix/client/v3/rooms/{room}/{rest}");
        let relation = |kind: &str| json!({ "rel_type": kind, "event_id": event });
        let text = json!({ "msgtype": "m.text", "body": format!("{steps}") });
        match self.dice.below(6) {
            0 | 1 => {
                let mut content = text;
                content["m.relates_to"] = relation("m.thread");
                drop(actor.put(&at(&format!("send/m.room.message/{steps}")), &content).await);
            }
            2 => {
                let mut content = json!({ "m.relates_to": relation("m.annotation") });
                content["m.relates_to"]["key"] = json!("x");
                drop(actor.put(&at(&format!("send/m.reaction/{steps}")), &content).await);
            }
            3 => {
                let mut content = text.clone();
                content["m.new_content"] = text;
                content["m.relates_to"] = relation("m.replace");
                drop(actor.put(&at(&format!("send/m.room.message/{steps}")), &content).await);
            }
            4 => drop(actor.put(&at(&format!("redact/{event}/{steps}")), &json!({})).await),
            _ => {
                let prefix = "/_matrix/client/unstable/io.element.msc4306/rooms";
                let path = format!("{prefix}/{room}/thread/{event}/subscription");
                let bob = &self.people[0];
                match self.dice.below(3) {
                    0 => drop(bob.delete(&path).await),
                    _ => drop(bob.put(&path, &json!({})).await),
                }
            }
        }
    }

    /// Somebody does something; that they may not do it is as good as anything else.
    async fn step(&mut self) {
        self.steps += 1;
        let (dice, steps) = (&mut self.dice, self.steps);
        let actor = dice.pick(&self.people).clone();
        let other = dice.pick(&self.people).user_id.clone();
        if self.rooms.is_empty() || dice.below(12) == 0 {
            let presets = ["public_chat", "private_chat"];
            let body = json!({ "preset": dice.pick(&presets), "invite": [other] });
            let answer = actor.post("/_matrix/client/v3/createRoom", &body).await;
            if answer.status == 200 {
                self.rooms.push(text(&answer.body["room_id"]));
            }
            return;
        }
        let room = dice.pick(&self.rooms).clone();
        let at = |rest: &str| format!("/_matrix/client/v3/rooms/{room}/{rest}");
        let target = json!({ "user_id": other });
        if dice.below(4) == 0 {
            return self.relate().await;
        }
        match dice.below(11) {
            0 => drop(actor.post(&at("join"), &json!({})).await),
            1 => drop(actor.post(&at("leave"), &json!({})).await),
            2 | 3 => drop(actor.post(&at("invite"), &target).await),
            4 if dice.below(3) == 0 => drop(actor.post(&at("kick"), &target).await),
            5 => {
                let name = json!({ "name": format!("name {steps}") });
                drop(actor.put(&at("state/m.room.name/"), &name).await);
            }
            6 => {
                let topic = json!({ "topic": format!("topic {steps}") });
                drop(actor.put(&at("state/m.room.topic/"), &topic).await);
            }
            7 => {
                let path = format!("/_matrix/client/v3/profile/{}/displayname", actor.user_id);
                let name = json!({ "displayname": format!("name {steps}") });
                drop(actor.put(&path, &name).await);
            }
            _ => {
                let body = json!({ "msgtype": "m.text", "body": format!("{steps} bob") });
                let answer = actor.put(&at(&format!("send/m.room.message/{steps}")), &body).await;
                if let Some(event) = answer.body["event_id"].as_str() {
                    self.said.push((room, event.to_owned()));
                }
            }
        }
    }

    /// Wishes for this request: whichever windows, timelines and state.
    fn body(&mut self) -> Value {
        let everything = json!([["*", "*"]]);
        let states = [everything, json!([["m.room.name", ""]])];
        let state = self.dice.pick(&states).clone();
        let limit = 1 + self.dice.below(5);
        let last = self.dice.below(4);
        let list = json!({
            "ranges": [[0, last]], "timeline_limit": limit, "required_state": state,
        });
        let mut body = json!({ "lists": { "some": list }, "extensions": threads_wish() });
        if !self.rooms.is_empty() && self.dice.below(3) == 0 {
            let room = self.dice.pick(&self.rooms).clone();
            let wish = json!({ "timeline_limit": 4, "required_state": [["*", "*"]] });
            body["room_subscriptions"] = json!({ room: wish });
        }
        body
    }
}

/// Everything, for the last picture.
fn last_body() -> Value {
    let list = json!({ "timeline_limit": 5, "required_state": [["*", "*"]] });
    json!({ "lists": { "some": list }, "extensions": threads_wish() })
}

fn threads_wish() -> Value {
    json!({ THREADS: { "enabled": true } })
}

async fn compare_over_time(
    server: &mut Option<Server>,
    backend: &crate::harness::Backend,
    seed: u64,
) {
    let running = server.as_ref().unwrap();
    let names = ["bob", "carol", "dave"].map(|name| format!("{name}{seed}"));
    let people = register(running, names.each_ref().map(String::as_str)).await;
    let (rooms, said) = (Vec::new(), Vec::new());
    let mut world = World { dice: Dice(seed), people, rooms, said, steps: 0 };
    world.set_aside(seed).await;
    let (mut sync, mut sliding) = (Model::new(), Model::new());
    let mut threads = Threads::new();
    let (mut since, mut token): (Option<String>, Option<String>) = (None, None);
    let (mut is_lost, mut restarted_since_lost) = (false, false);
    for step in 0..STEPS {
        world.step().await;
        if step == STEPS / 2 {
            server.take().unwrap().stop().await;
            restarted_since_lost = is_lost;
            let running = server.insert(Server::start(backend).await);
            world.people = world.people.iter().map(|one| running.reconnect(one)).collect();
        }
        let bob = world.people[0].clone();
        if world.dice.below(4) == 0 {
            sync_once(&bob, &mut sync, &mut since).await;
        }
        if world.dice.below(3) == 0 {
            let body = world.body();
            let mut answer = poll(&bob, token.as_deref(), &body).await;
            if answer.status == 400 && restarted_since_lost {
                // A restart takes for granted that the latest answer has arrived.
                answer.error(400, "M_UNKNOWN_POS");
                sliding.clear();
                threads.clear();
                token = None;
                answer = poll(&bob, None, &body).await;
            }
            let answer = answer.ok();
            // An answer that was lost is asked for again, perhaps with other wishes.
            if token.is_none() || world.dice.below(4) > 0 {
                apply_sliding(&mut sliding, &answer);
                apply_threads(&mut threads, &answer["extensions"][THREADS]);
                token = Some(pos(&answer).to_owned());
                (is_lost, restarted_since_lost) = (false, false);
            } else {
                is_lost = true;
            }
        }
        if world.dice.below(6) == 0
            && let Some((room, event)) = latest_of(&sync)
        {
            // Bob may have left meanwhile.
            let path = format!("/_matrix/client/v3/rooms/{room}/receipt/m.read/{event}");
            drop(bob.post(&path, &json!({})).await);
        }
    }
    let bob = &world.people[0];
    let joined = bob.get("/_matrix/client/v3/joined_rooms").await.ok();
    for room in list(&joined["joined_rooms"]) {
        say(bob, &text(room), "the last word").await;
    }
    sync_once(bob, &mut sync, &mut since).await;
    if restarted_since_lost {
        (sliding, token) = (Model::new(), None);
        threads.clear();
    }
    let answer = poll(bob, token.as_deref(), &last_body()).await.ok();
    apply_sliding(&mut sliding, &answer);
    apply_threads(&mut threads, &answer["extensions"][THREADS]);
    let path = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions?dir=b";
    let mut all = Threads::new();
    apply_threads(&mut all, &bob.get(path).await.ok());
    assert_eq!(threads, all, "the threads, seed {seed}");
    compare(seed, &sync, &sliding);
    assert_eq!(poll(bob, Some(pos(&answer)), &last_body()).await.ok()["rooms"], json!({}));
}

async fn sync_once(client: &Client, model: &mut Model, since: &mut Option<String>) {
    let answer = crate::conversation::sync(client, since.as_deref()).await;
    apply_sync(model, &answer);
    *since = Some(next_batch(&answer));
}

fn latest_of(model: &Model) -> Option<(String, String)> {
    let joined = model.iter().filter(|(_, room)| room.membership == "join");
    let latest = joined.filter_map(|(id, room)| Some((id.clone(), room.timeline.last()?.clone())));
    latest.max()
}

both_databases! {
    async fn sync_and_sliding_sync_end_at_the_same_picture(backend: Backend) {
        let mut server = Some(Server::start(backend).await);
        for seed in 1..=SEEDS {
            compare_over_time(&mut server, backend, seed).await;
        }
        server.take().unwrap().stop().await;
    }
}
