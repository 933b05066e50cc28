//! What administrators do through the API that their tools know from Synapse: notices, rooms, users,
//! their media, registration tokens, reports.

use hearth::{clock::Clock, config::RateLimit};
use serde_json::{Value, json};

use crate::{
    both_databases,
    harness::{Client, Server},
    media_files::{UPLOAD, download, upload, upload_to},
};

const V3: &str = "/_matrix/client/v3";
const ADMIN: &str = "/_synapse/admin";

/// An administrator: the first user, made one by the operation that the command line uses.
pub async fn register_admin(server: &Server) -> Client {
    let client = server.register("admin").await;
    let user_id = client.user_id.as_str().try_into().unwrap();
    let flag = hearth::accounts::flags::AccountFlags::ADMIN;
    server.app.accounts.set_flag(user_id, flag, true).await.unwrap();
    client
}

pub async fn create_room(client: &Client, body: Value) -> String {
    let answer = client.post(&format!("{V3}/createRoom"), &body).await.ok();
    answer["room_id"].as_str().unwrap().to_owned()
}

async fn join(client: &Client, room: &str) {
    client.post(&format!("{V3}/join/{room}"), &json!({})).await.ok();
}

pub async fn say(client: &Client, room: &str, body: &str) -> String {
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
        alice.put(&state, &json!({ "membership": "invite" })).await.error(403, "M_FORBIDDEN");
        let invite = json!({ "user_id": bob.user_id });
        let path_of_invite = format!("{V3}/rooms/{room}/invite");
        alice.post(&path_of_invite, &invite).await.error(403, "M_FORBIDDEN");
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
        let name = format!("{V3}/profile/{}/displayname", mallory.user_id);
        mallory.put(&name, &json!({ "displayname": "Buy my coins" })).await.ok();
        let member = format!("{V3}/rooms/{room}/state/m.room.member/{}", mallory.user_id);
        for _ in 0..20 {
            assert_eq!(alice.get(&member).await.ok()["displayname"], "mallory");
        }
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
        let admin = register_admin(&server).await;
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
        // Who is exempt from limits, as administrators and bridges are, is not stopped by this one.
        create_room(&admin, json!({ "invite": [alice.user_id] })).await;
        let room = create_room(&admin, json!({})).await;
        admin.post(&format!("{V3}/rooms/{room}/invite"), &invite).await.ok();
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
        // Lists tell in milliseconds when an account was made, its own page in seconds.
        let made_ms = list["users"][0]["creation_ts"].as_i64().unwrap();
        assert_eq!(admin.get(&path).await.ok()["creation_ts"], made_ms / 1000);
        let devices = format!("{path}/devices");
        assert_eq!(admin.get(&devices).await.ok()["total"], 1);
        admin.put(&path, &json!({ "locked": true })).await.ok();
        carol.get(&format!("{V3}/account/whoami")).await.error(401, "M_USER_LOCKED");
        for (query, total) in [("", 1), ("?locked=true", 2), ("?suspended=true", 0)] {
            let list = admin.get(&format!("{ADMIN}/v2/users{query}")).await.ok();
            assert_eq!(list["total"], total, "{query}");
        }
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

    async fn what_a_user_has_and_is_in_is_shown(backend: Backend) {
        let server = Server::start(backend).await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        let (own, theirs) =
            (create_room(&alice, json!({})).await, create_room(&admin, json!({})).await);
        let invite = json!({ "user_id": alice.user_id });
        admin.post(&format!("{V3}/rooms/{theirs}/invite"), &invite).await.ok();
        let of_alice = format!("{ADMIN}/v1/users/{}", alice.user_id);
        let memberships = admin.get(&format!("{of_alice}/memberships")).await.ok();
        let expect = json!({ "memberships": { &own: "join", &theirs: "invite" }, "total": 2 });
        assert_eq!(memberships, expect);
        let data = format!("{V3}/user/{}/account_data/org.example", alice.user_id);
        alice.put(&data, &json!({ "a": 1 })).await.ok();
        let tag = format!("{V3}/user/{}/rooms/{own}/tags/m.favourite", alice.user_id);
        alice.put(&tag, &json!({})).await.ok();
        let shown = admin.get(&format!("{of_alice}/accountdata")).await.ok();
        let shown = &shown["account_data"];
        assert_eq!(shown["global"]["org.example"], json!({ "a": 1 }));
        assert_eq!(shown["rooms"][&own]["m.tag"]["tags"], json!({ "m.favourite": {} }));
        for page in ["memberships", "accountdata"] {
            alice.get(&format!("{of_alice}/{page}")).await.error(403, "M_FORBIDDEN");
            let nobody = format!("{ADMIN}/v1/users/@nobody:hearth.test/{page}");
            admin.get(&nobody).await.error(404, "M_NOT_FOUND");
        }
        let capabilities = format!("{V3}/capabilities");
        let of_admin = admin.get(&capabilities).await.ok()["capabilities"].clone();
        assert_eq!(of_admin["m.account_moderation"], json!({ "suspend": true, "lock": true }));
        let of_alice = alice.get(&capabilities).await.ok()["capabilities"].clone();
        assert!(of_alice.get("m.account_moderation").is_none());
    }

    async fn what_a_user_has_sent_is_taken_back(backend: Backend) {
        let server = Server::start(backend).await;
        let admin = register_admin(&server).await;
        let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
        let mut rooms = Vec::new();
        for number in 0..2 {
            let room = create_room(&alice, json!({ "preset": "public_chat" })).await;
            join(&mallory, &room).await;
            say(&alice, &room, "good words").await;
            for text in ["buy", "my", "coins"] {
                say(&mallory, &room, &format!("{text} {number}")).await;
            }
            rooms.push(room);
        }
        // Who is banned cannot redact any more, and the administrator is not in the room.
        let ban = json!({ "user_id": mallory.user_id });
        alice.post(&format!("{V3}/rooms/{}/ban", rooms[1]), &ban).await.ok();
        let path = format!("{ADMIN}/v1/user/{}/redact", mallory.user_id);
        alice.post(&path, &json!({})).await.error(403, "M_FORBIDDEN");
        admin.post(&path, &json!({ "limit": 0 })).await.error(400, "M_INVALID_PARAM");
        let finish = async |body: Value| {
            let id = admin.post(&path, &body).await.ok()["redact_id"].clone();
            let path = format!("{ADMIN}/v1/user/redact_status/{}", id.as_str().unwrap());
            loop {
                let status = admin.get(&path).await.ok();
                if status["status"] != "active" {
                    return status;
                }
                tokio::task::yield_now().await;
            }
        };
        let status = finish(json!({ "reason": "spam" })).await;
        assert_eq!(status["status"], "completed", "{status}");
        // Three messages, and the name in the event of the join.
        assert_eq!(status["failed_redactions"].as_object().unwrap().len(), 4, "{status}");
        assert_eq!(bodies(&alice, &rooms[0]).await, ["good words"]);
        assert_eq!(bodies(&alice, &rooms[1]).await.len(), 4);
        // In the room, the administrator needs no power over what users of this server have sent.
        join(&admin, &rooms[1]).await;
        let status = finish(json!({ "rooms": [rooms[1]], "limit": 2 })).await;
        assert_eq!(status["failed_redactions"], json!({}));
        assert_eq!(bodies(&alice, &rooms[1]).await, ["good words", "buy 1"]);
        let unknown = format!("{ADMIN}/v1/user/redact_status/unknown");
        admin.get(&unknown).await.error(404, "M_NOT_FOUND");
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

    async fn uploads_are_listed_and_deleted(backend: Backend) {
        let clock = Clock::scripted(1_700_000_000_000, 1);
        let server = Server::start_at(backend, clock.clone(), |_| ()).await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        let path = format!("{ADMIN}/v1/users/{}/media", alice.user_id);
        let mut places = Vec::new();
        for (number, text) in ["first", "second one", "third"].iter().enumerate() {
            let upload_as = format!("{UPLOAD}?filename={number}.txt");
            places.push(upload_to(&alice, &upload_as, "text/plain", text.as_bytes()).await);
            clock.advance_ms(1000);
        }
        // The same content, of somebody else.
        let kept = upload(&admin, "text/plain", b"first").await;
        alice.get(&path).await.error(403, "M_FORBIDDEN");
        let list = async |query: &str| {
            let list = admin.get(&format!("{path}{query}")).await.ok();
            let names = list["media"].as_array().unwrap().iter();
            let names: Vec<_> = names.map(|media| media["upload_name"].clone()).collect();
            (json!(names), list["total"].clone(), list["next_token"].clone())
        };
        assert_eq!(list("").await, (json!(["2.txt", "1.txt", "0.txt"]), json!(3), Value::Null));
        assert_eq!(list("?dir=f&limit=2").await, (json!(["0.txt", "1.txt"]), json!(3), json!(2)));
        assert_eq!(list("?order_by=media_length&dir=b").await.0[0], "1.txt");
        assert_eq!(list(&format!("?from={}", u64::MAX)).await, (json!([]), json!(3), Value::Null));
        admin.get(&format!("{ADMIN}/v1/users/@x:hearth.test/media")).await.error(404, "M_NOT_FOUND");

        let one = format!("{ADMIN}/v1/media{}", places[0]);
        alice.delete(&one).await.error(403, "M_FORBIDDEN");
        assert_eq!(admin.delete(&one).await.ok()["total"], 1);
        admin.delete(&one).await.error(404, "M_NOT_FOUND");
        assert_eq!(download(&alice, &places[0]).await.status, 404);
        assert_eq!(download(&alice, &kept).await.bytes, b"first");
        assert_eq!(admin.delete(&path).await.ok()["total"], 2);
        assert_eq!(download(&alice, &places[2]).await.status, 404);
        let purge = format!("{ADMIN}/v1/purge_media_cache?before_ts=0");
        assert_eq!(admin.post(&purge, &json!({})).await.ok()["deleted"], 0);
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
