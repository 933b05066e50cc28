//! Typing notices (Client-Server API, "Typing Notifications").

use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{ephemeral, make_room, next_batch, register, sync, wait_for},
    harness::{Client, Server},
};

fn path(room: &str, user: &Client) -> String {
    format!("/_matrix/client/v3/rooms/{room}/typing/{}", user.user_id)
}

fn typists(room: &str) -> impl Fn(&Value) -> Option<Value> + '_ {
    move |answer| ephemeral(answer, room, "m.typing").map(|content| content["user_ids"].clone())
}

both_databases! {
    async fn typing_is_seen_until_it_ends(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let since = next_batch(&sync(bob, None).await);
        let body = json!({ "typing": true, "timeout": 30_000 });
        alice.put(&path(&room, alice), &body).await.ok();
        let (seen, since) = wait_for(bob, &since, typists(&room)).await;
        assert_eq!(seen, json!([alice.user_id]));
        let initial = sync(bob, None).await;
        assert_eq!(typists(&room)(&initial), Some(json!([alice.user_id])));
        alice.put(&path(&room, alice), &json!({ "typing": false })).await.ok();
        let (seen, _) = wait_for(bob, &since, typists(&room)).await;
        assert_eq!(seen, json!([]));
        // All of a room is told, also that nothing passes.
        let initial = sync(bob, None).await;
        assert_eq!(initial["rooms"]["join"][&room]["ephemeral"], json!({ "events": [] }));
        server.stop().await;
    }

    async fn who_is_gone_types_no_more(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        let room = make_room(&[bob, alice, carol]).await;
        let mut since = next_batch(&sync(bob, None).await);
        for typist in [alice, carol] {
            let body = json!({ "typing": true, "timeout": 60_000 });
            typist.put(&path(&room, typist), &body).await.ok();
            (_, since) = wait_for(bob, &since, typists(&room)).await;
        }
        alice.post(&format!("/_matrix/client/v3/rooms/{room}/leave"), &json!({})).await.ok();
        let (seen, since) = wait_for(bob, &since, typists(&room)).await;
        assert_eq!(seen, json!([carol.user_id]));
        let kick = json!({ "user_id": carol.user_id });
        bob.post(&format!("/_matrix/client/v3/rooms/{room}/kick"), &kick).await.ok();
        let (seen, _) = wait_for(bob, &since, typists(&room)).await;
        assert_eq!(seen, json!([]));
        server.stop().await;
    }

    async fn typing_ends_by_itself(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let since = next_batch(&sync(bob, None).await);
        let body = json!({ "typing": true, "timeout": 300 });
        alice.put(&path(&room, alice), &body).await.ok();
        let ended = |answer: &Value| typists(&room)(answer).filter(|users| *users == json!([]));
        wait_for(bob, &since, ended).await;
        server.stop().await;
    }

    async fn nobody_types_for_others_or_elsewhere(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice]).await;
        let body = json!({ "typing": true });
        alice.put(&path(&room, bob), &body).await.error(403, "M_FORBIDDEN");
        bob.put(&path(&room, bob), &body).await.error(403, "M_FORBIDDEN");
        let missing = json!({ "timeout": 5 });
        alice.put(&path(&room, alice), &missing).await.error(400, "M_BAD_JSON");
        server.stop().await;
    }
}
