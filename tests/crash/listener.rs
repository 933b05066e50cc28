//! A user who syncs: from one old token to the next, filling gaps as clients do.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::{process::Process, writer::Writer};

/// Events a page of history.
const PAGE: usize = 100;
const MESSAGE: &str = "m.room.message";
const TOPIC: &str = "m.room.topic";

pub struct Listener {
    token: String,
    room: String,
    since: String,
    /// Messages seen so far, in order.
    seen: Vec<String>,
}

impl Listener {
    pub async fn register(server: &Process, room: &str) -> Self {
        let token = server.register("listener").await;
        let path = format!("/_matrix/client/v3/rooms/{room}/join");
        server.call(Method::POST, &path, &token, json!({})).await;
        let path = "/_matrix/client/v3/sync";
        let answer = server.call(Method::GET, path, &token, Value::Null).await;
        let since = answer["next_batch"].as_str().unwrap().to_owned();
        Self { token, room: room.to_owned(), since, seen: Vec::new() }
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

        let again = format!("/_matrix/client/v3/sync?since={}", self.since);
        let answer = server.call(Method::GET, &again, &self.token, Value::Null).await;
        let timeline = &answer["rooms"]["join"][&self.room]["timeline"]["events"];
        assert!(list(timeline, MESSAGE).is_empty(), "a message came twice: {timeline}");
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
