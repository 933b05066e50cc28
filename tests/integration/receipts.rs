//! Receipts and fully-read markers (Client-Server API, "Receipts", "Fully read markers").

use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{
        ephemeral, make_room, next_batch, read, receipt, register, reply, say, send, sync, wait_for,
    },
    harness::{Client, Server, to_response},
    hostile_devices::transmit,
    hostile_peers::{Siege, json_of},
};

/// The receipts of a kind for an event, as a sync from the beginning has them.
async fn receipts(client: &Client, room: &str, kind: &str, event: &str) -> Value {
    let content = ephemeral(&sync(client, None).await, room, "m.receipt").unwrap_or_default();
    content[event][kind].clone()
}

/// Bob of another server has read up to an event.
fn read_by_bob(siege: &Siege, event_id: &str) -> Value {
    let read = json!({ "data": { "ts": 1_436_451_550_453_u64 }, "event_ids": [event_id] });
    let content = json!({ siege.room.room_id.as_str(): { "m.read": { &siege.bob: read } } });
    json!({ "edu_type": "m.receipt", "content": content })
}

both_databases! {
    async fn public_receipts_reach_everybody_and_private_ones_their_sender(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let (first, second) = (say(alice, &room, "1").await, say(alice, &room, "2").await);
        let since = next_batch(&sync(alice, None).await);
        receipt(bob, &room, ("m.read.private", &second), None).await;
        read(bob, &room, &first).await;
        let find = |answer: &Value| ephemeral(answer, &room, "m.receipt");
        let (content, _) = wait_for(alice, &since, find).await;
        let seen = &content[&first]["m.read"][&bob.user_id];
        assert!(seen["ts"].is_i64() && seen.get("thread_id").is_none(), "{content}");
        assert!(content.get(&second).is_none(), "{content}");
        assert!(receipts(alice, &room, "m.read.private", &second).await.is_null());
        let own = receipts(bob, &room, "m.read.private", &second).await;
        assert!(own[&bob.user_id]["ts"].is_i64(), "{own}");
        server.stop().await;

        let server = Server::start(backend).await;
        let (alice, bob) = (server.reconnect(alice), server.reconnect(bob));
        assert!(receipts(&alice, &room, "m.read", &first).await[&bob.user_id].is_object());
        assert!(receipts(&alice, &room, "m.read.private", &second).await.is_null());
        assert!(receipts(&bob, &room, "m.read.private", &second).await.is_object());
        server.stop().await;
    }

    async fn receipts_never_move_backwards(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let (first, second) = (say(alice, &room, "1").await, say(alice, &room, "2").await);
        read(bob, &room, &second).await;
        let since = next_batch(&sync(alice, None).await);
        read(bob, &room, &first).await;
        let answer = sync(alice, Some(&since)).await;
        assert_eq!(ephemeral(&answer, &room, "m.receipt"), None);
        assert!(receipts(alice, &room, "m.read", &second).await.is_object());
        server.stop().await;
    }

    async fn each_thread_has_receipts_of_its_own(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let root = say(alice, &room, "root").await;
        let answer = reply(alice, &room, &root, "answer").await;
        receipt(bob, &room, ("m.read", &answer), Some(&root)).await;
        receipt(bob, &room, ("m.read", &root), Some("main")).await;
        let threaded = receipts(alice, &room, "m.read", &answer).await;
        assert_eq!(threaded[&bob.user_id]["thread_id"], root);
        let main = receipts(alice, &room, "m.read", &root).await;
        assert_eq!(main[&bob.user_id]["thread_id"], "main");
        // For one event the unthreaded receipt is shown (MSC4102).
        read(bob, &room, &answer).await;
        let both = receipts(alice, &room, "m.read", &answer).await;
        assert!(both[&bob.user_id].get("thread_id").is_none(), "{both}");
        server.stop().await;
    }

    async fn what_relates_to_a_root_is_related_to_its_thread(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let root = say(alice, &room, "root").await;
        reply(alice, &room, &root, "in the thread").await;
        let refer = async |target: &str, kind: &str| {
            let relation = json!({ "event_id": target, "rel_type": kind, "key": "x" });
            let content = json!({ "msgtype": "m.text", "body": kind, "m.relates_to": relation });
            send(alice, &room, &content).await
        };
        let reference = refer(&root, "m.reference").await;
        let annotation = refer(&reference, "m.annotation").await;
        let other = say(alice, &room, "something else").await;
        let elsewhere = refer(&other, "m.reference").await;
        receipt(bob, &room, ("m.read", &annotation), Some(&root)).await;
        let path = format!("/_matrix/client/v3/rooms/{room}/receipt/m.read/{elsewhere}");
        bob.post(&path, &json!({ "thread_id": root })).await.error(400, "M_INVALID_PARAM");
        server.stop().await;
    }

    async fn bad_receipts_are_refused(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let root = say(alice, &room, "root").await;
        let answer = reply(alice, &room, &root, "answer").await;
        let path = |kind: &str, event: &str| {
            format!("/_matrix/client/v3/rooms/{room}/receipt/{kind}/{event}")
        };
        for thread in [json!(""), json!(7), json!(null), json!("thread")] {
            let body = json!({ "thread_id": thread });
            bob.post(&path("m.read", &root), &body).await.error(400, "M_INVALID_PARAM");
        }
        let cases = [
            ("m.read", &answer, "main"),
            ("m.read", &root, answer.as_str()),
            ("m.fully_read", &root, "main"),
            ("m.unknown", &root, "main"),
        ];
        for (kind, event, thread) in cases {
            let body = json!({ "thread_id": thread });
            bob.post(&path(kind, event), &body).await.error(400, "M_INVALID_PARAM");
        }
        let body = json!({});
        bob.post(&path("m.read", "$unknown"), &body).await.error(404, "M_NOT_FOUND");
        bob.post(&path("m.read", "unknown"), &body).await.error(400, "M_INVALID_PARAM");
        carol.post(&path("m.read", &root), &body).await.error(403, "M_FORBIDDEN");
        let nowhere = "/_matrix/client/v3/rooms/!nowhere:x/receipt/m.read/$x";
        bob.post(nowhere, &body).await.error(403, "M_FORBIDDEN");
        server.stop().await;
    }

    async fn read_markers_move_markers_and_receipts_together(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let (first, second) = (say(alice, &room, "1").await, say(alice, &room, "2").await);
        let since = next_batch(&sync(bob, None).await);
        let path = format!("/_matrix/client/v3/rooms/{room}/read_markers");
        let body = json!({ "m.fully_read": second, "m.read": first, "m.read.private": second });
        bob.post(&path, &body).await.ok();
        let answer = sync(bob, Some(&since)).await;
        let data = &answer["rooms"]["join"][&room]["account_data"]["events"][0];
        assert_eq!(data["type"], "m.fully_read");
        assert_eq!(data["content"]["event_id"], second);
        assert!(receipts(alice, &room, "m.read", &first).await.is_object());
        // The marker does not move backwards.
        bob.post(&path, &json!({ "m.fully_read": first })).await.ok();
        let data = format!(
            "/_matrix/client/v3/user/{}/rooms/{room}/account_data/m.fully_read",
            bob.user_id
        );
        assert_eq!(bob.get(&data).await.ok()["event_id"], second);
        bob.post(&path, &json!({ "m.fully_read": "$unknown" })).await.error(404, "M_NOT_FOUND");
        bob.post(&path, &json!({ "m.fully_read": 7 })).await.error(400, "M_BAD_JSON");
        server.stop().await;
    }

    async fn other_servers_hear_of_receipts_that_moved_only(backend: Backend) {
        let siege = Siege::begin(backend).await;
        let (alice, room) = (&siege.alice, siege.room.room_id.as_str());
        let (first, second) = (say(alice, room, "1").await, say(alice, room, "2").await);
        let (heard, mut hearing) = tokio::sync::mpsc::unbounded_channel();
        siege.peer.reply("/_matrix/federation/v1/send/", move |_, body| {
            let body: Value = serde_json::from_slice(body).unwrap();
            // The test may be over.
            let _ = heard.send(body["edus"].to_string());
            to_response(&json!({ "pdus": {} }))
        });
        read(alice, room, &second).await;
        while !hearing.recv().await.unwrap().contains(&second) {}
        read(alice, room, &first).await;
        let path = format!("/_matrix/client/v3/rooms/{room}/typing/{}", alice.user_id);
        alice.put(&path, &json!({ "typing": true, "timeout": 30_000 })).await.ok();
        loop {
            let edus = hearing.recv().await.unwrap();
            assert!(!edus.contains(&first), "{edus}");
            if edus.contains("m.typing") {
                break;
            }
        }
        siege.server.stop().await;
    }

    async fn receipts_for_events_that_are_still_on_their_way_are_kept(backend: Backend) {
        let mut siege = Siege::begin(backend).await;
        let room = siege.room.room_id.to_string();
        let earlier = say(&siege.alice, &room, "1").await;
        siege.branch.catch_up(&siege.server.app.rooms, &siege.room).await;
        let bob = siege.bob.clone();
        let (coming, next) = (siege.branch.message(&bob, "2"), siege.branch.message(&bob, "3"));
        let (coming_id, next_id) = (coming.event_id().as_str(), next.event_id().as_str());
        transmit(&siege, "1", &[read_by_bob(&siege, coming_id)]).await;
        let seen = receipts(&siege.alice, &room, "m.read", coming_id).await;
        assert_eq!(seen[&siege.bob]["ts"], 1_436_451_550_453_u64);
        // What he has read before takes nothing back, neither now nor when the event is here.
        transmit(&siege, "2", &[read_by_bob(&siege, &earlier)]).await;
        siege.peer.send(&siege.server, "3", &[json_of(&coming), json_of(&next)]).await;
        transmit(&siege, "4", &[read_by_bob(&siege, &earlier)]).await;
        let seen = receipts(&siege.alice, &room, "m.read", coming_id).await;
        assert!(seen[&siege.bob].is_object(), "{seen}");
        transmit(&siege, "5", &[read_by_bob(&siege, next_id)]).await;
        assert!(receipts(&siege.alice, &room, "m.read", coming_id).await.is_null());
        let seen = receipts(&siege.alice, &room, "m.read", next_id).await;
        assert!(seen[&siege.bob].is_object(), "{seen}");
        siege.server.stop().await;
    }

    async fn what_is_no_event_id_leaves_other_receipts_alone(backend: Backend) {
        let siege = Siege::begin(backend).await;
        let room = siege.room.room_id.as_str();
        let event = say(&siege.alice, room, "1").await;
        transmit(&siege, "1", &[read_by_bob(&siege, "no event"), read_by_bob(&siege, &event)]).await;
        let content = ephemeral(&sync(&siege.alice, None).await, room, "m.receipt").unwrap();
        let named: Vec<&String> = content.as_object().unwrap().keys().collect();
        assert_eq!(named, [&event], "{content}");
        siege.server.stop().await;
    }
}
