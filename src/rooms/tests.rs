//! The engine from request to store and back, on an SQLite file.

use std::sync::Arc;

use ruma::{OwnedUserId, server_name, user_id};
use serde_json::json;

use super::{EventRequest, Room, RoomSettings, Rooms, SentBy};
use crate::{
    clock::Clock,
    notifier::Notifier,
    protocol::{room_version::RoomVersion, signing::SigningKey},
    storage::{Database, Writer, migrate},
};

async fn open(directory: &tempfile::TempDir) -> Rooms {
    let path = directory.path().join("hearth.db");
    let database = Database::open_sqlite(&path, 2).await.expect("opens");
    migrate(&database).await.expect("migrates");
    let writer = Writer::start(database.clone()).await.expect("starts");
    let key = SigningKey::from_seed("a_test", &[7; 32]).expect("is a key");
    let settings = RoomSettings { memory_bytes: 8 << 20, redaction_retention_ms: None };
    let identity = (server_name!("localhost").to_owned(), key);
    Rooms::load((database, writer), Clock::real(), identity, Notifier::new(), settings)
        .await
        .expect("loads")
}

fn alice() -> OwnedUserId {
    user_id!("@alice:localhost").to_owned()
}

async fn make_room(rooms: &Rooms, version: RoomVersion) -> Arc<Room> {
    let rules = version.rules();
    let content = json!({ "room_version": version.as_str(), "creator": "@alice:localhost" });
    let member = json!({ "membership": "join" });
    let requests = [
        EventRequest::state(alice(), "m.room.create", "", content),
        EventRequest::state(alice(), "m.room.member", "@alice:localhost", member),
        EventRequest::state(alice(), "m.room.join_rules", "", json!({ "join_rule": "public" })),
    ];
    let room_id = (!rules.room_id_is_create_hash)
        .then(|| ruma::RoomId::parse("!made:localhost").expect("is a room ID"));
    rooms.append_new_room(rules, room_id, &requests, None).await.expect("is allowed")
}

#[tokio::test]
async fn rooms_of_every_version_survive_a_restart() {
    for version in ["1", "2", "3", "6", "11", "12"] {
        let directory = tempfile::tempdir().expect("is made");
        let version = RoomVersion::parse(version).expect("is known");
        let rooms = open(&directory).await;
        let room = make_room(&rooms, version).await;
        for number in 0..100 {
            let body = json!({ "msgtype": "m.text", "body": format!("message {number}") });
            let request = EventRequest::message(alice(), "m.room.message", body);
            rooms.send(&room, request).await.expect("is sent");
        }
        let room_id = room.room_id.clone();
        drop((rooms, room));

        let rooms = open(&directory).await;
        let room = rooms.find(&room_id).await.expect("reads").expect("is there");
        let head = room.head();
        assert_eq!((head.depth, head.joined_count, head.state.len()), (103, 1, 3));
        let part = rooms.latest_between(&room, 0, i64::MAX, 20).await.expect("reads");
        assert!(part.has_older);
        let bodies: Vec<_> = part.events.iter().map(|e| e.event.content_json()).collect();
        assert!(bodies[19].contains("message 99") && bodies[0].contains("message 80"));
    }
}

#[tokio::test]
async fn a_transaction_makes_one_event_however_often_it_comes() {
    let directory = tempfile::tempdir().expect("is made");
    let rooms = open(&directory).await;
    let room = make_room(&rooms, RoomVersion::V12).await;
    let request = EventRequest {
        sent_by: Some(SentBy {
            user_id: alice(),
            device_id: "PHONE".to_owned(),
            transaction_id: "1".to_owned(),
            path: "m.room.message".to_owned(),
        }),
        ..EventRequest::message(alice(), "m.room.message", json!({ "body": "once" }))
    };
    let (one, two) =
        tokio::join!(rooms.send(&room, request.clone()), rooms.send(&room, request.clone()));
    let id = one.expect("is sent").event.event_id().to_owned();
    assert_eq!(id, two.expect("is answered").event.event_id());
    let room_id = room.room_id.clone();
    drop((rooms, room));

    let rooms = open(&directory).await;
    let room = rooms.find(&room_id).await.expect("reads").expect("is there");
    let again = rooms.send(&room, request).await.expect("is answered");
    assert_eq!(id, again.event.event_id());
    assert_eq!(again.transaction_id("PHONE"), Some("1"));
}

#[tokio::test]
async fn strangers_cannot_send() {
    let directory = tempfile::tempdir().expect("is made");
    let rooms = open(&directory).await;
    let room = make_room(&rooms, RoomVersion::V11).await;
    let bob = user_id!("@bob:localhost").to_owned();
    let request = EventRequest::message(bob.clone(), "m.room.message", json!({ "body": "hi" }));
    rooms.send(&room, request.clone()).await.expect_err("bob is no member");
    let join = EventRequest::state(
        bob,
        "m.room.member",
        "@bob:localhost",
        json!({ "membership": "join" }),
    );
    rooms.append(&room, &[join, request], None).await.expect("joins and speaks");
    assert_eq!(room.head().joined_count, 2);
}

#[tokio::test]
async fn rooms_made_at_the_same_moment_are_different_rooms() {
    let directory = tempfile::tempdir().expect("is made");
    let rooms = open(&directory).await;
    let made = (0..20).map(|_| make_room(&rooms, RoomVersion::V12));
    let made = futures_util::future::join_all(made).await;
    let ids: std::collections::HashSet<_> = made.iter().map(|room| &room.room_id).collect();
    assert_eq!(ids.len(), 20);
}
