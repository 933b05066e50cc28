//! Devices that come and go while the server is killed again and again: they log in and out, upload keys,
//! claim those of others, and send each other messages. After every restart no key was handed out twice,
//! every acknowledged message came once and in order, and everybody's list of devices is the true one.
//!
//! `HEARTH_SOAK_SECONDS` says for how long (6 by default), `HEARTH_SOAK_DEVICES` with how many (24). A server
//! lives for a quarter of the time, 20 seconds at most.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::Method;
use serde_json::Value;

use crate::{
    Dice, number_from,
    process::Process,
    soak_device::{Device, DeviceId},
};

/// Devices of one user.
const DEVICES_OF_USER: usize = 4;
const LIFE_SECONDS_MAX: u64 = 20;

/// What all devices together know to be true.
#[derive(Default)]
pub struct Truth {
    /// Those that are logged in and have uploaded keys.
    pub alive: BTreeSet<DeviceId>,
    /// Every key that somebody was given: whose, and its ID.
    pub claimed: HashSet<(DeviceId, String)>,
    /// Acknowledged messages by recipient: sender and number, in the order of acknowledgements.
    pub sent: HashMap<DeviceId, Vec<(usize, u64)>>,
    /// Messages that were received and checked.
    pub received: usize,
}

pub type Shared = Arc<Mutex<Truth>>;

impl Truth {
    /// Notes a key that was handed out.
    pub fn claim(&mut self, whose: &DeviceId, key_id: &str) {
        assert!(key_id.contains(&whose.device), "{key_id} was never uploaded by {whose:?}");
        let is_new = self.claimed.insert((whose.clone(), key_id.to_owned()));
        assert!(is_new, "{key_id} of {whose:?} was handed out twice");
    }

    /// Whose devices are alive, by user.
    fn lists(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut lists: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for id in &self.alive {
            lists.entry(id.user.clone()).or_default().insert(id.device.clone());
        }
        lists
    }
}

/// Somebody who keeps everybody's device lists as clients do: asks again only for those who changed.
struct Observer {
    token: String,
    since: String,
    lists: BTreeMap<String, BTreeSet<String>>,
}

impl Observer {
    async fn begin(server: &Process, room: &str, users: &[String]) -> Self {
        let token = server.register("observer").await;
        join(server, room, &token).await;
        let answer = sync(server, &token, None).await;
        let since = answer["next_batch"].as_str().unwrap().to_owned();
        let mut observer = Self { token, since, lists: BTreeMap::new() };
        observer.ask(server, users).await;
        observer
    }

    async fn catch_up(&mut self, server: &Process) {
        let answer = sync(server, &self.token, Some(&self.since)).await;
        answer["next_batch"].as_str().unwrap().clone_into(&mut self.since);
        let changed = answer["device_lists"]["changed"].as_array().cloned().unwrap_or_default();
        let changed: Vec<_> =
            changed.iter().map(|user| user.as_str().unwrap().to_owned()).collect();
        self.ask(server, &changed).await;
    }

    async fn ask(&mut self, server: &Process, users: &[String]) {
        let wanted: BTreeMap<&String, [(); 0]> = users.iter().map(|user| (user, [])).collect();
        let body = serde_json::json!({ "device_keys": wanted });
        let path = "/_matrix/client/v3/keys/query";
        let answer = server.call(Method::POST, path, &self.token, body).await;
        for user in users {
            let devices = answer["device_keys"][user].as_object();
            let devices: BTreeSet<_> =
                devices.into_iter().flatten().map(|(id, _)| id.clone()).collect();
            self.lists.remove(user);
            if !devices.is_empty() {
                self.lists.insert(user.clone(), devices);
            }
        }
    }
}

async fn join(server: &Process, room: &str, token: &str) {
    let path = format!("/_matrix/client/v3/rooms/{room}/join");
    server.call(Method::POST, &path, token, serde_json::json!({})).await;
}

async fn sync(server: &Process, token: &str, since: Option<&str>) -> Value {
    let since = since.map_or(String::new(), |since| format!("?since={since}"));
    let path = format!("/_matrix/client/v3/sync{since}");
    server.call(Method::GET, &path, token, Value::Null).await
}

/// Users in a room with everybody; their names.
async fn gather(server: &Process, count: usize) -> (String, Vec<String>) {
    let (mut room, mut users) = (String::new(), Vec::new());
    for number in 0..count {
        let name = format!("user{number}");
        let token = server.register(&name).await;
        if number == 0 {
            let body = serde_json::json!({ "preset": "public_chat" });
            let path = "/_matrix/client/v3/createRoom";
            let answer = server.call(Method::POST, path, &token, body).await;
            answer["room_id"].as_str().unwrap().clone_into(&mut room);
        } else {
            join(server, &room, &token).await;
        }
        users.push(format!("@{name}:localhost"));
    }
    (room, users)
}

async fn soak(database: Option<String>) {
    let seconds = number_from("HEARTH_SOAK_SECONDS", 6);
    let count = number_from("HEARTH_SOAK_DEVICES", 24) as usize;
    let life = Duration::from_secs((seconds / 4).clamp(1, LIFE_SECONDS_MAX));
    let mut server = Process::start(database).await;
    let (room, users) = gather(&server, count.div_ceil(DEVICES_OF_USER)).await;
    let mut observer = Observer::begin(&server, &room, &users).await;
    let truth = Shared::default();
    let mut devices: Vec<Device> = (0..count)
        .map(|slot| {
            let user = users[slot % users.len()].clone();
            Device::new(slot, user, Dice(slot as u64), Arc::clone(&truth))
        })
        .collect();
    let rounds = seconds / life.as_secs();
    for _ in 0..rounds {
        let url = server.url();
        let living = devices.into_iter().map(|device| tokio::spawn(device.live(url.clone())));
        let living: Vec<_> = living.collect();
        // Not a wait for something to have happened: the moment of death is the test's input.
        tokio::time::sleep(life).await;
        server.kill();
        devices = Vec::new();
        for device in living {
            devices.push(device.await.unwrap());
        }
        server.restart().await;
        for device in &mut devices {
            device.settle(&server).await;
        }
        for device in &mut devices {
            device.check_messages(&server).await;
        }
        observer.catch_up(&server).await;
        assert_eq!(observer.lists, truth.lock().unwrap().lists(), "a list of devices is stale");
    }
    let truth = truth.lock().unwrap();
    let (claimed, received) = (truth.claimed.len(), truth.received);
    let logins: usize = devices.iter().map(Device::logins).sum();
    assert!(claimed > 0 && received > 0 && logins > count, "{claimed} {received} {logins}");
    println!(
        "{rounds} kills, {logins} logins, {claimed} keys claimed, {received} messages to devices"
    );
}

fn run(database: Option<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(soak(database));
}

#[test]
fn devices_lose_nothing_on_sqlite() {
    run(None);
}

#[test]
fn devices_lose_nothing_on_postgres() {
    run(Some(super::postgres()));
}
