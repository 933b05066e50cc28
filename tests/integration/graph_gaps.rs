//! Gaps: filled through the network, bridged by a state, paged into later; and what other servers get
//! of a room's graph.

use std::sync::Arc;

use hearth::rooms::Verdict;
use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::say,
    graph_room::{BOB, CAROL, Network, join_bob, public_room, receive, server},
    harness::{Client, Server},
};

async fn sync(client: &Client, since: Option<&str>) -> Value {
    let since = since.map_or_else(String::new, |since| format!("&since={since}"));
    client.get(&format!("/_matrix/client/v3/sync?timeout=0{since}")).await.ok()
}

fn bodies(events: &Value) -> Vec<&str> {
    let events = events.as_array().into_iter().flatten();
    events.filter_map(|event| event["content"]["body"].as_str()).collect()
}

both_databases! {
    async fn gaps_are_filled_and_authorisation_events_fetched(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let rooms = &server_.app.rooms;
        let room = public_room(rooms, &alice, "12").await;
        let mut bob = join_bob(rooms, &room).await;
        let since = sync(&alice, None).await["next_batch"].as_str().unwrap().to_owned();
        let network = Arc::new(Network { fills_gaps: true, ..Network::default() });
        rooms.set_event_source(network.clone());
        let mut events = vec![bob.member(CAROL, CAROL, "join")];
        events.extend((0..30).map(|number| bob.message(CAROL, &number.to_string())));
        network.knows(&events);
        assert_eq!(receive(rooms, &room, &events[30]).await, Verdict::Accepted);
        let answer = sync(&alice, Some(&since)).await;
        let timeline = &answer["rooms"]["join"][room.room_id.as_str()]["timeline"];
        let expected: Vec<String> = (0..30).map(|number| number.to_string()).collect();
        assert_eq!(bodies(&timeline["events"]), expected);
        assert_eq!(timeline["limited"], false);
        server_.stop().await;
    }

    async fn what_cannot_be_filled_is_bridged_and_paged_into_later(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let rooms = &server_.app.rooms;
        let room = public_room(rooms, &alice, "12").await;
        let mut bob = join_bob(rooms, &room).await;
        let since = sync(&alice, None).await["next_batch"].as_str().unwrap().to_owned();
        let network = Arc::new(Network { fills_gaps: true, ..Network::default() });
        rooms.set_event_source(network.clone());
        let mut missed = vec![bob.member(CAROL, CAROL, "join")];
        missed.extend((0..5).map(|number| bob.message(CAROL, &number.to_string())));
        network.knows(&missed[..1]);
        let before = bob.state.values().cloned().collect();
        let late = bob.message(CAROL, "late");
        network.states.lock().unwrap().insert(late.event_id().to_owned(), before);
        let last = bob.message(CAROL, "last");
        network.knows([&late, &last]);
        assert_eq!(receive(rooms, &room, &last).await, Verdict::Accepted);
        let answer = sync(&alice, Some(&since)).await;
        let timeline = &answer["rooms"]["join"][room.room_id.as_str()]["timeline"];
        assert_eq!(bodies(&timeline["events"]), ["late", "last"]);
        assert_eq!(timeline["limited"], true);
        let state = &answer["rooms"]["join"][room.room_id.as_str()]["state"]["events"];
        let has_carol = |event: &Value| event["state_key"] == CAROL;
        assert!(state.as_array().unwrap().iter().any(has_carol), "{answer}");
        assert_eq!(room.head().joined_count, 3);

        let ends = rooms.backward_extremities(&room, 0, 10).await.unwrap();
        assert_eq!(ends, [missed[5].event_id()]);
        let count = rooms.import_backfilled(server("b.test"), &room, missed.clone()).await.unwrap();
        assert_eq!(count, 6);
        assert!(rooms.backward_extremities(&room, 0, 10).await.unwrap().is_empty());
        let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=20", room.room_id);
        let page = alice.get(&path).await.ok();
        assert_eq!(bodies(&page["chunk"]), ["last", "late", "4", "3", "2", "1", "0"]);
        assert!(rooms.forward_extremities(&room).contains(&last.event_id().to_owned()));
        // No sync carries what came late.
        let answer = sync(&alice, answer["next_batch"].as_str()).await;
        assert!(answer["rooms"]["join"].get(room.room_id.as_str()).is_none());
        server_.stop().await;
    }

    async fn messages_need_no_state_but_that_before_what_follows_them(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let rooms = &server_.app.rooms;
        let room = public_room(rooms, &alice, "12").await;
        let mut bob = join_bob(rooms, &room).await;
        let network = Arc::new(Network { fills_gaps: true, ..Network::default() });
        rooms.set_event_source(network.clone());
        let missed = ["1", "2", "3"].map(|body| bob.message(BOB, body));
        let before = bob.state.values().cloned().collect();
        let (late, last) = (bob.message(BOB, "late"), bob.message(BOB, "last"));
        network.states.lock().unwrap().insert(late.event_id().to_owned(), before);
        network.knows([&late, &last]);
        assert_eq!(receive(rooms, &room, &last).await, Verdict::Accepted);
        network.states.lock().unwrap().clear();
        network.asked.lock().unwrap().clear();
        // What is before them stays unknown, and need not be asked for.
        let old = missed[1..].to_vec();
        assert_eq!(rooms.import_backfilled(server("b.test"), &room, old).await.unwrap(), 2);
        assert!(network.asked.lock().unwrap().is_empty());
        let ends = rooms.backward_extremities(&room, i64::MIN, 10).await.unwrap();
        assert_eq!(ends, [missed[0].event_id()]);
        server_.stop().await;
    }

    async fn other_servers_get_the_graph_as_they_may_see_it(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let rooms = &server_.app.rooms;
        let room = public_room(rooms, &alice, "12").await;
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.history_visibility", room.room_id);
        alice.put(&path, &json!({ "history_visibility": "joined" })).await.ok();
        let send = async |body: &str| {
            let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{body}", room.room_id);
            let content = json!({ "msgtype": "m.text", "body": body });
            let answer = alice.put(&path, &content).await.ok();
            let id: ruma::OwnedEventId = answer["event_id"].as_str().unwrap().try_into().unwrap();
            id
        };
        let hidden = send("hidden").await;
        let bob = join_bob(rooms, &room).await;
        let shown = send("shown").await;
        let theirs = server("b.test");
        let (_, event) = rooms.event_for_server(&hidden, theirs).await.unwrap().unwrap();
        assert_eq!(event.content_json(), "{}");
        let (_, event) = rooms.event_for_server(&shown, theirs).await.unwrap().unwrap();
        assert!(event.content_json().contains("shown"));
        let back = rooms.events_backwards(&room, std::slice::from_ref(&shown), 3, theirs).await.unwrap();
        let ids: Vec<_> = back.iter().map(|event| event.event_id().to_owned()).collect();
        assert_eq!(ids, [shown.clone(), bob.tips[0].event_id().to_owned(), hidden.clone()]);
        let between = rooms
            .missing_events(&room, std::slice::from_ref(&shown), std::slice::from_ref(&hidden), (10, 0), theirs)
            .await
            .unwrap();
        assert_eq!(between.len(), 1);
        assert_eq!(between[0].event_id(), bob.tips[0].event_id());
        let state = rooms.state_before(&room, &shown).await.unwrap().unwrap();
        assert_eq!(state.len(), room.head().state.len());
        let shown = rooms.find_any_event(&room, &shown).await.unwrap().unwrap();
        let chain = rooms.list_auth_chain(&room, &[shown.nid]).await.unwrap();
        let chain = rooms.events().load(room.facts(), &chain).await.unwrap();
        let kinds: Vec<_> = chain.iter().map(|event| event.event.kind()).collect();
        assert!(kinds.contains(&"m.room.power_levels") && kinds.contains(&"m.room.member"));
        server_.stop().await;
    }

    async fn missing_events_of_a_short_branch_come_before_those_of_a_long_one(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let rooms = &server_.app.rooms;
        let room = public_room(rooms, &alice, "12").await;
        let mut bob = join_bob(rooms, &room).await;
        for number in 0..15 {
            say(&alice, room.room_id.as_str(), &number.to_string()).await;
        }
        let start = [bob.tips[0].event_id().to_owned()];
        let aside = bob.message(BOB, "aside");
        assert_eq!(receive(rooms, &room, &aside).await, Verdict::Accepted);
        let latest = say(&alice, room.room_id.as_str(), "latest").await;
        let latest: [ruma::OwnedEventId; 1] = [latest.as_str().try_into().unwrap()];
        let theirs = server("b.test");
        let between = rooms.missing_events(&room, &latest, &start, (10, 0), theirs);
        let between = between.await.unwrap();
        assert_eq!(between.len(), 10);
        // Oldest first, which it is by its depth.
        assert_eq!(between[0].event_id(), aside.event_id());
        server_.stop().await;
    }
}
