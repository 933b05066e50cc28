//! One-time and fallback keys as they go out (Client-Server API, "One-time and fallback keys"; Server-Server
//! API, "End-to-End Encryption"): who hears of it, by algorithm, and against whoever means harm.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::{join, join_all};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    both_databases,
    conversation::{next_batch, register, sync},
    harness::{Answer, Client, Server},
    hostile_peers::Siege,
    keyring::{Device, claim, query},
    sliding_sync::{PATH as SLIDING, poll, pos},
};

const UPLOAD: &str = "/_matrix/client/v3/keys/upload";
const CLAIM: &str = "/_matrix/client/v3/keys/claim";
const REMOTE_CLAIM: &str = "/_matrix/federation/v1/user/keys/claim";
/// Far less than a sync that nobody wakes would wait.
const AT_ONCE: Duration = Duration::from_secs(60);
/// How long it would wait, milliseconds.
const LONG: u32 = 300_000;

/// A sync that waits until something happens.
async fn wait(client: &Client, since: &str) -> Value {
    let path = format!("/_matrix/client/v3/sync?set_presence=offline&timeout={LONG}&since={since}");
    timeout(AT_ONCE, client.get(&path)).await.expect("the sync was not woken").ok()
}

/// How many keys and which unused fallback keys a sync tells of.
fn counts(answer: &Value) -> (u64, Value) {
    let count = answer["device_one_time_keys_count"]["signed_curve25519"].as_u64().unwrap();
    (count, answer["device_unused_fallback_key_types"].clone())
}

fn fallback_key(device: &Device<'_>) -> Value {
    device.sign(json!({ "key": "f", "fallback": true }))
}

/// A device with one key and a fallback key.
async fn upload_two(device: &Device<'_>) {
    let body = json!({
        "device_keys": device.identity(),
        "one_time_keys": device.one_time_keys(0..1),
        "fallback_keys": { "signed_curve25519:FALL": fallback_key(device) },
    });
    device.client.post(UPLOAD, &body).await.ok();
}

/// The IDs of the claimed keys of one device.
fn claimed(answer: &Answer, of: &Client) -> Vec<String> {
    let keys = answer.body["one_time_keys"][&of.user_id][&of.device_id].as_object();
    keys.map(|keys| keys.keys().cloned().collect()).unwrap_or_default()
}

both_databases! {
    async fn waiting_sync_hears_that_keys_were_claimed(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let other = server.login("alice").await;
        upload_two(&Device::new(alice, 1)).await;
        let first = sync(alice, None).await;
        let unused = json!(["signed_curve25519"]);
        assert_eq!(counts(&first), (1, unused.clone()));
        // The key, and then the fallback key.
        let (second, _) = join(wait(alice, &next_batch(&first)), claim(bob, alice)).await;
        assert_eq!(counts(&second), (0, unused));
        let (third, _) = join(wait(alice, &next_batch(&second)), claim(bob, alice)).await;
        assert_eq!(counts(&third), (0, json!([])));
        // A claim between two syncs is told as soon as the second one asks.
        let device = Device::new(alice, 1);
        alice.post(UPLOAD, &json!({ "one_time_keys": device.one_time_keys(1..3) })).await.ok();
        let since = next_batch(&sync(alice, Some(&next_batch(&third))).await);
        claim(bob, alice).await.unwrap();
        let fourth = wait(alice, &since).await;
        assert_eq!(counts(&fourth).0, 1);
        // It is told once, and to this device only: the next thing that both hear of is a message.
        let since = [next_batch(&fourth), next_batch(&sync(&other, None).await)];
        let message = json!({ "messages": { &alice.user_id: { "*": { "number": 1 } } } });
        let path = "/_matrix/client/v3/sendToDevice/org.example.note/1";
        let waits = join(wait(alice, &since[0]), wait(&other, &since[1]));
        let ((fifth, elsewhere), sent) = join(waits, bob.put(path, &message)).await;
        sent.ok();
        for answer in [fifth, elsewhere] {
            assert_eq!(answer["to_device"]["events"][0]["content"]["number"], 1, "{answer}");
        }
        server.stop().await;
    }

    async fn waiting_sliding_sync_hears_that_keys_were_claimed(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        upload_two(&Device::new(alice, 1)).await;
        let body = json!({ "extensions": { "e2ee": { "enabled": true } } });
        let first = poll(alice, None, &body).await.ok();
        assert_eq!(counts(&first["extensions"]["e2ee"]).0, 1);
        let mut before = pos(&first).to_owned();
        for expected in [(0, json!(["signed_curve25519"])), (0, json!([]))] {
            let path = format!("{SLIDING}?set_presence=offline&timeout={LONG}&pos={before}");
            let waiting = timeout(AT_ONCE, alice.post(&path, &body));
            let (answer, _) = join(waiting, claim(bob, alice)).await;
            let answer = answer.expect("the sync was not woken").ok();
            assert_eq!(counts(&answer["extensions"]["e2ee"]), expected);
            before = pos(&answer).to_owned();
        }
        server.stop().await;
    }

    async fn another_key_of_an_id_that_waits_is_refused_with_all_beside_it(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let device = Device::new(alice, 1);
        device.upload(2).await;
        let mut keys = device.one_time_keys(1..4);
        keys["signed_curve25519:AAAA0001"] = device.sign(json!({ "key": "another" }));
        let mut identity = device.identity();
        identity["algorithms"] = json!(["m.olm.v1.curve25519-aes-sha2"]);
        let body = json!({
            "device_keys": identity, "one_time_keys": keys,
            "fallback_keys": { "signed_curve25519:FALL": fallback_key(&device) },
        });
        let error = alice.post(UPLOAD, &body).await.error(400, "M_INVALID_PARAM");
        // Clients know the case by these words.
        let message = error["error"].as_str().unwrap();
        let expected = "One time key signed_curve25519:AAAA0001 already exists.";
        assert!(message.starts_with(expected), "{message}");
        let state = sync(alice, None).await;
        assert_eq!(counts(&state), (2, json!([])));
        let found = query(bob, &[alice]).await;
        let stored = &found["device_keys"][&alice.user_id][&alice.device_id];
        assert_eq!(stored["algorithms"], device.identity()["algorithms"]);
        // The order of members does not make another key.
        let known = device.one_time_keys(1..2)["signed_curve25519:AAAA0001"].clone();
        let text = format!(
            r#"{{"one_time_keys":{{"signed_curve25519:AAAA0001":{{ "signatures": {}, "key": {} }}}}}}"#,
            known["signatures"], known["key"],
        );
        let answer = alice.send_text(Method::POST, UPLOAD, text).await.ok();
        assert_eq!(answer["one_time_key_counts"]["signed_curve25519"], 2);
        server.stop().await;
    }

    async fn each_algorithm_has_keys_of_its_own(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let device = Device::new(alice, 1);
        let body = json!({
            "device_keys": device.identity(),
            "one_time_keys": { "curve25519:A": "plain", "signed_curve25519:A": fallback_key(&device) },
            "fallback_keys": { "signed_curve25519:FALL": fallback_key(&device), "curve25519:FALL": "last" },
        });
        let answer = alice.post(UPLOAD, &body).await.ok();
        assert_eq!(answer["one_time_key_counts"], json!({ "curve25519": 1, "signed_curve25519": 1 }));
        let claim_of = async |algorithm: &str| {
            let body = json!({ "one_time_keys": { &alice.user_id: { &alice.device_id: algorithm } } });
            claimed(&bob.post(CLAIM, &body).await, alice)
        };
        assert_eq!(claim_of("curve25519").await, ["curve25519:A"]);
        assert_eq!(claim_of("curve25519").await, ["curve25519:FALL"]);
        let state = sync(alice, None).await;
        assert_eq!(counts(&state), (1, json!(["signed_curve25519"])));
        assert_eq!(claim_of("signed_curve25519").await, ["signed_curve25519:A"]);
        assert_eq!(claim_of("signed_curve25519").await, ["signed_curve25519:FALL"]);
        assert_eq!(claim_of("signed").await, [""; 0]);
        // A new fallback key of one algorithm replaces that one only, and is unused.
        let body = json!({ "fallback_keys": { "curve25519:NEXT": "next" } });
        alice.post(UPLOAD, &body).await.ok();
        let state = sync(alice, None).await;
        assert_eq!(state["device_unused_fallback_key_types"], json!(["curve25519"]));
        assert_eq!(claim_of("curve25519").await, ["curve25519:NEXT"]);
        assert_eq!(claim_of("signed_curve25519").await, ["signed_curve25519:FALL"]);
        server.stop().await;
    }

    async fn no_device_has_more_keys_than_it_may(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let plain = |numbers: std::ops::Range<u32>| -> Value {
            let keys = numbers.map(|number| (format!("curve25519:{number}"), json!("k")));
            json!({ "one_time_keys": Value::Object(keys.collect()) })
        };
        alice.post(UPLOAD, &plain(0..5001)).await.error(413, "M_TOO_LARGE");
        alice.post(UPLOAD, &plain(0..5000)).await.ok();
        // Those that are there already are no more keys.
        let answer = alice.post(UPLOAD, &plain(0..5000)).await.ok();
        assert_eq!(answer["one_time_key_counts"]["curve25519"], 5000);
        alice.post(UPLOAD, &plain(5000..5001)).await.error(413, "M_TOO_LARGE");
        server.stop().await;
    }

    async fn claims_from_here_and_elsewhere_never_get_the_same_key(backend: Backend) {
        let siege = Siege::begin(backend).await;
        let bob = siege.server.register("bob").await;
        let (alice, peer, server) = (&siege.alice, &siege.peer, &siege.server);
        let device = Device::new(alice, 1);
        device.upload(30).await;
        let body = json!({
            "one_time_keys": {
                &alice.user_id: { &alice.device_id: "signed_curve25519", "NOSUCH": "signed_curve25519" },
                "@nobody:nowhere.test": { "A": "signed_curve25519" },
            },
        });
        let remote = (0..15).map(|_| peer.ask(server, (Method::POST, REMOTE_CLAIM), Some(&body)));
        let local = (0..15).map(|_| claim(&bob, alice));
        let (remote, local) = join(join_all(remote), join_all(local)).await;
        let mut keys: Vec<String> = local.into_iter().flatten().collect();
        for answer in &remote {
            keys.extend(claimed(answer, alice));
            let users = answer.body["one_time_keys"].as_object().unwrap();
            assert_eq!(users.len(), 1, "of users of other servers nothing is told: {}", answer.body);
            assert_eq!(users[&alice.user_id].as_object().unwrap().len(), 1);
        }
        assert_eq!(keys.len(), 30);
        assert_eq!(keys.into_iter().collect::<BTreeSet<_>>().len(), 30, "each key goes out once");
        let state = sync(alice, None).await;
        assert_eq!(counts(&state).0, 0);
    }

    async fn impossible_devices_have_no_keys_and_disturb_nobody(backend: Backend) {
        let siege = Siege::begin(backend).await;
        let bob = siege.server.register("bob").await;
        let (alice, peer, server) = (&siege.alice, &siege.peer, &siege.server);
        Device::new(alice, 1).upload(20).await;
        let impossible = json!({ "one_time_keys": { &alice.user_id: {
            "A\u{0}B": "signed_curve25519", "": "signed_curve25519", "\u{10ffff}": "\u{0}",
        } } });
        let strange = (0..10).map(|_| peer.ask(server, (Method::POST, REMOTE_CLAIM), Some(&impossible)));
        let good = (0..10).map(|_| claim(&bob, alice));
        let (strange, good) = join(join_all(strange), join_all(good)).await;
        for answer in strange {
            assert_eq!(answer.ok()["one_time_keys"], json!({}));
        }
        assert!(good.iter().all(Option::is_some), "{good:?}");
        assert_eq!(bob.post(CLAIM, &impossible).await.ok()["one_time_keys"], json!({}));
    }
}
