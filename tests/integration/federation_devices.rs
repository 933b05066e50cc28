//! Device lists of users of other servers (Server-Server API, "Device Management"): what is kept here is what
//! is true there, whatever was missed in between.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    conversation::{next_batch, sync, wait_for},
    federation::{await_membership, create, join, start_pair},
    harness::{Client, Server},
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
        let since = await_change(alice, &since, bob).await;
        assert_eq!(devices_of(alice, bob).await, ids(&[bob, &phone]));
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
        let mut since = await_change(&pair.alice, &since, &pair.bob).await;
        let expected = ids(&[&pair.bob, &tablet, &laptop]);
        while devices_of(&pair.alice, &pair.bob).await != expected {
            since = await_change(&pair.alice, &since, &pair.bob).await;
        }
        first.stop().await;
        second.stop().await;
    }
}
