//! Threads that users follow: MSC4306, and MSC4308 for how their clients learn of it.

use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{make_room, register, reply, say, send, sync},
    harness::{Answer, Client, Server},
    sliding_sync::{poll, pos},
};

const EXTENSION: &str = "io.element.msc4308.thread_subscriptions";

fn path(room: &str, root: &str) -> String {
    let prefix = "/_matrix/client/unstable/io.element.msc4306";
    format!("{prefix}/rooms/{room}/thread/{root}/subscription")
}

async fn follow(client: &Client, room: &str, root: &str, cause: Option<&str>) -> Answer {
    let body = cause.map_or(json!({}), |event| json!({ "automatic": event }));
    client.put(&path(room, root), &body).await
}

async fn changes(client: &Client, query: &str) -> Answer {
    let path = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions";
    client.get(&format!("{path}?{query}")).await
}

/// The room's unread notifications, those of threads included.
async fn unread(client: &Client, room: &str) -> i64 {
    let answer = sync(client, None).await;
    let counts = &answer["rooms"]["join"][room]["unread_notifications"];
    counts["notification_count"].as_i64().unwrap()
}

both_databases! {
    async fn threads_are_followed_and_left(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice]).await;
        let root = say(alice, &room, "root").await;
        let other = say(alice, &room, "other").await;
        let (first, apart) =
            (reply(alice, &room, &root, "1").await, reply(alice, &room, &other, "2").await);
        let get = async || alice.get(&path(&room, &root)).await;
        get().await.error(404, "M_NOT_FOUND");
        follow(alice, &room, &root, Some(&first)).await.ok();
        assert_eq!(get().await.ok(), json!({ "automatic": true }));
        follow(alice, &room, &root, None).await.ok();
        assert_eq!(get().await.ok(), json!({ "automatic": false }));
        // What the user wants stays so, whatever their client thinks.
        follow(alice, &room, &root, Some(&first)).await.ok();
        assert_eq!(get().await.ok(), json!({ "automatic": false }));
        for cause in [&apart, &root, "$nothing"] {
            let answer = follow(alice, &room, &root, Some(cause)).await;
            answer.error(400, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD");
        }
        for room in [room.as_str(), "!nowhere:hearth.test"] {
            follow(alice, room, "$nothing", None).await.error(404, "M_NOT_FOUND");
        }
        let private = alice.post("/_matrix/client/v3/createRoom", &json!({})).await.ok();
        let private = private["room_id"].as_str().unwrap();
        let hidden = say(alice, private, "hidden").await;
        follow(bob, private, &hidden, None).await.error(404, "M_NOT_FOUND");
        for _ in 0..2 {
            alice.delete(&path(&room, &root)).await.ok();
            get().await.error(404, "M_NOT_FOUND");
        }
        server.stop().await;
    }

    async fn who_left_a_thread_is_not_led_back_by_older_events(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice"]).await;
        let [alice] = users.as_slice() else { panic!() };
        let room = make_room(&[alice]).await;
        let root = say(alice, &room, "root").await;
        let first = reply(alice, &room, &root, "1").await;
        follow(alice, &room, &root, Some(&first)).await.ok();
        let second = reply(alice, &room, &root, "2").await;
        alice.delete(&path(&room, &root)).await.ok();
        let third = reply(alice, &room, &root, "3").await;
        for cause in [&first, &second] {
            let answer = follow(alice, &room, &root, Some(cause)).await;
            answer.error(409, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION");
            alice.get(&path(&room, &root)).await.error(404, "M_NOT_FOUND");
        }
        follow(alice, &room, &root, Some(&third)).await.ok();
        alice.get(&path(&room, &root)).await.ok();
        server.stop().await;
    }

    async fn followed_threads_notify_and_others_do_not(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob, carol]).await;
        let one = say(alice, &room, "one").await;
        let two = say(alice, &room, "two").await;
        let rules = "/_matrix/client/v3/pushrules/";
        let global = async |client: &Client| client.get(rules).await.ok()["global"].clone();
        assert!(global(bob).await.get("postcontent").is_none());
        follow(bob, &room, &one, None).await.ok();
        let ids: Vec<Value> = global(bob).await["postcontent"]
            .as_array()
            .unwrap()
            .iter()
            .map(|rule| rule["rule_id"].clone())
            .collect();
        assert_eq!(ids, [
            ".io.element.msc4306.rule.unsubscribed_thread",
            ".io.element.msc4306.rule.subscribed_thread",
        ]);
        assert_eq!((unread(bob, &room).await, unread(carol, &room).await), (2, 2));
        reply(alice, &room, &one, "followed").await;
        assert_eq!((unread(bob, &room).await, unread(carol, &room).await), (3, 3));
        reply(alice, &room, &two, "not followed").await;
        // Nobody else hears less than before.
        assert_eq!((unread(bob, &room).await, unread(carol, &room).await), (3, 4));
        let mention = json!({
            "msgtype": "m.text", "body": "you", "m.mentions": { "user_ids": [bob.user_id] },
            "m.relates_to": { "rel_type": "m.thread", "event_id": two },
        });
        send(alice, &room, &mention).await;
        assert_eq!(unread(bob, &room).await, 4);
        let path = format!("/_matrix/client/v3/pushrules/global/room/{room}");
        bob.put(&path, &json!({ "actions": [] })).await.ok();
        say(alice, &room, "muted").await;
        reply(alice, &room, &one, "followed even so").await;
        assert_eq!(unread(bob, &room).await, 5);
        let path = "/_matrix/client/v3/pushrules/global/postcontent/mine";
        let rule = json!({ "actions": [], "conditions": [] });
        bob.put(path, &rule).await.error(400, "M_INVALID_PARAM");
        server.stop().await;
    }

    async fn sliding_sync_tells_of_threads_page_by_page(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice"]).await;
        let [alice] = users.as_slice() else { panic!() };
        let room = make_room(&[alice]).await;
        let mut roots = Vec::new();
        for number in 0..5 {
            let root = say(alice, &room, &format!("root {number}")).await;
            roots.push(root);
        }
        let body = json!({ "extensions": { EXTENSION: { "enabled": true, "limit": 2 } } });
        let first = poll(alice, None, &body).await.ok();
        assert!(first["extensions"].get(EXTENSION).is_none(), "{first}");
        for root in &roots {
            follow(alice, &room, root, None).await.ok();
        }
        alice.delete(&path(&room, &roots[0])).await.ok();
        let second = poll(alice, Some(pos(&first)), &body).await.ok();
        let told = &second["extensions"][EXTENSION];
        let subscribed = told["subscribed"][&room].as_object().unwrap();
        assert_eq!((subscribed.len(), subscribed.contains_key(&roots[4])), (1, true));
        assert_eq!(subscribed[&roots[4]]["automatic"], false);
        assert!(subscribed[&roots[4]]["bump_stamp"].is_i64());
        assert!(told["unsubscribed"][&room][&roots[0]]["bump_stamp"].is_i64(), "{told}");
        let from = told["prev_batch"].as_str().unwrap();
        let query = format!("dir=b&limit=2&from={from}&to={}", pos(&first));
        let page = changes(alice, &query).await.ok();
        let mut threads: Vec<_> =
            page["subscribed"][&room].as_object().unwrap().keys().cloned().collect();
        threads.sort();
        let mut expect = vec![roots[3].clone(), roots[2].clone()];
        expect.sort();
        assert_eq!(threads, expect);
        let query = format!("dir=b&from={}", page["end"].as_str().unwrap());
        let page = changes(alice, &query).await.ok();
        assert!(page["subscribed"][&room].get(&roots[1]).is_some(), "{page}");
        assert!(page.get("end").is_none() && page.get("unsubscribed").is_none(), "{page}");
        let third = poll(alice, Some(pos(&second)), &body).await.ok();
        assert!(third["extensions"].get(EXTENSION).is_none(), "{third}");
        changes(alice, "dir=f").await.error(400, "M_INVALID_PARAM");
        changes(alice, "").await.error(400, "M_MISSING_PARAM");
        changes(alice, "dir=b&limit=0").await.error(400, "M_INVALID_PARAM");
        changes(alice, "dir=b&from=x").await.error(400, "M_INVALID_PARAM");
        server.stop().await;
    }
}
