//! What tools ask about people through the API that they know from Synapse: lists, reports, limits, counts.

use hearth::clock::Clock;
use serde_json::{Value, json};

use crate::{
    administration::{create_room, register_admin, say},
    both_databases,
    harness::Server,
    keyring::CrossSigning,
};

const V1: &str = "/_synapse/admin/v1";

both_databases! {
    async fn people_are_listed_with_or_without_those_who_have_gone(backend: Backend) {
        let server = Server::start(backend).await;
        let (admin, _alice) = (register_admin(&server).await, server.register("alice").await);
        let gone = server.register("gone").await;
        let deactivate = format!("{V1}/deactivate/{}", gone.user_id);
        admin.post(&deactivate, &json!({})).await.ok();
        let names = async |query: &str| {
            let list = admin.get(&format!("/_synapse/admin/v3/users?{query}")).await.ok();
            let users = list["users"].as_array().unwrap().iter();
            let names = users.map(|user| user["name"].as_str().unwrap()[1..].split(':').next().unwrap().to_owned());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names("").await, ["admin", "alice", "gone"]);
        assert_eq!(names("deactivated=true").await, ["gone"]);
        assert_eq!(names("deactivated=false").await, ["admin", "alice"]);
        let path = format!("{V1}/threepid/email/users/nobody@example.org");
        admin.get(&path).await.error(404, "M_NOT_FOUND");
        server.stop().await;
    }

    async fn reports_of_users_reach_the_administrators(backend: Backend) {
        let server = Server::start(backend).await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        let mallory = server.register("mallory").await;
        let report = format!("/_matrix/client/v3/users/{}/report", mallory.user_id);
        alice.post(&report, &json!({ "reason": "rude" })).await.ok();
        let path = format!("{V1}/user_reports");
        alice.get(&path).await.error(403, "M_FORBIDDEN");
        let list = admin.get(&path).await.ok();
        assert_eq!(list["total"], 1);
        let first = &list["user_reports"][0];
        assert_eq!(first["target_user_id"], mallory.user_id);
        assert_eq!((&first["user_id"], &first["reason"]), (&json!(alice.user_id), &json!("rude")));
        assert_eq!(admin.get(&format!("{path}?target_user_id=alice")).await.ok()["total"], 0);
        assert_eq!(admin.get(&format!("{path}?user_id=alice&dir=f")).await.ok()["total"], 1);
        let one = format!("{path}/{}", first["id"]);
        assert_eq!(admin.get(&one).await.ok(), *first);
        admin.delete(&one).await.ok();
        admin.get(&one).await.error(404, "M_NOT_FOUND");
        server.stop().await;
    }

    async fn limits_of_one_user_are_others_than_those_of_all(backend: Backend) {
        let server = Server::start_with(backend, |config| {
            config.rate_limits.enabled = true;
            config.rate_limits.messages.burst = 2;
            config.rate_limits.messages.per_second = 0.001;
        })
        .await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        let room = create_room(&alice, json!({})).await;
        let path = format!("{V1}/users/{}/override_ratelimit", alice.user_id);
        alice.get(&path).await.error(403, "M_FORBIDDEN");
        assert_eq!(admin.get(&path).await.ok(), json!({}));
        let send = async |number: usize| {
            let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{number}");
            alice.put(&path, &json!({ "msgtype": "m.text", "body": "x" })).await.status.as_u16()
        };
        let mut statuses = Vec::new();
        for number in 0..3 {
            statuses.push(send(number).await);
        }
        assert_eq!(statuses, [200, 200, 429]);
        let limit = json!({ "messages_per_second": 0, "burst_count": 0 });
        assert_eq!(admin.post(&path, &limit).await.ok(), limit);
        for number in 3..10 {
            assert_eq!(send(number).await, 200);
        }
        server.stop().await;

        let server = Server::start_with(backend, |config| config.rate_limits.enabled = true).await;
        let [admin, alice] = [&admin, &alice].map(|client| server.reconnect(client));
        assert_eq!(admin.get(&path).await.ok(), limit);
        let limit = json!({ "messages_per_second": 1, "burst_count": 1 });
        admin.post(&path, &limit).await.ok();
        let send = async |number: usize| {
            let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{number}");
            alice.put(&path, &json!({ "msgtype": "m.text", "body": "x" })).await.status.as_u16()
        };
        assert_eq!((send(20).await, send(21).await), (200, 429));
        admin.delete(&path).await.ok();
        assert_eq!(admin.get(&path).await.ok(), json!({}));
        server.stop().await;
    }

    async fn logins_of_administrators_end_when_they_shall(backend: Backend) {
        let clock = Clock::scripted(1_700_000_000_000, 1);
        let server = Server::start_at(backend, clock.clone(), |_| ()).await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        let path = format!("{V1}/users/{}/login", alice.user_id);
        let until = json!({ "valid_until_ms": clock.now_ms() + 60_000 });
        let mut guest = alice.clone();
        let log_in = async |body: &Value| {
            let answer = admin.post(&path, body).await.ok();
            answer["access_token"].as_str().unwrap().to_owned()
        };
        let (short, long) = (log_in(&until).await, log_in(&json!({})).await);
        let whoami = "/_matrix/client/v3/account/whoami";
        guest.access_token = Some(short);
        assert_eq!(guest.get(whoami).await.ok()["user_id"], alice.user_id);
        clock.advance_ms(61_000);
        guest.get(whoami).await.error(401, "M_UNKNOWN_TOKEN");
        guest.access_token = Some(long);
        guest.get(whoami).await.ok();
        server.stop().await;
    }

    async fn entries_and_invitations_of_late_are_counted(backend: Backend) {
        let server = Server::start(backend).await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        let bob = server.register("bob").await;
        let own = create_room(&alice, json!({ "invite": [bob.user_id] })).await;
        let other = create_room(&bob, json!({ "preset": "public_chat" })).await;
        alice.post(&format!("/_matrix/client/v3/join/{other}"), &json!({})).await.ok();
        alice.post(&format!("/_matrix/client/v3/rooms/{other}/leave"), &json!({})).await.ok();
        let invite = format!("/_matrix/client/v3/rooms/{own}/invite");
        alice.post(&invite, &json!({ "user_id": admin.user_id })).await.ok();
        let count = async |what: &str, since: u64| {
            let path = format!("{V1}/users/{}/{what}?from_ts={since}", alice.user_id);
            admin.get(&path).await.ok().as_object().unwrap().values().next().unwrap().clone()
        };
        assert_eq!(count("cumulative_joined_room_count", 0).await, 2);
        assert_eq!(count("sent_invite_count", 0).await, 2);
        for what in ["cumulative_joined_room_count", "sent_invite_count"] {
            assert_eq!(count(what, 99_999_999_999_999).await, 0);
        }
        server.stop().await;
    }

    async fn keys_are_replaced_without_proof_when_an_administrator_allows_it(backend: Backend) {
        let server = Server::start(backend).await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        let path = format!("{V1}/users/{}/_allow_cross_signing_replacement_without_uia", alice.user_id);
        admin.post(&path, &json!({})).await.error(404, "M_NOT_FOUND");
        let upload = "/_matrix/client/v3/keys/device_signing/upload";
        alice.post(upload, &CrossSigning::new(&alice, 1).upload()).await.ok();
        let other = CrossSigning::new(&alice, 2).upload();
        assert_eq!(alice.post(upload, &other).await.status, 401);
        let allowed = admin.post(&path, &json!({})).await.ok();
        assert!(allowed["updatable_without_uia_before_ms"].is_u64(), "{allowed}");
        alice.post(upload, &other).await.ok();
        server.stop().await;
    }

    async fn what_takes_a_while_is_listed(backend: Backend) {
        let server = Server::start(backend).await;
        let (admin, alice) = (register_admin(&server).await, server.register("alice").await);
        let room = create_room(&alice, json!({})).await;
        say(&alice, &room, "rude words").await;
        let redact = format!("{V1}/user/{}/redact", alice.user_id);
        let redaction = admin.post(&redact, &json!({ "rooms": [] })).await.ok();
        let done = async |id: &Value, query: &str| loop {
            let path = format!("{V1}/scheduled_tasks?{query}");
            let tasks = admin.get(&path).await.ok();
            let mut tasks = tasks["scheduled_tasks"].as_array().unwrap().iter();
            if let Some(task) = tasks.find(|task| task["id"] == *id && task["status"] != "active") {
                return task.clone();
            }
        };
        let query = format!("resource_id={}&status=complete", alice.user_id);
        let task = done(&redaction["redact_id"], &query).await;
        assert_eq!((&task["action"], &task["error"]), (&json!("redact_all_events"), &Value::Null));
        let delete = format!("/_synapse/admin/v2/rooms/{room}");
        let deletion = admin.delete_with(&delete, &json!({})).await.ok();
        let task = done(&deletion["delete_id"], "action_name=shutdown_and_purge_room").await;
        assert_eq!(task["resource_id"], json!(room));
        let none = admin.get(&format!("{V1}/scheduled_tasks?max_timestamp=1")).await.ok();
        assert_eq!(none["scheduled_tasks"], json!([]));
        let features = format!("{V1}/experimental_features/{}", alice.user_id);
        assert_eq!(admin.get(&features).await.ok(), json!({ "features": {} }));
        let body = json!({ "features": { "msc3881": true } });
        admin.put(&features, &body).await.error(400, "M_UNKNOWN");
        let path = format!("{V1}/auth_providers/oidc/users/somebody");
        admin.get(&path).await.error(404, "M_NOT_FOUND");
        server.stop().await;
    }
}
