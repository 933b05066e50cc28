//! Whose device lists changed, at the edges (Client-Server API, "Tracking the device list for a user"), and
//! what goes with devices and accounts.

use std::collections::BTreeSet;

use futures_util::join;
use hearth::storage::Param;
use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{make_room, next_batch, register, sync, wait_for},
    harness::{Client, Server},
    keyring::{CrossSigning, Device, claim, query},
};

const V3: &str = "/_matrix/client/v3";

fn names(of: &Value) -> BTreeSet<String> {
    let users = of.as_array().cloned().unwrap_or_default();
    users.iter().map(|user| user.as_str().unwrap().to_owned()).collect()
}

fn users(clients: &[&Client]) -> BTreeSet<String> {
    clients.iter().map(|client| client.user_id.clone()).collect()
}

/// `changed` and `left` of `GET /keys/changes`.
async fn changes(client: &Client, from: &str, to: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let path = format!("{V3}/keys/changes?from={from}&to={to}");
    let answer = client.get(&path).await.ok();
    (names(&answer["changed"]), names(&answer["left"]))
}

async fn go(client: &Client, room: &str, verb: &str) {
    client.post(&format!("{V3}/rooms/{room}/{verb}"), &json!({})).await.ok();
}

async fn now(client: &Client) -> String {
    next_batch(&sync(client, None).await)
}

/// Sends a numbered message to one device.
async fn note(from: &Client, to: &Client, number: u64) {
    let body = json!({ "messages": { &to.user_id: { &to.device_id: { "number": number } } } });
    from.put(&format!("{V3}/sendToDevice/org.example.note/n{number}"), &body).await.ok();
}

both_databases! {
    async fn changes_are_those_between_two_tokens(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = clients.as_slice() else { panic!() };
        let room = make_room(&[alice, bob, carol]).await;
        let first = now(alice).await;
        Device::new(bob, 1).upload(1).await;
        let second = now(alice).await;
        Device::new(carol, 2).upload(1).await;
        go(bob, &room, "leave").await;
        let third = now(alice).await;
        let none = (users(&[]), users(&[]));
        assert_eq!(changes(alice, &first, &first).await, none);
        assert_eq!(changes(alice, &third, &first).await, none, "backwards");
        assert_eq!(changes(alice, &second, &third).await, (users(&[carol]), users(&[bob])));
        // Who has left need not be fetched again.
        assert_eq!(changes(alice, &first, &third).await, (users(&[carol]), users(&[bob])));
        // Of alice and carol, bob is told nothing any more but that they are gone.
        assert_eq!(changes(bob, &second, &third).await, (users(&[]), users(&[alice, carol])));
        for (from, to) in [("", &*third), (&*first, ""), ("x", &*third), (&*first, "s-1_0")] {
            let path = format!("{V3}/keys/changes?from={from}&to={to}");
            alice.get(&path).await.error(400, "M_INVALID_PARAM");
        }
        alice.get(&format!("{V3}/keys/changes?from={first}")).await.error(400, "M_MISSING_PARAM");
        // A token of a position that does not exist yet is as good as the latest.
        for future in ["s999999999_0", "s9223372036854775807_0"] {
            let told = changes(alice, &second, future).await;
            assert_eq!(told, (users(&[carol]), users(&[bob])));
            assert_eq!(changes(alice, future, &second).await, none);
        }
        server.stop().await;
    }

    async fn who_was_away_in_between_counts_as_changed(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = clients.as_slice() else { panic!() };
        let room = make_room(&[alice, bob, carol]).await;
        let before = now(alice).await;
        go(bob, &room, "leave").await;
        go(bob, &room, "join").await;
        let after = now(alice).await;
        assert_eq!(changes(alice, &before, &after).await, (users(&[bob]), users(&[])));
        // And for whoever was away, all others.
        let (changed, left) = changes(bob, &before, &after).await;
        assert!(changed.is_superset(&users(&[alice, carol])), "{changed:?}");
        assert_eq!(left, users(&[]));
        // An invitation or a new name in between is no absence.
        let path = format!("{V3}/profile/{}/displayname", carol.user_id);
        carol.put(&path, &json!({ "displayname": "Carol" })).await.ok();
        carol.put(&path, &json!({ "displayname": "C." })).await.ok();
        let (changed, _) = changes(alice, &after, &now(alice).await).await;
        assert_eq!(changed, users(&[]));
        server.stop().await;
    }

    async fn logging_out_everywhere_is_told_and_leaves_nothing(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        make_room(&[alice, bob]).await;
        let second = server.login("bob").await;
        for (device, seed) in [(bob, 1), (&second, 2)] {
            Device::new(device, seed).upload(2).await;
            note(alice, device, u64::from(seed)).await;
        }
        let since = now(alice).await;
        let changed = |answer: &Value| {
            names(&answer["device_lists"]["changed"]).contains(&bob.user_id).then_some(())
        };
        let (path, nothing) = (format!("{V3}/logout/all"), json!({}));
        let (_, out) = join!(wait_for(alice, &since, changed), bob.post(&path, &nothing));
        out.ok();
        assert_eq!(query(alice, &[bob]).await["device_keys"], json!({ &bob.user_id: {} }));
        for device in [bob, &second] {
            assert_eq!(claim(alice, device).await, None);
            device.get(&format!("{V3}/account/whoami")).await.error(401, "M_UNKNOWN_TOKEN");
        }
        for sql in [
            "SELECT count(*) FROM to_device_messages WHERE user_id = $1",
            "SELECT count(*) FROM one_time_keys WHERE user_id = $1",
            "SELECT count(*) FROM one_time_key_claims WHERE user_id = $1",
            "SELECT count(*) FROM fallback_keys WHERE user_id = $1",
            "SELECT count(*) FROM device_keys WHERE user_id = $1",
            "SELECT count(*) FROM to_device_requests WHERE user_id = $1",
        ] {
            let user = [Param::Text(bob.user_id.clone())];
            let rows: Vec<(i64,)> = server.app.database.fetch_all(sql, &user).await.unwrap();
            assert_eq!(rows, [(0,)], "{sql}");
        }
        server.stop().await;
    }

    async fn device_of_an_old_name_is_a_new_device(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        make_room(&[alice, bob]).await;
        let keys = CrossSigning::new(bob, 10);
        bob.post(&format!("{V3}/keys/device_signing/upload"), &keys.upload()).await.ok();
        let device = Device::new(bob, 1);
        device.upload(3).await;
        let signed = keys.sign_with(&keys.self_signing, device.identity());
        let body = json!({ &bob.user_id: { &bob.device_id: signed } });
        let answer = bob.post(&format!("{V3}/keys/signatures/upload"), &body).await.ok();
        assert_eq!(answer["failures"], json!({}));
        claim(alice, bob).await.unwrap();
        note(alice, bob, 1).await;
        note(bob, alice, 2).await;
        bob.post(&format!("{V3}/logout"), &json!({})).await.ok();
        let body = json!({
            "type": "m.login.password", "device_id": bob.device_id,
            "identifier": { "type": "m.id.user", "user": "bob" }, "password": "password of bob",
        });
        let mut again = server.client();
        again.take_login(&again.post(&format!("{V3}/login"), &body).await.ok());
        assert_eq!(again.device_id, bob.device_id);
        let fresh = sync(&again, None).await;
        assert!(fresh.get("to_device").is_none(), "{fresh}");
        assert_eq!(fresh["device_one_time_keys_count"]["signed_curve25519"], 0);
        assert_eq!(claim(alice, &again).await, None);
        // Keys with the IDs of earlier ones are new, as are their transactions.
        Device::new(&again, 2).upload(2).await;
        assert!(claim(alice, &again).await.is_some());
        note(&again, alice, 2).await;
        let inbox = sync(alice, None).await;
        assert_eq!(inbox["to_device"]["events"].as_array().unwrap().len(), 2);
        // No signature on the device of before is on this one.
        let found = query(alice, &[&again]).await;
        let signatures = &found["device_keys"][&again.user_id][&again.device_id]["signatures"];
        assert_eq!(signatures[&again.user_id].as_object().unwrap().len(), 1, "{signatures}");
        server.stop().await;
    }

    async fn closed_accounts_have_no_devices(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        make_room(&[alice, bob]).await;
        Device::new(bob, 1).upload(2).await;
        let asleep = Client { device_id: "ASLEEP".to_owned(), ..bob.clone() };
        let body = json!({
            "device_id": "ASLEEP", "device_data": { "algorithm": "x" },
            "device_keys": Device::new(&asleep, 5).identity(),
        });
        let path = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";
        bob.put(path, &body).await.ok();
        assert_eq!(query(alice, &[bob]).await["device_keys"][&bob.user_id].as_object().unwrap().len(), 2);
        let since = now(alice).await;
        bob.post_with_password(&format!("{V3}/account/deactivate"), &json!({})).await.ok();
        // First that the devices are gone, and then that bob has left.
        let told = |answer: &Value| {
            let lists = &answer["device_lists"];
            let named = names(&lists["changed"]).contains(&bob.user_id);
            (named || names(&lists["left"]).contains(&bob.user_id)).then_some(())
        };
        wait_for(alice, &since, told).await;
        assert_eq!(query(alice, &[bob]).await["device_keys"], json!({ &bob.user_id: {} }));
        for (number, device) in [bob, &asleep].into_iter().enumerate() {
            assert_eq!(claim(alice, device).await, None);
            note(alice, device, number as u64).await;
        }
        let sql = "SELECT count(*) FROM to_device_messages WHERE user_id = $1";
        let rows: Vec<(i64,)> =
            server.app.database.fetch_all(sql, &[Param::Text(bob.user_id.clone())]).await.unwrap();
        assert_eq!(rows, [(0,)]);
        server.stop().await;
    }
}
