//! Walks along relations (MSC2836): both ways, in both orders, within bounds, and what each event tells of
//! those that point at it.

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    both_databases,
    conversation::{make_room, register, send},
    harness::{Answer, Client, Server},
};

/// Alice's thread, in which the clients of this proposal put relations where none else does:
/// `a` ← `b` ← (`c`, `d`), and `a` ← `e` as everybody does.
struct Thread {
    room: String,
    ids: Vec<String>,
}

impl Thread {
    async fn start(members: &[&Client]) -> Self {
        let room = make_room(members).await;
        let mut thread = Self { room, ids: Vec::new() };
        thread.add(members[0], "a", json!({})).await;
        for (name, parent) in [("b", 0), ("c", 1), ("d", 1)] {
            let relation = json!({ "rel_type": "m.reference", "event_id": thread.ids[parent] });
            thread.add(members[0], name, json!({ "m.relationship": relation })).await;
        }
        let relation = json!({ "rel_type": "m.reference", "event_id": thread.ids[0] });
        thread.add(members[0], "e", json!({ "m.relates_to": relation })).await;
        thread
    }

    async fn add(&mut self, client: &Client, name: &str, mut content: Value) {
        content["msgtype"] = json!("m.text");
        content["body"] = json!(name);
        self.ids.push(send(client, &self.room, &content).await);
    }

    /// What a walk from an event meets, as the names of the events, and whether there is more.
    async fn walk(&self, client: &Client, from: usize, mut body: Value) -> (String, bool) {
        body["event_id"] = json!(self.ids[from]);
        let answer = walk(client, body).await.ok();
        let events = answer["events"].as_array().unwrap();
        let names = events.iter().map(|event| event["content"]["body"].as_str().unwrap());
        (names.collect(), answer["limited"].as_bool().unwrap())
    }
}

async fn walk(client: &Client, body: Value) -> Answer {
    client.post("/_matrix/client/unstable/event_relationships", &body).await
}

both_databases! {
    async fn walks_go_down_and_up_in_the_order_that_was_asked_for(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let thread = Thread::start(&[alice, bob]).await;
        for (from, body, names) in [
            (0, json!({}), "aebdc"),
            (0, json!({ "room_id": thread.room, "recent_first": false }), "abecd"),
            (0, json!({ "recent_first": false, "depth_first": true }), "abcde"),
            (0, json!({ "max_depth": 1, "recent_first": false }), "abe"),
            (2, json!({}), "c"),
            (2, json!({ "direction": "up" }), "cba"),
            (2, json!({ "direction": "up", "max_depth": 1 }), "cb"),
            (3, json!({ "include_parent": true }), "db"),
            (1, json!({ "include_parent": true, "recent_first": false }), "bacd"),
            (1, json!({ "direction": "up", "include_children": true }), "bdca"),
        ] {
            let told = format!("{body}");
            assert_eq!(thread.walk(bob, from, body).await, (names.to_owned(), false), "{told}");
        }
        server.stop().await;
    }

    async fn walks_that_end_early_say_so(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let thread = Thread::start(&[&alice]).await;
        for (body, names) in [
            (json!({ "limit": 2 }), "ae"),
            (json!({ "max_breadth": 1, "recent_first": false }), "abc"),
        ] {
            assert_eq!(thread.walk(&alice, 0, body).await, (names.to_owned(), true));
        }
        assert_eq!(thread.walk(&alice, 0, json!({ "limit": 5 })).await, ("aebdc".into(), false));
        server.stop().await;
    }

    async fn events_tell_what_points_at_them(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let thread = Thread::start(&[&alice]).await;
        let body = json!({ "event_id": thread.ids[1] });
        let answer = walk(&alice, body.clone()).await.ok();
        let unsigned = &answer["events"][0]["unsigned"];
        assert_eq!(unsigned["children"], json!({ "m.reference": 2 }));
        let mut children = [thread.ids[2].as_str(), thread.ids[3].as_str()];
        children.sort_unstable();
        let hash = BASE64_STANDARD_NO_PAD.encode(Sha256::digest(children.concat()));
        assert_eq!(unsigned["children_hash"], hash);
        // What was taken back points nowhere.
        let path = format!("/_matrix/client/v3/rooms/{}/redact/{}/r", thread.room, thread.ids[2]);
        alice.put(&path, &json!({})).await.ok();
        let answer = walk(&alice, body).await.ok();
        assert_eq!(answer["events"][0]["unsigned"]["children"], json!({ "m.reference": 1 }));
        server.stop().await;
    }

    async fn walks_show_nothing_to_those_outside(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        let mut thread = Thread::start(&[alice, bob]).await;
        let body = json!({ "event_id": thread.ids[0] });
        walk(carol, body.clone()).await.error(404, "M_NOT_FOUND");
        walk(alice, json!({ "event_id": "$unknown" })).await.error(404, "M_NOT_FOUND");
        walk(alice, json!({})).await.error(400, "M_BAD_JSON");
        let elsewhere = json!({ "event_id": thread.ids[0], "direction": "sideways" });
        walk(alice, elsewhere).await.error(400, "M_BAD_JSON");
        walk(&server.client(), body).await.error(401, "M_MISSING_TOKEN");
        // Of those whom one ignores, nothing is met.
        let relation = json!({ "rel_type": "m.reference", "event_id": thread.ids[4] });
        thread.add(bob, "f", json!({ "m.relates_to": relation })).await;
        assert_eq!(thread.walk(alice, 4, json!({})).await.0, "ef");
        let path = format!("/_matrix/client/v3/user/{}/account_data/m.ignored_user_list", alice.user_id);
        let ignored = json!({ "ignored_users": { bob.user_id.clone(): {} } });
        alice.put(&path, &ignored).await.ok();
        assert_eq!(thread.walk(alice, 4, json!({})).await.0, "e");
        server.stop().await;
    }
}
