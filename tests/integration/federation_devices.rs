//! Device lists of users of other servers (Server-Server API, "Device Management"): what is kept here is what
//! is true there, whatever was missed in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    both_databases,
    conversation::{next_batch, sync, wait_for},
    federation::{await_membership, create, join, start_pair},
    harness::{Client, ScriptedPeer, Server, to_response},
    hostile_peers::Siege,
    keyring::{CrossSigning, Device, query},
    two_servers,
};

const V3: &str = "/_matrix/client/v3";

/// The devices with keys that `viewer` finds of a user.
async fn devices_of(viewer: &Client, user: &Client) -> BTreeSet<String> {
    let found = query(viewer, &[user]).await;
    let devices = found["device_keys"][&user.user_id].as_object().cloned().unwrap_or_default();
    devices.into_iter().map(|(device, _)| device).collect()
}

/// A further device of bob with keys; its ID.
async fn add_device(server: &Server, seed: u8) -> Client {
    let device = server.login("bob").await;
    Device::new(&device, seed).upload(1).await;
    device
}

fn ids(devices: &[&Client]) -> BTreeSet<String> {
    devices.iter().map(|device| device.device_id.clone()).collect()
}

/// Waits until the other user's devices are said to have changed; where the next sync begins.
async fn await_change(viewer: &Client, since: &str, user: &Client) -> String {
    let changed = |answer: &Value| {
        let changed = answer["device_lists"]["changed"].as_array()?;
        changed.iter().any(|changed| *changed == user.user_id).then_some(())
    };
    wait_for(viewer, since, changed).await.1
}

/// Waits until these are the devices that `viewer` finds of a user; where the next sync begins. A list that
/// is fetched while its user's server tells of it may be said to have changed once more than it has.
async fn await_devices(
    viewer: &Client,
    since: &str,
    user: &Client,
    expected: &BTreeSet<String>,
) -> String {
    let mut since = await_change(viewer, since, user).await;
    while devices_of(viewer, user).await != *expected {
        since = await_change(viewer, &since, user).await;
    }
    since
}

/// The `m.device_list_update`s that a server is sent from now on.
fn hear_updates(peer: &ScriptedPeer) -> mpsc::UnboundedReceiver<Value> {
    let (heard, updates) = mpsc::unbounded_channel();
    peer.reply("/_matrix/federation/v1/send/", move |_, body| {
        let mut transaction: Value = serde_json::from_slice(body).unwrap();
        let edus = transaction["edus"].as_array_mut().map(std::mem::take);
        for mut edu in edus.unwrap_or_default() {
            if edu["edu_type"] == "m.device_list_update" {
                // A test that has ended wants no more.
                let _ = heard.send(edu["content"].take());
            }
        }
        to_response(&json!({ "pdus": {} }))
    });
    updates
}

async fn leave(client: &Client, room: &str) {
    client.post(&format!("{V3}/rooms/{room}/leave"), &json!({})).await.ok();
}

two_servers! {
    async fn changes_of_devices_arrive_without_being_asked_for(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let (alice, bob) = (&pair.alice, &pair.bob);
        Device::new(bob, 1).upload(1).await;
        let room = create(alice, json!({ "preset": "public_chat" })).await;
        join(bob, &room, &pair.names[0]).await;
        await_membership(alice, &room, &bob.user_id, "join").await;
        assert_eq!(devices_of(alice, bob).await, ids(&[bob]));
        let since = next_batch(&sync(alice, None).await);
        let phone = add_device(&pair.servers[1], 2).await;
        let since = await_devices(alice, &since, bob, &ids(&[bob, &phone])).await;
        // Cross-signing keys are told by another message, after which changes of devices go on.
        let keys = CrossSigning::new(bob, 10);
        bob.post(&format!("{V3}/keys/device_signing/upload"), &keys.upload()).await.ok();
        let since = await_change(alice, &since, bob).await;
        let found = query(alice, &[bob]).await;
        assert_eq!(found["master_keys"][&bob.user_id]["keys"], keys.master_key()["keys"]);
        phone.post(&format!("{V3}/logout"), &json!({})).await.ok();
        await_change(alice, &since, bob).await;
        assert_eq!(devices_of(alice, bob).await, ids(&[bob]), "nothing else has changed");
        for server in pair.servers {
            server.stop().await;
        }
    }

    async fn lists_are_not_believed_that_nobody_kept(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let (alice, bob) = (&pair.alice, &pair.bob);
        Device::new(bob, 1).upload(1).await;
        let room = create(alice, json!({ "preset": "public_chat" })).await;
        join(bob, &room, &pair.names[0]).await;
        await_membership(alice, &room, &bob.user_id, "join").await;
        assert_eq!(devices_of(alice, bob).await, ids(&[bob]));
        // While they share no room, nobody tells alice's server of bob's new device.
        leave(bob, &room).await;
        await_membership(alice, &room, &bob.user_id, "leave").await;
        let phone = add_device(&pair.servers[1], 2).await;
        assert_eq!(devices_of(alice, bob).await, ids(&[bob, &phone]), "asked for anew");
        let tablet = add_device(&pair.servers[1], 3).await;
        join(bob, &room, &pair.names[0]).await;
        await_membership(alice, &room, &bob.user_id, "join").await;
        assert_eq!(devices_of(alice, bob).await, ids(&[bob, &phone, &tablet]));
        for server in pair.servers {
            server.stop().await;
        }
    }

    async fn changes_during_an_outage_are_caught_up_with(one: Backend, two: Backend) {
        let mut pair = start_pair(one, two).await;
        Device::new(&pair.bob, 1).upload(1).await;
        let room = create(&pair.alice, json!({ "preset": "public_chat" })).await;
        join(&pair.bob, &room, &pair.names[0]).await;
        await_membership(&pair.alice, &room, &pair.bob.user_id, "join").await;
        assert_eq!(devices_of(&pair.alice, &pair.bob).await, ids(&[&pair.bob]));
        let [first, second] = pair.servers;
        first.stop().await;
        let phone = add_device(&second, 2).await;
        let tablet = add_device(&second, 3).await;
        phone.post(&format!("{V3}/logout"), &json!({})).await.ok();
        let first = pair.network.start(one, &pair.names[0]).await;
        pair.alice = first.reconnect(&pair.alice);
        let since = next_batch(&sync(&pair.alice, None).await);
        second.app.federation.outbox().retry(None).await.unwrap();
        // One more change, so that there is something to wait for.
        let laptop = add_device(&second, 4).await;
        let expected = ids(&[&pair.bob, &tablet, &laptop]);
        await_devices(&pair.alice, &since, &pair.bob, &expected).await;
        first.stop().await;
        second.stop().await;
    }
}

both_databases! {
    async fn servers_in_a_room_are_told_of_the_devices_of_who_enters_it(backend: Backend) {
        let siege = Siege::begin(backend).await;
        let mut updates = hear_updates(&siege.peer);
        let bare = siege.server.register("bob").await;
        let phone = add_device(&siege.server, 2).await;
        phone.post(&format!("{V3}/join/{}", siege.room.room_id), &json!({})).await.ok();
        let mut told = BTreeMap::new();
        while told.len() < 2 {
            let update = timeout(Duration::from_secs(30), updates.recv()).await.unwrap().unwrap();
            // Alice has entered her room not long before.
            if update["user_id"] == siege.alice.user_id {
                continue;
            }
            assert_eq!(update["user_id"], bare.user_id);
            assert!(update["deleted"].is_null(), "{update}");
            told.insert(update["device_id"].as_str().unwrap().to_owned(), update);
        }
        assert!(told[&bare.device_id]["keys"].is_null(), "it has none");
        assert_eq!(told[&phone.device_id]["keys"]["device_id"], phone.device_id);
        let stream_ids: BTreeSet<_> =
            told.values().map(|update| update["stream_id"].as_i64().unwrap()).collect();
        assert_eq!(stream_ids.len(), 2);
    }
}
