//! Events of other servers: judged, kept, shown (server-server API, "Checks performed on receipt of
//! a PDU").

use std::sync::Arc;

use hearth::{
    protocol::room_version::RoomVersion,
    rooms::{JoinedRoom, OutlierMember, Verdict},
};
use serde_json::{Value, json};

use crate::{
    both_databases,
    graph_room::{BOB, Branch, CAROL, contents, join_bob, public_room, receive, server},
    harness::{Client, Server},
};

fn bodies(sync: &Value, room_id: &str) -> Vec<String> {
    let events = sync["rooms"]["join"][room_id]["timeline"]["events"].as_array();
    let events = events.into_iter().flatten();
    let messages = events.filter(|event| event["type"] == "m.room.message");
    messages.map(|event| event["content"]["body"].as_str().unwrap_or("-").to_owned()).collect()
}

async fn sync(client: &Client, since: Option<&str>) -> Value {
    let since = since.map_or_else(String::new, |since| format!("&since={since}"));
    client.get(&format!("/_matrix/client/v3/sync?timeout=0{since}")).await.ok()
}

both_databases! {
    async fn remote_members_join_speak_and_are_seen(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let rooms = &server_.app.rooms;
        for version in ["1", "2", "3", "6", "10", "11", "12"] {
            let room = public_room(rooms, &alice, version).await;
            let mut bob = join_bob(rooms, &room).await;
            let since = sync(&alice, None).await["next_batch"].as_str().unwrap().to_owned();
            let message = bob.message(BOB, "hello");
            assert_eq!(receive(rooms, &room, &message).await, Verdict::Accepted);
            assert_eq!(receive(rooms, &room, &message).await, Verdict::Known);
            let answer = sync(&alice, Some(&since)).await;
            assert_eq!(bodies(&answer, room.room_id.as_str()), ["hello"], "version {version}");
            let servers = rooms.servers_in_room(&room).await.unwrap();
            let names: Vec<_> = servers.iter().map(|name| name.as_str()).collect();
            assert_eq!(names, ["b.test", "hearth.test"]);
            assert_eq!(room.head().joined_count, 2);
        }
        server_.stop().await;
    }

    async fn events_wait_for_those_they_follow_and_a_restart_loses_none(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let room = public_room(&server_.app.rooms, &alice, "12").await;
        let room_id = room.room_id.clone();
        let mut bob = join_bob(&server_.app.rooms, &room).await;
        let since = sync(&alice, None).await["next_batch"].as_str().unwrap().to_owned();
        let events: Vec<_> =
            ["1", "2", "3", "4"].iter().map(|body| bob.message(BOB, body)).collect();
        for event in events[1..].iter().rev() {
            let verdict = receive(&server_.app.rooms, &room, event).await;
            assert!(matches!(verdict, Verdict::Waiting(_)), "{verdict:?}");
        }
        assert!(bodies(&sync(&alice, Some(&since)).await, room_id.as_str()).is_empty());
        drop(room);
        server_.stop().await;

        let server_ = Server::start(backend).await;
        let alice = server_.reconnect(&alice);
        let rooms = &server_.app.rooms;
        let room = rooms.find(&room_id).await.unwrap().unwrap();
        assert_eq!(receive(rooms, &room, &events[0]).await, Verdict::Accepted);
        let answer = sync(&alice, Some(&since)).await;
        assert_eq!(bodies(&answer, room_id.as_str()), ["1", "2", "3", "4"]);
        assert_eq!(rooms.forward_extremities(&room), [events[3].event_id()]);
        server_.stop().await;
    }

    async fn rejected_events_are_kept_and_may_be_followed(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let rooms = &server_.app.rooms;
        let room = public_room(rooms, &alice, "12").await;
        let mut bob = join_bob(rooms, &room).await;
        let before = contents(rooms, &room).await;
        let mut other = bob.clone();
        let topic = other.topic(BOB, "mine");
        let verdict = receive(rooms, &room, &topic).await;
        assert!(matches!(verdict, Verdict::Rejected(_)), "{verdict:?}");
        bob.tips = other.tips.clone();
        let message = bob.message(BOB, "behind it");
        assert_eq!(receive(rooms, &room, &message).await, Verdict::Accepted);
        assert_eq!(contents(rooms, &room).await, before);
        let kept = rooms.find_any_event(&room, topic.event_id()).await.unwrap().unwrap();
        assert!(kept.is_rejected());
        assert!(rooms.find_event(&room, topic.event_id()).await.unwrap().is_none());
        let shown = rooms.event_for_server(topic.event_id(), server("b.test")).await.unwrap();
        assert!(shown.is_none());
        server_.stop().await;
    }

    async fn evading_a_ban_fails_softly(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let rooms = &server_.app.rooms;
        let room = public_room(rooms, &alice, "12").await;
        let mut bob = join_bob(rooms, &room).await;
        let mut carol = bob.clone();
        let join = carol.member(CAROL, CAROL, "join");
        assert_eq!(receive(rooms, &room, &join).await, Verdict::Accepted);
        bob = carol.clone();
        let path = format!("/_matrix/client/v3/rooms/{}/ban", room.room_id);
        alice.post(&path, &json!({ "user_id": BOB })).await.ok();
        let since = sync(&alice, None).await["next_batch"].as_str().unwrap().to_owned();
        let message = bob.message(BOB, "still here");
        let verdict = receive(rooms, &room, &message).await;
        assert!(matches!(verdict, Verdict::SoftFailed(_)), "{verdict:?}");
        assert!(bodies(&sync(&alice, Some(&since)).await, room.room_id.as_str()).is_empty());
        assert!(!rooms.forward_extremities(&room).contains(&message.event_id().to_owned()));
        // Carol has seen both; what she says is seen, and the ban stays.
        carol.catch_up(rooms, &room).await;
        carol.join_tips(&bob);
        let message = carol.message(CAROL, "I am here too");
        assert_eq!(receive(rooms, &room, &message).await, Verdict::Accepted);
        let answer = sync(&alice, Some(&since)).await;
        assert_eq!(bodies(&answer, room.room_id.as_str()), ["I am here too"]);
        let key = ("m.room.member".to_owned(), BOB.to_owned());
        assert_eq!(contents(rooms, &room).await[&key]["membership"], "ban");
        server_.stop().await;
    }

    async fn redactions_work_before_and_after_what_they_redact(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let rooms = &server_.app.rooms;
        let room = public_room(rooms, &alice, "12").await;
        let mut bob = join_bob(rooms, &room).await;
        let start = bob.clone();
        let first = bob.message(BOB, "first");
        assert_eq!(receive(rooms, &room, &first).await, Verdict::Accepted);
        let mut other = start.clone();
        let second = other.message(BOB, "second");
        let early = bob.redact(BOB, &second);
        assert_eq!(receive(rooms, &room, &early).await, Verdict::Accepted);
        let late = bob.redact(BOB, &first);
        assert_eq!(receive(rooms, &room, &late).await, Verdict::Accepted);
        assert_eq!(receive(rooms, &room, &second).await, Verdict::Accepted);
        for event in [&first, &second] {
            let stored = rooms.find_event(&room, event.event_id()).await.unwrap().unwrap();
            assert_eq!(stored.event.content_json(), "{}");
        }
        server_.stop().await;
    }

    async fn rooms_are_entered_left_and_entered_again(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let user = "@alice:hearth.test";
        let rooms = &server_.app.rooms;
        for version in [RoomVersion::V1, RoomVersion::V10, RoomVersion::V12] {
            let (mut bob, _) = Branch::new_room(version, &format!("r{version}"));
            let invite = bob.member(BOB, user, "invite");
            let name = json!({ "type": "m.room.name", "state_key": "", "sender": BOB,
                "content": { "name": "far away" } });
            let member = OutlierMember {
                room_id: bob.room_id().to_owned(),
                version,
                event: Arc::clone(&invite),
                stripped_state: vec![name],
            };
            rooms.store_outlier_member(member).await.unwrap();
            let answer = sync(&alice, None).await;
            let invited = &answer["rooms"]["invite"][bob.room_id().as_str()]["invite_state"];
            assert_eq!(invited["events"][0]["content"]["name"], "far away");
            assert_eq!(invited["events"][1]["state_key"], user);
            let since = answer["next_batch"].as_str().unwrap().to_owned();

            for round in ["first", "second"] {
                let state: Vec<_> = bob.state.values().cloned().collect();
                let join = bob.member(user, user, "join");
                let joined = JoinedRoom {
                    room_id: bob.room_id().to_owned(),
                    version,
                    origin: server("b.test").to_owned(),
                    join,
                    state,
                    auth_chain: vec![Arc::clone(&invite)],
                    servers: None,
                };
                let room = rooms.import_joined_room(joined).await.unwrap();
                let message = bob.message(BOB, round);
                assert_eq!(receive(rooms, &room, &message).await, Verdict::Accepted);
                let answer = sync(&alice, Some(&since)).await;
                let joined = &answer["rooms"]["join"][bob.room_id().as_str()];
                assert_eq!(bodies(&answer, bob.room_id().as_str()), [round], "{version} {answer}");
                assert_eq!(joined["timeline"]["limited"], true);
                let has_create = |event: &Value| event["type"] == "m.room.create";
                assert!(joined["state"]["events"].as_array().unwrap().iter().any(has_create));
                assert_eq!(joined["summary"]["m.joined_member_count"], 2);
                let leave = format!("/_matrix/client/v3/rooms/{}/leave", bob.room_id());
                alice.post(&leave, &json!({})).await.ok();
                let gone = rooms.is_server_in_room(&room, server("hearth.test")).await.unwrap();
                assert!(!gone);
                bob.catch_up(rooms, &room).await;
                let quiet = bob.message(BOB, "nobody hears this");
                rooms.receive(server("b.test"), &room, quiet).await.unwrap_err();
            }
        }
        server_.stop().await;
    }

    async fn invitations_can_be_taken_back_by_the_server_that_made_them(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let user = "@alice:hearth.test";
        let rooms = &server_.app.rooms;
        let (mut bob, _) = Branch::new_room(RoomVersion::V12, "fickle");
        let event = bob.member(BOB, user, "invite");
        let room_id = bob.room_id().to_owned();
        let stripped_state = Vec::new();
        let version = RoomVersion::V12;
        let member = OutlierMember { room_id: room_id.clone(), version, event, stripped_state };
        rooms.store_outlier_member(member).await.unwrap();
        let since = sync(&alice, None).await["next_batch"].as_str().unwrap().to_owned();
        let room = rooms.find(&room_id).await.unwrap().unwrap();
        let mut carol = bob.clone();
        let forged = carol.member(CAROL, user, "leave");
        rooms.receive(server("c.test"), &room, forged).await.unwrap_err();
        let leave = bob.member(BOB, user, "leave");
        assert_eq!(receive(rooms, &room, &leave).await, Verdict::Accepted);
        let answer = sync(&alice, Some(&since)).await;
        let left = &answer["rooms"]["leave"][room_id.as_str()]["timeline"]["events"];
        assert_eq!(left[0]["content"]["membership"], "leave");
        server_.stop().await;
    }
}
