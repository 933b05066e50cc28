//! What follows in rooms from a change of an account, also when the server stops meanwhile.

use std::sync::Arc;

use hearth::{
    protocol::{membership::Membership, room_version::RoomVersion},
    rooms::{DirectoryVisibility, MemberChange, NewRoom, Room},
};
use ruma::{RoomId, UserId};
use serde_json::{Map, Value, json};

use crate::{
    both_databases,
    harness::{Client, Server},
};

async fn create_room(server: &Server, creator: &Client) -> Arc<Room> {
    let new = NewRoom {
        creator: UserId::parse(&creator.user_id).unwrap(),
        version: RoomVersion::V12,
        visibility: DirectoryVisibility::Public,
        preset: None,
        name: None,
        topic: None,
        invites: Vec::new(),
        creator_profile: Map::new(),
        creation_content: Map::new(),
        initial_state: Vec::new(),
        power_level_content_override: Map::new(),
    };
    server.app.rooms.create(&new, None).await.unwrap()
}

async fn join(server: &Server, room: &Arc<Room>, client: &Client) {
    let user_id = UserId::parse(&client.user_id).unwrap();
    let change = MemberChange {
        sender: user_id.clone(),
        target: user_id,
        membership: Membership::Join,
        content: Map::new(),
        is_guest: false,
    };
    server.app.rooms.join(room, change).await.unwrap();
}

/// Waits until the member event's content fulfils `done`.
async fn wait_for_member(
    server: &Server,
    room_id: &RoomId,
    user_id: &str,
    done: impl Fn(&Value) -> bool,
) {
    let user_id = UserId::parse(user_id).unwrap();
    let mut positions = server.app.writer.subscribe();
    loop {
        positions.borrow_and_update();
        let room = server.app.rooms.find(room_id).await.unwrap().unwrap();
        let member = server.app.rooms.find_member(&room, &user_id).await.unwrap().unwrap();
        if done(&member.event.content_as().unwrap()) {
            return;
        }
        positions.changed().await.unwrap();
    }
}

both_databases! {
    async fn changed_name_reaches_every_room_even_over_a_restart(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let mut rooms = Vec::new();
        for _ in 0..3 {
            let room = create_room(&server, &bob).await;
            join(&server, &room, &alice).await;
            rooms.push(room.room_id.clone());
        }
        let path = format!("/_matrix/client/v3/profile/{}/displayname", alice.user_id);
        alice.put(&path, &json!({ "displayname": "Wonder" })).await.ok();
        for room in &rooms {
            let done = |content: &Value| content["displayname"] == "Wonder";
            wait_for_member(&server, room, &alice.user_id, done).await;
        }
        alice.put(&path, &json!({ "displayname": "Land" })).await.ok();
        server.kill().await;
        let server = Server::start(backend).await;
        for room in &rooms {
            let done = |content: &Value| {
                content["displayname"] == "Land" && content["membership"] == "join"
            };
            wait_for_member(&server, room, &alice.user_id, done).await;
        }
    }

    async fn erased_messages_are_hidden_from_who_comes_later(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = create_room(&server, &bob).await;
        join(&server, &room, &alice).await;
        let send = |number: u32, content: Value| {
            let path = format!(
                "/_matrix/client/v3/rooms/{}/send/m.room.message/{number}", room.room_id
            );
            let alice = &alice;
            async move {
                let answer = alice.put(&path, &content).await.ok();
                answer["event_id"].as_str().unwrap().to_owned()
            }
        };
        let secret = json!({ "msgtype": "m.text", "body": "my secret" });
        let said = send(1, secret.clone()).await;
        let edit = json!({ "msgtype": "m.text", "body": "* my secret", "m.new_content": secret,
            "m.relates_to": { "rel_type": "m.replace", "event_id": said } });
        send(2, edit).await;
        let deactivate = "/_matrix/client/v3/account/deactivate";
        alice.post_with_password(deactivate, &json!({ "erase": true })).await.ok();
        let left = |content: &Value| content["membership"] == "leave";
        wait_for_member(&server, &room.room_id, &alice.user_id, left).await;
        let carol = server.register("carol").await;
        join(&server, &room, &carol).await;
        let event = format!("/_matrix/client/v3/rooms/{}/event/{said}", room.room_id);
        let messages = format!("/_matrix/client/v3/rooms/{}/messages?dir=b", room.room_id);
        let check = async |bob: &Client, carol: &Client| {
            assert_eq!(bob.get(&event).await.ok()["content"], secret);
            assert_eq!(carol.get(&event).await.ok()["content"], json!({}));
            for path in [&messages, &event, &"/_matrix/client/v3/sync".to_owned()] {
                assert!(bob.get(path).await.ok().to_string().contains("my secret"), "{path}");
                let answer = carol.get(path).await.ok().to_string();
                assert!(!answer.contains("my secret"), "{path}: {answer}");
            }
        };
        check(&bob, &carol).await;
        server.kill().await;
        let server = Server::start(backend).await;
        check(&server.reconnect(&bob), &server.reconnect(&carol)).await;
    }

    async fn deactivated_user_leaves_every_room_even_over_a_restart(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = create_room(&server, &bob).await;
        join(&server, &room, &alice).await;
        let own = create_room(&server, &alice).await;
        let deactivate = "/_matrix/client/v3/account/deactivate";
        alice.post_with_password(deactivate, &json!({})).await.ok();
        server.kill().await;
        let server = Server::start(backend).await;
        for room in [&room.room_id, &own.room_id] {
            let done = |content: &Value| content["membership"] == "leave";
            wait_for_member(&server, room, &alice.user_id, done).await;
        }
    }
}
