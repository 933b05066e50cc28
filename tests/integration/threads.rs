//! Client-Server API, "Threading": the list of a room's threads.

use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{make_room, register, reply, say, send},
    harness::{Client, Server},
};

/// The roots on a page, and where the next one begins.
async fn page(client: &Client, room: &str, query: &str) -> (Vec<String>, Option<String>) {
    let path = format!("/_matrix/client/v1/rooms/{room}/threads?{query}");
    let answer = client.get(&path).await.ok();
    let roots = answer["chunk"].as_array().unwrap().iter();
    let roots = roots.map(|root| root["event_id"].as_str().unwrap().to_owned()).collect();
    (roots, answer["next_batch"].as_str().map(str::to_owned))
}

both_databases! {
    async fn threads_are_listed_by_their_latest_reply_page_by_page(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let mut roots = Vec::new();
        for name in ["one", "two", "three"] {
            roots.push(say(alice, &room, name).await);
        }
        say(alice, &room, "no thread").await;
        for root in &roots {
            reply(alice, &room, root, &format!("first in {root}")).await;
        }
        reply(bob, &room, &roots[0], "latest of all").await;
        let latest_first = [roots[0].clone(), roots[2].clone(), roots[1].clone()];
        assert_eq!(page(bob, &room, "").await, (latest_first.to_vec(), None));
        let (mut seen, mut from) = (Vec::new(), String::new());
        for _ in 0..3 {
            let (found, next) = page(bob, &room, &format!("limit=1{from}")).await;
            assert_eq!(found.len(), 1);
            seen.extend(found);
            from = next.map(|next| format!("&from={next}")).unwrap_or_default();
        }
        assert_eq!(seen, latest_first);
        assert!(from.is_empty());
        // Bob has said something in one of them only; Alice began them all.
        assert_eq!(page(bob, &room, "include=participated").await.0, [roots[0].clone()]);
        assert_eq!(page(alice, &room, "include=participated").await.0, latest_first);
        let path = format!("/_matrix/client/v1/rooms/{room}/threads");
        for query in ["from=nonsense", "include=some", "limit=0"] {
            bob.get(&format!("{path}?{query}")).await.error(400, "M_INVALID_PARAM");
        }
        carol.get(&path).await.error(403, "M_FORBIDDEN");
        // A root that was taken back is the root of its thread all the same.
        let redact = format!("/_matrix/client/v3/rooms/{room}/redact/{}/r", roots[1]);
        alice.put(&redact, &json!({})).await.ok();
        let answer = bob.get(&path).await.ok();
        let root = answer["chunk"].as_array().unwrap().last().unwrap();
        assert_eq!(root["content"], json!({}));
        let count: &Value = &root["unsigned"]["m.relations"]["m.thread"]["count"];
        assert_eq!(count, 1);
        server.stop().await;
    }

    async fn what_is_said_in_another_room_belongs_to_no_event_of_this_one(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "mallory"]).await;
        let [alice, mallory] = users.as_slice() else { panic!() };
        let room = make_room(&[alice]).await;
        let root = say(alice, &room, "root").await;
        let answer = reply(alice, &room, &root, "answer").await;
        // A room of another version, whose events do not even have names of the same kind.
        let body = json!({ "room_version": "1" });
        let elsewhere = mallory.post("/_matrix/client/v3/createRoom", &body).await.ok();
        let elsewhere = elsewhere["room_id"].as_str().unwrap();
        for target in [&root, &answer] {
            for rel_type in ["m.thread", "m.reference", "m.replace"] {
                let content = json!({
                    "msgtype": "m.text", "body": "buy my coins", "m.new_content": {},
                    "m.relates_to": { "rel_type": rel_type, "event_id": target },
                });
                send(mallory, elsewhere, &content).await;
            }
        }
        // Nothing of it lies in memory.
        server.stop().await;
        let server = Server::start(backend).await;
        let alice = server.reconnect(alice);
        let event = alice.get(&format!("/_matrix/client/v3/rooms/{room}/event/{root}")).await.ok();
        let relations = event["unsigned"]["m.relations"].as_object().unwrap();
        assert_eq!(relations.keys().collect::<Vec<_>>(), ["m.thread"]);
        let thread = &relations["m.thread"];
        assert_eq!((&thread["count"], &thread["latest_event"]["event_id"]), (&json!(1), &json!(answer)));
        let path = format!("/_matrix/client/v1/rooms/{room}/relations/{root}?recurse=true");
        let related = alice.get(&path).await.ok();
        assert_eq!(related["chunk"].as_array().unwrap().len(), 1, "{related}");
        assert_eq!(page(&alice, &room, "").await.0, [root]);
        server.stop().await;
    }

    async fn root_of_somebody_ignored_is_shown_redacted(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let root = say(bob, &room, "root").await;
        reply(alice, &room, &root, "answer").await;
        let ignored =
            format!("/_matrix/client/v3/user/{}/account_data/m.ignored_user_list", alice.user_id);
        alice.put(&ignored, &json!({ "ignored_users": { &bob.user_id: {} } })).await.ok();
        let path = format!("/_matrix/client/v1/rooms/{room}/threads");
        let seen = alice.get(&path).await.ok()["chunk"][0].clone();
        assert_eq!((&seen["event_id"], &seen["content"]), (&json!(root), &json!({})));
        assert_eq!(seen["unsigned"]["m.relations"]["m.thread"]["count"], 1);
        let own = bob.get(&path).await.ok()["chunk"][0].clone();
        assert_eq!(own["content"]["body"], "root");
        server.stop().await;
    }
}
