//! Presence (Client-Server API, "Presence"): who sees whom, and as what.

use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{make_room, next_batch, register, sync, wait_for},
    harness::{Client, Server},
};

fn path(user: &Client) -> String {
    format!("/_matrix/client/v3/presence/{}/status", user.user_id)
}

/// The content of the last presence of a user in an answer.
fn presence<'a>(user: &'a Client) -> impl Fn(&Value) -> Option<Value> + 'a {
    move |answer| {
        let events = answer["presence"]["events"].as_array()?;
        let event = events.iter().rfind(|event| event["sender"] == user.user_id)?;
        assert_eq!(event["type"], "m.presence");
        Some(event["content"].clone())
    }
}

both_databases! {
    async fn presence_is_for_those_who_share_a_room(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        make_room(&[alice, bob]).await;
        let since = next_batch(&sync(bob, None).await);
        let strange = next_batch(&sync(carol, None).await);
        let body = json!({ "presence": "online", "status_msg": "Here \"I\" am" });
        alice.put(&path(alice), &body).await.ok();
        let (seen, since) = wait_for(bob, &since, presence(alice)).await;
        assert_eq!(seen["presence"], "online");
        assert_eq!(seen["status_msg"], "Here \"I\" am");
        assert_eq!(seen["currently_active"], true);
        assert!(seen["last_active_ago"].is_u64(), "{seen}");
        assert_eq!(presence(alice)(&sync(carol, Some(&strange)).await), None);
        let initial = presence(alice)(&sync(bob, None).await);
        assert_eq!(initial.unwrap()["presence"], "online");
        carol.get(&path(alice)).await.error(403, "M_FORBIDDEN");
        assert_eq!(bob.get(&path(alice)).await.ok()["presence"], "online");
        assert_eq!(carol.get(&path(carol)).await.ok()["presence"], "offline");
        alice.put(&path(alice), &json!({ "presence": "unavailable" })).await.ok();
        let (seen, _) = wait_for(bob, &since, presence(alice)).await;
        assert_eq!(seen["presence"], "unavailable");
        assert!(seen.get("currently_active").is_none(), "{seen}");
        server.stop().await;
    }

    async fn who_syncs_is_online_and_then_no_more(backend: Backend) {
        let server = Server::start_with(backend, |config| {
            config.presence.offline_after = std::time::Duration::from_millis(300);
        })
        .await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        make_room(&[alice, bob]).await;
        let since = next_batch(&sync(bob, None).await);
        // Who hides stays hidden.
        sync(alice, None).await;
        assert_eq!(bob.get(&path(alice)).await.ok()["presence"], "offline");
        alice.get("/_matrix/client/v3/sync?set_presence=unavailable").await.ok();
        let (seen, since) = wait_for(bob, &since, presence(alice)).await;
        assert_eq!(seen["presence"], "unavailable");
        let offline = |answer: &Value| {
            presence(alice)(answer).filter(|content| content["presence"] == "offline")
        };
        let (_, since) = wait_for(bob, &since, offline).await;
        alice.get("/_matrix/client/v3/sync").await.ok();
        let (seen, _) = wait_for(bob, &since, presence(alice)).await;
        assert_eq!(seen["presence"], "online");
        server.stop().await;
    }

    async fn who_joins_is_seen_by_those_who_are_there(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[bob]).await;
        let body = json!({ "presence": "unavailable", "status_msg": "new here" });
        alice.put(&path(alice), &body).await.ok();
        let since = next_batch(&sync(bob, None).await);
        alice.post(&format!("/_matrix/client/v3/join/{room}"), &json!({})).await.ok();
        let (seen, _) = wait_for(bob, &since, presence(alice)).await;
        assert_eq!(seen["status_msg"], "new here");
        server.stop().await;
    }

    async fn who_joins_sees_those_who_are_there(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        let room = make_room(&[bob]).await;
        for user in [bob, carol] {
            let body = json!({ "presence": "unavailable", "status_msg": "was here" });
            user.put(&path(user), &body).await.ok();
        }
        let since = next_batch(&sync(alice, None).await);
        alice.post(&format!("/_matrix/client/v3/join/{room}"), &json!({})).await.ok();
        let answer = sync(alice, Some(&since)).await;
        assert_eq!(presence(bob)(&answer).unwrap()["status_msg"], "was here");
        assert_eq!(presence(carol)(&answer), None);
        let since = next_batch(&answer);
        assert_eq!(presence(bob)(&sync(alice, Some(&since)).await), None);
        server.stop().await;
    }

    async fn status_message_survives_a_restart(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let set = async |client: &Client, message: Value| {
            let body = json!({ "presence": "online", "status_msg": message });
            client.put(&path(client), &body).await.ok();
        };
        set(&alice, json!("away until \u{0} \"May\"")).await;
        server.kill().await;
        let server = Server::start(backend).await;
        let alice = server.reconnect(&alice);
        let status = alice.get(&path(&alice)).await.ok();
        assert_eq!(status["presence"], "offline");
        assert_eq!(status["status_msg"], "away until \u{0} \"May\"");
        set(&alice, Value::Null).await;
        server.kill().await;
        let server = Server::start(backend).await;
        let status = server.reconnect(&alice).get(&path(&alice)).await.ok();
        assert_eq!(status.get("status_msg"), None);
        server.stop().await;
    }

    async fn bad_presence_is_refused(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let body = json!({ "presence": "online" });
        alice.put(&path(bob), &body).await.error(403, "M_FORBIDDEN");
        let busy = json!({ "presence": "asleep" });
        alice.put(&path(alice), &busy).await.error(400, "M_INVALID_PARAM");
        let long = json!({ "presence": "online", "status_msg": "x".repeat(1025) });
        alice.put(&path(alice), &long).await.error(400, "M_INVALID_PARAM");
        let query = "/_matrix/client/v3/sync?set_presence=asleep";
        alice.get(query).await.error(400, "M_INVALID_PARAM");
        server.stop().await;
    }

    async fn presence_can_be_switched_off(backend: Backend) {
        let server = Server::start_with(backend, |config| config.presence.enabled = false).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        make_room(&[alice, bob]).await;
        alice.put(&path(alice), &json!({ "presence": "online" })).await.ok();
        assert_eq!(bob.get(&path(alice)).await.ok()["presence"], "offline");
        assert!(sync(bob, None).await.get("presence").is_none());
        server.stop().await;
    }
}
