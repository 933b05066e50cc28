//! What keeps federation going over the years: new keys, policy servers, devices that changed while others
//! were away, and media of other servers that make room.

use std::time::Duration;

use axum::{http::StatusCode, response::IntoResponse as _};
use hearth::{
    clock::Clock,
    config::UnauthenticatedAccess,
    protocol::{event::Event, event_builder::seal_object, redaction::redact, signing::SigningKey},
};
use reqwest::Method;
use ruma::ServerName;
use serde_json::{Map, Value, json};

use crate::{
    both_databases,
    conversation::{next_batch, say, sync, wait_for},
    federation::{await_membership, create, hear, join, start_pair, state_of},
    harness::{Network, ScriptedPeer, to_response},
    hostile_peers::Siege,
    keyring::Device,
    two_servers,
};

/// Signs what the policy server of a test recommends.
fn policy_key() -> SigningKey {
    SigningKey::from_seed("policy_server", &[77; 32]).unwrap()
}

/// Has the scripted server be the room's policy server, which dislikes the word "spam".
pub async fn install_policy_server(siege: &Siege) {
    let (via, rules) = (siege.peer.name.clone(), siege.room.rules);
    siege.peer.reply("/_matrix/policy/v1/sign", move |_, body| {
        let object: Map<String, Value> = serde_json::from_slice(body).unwrap();
        if object["content"].to_string().contains("spam") {
            let refusal = json!({ "errcode": "M_FORBIDDEN", "error": "This looks like spam." });
            return (StatusCode::BAD_REQUEST, refusal.to_string()).into_response();
        }
        let mut essentials = redact(rules, &object);
        essentials.remove("signatures");
        policy_key().sign_json(&mut essentials, &via);
        to_response(&essentials["signatures"])
    });
    let content = json!({
        "via": siege.peer.name,
        "public_keys": { "ed25519": policy_key().public_key_base64() },
    });
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.policy", siege.room.room_id);
    siege.alice.put(&path, &content).await.ok();
}

both_databases! {
    async fn what_a_policy_server_refuses_is_not_sent(backend: Backend) {
        let siege = Siege::begin(backend).await;
        install_policy_server(&siege).await;
        assert!(siege.peer.list_asked("/_matrix/policy").is_empty(), "not about itself");
        let room_id = siege.room.room_id.to_string();
        let event_id = say(&siege.alice, &room_id, "hello").await;
        let rooms = &siege.server.app.rooms;
        let stored = rooms.find_any_event(&siege.room, event_id.as_str().try_into().unwrap());
        let object = stored.await.unwrap().unwrap().event.to_object();
        let signature = &object["signatures"][&siege.peer.name]["ed25519:policy_server"];
        assert!(signature.is_string(), "{object:?}");
        let before = rooms.forward_extremities(&siege.room);
        let path = format!("/_matrix/client/v3/rooms/{room_id}/send/m.room.message/1");
        let content = json!({ "msgtype": "m.text", "body": "buy spam" });
        let refusal = siege.alice.put(&path, &content).await.error(403, "M_FORBIDDEN");
        assert_eq!(refusal["error"], "This looks like spam.");
        assert_eq!(rooms.forward_extremities(&siege.room), before);
        // The policy can be taken back without asking.
        let path = format!("/_matrix/client/v3/rooms/{room_id}/state/m.room.policy");
        siege.alice.put(&path, &json!({})).await.ok();
        say(&siege.alice, &room_id, "spam again").await;
        siege.server.stop().await;
    }

    async fn events_of_others_without_the_policy_servers_signature_fail_softly(backend: Backend) {
        let mut siege = Siege::begin(backend).await;
        install_policy_server(&siege).await;
        siege.branch.catch_up(&siege.server.app.rooms, &siege.room).await;
        let good = siege.branch.message(&siege.bob, "hello");
        let bad = siege.branch.message(&siege.bob, "spam for everybody");
        let json_of = |event: &Event| Value::Object(event.to_object());
        let pdus = [json_of(&good), json_of(&bad)];
        let results = siege.peer.send(&siege.server, "policy", &pdus).await;
        assert!(results.as_object().unwrap().values().all(|r| *r == json!({})), "{results}");
        let mut hidden = Vec::new();
        for event in [&good, &bad] {
            let found = siege.server.app.rooms.find_any_event(&siege.room, event.event_id());
            hidden.push(found.await.unwrap().unwrap().is_hidden());
        }
        assert_eq!(hidden, [false, true]);
        siege.server.stop().await;
    }

    async fn who_is_let_in_needs_the_policy_servers_signature_too(backend: Backend) {
        let siege = Siege::begin(backend).await;
        install_policy_server(&siege).await;
        let other = ScriptedPeer::start(&siege.network).await;
        let (server, room_id) = (&siege.server, siege.room.room_id.as_str());
        let name: &ServerName = other.name.as_str().try_into().unwrap();
        for (localpart, displayname, status) in [("dave", "spam", 403), ("carol", "Carol", 200)] {
            let user = format!("@{localpart}:{name}");
            let path = format!("/_matrix/federation/v1/make_join/{room_id}/{user}?ver=12");
            let template = other.ask(server, (Method::GET, &path), None).await.ok();
            let mut event = template["event"].as_object().unwrap().clone();
            event["content"]["displayname"] = displayname.into();
            event.insert("origin_server_ts".to_owned(), Clock::real().now_ms().into());
            let join = seal_object(event, siege.room.rules, name, &other.key).unwrap();
            let path = format!("/_matrix/federation/v2/send_join/{room_id}/{}", join.event_id());
            let body = Value::Object(join.to_object());
            let answer = other.ask(server, (Method::PUT, &path), Some(&body)).await;
            assert_eq!(answer.status, status, "{}", answer.body);
            let signature = &answer.body["event"]["signatures"][&siege.peer.name];
            assert_eq!(signature["ed25519:policy_server"].is_string(), status == 200);
            let path = format!("/_matrix/client/v3/rooms/{room_id}/state/m.room.member/{user}");
            let member = siege.alice.get(&path).await;
            assert_eq!(member.status.is_success(), status == 200);
        }
        siege.server.stop().await;
    }
}

two_servers! {
    async fn new_key_signs_and_the_old_one_stays_good_for_the_past(one: Backend, two: Backend) {
        let mut pair = start_pair(one, two).await;
        let room = create(&pair.alice, json!({ "preset": "public_chat" })).await;
        say(&pair.alice, &room, "with the old key").await;
        let app = pair.servers[0].app.clone();
        let rotated = app.federation.rotate_key(&app.config.signing_key_path()).await;
        let (new, old) = rotated.unwrap();
        drop(app);
        // Also after a restart.
        let [first, second] = pair.servers;
        first.stop().await;
        let first = pair.network.start(one, &pair.names[0]).await;
        pair.alice = first.reconnect(&pair.alice);
        let keys = first.client().get("/_matrix/key/v2/server").await.ok();
        assert!(keys["verify_keys"][&new]["key"].is_string(), "{keys}");
        assert!(keys["old_verify_keys"][&old]["expired_ts"].is_u64(), "{keys}");
        assert!(keys["verify_keys"][&old].is_null() && keys["signatures"][&pair.names[0]][&new].is_string());
        // Who comes now believes what was signed with either.
        join(&pair.bob, &room, &pair.names[0]).await;
        let since = next_batch(&sync(&pair.bob, None).await);
        await_membership(&pair.alice, &room, &pair.bob.user_id, "join").await;
        say(&pair.alice, &room, "with the new key").await;
        hear(&pair.bob, &since, &room, "with the new key").await;
        assert_eq!(state_of(&pair.alice, &room).await, state_of(&pair.bob, &room).await);
        pair.servers = [first, second];
    }

    async fn devices_that_changed_while_a_server_was_away_are_told_after_a_restart(
        one: Backend,
        two: Backend
    ) {
        let mut pair = start_pair(one, two).await;
        let room = create(&pair.alice, json!({ "preset": "public_chat" })).await;
        join(&pair.bob, &room, &pair.names[0]).await;
        await_membership(&pair.alice, &room, &pair.bob.user_id, "join").await;
        let since = next_batch(&sync(&pair.bob, None).await);
        let [first, second] = pair.servers;
        second.stop().await;
        Device::new(&pair.alice, 7).upload(1).await;
        first.stop().await;
        let first = pair.network.start(one, &pair.names[0]).await;
        pair.alice = first.reconnect(&pair.alice);
        let second = pair.network.start(two, &pair.names[1]).await;
        pair.bob = second.reconnect(&pair.bob);
        first.app.federation.outbox().retry(None).await.unwrap();
        let path = format!("/_matrix/client/v3/profile/{}", pair.alice.user_id);
        pair.bob.get(&path).await.ok();
        let has_changed = |answer: &Value| {
            let changed = answer["device_lists"]["changed"].as_array()?;
            changed.contains(&json!(pair.alice.user_id)).then_some(())
        };
        wait_for(&pair.bob, &since, has_changed).await;
        pair.servers = [first, second];
    }

    async fn older_paths_fetch_media_of_others_only_where_everything_is_open(
        one: Backend,
        two: Backend
    ) {
        let network = Network::new();
        let (frozen_name, open_name) = (network.new_name(), network.new_name());
        let frozen = network.start(one, &frozen_name).await;
        let open = network.start_with(two, &open_name, |config| {
            config.media.unauthenticated_access = UnauthenticatedAccess::Allowed;
        });
        let open = open.await;
        let mut paths = Vec::new();
        for (server, name) in [(&frozen, "alice"), (&open, "bob")] {
            let user = server.register(name).await;
            let upload = user.request(Method::POST, "/_matrix/media/v3/upload?filename=a.txt");
            let uploaded = user.send(upload.body("a picture")).await.ok();
            let address = uploaded["content_uri"].as_str().unwrap().replace("mxc://", "");
            paths.push(format!("/_matrix/media/v3/download/{address}"));
        }
        frozen.client().get(&paths[1]).await.error(404, "M_NOT_FOUND");
        let nobody = open.client();
        // As other servers ask, who may have been asked themselves.
        let guarded = format!("{}?allow_remote=false", paths[0]);
        nobody.get(&guarded).await.error(404, "M_NOT_FOUND");
        let answer = nobody.request(Method::GET, &paths[0]).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await.unwrap(), "a picture");
        frozen.stop().await;
        open.stop().await;
    }

    async fn media_of_other_servers_make_room_and_come_again(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let upload = pair.alice.request(Method::POST, "/_matrix/media/v3/upload?filename=a.txt");
        let uploaded = pair.alice.send(upload.body("a picture")).await.ok();
        let address = uploaded["content_uri"].as_str().unwrap().replace("mxc://", "");
        let path = format!("/_matrix/client/v1/media/download/{address}");
        let download = async || {
            let answer = pair.bob.request(Method::GET, &path).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.text().await.unwrap(), "a picture");
        };
        download().await;
        // The same content of our own is not touched.
        let own = pair.bob.request(Method::POST, "/_matrix/media/v3/upload?filename=b.txt");
        let own = pair.bob.send(own.body("a picture")).await.ok();
        let media = &pair.servers[1].app.media;
        let kept = media.evict_remote(Duration::from_secs(3600)).await.unwrap();
        assert_eq!(kept.files, 0);
        while media.evict_remote(Duration::ZERO).await.unwrap().files == 0 {}
        let own = own["content_uri"].as_str().unwrap().replace("mxc://", "");
        let own = format!("/_matrix/client/v1/media/download/{own}");
        let answer = pair.bob.request(Method::GET, &own).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "a picture");
        download().await;
    }
}
