//! Looking into rooms and other servers through the API that tools know from Synapse.

use serde_json::{Value, json};

use crate::{
    administration::{create_room, register_admin, say},
    both_databases,
    federation::{create, join, start_pair},
    harness::Server,
    two_servers,
};

const V1: &str = "/_synapse/admin/v1";

both_databases! {
    async fn administrators_read_rooms_that_they_are_not_in(backend: Backend) {
        let server = Server::start(backend).await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        let room = create_room(&alice, json!({ "preset": "private_chat" })).await;
        let hidden = json!({ "history_visibility": "joined" });
        let state = format!("/_matrix/client/v3/rooms/{room}/state/m.room.history_visibility/");
        alice.put(&state, &hidden).await.ok();
        let mut events = Vec::new();
        for text in ["one", "two", "three"] {
            events.push(say(&alice, &room, text).await);
        }
        let of_room = format!("{V1}/rooms/{room}");
        let texts = |events: &Value| -> Vec<String> {
            let bodies = events.as_array().unwrap().iter();
            bodies.filter_map(|event| Some(event["content"]["body"].as_str()?.to_owned())).collect()
        };
        let ignored = json!({ "ignored_users": { (alice.user_id.as_str()): {} } });
        let path = format!("/_matrix/client/v3/user/{}/account_data/m.ignored_user_list", admin.user_id);
        admin.put(&path, &ignored).await.ok();
        let path = format!("{of_room}/messages?dir=b&limit=2");
        alice.get(&path).await.error(403, "M_FORBIDDEN");
        let page = admin.get(&path).await.ok();
        assert_eq!(texts(&page["chunk"]), ["three", "two"]);
        let next = format!("{path}&from={}", page["end"].as_str().unwrap());
        assert_eq!(texts(&admin.get(&next).await.ok()["chunk"])[0], "one");
        let forwards = admin.get(&format!("{of_room}/messages?limit=50")).await.ok();
        assert_eq!(texts(&forwards["chunk"]), ["one", "two", "three"]);
        let around = admin.get(&format!("{of_room}/context/{}?limit=2", events[1])).await.ok();
        assert_eq!(around["event"]["content"]["body"], "two");
        assert_eq!(texts(&around["events_before"]), ["one"]);
        assert!(!around["state"].as_array().unwrap().is_empty());
        admin.get(&format!("{of_room}/context/$nothing")).await.error(404, "M_NOT_FOUND");
        let found = admin.get(&format!("{of_room}/timestamp_to_event?ts=99999999999999&dir=b")).await;
        assert_eq!(found.ok()["event_id"], events[2]);
        let fetched = admin.get(&format!("{V1}/fetch_event/{}", events[0])).await.ok();
        assert_eq!(fetched["event"]["content"]["body"], "one");
        assert!(fetched["event"]["signatures"]["hearth.test"].is_object(), "{fetched}");
        alice.get(&format!("{V1}/fetch_event/{}", events[0])).await.error(403, "M_FORBIDDEN");
        admin.get(&format!("{V1}/fetch_event/$nothing")).await.error(404, "M_NOT_FOUND");
        let ends = admin.get(&format!("{of_room}/forward_extremities")).await.ok();
        assert_eq!((&ends["count"], &ends["results"][0]["event_id"]), (&json!(1), &json!(events[2])));
        // None of it made them a member.
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b");
        admin.get(&path).await.error(403, "M_FORBIDDEN");
        server.stop().await;
    }

    async fn administrators_see_the_rooms_below_a_space(backend: Backend) {
        let server = Server::start(backend).await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        let kind = json!({ "type": "m.space" });
        let space = create_room(&alice, json!({ "creation_content": kind, "name": "Space" })).await;
        let child = create_room(&alice, json!({ "name": "Child" })).await;
        for room in [child.as_str(), "!elsewhere:other.test"] {
            let path = format!("/_matrix/client/v3/rooms/{space}/state/m.space.child/{room}");
            alice.put(&path, &json!({ "via": ["hearth.test"] })).await.ok();
        }
        let tree = admin.get(&format!("{V1}/rooms/{space}/hierarchy")).await.ok();
        let names: Vec<_> = tree["rooms"].as_array().unwrap().iter().map(|room| &room["name"]).collect();
        assert_eq!(names, ["Space", "Child"]);
        let first = admin.get(&format!("{V1}/rooms/{space}/hierarchy?limit=1")).await.ok();
        let from = first["next_batch"].as_str().unwrap();
        let second = admin.get(&format!("{V1}/rooms/{space}/hierarchy?limit=1&from={from}")).await.ok();
        assert_eq!(second["rooms"][0]["name"], "Child");
        alice.get(&format!("{V1}/rooms/{space}/hierarchy")).await.error(403, "M_FORBIDDEN");
        server.stop().await;
    }
}

two_servers! {
    async fn servers_are_listed_with_how_it_goes(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let flag = hearth::accounts::flags::AccountFlags::ADMIN;
        let user_id = pair.alice.user_id.as_str().try_into().unwrap();
        pair.servers[0].app.accounts.set_flag(user_id, flag, true).await.unwrap();
        let room = create(&pair.alice, json!({ "preset": "public_chat" })).await;
        join(&pair.bob, &room, &pair.names[0]).await;
        let all = format!("{V1}/federation/destinations");
        let other = format!("{all}/{}", pair.names[1]);
        let list = pair.alice.get(&all).await.ok();
        assert_eq!((&list["total"], &list["destinations"][0]["destination"]), (&json!(1), &json!(pair.names[1])));
        let found = pair.alice.get(&other).await.ok();
        assert_eq!((&found["retry_last_ts"], &found["failure_ts"]), (&json!(0), &Value::Null));
        let rooms = pair.alice.get(&format!("{other}/rooms")).await.ok();
        assert_eq!((&rooms["total"], &rooms["rooms"][0]["room_id"]), (&json!(1), &json!(room)));
        let reset = format!("{other}/reset_connection");
        pair.alice.post(&reset, &json!({})).await.error(400, "M_UNKNOWN");
        pair.alice.get(&format!("{all}/nowhere.test")).await.error(404, "M_NOT_FOUND");
        let [first, second] = pair.servers;
        second.stop().await;
        say(&pair.alice, &room, "hello?").await;
        let failing = async || loop {
            let found = pair.alice.get(&other).await.ok();
            if found["failure_ts"].is_i64() {
                return found;
            }
        };
        let found = failing().await;
        assert!(found["retry_last_ts"].as_i64() >= found["failure_ts"].as_i64(), "{found}");
        assert!(found["retry_interval"].as_i64() >= Some(5_000), "{found}");
        pair.alice.post(&reset, &json!({})).await.ok();
        first.stop().await;
    }
}
