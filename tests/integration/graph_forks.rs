//! Rooms that fork: what the current state is, what clients hear of it, and that it is the same
//! however events arrive.

use std::sync::Arc;

use hearth::{
    protocol::room_version::RoomVersion,
    rooms::{JoinedRoom, Room, Rooms, Verdict},
};
use serde_json::{Value, json};

use crate::{
    both_databases,
    graph_room::{BOB, Branch, CAROL, contents, join_bob, public_room, receive, server},
    harness::{Client, Server},
};

const ALICE: &str = "@alice:hearth.test";

async fn sync(client: &Client, since: Option<&str>) -> Value {
    let since = since.map_or_else(String::new, |since| format!("&since={since}"));
    client.get(&format!("/_matrix/client/v3/sync?timeout=0{since}")).await.ok()
}

/// A room of Bob's that Alice has joined, with Carol in it as a moderator.
pub async fn enter(rooms: &Rooms, version: RoomVersion, name: &str) -> (Arc<Room>, Branch) {
    let (mut bob, _) = Branch::new_room(version, name);
    let mut levels = json!({ "users": { CAROL: 50 } });
    if !version.rules().creators_privileged {
        levels["users"][BOB] = json!(100);
    }
    bob.state(BOB, "m.room.power_levels", "", levels);
    bob.member(CAROL, CAROL, "join");
    bob.topic(BOB, "the first");
    let state: Vec<_> = bob.state.values().cloned().collect();
    let join = bob.member(ALICE, ALICE, "join");
    let joined = JoinedRoom {
        room_id: bob.room_id().to_owned(),
        version,
        origin: server("b.test").to_owned(),
        join,
        state,
        auth_chain: Vec::new(),
        servers: None,
    };
    (rooms.import_joined_room(joined).await.unwrap(), bob)
}

/// The orders of `count` things, a few of them, always the same.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let mut seed: u64 = 42;
    let mut next = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let mut orders = vec![(0..count).collect::<Vec<_>>(), (0..count).rev().collect()];
    for _ in 0..6 {
        let mut order: Vec<usize> = (0..count).collect();
        for place in (1..count).rev() {
            order.swap(place, next(place + 1));
        }
        orders.push(order);
    }
    orders
}

both_databases! {
    async fn state_is_the_same_in_any_order_of_arrival(backend: Backend) {
        let server_ = Server::start(backend).await;
        server_.register("alice").await;
        let rooms = &server_.app.rooms;
        for version in [RoomVersion::V1, RoomVersion::V2, RoomVersion::V10, RoomVersion::V12] {
            let mut seen = None;
            for (number, order) in orders(9).into_iter().enumerate() {
                let (room, start) = enter(rooms, version, &format!("o{version}n{number}")).await;
                let (mut bob, mut carol) = (start.clone(), start.clone());
                let mut events = vec![
                    carol.topic(CAROL, "Carol's"),
                    carol.state(CAROL, "m.room.name", "", json!({ "name": "Carol's" })),
                    bob.topic(BOB, "Bob's"),
                    bob.member(BOB, CAROL, "leave"),
                    carol.message(CAROL, "I am still here"),
                    bob.state(BOB, "m.room.join_rules", "", json!({ "join_rule": "invite" })),
                ];
                let mut both = bob.clone();
                both.join_tips(&carol);
                events.push(both.message(BOB, "now we all are together"));
                events.push(both.state(BOB, "m.room.avatar", "", json!({ "url": "mxc://b/c" })));
                events.push(both.message(BOB, "at last"));
                for place in order {
                    receive(rooms, &room, &events[place]).await;
                }
                let last = rooms.find_any_event(&room, events[8].event_id()).await.unwrap().unwrap();
                assert!(!last.is_hidden(), "version {version}, order {number}");
                let before = rooms.load_state(last.state_nid).await.unwrap();
                let mut state = std::collections::BTreeMap::new();
                for stored in rooms.load_state_events(&room, &before, 0).await.unwrap() {
                    let key = (stored.event.kind().to_owned(), stored.event.state_key().unwrap().to_owned());
                    let mut content: Value = stored.event.content_as().unwrap();
                    content["name"] = json!(null);
                    state.insert(key, content);
                }
                match &seen {
                    None => seen = Some(state),
                    Some(seen) => assert_eq!(*seen, state, "version {version}, order {number}"),
                }
            }
        }
        server_.stop().await;
    }

    async fn merges_that_change_state_are_told_to_clients(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let rooms = &server_.app.rooms;
        let (room, start) = enter(rooms, RoomVersion::V12, "reverted").await;
        let (mut bob, mut carol) = (start.clone(), start.clone());
        let topic = carol.topic(CAROL, "Carol's");
        assert_eq!(receive(rooms, &room, &topic).await, Verdict::Accepted);
        let since = sync(&alice, None).await["next_batch"].as_str().unwrap().to_owned();
        // Bob has not seen the topic when he bans its author, and so it never was allowed.
        let ban = bob.member(BOB, CAROL, "ban");
        assert_eq!(receive(rooms, &room, &ban).await, Verdict::Accepted);
        let topic = ("m.room.topic".to_owned(), String::new());
        assert_eq!(contents(rooms, &room).await[&topic]["topic"], "the first");
        assert_eq!(rooms.forward_extremities(&room).len(), 2);
        for query in ["", "&use_state_after=true"] {
            let path = format!("/_matrix/client/v3/sync?timeout=0&since={since}{query}");
            let answer = alice.get(&path).await.ok();
            let joined = &answer["rooms"]["join"][room.room_id.as_str()];
            assert_eq!(joined["timeline"]["events"][0]["content"]["membership"], "ban");
            let section = if query.is_empty() { "state" } else { "state_after" };
            let state = joined[section]["events"].as_array().unwrap();
            let told = state.iter().find(|event| event["type"] == "m.room.topic").unwrap();
            assert_eq!(told["content"]["topic"], "the first", "{answer}");
        }
        let full = sync(&alice, None).await;
        let joined = &full["rooms"]["join"][room.room_id.as_str()];
        assert_eq!(joined["summary"]["m.joined_member_count"], 2);
        server_.stop().await;
    }

    async fn what_changed_at_forks_is_the_same_from_memory_and_from_the_store(backend: Backend) {
        let server_ = Server::start(backend).await;
        server_.register("alice").await;
        let rooms = &server_.app.rooms;
        let (room, start) = enter(rooms, RoomVersion::V12, "changes").await;
        let room_id = room.room_id.clone();
        let (mut bob, mut carol) = (start.clone(), start.clone());
        let mut events = vec![
            carol.topic(CAROL, "Carol's"),
            bob.topic(BOB, "Bob's"),
            carol.state(CAROL, "m.room.name", "", json!({ "name": "Carol's" })),
            bob.message(BOB, "not a state"),
            bob.member(BOB, CAROL, "ban"),
        ];
        let mut both = bob.clone();
        both.join_tips(&carol);
        events.push(both.state(BOB, "m.room.name", "", json!({ "name": "of both" })));
        events.push(both.message(BOB, "at last"));
        for event in &events {
            receive(rooms, &room, event).await;
        }
        let mut places = vec![i64::MAX];
        for event in &events {
            let stored = rooms.find_any_event(&room, event.event_id()).await.unwrap().unwrap();
            places.extend((stored.ordering() != 0).then(|| stored.ordering()));
        }
        let first = *places.iter().min().unwrap();
        let ranges: Vec<(i64, i64)> =
            places.iter().flat_map(|after| places.iter().map(|before| (*after, *before))).collect();
        let mut told = Vec::new();
        for range in &ranges {
            told.push(rooms.list_state_changes(&room, *range).await.unwrap());
        }
        let all = rooms.list_state_changes(&room, (first - 1, i64::MAX)).await.unwrap();
        // Two topics and a name, the ban that takes two of them back, and the name of both.
        assert!(all.len() >= 6, "{all:?}");
        drop(room);
        server_.stop().await;
        let server_ = Server::start(backend).await;
        let rooms = &server_.app.rooms;
        let room = rooms.find(&room_id).await.unwrap().unwrap();
        for (range, told) in ranges.into_iter().zip(told) {
            let stored = rooms.list_state_changes(&room, range).await.unwrap();
            let sorted = |mut changes: Vec<_>| {
                changes.sort();
                changes
            };
            assert_eq!(sorted(told), sorted(stored), "{range:?}");
        }
        assert_eq!(rooms.list_state_changes(&room, (first - 1, i64::MAX)).await.unwrap().len(), all.len());
        server_.stop().await;
    }

    async fn what_came_by_a_fork_is_in_the_state_of_an_initial_sync(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let rooms = &server_.app.rooms;
        let (room, start) = enter(rooms, RoomVersion::V12, "late name").await;
        let (mut bob, mut carol) = (start.clone(), start.clone());
        for text in ["one", "two"] {
            assert_eq!(receive(rooms, &room, &carol.message(CAROL, text)).await, Verdict::Accepted);
        }
        let name = bob.state(BOB, "m.room.name", "", json!({ "name": "late" }));
        assert_eq!(receive(rooms, &room, &name).await, Verdict::Accepted);
        bob.join_tips(&carol);
        let left_out = bob.state(BOB, "org.example.left_out", "", json!({}));
        assert_eq!(receive(rooms, &room, &left_out).await, Verdict::Accepted);
        let timeline = json!({ "limit": 1, "not_types": ["org.example.left_out"] });
        let path = format!("/_matrix/client/v3/user/{ALICE}/filter");
        let filter = alice.post(&path, &json!({ "room": { "timeline": timeline } })).await.ok();
        let filter = filter["filter_id"].as_str().unwrap();
        let answer = alice.get(&format!("/_matrix/client/v3/sync?timeout=0&filter={filter}")).await.ok();
        let joined = &answer["rooms"]["join"][room.room_id.as_str()];
        let shown = joined["timeline"]["events"].as_array().unwrap();
        assert_eq!(shown.len(), 1, "{joined}");
        assert_eq!(shown[0]["event_id"], name.event_id().as_str());
        let state = joined["state"]["events"].as_array().unwrap();
        let named: Vec<&Value> = state.iter().filter(|event| event["type"] == "m.room.name").collect();
        assert_eq!(named.len(), 1, "{joined}");
        assert_eq!(named[0]["event_id"], name.event_id().as_str());
        server_.stop().await;
    }

    async fn forks_survive_a_restart_and_local_events_join_them(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let room = public_room(&server_.app.rooms, &alice, "12").await;
        let room_id = room.room_id.clone();
        let bob = join_bob(&server_.app.rooms, &room).await;
        let (mut one, mut two) = (bob.clone(), bob.clone());
        let tips = [one.message(BOB, "one"), two.message(BOB, "two")];
        for tip in &tips {
            assert_eq!(receive(&server_.app.rooms, &room, tip).await, Verdict::Accepted);
        }
        drop(room);
        server_.stop().await;
        let server_ = Server::start(backend).await;
        let alice = server_.reconnect(&alice);
        let rooms = &server_.app.rooms;
        let room = rooms.find(&room_id).await.unwrap().unwrap();
        assert_eq!(rooms.forward_extremities(&room).len(), 2);
        let path = format!("/_matrix/client/v3/rooms/{room_id}/send/m.room.message/t1");
        let sent = alice.put(&path, &json!({ "msgtype": "m.text", "body": "hi" })).await.ok();
        let id: &ruma::EventId = sent["event_id"].as_str().unwrap().try_into().unwrap();
        let event = rooms.find_event(&room, id).await.unwrap().unwrap();
        let mut named: Vec<_> = event.event.prev_events().map(ToOwned::to_owned).collect();
        let mut expected: Vec<_> = tips.iter().map(|tip| tip.event_id().to_owned()).collect();
        named.sort();
        expected.sort();
        assert_eq!(named, expected);
        assert_eq!(rooms.forward_extremities(&room), [id]);
        server_.stop().await;
    }

    async fn many_extremities_are_joined_without_a_word(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let rooms = &server_.app.rooms;
        let room = public_room(rooms, &alice, "12").await;
        let bob = join_bob(rooms, &room).await;
        let since = sync(&alice, None).await["next_batch"].as_str().unwrap().to_owned();
        for number in 0..11 {
            let mut branch = bob.clone();
            let message = branch.message(BOB, &number.to_string());
            assert_eq!(receive(rooms, &room, &message).await, Verdict::Accepted);
        }
        assert_eq!(rooms.forward_extremities(&room).len(), 1);
        let answer = sync(&alice, Some(&since)).await;
        let timeline = &answer["rooms"]["join"][room.room_id.as_str()]["timeline"];
        let events = timeline["events"].as_array().unwrap();
        assert_eq!(events.len(), 11);
        assert!(events.iter().all(|event| event["type"] == "m.room.message"));
        server_.stop().await;
    }
}
