//! Simplified sliding sync (MSC4186).

use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{make_room, register, say},
    harness::{Answer, Client, Server},
};

pub const PATH: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

/// One request; `pos` of the answer before, if any.
pub async fn poll(client: &Client, pos: Option<&str>, body: &Value) -> Answer {
    let pos = pos.map_or(String::new(), |pos| format!("&pos={pos}"));
    client.post(&format!("{PATH}?set_presence=offline{pos}"), body).await
}

/// Where an answer ends.
pub fn pos(answer: &Value) -> &str {
    answer["pos"].as_str().unwrap()
}

/// All rooms, with this timeline and state.
pub fn all_rooms(timeline_limit: u64, required_state: &Value) -> Value {
    let list = json!({
        "ranges": [[0, 99]], "timeline_limit": timeline_limit, "required_state": required_state,
    });
    json!({ "lists": { "all": list } })
}

fn bodies(room: &Value) -> Vec<&str> {
    let events = room["timeline"].as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

fn kinds(room: &Value) -> Vec<&str> {
    let events = room["required_state"].as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

fn room_ids(answer: &Value) -> Vec<&str> {
    answer["rooms"].as_object().unwrap().keys().map(String::as_str).collect()
}

async fn set_state(client: &Client, room: &str, kind: &str, key: &str, content: &Value) {
    let path = format!("/_matrix/client/v3/rooms/{room}/state/{kind}/{key}");
    client.put(&path, content).await.ok();
}

both_databases! {
    async fn versions_name_the_endpoint(backend: Backend) {
        let server = Server::start(backend).await;
        let versions = server.client().get("/_matrix/client/versions").await.ok();
        assert_eq!(versions["unstable_features"]["org.matrix.simplified_msc3575"], true);
        server.stop().await;
    }

    async fn first_answer_shows_rooms_and_later_ones_what_is_new(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        set_state(alice, &room, "m.room.name", "", &json!({ "name": "Garden" })).await;
        for text in ["1", "2", "3"] {
            say(alice, &room, text).await;
        }
        let body = all_rooms(2, &json!([["m.room.create", ""], ["m.room.member", "$LAZY"]]));
        let first = poll(bob, None, &body).await.ok();
        assert_eq!(first["lists"]["all"]["count"], 1);
        let shown = &first["rooms"][&room];
        assert_eq!(bodies(shown), ["2", "3"]);
        assert_eq!(kinds(shown), ["m.room.create", "m.room.member"]);
        let expect = json!([true, "Garden", true, 2, 0, 0, "join", ["all"]]);
        let fields = ["initial", "name", "limited", "joined_count", "invited_count", "num_live",
            "membership", "lists"];
        assert_eq!(json!(fields.map(|field| &shown[field])), expect, "{shown}");
        assert!(shown["prev_batch"].is_string() && shown.get("heroes").is_none(), "{shown}");

        let quiet = poll(bob, Some(pos(&first)), &body).await.ok();
        assert_eq!(quiet["rooms"], json!({}), "{quiet}");
        assert_eq!(quiet["lists"]["all"]["count"], 1);
        say(alice, &room, "4").await;
        let news = poll(bob, Some(pos(&quiet)), &body).await.ok();
        let shown = &news["rooms"][&room];
        assert_eq!(bodies(shown), ["4"]);
        assert!(shown.get("initial").is_none() && shown.get("name").is_none(), "{shown}");
        assert_eq!((&shown["limited"], &shown["num_live"]), (&json!(false), &json!(1)));
        assert!(kinds(shown).is_empty(), "the sender's membership was sent before: {shown}");
        server.stop().await;
    }

    async fn gaps_are_limited_and_can_be_paged_into(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let body = all_rooms(1, &json!([]));
        let first = poll(bob, None, &body).await.ok();
        for text in ["1", "2", "3"] {
            say(alice, &room, text).await;
        }
        let news = poll(bob, Some(pos(&first)), &body).await.ok();
        let shown = &news["rooms"][&room];
        assert_eq!((bodies(shown), &shown["limited"]), (vec!["3"], &json!(true)));
        let from = shown["prev_batch"].as_str().unwrap();
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=2&from={from}");
        let page = bob.get(&path).await.ok();
        assert_eq!(page["chunk"][0]["content"]["body"], "2");
        assert_eq!(page["chunk"][1]["content"]["body"], "1");
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=1&from={}", pos(&news));
        assert_eq!(bob.get(&path).await.ok()["chunk"][0]["content"]["body"], "3");
        server.stop().await;
    }

    async fn ranges_follow_activity_and_rooms_come_when_they_enter(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let mut rooms = Vec::new();
        for number in 0..4 {
            let room = make_room(&[&alice]).await;
            say(&alice, &room, &number.to_string()).await;
            rooms.push(room);
        }
        let body = |last: u64| json!({ "lists": { "top": {
            "ranges": [[0, last]], "timeline_limit": 1, "required_state": [],
        } } });
        let first = poll(&alice, None, &body(1)).await.ok();
        assert_eq!(first["lists"]["top"]["count"], 4);
        let mut shown = room_ids(&first);
        shown.sort_unstable();
        let mut expect = vec![rooms[2].as_str(), rooms[3].as_str()];
        expect.sort_unstable();
        assert_eq!(shown, expect);
        // A room outside of the range rises into it.
        say(&alice, &rooms[0], "again").await;
        let risen = poll(&alice, Some(pos(&first)), &body(1)).await.ok();
        assert_eq!(room_ids(&risen), [&rooms[0]]);
        assert_eq!(risen["rooms"][&rooms[0]]["initial"], true);
        assert_eq!(risen["rooms"][&rooms[0]]["num_live"], 1);
        let stamp = |answer: &Value, room: &str| answer["rooms"][room]["bump_stamp"].as_i64();
        assert!(stamp(&risen, &rooms[0]) > stamp(&first, &rooms[3]));
        // A longer range brings the rest, once.
        let rest = poll(&alice, Some(pos(&risen)), &body(99)).await.ok();
        assert_eq!(room_ids(&rest), [&rooms[1]]);
        server.stop().await;
    }

    async fn rooms_out_of_view_catch_up_when_they_return(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = make_room(&[&alice]).await;
        let other = make_room(&[&alice]).await;
        let subscription = json!({ "timeline_limit": 10, "required_state": [["m.room.topic", ""]] });
        let with = json!({ "room_subscriptions": { &room: subscription } });
        let without = json!({ "room_subscriptions": { &other: subscription } });
        let first = poll(&alice, None, &with).await.ok();
        assert_eq!(room_ids(&first), [&room]);
        say(&alice, &room, "missed").await;
        set_state(&alice, &room, "m.room.topic", "", &json!({ "topic": "missed too" })).await;
        let second = poll(&alice, Some(pos(&first)), &without).await.ok();
        assert_eq!(room_ids(&second), [&other]);
        let third = poll(&alice, Some(pos(&second)), &with).await.ok();
        let shown = &third["rooms"][&room];
        assert_eq!((bodies(shown), kinds(shown)), (vec!["missed"], vec!["m.room.topic"]));
        assert!(shown.get("initial").is_none(), "{shown}");
        server.stop().await;
    }

    async fn longer_timelines_and_more_state_come_at_once(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = make_room(&[&alice]).await;
        set_state(&alice, &room, "m.room.topic", "", &json!({ "topic": "t" })).await;
        for text in ["1", "2", "3", "4"] {
            say(&alice, &room, text).await;
        }
        let body = all_rooms(1, &json!([["m.room.create", ""]]));
        let first = poll(&alice, None, &body).await.ok();
        assert_eq!(bodies(&first["rooms"][&room]), ["4"]);
        let body = all_rooms(3, &json!([["m.room.create", ""], ["m.room.topic", ""]]));
        let second = poll(&alice, Some(pos(&first)), &body).await.ok();
        let shown = &second["rooms"][&room];
        assert_eq!((bodies(shown), kinds(shown)), (vec!["2", "3", "4"], vec!["m.room.topic"]));
        assert_eq!(shown["unstable_expanded_timeline"], true);
        assert_eq!((&shown["limited"], &shown["num_live"]), (&json!(true), &json!(0)));
        assert!(shown.get("initial").is_none());
        let third = poll(&alice, Some(pos(&second)), &body).await.ok();
        assert_eq!(third["rooms"], json!({}));
        // Shorter and longer again: the client has these events.
        let fourth = poll(&alice, Some(pos(&third)), &all_rooms(1, &json!([]))).await.ok();
        let fifth = poll(&alice, Some(pos(&fourth)), &all_rooms(3, &json!([]))).await.ok();
        assert_eq!(fifth["rooms"], json!({}), "{fifth}");
        server.stop().await;
    }

    async fn lost_answers_can_be_asked_for_again(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = make_room(&[&alice]).await;
        let body = all_rooms(5, &json!([]));
        let first = poll(&alice, None, &body).await.ok();
        say(&alice, &room, "1").await;
        let lost = poll(&alice, Some(pos(&first)), &body).await.ok();
        assert_eq!(bodies(&lost["rooms"][&room]), ["1"]);
        say(&alice, &room, "2").await;
        let again = poll(&alice, Some(pos(&first)), &body).await.ok();
        assert_eq!(bodies(&again["rooms"][&room]), ["1", "2"]);
        // What was taken back is not known any more, nor what was confirmed.
        poll(&alice, Some(pos(&lost)), &body).await.error(400, "M_UNKNOWN_POS");
        poll(&alice, Some(pos(&again)), &body).await.ok();
        poll(&alice, Some(pos(&first)), &body).await.error(400, "M_UNKNOWN_POS");
        server.stop().await;
    }

    async fn positions_belong_to_one_device_and_connection(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let other = server.login("alice").await;
        let body = all_rooms(1, &json!([]));
        let first = poll(&alice, None, &body).await.ok();
        poll(&other, Some(pos(&first)), &body).await.error(400, "M_UNKNOWN_POS");
        let mut named = body.clone();
        named["conn_id"] = json!("second");
        poll(&alice, Some(pos(&first)), &named).await.error(400, "M_UNKNOWN_POS");
        poll(&alice, Some("s1"), &body).await.error(400, "M_UNKNOWN_POS");
        // Another connection of the same device leaves the first one alone.
        named["txn_id"] = json!("txn");
        let second = poll(&alice, None, &named).await.ok();
        assert_eq!(second["txn_id"], "txn");
        poll(&alice, Some(pos(&first)), &body).await.ok();
        poll(&alice, Some(pos(&second)), &named).await.ok();
        server.stop().await;
    }

    async fn connections_survive_a_restart(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let (room, other) = (make_room(&[&alice]).await, make_room(&[&alice]).await);
        let body = all_rooms(5, &json!([["m.room.name", ""]]));
        let first = poll(&alice, None, &body).await.ok();
        say(&alice, &room, "before").await;
        let second = poll(&alice, Some(pos(&first)), &body).await.ok();
        server.stop().await;

        let server = Server::start(backend).await;
        let alice = server.reconnect(&alice);
        let quiet = poll(&alice, Some(pos(&second)), &body).await.ok();
        assert_eq!(quiet["rooms"], json!({}));
        say(&alice, &room, "after").await;
        set_state(&alice, &other, "m.room.name", "", &json!({ "name": "Other" })).await;
        let third = poll(&alice, Some(pos(&quiet)), &body).await.ok();
        assert_eq!(bodies(&third["rooms"][&room]), ["after"]);
        assert_eq!(third["rooms"][&other]["name"], "Other");
        assert_eq!(kinds(&third["rooms"][&other]), ["m.room.name"]);
        server.stop().await;
    }

    async fn waiting_requests_end_with_what_happens(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let body = all_rooms(5, &json!([]));
        let first = poll(bob, None, &body).await.ok();
        let path = format!("{PATH}?set_presence=offline&timeout=30000&pos={}", pos(&first));
        let waiting = async { bob.post(&path, &body).await.ok() };
        let (answer, _) = tokio::join!(waiting, say(alice, &room, "hello"));
        assert_eq!(bodies(&answer["rooms"][&room]), ["hello"]);
        // A newer request ends an older one, which tells nothing.
        let path = format!("{PATH}?set_presence=offline&timeout=30000&pos={}", pos(&answer));
        let older = async { bob.post(&path, &body).await.ok() };
        let newer = async {
            let answer = poll(bob, Some(pos(&answer)), &body).await.ok();
            // Whichever came first: the one that waits is ended by this one.
            poll(bob, Some(pos(&answer)), &body).await.ok()
        };
        let (older, newer) = tokio::join!(older, newer);
        assert_eq!((&older["rooms"], &newer["rooms"]), (&json!({}), &json!({})));
        server.stop().await;
    }
}
