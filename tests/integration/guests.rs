//! Client-Server API, "Guest Access": what guests may do, and what they may not.

use reqwest::Method;
use serde_json::json;

use crate::{
    both_databases,
    harness::{Client, Server},
    rooms::{V1, V3, create_room, join, say},
};

async fn register_guest(server: &Server) -> Client {
    let mut guest = server.client();
    let answer = guest.post(&format!("{V3}/register?kind=guest"), &json!({})).await.ok();
    guest.take_login(&answer);
    guest
}

/// A room that guests may enter, where everybody may do everything.
async fn open_room(client: &Client) -> String {
    let body = json!({
        "preset": "public_chat",
        "initial_state": [{
            "type": "m.room.guest_access", "state_key": "", "content": { "guest_access": "can_join" },
        }],
        "power_level_content_override": { "state_default": 0 },
    });
    create_room(client, body).await
}

both_databases! {
    async fn guests_may_do_what_is_listed(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let guest = register_guest(&server).await;
        let room = open_room(&alice).await;
        let event = say(&alice, &room, "hello").await;
        join(&guest, &room).await.ok();
        let (id, device) = (&guest.user_id, &guest.device_id);
        let here = format!("{V3}/rooms/{room}");
        let nothing = json!({});
        for (method, path, body) in [
            (Method::GET, format!("{here}/state"), nothing.clone()),
            (Method::GET, format!("{here}/state/m.room.create/"), nothing.clone()),
            (Method::GET, format!("{here}/messages?dir=b"), nothing.clone()),
            (Method::GET, format!("{here}/members"), nothing.clone()),
            (Method::GET, format!("{here}/initialSync"), nothing.clone()),
            (Method::GET, format!("{V3}/sync"), nothing.clone()),
            (Method::GET, format!("{V3}/events?room_id={room}&timeout=1"), nothing.clone()),
            (Method::PUT, format!("{here}/send/org.example.any/1"), json!({ "body": "hi" })),
            (Method::PUT, format!("{here}/state/org.example.any/"), json!({ "body": "hi" })),
            (Method::PUT, format!("{V3}/sendToDevice/org.example/1"), json!({ "messages": {} })),
            (Method::PUT, format!("{V3}/profile/{id}/displayname"), json!({ "displayname": "V" })),
            (Method::DELETE, format!("{V3}/profile/{id}/displayname"), nothing.clone()),
            (Method::GET, format!("{V3}/devices"), nothing.clone()),
            (Method::GET, format!("{V3}/devices/{device}"), nothing.clone()),
            (Method::PUT, format!("{V3}/devices/{device}"), json!({ "display_name": "D" })),
            (Method::GET, format!("{V3}/account/whoami"), nothing.clone()),
            (Method::POST, format!("{V3}/keys/upload"), nothing.clone()),
            (Method::POST, format!("{V3}/keys/query"), json!({ "device_keys": {} })),
            (Method::POST, format!("{V3}/keys/claim"), json!({ "one_time_keys": {} })),
            (Method::POST, format!("{here}/leave"), nothing.clone()),
        ] {
            let request = guest.request(method.clone(), &path);
            let request = if method == Method::GET { request } else { request.json(&body) };
            let answer = guest.send(request).await;
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
        }
        join(&guest, &room).await.ok();
        for path in [format!("{here}/event/{event}"), format!("{here}/context/{event}")] {
            guest.get(&path).await.ok();
        }
    }

    async fn guests_may_do_nothing_else(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let guest = register_guest(&server).await;
        let room = open_room(&alice).await;
        let event = say(&alice, &room, "hello").await;
        join(&guest, &room).await.ok();
        let (id, here) = (&guest.user_id, format!("{V3}/rooms/{room}"));
        let target = json!({ "user_id": alice.user_id });
        for (method, path, body) in [
            (Method::POST, format!("{V3}/createRoom"), json!({})),
            (Method::POST, format!("{V3}/knock/{room}"), json!({})),
            (Method::POST, format!("{here}/invite"), target.clone()),
            (Method::POST, format!("{here}/kick"), target.clone()),
            (Method::POST, format!("{here}/ban"), target.clone()),
            (Method::POST, format!("{here}/upgrade"), json!({ "new_version": "12" })),
            (Method::POST, format!("{here}/report/{event}"), json!({})),
            (Method::PUT, format!("{here}/redact/{event}/1"), json!({})),
            (Method::POST, format!("{V3}/search"), json!({ "search_categories": {} })),
            (Method::POST, format!("{V3}/user_directory/search"), json!({ "search_term": "a" })),
            (Method::GET, format!("{V1}/mutual_rooms?user_id={}", alice.user_id), json!({})),
            (Method::GET, format!("{V1}/rooms/{room}/hierarchy"), json!({})),
            (Method::GET, format!("{V3}/notifications"), json!({})),
            (Method::GET, format!("{V3}/pushers"), json!({})),
            (Method::GET, format!("{V3}/pushrules/"), json!({})),
            (Method::GET, format!("{V3}/account/3pid"), json!({})),
            (Method::POST, format!("{V3}/account/password"), json!({ "new_password": "x" })),
            (Method::PUT, format!("{V3}/directory/room/%23x:hearth.test"), json!({ "room_id": room })),
            (Method::PUT, format!("{V3}/user/{id}/account_data/org.example"), json!({})),
            (Method::PUT, format!("{V3}/user/{id}/rooms/{room}/tags/u.x"), json!({})),
            (Method::GET, format!("{V3}/voip/turnServer"), json!({})),
            (Method::POST, format!("{V3}/user/{id}/openid/request_token"), json!({})),
            (Method::GET, format!("{V3}/events"), json!({})),
        ] {
            let request = guest.request(method.clone(), &path);
            let request = if method == Method::GET { request } else { request.json(&body) };
            let answer = guest.send(request).await;
            let found = (answer.status.as_u16(), answer.body["errcode"].as_str());
            assert_eq!(found, (403, Some("M_GUEST_ACCESS_FORBIDDEN")), "{path}: {answer:?}");
        }
    }
}
