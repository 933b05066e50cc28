//! What the tests of rooms share: making rooms and reading them.

use serde_json::{Value, json};

use crate::harness::{Answer, Client};

pub const V3: &str = "/_matrix/client/v3";
pub const V1: &str = "/_matrix/client/v1";

/// Makes a room; returns its ID.
pub async fn create_room(client: &Client, body: Value) -> String {
    let answer = client.post(&format!("{V3}/createRoom"), &body).await.ok();
    answer["room_id"].as_str().unwrap().to_owned()
}

/// Sends a text; returns the event ID.
pub async fn say(client: &Client, room: &str, body: &str) -> String {
    send(client, room, "m.room.message", json!({ "msgtype": "m.text", "body": body })).await
}

/// Sends a message event; returns its ID.
pub async fn send(client: &Client, room: &str, kind: &str, content: Value) -> String {
    let transaction = format!("{:x}", fastrand(&content));
    let path = format!("{V3}/rooms/{room}/send/{kind}/{transaction}");
    event_id(client.put(&path, &content).await)
}

/// The event ID of an answer that must be 200.
#[track_caller]
pub fn event_id(answer: Answer) -> String {
    answer.ok()["event_id"].as_str().unwrap().to_owned()
}

pub async fn set_state(client: &Client, room: &str, kind: &str, content: Value) -> Answer {
    client.put(&format!("{V3}/rooms/{room}/state/{kind}"), &content).await
}

pub async fn join(client: &Client, room: &str) -> Answer {
    client.post(&format!("{V3}/rooms/{room}/join"), &json!({})).await
}

/// An action on a room: `leave`, `kick` …
pub async fn act(client: &Client, room: &str, action: &str, body: Value) -> Answer {
    client.post(&format!("{V3}/rooms/{room}/{action}"), &body).await
}

/// The content of a state event.
pub async fn content_of(client: &Client, room: &str, kind: &str, key: &str) -> Value {
    client.get(&format!("{V3}/rooms/{room}/state/{kind}/{key}")).await.ok()
}

pub async fn state_of(client: &Client, room: &str) -> Vec<Value> {
    let state = client.get(&format!("{V3}/rooms/{room}/state")).await.ok();
    state.as_array().unwrap().clone()
}

/// The bodies of the messages that a client sees, oldest first.
pub async fn bodies(client: &Client, room: &str) -> Vec<String> {
    let page = client.get(&format!("{V3}/rooms/{room}/messages?dir=f&limit=500")).await;
    let page = page.ok();
    let events = page["chunk"].as_array().unwrap().iter();
    let bodies = events.filter_map(|event| event["content"]["body"].as_str());
    bodies.map(str::to_owned).collect()
}

/// A number that differs from call to call.
fn fastrand(content: &Value) -> u64 {
    use std::{
        hash::{BuildHasher, Hash, Hasher, RandomState},
        time::SystemTime,
    };
    let mut hasher = RandomState::new().build_hasher();
    content.to_string().hash(&mut hasher);
    #[expect(clippy::disallowed_methods, reason = "any number that differs will do")]
    SystemTime::now().hash(&mut hasher);
    hasher.finish()
}
