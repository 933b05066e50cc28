//! Media that an administrator keeps from everybody, and what media take: the API that tools know from
//! Synapse.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    administration::{create_room, register_admin},
    both_databases,
    federation::start_pair,
    harness::{Client, Server},
    media_files::{DOWNLOAD, THUMBNAIL, download, fetch, noise, upload},
    two_servers,
};

const V1: &str = "/_synapse/admin/v1";

async fn post(client: &Client, path: &str) -> Value {
    client.post(&format!("{V1}{path}"), &json!({})).await.ok()
}

/// Sends a picture into a room.
async fn show(client: &Client, room: &str, place: &str, more: Value) {
    let mut content =
        json!({ "msgtype": "m.image", "body": place, "url": format!("mxc:/{place}") });
    content["info"] = more;
    let name = place.replace('/', "");
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{name}");
    client.put(&path, &content).await.ok();
}

both_databases! {
    async fn quarantined_media_are_handed_to_nobody(backend: Backend) {
        let server = Server::start(backend).await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        let bytes = noise(1, 300);
        let place = upload(&alice, "text/plain", &bytes).await;
        let copy = upload(&admin, "text/plain", &bytes).await;
        let other = upload(&alice, "text/plain", b"harmless").await;
        assert_eq!(download(&alice, &place).await.status, 200);
        let path = format!("{V1}/media/quarantine{place}");
        alice.post(&path, &json!({})).await.error(403, "M_FORBIDDEN");
        post(&admin, &format!("/media/quarantine{place}")).await;
        let etag = format!("\"{}\"", "0".repeat(64));
        for place in [&place, &copy] {
            let refused = download(&alice, place).await;
            assert_eq!((refused.status.as_u16(), refused.errcode()), (404, "M_NOT_FOUND".to_owned()));
            let path = format!("{THUMBNAIL}{place}?width=10&height=10");
            assert_eq!(fetch(&alice, Method::GET, &path, &[]).await.status, 404);
            let path = format!("{DOWNLOAD}{place}");
            let known = [("if-none-match", etag.as_str())];
            assert_eq!(fetch(&alice, Method::GET, &path, &known).await.status, 404);
        }
        assert_eq!(download(&alice, &other).await.bytes, b"harmless");
        // Who uploads it again gets nowhere, nor does a restart.
        let again = upload(&alice, "text/plain", &bytes).await;
        assert_eq!(download(&alice, &again).await.status, 404);
        server.stop().await;

        let server = Server::start(backend).await;
        let [admin, alice] = [&admin, &alice].map(|client| server.reconnect(client));
        assert_eq!(download(&alice, &place).await.status, 404);
        // Administrators see what they judge, if they say so.
        let unsafely = format!("{DOWNLOAD}{place}?admin_unsafely_bypass_quarantine=true");
        assert_eq!(fetch(&admin, Method::GET, &unsafely, &[]).await.bytes, bytes);
        assert_eq!(fetch(&alice, Method::GET, &unsafely, &[]).await.status, 404);
        assert_eq!(download(&admin, &place).await.status, 404);
        let info = admin.get(&format!("{V1}/media{place}")).await.ok()["media_info"].take();
        assert_eq!(info["quarantined_by"], admin.user_id);
        assert_eq!((&info["user_id"], &info["media_length"]), (&json!(alice.user_id), &json!(300)));
        post(&admin, &format!("/media/unquarantine{copy}")).await;
        assert_eq!(download(&alice, &place).await.bytes, bytes);
        admin.get(&format!("{V1}/media/hearth.test/nothing")).await.error(404, "M_NOT_FOUND");
        server.stop().await;
    }

    async fn protected_media_stay_when_those_of_a_user_or_room_are_put_away(backend: Backend) {
        let server = Server::start(backend).await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        let mut places = Vec::new();
        for number in 0..4 {
            places.push(upload(&alice, "image/png", &noise(number, 40)).await);
        }
        let id = places[0].rsplit('/').next().unwrap();
        post(&admin, &format!("/media/protect/{id}")).await;
        let room = create_room(&alice, json!({})).await;
        show(&alice, &room, &places[0], json!({})).await;
        let thumbnail = json!({ "thumbnail_url": format!("mxc:/{}", places[2]) });
        show(&alice, &room, &places[1], thumbnail).await;
        show(&alice, &room, "/elsewhere.test/picture", json!({})).await;
        let listed = admin.get(&format!("{V1}/room/{room}/media")).await.ok();
        let mut local: Vec<String> = places[..3].iter().map(|place| format!("mxc:/{place}")).collect();
        local.sort_unstable();
        assert_eq!(listed["local"], json!(local));
        assert_eq!(listed["remote"], json!(["mxc://elsewhere.test/picture"]));
        let put_away = post(&admin, &format!("/room/{room}/media/quarantine")).await;
        assert_eq!(put_away["num_quarantined"], 2);
        let found = async || {
            let mut found = Vec::new();
            for place in &places {
                found.push(download(&alice, place).await.status.as_u16());
            }
            found
        };
        assert_eq!(found().await, [200, 404, 404, 200]);
        let put_away = post(&admin, &format!("/user/{}/media/quarantine", alice.user_id)).await;
        assert_eq!(put_away["num_quarantined"], 3);
        assert_eq!(found().await, [200, 404, 404, 404]);
        let list = admin.get(&format!("{V1}/users/{}/media?dir=f", alice.user_id)).await.ok();
        let of = |place: &str| {
            let id = place.rsplit('/').next().unwrap();
            let mut media = list["media"].as_array().unwrap().iter();
            media.find(|media| media["media_id"] == id).unwrap().clone()
        };
        assert_eq!(of(&places[0])["safe_from_quarantine"], true);
        assert_eq!(of(&places[0])["quarantined_by"], Value::Null);
        assert_eq!(of(&places[3])["quarantined_by"], admin.user_id);
        // Protected later, it is there again; unprotected, away.
        let id = places[3].rsplit('/').next().unwrap();
        post(&admin, &format!("/media/protect/{id}")).await;
        assert_eq!(found().await, [200, 404, 404, 200]);
        post(&admin, &format!("/media/unprotect/{id}")).await;
        assert_eq!(found().await, [200, 404, 404, 404]);
        server.stop().await;
    }

    async fn statistics_tell_who_uploads_and_which_rooms_are_large(backend: Backend) {
        let server = Server::start(backend).await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        for (user, sizes) in [(&admin, &[10_usize][..]), (&alice, &[20, 30])] {
            for size in sizes {
                upload(user, "text/plain", &noise(*size as u64, *size)).await;
            }
        }
        let path = format!("{V1}/statistics/users/media");
        alice.get(&path).await.error(403, "M_FORBIDDEN");
        let of_alice = json!({
            "user_id": alice.user_id, "displayname": "alice", "media_count": 2, "media_length": 50,
        });
        let all = admin.get(&path).await.ok();
        assert_eq!((&all["total"], &all["users"][1]), (&json!(2), &of_alice));
        let largest = admin.get(&format!("{path}?order_by=media_length&dir=b&limit=1")).await.ok();
        assert_eq!((&largest["users"][0], &largest["next_token"]), (&of_alice, &json!(1)));
        let found = admin.get(&format!("{path}?search_term=ali")).await.ok();
        assert_eq!(found["total"], 1);
        let later = admin.get(&format!("{path}?from_ts=99999999999999")).await.ok();
        assert_eq!(later["total"], 0);

        let small = create_room(&alice, json!({})).await;
        let large = create_room(&alice, json!({ "topic": "x".repeat(20_000) })).await;
        let rooms = admin.get(&format!("{V1}/statistics/database/rooms")).await.ok();
        let ids: Vec<_> = rooms["rooms"].as_array().unwrap().iter().map(|room| &room["room_id"]).collect();
        assert_eq!(ids, [&json!(large), &json!(small)]);
        assert!(rooms["rooms"][0]["estimated_size"].as_i64().unwrap() > 20_000, "{rooms}");
        server.stop().await;
    }
}

two_servers! {
    async fn quarantined_media_pass_between_no_servers(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let flag = hearth::accounts::flags::AccountFlags::ADMIN;
        for (server, user) in pair.servers.iter().zip([&pair.alice, &pair.bob]) {
            let user_id = user.user_id.as_str().try_into().unwrap();
            server.app.accounts.set_flag(user_id, flag, true).await.unwrap();
        }
        let mut places = Vec::new();
        for number in 0..3 {
            let upload = pair.alice.request(Method::POST, "/_matrix/media/v3/upload");
            let uploaded = pair.alice.send(upload.body(noise(number, 50))).await.ok();
            places.push(uploaded["content_uri"].as_str().unwrap().replace("mxc:/", ""));
        }
        // Put away where it is: no other server gets it.
        post(&pair.alice, &format!("/media/quarantine{}", places[0])).await;
        assert_ne!(download(&pair.bob, &places[0]).await.status, 200);
        // Put away where a copy is.
        assert_eq!(download(&pair.bob, &places[1]).await.status, 200);
        post(&pair.bob, &format!("/media/quarantine{}", places[1])).await;
        assert_eq!(download(&pair.bob, &places[1]).await.status, 404);
        assert_eq!(download(&pair.alice, &places[1]).await.status, 200);
        // Put away before it has come.
        post(&pair.bob, &format!("/media/quarantine{}", places[2])).await;
        assert_eq!(download(&pair.bob, &places[2]).await.status, 404);
        post(&pair.bob, &format!("/media/unquarantine{}", places[2])).await;
        assert_eq!(download(&pair.bob, &places[2]).await.status, 200);
    }
}
