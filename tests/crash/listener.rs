//! A user who syncs: from one old token to the next, filling gaps as clients do.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::{
    process::Process,
    writer::{KEY_ALGORITHM, Writer},
};

/// Events a page of history.
const PAGE: usize = 100;
const MESSAGE: &str = "m.room.message";
const TOPIC: &str = "m.room.topic";
/// One-time keys of an upload; more than are claimed in one life of the server.
const KEYS: usize = 300;

pub struct Listener {
    token: String,
    room: String,
    since: String,
    /// Messages seen so far, in order.
    seen: Vec<String>,
    /// Lanes and numbers of messages to the device, in order.
    told: Vec<(u64, u64)>,
    /// How often one-time keys were uploaded.
    uploads: usize,
}

impl Listener {
    pub async fn register(server: &Process, room: &str) -> Self {
        let token = server.register("listener").await;
        let path = format!("/_matrix/client/v3/rooms/{room}/join");
        server.call(Method::POST, &path, &token, json!({})).await;
        let path = "/_matrix/client/v3/sync";
        let answer = server.call(Method::GET, path, &token, Value::Null).await;
        let since = answer["next_batch"].as_str().unwrap().to_owned();
        let room = room.to_owned();
        let mut listener =
            Self { token, room, since, seen: Vec::new(), told: Vec::new(), uploads: 0 };
        listener.upload_keys(server).await;
        listener
    }

    /// Uploads one-time keys, each with another ID than all before.
    async fn upload_keys(&mut self, server: &Process) {
        let id = |number: usize| format!("{KEY_ALGORITHM}:{}x{number}", self.uploads);
        let keys: Map<String, Value> =
            (0..KEYS).map(|number| (id(number), json!(format!("key {number}")))).collect();
        let body = json!({ "one_time_keys": keys });
        server.call(Method::POST, "/_matrix/client/v3/keys/upload", &self.token, body).await;
        self.uploads += 1;
    }

    /// Every acknowledged message to the device came, once and in order, and no key was claimed
    /// twice.
    async fn check_device(&mut self, server: &Process, writers: &[Writer]) {
        for writer in writers {
            let lane = self.told.iter().filter(|(lane, _)| *lane == writer.lane as u64);
            let numbers: Vec<u64> = lane.map(|(_, number)| *number).collect();
            let expected: Vec<u64> = (0..writer.told as u64).collect();
            assert_eq!(numbers, expected, "messages to the device, lane {}", writer.lane);
        }
        let claimed: Vec<_> = writers.iter().flat_map(|writer| &writer.claimed).collect();
        let unique: HashSet<_> = claimed.iter().collect();
        assert_eq!(unique.len(), claimed.len(), "a one-time key was claimed twice");
        // A device may not have any number of keys that wait.
        if self.uploads * KEYS < claimed.len() + KEYS {
            self.upload_keys(server).await;
        }
    }

    /// Notes the messages to the device in an answer; false when there are no more.
    fn hear(&mut self, answer: &Value) -> bool {
        let events = answer["to_device"]["events"].as_array().cloned().unwrap_or_default();
        let number = |event: &Value, key: &str| event["content"][key].as_u64().unwrap();
        self.told.extend(events.iter().map(|e| (number(e, "lane"), number(e, "number"))));
        !events.is_empty()
    }

    /// Syncs from the token of before the kill: every acknowledged message must come, once, and
    /// each lane's in order.
    pub async fn catch_up(&mut self, server: &Process, writers: &[Writer]) {
        let path = format!("/_matrix/client/v3/sync?since={}", self.since);
        let answer = server.call(Method::GET, &path, &self.token, Value::Null).await;
        let before =
            std::mem::replace(&mut self.since, answer["next_batch"].as_str().unwrap().to_owned());
        let timeline = &answer["rooms"]["join"][&self.room]["timeline"];
        let mut new = list(&timeline["events"], MESSAGE);
        if timeline["limited"] == json!(true) {
            let from = timeline["prev_batch"].as_str().unwrap();
            let mut older = self.page_back(server, (from, &before), MESSAGE).await;
            older.append(&mut new);
            new = older;
        }
        self.seen.append(&mut new);
        check(&self.seen, writers, "sync");

        let mut has_more = self.hear(&answer);
        loop {
            let again = format!("/_matrix/client/v3/sync?since={}", self.since);
            let answer = server.call(Method::GET, &again, &self.token, Value::Null).await;
            let timeline = &answer["rooms"]["join"][&self.room]["timeline"]["events"];
            assert!(list(timeline, MESSAGE).is_empty(), "a message came twice: {timeline}");
            if !has_more {
                break;
            }
            has_more = self.hear(&answer);
            answer["next_batch"].as_str().unwrap().clone_into(&mut self.since);
        }
        self.check_device(server, writers).await;
    }

    /// The room's history holds every message once.
    pub async fn check_history(&self, server: &Process, writers: &[Writer]) {
        let whole = (self.since.as_str(), "s0_0");
        let history = self.page_back(server, whole, MESSAGE).await;
        check(&history, writers, "history");
        let topics = self.page_back(server, whole, TOPIC).await;
        let unique: HashSet<_> = topics.iter().collect();
        assert_eq!(unique.len(), topics.len(), "history holds a topic twice");
        let acknowledged = writers.iter().flat_map(|writer| &writer.topics);
        let missing: Vec<_> = acknowledged.filter(|topic| !unique.contains(topic)).collect();
        assert!(missing.is_empty(), "history lacks the topics {missing:?}");
    }

    /// Events of a type between two tokens, oldest first.
    async fn page_back(
        &self,
        server: &Process,
        (from, to): (&str, &str),
        kind: &str,
    ) -> Vec<String> {
        let mut newest_first = Vec::new();
        let mut from = from.to_owned();
        loop {
            let room = &self.room;
            let path = format!(
                "/_matrix/client/v3/rooms/{room}/messages?dir=b&limit={PAGE}&from={from}&to={to}"
            );
            let page = server.call(Method::GET, &path, &self.token, Value::Null).await;
            let mut page_events = list(&page["chunk"], kind);
            newest_first.append(&mut page_events);
            match page["end"].as_str() {
                Some(end) => end.clone_into(&mut from),
                None => break,
            }
        }
        newest_first.reverse();
        newest_first
    }
}

fn list(events: &Value, kind: &str) -> Vec<String> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    let events = events.iter().filter(|event| event["type"] == kind);
    events.map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
}

fn check(seen: &[String], writers: &[Writer], what: &str) {
    let unique: HashSet<_> = seen.iter().collect();
    assert_eq!(unique.len(), seen.len(), "{what} holds a message twice");
    let acknowledged: usize = writers.iter().map(Writer::acknowledged).sum();
    assert_eq!(seen.len(), acknowledged, "{what} holds another number than was acknowledged");
    for writer in writers {
        let own: HashSet<_> = writer.events.iter().collect();
        let lane: Vec<_> = seen.iter().filter(|id| own.contains(id)).collect();
        let expected: Vec<_> = writer.events.iter().collect();
        assert_eq!(lane, expected, "{what}, lane {}", writer.lane);
    }
}
