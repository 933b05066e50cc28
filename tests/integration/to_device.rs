//! Messages to devices (Client-Server API, "Send-to-Device messaging") and dehydrated devices
//! (MSC3814).

use futures_util::future::join_all;
use hearth::storage::{StorageError, to_device};
use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{make_room, next_batch, register, sync, wait_for},
    harness::{Answer, Client, Server},
    keyring::{Device, claim, query},
    sliding_sync::{poll, pos},
};

const DEHYDRATED: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";

/// No messages.
const NONE: [u64; 0] = [];

async fn send(from: &Client, transaction: &str, messages: Value) -> Answer {
    let path = format!("/_matrix/client/v3/sendToDevice/org.example.note/{transaction}");
    from.put(&path, &json!({ "messages": messages })).await
}

/// Sends a numbered message to one device.
async fn note(from: &Client, to: &Client, number: usize) {
    let messages = json!({ &to.user_id: { &to.device_id: { "number": number } } });
    send(from, &format!("n{number}"), messages).await.ok();
}

/// The numbers of the messages in an answer.
fn numbers(answer: &Value) -> Vec<u64> {
    let events = answer["to_device"]["events"].as_array().cloned().unwrap_or_default();
    events.iter().map(|event| event["content"]["number"].as_u64().unwrap()).collect()
}

both_databases! {
    async fn messages_are_delivered_once_and_in_order(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        for number in 0..3 {
            note(alice, bob, number).await;
        }
        let first = sync(bob, None).await;
        assert_eq!(numbers(&first), [0, 1, 2]);
        let expected = json!({
            "content": { "number": 0 }, "sender": alice.user_id, "type": "org.example.note",
        });
        assert_eq!(first["to_device"]["events"][0], expected);
        // Until the token is presented, the answer may have been lost.
        assert_eq!(numbers(&sync(bob, None).await), [0, 1, 2]);
        note(alice, bob, 3).await;
        let second = sync(bob, Some(&next_batch(&first))).await;
        assert_eq!(numbers(&second), [3]);
        let third = sync(bob, Some(&next_batch(&second))).await;
        assert_eq!(numbers(&third), NONE);
        assert_eq!(numbers(&sync(bob, None).await), NONE, "what was confirmed is deleted");
        assert_eq!(numbers(&sync(alice, None).await), NONE);
        server.stop().await;
    }

    async fn repeated_request_sends_nothing(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        let messages = json!({ &bob.user_id: { &bob.device_id: { "number": 1 } } });
        let sent = join_all((0..8).map(|_| send(alice, "same", messages.clone()))).await;
        sent.into_iter().for_each(|answer| drop(answer.ok()));
        server.kill().await;
        let server = Server::start(backend).await;
        let (alice, bob) = (server.reconnect(alice), server.reconnect(bob));
        send(&alice, "same", messages.clone()).await.ok();
        // Another type, or another device, makes it another request.
        let path = "/_matrix/client/v3/sendToDevice/org.example.other/same";
        alice.put(path, &json!({ "messages": messages })).await.ok();
        assert_eq!(numbers(&sync(&bob, None).await), [1, 1]);
        server.stop().await;
    }

    async fn star_stands_for_all_devices_of_a_user(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        let second = server.login("bob").await;
        let messages = json!({ &bob.user_id: { "*": { "number": 1 } } });
        send(alice, "1", messages).await.ok();
        let messages = json!({ &bob.user_id: { "*": { "number": 2 }, &second.device_id: { "number": 3 } } });
        send(alice, "2", messages).await.ok();
        let messages = json!({ &bob.user_id: { "NOSUCH": { "number": 4 } } });
        send(alice, "3", messages).await.ok();
        let messages = json!({ "@nobody:hearth.test": { "*": { "number": 4 } } });
        send(alice, "4", messages).await.ok();
        assert_eq!(numbers(&sync(bob, None).await), [1, 2]);
        assert_eq!(numbers(&sync(&second, None).await), [1, 3]);
        let messages = json!({ &bob.user_id: { "*": "text" } });
        send(alice, "5", messages).await.error(400, "M_BAD_JSON");
        server.stop().await;
    }

    async fn many_messages_come_in_several_answers(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        for number in 0..230 {
            note(alice, bob, number).await;
        }
        let first = sync(bob, None).await;
        assert_eq!(numbers(&first), (0..100).collect::<Vec<_>>());
        // The next ones do not wait for anything to happen.
        let any = |answer: &Value| Some(numbers(answer)).filter(|numbers| !numbers.is_empty());
        let (second, token) = wait_for(bob, &next_batch(&first), any).await;
        assert_eq!(second, (100..200).collect::<Vec<_>>());
        let (third, token) = wait_for(bob, &token, any).await;
        assert_eq!(third, (200..230).collect::<Vec<_>>());
        note(alice, bob, 230).await;
        assert_eq!(numbers(&sync(bob, Some(&token)).await), [230]);
        server.stop().await;
    }

    async fn message_wakes_a_waiting_sync_and_survives_a_kill(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        let since = next_batch(&sync(bob, None).await);
        let any = |answer: &Value| Some(numbers(answer)).filter(|numbers| !numbers.is_empty());
        let (heard, ()) = futures_util::join!(wait_for(bob, &since, any), note(alice, bob, 7));
        assert_eq!(heard.0, [7]);
        note(alice, bob, 8).await;
        server.kill().await;
        let server = Server::start(backend).await;
        let bob = server.reconnect(bob);
        assert_eq!(numbers(&sync(&bob, Some(&heard.1)).await), [8]);
        assert_eq!(numbers(&sync(&bob, None).await), [8], "what was confirmed is deleted");
        server.stop().await;
    }

    async fn deleted_device_takes_its_messages_along(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        note(alice, bob, 1).await;
        bob.post("/_matrix/client/v3/logout", &json!({})).await.ok();
        let body = json!({
            "type": "m.login.password", "device_id": bob.device_id,
            "identifier": { "type": "m.id.user", "user": "bob" }, "password": "password of bob",
        });
        let mut again = server.client();
        again.take_login(&again.post("/_matrix/client/v3/login", &body).await.ok());
        assert_eq!(numbers(&sync(&again, None).await), NONE);
        server.stop().await;
    }

    async fn requests_that_cannot_be_are_refused(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        let long = "x".repeat(256);
        let body = json!({ "messages": { &bob.user_id: { &bob.device_id: { "number": 1 } } } });
        for path in [format!("{long}/1"), format!("org.example.note/{long}")] {
            let path = format!("/_matrix/client/v3/sendToDevice/{path}");
            alice.put(&path, &body).await.error(413, "M_TOO_LARGE");
        }
        let large = json!({ &bob.user_id: { &bob.device_id: { "number": 1, "x": "x".repeat(300_000) } } });
        send(alice, "1", large).await.error(413, "M_TOO_LARGE");
        let impossible = json!({ &bob.user_id: { "N\u{0}L": { "number": 1 } } });
        send(alice, "2", impossible).await.error(400, "M_INVALID_PARAM");
        let nobody = json!({ "bob": { "*": { "number": 1 } } });
        send(alice, "3", nobody).await.error(400, "M_BAD_JSON");
        let path = "/_matrix/client/v3/sendToDevice/org.example.note/4";
        alice.put(path, &json!({})).await.error(400, "M_BAD_JSON");
        // What was refused counts for nothing: its transaction can be used.
        let messages = json!({ &bob.user_id: { &bob.device_id: { "number": 5, "text": "a\u{0}b" } } });
        send(alice, "2", messages).await.ok();
        let inbox = sync(bob, None).await;
        assert_eq!(numbers(&inbox), [5]);
        assert_eq!(inbox["to_device"]["events"][0]["content"]["text"], "a\u{0}b");
        server.stop().await;
    }

    async fn of_what_waits_for_too_long_the_latest_stays(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        for number in 0..5 {
            let messages = json!({
                &bob.user_id: { &bob.device_id: { "number": number } },
                "@carol:elsewhere.test": { "A": { "number": number } },
            });
            send(alice, &format!("n{number}"), messages).await.ok();
        }
        let trimmed: Result<(u64, u64), StorageError> = server
            .app
            .writer
            .transact(|tx| {
                Box::pin(async move {
                    let here = to_device::delete_overflow(tx, 3).await?;
                    Ok((here, to_device::delete_outbox_overflow(tx, 2).await?))
                })
            })
            .await;
        assert_eq!(trimmed.unwrap(), (2, 3));
        assert_eq!(numbers(&sync(bob, None).await), [2, 3, 4]);
        let all = (0, i64::MAX);
        let database = &server.app.database;
        let waiting = to_device::list_outbox(database, "elsewhere.test", all, 10).await.unwrap();
        let numbers: Vec<Value> = waiting
            .iter()
            .map(|(_, content)| {
                let content: Value = serde_json::from_str(content).unwrap();
                content["messages"]["@carol:elsewhere.test"]["A"]["number"].clone()
            })
            .collect();
        assert_eq!(numbers, [3, 4]);
        server.stop().await;
    }

    async fn token_from_before_a_restored_backup_loses_no_message(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        note(alice, bob, 1).await;
        // The token of a stream that went further than the one of the backup.
        let lost = "s999999_0";
        let told = sync(bob, Some(lost)).await;
        assert_eq!(numbers(&told), [1]);
        assert!(told["rooms"]["join"][&room]["timeline"].is_object(), "all is told anew: {told}");
        note(alice, bob, 2).await;
        assert_eq!(numbers(&sync(bob, Some(lost)).await), [1, 2], "nothing was taken as seen");
        let next = sync(bob, Some(&next_batch(&told))).await;
        assert_eq!(numbers(&next), [2]);
        note(alice, bob, 3).await;
        let body = json!({ "extensions": { "to_device": { "enabled": true, "since": "999999" } } });
        let told = poll(bob, None, &body).await.ok();
        let inbox = &told["extensions"]["to_device"];
        let found = inbox["events"].as_array().unwrap().iter().map(|event| &event["content"]["number"]);
        assert_eq!(found.collect::<Vec<_>>(), [2, 3]);
        let mut place: Vec<&str> = pos(&told).split('_').collect();
        place[0] = "s999999";
        poll(bob, Some(&place.join("_")), &body).await.error(400, "M_UNKNOWN_POS");
        server.stop().await;
    }

    async fn guests_may_send_to_devices(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["bob"]).await;
        let [bob] = clients.as_slice() else { panic!() };
        let mut guest = server.client();
        let path = "/_matrix/client/v3/register?kind=guest";
        guest.take_login(&guest.post(path, &json!({})).await.ok());
        note(&guest, bob, 1).await;
        assert_eq!(numbers(&sync(bob, None).await), [1]);
        Device::new(&guest, 1).upload(1).await;
        assert!(claim(bob, &guest).await.is_some());
        server.stop().await;
    }

    async fn dehydrated_device_receives_until_it_is_taken_over(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        alice.get(DEHYDRATED).await.error(404, "M_NOT_FOUND");
        let asleep = Client { device_id: "ASLEEP".to_owned(), ..alice.clone() };
        let device = Device::new(&asleep, 5);
        let data = json!({ "algorithm": "org.matrix.msc3814.v2", "device_pickle": "p", "nonce": "n" });
        let body = json!({
            "device_id": "ASLEEP",
            "initial_device_display_name": "asleep",
            "device_data": data,
            "device_keys": device.identity(),
            "one_time_keys": device.one_time_keys(0..1),
            "fallback_keys": { "signed_curve25519:F": device.sign(json!({ "key": "f", "fallback": true })) },
        });
        let mut strange = body.clone();
        strange["device_keys"]["user_id"] = bob.user_id.clone().into();
        alice.put(DEHYDRATED, &strange).await.error(400, "M_INVALID_PARAM");
        assert_eq!(alice.put(DEHYDRATED, &body).await.ok(), json!({ "device_id": "ASLEEP" }));
        let stored = alice.get(DEHYDRATED).await.ok();
        assert_eq!(stored, json!({ "device_id": "ASLEEP", "device_data": data }));
        let found = query(bob, &[alice]).await;
        assert!(found["device_keys"][&alice.user_id]["ASLEEP"].is_object(), "{found}");
        assert!(claim(bob, &asleep).await.is_some());
        for number in 0..3 {
            note(bob, &asleep, number).await;
        }
        let path = format!("{DEHYDRATED}/ASLEEP/events");
        let first = alice.post(&path, &json!({})).await.ok();
        assert_eq!(first["events"].as_array().unwrap().len(), 3);
        assert_eq!(first["events"][0]["content"], json!({ "number": 0 }));
        let next = alice.post(&path, &json!({ "next_batch": first["next_batch"] })).await.ok();
        assert_eq!(next["events"], json!([]));
        let again = alice.post(&path, &json!({})).await.ok();
        assert_eq!(again["events"].as_array().unwrap().len(), 3, "they stay until the device goes");
        let other = format!("{DEHYDRATED}/OTHER/events");
        alice.post(&other, &json!({})).await.error(403, "M_FORBIDDEN");
        bob.post(&path, &json!({})).await.error(404, "M_NOT_FOUND");

        assert_eq!(alice.delete(DEHYDRATED).await.ok(), json!({ "device_id": "ASLEEP" }));
        alice.get(DEHYDRATED).await.error(404, "M_NOT_FOUND");
        let found = query(bob, &[alice]).await;
        assert_eq!(found["device_keys"], json!({ &alice.user_id: {} }));
        server.stop().await;
    }

    async fn new_dehydrated_device_takes_the_place_of_the_old_one(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice"]).await;
        let [alice] = clients.as_slice() else { panic!() };
        let make = async |id: &str| {
            let asleep = Client { device_id: id.to_owned(), ..alice.clone() };
            let body = json!({
                "device_id": id,
                "device_data": { "algorithm": "x" },
                "device_keys": Device::new(&asleep, 5).identity(),
            });
            alice.put(DEHYDRATED, &body).await
        };
        make("ONE").await.ok();
        make("TWO").await.ok();
        let devices = alice.get("/_matrix/client/v3/devices").await.ok();
        let ids: Vec<_> =
            devices["devices"].as_array().unwrap().iter().map(|d| d["device_id"].clone()).collect();
        assert!(ids.contains(&json!("TWO")) && !ids.contains(&json!("ONE")), "{ids:?}");
        make(&alice.device_id).await.error(400, "M_INVALID_PARAM");
        server.stop().await;
    }
}
