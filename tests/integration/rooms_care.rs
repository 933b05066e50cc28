//! Looking after rooms: every table that is derived from events is damaged in turn; the check names it, the rebuild
//! mends it. And the end of states that nothing names any more.

use std::sync::Arc;

use hearth::{
    app::{StoppedServer, open_database},
    clock::Clock,
    protocol::room_version::RoomVersion,
    rooms::{Room, Rooms, Verdict},
    storage::{Database, StateNid},
};
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};

use crate::{
    both_databases,
    graph_forks::enter,
    graph_room::{BOB, Branch, CAROL, receive},
    harness::{Backend, Client, Server},
};

async fn damage(backend: &Backend, sql: &'static str) {
    let database = open_database(&backend.config()).await.unwrap();
    let mut tx = database.begin().await.unwrap();
    assert!(tx.execute(sql, &[]).await.unwrap() > 0, "{sql}: there is nothing to damage");
    tx.commit().await.unwrap();
    database.close().await;
}

/// Damages a room, has the check say so with these words and the rebuild mend it.
async fn check_and_mend(backend: &Backend, room: &RoomId, sql: &'static str, words: &str) {
    damage(backend, sql).await;
    let stopped = StoppedServer::open(&backend.config(), Clock::real()).await.unwrap();
    let found = stopped.rooms.check_room(room, &|_, _| ()).await.unwrap().unwrap();
    assert!(found.iter().any(|sentence| sentence.contains(words)), "{sql}: {found:#?}");
    let mended = stopped.rooms.rebuild_room(room, &|_, _| ()).await.unwrap().unwrap();
    assert!(mended.len() >= found.len().min(1), "{sql}: {mended:#?}");
    let left = stopped.rooms.check_room(room, &|_, _| ()).await.unwrap().unwrap();
    assert!(left.is_empty(), "{sql} left {left:#?}");
    stopped.close().await;
    // What was written, not what memory has.
    assert_eq!(check(backend, room).await, Vec::<String>::new(), "{sql}");
}

async fn check(backend: &Backend, room: &RoomId) -> Vec<String> {
    let stopped = StoppedServer::open(&backend.config(), Clock::real()).await.unwrap();
    let found = stopped.rooms.check_room(room, &|_, _| ()).await.unwrap().unwrap();
    stopped.close().await;
    found
}

async fn say(client: &Client, room: &RoomId, transaction: &str, content: Value) -> String {
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{transaction}");
    client.put(&path, &content).await.ok()["event_id"].as_str().unwrap().to_owned()
}

/// A room with something of everything that is derived.
async fn make_lively_room(backend: &Backend, version: &str) -> OwnedRoomId {
    let server = Server::start(backend).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let body = json!({
        "preset": "public_chat", "room_version": version, "name": "Care", "topic": "of rooms",
        "invite": [carol.user_id],
    });
    let answer = alice.post("/_matrix/client/v3/createRoom", &body).await.ok();
    let room: OwnedRoomId = answer["room_id"].as_str().unwrap().try_into().unwrap();
    let act = async |client: &Client, action: &str, body: Value| {
        client.post(&format!("/_matrix/client/v3/rooms/{room}/{action}"), &body).await.ok()
    };
    act(&bob, "join", json!({})).await;
    let text = |body: &str| json!({ "msgtype": "m.text", "body": body });
    let root = say(&alice, &room, "1", text("the root of everything")).await;
    let mut reply = text("in the thread");
    reply["m.relates_to"] = json!({ "rel_type": "m.thread", "event_id": root });
    say(&bob, &room, "2", reply).await;
    let mut edit = text("* the stem of everything");
    edit["m.new_content"] = text("the stem of everything");
    edit["m.relates_to"] = json!({ "rel_type": "m.replace", "event_id": root });
    say(&alice, &room, "3", edit).await;
    let gone = say(&alice, &room, "4", text("nobody shall know")).await;
    let path = format!("/_matrix/client/v3/rooms/{room}/redact/{gone}/5");
    alice.put(&path, &json!({})).await.ok();
    for number in 0..20 {
        let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.topic");
        alice.put(&path, &json!({ "topic": format!("topic {number}") })).await.ok();
    }
    act(&bob, "leave", json!({})).await;
    act(&bob, "forget", json!({})).await;
    let criteria = json!({ "search_categories": { "room_events": { "search_term": "stem" } } });
    let found = alice.post("/_matrix/client/v3/search", &criteria).await.ok();
    assert_eq!(found["search_categories"]["room_events"]["count"], 1);
    server.stop().await;
    room
}

/// A room of Bob's that Alice has joined, which forks, is merged, and has a gap.
async fn enter_forked_room(rooms: &Rooms) -> Arc<Room> {
    let (room, mut bob) = enter(rooms, RoomVersion::V12, "forked").await;
    let mut carol = bob.clone();
    let topic = carol.topic(CAROL, "Carol's");
    assert_eq!(receive(rooms, &room, &topic).await, Verdict::Accepted);
    let ban = bob.member(BOB, CAROL, "ban");
    assert_eq!(receive(rooms, &room, &ban).await, Verdict::Accepted);
    let late = carol.message(CAROL, "am I still here?");
    assert!(matches!(receive(rooms, &room, &late).await, Verdict::SoftFailed(_)));
    room
}

/// Where the room stands, and who is in it.
const DAMAGES_OF_ROOM: [(&str, &str); 12] = [
    ("UPDATE rooms SET joined_count = joined_count + 5", "the count of joined members"),
    ("UPDATE rooms SET invited_count = 7", "the count of invited members"),
    ("UPDATE rooms SET depth = 1", "the depth"),
    ("UPDATE rooms SET notify_ordinal = 999", "the count of events that notify"),
    ("UPDATE rooms SET latest_position = 1", "the position of the latest event"),
    ("UPDATE rooms SET extremities = '[1]'", "the ends of the room's graph"),
    ("UPDATE rooms SET extremities = 'nonsense'", "the ends of the room's graph"),
    ("UPDATE rooms SET state_nid = 1", "the current state"),
    ("UPDATE rooms SET state_nid = 123456789", "the current state"),
    ("DELETE FROM memberships", "is not noted"),
    ("UPDATE memberships SET membership = 5", "the membership of @alice:hearth.test"),
    ("INSERT INTO memberships VALUES (99999, 1, 1, 1, 1, 0)", "that no event gives"),
];

/// What is derived of single events.
const DAMAGES_OF_EVENTS: [(&str, &str); 12] = [
    ("DELETE FROM relations", "the relation of an event is not noted"),
    ("UPDATE relations SET sender = '@mallory:hearth.test'", "a relation is noted"),
    ("DELETE FROM auth_edges", "is not noted to authorise"),
    ("UPDATE auth_edges SET child_key_nid = 4", "is noted to authorise"),
    ("DELETE FROM room_summaries", "what the directory shows"),
    ("UPDATE room_summaries SET name = 'something else'", "what the directory shows"),
    ("DELETE FROM search_terms", "the search"),
    ("DELETE FROM event_keys", "cannot be found by its ID"),
    ("DELETE FROM state_snapshots", "the state before"),
    ("UPDATE events SET state_nid = 1", "the state before"),
    ("UPDATE events SET replaces_nid = 1", "what "),
    ("UPDATE events SET notify_ordinal = 77", "is not counted"),
];

both_databases! {
    async fn damage_to_where_a_room_stands_is_named_and_mended(backend: Backend) {
        let room = make_lively_room(backend, "12").await;
        for (sql, words) in DAMAGES_OF_ROOM {
            check_and_mend(backend, &room, sql, words).await;
        }
    }

    async fn damage_to_what_events_say_is_named_and_mended(backend: Backend) {
        let room = make_lively_room(backend, "12").await;
        assert_eq!(check(backend, &room).await, Vec::<String>::new());
        for (sql, words) in DAMAGES_OF_EVENTS {
            check_and_mend(backend, &room, sql, words).await;
        }
        damage(backend, "DELETE FROM state_snapshots WHERE nid % 3 = 0").await;
        check_and_mend(backend, &room, "DELETE FROM memberships", "the state before").await;
        // The room works as before, and what its members forgot stays forgotten.
        let server = Server::start(backend).await;
        let (alice, bob) = (server.login("alice").await, server.login("bob").await);
        let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.topic");
        assert_eq!(alice.get(&path).await.ok()["topic"], "topic 19");
        say(&alice, &room, "after", json!({ "msgtype": "m.text", "body": "all is well" })).await;
        let criteria = json!({ "search_categories": { "room_events": { "search_term": "stem" } } });
        let found = alice.post("/_matrix/client/v3/search", &criteria).await.ok();
        assert_eq!(found["search_categories"]["room_events"]["count"], 1);
        bob.post(&format!("/_matrix/client/v3/rooms/{room}/join"), &json!({})).await.ok();
        server.stop().await;
        assert_eq!(check(backend, &room).await, Vec::<String>::new());
    }

    async fn rooms_of_every_kind_of_version_are_found_right(backend: Backend) {
        for version in ["1", "2", "5", "10"] {
            let other = Backend::sqlite();
            let room = make_lively_room(&other, version).await;
            assert_eq!(check(&other, &room).await, Vec::<String>::new(), "version {version}");
        }
        let room = make_lively_room(backend, "6").await;
        assert_eq!(check(backend, &room).await, Vec::<String>::new());
    }

    async fn forks_and_gaps_are_checked_and_mended(backend: Backend) {
        let server_ = Server::start(backend).await;
        server_.register("alice").await;
        let room = enter_forked_room(&server_.app.rooms).await;
        let report = server_.app.rooms.report(&room).await.unwrap();
        assert_eq!((report.extremities.len(), report.fork_count), (2, 1));
        assert_eq!(report.verdicts.len(), 1, "{report:?}");
        let found = server_.app.rooms.check_room(&room.room_id, &|_, _| ()).await.unwrap();
        assert_eq!(found, Some(Vec::new()), "beside a running server");
        let id = room.room_id.clone();
        drop(room);
        server_.stop().await;
        for (sql, words) in [
            ("DELETE FROM room_forks", "fork"),
            ("UPDATE room_forks SET state_nid = 1", "fork"),
            ("DELETE FROM state_changes", "fork"),
            ("UPDATE state_changes SET event_nid = 1", "fork"),
            ("UPDATE events SET flags = flags & ~32 WHERE flags & 32 = 32", "fork"),
            ("DELETE FROM missing_events", "a gap before an event"),
            ("UPDATE missing_events SET ordering = 3", "counts as missing"),
            ("UPDATE rooms SET extremities = '[1]'", "the ends of the room's graph"),
            ("UPDATE rooms SET state_nid = 1", "the current state"),
            ("DELETE FROM memberships", "is not noted"),
            ("INSERT INTO awaited_events VALUES ('x', 99999, 1)", "counts as waiting"),
        ] {
            check_and_mend(backend, &id, sql, words).await;
        }
    }

    async fn states_that_nothing_names_are_collected(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let rooms = &server_.app.rooms;
        let room = enter_forked_room(rooms).await;
        // Two topics at once: one of them holds, and the state with the other is that of an extremity alone.
        let mut one = Branch::of_room(rooms, &room).await;
        let mut two = one.clone();
        for topic in [one.topic(BOB, "one"), two.topic(BOB, "two")] {
            assert_eq!(receive(rooms, &room, &topic).await, Verdict::Accepted);
        }
        let before = count_states(rooms.database()).await;
        // The event of our own merges the fork, whose states nobody names any more.
        say(&alice, &room.room_id, "1", json!({ "msgtype": "m.text", "body": "one again" })).await;
        let condemned = rooms.condemn_states().await.unwrap();
        assert!(condemned.count() > 0);
        // What is built meanwhile counts, whatever it builds upon.
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.test", room.room_id);
        for number in 0..5 {
            let answer = alice.put(&path, &json!({ "n": number })).await;
            assert!(answer.status == 403 || answer.status == 200);
        }
        let deleted = rooms.delete_condemned(condemned).await.unwrap();
        assert!(deleted > 0);
        assert!(count_states(rooms.database()).await < before + 5);
        assert_eq!(rooms.condemn_states().await.unwrap().count(), 0);
        let found = rooms.check_room(&room.room_id, &|_, _| ()).await.unwrap();
        assert_eq!(found, Some(Vec::new()));
        let (id, head) = (room.room_id.clone(), room.head());
        drop((room, head));
        server_.stop().await;
        assert_eq!(check(backend, &id).await, Vec::<String>::new());
    }

    async fn states_of_a_deleted_room_are_collected(backend: Backend) {
        let room = make_lively_room(backend, "12").await;
        let server = Server::start(backend).await;
        let rooms = &server.app.rooms;
        let found = rooms.find(&room).await.unwrap().unwrap();
        rooms.purge(&found).await.unwrap();
        drop(found);
        let condemned = rooms.condemn_states().await.unwrap();
        rooms.delete_condemned(condemned).await.unwrap();
        assert_eq!(count_states(rooms.database()).await, 0);
        assert!(rooms.find_state(StateNid(1)).await.unwrap().is_none());
        server.stop().await;
    }
}

async fn count_states(database: &Database) -> i64 {
    let sql = "SELECT count(*) FROM state_snapshots";
    database.fetch_one::<(i64,)>(sql, &[]).await.unwrap().0
}
