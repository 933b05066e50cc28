//! Device keys, one-time keys and device lists (Client-Server API, "End-to-End Encryption").

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{make_room, next_batch, register, sync, wait_for},
    harness::{Client, Server},
    keyring::{Device, claim, query},
};

const UPLOAD: &str = "/_matrix/client/v3/keys/upload";
const CLAIM: &str = "/_matrix/client/v3/keys/claim";

fn listed(answer: &Value, section: &str) -> BTreeSet<String> {
    let users = answer["device_lists"][section].as_array().cloned().unwrap_or_default();
    users.iter().map(|user| user.as_str().unwrap().to_owned()).collect()
}

fn users(clients: &[&Client]) -> BTreeSet<String> {
    clients.iter().map(|client| client.user_id.clone()).collect()
}

/// What changed for a client since a token.
async fn changes(client: &Client, since: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let answer = sync(client, Some(since)).await;
    (listed(&answer, "changed"), listed(&answer, "left"))
}

fn key_ids(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| format!("signed_curve25519:AAAA{number:04}")).collect()
}

both_databases! {
    async fn uploaded_keys_are_found_with_the_name_of_their_device(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let device = Device::new(alice, 1);
        let answer = device.upload(3).await;
        assert_eq!(answer["one_time_key_counts"]["signed_curve25519"], 3);
        let path = format!("/_matrix/client/v3/devices/{}", alice.device_id);
        alice.put(&path, &json!({ "display_name": "Alice's phone" })).await.ok();
        let found = query(bob, &[alice, bob]).await;
        let mut expected = device.identity();
        expected["unsigned"] = json!({ "device_display_name": "Alice's phone" });
        assert_eq!(found["device_keys"][&alice.user_id][&alice.device_id], expected);
        assert_eq!(found["device_keys"][&bob.user_id], json!({}), "bob has uploaded no keys");

        let body = json!({ "device_keys": { &alice.user_id: ["OTHER"], "@nobody:hearth.test": [] } });
        let found = bob.post("/_matrix/client/v3/keys/query", &body).await.ok();
        assert_eq!(found["device_keys"], json!({ &alice.user_id: {} }));
        let body = json!({ "device_keys": { "@someone:elsewhere.test": [] } });
        let found = bob.post("/_matrix/client/v3/keys/query", &body).await.ok();
        assert_eq!(found["device_keys"], json!({}));
        assert!(found["failures"]["elsewhere.test"].is_object(), "{found}");
        server.stop().await;
    }

    async fn keys_that_cannot_be_those_of_the_device_are_refused(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let upload = async |keys: Value| {
            alice.post(UPLOAD, &json!({ "device_keys": keys })).await
        };
        upload(Device::new(bob, 1).identity()).await.error(400, "M_INVALID_PARAM");
        let mut keys = Device::new(alice, 1).identity();
        keys.as_object_mut().unwrap().remove("signatures");
        upload(keys).await.error(400, "M_BAD_JSON");
        for bad in [json!({ "noalgorithm": "x" }), json!({ "a:b": 5 }), json!({ ":b": "x" })] {
            let body = json!({ "one_time_keys": bad });
            alice.post(UPLOAD, &body).await.error(400, "M_INVALID_PARAM");
        }
        let two = json!({ "fallback_keys": { "a:1": "x", "a:2": "y" } });
        alice.post(UPLOAD, &two).await.error(400, "M_INVALID_PARAM");
        assert_eq!(query(bob, &[alice]).await["device_keys"], json!({ &alice.user_id: {} }));
        server.stop().await;
    }

    async fn one_time_keys_go_out_once_each_in_order_and_then_the_fallback_key(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let device = Device::new(alice, 1);
        device.upload(2).await;
        let body = json!({
            "one_time_keys": device.one_time_keys(2..4),
            "fallback_keys": { "signed_curve25519:FALL": device.sign(json!({ "key": "f", "fallback": true })) },
        });
        let answer = alice.post(UPLOAD, &body).await.ok();
        assert_eq!(answer["one_time_key_counts"]["signed_curve25519"], 4);
        let state = sync(alice, None).await;
        assert_eq!(state["device_one_time_keys_count"]["signed_curve25519"], 4);
        assert_eq!(state["device_unused_fallback_key_types"], json!(["signed_curve25519"]));

        let mut claimed = Vec::new();
        for _ in 0..4 {
            claimed.push(claim(bob, alice).await.unwrap());
        }
        assert_eq!(claimed, key_ids(0..4));
        let state = sync(alice, None).await;
        assert_eq!(state["device_one_time_keys_count"]["signed_curve25519"], 0);
        assert_eq!(state["device_unused_fallback_key_types"], json!(["signed_curve25519"]));
        for _ in 0..2 {
            assert_eq!(claim(bob, alice).await.unwrap(), "signed_curve25519:FALL");
        }
        let state = sync(alice, None).await;
        assert_eq!(state["device_unused_fallback_key_types"], json!([]));
        // The same fallback key again is still the used one.
        let body = json!({ "fallback_keys": body["fallback_keys"] });
        alice.post(UPLOAD, &body).await.ok();
        let state = sync(alice, None).await;
        assert_eq!(state["device_unused_fallback_key_types"], json!([]));

        let body = json!({ "one_time_keys": {
            &alice.user_id: { "OTHER": "signed_curve25519", &alice.device_id: "unknown" },
            "@nobody:hearth.test": { "A": "signed_curve25519" },
        } });
        let answer = bob.post(CLAIM, &body).await.ok();
        assert_eq!(answer["one_time_keys"], json!({}));
        server.stop().await;
    }

    async fn repeated_upload_of_one_time_keys_brings_none_back(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let device = Device::new(alice, 1);
        device.upload(2).await;
        assert_eq!(claim(bob, alice).await.unwrap(), key_ids(0..1)[0]);
        let answer = device.upload(2).await;
        assert_eq!(answer["one_time_key_counts"]["signed_curve25519"], 1);
        assert_eq!(claim(bob, alice).await.unwrap(), key_ids(1..2)[0]);
        assert_eq!(claim(bob, alice).await, None);

        alice.post(UPLOAD, &json!({ "one_time_keys": device.one_time_keys(5..6) })).await.ok();
        let other = json!({ "one_time_keys": { key_ids(5..6)[0].as_str(): { "key": "other" } } });
        let error = alice.post(UPLOAD, &other).await.error(400, "M_INVALID_PARAM");
        let message = error["error"].as_str().unwrap();
        assert!(message.contains("already exists"), "{message}");
        server.stop().await;
    }

    async fn concurrent_claims_never_get_the_same_key(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        Device::new(alice, 1).upload(40).await;
        let claims = join_all((0..50).map(|_| claim(bob, alice))).await;
        let distinct: BTreeSet<_> = claims.iter().flatten().cloned().collect();
        assert_eq!(claims.iter().flatten().count(), 40);
        assert_eq!(distinct, key_ids(0..40).into_iter().collect());
        server.stop().await;
    }

    async fn claimed_keys_stay_claimed_when_the_server_dies(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        Device::new(alice, 1).upload(3).await;
        assert_eq!(claim(bob, alice).await.unwrap(), key_ids(0..1)[0]);
        server.kill().await;
        let server = Server::start(backend).await;
        let (alice, bob) = (server.reconnect(alice), server.reconnect(bob));
        assert_eq!(claim(&bob, &alice).await.unwrap(), key_ids(1..2)[0]);
        let state = sync(&alice, None).await;
        assert_eq!(state["device_one_time_keys_count"]["signed_curve25519"], 1);
        server.stop().await;
    }

    async fn other_identity_keys_discard_the_one_time_keys_of_the_earlier_ones(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        Device::new(alice, 1).upload(3).await;
        let body = json!({ "device_keys": Device::new(alice, 2).identity() });
        let answer = alice.post(UPLOAD, &body).await.ok();
        assert_eq!(answer["one_time_key_counts"]["signed_curve25519"], 0);
        assert_eq!(claim(bob, alice).await, None);
        server.stop().await;
    }

    async fn device_lists_change_for_those_who_share_a_room(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = clients.as_slice() else { panic!() };
        make_room(&[alice, bob]).await;
        let mut tokens = Vec::new();
        for client in &clients {
            tokens.push(next_batch(&sync(client, None).await));
        }
        Device::new(alice, 1).upload(1).await;
        assert_eq!(changes(bob, &tokens[1]).await, (users(&[alice]), users(&[])));
        assert_eq!(changes(carol, &tokens[2]).await, (users(&[]), users(&[])));
        assert_eq!(changes(alice, &tokens[0]).await, (users(&[alice]), users(&[])));

        let to = next_batch(&sync(bob, None).await);
        let path = format!("/_matrix/client/v3/keys/changes?from={}&to={to}", tokens[1]);
        let answer = bob.get(&path).await.ok();
        assert_eq!(answer, json!({ "changed": [alice.user_id], "left": [] }));
        // The same keys again are no change.
        Device::new(alice, 1).upload(1).await;
        assert_eq!(changes(bob, &to).await, (users(&[]), users(&[])));
        let path = format!("/_matrix/client/v3/devices/{}", alice.device_id);
        alice.put(&path, &json!({ "display_name": "new" })).await.ok();
        assert_eq!(changes(bob, &to).await, (users(&[alice]), users(&[])));
        bob.get("/_matrix/client/v3/keys/changes?from=x&to=y").await.error(400, "M_INVALID_PARAM");
        server.stop().await;
    }

    async fn device_lists_follow_who_comes_and_goes(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = clients.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let other = make_room(&[alice, bob]).await;
        let (before_bob, before_carol) =
            (next_batch(&sync(bob, None).await), next_batch(&sync(carol, None).await));
        carol.post(&format!("/_matrix/client/v3/join/{room}"), &json!({})).await.ok();
        let (changed, left) = changes(carol, &before_carol).await;
        assert!(changed.is_superset(&users(&[alice, bob])), "{changed:?}");
        assert_eq!(left, users(&[]));
        assert_eq!(changes(bob, &before_bob).await, (users(&[carol]), users(&[])));

        // A new name is no arrival.
        let before_bob = next_batch(&sync(bob, None).await);
        let path = format!("/_matrix/client/v3/profile/{}/displayname", carol.user_id);
        carol.put(&path, &json!({ "displayname": "Carol" })).await.ok();
        let (joined, _) = changes(bob, &before_bob).await;
        assert_eq!(joined, users(&[]));

        let before = [bob, carol].map(|client| sync(client, None));
        let [before_bob, before_carol] = before;
        let (before_bob, before_carol) =
            (next_batch(&before_bob.await), next_batch(&before_carol.await));
        // Alice still shares the other room with bob.
        alice.post(&format!("/_matrix/client/v3/rooms/{room}/leave"), &json!({})).await.ok();
        assert_eq!(changes(bob, &before_bob).await, (users(&[]), users(&[])));
        assert_eq!(changes(carol, &before_carol).await, (users(&[]), users(&[alice])));
        carol.post(&format!("/_matrix/client/v3/rooms/{room}/leave"), &json!({})).await.ok();
        assert_eq!(changes(bob, &before_bob).await, (users(&[]), users(&[carol])));
        let (changed, left) = changes(carol, &before_carol).await;
        assert_eq!((changed, left), (users(&[]), users(&[alice, bob])));
        // Whose changes happen where nobody looks are told when a room is shared again.
        Device::new(carol, 1).upload(1).await;
        let before_bob = next_batch(&sync(bob, None).await);
        carol.post(&format!("/_matrix/client/v3/join/{other}"), &json!({})).await.ok();
        assert_eq!(changes(bob, &before_bob).await, (users(&[carol]), users(&[])));
        server.stop().await;
    }

    async fn device_list_changes_are_found_after_a_restart(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = clients.as_slice() else { panic!() };
        make_room(&[alice, bob]).await;
        let before = next_batch(&sync(bob, None).await);
        Device::new(alice, 1).upload(1).await;
        Device::new(bob, 2).upload(1).await;
        Device::new(carol, 3).upload(1).await;
        server.kill().await;
        let server = Server::start(backend).await;
        let again = server.reconnect(bob);
        assert_eq!(changes(&again, &before).await, (users(&[alice, bob]), users(&[])));
        server.stop().await;
    }

    async fn waiting_sync_hears_of_new_keys(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        make_room(&[alice, bob]).await;
        let since = next_batch(&sync(bob, None).await);
        let told = |answer: &Value| Some(listed(answer, "changed")).filter(|c| !c.is_empty());
        let device = Device::new(alice, 1);
        let (heard, _) = futures_util::join!(wait_for(bob, &since, told), device.upload(1));
        assert_eq!(heard.0, users(&[alice]));
        server.stop().await;
    }

    async fn deleted_devices_take_their_keys_along(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        make_room(&[alice, bob]).await;
        let second = server.login("alice").await;
        Device::new(&second, 1).upload(2).await;
        let since = next_batch(&sync(bob, None).await);
        second.post("/_matrix/client/v3/logout", &json!({})).await.ok();
        assert_eq!(changes(bob, &since).await, (users(&[alice]), users(&[])));
        let found = query(bob, &[alice]).await;
        assert_eq!(found["device_keys"], json!({ &alice.user_id: {} }));
        assert_eq!(claim(bob, &second).await, None);
        server.stop().await;
    }

    async fn discarded_keys_are_handed_out_no_more(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let device = Device::new(alice, 1);
        device.upload(5).await;
        assert_eq!(claim(bob, alice).await, Some(key_ids(0..1).remove(0)));
        server.app.encryption.discard_all_one_time_keys().await.unwrap();
        assert_eq!(claim(bob, alice).await, None);
        let state = sync(alice, None).await;
        assert_eq!(state["device_one_time_keys_count"]["signed_curve25519"], 0);
        let body = json!({ "one_time_keys": device.one_time_keys(5..7) });
        alice.post(UPLOAD, &body).await.ok();
        server.kill().await;
        let server = Server::start(backend).await;
        let (alice, bob) = (server.reconnect(alice), server.reconnect(bob));
        let mut claimed = Vec::new();
        while let Some(key) = claim(&bob, &alice).await {
            claimed.push(key);
        }
        assert_eq!(claimed, key_ids(5..7));
        server.stop().await;
    }
}
