//! What application services with encrypting devices are told in transactions (MSC3202, MSC4203):
//! messages to devices, counts of keys, device lists.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::{
    appservice::{Service, start_with, write_registration},
    both_databases,
    conversation::{make_room, say},
    harness::{Client, Server},
    keyring::{Device, claim},
};

const V3: &str = "/_matrix/client/v3";
const BOT: &str = "@_irc_bot:hearth.test";
const TO_DEVICE: &str = "de.sorunome.msc2409.to_device";
const LISTS: &str = "org.matrix.msc3202.device_lists";
const COUNTS: &str = "org.matrix.msc3202.device_one_time_keys_count";
const FALLBACK: &str = "org.matrix.msc3202.device_unused_fallback_key_types";

fn registration_file(service: &Service) -> NamedTempFile {
    let mut registration = service.registration();
    registration["org.matrix.msc3202"] = true.into();
    registration["de.sorunome.msc2409.push_ephemeral"] = true.into();
    write_registration(&registration)
}

/// Has the service make a device for its bot, with keys.
async fn make_device(server: &Server, service: &Service) -> Client {
    let mut bot = service.client(server);
    (bot.user_id, bot.device_id) = (BOT.to_owned(), "BOT".to_owned());
    let answer = bot.put(&format!("{V3}/devices/BOT?user_id={BOT}"), &json!({})).await;
    assert_eq!(answer.status, 201);
    let device = Device::new(&bot, 1);
    let body = json!({
        "device_keys": device.identity(),
        "one_time_keys": device.one_time_keys(0..2),
        "fallback_keys": { "signed_curve25519:FALL": device.sign(json!({ "key": "f", "fallback": true })) },
    });
    bot.post(&format!("{V3}/keys/upload?user_id={BOT}&device_id=BOT"), &body).await.ok();
    bot
}

async fn note(from: &Client, to: &Client, number: usize) {
    let body = json!({ "messages": { &to.user_id: { &to.device_id: { "number": number } } } });
    let path = format!("{V3}/sendToDevice/org.example.note/n{number}");
    from.put(&path, &body).await.ok();
}

/// The numbers of all messages to devices, each transaction once.
fn numbers(accepted: &[(String, Value)]) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    let new = accepted.iter().filter(|(path, _)| seen.insert(path));
    let messages = new.filter_map(|(_, body)| body[TO_DEVICE].as_array()).flatten();
    messages.map(|message| message["content"]["number"].as_u64().unwrap()).collect()
}

/// Whom the transactions named in a section of the device lists.
fn listed(accepted: &[(String, Value)], section: &str) -> BTreeSet<String> {
    let named = accepted.iter().filter_map(|(_, body)| body[LISTS][section].as_array()).flatten();
    named.map(|user| user.as_str().unwrap().to_owned()).collect()
}

both_databases! {
    async fn services_learn_of_messages_and_keys_of_their_devices(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &registration_file(&service)).await;
        let alice = server.register("alice").await;
        let bot = make_device(&server, &service).await;
        let count_is = |count: u64, fallback: Value| {
            move |accepted: &[(String, Value)]| {
                let (_, body) = accepted.iter().rfind(|(_, body)| body[COUNTS][BOT]["BOT"].is_object())?;
                let is_it = body[COUNTS][BOT]["BOT"]["signed_curve25519"] == count
                    && body[FALLBACK][BOT]["BOT"] == fallback;
                is_it.then_some(())
            }
        };
        service.wait_for(count_is(2, json!(["signed_curve25519"]))).await;
        claim(&alice, &bot).await.unwrap();
        service.wait_for(count_is(1, json!(["signed_curve25519"]))).await;
        claim(&alice, &bot).await.unwrap();
        claim(&alice, &bot).await.unwrap();
        service.wait_for(count_is(0, json!([]))).await;
        note(&alice, &bot, 7).await;
        let find = |accepted: &[(String, Value)]| {
            accepted.iter().find_map(|(_, body)| body[TO_DEVICE].as_array()?.first().cloned())
        };
        let message = service.wait_for(find).await;
        let expected = json!({
            "type": "org.example.note", "sender": alice.user_id, "content": { "number": 7 },
            "to_user_id": BOT, "to_device_id": "BOT",
        });
        assert_eq!(message, expected);
        // It is nobody else's, so that it need not wait for a sync.
        let sync = bot.get(&format!("{V3}/sync?user_id={BOT}&device_id=BOT")).await.ok();
        assert!(sync.get("to_device").is_none(), "{sync}");
        server.stop().await;
    }

    async fn messages_for_devices_come_once_and_in_order_whatever_happens(backend: Backend) {
        let service = Service::start().await;
        let file = registration_file(&service);
        let mut server = start_with(backend, &file).await;
        let mut alice = server.register("alice").await;
        let bot = make_device(&server, &service).await;
        service.fail(true);
        for number in 0..120 {
            note(&alice, &bot, number).await;
        }
        server.kill().await;
        server = start_with(backend, &file).await;
        alice = server.reconnect(&alice);
        for number in 120..240 {
            note(&alice, &bot, number).await;
        }
        service.fail(false);
        service.set_page("/_matrix/app/v1/ping", 200, json!({}));
        let bridge = service.client(&server);
        bridge.post("/_matrix/client/v1/appservice/irc/ping", &json!({})).await.ok();
        for number in 240..250 {
            note(&alice, &bot, number).await;
        }
        service.wait_for(|accepted| numbers(accepted).contains(&249).then_some(())).await;
        let accepted = service.accepted();
        assert_eq!(numbers(&accepted), (0..250).collect::<Vec<_>>());
        let sizes = accepted.iter().filter_map(|(_, body)| Some(body[TO_DEVICE].as_array()?.len()));
        assert_eq!(sizes.max(), Some(100));
        server.stop().await;
    }

    async fn services_learn_whose_devices_changed_in_their_rooms(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &registration_file(&service)).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = make_room(&[&alice]).await;
        let bridge = service.client(&server);
        bridge.post(&format!("{V3}/join/{room}"), &json!({})).await.ok();
        // Who is there when the service comes.
        let find = |user: &Client, section: &'static str| {
            let user = user.user_id.clone();
            move |accepted: &[(String, Value)]| listed(accepted, section).contains(&user).then_some(())
        };
        service.wait_for(find(&alice, "changed")).await;
        // Bob shares nothing yet.
        Device::new(&bob, 1).upload(1).await;
        let before = service.accepted().len();
        Device::new(&alice, 2).upload(1).await;
        let told = find(&alice, "changed");
        service.wait_for(|accepted| told(&accepted[before..])).await;
        say(&alice, &room, "mark").await;
        service.wait_for_text("mark").await;
        assert!(find(&bob, "changed")(&service.accepted()).is_none());
        bob.post(&format!("{V3}/join/{room}"), &json!({})).await.ok();
        service.wait_for(find(&bob, "changed")).await;
        bob.post(&format!("{V3}/rooms/{room}/leave"), &json!({})).await.ok();
        service.wait_for(find(&bob, "left")).await;
        bridge.post(&format!("{V3}/rooms/{room}/leave"), &json!({})).await.ok();
        service.wait_for(find(&alice, "left")).await;
        server.stop().await;
    }

    async fn services_that_do_not_ask_learn_nothing_of_devices(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &service.registration_file()).await;
        let alice = server.register("alice").await;
        let bot = make_device(&server, &service).await;
        let room = make_room(&[&alice]).await;
        let bridge = service.client(&server);
        bridge.post(&format!("{V3}/join/{room}"), &json!({})).await.ok();
        note(&alice, &bot, 1).await;
        claim(&alice, &bot).await.unwrap();
        say(&alice, &room, "mark").await;
        service.wait_for_text("mark").await;
        for (_, body) in service.accepted() {
            for name in [TO_DEVICE, LISTS, COUNTS, FALLBACK] {
                assert!(body.get(name).is_none(), "{body}");
            }
        }
        // They sync instead.
        let sync = bot.get(&format!("{V3}/sync?user_id={BOT}&device_id=BOT")).await.ok();
        assert_eq!(sync["to_device"]["events"][0]["content"]["number"], 1);
        server.stop().await;
    }
}
