//! Sending and reading: idempotence, redactions, pages, visibility, relations, threads.

use std::collections::BTreeSet;

use hearth::clock::Clock;
use serde_json::{Value, json};

use crate::{
    both_databases,
    harness::{Client, Server},
    rooms::{V1, V3, act, bodies, content_of, create_room, event_id, join, say, send, set_state},
};

/// Walks through all pages in a direction; the bodies of the messages.
async fn walk(client: &Client, room: &str, dir: &str, limit: usize) -> Vec<String> {
    let (mut seen, mut from) = (Vec::new(), String::new());
    for _ in 0..100 {
        let path = format!("{V3}/rooms/{room}/messages?dir={dir}&limit={limit}{from}");
        let page = client.get(&path).await.ok();
        let events = page["chunk"].as_array().unwrap();
        assert!(events.len() <= limit);
        let found = events.iter().filter_map(|event| event["content"]["body"].as_str());
        seen.extend(found.map(str::to_owned));
        match page["end"].as_str() {
            Some(end) => from = format!("&from={end}"),
            None => return seen,
        }
    }
    panic!("the pages have no end");
}

both_databases! {
    async fn pages_reach_both_ends_and_show_everything_once(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = create_room(&alice, json!({})).await;
        let mut said = Vec::new();
        for number in 0..90 {
            let body = format!("message {number}");
            say(&alice, &room, &body).await;
            said.push(body);
        }
        for limit in [1, 7, 40, 1000] {
            if limit > 1 {
                assert_eq!(walk(&alice, &room, "f", limit).await, said);
            }
            let mut backwards = walk(&alice, &room, "b", limit.max(3)).await;
            backwards.reverse();
            assert_eq!(backwards, said);
        }
        server.stop().await;
        let server = Server::start(backend).await;
        let alice = server.reconnect(&alice);
        let mut backwards = walk(&alice, &room, "b", 13).await;
        backwards.reverse();
        assert_eq!(backwards, said);
        let filter = "%7B%22types%22:%5B%22m.room.name%22%5D%7D";
        let path = format!("{V3}/rooms/{room}/messages?dir=b&limit=10&filter={filter}");
        assert_eq!(alice.get(&path).await.ok()["chunk"], json!([]));
        let lazy = "%7B%22lazy_load_members%22:true%7D";
        let path = format!("{V3}/rooms/{room}/messages?dir=b&limit=2&filter={lazy}");
        assert_eq!(alice.get(&path).await.ok()["state"][0]["state_key"], alice.user_id.as_str());
    }

    async fn bad_queries_are_told_so(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = create_room(&alice, json!({})).await;
        for (path, status, errcode) in [
            ("messages", 400, "M_MISSING_PARAM"),
            ("messages?dir=x", 400, "M_INVALID_PARAM"),
            ("messages?dir=b&from=nonsense", 400, "M_INVALID_PARAM"),
            ("messages?dir=b&limit=0", 400, "M_INVALID_PARAM"),
            ("messages?dir=b&limit=-1", 400, "M_INVALID_PARAM"),
            ("messages?dir=b&filter=%7B", 400, "M_INVALID_PARAM"),
            ("event/$unknown", 404, "M_NOT_FOUND"),
            ("event/nonsense", 404, "M_NOT_FOUND"),
            ("context/$unknown", 404, "M_NOT_FOUND"),
            ("state/m.room.topic", 404, "M_NOT_FOUND"),
            ("members?membership=guest", 400, "M_INVALID_PARAM"),
        ] {
            let answer = alice.get(&format!("{V3}/rooms/{room}/{path}")).await;
            assert_eq!((answer.status.as_u16(), answer.body["errcode"].as_str()),
                (status, Some(errcode)), "{path}");
        }
        let unknown = format!("{V3}/rooms/!unknown:hearth.test/messages?dir=b");
        alice.get(&unknown).await.error(403, "M_FORBIDDEN");
        for (kind, content, status, errcode) in [
            ("m.room.message", json!([]), 400, "M_BAD_JSON"),
            ("m.room.message", json!({ "f": 0.5 }), 400, "M_BAD_JSON"),
            ("m.room.message", json!({ "n": 1_u64 << 60 }), 400, "M_BAD_JSON"),
            ("m.room.message", json!({ "body": "x".repeat(66_000) }), 413, "M_TOO_LARGE"),
            ("m.room.redaction", json!({}), 400, "M_BAD_JSON"),
        ] {
            let path = format!("{V3}/rooms/{room}/send/{kind}/1");
            let answer = alice.put(&path, &content).await;
            assert_eq!((answer.status.as_u16(), answer.body["errcode"].as_str()),
                (status, Some(errcode)), "{kind}");
        }
        for (kind, content, status, errcode) in [
            ("m.room.canonical_alias", json!({ "alias": "nonsense" }), 400, "M_INVALID_PARAM"),
            ("m.room.canonical_alias", json!({ "alias": "#x:hearth.test" }), 400, "M_BAD_ALIAS"),
            ("m.room.canonical_alias", json!({ "alias": 5 }), 400, "M_INVALID_PARAM"),
            ("m.room.member/nobody", json!({ "membership": "join" }), 400, "M_INVALID_PARAM"),
            ("m.room.member/@a:hearth.test", json!({}), 400, "M_BAD_JSON"),
            ("m.room.member/@a:hearth.test", json!({ "membership": "join" }), 403, "M_FORBIDDEN"),
            ("m.room.power_levels", json!({ "ban": "50" }), 400, "M_BAD_JSON"),
            ("m.room.create", json!({}), 400, "M_BAD_JSON"),
            ("org.example/@a:hearth.test", json!({}), 403, "M_FORBIDDEN"),
        ] {
            let answer = set_state(&alice, &room, kind, content).await;
            assert_eq!((answer.status.as_u16(), answer.body["errcode"].as_str()),
                (status, Some(errcode)), "{kind}");
        }
        let on = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        set_state(&alice, &room, "m.room.encryption", on).await.ok();
        set_state(&alice, &room, "m.room.encryption", json!({})).await.error(403, "M_FORBIDDEN");
    }

    async fn a_transaction_makes_one_event(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = create_room(&alice, json!({})).await;
        let path = format!("{V3}/rooms/{room}/send/m.room.message/same");
        let body = json!({ "body": "once", "msgtype": "m.text" });
        let (one, two) = tokio::join!(alice.put(&path, &body), alice.put(&path, &body));
        let id = event_id(one);
        assert_eq!(id, event_id(two));
        assert_eq!(bodies(&alice, &room).await, ["once"]);
        let event = alice.get(&format!("{V3}/rooms/{room}/event/{id}")).await.ok();
        assert_eq!(event["unsigned"]["transaction_id"], "same");
        let other = server.login("alice").await;
        let event = other.get(&format!("{V3}/rooms/{room}/event/{id}")).await.ok();
        assert_eq!(event["unsigned"].get("transaction_id"), None);
        assert_ne!(event_id(other.put(&path, &body).await), id);
    }

    async fn administrators_redact_what_users_of_this_server_sent(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let carol = server.register("carol").await;
        server.app.accounts.set_flag(
            ruma::user_id!("@bob:hearth.test"), hearth::accounts::flags::AccountFlags::ADMIN, true,
        ).await.unwrap();
        let room = create_room(&alice, json!({ "preset": "public_chat" })).await;
        for member in [&bob, &carol] {
            join(member, &room).await.ok();
        }
        let said = say(&alice, &room, "by alice").await;
        let path = format!("{V3}/rooms/{room}/redact/{}/1", said);
        carol.put(&path, &json!({})).await.error(403, "M_FORBIDDEN");
        bob.put(&path, &json!({ "reason": "spam" })).await.ok();
        let path = format!("{V3}/rooms/{room}/event/{}", said);
        assert_eq!(carol.get(&path).await.ok()["content"], json!({}));
    }

    async fn redactions_empty_events_in_every_version(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        for version in ["1", "3", "10", "11", "12"] {
            let room = create_room(
                &alice,
                json!({ "preset": "public_chat", "room_version": version }),
            );
            let room = room.await;
            join(&bob, &room).await.ok();
            let by_alice = say(&alice, &room, "hers").await;
            let by_bob = say(&bob, &room, "his").await;
            let redact = format!("{V3}/rooms/{room}/redact");
            let reason = json!({ "reason": "why not" });
            // IDs of room version 3 have slashes.
            let path_of = |id: &str| id.replace('/', "%2F");
            let path = format!("{redact}/{}/1", path_of(&by_alice));
            bob.put(&path, &reason).await.error(403, "M_FORBIDDEN");
            let path = format!("{redact}/{}/2", path_of(&by_bob));
            let id = event_id(alice.put(&path, &reason).await);
            assert_eq!(id, event_id(alice.put(&path, &reason).await));
            let path = format!("{V3}/rooms/{room}/event/{}", path_of(&by_bob));
            let event = bob.get(&path).await.ok();
            assert_eq!(event["content"], json!({}), "version {version}");
            let because = &event["unsigned"]["redacted_because"];
            assert_eq!(because["event_id"], id.as_str());
            assert_eq!(because["redacts"], by_bob.as_str());
            assert_eq!(because["content"]["redacts"], by_bob.as_str());
            assert_eq!(because["content"]["reason"], "why not");
            // The same by the general endpoint.
            let content = json!({ "redacts": by_alice });
            send(&alice, &room, "m.room.redaction", content).await;
            assert!(bodies(&bob, &room).await.is_empty());
        }
    }

    async fn redacted_content_leaves_the_database_when_its_time_is_over(backend: Backend) {
        let clock = Clock::scripted(1_700_000_000_000, 1);
        let server = Server::start_at(backend, clock.clone(), |_| ()).await;
        let alice = server.register("alice").await;
        let room = create_room(&alice, json!({})).await;
        let said = say(&alice, &room, "secret").await;
        let path = format!("{V3}/rooms/{room}/redact/{said}/1");
        alice.put(&path, &json!({})).await.ok();
        let kept = async || {
            let sql = "SELECT count(*) FROM redactions WHERE original LIKE '%secret%'";
            server.app.database.fetch_one::<(i64,)>(sql, &[]).await.unwrap().0
        };
        server.app.rooms.expire_redactions().await.unwrap();
        assert_eq!(kept().await, 1);
        clock.advance_ms(8 * 24 * 60 * 60 * 1000);
        server.app.rooms.expire_redactions().await.unwrap();
        assert_eq!(kept().await, 0);
    }

    async fn history_is_seen_as_its_visibility_says(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let stranger = server.register("stranger").await;
        // What bob sees invited, joined, and after he has left; what a stranger sees.
        for (visibility, invited, joined, stranger_sees) in [
            ("world_readable", vec!["0", "1"], vec!["0", "1", "2"], Some(4)),
            ("shared", vec![], vec!["0", "1", "2"], None),
            ("invited", vec!["1"], vec!["1", "2"], None),
            ("joined", vec![], vec!["2"], None),
        ] {
            let content = json!({ "history_visibility": visibility });
            let state = json!([{ "type": "m.room.history_visibility", "content": content }]);
            let room = create_room(&alice, json!({ "initial_state": state })).await;
            let messages = format!("{V3}/rooms/{room}/messages?dir=f");
            let hidden = say(&alice, &room, "0").await;
            act(&alice, &room, "invite", json!({ "user_id": bob.user_id })).await.ok();
            say(&alice, &room, "1").await;
            match visibility {
                "shared" | "joined" => drop(bob.get(&messages).await.error(403, "M_FORBIDDEN")),
                _ => assert_eq!(bodies(&bob, &room).await, invited, "{visibility}"),
            }
            join(&bob, &room).await.ok();
            say(&alice, &room, "2").await;
            assert_eq!(bodies(&bob, &room).await, joined, "{visibility}");
            let event = bob.get(&format!("{V3}/rooms/{room}/event/{hidden}")).await;
            assert_eq!(event.status == 200, joined.contains(&"0"), "{visibility}");
            act(&bob, &room, "leave", json!({})).await.ok();
            say(&alice, &room, "3").await;
            let left: Vec<&str> = match visibility {
                "world_readable" => vec!["0", "1", "2", "3"],
                _ => joined,
            };
            assert_eq!(bodies(&bob, &room).await, left, "{visibility}");
            set_state(&alice, &room, "m.room.name", json!({ "name": "later" })).await.ok();
            bob.get(&format!("{V3}/rooms/{room}/state/m.room.name")).await
                .error(404, "M_NOT_FOUND");
            let member = content_of(&bob, &room, "m.room.member", &bob.user_id).await;
            assert_eq!(member["membership"], "leave");
            match stranger_sees {
                Some(count) => assert_eq!(bodies(&stranger, &room).await.len(), count),
                None => drop(stranger.get(&messages).await.error(403, "M_FORBIDDEN")),
            }
        }
    }

    async fn pages_from_the_middle_reach_both_ends_and_stop_there(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = create_room(&alice, json!({})).await;
        let mut said = Vec::new();
        for number in 0..30 {
            said.push(say(&alice, &room, &number.to_string()).await);
        }
        let id = |event: &Value| event["event_id"].as_str().unwrap().to_owned();
        let ids = |events: &Value| -> Vec<String> {
            events.as_array().unwrap().iter().map(id).collect()
        };
        let path = format!("{V3}/rooms/{room}/context/{}", said[12]);
        let context = alice.get(&path).await.ok();
        let mut shown = ids(&context["events_before"]);
        shown.reverse();
        shown.push(id(&context["event"]));
        shown.extend(ids(&context["events_after"]));
        for (direction, edge) in [("b", "start"), ("f", "end")] {
            let mut from = context[edge].as_str().unwrap().to_owned();
            for pages in 0.. {
                assert!(pages < 20, "the pages have no end");
                let path =
                    format!("{V3}/rooms/{room}/messages?dir={direction}&limit=4&from={from}");
                let page = alice.get(&path).await.ok();
                assert_eq!(page["start"], from.as_str());
                let found = ids(&page["chunk"]);
                match direction {
                    "b" => shown.splice(0..0, found.into_iter().rev()).for_each(drop),
                    _ => shown.extend(found),
                }
                match page["end"].as_str() {
                    Some(end) => assert_ne!(std::mem::replace(&mut from, end.to_owned()), end),
                    None => break,
                }
            }
        }
        assert_eq!(shown[shown.len() - 30..], said);
        let distinct: BTreeSet<_> = shown.iter().collect();
        assert_eq!(distinct.len(), shown.len(), "an event came twice");
        let oldest = alice.get(&format!("{V3}/rooms/{room}/event/{}", shown[0])).await.ok();
        assert_eq!(oldest["type"], "m.room.create");
    }

    async fn context_surrounds_an_event(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = create_room(&alice, json!({})).await;
        let mut ids = Vec::new();
        for number in 0..9 {
            ids.push(say(&alice, &room, &number.to_string()).await);
        }
        let path = format!("{V3}/rooms/{room}/context/{}?limit=5", ids[4]);
        let context = alice.get(&path).await.ok();
        let list = |key: &str| -> Vec<Value> {
            let events = context[key].as_array().unwrap().iter();
            events.map(|event| event["content"]["body"].clone()).collect()
        };
        assert_eq!(list("events_before"), ["3", "2"]);
        assert_eq!(list("events_after"), ["5", "6", "7"]);
        assert_eq!(context["event"]["event_id"], ids[4].as_str());
        assert!(context["state"].as_array().unwrap().len() >= 6);
        let none = format!("{path}&filter=%7B%22not_rooms%22:[%22{room}%22]%7D");
        let none = alice.get(&none).await.ok();
        for key in ["events_before", "events_after", "state"] {
            assert_eq!(none[key], json!([]), "{key}");
        }
        let end = context["end"].as_str().unwrap();
        let page = alice.get(&format!("{V3}/rooms/{room}/messages?dir=f&from={end}")).await.ok();
        assert_eq!(page["chunk"][0]["content"]["body"], "8");
        let event = alice.get(&format!("{V3}/rooms/{room}/event/{}", ids[4])).await.ok();
        let ts = event["origin_server_ts"].as_i64().unwrap();
        let path = format!("{V1}/rooms/{room}/timestamp_to_event?dir=f&ts={}", ts + 1_000_000);
        alice.get(&path).await.error(404, "M_NOT_FOUND");
        let path = format!("{V1}/rooms/{room}/timestamp_to_event?dir=f&ts={ts}");
        assert!(alice.get(&path).await.ok()["origin_server_ts"].as_i64().unwrap() >= ts);
    }

    async fn relations_are_summed_up_and_listed(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = create_room(&alice, json!({ "preset": "public_chat" })).await;
        join(&bob, &room).await.ok();
        let root = say(&alice, &room, "root").await;
        let relate = async |who: &Client, rel_type: &str, target: &str, extra: Value| {
            let mut content = json!({ "msgtype": "m.text", "body": rel_type });
            content["m.relates_to"] = json!({ "rel_type": rel_type, "event_id": target });
            for (key, value) in extra.as_object().unwrap() {
                content[key] = value.clone();
            }
            send(who, &room, "m.room.message", content).await
        };
        let in_thread = relate(&bob, "m.thread", &root, json!({})).await;
        relate(&alice, "m.replace", &root, json!({ "m.new_content": { "body": "a" } })).await;
        let edit =
            relate(&alice, "m.replace", &root, json!({ "m.new_content": { "body": "b" } })).await;
        relate(&bob, "m.replace", &root, json!({ "m.new_content": { "body": "evil" } })).await;
        let reference = relate(&bob, "m.reference", &root, json!({})).await;
        let latest = relate(&bob, "m.thread", &root, json!({})).await;
        let edit_in_thread =
            relate(&bob, "m.replace", &latest, json!({ "m.new_content": { "body": "c" } })).await;
        let event = bob.get(&format!("{V3}/rooms/{room}/event/{root}")).await.ok();
        let relations = &event["unsigned"]["m.relations"];
        assert_eq!(relations["m.replace"]["event_id"], edit.as_str());
        assert_eq!(relations["m.reference"], json!({ "chunk": [{ "event_id": reference }] }));
        let thread = &relations["m.thread"];
        assert_eq!((&thread["count"], &thread["current_user_participated"]),
            (&json!(2), &json!(true)));
        assert_eq!(thread["latest_event"]["event_id"], latest.as_str());
        let inner = &thread["latest_event"]["unsigned"]["m.relations"]["m.replace"];
        assert_eq!(inner["event_id"], edit_in_thread.as_str());

        let path = format!("{V1}/rooms/{room}/relations/{root}");
        let list = async |rest: &str| -> Vec<String> {
            let answer = alice.get(&format!("{path}{rest}")).await.ok();
            let events = answer["chunk"].as_array().unwrap().iter();
            events.map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(list("?limit=50").await.len(), 6);
        assert_eq!(list("?recurse=true&limit=50").await.len(), 7);
        assert_eq!(list("/m.thread").await, [latest.clone(), in_thread.clone()]);
        assert_eq!(list("/m.thread/m.room.message?dir=f").await, [in_thread, latest.clone()]);
        assert_eq!(list("/m.thread/m.sticker").await, [""; 0]);
        let page = alice.get(&format!("{path}?limit=4")).await.ok();
        let rest = format!("?limit=4&from={}", page["next_batch"].as_str().unwrap());
        assert_eq!(list(&rest).await.len(), 2);
        let recursive = alice.get(&format!("{path}?recurse=true")).await.ok();
        assert_eq!(recursive["recursion_depth"], 3);

        let threads = alice.get(&format!("{V1}/rooms/{room}/threads")).await.ok();
        assert_eq!(threads["chunk"][0]["event_id"], root.as_str());
        let content = json!({ "body": "no", "m.relates_to": {
            "rel_type": "m.thread", "event_id": latest } });
        let path = format!("{V3}/rooms/{room}/send/m.room.message/nested");
        alice.put(&path, &content).await.error(400, "M_UNKNOWN");
        let react = json!({ "m.relates_to": {
            "rel_type": "m.annotation", "event_id": root, "key": "+" } });
        let path = format!("{V3}/rooms/{room}/send/m.reaction");
        let first = event_id(alice.put(&format!("{path}/r1"), &react).await);
        assert_eq!(first, event_id(alice.put(&format!("{path}/r1"), &react).await));
        alice.put(&format!("{path}/r2"), &react).await.error(400, "M_DUPLICATE_ANNOTATION");
        bob.put(&format!("{path}/r3"), &react).await.ok();
    }

    async fn time_leads_to_what_may_be_seen_however_much_lies_before_it(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let hidden = json!({
            "type": "m.room.history_visibility", "content": { "history_visibility": "joined" },
        });
        let body = json!({ "preset": "public_chat", "initial_state": [hidden] });
        let room = create_room(&alice, body).await;
        let first = say(&alice, &room, "before").await;
        for number in 0..250 {
            say(&alice, &room, &format!("before {number}")).await;
        }
        join(&bob, &room).await.ok();
        let event = alice.get(&format!("{V3}/rooms/{room}/event/{first}")).await.ok();
        let ts = event["origin_server_ts"].as_i64().unwrap();
        let path = format!("{V1}/rooms/{room}/timestamp_to_event");
        let find = async |ts: i64, dir: &str| {
            let found = bob.get(&format!("{path}?ts={ts}&dir={dir}")).await.ok();
            let id = found["event_id"].as_str().unwrap();
            bob.get(&format!("{V3}/rooms/{room}/event/{id}")).await.ok()
        };
        let joined = find(ts + 1, "f").await;
        assert_eq!(joined["state_key"], bob.user_id.as_str(), "{joined}");
        assert_eq!(find(i64::MAX, "b").await["event_id"], joined["event_id"]);
        // What came before the room hid its history may be seen.
        let shown = find(joined["origin_server_ts"].as_i64().unwrap() - 1, "b").await;
        assert_ne!(shown["type"], "m.room.message", "{shown}");
        for (ts, dir) in [(i64::MIN, "b"), (i64::MAX, "f")] {
            bob.get(&format!("{path}?ts={ts}&dir={dir}")).await.error(404, "M_NOT_FOUND");
        }
        for (query, errcode) in [
            ("dir=f", "M_MISSING_PARAM"),
            ("ts=0", "M_MISSING_PARAM"),
            ("ts=soon&dir=f", "M_INVALID_PARAM"),
            ("ts=0&dir=up", "M_INVALID_PARAM"),
        ] {
            bob.get(&format!("{path}?{query}")).await.error(400, errcode);
        }
    }

    async fn naming_an_event_of_another_room_does_nothing_to_it(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let mallory = server.register("mallory").await;
        let room = create_room(&alice, json!({})).await;
        let said = say(&alice, &room, "mine").await;
        for version in ["1", "11"] {
            let own = create_room(&mallory, json!({ "room_version": version })).await;
            // What is read first for one room is not taken for an event of that room.
            let (server, mallory) = (&server, &mallory);
            server.app.rooms.events().forget_all();
            let path = format!("{V3}/rooms/{own}/redact/{said}/{version}");
            mallory.put(&path, &json!({})).await.ok();
            let receipt = format!("{V3}/rooms/{own}/receipt/m.read/{said}");
            mallory.post(&receipt, &json!({})).await.error(404, "M_NOT_FOUND");
            let event = alice.get(&format!("{V3}/rooms/{room}/event/{said}")).await.ok();
            let seen = (&event["room_id"], &event["content"]["body"]);
            assert_eq!(seen, (&json!(room), &json!("mine")), "{event}");
        }
    }
}
