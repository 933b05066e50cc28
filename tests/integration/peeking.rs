//! Client-Server API: snapshots and the stream of events from before `/sync`, with which rooms are still
//! looked into ("Room previews", "Guest Access").

use serde_json::{Value, json};

use crate::{
    both_databases,
    harness::{Client, Server},
};

const V3: &str = "/_matrix/client/v3";

async fn create_room(client: &Client, visibility: &str) -> String {
    let body = json!({
        "preset": "public_chat", "visibility": "public", "name": "House",
        "initial_state": [{
            "type": "m.room.history_visibility", "content": { "history_visibility": visibility },
        }],
    });
    let answer = client.post(&format!("{V3}/createRoom"), &body).await.ok();
    answer["room_id"].as_str().unwrap().to_owned()
}

async fn say(client: &Client, room: &str, body: &str) -> String {
    let path = format!("{V3}/rooms/{room}/send/m.room.message/{}", body.replace(' ', "-"));
    let answer = client.put(&path, &json!({ "msgtype": "m.text", "body": body })).await.ok();
    answer["event_id"].as_str().unwrap().to_owned()
}

async fn register_guest(server: &Server) -> Client {
    let mut guest = server.client();
    let answer = guest.post(&format!("{V3}/register?kind=guest"), &json!({})).await.ok();
    guest.take_login(&answer);
    guest
}

fn bodies(chunk: &Value) -> Vec<&str> {
    let events = chunk.as_array().unwrap().iter();
    events.filter_map(|event| event["content"]["body"].as_str()).collect()
}

both_databases! {
    async fn guests_look_into_world_readable_rooms_only(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let open = create_room(&alice, "world_readable").await;
        let closed = create_room(&alice, "shared").await;
        let guest = register_guest(&server).await;
        for number in 0..3 {
            say(&alice, &open, &format!("message {number}")).await;
        }
        let path = format!("{V3}/rooms/{open}/initialSync?limit=2");
        let snapshot = guest.get(&path).await.ok();
        assert_eq!(snapshot["room_id"], open.as_str());
        assert_eq!(snapshot.get("membership"), None);
        assert_eq!(snapshot["visibility"], "public");
        assert_eq!(bodies(&snapshot["messages"]["chunk"]), ["message 1", "message 2"]);
        let start = snapshot["messages"]["start"].as_str().unwrap();
        let older = format!("{V3}/rooms/{open}/messages?dir=b&limit=1&from={start}");
        assert_eq!(bodies(&guest.get(&older).await.ok()["chunk"]), ["message 0"]);
        let names = snapshot["state"].as_array().unwrap().iter();
        assert!(names.clone().any(|event| event["content"]["name"] == "House"));
        guest.get(&format!("{V3}/rooms/{closed}/initialSync")).await.error(403, "M_FORBIDDEN");

        let from = snapshot["messages"]["end"].as_str().unwrap().replace('t', "");
        assert!(from.parse::<i64>().is_ok());
        let now = guest.get(&format!("{V3}/events?room_id={open}")).await.ok();
        let end = now["end"].as_str().unwrap();
        let waiting = format!("{V3}/events?room_id={open}&from={end}&timeout=30000");
        let (news, _) = tokio::join!(guest.get(&waiting), say(&alice, &open, "hello guest"));
        assert_eq!(bodies(&news.ok()["chunk"]), ["hello guest"]);
        guest.get(&format!("{V3}/events?room_id={closed}")).await.error(403, "M_FORBIDDEN");
        guest.get(&format!("{V3}/events")).await.error(403, "M_GUEST_ACCESS_FORBIDDEN");
        let wrong = guest.get(&format!("{V3}/events?room_id={open}&from=nonsense")).await;
        wrong.error(400, "M_INVALID_PARAM");

        // From the moment the room is closed, nothing more is seen.
        let path = format!("{V3}/rooms/{open}/state/m.room.history_visibility");
        alice.put(&path, &json!({ "history_visibility": "joined" })).await.ok();
        guest.get(&format!("{V3}/rooms/{open}/initialSync")).await.error(403, "M_FORBIDDEN");
    }

    async fn snapshot_of_everything_and_the_stream_behind_it(backend: Backend) {
        let server = Server::start(backend).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let (one, two) = (create_room(&alice, "shared").await, create_room(&alice, "shared").await);
        let left = create_room(&alice, "shared").await;
        for room in [&one, &left] {
            bob.post(&format!("{V3}/join/{room}"), &json!({})).await.ok();
        }
        let invite = json!({ "user_id": bob.user_id });
        alice.post(&format!("{V3}/rooms/{two}/invite"), &invite).await.ok();
        say(&alice, &left, "still here").await;
        bob.post(&format!("{V3}/rooms/{left}/leave"), &json!({})).await.ok();
        say(&alice, &left, "after you left").await;
        let tag = format!("{V3}/user/{}/rooms/{one}/tags/m.favourite", bob.user_id);
        bob.put(&tag, &json!({ "order": 0.5 })).await.ok();

        let snapshot = bob.get(&format!("{V3}/initialSync?archived=true&limit=1")).await.ok();
        let find = |room: &str| {
            let rooms = snapshot["rooms"].as_array().unwrap().iter();
            rooms.clone().find(|entry| entry["room_id"] == room).unwrap().clone()
        };
        assert_eq!(find(&one)["membership"], "join");
        assert_eq!(find(&one)["account_data"][0]["type"], "m.tag");
        assert_eq!(find(&two)["membership"], "invite");
        assert_eq!(find(&two)["invite"]["content"]["membership"], "invite");
        assert_eq!(find(&left)["membership"], "leave");
        assert!(!snapshot.to_string().contains("after you left"));
        let rules = snapshot["account_data"].as_array().unwrap().iter();
        assert!(rules.clone().any(|piece| piece["type"] == "m.push_rules"));
        let plain = bob.get(&format!("{V3}/initialSync")).await.ok();
        assert_eq!(plain["rooms"].as_array().unwrap().len(), 2);

        let end = snapshot["end"].as_str().unwrap();
        let event_id = say(&alice, &one, "first").await;
        say(&alice, &two, "not for bob").await;
        say(&alice, &one, "second").await;
        let news = bob.get(&format!("{V3}/events?from={end}")).await.ok();
        assert_eq!(bodies(&news["chunk"]), ["first", "second"]);
        let end = news["end"].as_str().unwrap();
        let nothing = bob.get(&format!("{V3}/events?from={end}&timeout=1")).await.ok();
        assert_eq!(nothing["chunk"], json!([]));

        let event = bob.get(&format!("{V3}/events/{event_id}")).await.ok();
        assert_eq!(event["content"]["body"], "first");
        assert_eq!(event["room_id"], one.as_str());
        let carol = server.register("carol").await;
        carol.get(&format!("{V3}/events/{event_id}")).await.error(404, "M_NOT_FOUND");
        bob.get(&format!("{V3}/events/$nothing")).await.error(404, "M_NOT_FOUND");
    }
}
