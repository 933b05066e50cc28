//! Cross-signing keys and signatures (Client-Server API, "Cross-signing").

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{make_room, next_batch, register, sync},
    harness::{Client, Server},
    keyring::{CrossSigning, Device, query},
};

const UPLOAD: &str = "/_matrix/client/v3/keys/device_signing/upload";
const SIGNATURES: &str = "/_matrix/client/v3/keys/signatures/upload";

async fn set_up(client: &Client, seed: u8) -> CrossSigning {
    let keys = CrossSigning::new(client, seed);
    client.post(UPLOAD, &keys.upload()).await.ok();
    keys
}

fn with_signature(mut object: Value, signed: &Value) -> Value {
    for (user, signatures) in signed["signatures"].as_object().unwrap() {
        for (key, signature) in signatures.as_object().unwrap() {
            object["signatures"][user][key] = signature.clone();
        }
    }
    object
}

both_databases! {
    async fn first_keys_need_no_proof_and_others_do(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        let keys = set_up(alice, 10).await;
        alice.post(UPLOAD, &keys.upload()).await.ok();
        alice.post(UPLOAD, &json!({ "master_key": keys.master_key() })).await.ok();
        let found = query(bob, &[alice]).await;
        assert_eq!(found["master_keys"][&alice.user_id], keys.master_key());
        assert!(found["self_signing_keys"][&alice.user_id].is_object(), "{found}");
        assert_eq!(found["user_signing_keys"], json!({}), "only for oneself");
        let own = query(alice, &[alice]).await;
        assert!(own["user_signing_keys"][&alice.user_id].is_object(), "{own}");

        let other = CrossSigning::new(alice, 20);
        let refused = alice.post(UPLOAD, &other.upload()).await;
        assert_eq!(refused.status, 401, "{refused:?}");
        assert_eq!(query(bob, &[alice]).await["master_keys"][&alice.user_id], keys.master_key());
        alice.post_with_password(UPLOAD, &other.upload()).await.ok();
        assert_eq!(query(bob, &[alice]).await["master_keys"][&alice.user_id], other.master_key());
        // One new key among known ones needs proof too.
        let mut mixed = other.upload();
        let third = CrossSigning::new(alice, 30);
        mixed["user_signing_key"] = other.sign_with(
            &other.master,
            {
                let mut key = third.upload()["user_signing_key"].clone();
                key.as_object_mut().unwrap().remove("signatures");
                key
            },
        );
        assert_eq!(alice.post(UPLOAD, &mixed).await.status, 401);
        alice.post_with_password(UPLOAD, &mixed).await.ok();
        server.stop().await;
    }

    async fn of_two_first_uploads_one_is_the_first(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let keys: Vec<_> = (1..9).map(|number| CrossSigning::new(&alice, number * 10)).collect();
        let uploads = keys.iter().map(|keys| {
            let body = keys.upload();
            let alice = &alice;
            async move { alice.post(UPLOAD, &body).await.status.as_u16() }
        });
        let statuses = join_all(uploads).await;
        let first: Vec<_> = (0..keys.len()).filter(|number| statuses[*number] == 200).collect();
        assert_eq!(first.len(), 1, "the others need proof: {statuses:?}");
        assert!(statuses.iter().all(|status| [200, 401].contains(status)), "{statuses:?}");
        let stored = query(&alice, &[&alice]).await;
        assert_eq!(stored["master_keys"][&alice.user_id], keys[first[0]].master_key());
        // Nothing is proven by keys that could not be right either.
        let mut wrong = keys[0].upload();
        wrong["master_key"]["usage"] = json!(["self_signing"]);
        wrong["master_key"]["keys"] = json!({});
        assert_eq!(alice.post(UPLOAD, &wrong).await.status, 401);
        alice.post_with_password(UPLOAD, &wrong).await.error(400, "M_BAD_JSON");
        server.stop().await;
    }

    async fn new_master_key_takes_the_place_of_all_earlier_keys(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice"]).await;
        let [alice] = clients.as_slice() else { panic!() };
        set_up(alice, 10).await;
        let other = CrossSigning::new(alice, 20);
        alice.post_with_password(UPLOAD, &json!({ "master_key": other.master_key() })).await.ok();
        let found = query(alice, &[alice]).await;
        assert_eq!(found["master_keys"][&alice.user_id], other.master_key());
        assert_eq!(found["self_signing_keys"], json!({}));
        assert_eq!(found["user_signing_keys"], json!({}));
        server.stop().await;
    }

    async fn keys_that_cannot_be_right_are_refused(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        let keys = CrossSigning::new(alice, 10);
        let mut lone = keys.upload();
        lone.as_object_mut().unwrap().remove("master_key");
        alice.post(UPLOAD, &lone).await.error(400, "M_MISSING_PARAM");
        let mut wrong = keys.upload();
        wrong["self_signing_key"] = CrossSigning::new(alice, 40).upload()["self_signing_key"].clone();
        alice.post(UPLOAD, &wrong).await.error(400, "M_INVALID_SIGNATURE");
        bob.post(UPLOAD, &keys.upload()).await.error(400, "M_INVALID_PARAM");
        let mut wrong = keys.upload();
        wrong["master_key"]["usage"] = json!(["self_signing"]);
        alice.post(UPLOAD, &wrong).await.error(400, "M_BAD_JSON");

        // A device with the name of the key.
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": "alice" },
            "password": "password of alice",
            "device_id": keys.master.public_key_base64(),
        });
        alice.post("/_matrix/client/v3/login", &body).await.ok();
        alice.post(UPLOAD, &keys.upload()).await.error(403, "M_FORBIDDEN");
        server.stop().await;
    }

    async fn signatures_are_seen_by_those_who_may_see_them(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = clients.as_slice() else { panic!() };
        make_room(&[alice, bob, carol]).await;
        let device = Device::new(alice, 1);
        device.upload(1).await;
        let keys = set_up(alice, 10).await;
        let bobs = set_up(bob, 20).await;
        let mut tokens = Vec::new();
        for client in &clients {
            tokens.push(next_batch(&sync(client, None).await));
        }
        let signed_device = keys.sign_with(&keys.self_signing, device.identity());
        let signed_master = device.sign(keys.master_key());
        let signed_bob = keys.sign_with(&keys.user_signing, bobs.master_key());
        let (own_master, bobs_master) =
            (keys.master.public_key_base64(), bobs.master.public_key_base64());
        let body = json!({
            &alice.user_id: { &alice.device_id: signed_device, &own_master: signed_master },
            &bob.user_id: { &bobs_master: signed_bob },
        });
        let answer = alice.post(SIGNATURES, &body).await.ok();
        assert_eq!(answer["failures"], json!({}), "{answer}");

        let seen = query(carol, &[alice, bob]).await;
        let mut expected = with_signature(device.identity(), &signed_device);
        expected["unsigned"] = json!({});
        assert_eq!(seen["device_keys"][&alice.user_id][&alice.device_id], expected);
        assert_eq!(seen["master_keys"][&alice.user_id], signed_master);
        assert_eq!(seen["master_keys"][&bob.user_id], bobs.master_key(), "alice's business only");
        let seen = query(alice, &[bob]).await;
        assert_eq!(seen["master_keys"][&bob.user_id], signed_bob);

        let changed = |answer: Value| answer["device_lists"]["changed"].clone();
        assert_eq!(changed(sync(carol, Some(&tokens[2])).await), json!([alice.user_id]));
        let own = changed(sync(alice, Some(&tokens[0])).await);
        assert_eq!(own, json!([alice.user_id, bob.user_id]));
        // The same again changes nothing.
        let since = next_batch(&sync(carol, None).await);
        let answer = alice.post(SIGNATURES, &body).await.ok();
        assert_eq!(answer["failures"], json!({}));
        assert_eq!(changed(sync(carol, Some(&since)).await), json!(null));
        // Another upload of the device's keys does not lose the signature.
        device.upload(1).await;
        let seen = query(carol, &[alice]).await;
        assert_eq!(seen["device_keys"][&alice.user_id][&alice.device_id], expected);
        server.stop().await;
    }

    async fn other_identity_keys_bear_no_signature_of_the_earlier_ones(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let keys = set_up(&alice, 10).await;
        let device = Device::new(&alice, 1);
        device.upload(0).await;
        let sign = async |device: &Device<'_>| {
            let signed = keys.sign_with(&keys.self_signing, device.identity());
            let body = json!({ &alice.user_id: { &alice.device_id: signed } });
            alice.post(SIGNATURES, &body).await.ok()["failures"].take()
        };
        let signers = async || {
            let found = query(&alice, &[&alice]).await;
            let stored = &found["device_keys"][&alice.user_id][&alice.device_id];
            stored["signatures"][&alice.user_id].as_object().unwrap().len()
        };
        assert_eq!(sign(&device).await, json!({}));
        assert_eq!(signers().await, 2);
        // A further upload of the same keys changes nothing.
        device.upload(0).await;
        assert_eq!(signers().await, 2);
        let other = Device::new(&alice, 2);
        other.upload(0).await;
        assert_eq!(signers().await, 1, "what was signed is gone");
        assert_eq!(sign(&other).await, json!({}));
        assert_eq!(signers().await, 2);
        server.stop().await;
    }

    async fn wrong_signatures_fail_one_by_one(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        let device = Device::new(alice, 1);
        device.upload(1).await;
        let keys = set_up(alice, 10).await;
        let bobs = set_up(bob, 20).await;
        let (own, theirs) = (keys.master.public_key_base64(), bobs.master.public_key_base64());
        let mut changed = keys.sign_with(&keys.self_signing, device.identity());
        changed["algorithms"] = json!(["other"]);
        let body = json!({
            &alice.user_id: {
                &own: device.sign(keys.master_key()),
                &alice.device_id: changed,
                "UNKNOWN": keys.sign_with(&keys.self_signing, device.identity()),
            },
            // The self-signing key may not sign others' keys.
            &bob.user_id: { &theirs: keys.sign_with(&keys.self_signing, bobs.master_key()) },
        });
        let failures = alice.post(SIGNATURES, &body).await.ok()["failures"].take();
        assert_eq!(failures[&alice.user_id]["UNKNOWN"]["errcode"], "M_NOT_FOUND");
        assert_eq!(failures[&alice.user_id][&alice.device_id]["errcode"], "M_UNKNOWN");
        assert_eq!(failures[&bob.user_id][&theirs]["errcode"], "M_INVALID_SIGNATURE");
        assert_eq!(failures[&alice.user_id][&own], json!(null), "the good one is stored");
        let mut forged = keys.sign_with(&keys.user_signing, bobs.master_key());
        let key = format!("ed25519:{}", keys.user_signing.public_key_base64());
        forged["signatures"][&alice.user_id][key] = "AAAA".into();
        let body = json!({ &bob.user_id: { &theirs: forged } });
        let failures = alice.post(SIGNATURES, &body).await.ok()["failures"].take();
        assert_eq!(failures[&bob.user_id][&theirs]["errcode"], "M_INVALID_SIGNATURE");
        server.stop().await;
    }
}
