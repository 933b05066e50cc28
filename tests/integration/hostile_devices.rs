//! What other servers tell of their devices, in whatever order and shape (Server-Server API, "Device
//! Management", "Send-to-device messaging"): it harms nobody but their own users.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{http::StatusCode, response::IntoResponse};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    both_databases,
    conversation::{next_batch, sync, wait_for},
    harness::{Backend, to_response},
    hostile_peers::{Siege, json_of},
    keyring::{Device, query},
};

const DEVICES: &str = "/_matrix/federation/v1/user/devices/";
const QUERY: &str = "/_matrix/federation/v1/user/keys/query";

/// Bob's devices as his server tells them when it is asked.
struct Listed(Arc<Mutex<Value>>);

impl Listed {
    /// Has the peer answer with this from now on.
    fn publish(siege: &Siege, list: Value) -> Self {
        let listed = Arc::new(Mutex::new(list));
        let told = Arc::clone(&listed);
        siege.peer.reply(DEVICES, move |_, _| to_response(&told.lock().unwrap()));
        Self(listed)
    }

    fn replace(&self, list: Value) {
        *self.0.lock().unwrap() = list;
    }
}

/// The keys of a device of bob's.
fn keys(siege: &Siege, device: &str) -> Value {
    json!({
        "user_id": siege.bob, "device_id": device, "algorithms": ["m.megolm.v1.aes-sha2"],
        "keys": { format!("ed25519:{device}"): "k" }, "signatures": {},
    })
}

fn list(siege: &Siege, stream_id: i64, devices: &[&str]) -> Value {
    let device = |id: &&str| json!({ "device_id": id, "keys": keys(siege, id) });
    let devices: Vec<Value> = devices.iter().map(device).collect();
    json!({ "user_id": siege.bob, "stream_id": stream_id, "devices": devices })
}

/// An `m.device_list_update`.
fn update(siege: &Siege, device: &str, stream_id: i64, prev_id: &[i64]) -> Value {
    let content = json!({
        "user_id": siege.bob, "device_id": device, "keys": keys(siege, device),
        "stream_id": stream_id, "prev_id": prev_id,
    });
    json!({ "edu_type": "m.device_list_update", "content": content })
}

/// An `m.direct_to_device` with a number for each device of a user.
fn direct(from: &str, message_id: &str, user: &str, messages: Value) -> Value {
    let content = json!({
        "sender": from, "type": "org.example.note", "message_id": message_id,
        "messages": { user: messages },
    });
    json!({ "edu_type": "m.direct_to_device", "content": content })
}

/// Has the peer send EDUs, in a transaction of this ID.
pub async fn transmit(siege: &Siege, id: &str, edus: &[Value]) {
    let body =
        json!({ "origin": siege.peer.name, "origin_server_ts": 1, "pdus": [], "edus": edus });
    let path = format!("/_matrix/federation/v1/send/{id}");
    siege.peer.ask(&siege.server, (Method::PUT, &path), Some(&body)).await.ok();
}

/// The devices with keys that alice finds of bob.
async fn devices_of_bob(siege: &Siege) -> BTreeSet<String> {
    let body = json!({ "device_keys": { &siege.bob: [] } });
    let found = siege.alice.post("/_matrix/client/v3/keys/query", &body).await.ok();
    let devices = found["device_keys"][&siege.bob].as_object().cloned().unwrap_or_default();
    devices.into_iter().map(|(device, _)| device).collect()
}

fn ids(devices: &[&str]) -> BTreeSet<String> {
    devices.iter().map(|device| (*device).to_owned()).collect()
}

fn asked(siege: &Siege) -> usize {
    siege.peer.list_asked(DEVICES).len()
}

/// Waits until alice hears that bob's devices changed; where the next sync begins.
async fn await_change(siege: &Siege, since: &str) -> String {
    let changed = |answer: &Value| {
        let changed = answer["device_lists"]["changed"].as_array()?;
        changed.iter().any(|changed| *changed == siege.bob).then_some(())
    };
    wait_for(&siege.alice, since, changed).await.1
}

/// The numbers of the messages in an answer.
fn numbers(answer: &Value) -> Vec<u64> {
    let events = answer["to_device"]["events"].as_array().cloned().unwrap_or_default();
    events.iter().map(|event| event["content"]["number"].as_u64().unwrap()).collect()
}

async fn begin(backend: &Backend) -> (Siege, Listed) {
    let siege = Siege::begin(backend).await;
    let listed = Listed::publish(&siege, list(&siege, 5, &["A"]));
    (siege, listed)
}

both_databases! {
    async fn gap_in_what_a_server_tells_is_filled_by_asking(backend: Backend) {
        let (siege, listed) = begin(backend).await;
        assert_eq!(devices_of_bob(&siege).await, ids(&["A"]));
        assert_eq!(devices_of_bob(&siege).await, ids(&["A"]));
        assert_eq!(asked(&siege), 1, "the list is kept");
        let since = next_batch(&sync(&siege.alice, None).await);
        transmit(&siege, "1", &[update(&siege, "B", 6, &[5])]).await;
        let since = await_change(&siege, &since).await;
        assert_eq!(devices_of_bob(&siege).await, ids(&["A", "B"]));
        // The same again, and an older one that was late, are known.
        let mut late = update(&siege, "A", 4, &[3]);
        late["content"]["deleted"] = true.into();
        transmit(&siege, "2", &[update(&siege, "B", 6, &[5]), late]).await;
        let quiet = sync(&siege.alice, Some(&since)).await;
        assert!(quiet.get("device_lists").is_none(), "{quiet}");
        assert_eq!(devices_of_bob(&siege).await, ids(&["A", "B"]));
        assert_eq!(asked(&siege), 1);
        // Number 7 was lost.
        listed.replace(list(&siege, 8, &["A", "B", "C", "D"]));
        transmit(&siege, "3", &[update(&siege, "D", 8, &[7])]).await;
        await_change(&siege, &since).await;
        assert_eq!(devices_of_bob(&siege).await, ids(&["A", "B", "C", "D"]));
        assert!(asked(&siege) >= 2);
        // From there it goes on.
        let since = next_batch(&sync(&siege.alice, None).await);
        let mut gone = update(&siege, "A", 9, &[8]);
        gone["content"]["deleted"] = true.into();
        transmit(&siege, "4", &[gone]).await;
        await_change(&siege, &since).await;
        assert_eq!(devices_of_bob(&siege).await, ids(&["B", "C", "D"]));
    }

    async fn names_that_no_database_takes_disturb_nobody(backend: Backend) {
        let (siege, listed) = begin(backend).await;
        let alice = &siege.alice;
        Device::new(alice, 1).upload(1).await;
        let mut devices = list(&siege, 5, &["A", "B"]);
        devices["devices"][0]["device_display_name"] = "N\u{0}L".into();
        devices["devices"][1]["device_display_name"] = "Bob's phone".into();
        let long = "x".repeat(5000);
        for id in ["", "N\u{0}L", &long, "A"] {
            let device = json!({ "device_id": id, "keys": keys(&siege, id) });
            devices["devices"].as_array_mut().unwrap().push(device);
        }
        listed.replace(devices);
        let body = json!({ "device_keys": { &siege.bob: [], &alice.user_id: [] } });
        let found = alice.post("/_matrix/client/v3/keys/query", &body).await.ok();
        assert!(found["device_keys"][&alice.user_id][&alice.device_id].is_object(), "{found}");
        let of_bob = &found["device_keys"][&siege.bob];
        assert_eq!(of_bob["A"]["unsigned"], json!({}));
        assert_eq!(of_bob["B"]["unsigned"], json!({ "device_display_name": "Bob's phone" }));
        assert!(of_bob.get(&long).is_none());
        // Nor do they keep what is told beside them from arriving.
        let since = next_batch(&sync(alice, None).await);
        let mut named = update(&siege, "C", 6, &[5]);
        named["content"]["device_display_name"] = "N\u{0}L".into();
        let impossible = update(&siege, "N\u{0}L", 7, &[6]);
        let message = direct(&siege.bob, "m1", &alice.user_id, json!({ "*": { "number": 1 } }));
        transmit(&siege, "1", &[impossible, named, message]).await;
        let any = |answer: &Value| Some(numbers(answer)).filter(|numbers| !numbers.is_empty());
        assert_eq!(wait_for(alice, &since, any).await.0, [1]);
        assert!(devices_of_bob(&siege).await.contains("C"));
    }

    async fn lists_are_told_by_the_server_of_their_user_only(backend: Backend) {
        let (siege, _listed) = begin(backend).await;
        let alice = &siege.alice;
        Device::new(alice, 1).upload(1).await;
        assert_eq!(devices_of_bob(&siege).await, ids(&["A"]));
        let since = next_batch(&sync(alice, None).await);
        let mut stolen = update(&siege, &alice.device_id, 6, &[5]);
        stolen["content"]["user_id"] = alice.user_id.clone().into();
        stolen["content"]["deleted"] = true.into();
        let key = json!({ "user_id": alice.user_id, "usage": ["master"], "keys": { "ed25519:k": "k" } });
        let content = json!({ "user_id": alice.user_id, "master_key": key });
        let signing = json!({ "edu_type": "m.signing_key_update", "content": content });
        // The keys of one device in the name of another.
        let mut swapped = update(&siege, "B", 6, &[5]);
        swapped["content"]["keys"] = keys(&siege, "A");
        transmit(&siege, "1", &[stolen, signing, swapped]).await;
        await_change(&siege, &since).await;
        assert_eq!(devices_of_bob(&siege).await, ids(&["A"]), "it has no keys of its own");
        let own = query(alice, &[alice]).await;
        assert!(own["device_keys"][&alice.user_id][&alice.device_id].is_object(), "{own}");
        assert_eq!(own["master_keys"], json!({}));
    }

    async fn messages_to_devices_come_once_whatever_comes_again(backend: Backend) {
        let (siege, _listed) = begin(backend).await;
        let alice = &siege.alice;
        let second = siege.server.login("alice").await;
        let note = |id: &str, number: u64| {
            direct(&siege.bob, id, &alice.user_id, json!({ &alice.device_id: { "number": number } }))
        };
        transmit(&siege, "1", &[note("a", 1), note("a", 1), note("b", 2)]).await;
        // In another transaction, as after an answer that was lost with the server that got it.
        transmit(&siege, "2", &[note("b", 2), note("c", 3)]).await;
        let long = "x".repeat(33);
        let mut strange = note("d", 4);
        strange["content"]["sender"] = alice.user_id.clone().into();
        let mut shapeless = note("e", 5);
        shapeless["content"]["messages"] = json!([]);
        let everywhere = json!({ "*": { "number": 6 }, &second.device_id: { "number": 7 }, "NOSUCH": {} });
        let everywhere = direct(&siege.bob, "f", &alice.user_id, everywhere);
        let text = direct(&siege.bob, "g", &alice.user_id, json!({ "*": "text" }));
        transmit(&siege, "3", &[note(&long, 8), strange, shapeless, text, everywhere]).await;
        let first = sync(alice, None).await;
        assert_eq!(numbers(&first), [1, 2, 3, 6]);
        assert_eq!(first["to_device"]["events"][0]["sender"], siege.bob);
        assert_eq!(numbers(&sync(&second, None).await), [7]);
        // Still known when it has been delivered and deleted.
        let since = next_batch(&first);
        assert_eq!(numbers(&sync(alice, Some(&since)).await), [0; 0]);
        transmit(&siege, "4", &[note("a", 1)]).await;
        assert_eq!(numbers(&sync(alice, None).await), [0; 0]);
    }

    async fn lists_of_who_shares_no_room_any_more_are_not_kept(backend: Backend) {
        let (mut siege, listed) = begin(backend).await;
        assert_eq!(devices_of_bob(&siege).await, ids(&["A"]));
        let since = next_batch(&sync(&siege.alice, None).await);
        siege.branch.catch_up(&siege.server.app.rooms, &siege.room).await;
        let bob = siege.bob.clone();
        let leave = siege.branch.member(&bob, &bob, "leave");
        siege.peer.send(&siege.server, "leave", &[json_of(&leave)]).await;
        let left = |answer: &Value| {
            let left = answer["device_lists"]["left"].as_array()?;
            left.iter().any(|left| *left == bob).then_some(())
        };
        let (_, since) = wait_for(&siege.alice, &since, left).await;
        // What it tells now concerns nobody here, and is not told.
        listed.replace(list(&siege, 9, &["A", "Z"]));
        transmit(&siege, "1", &[update(&siege, "B", 6, &[5])]).await;
        let quiet = sync(&siege.alice, Some(&since)).await;
        assert!(quiet.get("device_lists").is_none(), "{quiet}");
        // Who wants to know asks anew, each time.
        let keys = json!({ "device_keys": { &bob: { "Z": keys(&siege, "Z") } } });
        siege.peer.reply_json(QUERY, keys);
        assert_eq!(devices_of_bob(&siege).await, ids(&["Z"]));
    }

    async fn user_who_is_gone_is_no_failure_of_their_server(backend: Backend) {
        let siege = Siege::begin(backend).await;
        let not_found = json!({ "errcode": "M_NOT_FOUND", "error": "There is no such user." });
        siege.peer.reply(DEVICES, move |_, _| {
            (StatusCode::NOT_FOUND, to_response(&not_found)).into_response()
        });
        siege.peer.reply_json(QUERY, json!({ "device_keys": {} }));
        let body = json!({ "device_keys": { &siege.bob: [] } });
        let found = siege.alice.post("/_matrix/client/v3/keys/query", &body).await.ok();
        // Clients send nothing to a server that they take for dead.
        assert_eq!(found["failures"], json!({}));
        assert_eq!(found["device_keys"], json!({ &siege.bob: {} }));
        assert_eq!(asked(&siege), 1);
    }

    async fn many_users_of_a_server_are_asked_for_together(backend: Backend) {
        let (mut siege, _listed) = begin(backend).await;
        let users: Vec<String> =
            (0..12).map(|number| format!("@user{number}:{}", siege.peer.name)).collect();
        let mut joins = Vec::new();
        for user in &users {
            joins.push(json_of(&siege.branch.member(user, user, "join")));
        }
        siege.peer.send(&siege.server, "joins", &joins).await;
        let known: Vec<_> = users.iter().map(|user| (user.clone(), json!({}))).collect();
        let known = Value::Object(known.into_iter().collect());
        siege.peer.reply_json(QUERY, json!({ "device_keys": known }));
        let wanted: Vec<_> = users.iter().map(|user| (user.clone(), json!([]))).collect();
        let wanted = json!({ "device_keys": Value::Object(wanted.into_iter().collect()) });
        let found = siege.alice.post("/_matrix/client/v3/keys/query", &wanted).await.ok();
        assert_eq!((&found["device_keys"], &found["failures"]), (&known, &json!({})));
        assert_eq!((siege.peer.list_asked(QUERY).len(), asked(&siege)), (1, 0));
        // Whose lists are not kept is told of all the same.
        let since = next_batch(&sync(&siege.alice, None).await);
        let key = json!({ "user_id": users[0], "usage": ["master"], "keys": { "ed25519:k": "k" } });
        let content = json!({ "user_id": users[0], "master_key": key });
        let signing = json!({ "edu_type": "m.signing_key_update", "content": content });
        transmit(&siege, "1", &[signing]).await;
        let changed = |answer: &Value| {
            let changed = answer["device_lists"]["changed"].as_array()?;
            changed.iter().any(|changed| *changed == users[0]).then_some(())
        };
        wait_for(&siege.alice, &since, changed).await;
    }

    async fn message_that_a_firewall_keeps_is_sent_again(backend: Backend) {
        let siege = Siege::begin(backend).await;
        let (heard, mut sent) = mpsc::unbounded_channel();
        let is_open = AtomicBool::new(false);
        siege.peer.reply("/_matrix/federation/v1/send/", move |_, body| {
            let transaction: Value = serde_json::from_slice(body).unwrap();
            let edus = transaction["edus"].as_array().cloned().unwrap_or_default();
            let is_message = |edu: &&Value| edu["edu_type"] == "m.direct_to_device";
            let Some(message) = edus.iter().find(is_message) else {
                return to_response(&json!({ "pdus": {} }));
            };
            let was_open = is_open.swap(true, Ordering::SeqCst);
            // A test that has ended wants no more.
            let _ = heard.send((was_open, message["content"]["message_id"].clone()));
            match was_open {
                true => to_response(&json!({ "pdus": {} })),
                false => (StatusCode::FORBIDDEN, "<h1>Blocked</h1>").into_response(),
            }
        });
        let message = json!({ "messages": { &siege.bob: { "A": { "number": 1 } } } });
        let path = "/_matrix/client/v3/sendToDevice/org.example.note/1";
        siege.alice.put(path, &message).await.ok();
        let (was_open, id) = sent.recv().await.unwrap();
        assert!(!was_open);
        siege.server.app.federation.outbox().retry(None).await.unwrap();
        let again = timeout(Duration::from_secs(60), sent.recv()).await.unwrap();
        assert_eq!(again, Some((true, id)), "known there by the same ID, should it have come");
    }
}
