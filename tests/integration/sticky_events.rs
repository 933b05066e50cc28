//! Events that stick to rooms (MSC4354, MSC4480): whom they reach, in which section, and for how long.

use hearth::{clock::Clock, rooms::Verdict};
use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{make_room, next_batch, register, say, sync, wait_for},
    federation::{create, join, start_pair},
    graph_room::{BOB, join_bob, public_room, receive},
    harness::{Answer, Client, Server},
    sliding_sync::{all_rooms, poll, pos},
    two_servers,
};

const V3: &str = "/_matrix/client/v3";
const STICKY: &str = "org.matrix.msc4354.sticky_duration_ms";
const EXTENSION: &str = "org.matrix.msc4354.sticky_events";
const MINUTE_MS: u64 = 60_000;

/// Sends a text that is sticky for so many milliseconds, as a query has them.
async fn try_stick(client: &Client, room: &str, text: &str, duration: &str) -> Answer {
    let path = format!("{V3}/rooms/{room}/send/m.room.message/s{text}?{STICKY}={duration}");
    client.put(&path, &json!({ "msgtype": "m.text", "body": text })).await
}

/// Sends a text that is sticky for a minute; its event ID.
async fn stick(client: &Client, room: &str, text: &str) -> String {
    let answer = try_stick(client, room, text, "60000").await.ok();
    answer["event_id"].as_str().unwrap().to_owned()
}

fn texts(events: &Value) -> Vec<String> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    let texts = events.iter().filter_map(|event| event["content"]["body"].as_str());
    texts.map(str::to_owned).collect()
}

/// The texts of the sticky section of a room in an answer of `/sync`.
fn stuck(answer: &Value, room: &str) -> Vec<String> {
    texts(&answer["rooms"]["join"][room]["msc4354_sticky"]["events"])
}

fn timeline(answer: &Value, room: &str) -> Vec<String> {
    texts(&answer["rooms"]["join"][room]["timeline"]["events"])
}

/// As [`sync`] with few events in each timeline.
async fn sync_short(client: &Client, since: Option<&str>) -> Value {
    let since = since.map_or_else(String::new, |since| format!("&since={since}"));
    let filter = "%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:2%7D%7D%7D";
    client.get(&format!("{V3}/sync?set_presence=offline&filter={filter}{since}")).await.ok()
}

async fn redact(client: &Client, room: &str, event_id: &str) {
    client.put(&format!("{V3}/rooms/{room}/redact/{event_id}/r"), &json!({})).await.ok();
}

both_databases! {
    async fn sticky_events_are_told_behind_a_gap_and_once(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let versions = alice.get("/_matrix/client/versions").await.ok();
        assert_eq!(versions["unstable_features"]["org.matrix.msc4354"], true);
        let room = make_room(&[alice, bob]).await;
        let since = next_batch(&sync(bob, None).await);
        let event_id = stick(alice, &room, "early").await;
        for number in 0..5 {
            say(alice, &room, &number.to_string()).await;
        }
        stick(alice, &room, "late").await;

        let answer = sync_short(bob, Some(&since)).await;
        assert_eq!(timeline(&answer, &room), ["4", "late"]);
        assert_eq!(stuck(&answer, &room), ["early"]);
        let event = &answer["rooms"]["join"][&room]["msc4354_sticky"]["events"][0];
        assert_eq!(event["event_id"], event_id.as_str());
        assert_eq!(event["msc4354_sticky"], json!({ "duration_ms": MINUTE_MS }));
        let ttl_ms = event["unsigned"]["msc4354_sticky_duration_ttl_ms"].as_u64().unwrap();
        assert!((1..=MINUTE_MS).contains(&ttl_ms), "{ttl_ms}");
        let again = sync_short(bob, Some(&next_batch(&answer))).await;
        assert_eq!(again["rooms"]["join"].get(&room), None, "{again}");
        // In an answer without a gap all of it is in the timeline.
        let answer = sync(bob, Some(&since)).await;
        assert_eq!(timeline(&answer, &room).len(), 7);
        assert!(stuck(&answer, &room).is_empty());
        // State sticks too, and what is sticky is said again.
        let path = format!("{V3}/rooms/{room}/state/org.example.state/?{STICKY}=60000");
        let first = alice.put(&path, &json!({ "body": "state" })).await.ok();
        assert_ne!(alice.put(&path, &json!({ "body": "state" })).await.ok(), first);
        let initial = sync_short(bob, None).await;
        assert_eq!(stuck(&initial, &room), ["early", "late"]);
        server.stop().await;
    }

    async fn whoever_joins_is_told_what_sticks_whatever_history_shows(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice]).await;
        let visibility = format!("{V3}/rooms/{room}/state/m.room.history_visibility/");
        alice.put(&visibility, &json!({ "history_visibility": "joined" })).await.ok();
        stick(alice, &room, "sticky").await;
        say(alice, &room, "secret").await;
        let since = next_batch(&sync(bob, None).await);
        bob.post(&format!("{V3}/join/{room}"), &json!({})).await.ok();
        let answer = sync(bob, Some(&since)).await;
        assert_eq!(stuck(&answer, &room), ["sticky"]);
        assert!(timeline(&answer, &room).is_empty());
        assert_eq!(stuck(&sync(bob, None).await, &room), ["sticky"]);
        server.stop().await;
    }

    async fn too_many_sticky_events_come_in_several_answers(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let mut since = next_batch(&sync(bob, None).await);
        for number in 0..130 {
            stick(alice, &room, &number.to_string()).await;
        }
        let mut told: Vec<String> = Vec::new();
        for round in 0..2 {
            let answer = sync_short(bob, Some(&since)).await;
            let fresh = stuck(&answer, &room);
            assert!(fresh.len() <= 100 && !fresh.is_empty(), "round {round}");
            told.extend(fresh);
            told.extend(timeline(&answer, &room));
            since = next_batch(&answer);
        }
        assert!(stuck(&sync_short(bob, Some(&since)).await, &room).is_empty());
        told.sort_by_key(|text| text.parse::<u32>().unwrap());
        told.dedup();
        assert_eq!(told, (0..130).map(|number| number.to_string()).collect::<Vec<_>>());
        server.stop().await;
    }

    async fn nothing_sticks_longer_than_it_should(backend: Backend) {
        let clock = Clock::scripted(1_700_000_000_000, 1);
        let server = Server::start_at(backend, clock.clone(), |_| ()).await;
        let alice = server.register("alice").await;
        let room = make_room(&[&alice]).await;
        stick(&alice, &room, "sticky").await;
        let redacted = stick(&alice, &room, "redacted").await;
        redact(&alice, &room, &redacted).await;
        for number in 0..5 {
            say(&alice, &room, &number.to_string()).await;
        }
        clock.advance_ms(MINUTE_MS / 2);
        assert_eq!(stuck(&sync_short(&alice, None).await, &room), ["sticky"]);
        server.stop().await;
        let server = Server::start_at(backend, clock.clone(), |_| ()).await;
        let alice = server.reconnect(&alice);
        let answer = sync_short(&alice, None).await;
        assert_eq!(stuck(&answer, &room), ["sticky"]);
        let event = &answer["rooms"]["join"][&room]["msc4354_sticky"]["events"][0];
        assert_eq!(event["unsigned"]["msc4354_sticky_duration_ttl_ms"], MINUTE_MS / 2);
        clock.advance_ms(MINUTE_MS / 2);
        assert!(stuck(&sync_short(&alice, None).await, &room).is_empty());
        server.stop().await;
    }

    async fn impossible_durations_are_refused(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = make_room(&[&alice]).await;
        for duration in ["-1", "3600001", "1.5", "x", "99999999999999999999"] {
            try_stick(&alice, &room, "t", duration).await.error(400, "M_INVALID_PARAM");
        }
        try_stick(&alice, &room, "none", "0").await.ok();
        try_stick(&alice, &room, "all", "3600000").await.ok();
        let path = format!("{V3}/rooms/{room}/state/m.room.member/{}?{STICKY}=60000", alice.user_id);
        let member = json!({ "membership": "join" });
        alice.put(&path, &member).await.error(400, "M_INVALID_PARAM");
        server.stop().await;
    }

    async fn delayed_events_are_sticky_from_when_they_are_sent(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = make_room(&[&alice]).await;
        let path = format!(
            "{V3}/rooms/{room}/send/m.room.message/d?org.matrix.msc4140.delay=600000&{STICKY}=60000"
        );
        let body = json!({ "msgtype": "m.text", "body": "gone" });
        let delayed = alice.put(&path, &body).await.ok();
        let delayed = delayed["delay_id"].as_str().unwrap();
        assert!(stuck(&sync_short(&alice, None).await, &room).is_empty());
        let path = format!("/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayed}/send");
        alice.post(&path, &json!({})).await.ok();
        for number in 0..5 {
            say(&alice, &room, &number.to_string()).await;
        }
        assert_eq!(stuck(&sync_short(&alice, None).await, &room), ["gone"]);
        server.stop().await;
    }

    async fn sliding_sync_tells_what_sticks_from_place_to_place(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        for text in ["one", "two", "three"] {
            stick(alice, &room, text).await;
        }
        say(alice, &room, "last").await;
        let mut body = all_rooms(1, &json!([]));
        body["extensions"] = json!({ EXTENSION: { "enabled": true, "limit": 2 } });
        let first = poll(bob, None, &body).await.ok();
        let section = &first["extensions"][EXTENSION];
        assert_eq!(texts(&section["rooms"][&room]["events"]), ["one", "two"]);
        // Who has not got it is told again.
        let again = poll(bob, None, &body).await.ok();
        assert_eq!(again["extensions"][EXTENSION]["rooms"][&room]["events"].as_array().unwrap().len(), 2);
        body["extensions"][EXTENSION]["since"] = section["next_batch"].clone();
        let second = poll(bob, Some(pos(&again)), &body).await.ok();
        let section = &second["extensions"][EXTENSION];
        assert_eq!(texts(&section["rooms"][&room]["events"]), ["three"]);
        body["extensions"][EXTENSION]["since"] = section["next_batch"].clone();
        let quiet = poll(bob, Some(pos(&second)), &body).await.ok();
        assert_eq!(quiet["extensions"].get(EXTENSION), None, "{quiet}");
        // What the timeline holds is not told twice, and the place moves on.
        stick(alice, &room, "four").await;
        let third = poll(bob, Some(pos(&quiet)), &body).await.ok();
        assert_eq!(texts(&third["rooms"][&room]["timeline"]), ["four"]);
        let section = &third["extensions"][EXTENSION];
        assert_eq!(section["rooms"], json!({}));
        body["extensions"][EXTENSION]["since"] = section["next_batch"].clone();
        // A room that is joined comes with all that sticks to it.
        let other = make_room(&[alice]).await;
        stick(alice, &other, "elsewhere").await;
        say(alice, &other, "hello").await;
        bob.post(&format!("{V3}/join/{other}"), &json!({})).await.ok();
        let fourth = poll(bob, Some(pos(&third)), &body).await.ok();
        let section = &fourth["extensions"][EXTENSION];
        assert_eq!(texts(&section["rooms"][&other]["events"]), ["elsewhere"], "{fourth}");
        body["extensions"][EXTENSION]["since"] = json!("nonsense");
        poll(bob, Some(pos(&fourth)), &body).await.error(400, "M_INVALID_PARAM");
        server.stop().await;
    }

    async fn soft_failed_sticky_events_come_when_they_are_allowed_again(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let rooms = &server.app.rooms;
        let room = public_room(rooms, &alice, "12").await;
        let room_id = room.room_id.as_str();
        let mut bob = join_bob(rooms, &room).await;
        let kick = json!({ "user_id": BOB });
        alice.post(&format!("{V3}/rooms/{room_id}/kick"), &kick).await.ok();
        // His server has not heard of it yet.
        let content = json!({ "msgtype": "m.text", "body": "sticky" });
        let mut draft = bob.draft(BOB, "m.room.message", None, content);
        draft.sticky_ms = Some(60_000);
        let sticky = bob.seal(draft);
        assert!(matches!(receive(rooms, &room, &sticky).await, Verdict::SoftFailed(_)));
        let answer = sync(&alice, None).await;
        assert!(stuck(&answer, room_id).is_empty());
        assert!(!timeline(&answer, room_id).contains(&"sticky".to_owned()));
        let event = format!("{V3}/rooms/{room_id}/event/{}", sticky.event_id());
        alice.get(&event).await.error(404, "M_NOT_FOUND");
        join_bob(rooms, &room).await;
        let found = |answer: &Value| Some(stuck(answer, room_id)).filter(|told| !told.is_empty());
        let (told, since) = wait_for(&alice, &next_batch(&answer), found).await;
        assert_eq!(told, ["sticky"]);
        alice.get(&event).await.ok();
        assert!(stuck(&sync(&alice, Some(&since)).await, room_id).is_empty());
        server.stop().await;
    }
}

two_servers! {
    async fn servers_that_join_get_what_sticks(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let room = create(&pair.alice, json!({ "preset": "public_chat" })).await;
        for number in 0..30 {
            say(&pair.alice, &room, &number.to_string()).await;
            if number == 20 {
                stick(&pair.alice, &room, "sticky").await;
            }
        }
        let since = next_batch(&sync(&pair.bob, None).await);
        join(&pair.bob, &room, &pair.names[0]).await;
        // Nothing of the history before it comes as if it were new.
        let found = |answer: &Value| {
            assert!(timeline(answer, &room).is_empty(), "{answer}");
            let told = stuck(answer, &room);
            told.into_iter().find(|text| text == "sticky")
        };
        wait_for(&pair.bob, &since, found).await;
        let path = format!("{V3}/rooms/{room}/messages?dir=b&limit=100");
        let mut history = texts(&pair.bob.get(&path).await.ok()["chunk"]);
        history.sort();
        let mut said: Vec<String> = (0..30).map(|number| number.to_string()).collect();
        said.push("sticky".to_owned());
        said.sort();
        assert_eq!(history, said);
        // And those that come later go the usual way.
        let since = next_batch(&sync(&pair.alice, None).await);
        stick(&pair.bob, &room, "back").await;
        let found = |answer: &Value| {
            let event = &answer["rooms"]["join"][&room]["timeline"]["events"][0];
            (event["content"]["body"] == "back").then(|| event.clone())
        };
        let (event, _) = wait_for(&pair.alice, &since, found).await;
        assert_eq!(event["msc4354_sticky"], json!({ "duration_ms": MINUTE_MS }));
        for server in pair.servers {
            server.stop().await;
        }
    }
}
