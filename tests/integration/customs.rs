//! What clients rely on where the specification is silent, or where other servers and clients have
//! long read it otherwise.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    both_databases,
    harness::{Client, Server},
    rooms::{V3, content_of, create_room, join, set_state},
};

async fn sync(client: &Client, query: &str) -> Value {
    client.get(&format!("{V3}/sync?{query}")).await.ok()
}

async fn leave(client: &Client, room: &str) {
    client.post(&format!("{V3}/rooms/{room}/leave"), &json!({})).await.ok();
}

async fn say(client: &Client, room: &str, transaction: &str) {
    let body = json!({ "msgtype": "m.text", "body": transaction });
    let path = format!("{V3}/rooms/{room}/send/m.room.message/{transaction}");
    client.put(&path, &body).await.ok();
}

both_databases! {
    async fn who_rejects_an_invitation_sees_it_end_whatever_the_room_shows(backend: Backend) {
        let server = Server::start(backend).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let hidden = json!({
            "type": "m.room.history_visibility", "content": { "history_visibility": "joined" },
        });
        let room = create_room(&alice, json!({ "invite": [bob.user_id], "initial_state": [hidden] }));
        let room = room.await;
        let since = sync(&bob, "").await["next_batch"].as_str().unwrap().to_owned();
        leave(&bob, &room).await;
        let answer = sync(&bob, &format!("since={since}")).await;
        let events = answer["rooms"]["leave"][&room]["timeline"]["events"].as_array().unwrap();
        assert_eq!(events.len(), 1, "{answer}");
        assert_eq!(events[0]["state_key"], *bob.user_id);
        assert_eq!(events[0]["content"]["membership"], "leave");
    }

    async fn state_after_comes_by_the_name_that_was_asked_for(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = create_room(&alice, json!({})).await;
        let (stable, unstable) = ("use_state_after=true", "org.matrix.msc4222.use_state_after=true");
        let cases = [
            ("", "state"),
            (stable, "state_after"),
            (unstable, "org.matrix.msc4222.state_after"),
            // Clients that do not know the server send both.
            (&*format!("{stable}&{unstable}"), "state_after"),
        ];
        for (query, expect) in cases {
            let answer = sync(&alice, &format!("set_presence=offline&{query}")).await;
            let sections = answer["rooms"]["join"][&room].as_object().unwrap();
            let found: Vec<_> = sections.keys().filter(|name| name.contains("state")).collect();
            // All of the state is in the timeline of so young a room.
            let is_there = sections.contains_key(expect) || expect == "state";
            assert!(is_there && found.iter().all(|name| *name == expect), "{query}: {answer}");
            assert_eq!(answer["rooms"]["join"][&room]["account_data"]["events"], json!([]));
        }
    }

    async fn what_no_room_can_have_is_a_bad_request(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        for version in ["11", "12"] {
            let room = create_room(&alice, json!({ "room_version": version })).await;
            let create = json!({ "room_version": version, "x": 1 });
            set_state(&alice, &room, "m.room.create/", create).await.error(400, "M_BAD_JSON");
        }
        let room = create_room(&alice, json!({ "room_version": "12" })).await;
        let levels = json!({ "users": { (alice.user_id.as_str()): 100 } });
        set_state(&alice, &room, "m.room.power_levels/", levels).await.error(400, "M_BAD_JSON");
        for (version, names_event) in [("11", true), ("12", false)] {
            let room = create_room(&alice, json!({})).await;
            let body = json!({ "new_version": version });
            let answer = alice.post(&format!("{V3}/rooms/{room}/upgrade"), &body).await.ok();
            let new = answer["replacement_room"].as_str().unwrap();
            let create = content_of(&alice, new, "m.room.create", "").await;
            assert_eq!(create["predecessor"]["room_id"], room.as_str());
            assert_eq!(create["predecessor"]["event_id"].is_string(), names_event, "{create}");
        }
    }

    async fn invitations_show_when_the_room_was_made(backend: Backend) {
        let server = Server::start(backend).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = create_room(&alice, json!({ "invite": [bob.user_id] })).await;
        let answer = sync(&bob, "").await;
        let shown = answer["rooms"]["invite"][&room]["invite_state"]["events"].as_array().unwrap();
        let create = shown.iter().find(|event| event["type"] == "m.room.create").unwrap();
        assert!(create["origin_server_ts"].is_i64() && create["event_id"].is_string(), "{create}");
    }

    async fn who_begins_anew_hears_of_bans_and_not_of_rooms_that_were_left(backend: Backend) {
        let server = Server::start(backend).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let mut rooms = Vec::new();
        for _ in 0..3 {
            let room = create_room(&alice, json!({ "preset": "public_chat" })).await;
            join(&bob, &room).await.ok();
            rooms.push(room);
        }
        let [left, banned, forgotten] = <[String; 3]>::try_from(rooms).unwrap();
        leave(&bob, &left).await;
        for room in [&banned, &forgotten] {
            let body = json!({ "user_id": bob.user_id });
            alice.post(&format!("{V3}/rooms/{room}/ban"), &body).await.ok();
        }
        bob.post(&format!("{V3}/rooms/{forgotten}/forget"), &json!({})).await.ok();
        let answer = sync(&bob, "").await;
        let told = answer["rooms"]["leave"].as_object().unwrap();
        assert_eq!(told.keys().collect::<Vec<_>>(), [&banned]);
        let events = told[&banned]["timeline"]["events"].as_array().unwrap();
        assert_eq!(events.last().unwrap()["content"]["membership"], "ban");
        let since = answer["next_batch"].as_str().unwrap();
        let later = sync(&bob, &format!("since={since}")).await;
        assert!(later["rooms"]["leave"].is_null(), "{later}");
    }

    async fn other_devices_hear_of_a_room_that_was_left_and_forgotten(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = create_room(&alice, json!({})).await;
        let since = sync(&alice, "").await["next_batch"].as_str().unwrap().to_owned();
        leave(&alice, &room).await;
        alice.post(&format!("{V3}/rooms/{room}/forget"), &json!({})).await.ok();
        let answer = sync(&alice, &format!("since={since}")).await;
        assert!(answer["rooms"]["leave"][&room].is_object(), "{answer}");
        let since = answer["next_batch"].as_str().unwrap();
        let later = sync(&alice, &format!("since={since}")).await;
        assert!(later["rooms"]["leave"][&room].is_null(), "{later}");
        let filter = "filter=%7B%22room%22%3A%7B%22include_leave%22%3Atrue%7D%7D";
        let initial = sync(&alice, filter).await;
        assert!(initial["rooms"]["leave"][&room].is_null(), "{initial}");
        // Refused before the query is looked at, which lacks a direction.
        let messages = alice.get(&format!("{V3}/rooms/{room}/messages")).await;
        messages.error(403, "M_FORBIDDEN");
    }

    async fn members_at_the_end_of_a_sync_are_those_of_that_moment(backend: Backend) {
        let server = Server::start(backend).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = create_room(&alice, json!({ "preset": "public_chat" })).await;
        let answer = sync(&alice, "").await;
        let at = answer["rooms"]["join"][&room]["timeline"]["prev_batch"].as_str().unwrap();
        join(&bob, &room).await.ok();
        let members = alice.get(&format!("{V3}/rooms/{room}/members?at={at}")).await.ok();
        let members = members["chunk"].as_array().unwrap();
        assert_eq!(members.len(), 1, "{members:?}");
        assert_eq!(members[0]["state_key"], *alice.user_id);
        // The same token still is a place to read history from.
        let path = format!("{V3}/rooms/{room}/messages?dir=f&from={at}&limit=1");
        assert_eq!(alice.get(&path).await.ok()["chunk"][0]["type"], "m.room.create");
    }

    async fn only_an_empty_page_ends_the_history(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = create_room(&alice, json!({})).await;
        say(&alice, &room, "one").await;
        let page = |from: String| format!("{V3}/rooms/{room}/messages?dir=b&limit=100{from}");
        let first = alice.get(&page(String::new())).await.ok();
        assert!(first["chunk"].as_array().unwrap().len() > 5);
        let end = first["end"].as_str().unwrap();
        let last = alice.get(&page(format!("&from={end}"))).await.ok();
        assert_eq!(last["chunk"], json!([]));
        assert!(last["end"].is_null());
    }

    async fn members_carry_what_the_client_gave_and_nothing_that_only_servers_give(backend: Backend) {
        let server = Server::start(backend).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = create_room(&alice, json!({ "preset": "public_chat" })).await;
        let body = json!({
            "reason": "hello", "foo": "bar", "membership": "ban",
            "join_authorised_via_users_server": alice.user_id,
        });
        bob.post(&format!("{V3}/join/{room}"), &body).await.ok();
        let content = content_of(&alice, &room, "m.room.member", &bob.user_id).await;
        let expected = json!({
            "membership": "join", "displayname": "bob", "reason": "hello", "foo": "bar",
        });
        assert_eq!(content, expected);
        let joined = alice.get(&format!("{V3}/rooms/{room}/joined_members")).await.ok();
        let expected = json!({ "display_name": "bob", "avatar_url": null });
        assert_eq!(joined["joined"][&bob.user_id], expected);
    }

    async fn nobody_confirms_for_somebody_else(backend: Backend) {
        let server = Server::start(backend).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let auth = json!({
            "type": "m.login.password", "password": "password of bob",
            "identifier": { "type": "m.id.user", "user": bob.user_id },
        });
        let path = format!("{V3}/devices/{}", alice.device_id);
        let request = alice.request(Method::DELETE, &path).json(&json!({ "auth": auth }));
        alice.send(request).await.error(403, "M_FORBIDDEN");
        alice.get(&path).await.ok();
    }

    async fn settings_go_along_into_a_room_replaced_by_hand(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let old = create_room(&alice, json!({ "room_version": "11" })).await;
        let rule = format!("{V3}/pushrules/global/room/{old}");
        alice.put(&rule, &json!({ "actions": ["notify"] })).await.ok();
        let predecessor = json!({ "room_id": old, "event_id": "$unknown" });
        let content = json!({ "predecessor": predecessor });
        let new =
            create_room(&alice, json!({ "room_version": "11", "creation_content": content })).await;
        let rules = alice.get(&format!("{V3}/pushrules/global/room/{new}")).await;
        rules.error(404, "M_NOT_FOUND");
        let tombstone = json!({ "body": "moved", "replacement_room": new });
        set_state(&alice, &old, "m.room.tombstone", tombstone).await.ok();
        let rule = alice.get(&format!("{V3}/pushrules/global/room/{new}")).await.ok();
        assert_eq!(rule["actions"], json!(["notify"]));
    }
}
