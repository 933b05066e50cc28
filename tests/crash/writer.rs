//! A user who writes one thing after another and notes what was acknowledged.

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::process::{Process, request};

/// Whose device is written to, and whose one-time keys are claimed.
pub const LISTENER: &str = "@listener:localhost";
pub const DEVICE: &str = "PHONE";
pub const KEY_ALGORITHM: &str = "test";

/// The lane's user and what is known of their writes.
pub struct Writer {
    pub lane: usize,
    token: String,
    room: String,
    /// The event IDs of the lane's messages, by number.
    pub events: Vec<String>,
    /// The event IDs of the lane's topics; one that was repeated may be there twice.
    pub topics: Vec<String>,
    /// How many messages to the listener's device were acknowledged; they are numbered.
    pub told: usize,
    /// The IDs of the listener's one-time keys that were claimed.
    pub claimed: Vec<String>,
    /// The last note (account data) that was acknowledged.
    note: Option<usize>,
    /// What was on its way when the server died.
    pending: Option<Write>,
    next: usize,
}

/// One write; the number makes it recognisable.
#[derive(Clone, Copy, Debug)]
enum Write {
    Message(usize),
    Topic(usize),
    Note(usize),
    Receipt(usize),
    Tell(usize),
    Claim,
}

impl Writer {
    pub async fn register(server: &Process, lane: usize) -> Self {
        let token = server.register(&format!("writer{lane}")).await;
        Self {
            lane,
            token,
            room: String::new(),
            events: Vec::new(),
            topics: Vec::new(),
            told: 0,
            claimed: Vec::new(),
            note: None,
            pending: None,
            next: 0,
        }
    }

    pub fn user_id(&self) -> String {
        format!("@writer{}:localhost", self.lane)
    }

    /// How many messages were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.events.len()
    }

    pub async fn create_room(&self, server: &Process) -> String {
        // Everybody may set the topic.
        let body = json!({
            "preset": "public_chat",
            "power_level_content_override": { "events": { "m.room.topic": 0 } },
        });
        let path = "/_matrix/client/v3/createRoom";
        let answer = server.call(Method::POST, path, &self.token, body).await;
        answer["room_id"].as_str().unwrap().to_owned()
    }

    pub async fn join(&mut self, server: &Process, room: &str) {
        let path = format!("/_matrix/client/v3/rooms/{room}/join");
        server.call(Method::POST, &path, &self.token, json!({})).await;
        room.clone_into(&mut self.room);
    }

    /// Writes until the server is gone.
    pub async fn write_until_death(mut self, url: String) -> Self {
        let http = Client::new();
        loop {
            let write = self.pending.take().unwrap_or_else(|| self.choose());
            let (method, path, body) = self.request_for(write);
            match request(&http, &url, method, &path, &self.token, &body).await {
                Ok((status, answer)) => self.note_answer(write, status, &answer),
                Err(_) => {
                    self.pending = Some(write);
                    return self;
                }
            }
        }
    }

    /// Repeats what was on its way: with the same transaction, so that it may exist already.
    pub async fn settle(&mut self, server: &Process) {
        if let Some(write) = self.pending.take() {
            let (method, path, body) = self.request_for(write);
            let answer = server.call(method, &path, &self.token, body).await;
            self.note_answer(write, StatusCode::OK, &answer);
        }
    }

    /// The user's own data are what was last acknowledged.
    pub async fn check_own_data(&self, server: &Process) {
        let Some(note) = self.note else {
            return;
        };
        let path = self.note_path();
        let stored = server.call(Method::GET, &path, &self.token, Value::Null).await;
        assert_eq!(stored, json!({ "number": note }), "account data of lane {}", self.lane);
    }

    fn choose(&mut self) -> Write {
        let number = self.next;
        self.next += 1;
        match number % 8 {
            1 => Write::Tell(self.told),
            3 => Write::Topic(number),
            5 => Write::Note(number),
            6 => Write::Claim,
            7 if !self.events.is_empty() => Write::Receipt(self.events.len() - 1),
            _ => Write::Message(self.events.len()),
        }
    }

    fn request_for(&self, write: Write) -> (Method, String, Value) {
        let room = format!("/_matrix/client/v3/rooms/{}", self.room);
        match write {
            Write::Message(number) => {
                let body =
                    json!({ "msgtype": "m.text", "body": format!("{} {number}", self.lane) });
                (Method::PUT, format!("{room}/send/m.room.message/t{number}"), body)
            }
            Write::Topic(number) => {
                let topic = format!("{} {number}", self.lane);
                (Method::PUT, format!("{room}/state/m.room.topic"), json!({ "topic": topic }))
            }
            Write::Note(number) => (Method::PUT, self.note_path(), json!({ "number": number })),
            Write::Receipt(number) => {
                let path = format!("{room}/receipt/m.read/{}", self.events[number]);
                (Method::POST, path, json!({}))
            }
            Write::Tell(number) => {
                let path = format!("/_matrix/client/v3/sendToDevice/org.example.told/d{number}");
                let content = json!({ "number": number, "lane": self.lane });
                (Method::PUT, path, json!({ "messages": { LISTENER: { "*": content } } }))
            }
            Write::Claim => {
                let path = "/_matrix/client/v3/keys/claim".to_owned();
                let wanted = json!({ LISTENER: { DEVICE: KEY_ALGORITHM } });
                (Method::POST, path, json!({ "one_time_keys": wanted }))
            }
        }
    }

    fn note_path(&self) -> String {
        format!("/_matrix/client/v3/user/{}/account_data/org.example.note", self.user_id())
    }

    fn note_answer(&mut self, write: Write, status: StatusCode, answer: &Value) {
        assert_eq!(status, 200, "{write:?} of lane {}: {answer}", self.lane);
        match write {
            Write::Message(_) => self.events.push(event_id(answer)),
            Write::Topic(_) => self.topics.push(event_id(answer)),
            Write::Note(number) => self.note = Some(number),
            Write::Receipt(_) => {}
            Write::Tell(_) => self.told += 1,
            Write::Claim => {
                let keys = answer["one_time_keys"][LISTENER][DEVICE].as_object();
                self.claimed.extend(keys.into_iter().flatten().map(|(key, _)| key.clone()));
            }
        }
    }
}

fn event_id(answer: &Value) -> String {
    answer["event_id"].as_str().unwrap().to_owned()
}
