//! Unread counts (Client-Server API, "Receiving notifications"): what counts for whom, and what
//! marks it as read.

use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{make_room, next_batch, read, receipt, register, reply, say, send, sync},
    harness::{Client, PushGateway, Server},
    sliding_sync::poll,
};

/// Notifications and highlights of a room.
pub async fn counts(client: &Client, room_id: &str) -> (i64, i64) {
    let answer = sync(client, None).await;
    let counts = &answer["rooms"]["join"][room_id]["unread_notifications"];
    read_counts(counts)
}

fn read_counts(counts: &Value) -> (i64, i64) {
    let number = |key: &str| counts[key].as_i64().unwrap_or_else(|| panic!("no {key}: {counts}"));
    (number("notification_count"), number("highlight_count"))
}

/// Notifications of the main timeline and of one thread.
async fn thread_counts(client: &Client, room_id: &str, root: &str) -> (i64, i64) {
    let filter = r#"{"room":{"timeline":{"unread_thread_notifications":true}}}"#;
    let request = client
        .request(reqwest::Method::GET, "/_matrix/client/v3/sync?set_presence=offline")
        .query(&[("filter", filter)]);
    let answer = client.send(request).await.ok();
    let room = &answer["rooms"]["join"][room_id];
    let thread = &room["unread_thread_notifications"][root]["notification_count"];
    (read_counts(&room["unread_notifications"]).0, thread.as_i64().unwrap_or(0))
}

async fn rule(client: &Client, path: &str, body: &Value) {
    client.put(&format!("/_matrix/client/v3/pushrules/global/{path}"), body).await.ok();
}

fn mention(text: &str, users: &[&Client]) -> Value {
    let users: Vec<_> = users.iter().map(|user| &user.user_id).collect();
    json!({ "msgtype": "m.text", "body": text, "m.mentions": { "user_ids": users } })
}

both_databases! {
    async fn messages_count_until_they_are_read(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        assert_eq!(counts(bob, &room).await, (0, 0));
        let mut events = Vec::new();
        for text in ["one", "two", "three"] {
            events.push(say(alice, &room, text).await);
        }
        assert_eq!(counts(bob, &room).await, (3, 0));
        assert_eq!(counts(alice, &room).await, (0, 0));
        let since = next_batch(&sync(bob, None).await);
        read(bob, &room, &events[1]).await;
        let answer = sync(bob, Some(&since)).await;
        let news = &answer["rooms"]["join"][&room]["unread_notifications"];
        assert_eq!(read_counts(news), (1, 0));
        // Backwards it does not go.
        read(bob, &room, &events[0]).await;
        assert_eq!(counts(bob, &room).await, (1, 0));
        server.stop().await;

        let server = Server::start(backend).await;
        let bob = server.reconnect(bob);
        assert_eq!(counts(&bob, &room).await, (1, 0));
        receipt(&bob, &room, ("m.read.private", &events[2]), None).await;
        assert_eq!(counts(&bob, &room).await, (0, 0));
        server.stop().await;
    }

    async fn own_messages_read_the_room(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        say(alice, &room, "one").await;
        say(alice, &room, "two").await;
        assert_eq!(counts(bob, &room).await, (2, 0));
        say(bob, &room, "an answer").await;
        assert_eq!(counts(bob, &room).await, (0, 0));
        assert_eq!(counts(alice, &room).await, (1, 0));
        server.stop().await;
    }

    async fn mentions_highlight_for_those_they_name(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob, carol]).await;
        send(alice, &room, &mention("you", &[bob])).await;
        assert_eq!(counts(bob, &room).await, (1, 1));
        assert_eq!(counts(carol, &room).await, (1, 0));
        let everybody = json!({ "msgtype": "m.text", "body": "all", "m.mentions": { "room": true } });
        send(alice, &room, &everybody).await;
        assert_eq!(counts(bob, &room).await, (2, 2));
        assert_eq!(counts(carol, &room).await, (2, 1));
        // Bob has not the power to call everybody.
        send(bob, &room, &everybody).await;
        assert_eq!(counts(alice, &room).await, (1, 0));
        server.stop().await;

        let server = Server::start(backend).await;
        let carol = server.reconnect(carol);
        assert_eq!(counts(&carol, &room).await, (3, 1));
        server.stop().await;
    }

    async fn muted_rooms_are_quiet_but_for_mentions(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob, carol]).await;
        say(alice, &room, "before").await;
        rule(bob, &format!("room/{room}"), &json!({ "actions": [] })).await;
        for text in ["one", "two", "three"] {
            say(alice, &room, text).await;
        }
        assert_eq!(counts(bob, &room).await, (1, 0));
        assert_eq!(counts(carol, &room).await, (4, 0));
        send(alice, &room, &mention("you", &[bob])).await;
        assert_eq!(counts(bob, &room).await, (2, 1));
        let path = format!("/_matrix/client/v3/pushrules/global/room/{room}");
        bob.delete(&path).await.ok();
        say(alice, &room, "after").await;
        assert_eq!(counts(bob, &room).await, (3, 1));
        server.stop().await;

        let server = Server::start(backend).await;
        let (alice, bob) = (server.reconnect(alice), server.reconnect(bob));
        assert_eq!(counts(&bob, &room).await, (3, 1));
        let last = say(&alice, &room, "last").await;
        assert_eq!(counts(&bob, &room).await, (4, 1));
        read(&bob, &room, &last).await;
        assert_eq!(counts(&bob, &room).await, (0, 0));
        server.stop().await;
    }

    async fn keywords_highlight_for_those_who_have_them(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob, carol]).await;
        let actions = json!(["notify", { "set_tweak": "highlight" }]);
        rule(bob, "content/cake", &json!({ "pattern": "cake", "actions": actions })).await;
        say(alice, &room, "There is cake!").await;
        say(alice, &room, "There are pancakes.").await;
        assert_eq!(counts(bob, &room).await, (2, 1));
        assert_eq!(counts(carol, &room).await, (2, 0));
        server.stop().await;
    }

    async fn threads_are_counted_and_read_apart(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let root = say(alice, &room, "root").await;
        let first = reply(alice, &room, &root, "first").await;
        reply(alice, &room, &root, "second").await;
        let main = say(alice, &room, "main").await;
        assert_eq!(thread_counts(bob, &room, &root).await, (2, 2));
        assert_eq!(counts(bob, &room).await, (4, 0));
        receipt(bob, &room, ("m.read", &first), Some(&root)).await;
        assert_eq!(thread_counts(bob, &room, &root).await, (2, 1));
        receipt(bob, &room, ("m.read", &main), Some("main")).await;
        assert_eq!(thread_counts(bob, &room, &root).await, (0, 1));
        assert_eq!(counts(bob, &room).await, (1, 0));
        server.stop().await;

        let server = Server::start(backend).await;
        let (alice, bob) = (server.reconnect(alice), server.reconnect(bob));
        assert_eq!(thread_counts(&bob, &room, &root).await, (0, 1));
        let last = reply(&alice, &room, &root, "third").await;
        assert_eq!(thread_counts(&bob, &room, &root).await, (0, 2));
        read(&bob, &room, &last).await;
        assert_eq!(thread_counts(&bob, &room, &root).await, (0, 0));
        server.stop().await;
    }

    async fn ignored_users_notify_nobody(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob, carol]).await;
        say(alice, &room, "one").await;
        assert_eq!(counts(bob, &room).await, (1, 0));
        let ignore = async |ignored: Value| {
            let user = &bob.user_id;
            let path = format!("/_matrix/client/v3/user/{user}/account_data/m.ignored_user_list");
            bob.put(&path, &json!({ "ignored_users": ignored })).await.ok();
        };
        let since = next_batch(&sync(bob, None).await);
        ignore(json!({ (alice.user_id.as_str()): {} })).await;
        let news = sync(bob, Some(&since)).await;
        let news = &news["rooms"]["join"][&room]["unread_notifications"];
        assert_eq!(read_counts(news), (0, 0));
        send(alice, &room, &mention("you", &[bob])).await;
        say(alice, &room, "two").await;
        assert_eq!(counts(bob, &room).await, (0, 0));
        for number in 0..20 {
            say(carol, &room, &format!("{number}")).await;
            say(alice, &room, &format!("again {number}")).await;
        }
        assert_eq!(counts(bob, &room).await, (20, 0));
        let list = bob.get("/_matrix/client/v3/notifications?limit=50").await.ok();
        assert_eq!(list["notifications"].as_array().unwrap().len(), 20);
        server.stop().await;

        let server = Server::start(backend).await;
        let (alice, again) = (server.reconnect(alice), server.reconnect(bob));
        assert_eq!(counts(&again, &room).await, (20, 0));
        say(&alice, &room, "three").await;
        assert_eq!(counts(&again, &room).await, (20, 0));
        let path = format!("/_matrix/client/v3/user/{}/account_data/m.ignored_user_list",
            again.user_id);
        again.put(&path, &json!({ "ignored_users": {} })).await.ok();
        // Clients show again what she has said, and so it counts: 24 of hers, one of which names him.
        assert_eq!(counts(&again, &room).await, (44, 1));
        say(&alice, &room, "four").await;
        assert_eq!(counts(&again, &room).await, (45, 1));
        let list = again.get("/_matrix/client/v3/notifications?limit=50").await.ok();
        assert_eq!(list["notifications"].as_array().unwrap().len(), 45);
        server.stop().await;
    }

    async fn sync_sliding_sync_and_push_count_alike(backend: Backend) {
        let server = Server::start_with(backend, PushGateway::allow).await;
        let gateway = PushGateway::start().await;
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob, carol]).await;
        gateway.subscribe(bob, "key").await;
        let agree = async |expected: i64| {
            // What was told before is on its way; a badge that never becomes right never comes.
            while gateway.next().await["counts"]["unread"].as_i64().unwrap_or(0) != expected {}
            assert_eq!(counts(bob, &room).await.0, expected);
            let list = json!({ "ranges": [[0, 9]], "timeline_limit": 1, "required_state": [] });
            let answer = poll(bob, None, &json!({ "lists": { "all": list } })).await.ok();
            assert_eq!(answer["rooms"][&room]["notification_count"].as_i64().unwrap_or(0), expected);
        };
        let one = say(alice, &room, "one").await;
        agree(1).await;
        let named = send(alice, &room, &mention("you", &[bob])).await;
        agree(2).await;
        let root = say(carol, &room, "root").await;
        agree(3).await;
        let answer = reply(carol, &room, &root, "in a thread").await;
        agree(4).await;
        read(bob, &room, &one).await;
        agree(3).await;
        receipt(bob, &room, ("m.read", &answer), Some(&root)).await;
        agree(2).await;
        let ignore = async |ignored: Value| {
            let user = &bob.user_id;
            let path = format!("/_matrix/client/v3/user/{user}/account_data/m.ignored_user_list");
            bob.put(&path, &json!({ "ignored_users": ignored })).await.ok();
        };
        ignore(json!({ (alice.user_id.as_str()): {} })).await;
        agree(1).await;
        ignore(json!({})).await;
        agree(2).await;
        read(bob, &room, &named).await;
        agree(1).await;
        say(bob, &room, "an answer").await;
        agree(0).await;
        server.stop().await;
    }

    async fn polls_count_when_they_begin_and_end(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob, carol]).await;
        for (number, kind) in ["start", "response", "end"].into_iter().enumerate() {
            let kind = format!("org.matrix.msc3381.poll.{kind}");
            let path = format!("/_matrix/client/v3/rooms/{room}/send/{kind}/{number}");
            alice.put(&path, &json!({})).await.ok();
        }
        assert_eq!(counts(bob, &room).await, (2, 0));
        rule(bob, "content/cake", &json!({ "pattern": "cake", "actions": ["notify"] })).await;
        let path = format!("/_matrix/client/v3/rooms/{room}/send/org.matrix.msc3381.poll.start/3");
        alice.put(&path, &json!({})).await.ok();
        assert_eq!((counts(bob, &room).await, counts(carol, &room).await), ((3, 0), (3, 0)));
        let path = "/_matrix/client/v3/pushrules/global/underride/.org.matrix.msc3930.rule.poll_start_one_to_one";
        assert_eq!(bob.get(path).await.ok()["default"], true);
        server.stop().await;
    }

    async fn redacted_messages_count_no_more(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let gone = send(alice, &room, &mention("you", &[bob])).await;
        say(alice, &room, "stays").await;
        assert_eq!(counts(bob, &room).await, (2, 1));
        let path = format!("/_matrix/client/v3/rooms/{room}/redact/{gone}/1");
        alice.put(&path, &json!({})).await.ok();
        assert_eq!(counts(bob, &room).await, (1, 0));
        server.stop().await;

        let server = Server::start(backend).await;
        let bob = server.reconnect(bob);
        assert_eq!(counts(&bob, &room).await, (1, 0));
        server.stop().await;
    }

    async fn what_came_before_a_join_does_not_count(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice]).await;
        say(alice, &room, "one").await;
        say(alice, &room, "two").await;
        bob.post(&format!("/_matrix/client/v3/join/{room}"), &json!({})).await.ok();
        assert_eq!(counts(bob, &room).await, (0, 0));
        say(alice, &room, "three").await;
        assert_eq!(counts(bob, &room).await, (1, 0));
        server.stop().await;
    }

    async fn quiet_messages_do_not_end_the_list_of_notifications(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob, carol]).await;
        let quiet = json!({ "actions": [] });
        rule(bob, &format!("sender/{}", alice.user_id), &quiet).await;
        let heard = say(carol, &room, "heard").await;
        for number in 0..9 {
            say(alice, &room, &number.to_string()).await;
        }
        let path = "/_matrix/client/v3/notifications?limit=2";
        let answer = bob.get(path).await.ok();
        assert_eq!(answer["notifications"].as_array().unwrap().len(), 1, "{answer}");
        assert_eq!(answer["notifications"][0]["event"]["event_id"], heard.as_str());
        server.stop().await;
    }

    async fn notifications_are_listed_page_by_page(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let one = make_room(&[alice, bob]).await;
        let two = make_room(&[alice, bob]).await;
        let first = say(alice, &one, "first").await;
        say(bob, &one, "one's own").await;
        let second = send(alice, &two, &mention("you", &[bob])).await;
        let everybody = json!({ "msgtype": "m.text", "body": "all", "m.mentions": { "room": true } });
        let third = send(alice, &one, &everybody).await;
        read(bob, &two, &second).await;

        let path = "/_matrix/client/v3/notifications";
        let list = async |query: &str| {
            let answer = bob.get(&format!("{path}{query}")).await.ok();
            let items = answer["notifications"].as_array().unwrap().clone();
            let shown: Vec<_> = items
                .iter()
                .map(|item| (item["event"]["event_id"].clone(), item["read"].clone()))
                .collect();
            (shown, items, answer["next_token"].clone())
        };
        let of = |event: &str, is_read: bool| (json!(event), json!(is_read));
        let (page, items, next) = list("?limit=2").await;
        assert_eq!(page, [of(&third, false), of(&second, true)]);
        assert_eq!(items[0]["room_id"], one);
        assert_eq!(items[0]["actions"], json!(["notify", { "set_tweak": "highlight" }]));
        assert!(items[0]["ts"].is_i64() && items[0]["event"].get("room_id").is_none());
        let (page, _, next) = list(&format!("?limit=2&from={}", next.as_str().unwrap())).await;
        assert_eq!((page, next), (vec![of(&first, true)], Value::Null));
        let (page, ..) = list("?only=highlight").await;
        assert_eq!(page, [of(&third, false), of(&second, true)]);
        bob.get(&format!("{path}?from=x")).await.error(400, "M_INVALID_PARAM");
        server.stop().await;
    }
}
