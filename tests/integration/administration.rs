//! What administrators do through the API that their tools know from Synapse: notices, rooms, users,
//! registration tokens, reports.

use hearth::config::RateLimit;
use serde_json::{Value, json};

use crate::{
    both_databases,
    harness::{Client, Server},
};

const V3: &str = "/_matrix/client/v3";
const ADMIN: &str = "/_synapse/admin";

/// An administrator: the first user, made one by the operation that the command line uses.
async fn register_admin(server: &Server) -> Client {
    let client = server.register("admin").await;
    let user_id = client.user_id.as_str().try_into().unwrap();
    let flag = hearth::accounts::flags::AccountFlags::ADMIN;
    server.app.accounts.set_flag(user_id, flag, true).await.unwrap();
    client
}

async fn create_room(client: &Client, body: Value) -> String {
    let answer = client.post(&format!("{V3}/createRoom"), &body).await.ok();
    answer["room_id"].as_str().unwrap().to_owned()
}

async fn join(client: &Client, room: &str) {
    client.post(&format!("{V3}/join/{room}"), &json!({})).await.ok();
}

async fn say(client: &Client, room: &str, body: &str) -> String {
    let path = format!("{V3}/rooms/{room}/send/m.room.message/{}", body.replace(' ', "-"));
    let answer = client.put(&path, &json!({ "msgtype": "m.text", "body": body })).await.ok();
    answer["event_id"].as_str().unwrap().to_owned()
}

async fn bodies(client: &Client, room: &str) -> Vec<String> {
    let path = format!("{V3}/rooms/{room}/messages?dir=f&limit=100");
    let page = client.get(&path).await.ok();
    let events = page["chunk"].as_array().unwrap().iter();
    events.filter_map(|event| Some(event["content"]["body"].as_str()?.to_owned())).collect()
}

both_databases! {
    async fn notices_come_in_one_room_that_cannot_be_refused(backend: Backend) {
        let server = Server::start(backend).await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        let path = format!("{ADMIN}/v1/send_server_notice");
        let notice = json!({
            "user_id": alice.user_id, "content": { "msgtype": "m.text", "body": "hear, hear" },
        });
        alice.post(&path, &notice).await.error(403, "M_FORBIDDEN");
        admin.post(&path, &notice).await.ok();
        let sync = alice.get(&format!("{V3}/sync")).await.ok();
        let invites = sync["rooms"]["invite"].as_object().unwrap();
        let room = invites.keys().next().unwrap().clone();
        let leave = format!("{V3}/rooms/{room}/leave");
        let refused = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM";
        alice.post(&leave, &json!({})).await.error(403, refused);
        let state = format!("{V3}/rooms/{room}/state/m.room.member/{}", alice.user_id);
        alice.put(&state, &json!({ "membership": "leave" })).await.error(403, refused);
        join(&alice, &room).await;
        assert_eq!(bodies(&alice, &room).await, ["hear, hear"]);
        let tags = format!("{V3}/user/{}/rooms/{room}/tags", alice.user_id);
        assert!(alice.get(&tags).await.ok()["tags"]["m.server_notice"].is_object());
        let reply = format!("{V3}/rooms/{room}/send/m.room.message/1");
        alice.put(&reply, &json!({ "msgtype": "m.text", "body": "no" })).await.error(403, "M_FORBIDDEN");
        alice.post(&leave, &json!({})).await.ok();

        // The same transaction is one notice; the room stays the same.
        let once = format!("{path}/txn1");
        let first = admin.put(&once, &notice).await.ok();
        assert_eq!(admin.put(&once, &notice).await.ok(), first);
        join(&alice, &room).await;
        assert_eq!(bodies(&alice, &room).await, ["hear, hear", "hear, hear"]);
        let nobody = json!({ "user_id": "@nobody:hearth.test", "content": {} });
        admin.post(&path, &nobody).await.error(404, "M_NOT_FOUND");
    }

    async fn notices_at_a_time_come_in_one_room(backend: Backend) {
        let server = Server::start(backend).await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        let path = format!("{ADMIN}/v1/send_server_notice");
        let sent = (0..6).map(|number| {
            let body = format!("notice {number}");
            let notice = json!({
                "user_id": alice.user_id, "content": { "msgtype": "m.text", "body": body },
            });
            let (admin, path) = (&admin, &path);
            async move { admin.post(path, &notice).await.ok() }
        });
        futures_util::future::join_all(sent).await;
        let sync = alice.get(&format!("{V3}/sync")).await.ok();
        let invites: Vec<_> = sync["rooms"]["invite"].as_object().unwrap().keys().collect();
        assert_eq!(invites.len(), 1);
        join(&alice, invites[0]).await;
        let mut told = bodies(&alice, invites[0]).await;
        told.sort_unstable();
        assert_eq!(told, (0..6).map(|number| format!("notice {number}")).collect::<Vec<_>>());
        // Nobody else is brought in, nor the room changed.
        let bob = server.register("bob").await;
        let room = format!("{V3}/rooms/{}", invites[0]);
        let invite = json!({ "user_id": bob.user_id });
        alice.post(&format!("{room}/invite"), &invite).await.error(403, "M_FORBIDDEN");
        let name = json!({ "name": "mine" });
        alice.put(&format!("{room}/state/m.room.name/"), &name).await.error(403, "M_FORBIDDEN");
        server.stop().await;
    }

    async fn deleted_room_leaves_nothing_behind(backend: Backend) {
        let server = Server::start(backend).await;
        let admin = register_admin(&server).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let body = json!({
            "preset": "public_chat", "visibility": "public", "room_alias_name": "den", "name": "Den",
        });
        let room = create_room(&alice, body).await;
        join(&bob, &room).await;
        let event = say(&alice, &room, "dreadful words").await;
        let receipt = format!("{V3}/rooms/{room}/receipt/m.read/{event}");
        bob.post(&receipt, &json!({})).await.ok();
        let path = format!("{ADMIN}/v1/rooms/{room}");
        alice.delete(&path).await.error(403, "M_FORBIDDEN");
        let body = json!({ "block": true, "purge": true, "new_room_user_id": admin.user_id });
        let deleted = admin.delete_with(&path, &body).await.ok();
        assert_eq!(deleted["kicked_users"].as_array().unwrap().len(), 2);
        assert_eq!(deleted["local_aliases"], json!(["#den:hearth.test"]));
        let successor = deleted["new_room_id"].as_str().unwrap();
        let joined = bob.get(&format!("{V3}/joined_rooms")).await.ok();
        assert_eq!(joined["joined_rooms"], json!([successor]));
        assert_eq!(bodies(&bob, successor).await.len(), 1);
        bob.get(&format!("{V3}/rooms/{room}/messages?dir=b")).await.error(403, "M_FORBIDDEN");
        bob.get(&format!("{V3}/directory/room/%23den:hearth.test")).await.error(404, "M_NOT_FOUND");
        let public = bob.get(&format!("{V3}/publicRooms")).await.ok();
        assert_eq!(public["chunk"], json!([]));
        let sync = bob.get(&format!("{V3}/sync")).await.ok();
        assert!(!sync.to_string().contains(&room));
        admin.get(&path).await.error(404, "M_NOT_FOUND");
        let search = json!({ "search_categories": { "room_events": { "search_term": "dreadful" } } });
        let found = alice.post(&format!("{V3}/search"), &search).await.ok();
        assert_eq!(found["search_categories"]["room_events"]["results"], json!([]));

        // The server starts with what is left.
        server.stop().await;
        let server = Server::start(backend).await;
        let bob = server.reconnect(&bob);
        assert!(!bob.get(&format!("{V3}/sync")).await.ok().to_string().contains(&room));
        let again = create_room(&bob, json!({ "room_alias_name": "den" })).await;
        say(&bob, &again, "new words").await;
    }

    async fn blocked_room_can_be_read_but_not_entered(backend: Backend) {
        let server = Server::start(backend).await;
        let admin = register_admin(&server).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = create_room(&alice, json!({ "preset": "public_chat" })).await;
        let path = format!("{ADMIN}/v1/rooms/{room}/block");
        assert_eq!(admin.get(&path).await.ok(), json!({ "block": false }));
        admin.put(&path, &json!({ "block": true })).await.ok();
        let blocked = admin.get(&path).await.ok();
        assert_eq!(blocked, json!({ "block": true, "user_id": admin.user_id }));
        bob.post(&format!("{V3}/join/{room}"), &json!({})).await.error(403, "M_FORBIDDEN");
        let state = format!("{V3}/rooms/{room}/state/m.room.member/{}", bob.user_id);
        bob.put(&state, &json!({ "membership": "join" })).await.error(403, "M_FORBIDDEN");
        say(&alice, &room, "still here").await;
        admin.put(&path, &json!({ "block": false })).await.ok();
        join(&bob, &room).await;
        alice.put(&path, &json!({ "block": true })).await.error(403, "M_FORBIDDEN");
    }

    async fn shadow_banned_users_are_not_heard_and_not_told(backend: Backend) {
        let server = Server::start(backend).await;
        let admin = register_admin(&server).await;
        let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
        let room = create_room(&alice, json!({ "preset": "public_chat" })).await;
        join(&mallory, &room).await;
        let ban = format!("{ADMIN}/v1/users/{}/shadow_ban", mallory.user_id);
        admin.post(&ban, &json!({})).await.ok();
        assert!(say(&mallory, &room, "buy my coins").await.starts_with('$'));
        let invite = json!({ "user_id": alice.user_id });
        let own = create_room(&mallory, json!({ "invite": [alice.user_id] })).await;
        mallory.post(&format!("{V3}/rooms/{own}/invite"), &invite).await.ok();
        let later = format!("{V3}/rooms/{room}/send/m.room.message/later?org.matrix.msc4140.delay=1000");
        assert!(mallory.put(&later, &json!({ "body": "buy" })).await.ok()["delay_id"].is_string());
        let waiting = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";
        assert_eq!(mallory.get(waiting).await.ok()["delayed_events"], json!([]));
        let upgrade = format!("{V3}/rooms/{own}/upgrade");
        let pretended = mallory.post(&upgrade, &json!({ "new_version": "12" })).await.ok();
        let pretended = pretended["replacement_room"].as_str().unwrap();
        mallory.post(&format!("{V3}/join/{pretended}"), &json!({})).await.error(404, "M_NOT_FOUND");
        assert!(bodies(&alice, &room).await.is_empty());
        let sync = alice.get(&format!("{V3}/sync")).await.ok();
        assert_eq!(sync["rooms"].get("invite"), None);
        admin.delete(&ban).await.ok();
        say(&mallory, &room, "sorry").await;
        assert_eq!(bodies(&alice, &room).await, ["sorry"]);
    }

    async fn nobody_is_flooded_with_invitations(backend: Backend) {
        let server = Server::start_with(backend, |config| {
            config.rate_limits.enabled = true;
            config.rate_limits.invites_received =
                RateLimit { enabled: true, per_second: 0.001, burst: 2 };
        }).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let invite = json!({ "user_id": alice.user_id });
        for number in 0..3 {
            let room = create_room(&bob, json!({})).await;
            let answer = bob.post(&format!("{V3}/rooms/{room}/invite"), &invite).await;
            match number {
                2 => drop(answer.error(429, "M_LIMIT_EXCEEDED")),
                _ => drop(answer.ok()),
            }
        }
    }

    async fn users_are_listed_made_changed_and_closed(backend: Backend) {
        let server = Server::start(backend).await;
        let admin = register_admin(&server).await;
        let path = format!("{ADMIN}/v2/users/@carol:hearth.test");
        admin.get(&path).await.error(404, "M_NOT_FOUND");
        let body = json!({ "password": "password of carol", "displayname": "Carol" });
        let made = admin.put(&path, &body).await;
        assert_eq!(made.status, 201);
        assert_eq!(made.body["displayname"], "Carol");
        let carol = server.login("carol").await;
        carol.get(&path).await.error(403, "M_FORBIDDEN");
        let list = admin.get(&format!("{ADMIN}/v2/users?name=caro")).await.ok();
        assert_eq!((&list["total"], &list["users"][0]["name"]), (&json!(1), &json!("@carol:hearth.test")));
        let page = admin.get(&format!("{ADMIN}/v2/users?limit=1")).await.ok();
        assert_eq!((&page["total"], &page["next_token"]), (&json!(2), &json!("1")));
        let devices = format!("{path}/devices");
        assert_eq!(admin.get(&devices).await.ok()["total"], 1);
        admin.put(&path, &json!({ "locked": true })).await.ok();
        carol.get(&format!("{V3}/account/whoami")).await.error(401, "M_USER_LOCKED");
        admin.put(&path, &json!({ "locked": false })).await.ok();
        admin.delete(&format!("{devices}/{}", carol.device_id)).await.ok();
        carol.get(&format!("{V3}/account/whoami")).await.error(401, "M_UNKNOWN_TOKEN");

        let login = format!("{ADMIN}/v1/users/@carol:hearth.test/login");
        let token = admin.post(&login, &json!({})).await.ok()["access_token"].clone();
        let mut ghost = server.client();
        ghost.access_token = token.as_str().map(ToOwned::to_owned);
        let whoami = ghost.get(&format!("{V3}/account/whoami")).await.ok();
        assert_eq!(whoami["user_id"], "@carol:hearth.test");
        let reset = format!("{ADMIN}/v1/reset_password/@carol:hearth.test");
        admin.post(&reset, &json!({ "new_password": "another password" })).await.ok();
        ghost.get(&format!("{V3}/account/whoami")).await.error(401, "M_UNKNOWN_TOKEN");
        let own = format!("{ADMIN}/v1/users/{}/admin", admin.user_id);
        admin.put(&own, &json!({ "admin": false })).await.error(400, "M_UNKNOWN");
        let deactivate = format!("{ADMIN}/v1/deactivate/@carol:hearth.test");
        admin.post(&deactivate, &json!({ "erase": true })).await.ok();
        let gone = admin.get(&path).await.ok();
        assert_eq!((&gone["deactivated"], &gone["erased"]), (&json!(true), &json!(true)));
        let left = admin.get(&format!("{ADMIN}/v2/users")).await.ok();
        assert_eq!(left["total"], 1);
    }

    async fn rooms_are_listed_and_shown(backend: Backend) {
        let server = Server::start(backend).await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        let small = create_room(&alice, json!({ "name": "Apple" })).await;
        let large = create_room(&alice, json!({ "name": "Pear", "preset": "public_chat" })).await;
        join(&admin, &large).await;
        let list = admin.get(&format!("{ADMIN}/v1/rooms?order_by=joined_members")).await.ok();
        assert_eq!(list["total_rooms"], 2);
        assert_eq!(list["rooms"][0]["room_id"], large.as_str());
        assert_eq!(list["rooms"][0]["joined_local_members"], 2);
        let found = admin.get(&format!("{ADMIN}/v1/rooms?search_term=APPL")).await.ok();
        assert_eq!(found["rooms"][0]["room_id"], small.as_str());
        let shown = admin.get(&format!("{ADMIN}/v1/rooms/{small}")).await.ok();
        assert_eq!((&shown["name"], &shown["creator"]), (&json!("Apple"), &json!(alice.user_id)));
        let members = admin.get(&format!("{ADMIN}/v1/rooms/{small}/members")).await.ok();
        assert_eq!(members, json!({ "members": [alice.user_id], "total": 1 }));
        let state = admin.get(&format!("{ADMIN}/v1/rooms/{small}/state")).await.ok();
        assert!(state["state"].as_array().unwrap().iter().any(|e| e["type"] == "m.room.create"));
        let promote = format!("{ADMIN}/v1/rooms/{small}/make_room_admin");
        admin.post(&promote, &json!({})).await.ok();
        join(&admin, &small).await;
        let topic = format!("{V3}/rooms/{small}/state/m.room.topic");
        admin.put(&topic, &json!({ "topic": "order" })).await.ok();

        let later = admin.delete_with(&format!("{ADMIN}/v2/rooms/{large}"), &json!({})).await.ok();
        let id = later["delete_id"].as_str().unwrap();
        let status = format!("{ADMIN}/v2/rooms/delete_status/{id}");
        while admin.get(&status).await.ok()["status"] == "shutting_down" {
            tokio::task::yield_now().await;
        }
        assert_eq!(admin.get(&status).await.ok()["status"], "complete");
        let of_room = admin.get(&format!("{ADMIN}/v2/rooms/{large}/delete_status")).await.ok();
        assert_eq!(of_room["results"].as_array().unwrap().len(), 1);
    }

    async fn registration_tokens_are_made_limited_and_withdrawn(backend: Backend) {
        let server = Server::start(backend).await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        let path = format!("{ADMIN}/v1/registration_tokens");
        let new = format!("{path}/new");
        let body = json!({ "token": "welcome", "uses_allowed": 1 });
        alice.post(&new, &body).await.error(403, "M_FORBIDDEN");
        let made = admin.post(&new, &body).await.ok();
        assert_eq!((&made["uses_allowed"], &made["completed"]), (&json!(1), &json!(0)));
        admin.post(&new, &body).await.error(400, "M_INVALID_PARAM");
        admin.post(&new, &json!({ "token": "no blanks" })).await.error(400, "M_INVALID_PARAM");
        let random = admin.post(&new, &json!({ "length": 8 })).await.ok();
        assert_eq!(random["token"].as_str().unwrap().len(), 8);
        let register = json!({
            "username": "dora", "password": "password of dora",
            "auth": { "type": "m.login.registration_token", "token": "welcome" },
        });
        server.client().post(&format!("{V3}/register"), &register).await.ok();
        let one = format!("{path}/welcome");
        assert_eq!(admin.get(&one).await.ok()["completed"], 1);
        let invalid = admin.get(&format!("{path}?valid=false")).await.ok();
        assert_eq!(invalid["registration_tokens"][0]["token"], "welcome");
        let lifted = admin.put(&one, &json!({ "uses_allowed": null })).await.ok();
        assert_eq!(lifted["uses_allowed"], Value::Null);
        admin.delete(&one).await.ok();
        admin.get(&one).await.error(404, "M_NOT_FOUND");
    }

    async fn reports_reach_the_administrators(backend: Backend) {
        let server = Server::start(backend).await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        let room = create_room(&alice, json!({ "name": "Den" })).await;
        let event = say(&alice, &room, "rude words").await;
        let report = format!("{V3}/rooms/{room}/report/{event}");
        alice.post(&report, &json!({ "reason": "rude" })).await.ok();
        let path = format!("{ADMIN}/v1/event_reports");
        alice.get(&path).await.error(403, "M_FORBIDDEN");
        let list = admin.get(&path).await.ok();
        let first = &list["event_reports"][0];
        assert_eq!((&first["reason"], &first["name"]), (&json!("rude"), &json!("Den")));
        let one = format!("{path}/{}", first["id"]);
        let shown = admin.get(&one).await.ok();
        assert_eq!(shown["event_json"]["content"]["body"], "rude words");
        admin.delete(&one).await.ok();
        admin.get(&one).await.error(404, "M_NOT_FOUND");
    }
}
