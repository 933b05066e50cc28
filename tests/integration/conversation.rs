//! People in a room who talk and sync: what tests of receipts, typing, presence and counts share.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::{Value, json};

use crate::harness::{Client, Server};

/// A public room with its members, the creator first.
pub async fn make_room(members: &[&Client]) -> String {
    let body = json!({ "preset": "public_chat" });
    let answer = members[0].post("/_matrix/client/v3/createRoom", &body).await.ok();
    let room_id = answer["room_id"].as_str().unwrap().to_owned();
    for member in &members[1..] {
        member.post(&format!("/_matrix/client/v3/join/{room_id}"), &json!({})).await.ok();
    }
    room_id
}

/// Registers users of these names.
pub async fn register<const N: usize>(server: &Server, names: [&str; N]) -> Vec<Client> {
    let mut clients = Vec::new();
    for name in names {
        clients.push(server.register(name).await);
    }
    clients
}

/// Sends a message with a content that was not sent before; returns the event ID.
pub async fn send(client: &Client, room_id: &str, content: &Value) -> String {
    let mut hash = DefaultHasher::new();
    content.to_string().hash(&mut hash);
    let path =
        format!("/_matrix/client/v3/rooms/{room_id}/send/m.room.message/{:x}", hash.finish());
    let answer = client.put(&path, content).await.ok();
    answer["event_id"].as_str().unwrap().to_owned()
}

/// Sends a text that was not sent before.
pub async fn say(client: &Client, room_id: &str, text: &str) -> String {
    send(client, room_id, &json!({ "msgtype": "m.text", "body": text })).await
}

/// Sends a text in a thread.
pub async fn reply(client: &Client, room_id: &str, root: &str, text: &str) -> String {
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    let content = json!({ "msgtype": "m.text", "body": text, "m.relates_to": relation });
    send(client, room_id, &content).await
}

/// Sends a receipt, unthreaded or for a thread.
pub async fn receipt(
    client: &Client,
    room_id: &str,
    (kind, event_id): (&str, &str),
    thread: Option<&str>,
) {
    let body = thread.map_or(json!({}), |thread| json!({ "thread_id": thread }));
    let path = format!("/_matrix/client/v3/rooms/{room_id}/receipt/{kind}/{event_id}");
    client.post(&path, &body).await.ok();
}

/// `m.read` for all of the room.
pub async fn read(client: &Client, room_id: &str, event_id: &str) {
    receipt(client, room_id, ("m.read", event_id), None).await;
}

/// A sync that does not wait and leaves no presence.
pub async fn sync(client: &Client, since: Option<&str>) -> Value {
    let since = since.map_or(String::new(), |since| format!("&since={since}"));
    let path = format!("/_matrix/client/v3/sync?set_presence=offline{since}");
    client.get(&path).await.ok()
}

/// Where an answer of a sync ends.
pub fn next_batch(answer: &Value) -> String {
    answer["next_batch"].as_str().unwrap().to_owned()
}

/// Long-polls until `found` finds something in an answer.
pub async fn wait_for<T>(
    client: &Client,
    since: &str,
    found: impl Fn(&Value) -> Option<T>,
) -> (T, String) {
    let mut since = since.to_owned();
    loop {
        let path =
            format!("/_matrix/client/v3/sync?set_presence=offline&timeout=20000&since={since}");
        let answer = client.get(&path).await.ok();
        since = next_batch(&answer);
        if let Some(found) = found(&answer) {
            return (found, since);
        }
    }
}

/// The content of a room's ephemeral event of a type.
pub fn ephemeral(answer: &Value, room_id: &str, kind: &str) -> Option<Value> {
    let events = answer["rooms"]["join"][room_id]["ephemeral"]["events"].as_array()?;
    let event = events.iter().find(|event| event["type"] == kind)?;
    Some(event["content"].clone())
}
