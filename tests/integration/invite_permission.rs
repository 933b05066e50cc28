//! Whose invitations users take (Client-Server API, "Invite permission", "Ignoring Users"; MSC4155).

use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{register, sync},
    harness::{Answer, Client, Server},
    sliding_sync::{all_rooms, poll},
};

async fn set_data(client: &Client, kind: &str, content: Value) {
    let path = format!("/_matrix/client/v3/user/{}/account_data/{kind}", client.user_id);
    client.put(&path, &content).await.ok();
}

async fn filter(client: &Client, content: Value) {
    set_data(client, "org.matrix.msc4155.invite_permission_config", content).await;
}

/// Makes a room and invites somebody to it; the room and the answer.
async fn invite(inviter: &Client, guest: &Client) -> (String, Answer) {
    let room = inviter.post("/_matrix/client/v3/createRoom", &json!({})).await.ok();
    let room = room["room_id"].as_str().unwrap().to_owned();
    let path = format!("/_matrix/client/v3/rooms/{room}/invite");
    let answer = inviter.post(&path, &json!({ "user_id": guest.user_id })).await;
    (room, answer)
}

/// How many invitations a user sees: by `/sync`, sliding sync and `/initialSync`, which agree.
async fn count_invites(client: &Client) -> usize {
    let answer = sync(client, None).await;
    let rooms = answer["rooms"]["invite"].as_object().map_or(0, serde_json::Map::len);
    let sliding = poll(client, None, &all_rooms(1, &json!([]))).await.ok();
    assert_eq!(sliding["lists"]["all"]["count"], rooms, "{sliding}");
    let old = client.get("/_matrix/client/v3/initialSync").await.ok();
    assert_eq!(old["rooms"].as_array().unwrap().len(), rooms, "{old}");
    rooms
}

both_databases! {
    async fn invitations_are_taken_ignored_or_refused(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        filter(alice, json!({ "blocked_users": ["@bo?:*"], "ignored_users": [carol.user_id] }))
            .await;
        let (room, answer) = invite(bob, alice).await;
        answer.error(403, "M_INVITE_BLOCKED");
        let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/{}", alice.user_id);
        let member = json!({ "membership": "invite" });
        bob.put(&path, &member).await.error(403, "M_INVITE_BLOCKED");
        let body = json!({ "invite": [alice.user_id] });
        bob.post("/_matrix/client/v3/createRoom", &body).await.error(403, "M_INVITE_BLOCKED");
        let (room, answer) = invite(carol, alice).await;
        answer.ok();
        assert_eq!(count_invites(alice).await, 0);
        // The room itself knows of the invitation, and who is invited may join.
        let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/{}", alice.user_id);
        assert_eq!(carol.get(&path).await.ok()["membership"], "invite");
        filter(alice, json!({ "enabled": false, "blocked_servers": ["*"] })).await;
        assert_eq!(count_invites(alice).await, 1);
        invite(bob, alice).await.1.ok();
        assert_eq!(count_invites(alice).await, 2);
        filter(alice, json!({ "allowed_users": [bob.user_id], "blocked_servers": ["hearth.*"] }))
            .await;
        assert_eq!(count_invites(alice).await, 1);
        invite(bob, alice).await.1.ok();
        invite(carol, alice).await.1.error(403, "M_INVITE_BLOCKED");
        server.stop().await;
    }

    async fn who_refuses_all_sees_none(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        invite(bob, alice).await.1.ok();
        assert_eq!(count_invites(alice).await, 1);
        set_data(alice, "m.invite_permission_config", json!({ "default_action": "block" })).await;
        assert_eq!(count_invites(alice).await, 0);
        set_data(alice, "m.invite_permission_config", json!({})).await;
        assert_eq!(count_invites(alice).await, 1);
        let ignored = json!({ "ignored_users": { (bob.user_id.as_str()): {} } });
        set_data(alice, "m.ignored_user_list", ignored).await;
        assert_eq!(count_invites(alice).await, 0);
        invite(bob, alice).await.1.ok();
        server.stop().await;
    }

    async fn invitations_that_are_not_seen_notify_nobody(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        filter(alice, json!({ "ignored_servers": ["*"] })).await;
        invite(bob, alice).await.1.ok();
        filter(alice, json!({})).await;
        let list = alice.get("/_matrix/client/v3/notifications").await.ok();
        assert_eq!(list["notifications"], json!([]));
        invite(bob, alice).await.1.ok();
        let list = alice.get("/_matrix/client/v3/notifications").await.ok();
        assert_eq!(list["notifications"].as_array().unwrap().len(), 1, "{list}");
        server.stop().await;
    }
}
