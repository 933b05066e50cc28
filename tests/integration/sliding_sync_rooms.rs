//! Simplified sliding sync (MSC4186): filters, memberships, and what is beside the timeline.

use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{make_room, read, register, say},
    harness::{Client, Server},
    sliding_sync::{all_rooms, poll, pos},
};

async fn set_account_data(client: &Client, room: Option<&str>, kind: &str, content: &Value) {
    let room = room.map_or(String::new(), |room| format!("/rooms/{room}"));
    let path = format!("/_matrix/client/v3/user/{}{room}/account_data/{kind}", client.user_id);
    client.put(&path, content).await.ok();
}

/// The IDs of the rooms that pass filters.
async fn filtered(client: &Client, filters: &Value) -> Vec<String> {
    let list = json!({ "timeline_limit": 0, "required_state": [], "filters": filters });
    let answer = poll(client, None, &json!({ "lists": { "one": list } })).await.ok();
    let ids: Vec<String> = answer["rooms"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(answer["lists"]["one"]["count"], ids.len());
    ids
}

async fn create(client: &Client, body: &Value) -> String {
    let answer = client.post("/_matrix/client/v3/createRoom", body).await.ok();
    answer["room_id"].as_str().unwrap().to_owned()
}

async fn act(client: &Client, room: &str, action: &str, body: &Value) {
    client.post(&format!("/_matrix/client/v3/rooms/{room}/{action}"), body).await.ok();
}

fn memberships(room: &Value) -> Vec<(&str, &str)> {
    let events = room["required_state"].as_array().map(Vec::as_slice).unwrap_or_default();
    let members = events.iter().filter(|event| event["type"] == "m.room.member");
    members
        .map(|event| {
            (event["state_key"].as_str().unwrap(), event["content"]["membership"].as_str().unwrap())
        })
        .collect()
}

both_databases! {
    async fn lists_are_filtered(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let encryption = json!({
            "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" },
        });
        let secret = create(alice, &json!({ "name": "Secret", "initial_state": [encryption] })).await;
        let space = create(alice, &json!({ "creation_content": { "type": "m.space" } })).await;
        let child = create(alice, &json!({ "name": "Childhood" })).await;
        let invited = create(bob, &json!({ "invite": [alice.user_id] })).await;
        let path = format!("/_matrix/client/v3/rooms/{space}/state/m.space.child/{child}");
        alice.put(&path, &json!({ "via": ["hearth.test"] })).await.ok();
        let path = format!("/_matrix/client/v3/rooms/{space}/state/m.space.child/{secret}");
        alice.put(&path, &json!({})).await.ok();
        set_account_data(alice, None, "m.direct", &json!({ "@bob:hearth.test": [secret] })).await;
        let tags = json!({ "tags": { "m.favourite": {} } });
        set_account_data(alice, Some(&child), "m.tag", &tags).await;
        for (filters, expect) in [
            (json!({}), vec![&secret, &space, &child, &invited]),
            (json!({ "is_dm": true }), vec![&secret]),
            (json!({ "is_dm": false }), vec![&space, &child, &invited]),
            (json!({ "is_encrypted": true }), vec![&secret]),
            (json!({ "is_invite": true }), vec![&invited]),
            (json!({ "is_invite": false, "is_encrypted": false }), vec![&space, &child]),
            (json!({ "room_types": ["m.space"] }), vec![&space]),
            (json!({ "room_types": [null] }), vec![&secret, &child, &invited]),
            (json!({ "room_types": [] }), vec![]),
            (json!({ "not_room_types": ["m.space"] }), vec![&secret, &child, &invited]),
            (json!({ "room_types": ["m.space"], "not_room_types": ["m.space"] }), vec![]),
            (json!({ "tags": ["m.favourite"] }), vec![&child]),
            (json!({ "not_tags": ["m.favourite"] }), vec![&secret, &space, &invited]),
            (json!({ "spaces": [space] }), vec![&child]),
            (json!({ "spaces": [child, "!unknown:x"] }), vec![]),
            (json!({ "room_name_like": "CHILD" }), vec![&child]),
        ] {
            let mut expect: Vec<String> = expect.into_iter().cloned().collect();
            expect.sort_unstable();
            let mut found = filtered(alice, &filters).await;
            found.sort_unstable();
            assert_eq!(found, expect, "{filters}");
        }
        server.stop().await;
    }

    async fn invitations_show_what_strangers_may_see(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let body = all_rooms(5, &json!([["*", "*"]]));
        let first = poll(bob, None, &body).await.ok();
        let wishes = json!({ "name": "Den", "invite": [bob.user_id], "is_direct": true });
        let room = create(alice, &wishes).await;
        say(alice, &room, "before the join").await;
        let second = poll(bob, Some(pos(&first)), &body).await.ok();
        let shown = &second["rooms"][&room];
        let stripped = shown["invite_state"].as_array().unwrap();
        assert!(stripped.iter().any(|event| event["content"]["name"] == "Den"), "{shown}");
        assert!(stripped.iter().any(|event| event["state_key"] == bob.user_id.as_str()));
        assert_eq!((&shown["initial"], &shown["is_dm"]), (&json!(true), &json!(true)));
        assert_eq!(shown["membership"], "invite");
        for field in ["timeline", "required_state", "joined_count", "name"] {
            assert!(shown.get(field).is_none(), "{field}: {shown}");
        }
        let quiet = poll(bob, Some(pos(&second)), &body).await.ok();
        assert_eq!(quiet["rooms"], json!({}));
        act(bob, &room, "join", &json!({})).await;
        let third = poll(bob, Some(pos(&quiet)), &body).await.ok();
        let shown = &third["rooms"][&room];
        assert_eq!((&shown["initial"], &shown["name"]), (&json!(true), &json!("Den")));
        assert_eq!(shown["joined_count"], 2);
        assert!(shown.get("invite_state").is_none());
        server.stop().await;
    }

    async fn declined_invitations_and_left_rooms_end_once(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let joined = make_room(&[alice, bob]).await;
        let invited = create(alice, &json!({ "invite": [bob.user_id] })).await;
        let body = all_rooms(5, &json!([["m.room.member", "$ME"]]));
        let first = poll(bob, None, &body).await.ok();
        assert_eq!(first["lists"]["all"]["count"], 2);
        act(bob, &joined, "leave", &json!({})).await;
        act(bob, &invited, "leave", &json!({})).await;
        let second = poll(bob, Some(pos(&first)), &body).await.ok();
        for room in [&joined, &invited] {
            let shown = &second["rooms"][room];
            assert_eq!(memberships(shown), [(bob.user_id.as_str(), "leave")], "{shown}");
            assert_eq!(shown["membership"], "leave");
        }
        say(alice, &joined, "without bob").await;
        let third = poll(bob, Some(pos(&second)), &body).await.ok();
        assert_eq!((&third["rooms"], &third["lists"]["all"]["count"]), (&json!({}), &json!(0)));
        let anew = poll(bob, None, &body).await.ok();
        assert_eq!(anew["rooms"], json!({}));
        server.stop().await;
    }

    async fn removed_members_see_the_room_until_then(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        say(alice, &room, "with bob").await;
        act(alice, &room, "kick", &json!({ "user_id": bob.user_id, "reason": "noise" })).await;
        say(alice, &room, "without bob").await;
        let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.name/");
        alice.put(&path, &json!({ "name": "Bobless" })).await.ok();
        let body = all_rooms(2, &json!([["m.room.name", ""], ["m.room.member", "$ME"]]));
        let first = poll(bob, None, &body).await.ok();
        let shown = &first["rooms"][&room];
        assert_eq!(shown["timeline"][0]["content"]["body"], "with bob", "{shown}");
        assert_eq!(shown["timeline"][1]["content"]["membership"], "leave", "{shown}");
        assert_eq!(shown["timeline"].as_array().unwrap().len(), 2);
        assert_eq!(memberships(shown), [(bob.user_id.as_str(), "leave")]);
        assert!(!first.to_string().contains("Bobless"), "{first}");
        // A ban of somebody who was never there is not their room.
        let other = make_room(&[alice]).await;
        act(alice, &other, "ban", &json!({ "user_id": bob.user_id })).await;
        assert!(poll(bob, None, &body).await.ok()["rooms"].get(&other).is_none());
        server.stop().await;
    }

    async fn strangers_cannot_subscribe(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice]).await;
        let wish = json!({ "timeline_limit": 5, "required_state": [["*", "*"]] });
        let body = json!({ "room_subscriptions": {
            &room: wish, "!unknown:hearth.test": wish, "no room": wish,
        } });
        let answer = poll(bob, None, &body).await.ok();
        assert_eq!(answer["rooms"], json!({}));
        server.stop().await;
    }

    async fn ignored_users_neither_speak_nor_invite(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let ignored = json!({ "ignored_users": { &alice.user_id: {} } });
        set_account_data(bob, None, "m.ignored_user_list", &ignored).await;
        let body = all_rooms(1, &json!([]));
        let first = poll(bob, None, &body).await.ok();
        say(alice, &room, "unheard").await;
        create(alice, &json!({ "invite": [bob.user_id] })).await;
        let second = poll(bob, Some(pos(&first)), &body).await.ok();
        assert!(!second.to_string().contains("unheard"), "{second}");
        assert_eq!(second["lists"]["all"]["count"], 1);
        server.stop().await;
    }

    async fn heroes_name_rooms_without_a_name(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let body = all_rooms(1, &json!([]));
        let first = poll(bob, None, &body).await.ok();
        let heroes = &first["rooms"][&room]["heroes"];
        assert_eq!(heroes, &json!([{ "user_id": alice.user_id, "displayname": "alice" }]));
        let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.name/");
        alice.put(&path, &json!({ "name": "Named" })).await.ok();
        let second = poll(bob, Some(pos(&first)), &body).await.ok();
        let shown = &second["rooms"][&room];
        assert!(shown["name"] == "Named" && shown.get("heroes").is_none(), "{shown}");
        alice.put(&path, &json!({})).await.ok();
        let third = poll(bob, Some(pos(&second)), &body).await.ok();
        let shown = &third["rooms"][&room];
        assert!(shown["name"].is_null() && shown.get("name").is_some(), "{shown}");
        assert_eq!(shown["heroes"][0]["user_id"], alice.user_id.as_str());
        server.stop().await;
    }

    async fn counts_and_direct_chats_are_news_of_their_own(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let body = all_rooms(1, &json!([]));
        let first = poll(bob, None, &body).await.ok();
        let event = say(alice, &room, "hello bob").await;
        let second = poll(bob, Some(pos(&first)), &body).await.ok();
        let shown = &second["rooms"][&room];
        assert_eq!(shown["notification_count"], 1, "{shown}");
        read(bob, &room, &event).await;
        let third = poll(bob, Some(pos(&second)), &body).await.ok();
        assert_eq!(third["rooms"][&room]["notification_count"], 0, "{third}");
        set_account_data(bob, None, "m.direct", &json!({ &alice.user_id: [room] })).await;
        let fourth = poll(bob, Some(pos(&third)), &body).await.ok();
        assert_eq!(fourth["rooms"][&room]["is_dm"], true);
        let fifth = poll(bob, Some(pos(&fourth)), &body).await.ok();
        assert_eq!(fifth["rooms"], json!({}));
        server.stop().await;
    }

    async fn extensions_follow_the_rooms_in_view(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let event = say(alice, &room, "hello").await;
        set_account_data(bob, None, "org.example", &json!({ "own": 1 })).await;
        set_account_data(bob, Some(&room), "org.example", &json!({ "room": 1 })).await;
        let mut body = all_rooms(5, &json!([]));
        let on = json!({ "enabled": true });
        body["extensions"] = json!({ "account_data": on, "receipts": on, "typing": on });
        let first = poll(bob, None, &body).await.ok();
        let data = &first["extensions"]["account_data"];
        let own = data["global"].as_array().unwrap();
        assert!(own.iter().any(|piece| piece["type"] == "m.push_rules"), "{data}");
        assert!(own.iter().any(|piece| piece["content"]["own"] == 1), "{data}");
        assert_eq!(data["rooms"][&room][0]["content"]["room"], 1);
        read(alice, &room, &event).await;
        let path = format!("/_matrix/client/v3/rooms/{room}/typing/{}", alice.user_id);
        alice.put(&path, &json!({ "typing": true, "timeout": 60000 })).await.ok();
        set_account_data(bob, Some(&room), "org.example", &json!({ "room": 2 })).await;
        let second = poll(bob, Some(pos(&first)), &body).await.ok();
        let extensions = &second["extensions"];
        assert_eq!(second["rooms"], json!({}));
        let receipts = &extensions["receipts"]["rooms"][&room];
        assert_eq!(receipts["type"], "m.receipt");
        assert!(receipts["content"][&event]["m.read"][&alice.user_id].is_object(), "{receipts}");
        let typing = &extensions["typing"]["rooms"][&room];
        assert_eq!(typing["content"]["user_ids"], json!([alice.user_id]));
        assert_eq!(extensions["account_data"]["rooms"][&room][0]["content"]["room"], 2);
        assert_eq!(extensions["account_data"]["global"], json!([]));
        alice.put(&path, &json!({ "typing": false })).await.ok();
        let third = poll(bob, Some(pos(&second)), &body).await.ok();
        let typing = &third["extensions"]["typing"]["rooms"][&room];
        assert_eq!(typing["content"]["user_ids"], json!([]));
        assert!(third["extensions"].get("receipts").is_none(), "{third}");
        let fourth = poll(bob, Some(pos(&third)), &body).await.ok();
        assert_eq!(fourth["extensions"], json!({}));
        server.stop().await;
    }

    async fn messages_to_devices_have_a_token_of_their_own(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        make_room(&[alice, bob]).await;
        let body = |since: Option<&Value>| json!({ "extensions": {
            "to_device": { "enabled": true, "since": since }, "e2ee": { "enabled": true },
        } });
        let first = poll(bob, None, &body(None)).await.ok();
        let e2ee = &first["extensions"]["e2ee"];
        assert!(e2ee["device_unused_fallback_key_types"].is_array(), "{e2ee}");
        let messages = json!({ "messages": { &bob.user_id: { "*": { "n": 1 } } } });
        alice.put("/_matrix/client/v3/sendToDevice/org.example/1", &messages).await.ok();
        let second = poll(bob, Some(pos(&first)), &body(None)).await.ok();
        let inbox = &second["extensions"]["to_device"];
        assert_eq!(inbox["events"][0]["content"]["n"], 1, "{inbox}");
        // Until the token comes back they are sent again.
        let again = poll(bob, Some(pos(&second)), &body(None)).await.ok();
        assert_eq!(again["extensions"]["to_device"]["events"], inbox["events"]);
        let third = poll(bob, Some(pos(&again)), &body(Some(&inbox["next_batch"]))).await.ok();
        assert_eq!(third["extensions"]["to_device"]["events"], json!([]));
        let bad = body(Some(&json!("x")));
        poll(bob, Some(pos(&third)), &bad).await.error(400, "M_INVALID_PARAM");
        let keys = json!({ "device_keys": {
            "user_id": alice.user_id, "device_id": alice.device_id, "algorithms": [],
            "keys": { format!("ed25519:{}", alice.device_id): "k" }, "signatures": {},
        } });
        let uploaded = alice.post("/_matrix/client/v3/keys/upload", &keys).await;
        if uploaded.status == 200 {
            let fourth = poll(bob, Some(pos(&third)), &body(None)).await.ok();
            let changed = &fourth["extensions"]["e2ee"]["device_lists"]["changed"];
            assert_eq!(changed, &json!([alice.user_id]), "{fourth}");
        }
        server.stop().await;
    }

    async fn bad_requests_are_refused(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let list = |ranges: Value| json!({ "lists": { "l": {
            "ranges": ranges, "timeline_limit": 1, "required_state": [],
        } } });
        poll(&alice, None, &list(json!([[3, 1]]))).await.error(400, "M_INVALID_PARAM");
        poll(&alice, None, &list(json!([[-1, 1]]))).await.error(400, "M_BAD_JSON");
        let lists: serde_json::Map<String, Value> =
            (0..101).map(|n| (n.to_string(), list(json!([]))["lists"]["l"].clone())).collect();
        poll(&alice, None, &json!({ "lists": lists })).await.error(400, "M_INVALID_PARAM");
        poll(&server.client(), None, &json!({})).await.error(401, "M_MISSING_TOKEN");
        let empty = poll(&alice, None, &json!({})).await.ok();
        assert_eq!((&empty["rooms"], &empty["lists"]), (&json!({}), &json!({})));
        server.stop().await;
    }
}
