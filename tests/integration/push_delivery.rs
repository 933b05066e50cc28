//! Notifications on their way to push gateways (push-gateway API; client-server API, "Push
//! Notifications"): what arrives, what does not, and what the counts say.

use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{make_room, read, register, reply, say, send},
    harness::{Backend, Client, Network, PushGateway, Server},
    two_servers,
};

const V3: &str = "/_matrix/client/v3";

async fn start(backend: &Backend) -> Server {
    Server::start_with(backend, PushGateway::allow).await
}

/// The unread notifications of a client in all rooms, as /sync counts them. Without all members, so that
/// a room is there that was just entered elsewhere.
async fn unread(client: &Client) -> i64 {
    let filter = r#"{"room":{"state":{"lazy_load_members":true}}}"#;
    let path = "/_matrix/client/v3/sync?set_presence=offline";
    let request = client.request(reqwest::Method::GET, path).query(&[("filter", filter)]);
    let answer = client.send(request).await.ok();
    let rooms = answer["rooms"]["join"].as_object().cloned().unwrap_or_default();
    let count = |room: &Value| room["unread_notifications"]["notification_count"].as_i64();
    rooms.values().map(|room| count(room).unwrap()).sum()
}

fn count_of(notification: &Value) -> i64 {
    notification["counts"]["unread"].as_i64().unwrap_or(0)
}

fn body_of(notification: &Value) -> &str {
    notification["content"]["body"].as_str().unwrap_or_default()
}

async fn invite(client: &Client, room: &str, user: &str) {
    client.post(&format!("{V3}/rooms/{room}/invite"), &json!({ "user_id": user })).await.ok();
}

both_databases! {
    async fn message_is_pushed_with_everything_about_it(backend: Backend) {
        let (server, gateway) = (start(backend).await, PushGateway::start().await);
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let profile = format!("{V3}/profile/{}/displayname", alice.user_id);
        alice.put(&profile, &json!({ "displayname": "Alice" })).await.ok();
        let room = make_room(&[alice, bob]).await;
        let name = format!("{V3}/rooms/{room}/state/m.room.name/");
        alice.put(&name, &json!({ "name": "Kitchen" })).await.ok();
        gateway.subscribe(bob, "key").await;
        let event_id = say(alice, &room, "Tea?").await;
        let pushed = gateway.next().await;
        let ts = pushed["devices"][0]["pushkey_ts"].as_i64().unwrap();
        assert!((1_000_000_000..100_000_000_000).contains(&ts), "seconds: {ts}");
        assert_eq!(pushed, json!({
            "event_id": event_id, "room_id": room, "type": "m.room.message", "prio": "high",
            "sender": alice.user_id, "sender_display_name": "Alice", "room_name": "Kitchen",
            "content": { "msgtype": "m.text", "body": "Tea?" }, "counts": { "unread": 1 },
            "devices": [{
                "app_id": "org.example.app", "pushkey": "key", "pushkey_ts": ts,
                "data": { "org.example.extra": { "kept": true } }, "tweaks": { "sound": "default" },
            }],
        }));
        server.stop().await;
    }

    async fn short_form_says_nothing_of_what_happened(backend: Backend) {
        let (server, gateway) = (start(backend).await, PushGateway::start().await);
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let mut pusher = gateway.pusher("key");
        pusher["data"]["format"] = "event_id_only".into();
        bob.post(&format!("{V3}/pushers/set"), &pusher).await.ok();
        let event_id = say(alice, &room, "Tea?").await;
        let pushed = gateway.next().await;
        let keys: Vec<&String> = pushed.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["counts", "devices", "event_id", "prio", "room_id"]);
        assert_eq!((&pushed["event_id"], &pushed["room_id"]), (&json!(event_id), &json!(room)));
        assert_eq!(pushed["devices"][0]["data"]["format"], "event_id_only");
        server.stop().await;
    }

    async fn badge_is_what_a_client_counts(backend: Backend) {
        let (server, gateway) = (start(backend).await, PushGateway::start().await);
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        let one = make_room(&[alice, bob, carol]).await;
        let two = make_room(&[carol, bob]).await;
        gateway.subscribe(bob, "key").await;
        let mut latest = String::new();
        for (sender, room, text) in
            [(alice, &one, "a"), (carol, &two, "b"), (carol, &one, "c"), (carol, &two, "d")]
        {
            latest = say(sender, room, text).await;
            let pushed = gateway.next().await;
            assert_eq!(body_of(&pushed), text);
            assert_eq!(count_of(&pushed), unread(bob).await, "{text}");
        }
        let root = say(carol, &one, "root").await;
        gateway.next().await;
        reply(carol, &one, &root, "in a thread").await;
        let pushed = gateway.next().await;
        assert_eq!((count_of(&pushed), unread(bob).await), (6, 6));
        // Reading is told too, without an event.
        read(bob, &two, &latest).await;
        gateway.wait_for_badge(4).await;
        assert_eq!(unread(bob).await, 4);
        // So is an answer, which reads the room.
        say(bob, &one, "an answer").await;
        gateway.wait_for_badge(1).await;
        assert_eq!(unread(bob).await, 1);
        // And so is leaving.
        bob.post(&format!("{V3}/rooms/{one}/leave"), &json!({})).await.ok();
        gateway.wait_for_badge(0).await;
        assert_eq!(unread(bob).await, 0);
        server.stop().await;
    }

    async fn only_those_are_told_whom_it_concerns(backend: Backend) {
        let (server, gateway) = (start(backend).await, PushGateway::start().await);
        let users = register(&server, ["alice", "bob", "carol", "dave"]).await;
        let [alice, bob, carol, dave] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob, carol, dave]).await;
        for (client, key) in [(alice, "alice"), (bob, "bob"), (carol, "carol"), (dave, "dave")] {
            gateway.subscribe(client, key).await;
        }
        // Bob wants mentions only, Carol ignores Alice, and Dave leaves.
        let rule = format!("{V3}/pushrules/global/room/{room}");
        bob.put(&rule, &json!({ "actions": [] })).await.ok();
        let ignored = format!("{V3}/user/{}/account_data/m.ignored_user_list", carol.user_id);
        carol.put(&ignored, &json!({ "ignored_users": { alice.user_id.as_str(): {} } })).await.ok();
        say(alice, &room, "nobody but Dave").await;
        let pushed = gateway.next_event().await;
        assert_eq!(pushed["devices"][0]["pushkey"], "dave");
        assert_eq!(pushed["prio"], "low");
        dave.post(&format!("{V3}/rooms/{room}/leave"), &json!({})).await.ok();
        let mention = |users: Vec<&Client>, body: &str| {
            let users: Vec<_> = users.iter().map(|user| &user.user_id).collect();
            json!({ "msgtype": "m.text", "body": body, "m.mentions": { "user_ids": users } })
        };
        send(alice, &room, &mention(vec![bob, carol, dave], "you")).await;
        let pushed = gateway.next_event().await;
        assert_eq!(pushed["devices"][0]["pushkey"], "bob");
        assert_eq!(pushed["prio"], "high");
        let tweaks = json!({ "sound": "default", "highlight": true });
        assert_eq!(pushed["devices"][0]["tweaks"], tweaks);
        // To all.
        let all = json!({ "msgtype": "m.text", "body": "all", "m.mentions": { "room": true } });
        send(alice, &room, &all).await;
        let pushed = gateway.next_event().await;
        assert_eq!(pushed["devices"][0]["pushkey"], "bob");
        assert_eq!(pushed["devices"][0]["tweaks"], json!({ "highlight": true }));
        // Notices disturb nobody.
        send(carol, &room, &json!({ "msgtype": "m.notice", "body": "beep" })).await;
        say(carol, &room, "last").await;
        let pushed = gateway.next_event().await;
        assert_eq!((body_of(&pushed), &pushed["devices"][0]["pushkey"]), ("last", &json!("alice")));
        server.stop().await;
    }

    async fn encrypted_messages_calls_polls_and_invitations_are_pushed(backend: Backend) {
        let (server, gateway) = (start(backend).await, PushGateway::start().await);
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        gateway.subscribe(bob, "key").await;
        let room = make_room(&[alice]).await;
        invite(alice, &room, &bob.user_id).await;
        let pushed = gateway.next().await;
        assert_eq!((&pushed["type"], &pushed["user_is_target"]), (&json!("m.room.member"), &json!(true)));
        assert_eq!((&pushed["content"]["membership"], &pushed["prio"]), (&json!("invite"), &json!("high")));
        bob.post(&format!("{V3}/join/{room}"), &json!({})).await.ok();
        let send_as = async |kind: &str, content: Value| {
            let path = format!("{V3}/rooms/{room}/send/{kind}/{kind}");
            alice.put(&path, &content).await.ok();
            gateway.next_event().await
        };
        let ciphertext = json!({
            "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "AwgAEnACgAkLmt6", "session_id": "x",
            "sender_key": "y", "device_id": "z",
        });
        let pushed = send_as("m.room.encrypted", ciphertext).await;
        assert_eq!((&pushed["type"], &pushed["prio"]), (&json!("m.room.encrypted"), &json!("high")));
        let call = json!({
            "call_id": "c", "party_id": "p", "version": "1", "lifetime": 60000,
            "offer": { "type": "offer", "sdp": "v=0" },
        });
        let pushed = send_as("m.call.invite", call).await;
        assert_eq!(pushed["devices"][0]["tweaks"]["sound"], "ring");
        let poll = json!({
            "org.matrix.msc1767.text": "Tea?",
            "org.matrix.msc3381.poll.start": {
                "kind": "org.matrix.msc3381.poll.disclosed", "max_selections": 1,
                "question": { "org.matrix.msc1767.text": "Tea?" },
                "answers": [{ "id": "1", "org.matrix.msc1767.text": "Yes" }],
            },
        });
        let pushed = send_as("org.matrix.msc3381.poll.start", poll).await;
        assert_eq!(pushed["devices"][0]["tweaks"]["sound"], "default");
        assert_eq!(count_of(&pushed), unread(bob).await);
        server.stop().await;
    }

    async fn each_device_has_a_gateway_of_its_own(backend: Backend) {
        let server = start(backend).await;
        let (dead, healthy) = (PushGateway::start().await, PushGateway::start().await);
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let tablet = server.login("bob").await;
        let room = make_room(&[alice, bob]).await;
        dead.subscribe(bob, "phone").await;
        healthy.subscribe(&tablet, "tablet").await;
        dead.hold(true);
        for text in ["one", "two", "three"] {
            say(alice, &room, text).await;
            assert_eq!(body_of(&healthy.next_event().await), text);
        }
        dead.hold(false);
        for text in ["one", "two", "three"] {
            assert_eq!(body_of(&dead.next_event().await), text);
        }
        // A device that is logged out takes its pusher with it.
        tablet.post(&format!("{V3}/logout"), &json!({})).await.ok();
        say(alice, &room, "four").await;
        assert_eq!(body_of(&dead.next_event().await), "four");
        assert_eq!(healthy.waiting(), 0);
        server.stop().await;
    }

    async fn rejected_push_keys_are_forgotten(backend: Backend) {
        let (server, gateway) = (start(backend).await, PushGateway::start().await);
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        gateway.subscribe(bob, "gone").await;
        gateway.subscribe(bob, "there").await;
        gateway.reject("gone");
        say(alice, &room, "one").await;
        gateway.next().await;
        gateway.next().await;
        say(alice, &room, "two").await;
        assert_eq!(gateway.next().await["devices"][0]["pushkey"], "there");
        // The rejection is committed after the gateway has answered.
        let mut positions = server.app.writer.subscribe();
        loop {
            positions.borrow_and_update();
            let pushers = bob.get(&format!("{V3}/pushers")).await.ok();
            let pushers = pushers["pushers"].as_array().unwrap();
            let keys: Vec<_> = pushers.iter().map(|pusher| pusher["pushkey"].clone()).collect();
            if keys == ["there"] {
                break;
            }
            positions.changed().await.unwrap();
        }
        server.stop().await;
    }

    async fn outage_and_restart_lose_nothing_that_is_unread(backend: Backend) {
        let (server, gateway) = (start(backend).await, PushGateway::start().await);
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let (one, two) = (make_room(&[alice, bob]).await, make_room(&[alice, bob]).await);
        gateway.subscribe(bob, "key").await;
        gateway.answer_with(500);
        let early = say(alice, &one, "read before it arrives").await;
        gateway.wait_for_refusals(1).await;
        say(alice, &two, "missed").await;
        read(bob, &one, &early).await;
        server.stop().await;

        let server = start(backend).await;
        let (alice, bob) = (server.reconnect(alice), server.reconnect(bob));
        say(&alice, &two, "after the restart").await;
        gateway.wait_for_refusals(2).await;
        server.kill().await;

        gateway.answer_with(200);
        let server = start(backend).await;
        let alice = server.reconnect(&alice);
        let bob = server.reconnect(&bob);
        assert_eq!(body_of(&gateway.next_event().await), "missed");
        let pushed = gateway.next_event().await;
        assert_eq!(body_of(&pushed), "after the restart");
        assert_eq!((count_of(&pushed), unread(&bob).await), (2, 2));
        say(&alice, &two, "now").await;
        assert_eq!(body_of(&gateway.next_event().await), "now");
        server.stop().await;
    }

    async fn nothing_is_lost_by_a_kill(backend: Backend) {
        let (server, gateway) = (start(backend).await, PushGateway::start().await);
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        gateway.subscribe(bob, "key").await;
        gateway.hold(true);
        for number in 0..5 {
            say(alice, &room, &number.to_string()).await;
        }
        server.kill().await;
        gateway.hold(false);
        let server = start(backend).await;
        let mut seen = Vec::new();
        while seen.len() < 5 {
            let pushed = gateway.next_event().await;
            // What was under way comes twice; a gateway knows it by the event.
            if !seen.contains(&pushed["event_id"]) {
                assert_eq!(body_of(&pushed), seen.len().to_string());
                seen.push(pushed["event_id"].clone());
            }
        }
        server.stop().await;
    }

    async fn of_a_burst_the_last_few_are_pushed(backend: Backend) {
        let (server, gateway) = (start(backend).await, PushGateway::start().await);
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        gateway.subscribe(bob, "key").await;
        gateway.hold(true);
        say(alice, &room, "0").await;
        gateway.wait_for_arrivals(1).await;
        for number in 1..40 {
            say(alice, &room, &number.to_string()).await;
        }
        gateway.hold(false);
        let mut bodies = Vec::new();
        while bodies.last().is_none_or(|last| last != "39") {
            let pushed = gateway.next_event().await;
            bodies.push(body_of(&pushed).to_owned());
            if bodies.len() > 1 {
                assert_eq!(count_of(&pushed), 40);
            }
        }
        assert_eq!(bodies[0], "0");
        assert_eq!(bodies.len(), 11, "{bodies:?}");
        server.stop().await;
    }
}

two_servers! {
    async fn invitation_from_another_server_is_pushed(one: Backend, two: Backend) {
        let network = Network::new();
        let gateway = PushGateway::start().await;
        let server = network.start_with(one, &network.new_name(), PushGateway::allow).await;
        let other = network.start(two, &network.new_name()).await;
        let (alice, bob) = (server.register("alice").await, other.register("bob").await);
        gateway.subscribe(&alice, "key").await;
        let room = make_room(&[&bob]).await;
        let name = format!("{V3}/rooms/{room}/state/m.room.name/");
        bob.put(&name, &json!({ "name": "Far away" })).await.ok();
        invite(&bob, &room, &alice.user_id).await;
        let pushed = gateway.next().await;
        assert_eq!((&pushed["room_id"], &pushed["room_name"]), (&json!(room), &json!("Far away")));
        assert_eq!((&pushed["sender"], &pushed["user_is_target"]), (&json!(bob.user_id), &json!(true)));
        alice.post(&format!("{V3}/join/{room}"), &json!({})).await.ok();
        say(&bob, &room, "Hello over there").await;
        let pushed = gateway.next_event().await;
        assert_eq!(body_of(&pushed), "Hello over there");
        assert_eq!((count_of(&pushed), unread(&alice).await), (1, 1));
        server.stop().await;
        other.stop().await;
    }
}
