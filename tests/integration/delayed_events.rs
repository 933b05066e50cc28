//! Delayed events (MSC4140), and smaller things that clients use before they are specified.

use hearth::{accounts::flags::AccountFlags, clock::Clock};
use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{make_room, next_batch, register, reply, say, sync},
    harness::{Backend, Client, Server},
};

const EVENTS: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";
const DELAY_MS: u64 = 60_000;

/// Schedules a message; returns its ID.
async fn delay_message(client: &Client, room: &str, text: &str) -> String {
    let path = format!(
        "/_matrix/client/v3/rooms/{room}/send/m.room.message/{text}?org.matrix.msc4140.delay={DELAY_MS}"
    );
    let answer = client.put(&path, &json!({ "msgtype": "m.text", "body": text })).await.ok();
    assert!(answer.get("event_id").is_none(), "{answer}");
    answer["delay_id"].as_str().unwrap().to_owned()
}

async fn act(client: &Client, delay_id: &str, action: &str) -> crate::harness::Answer {
    client.post(&format!("{EVENTS}/{delay_id}/{action}"), &json!({})).await
}

async fn waiting(client: &Client) -> Vec<Value> {
    let answer = client.get(EVENTS).await.ok();
    answer["delayed_events"].as_array().unwrap().clone()
}

/// The texts of a room, newest first.
async fn texts(client: &Client, room: &str) -> Vec<String> {
    let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=50");
    let answer = client.get(&path).await.ok();
    let events = answer["chunk"].as_array().unwrap();
    let texts = events.iter().filter_map(|event| event["content"]["body"].as_str());
    texts.map(str::to_owned).collect()
}

/// Starts a server whose time is `now_ms`.
async fn start_at(backend: &Backend, now_ms: u64) -> (Server, Clock) {
    let clock = Clock::scripted(now_ms, now_ms);
    (Server::start_at(backend, clock.clone(), |_| ()).await, clock)
}

both_databases! {
    async fn delayed_events_can_be_sent_restarted_and_cancelled(backend: Backend) {
        let (server, clock) = start_at(backend, 1_700_000_000_000).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let sent = delay_message(alice, &room, "sent").await;
        let cancelled = delay_message(alice, &room, "cancelled").await;
        assert_eq!(delay_message(alice, &room, "sent").await, sent, "the same transaction");
        let listed = waiting(alice).await;
        assert_eq!(listed.len(), 2);
        assert_eq!((&listed[0]["type"], &listed[0]["delay"]), (&json!("m.room.message"), &json!(DELAY_MS)));
        assert!(waiting(bob).await.is_empty());
        let path = format!("{EVENTS}/{sent}");
        bob.get(&path).await.error(404, "M_NOT_FOUND");
        // A request is known by its transaction, even when it comes without a body.
        let repeated = async |transaction: &str| {
            let query = format!("{transaction}?org.matrix.msc4140.delay={DELAY_MS}");
            let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{query}");
            alice.send_text(reqwest::Method::PUT, &path, "").await
        };
        assert_eq!(repeated("sent").await.ok()["delay_id"], sent);
        repeated("unknown").await.error(400, "M_NOT_JSON");
        assert!(texts(bob, &room).await.is_empty());

        // The ID is all that is needed.
        act(&server.client(), &sent, "send").await.ok();
        act(alice, &sent, "send").await.ok();
        assert_eq!(texts(bob, &room).await, ["sent"]);
        act(alice, &sent, "cancel").await.error(409, "M_UNKNOWN");
        clock.advance_ms(1000);
        act(alice, &cancelled, "restart").await.ok();
        let listed = waiting(alice).await;
        assert_eq!(listed[0]["running_since"], 1_700_000_001_000_u64);
        let body = json!({ "action": "cancel" });
        alice.post(&format!("{EVENTS}/{cancelled}"), &body).await.ok();
        act(alice, &cancelled, "cancel").await.ok();
        act(alice, &cancelled, "send").await.error(409, "M_UNKNOWN");
        assert!(waiting(alice).await.is_empty());
        let finalised = alice.get(&format!("{EVENTS}/{sent}")).await.ok();
        assert!(finalised["event_id"].is_string() && finalised["finalised_ts"].is_i64());
        act(alice, "unknown", "send").await.error(404, "M_NOT_FOUND");
        act(alice, &sent, "burn").await.error(404, "M_NOT_FOUND");
        server.stop().await;
    }

    async fn events_that_became_due_while_the_server_was_down_are_sent_once(backend: Backend) {
        let (server, _) = start_at(backend, 1_700_000_000_000).await;
        let alice = server.register("alice").await;
        let room = make_room(&[&alice]).await;
        let message = delay_message(&alice, &room, "late").await;
        let path = format!(
            "/_matrix/client/v3/rooms/{room}/state/m.room.topic/?org.matrix.msc4140.delay={DELAY_MS}"
        );
        alice.put(&path, &json!({ "topic": "late" })).await.ok();
        let path = format!(
            "/_matrix/client/v3/rooms/{room}/state/m.room.power_levels/?org.matrix.msc4140.delay={DELAY_MS}"
        );
        let nonsense = json!({ "users": { &alice.user_id: 1_000_000 } });
        let answer = alice.put(&path, &nonsense).await.ok();
        let refused = answer["delay_id"].as_str().unwrap();
        let since = next_batch(&sync(&alice, None).await);
        server.stop().await;

        let (server, _) = start_at(backend, 1_700_000_000_000 + DELAY_MS).await;
        let alice = server.reconnect(&alice);
        let arrived = |answer: &Value| {
            let events = answer["rooms"]["join"][&room]["timeline"]["events"].as_array()?;
            events.iter().any(|event| event["type"] == "m.room.topic").then_some(())
        };
        crate::conversation::wait_for(&alice, &since, arrived).await;
        while alice.get(&format!("{EVENTS}/{message}")).await.ok().get("finalised_ts").is_none() {}
        assert_eq!(texts(&alice, &room).await, ["late"]);
        let state = alice.get(&format!("/_matrix/client/v3/rooms/{room}/state/m.room.topic/")).await;
        assert_eq!(state.ok()["topic"], "late");
        let path = format!("{EVENTS}/{refused}");
        let refused = loop {
            let answer = alice.get(&path).await.ok();
            if answer.get("finalised_ts").is_some() {
                break answer;
            }
        };
        assert_eq!(refused["error"]["errcode"], "M_FORBIDDEN", "{refused}");
        server.stop().await;
    }

    async fn nothing_is_sent_for_whom_nobody_is_to_hear_any_more(backend: Backend) {
        let (server, clock) = start_at(backend, 1_700_000_000_000).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        let suspended = delay_message(alice, &room, "by alice").await;
        let unheard = delay_message(bob, &room, "by bob").await;
        for (client, flag) in
            [(alice, AccountFlags::SUSPENDED), (bob, AccountFlags::SHADOW_BANNED)]
        {
            let user_id = client.user_id.as_str().try_into().unwrap();
            server.app.accounts.set_flag(user_id, flag, true).await.unwrap();
        }
        act(alice, &suspended, "send").await.error(403, "M_USER_SUSPENDED");
        clock.advance_ms(DELAY_MS + 1);
        // The timer looks again when something is scheduled or the server starts.
        server.stop().await;
        let server = Server::start_at(backend, clock, |_| ()).await;
        let (alice, bob) = (server.reconnect(alice), server.reconnect(bob));
        let finalised = async |client: &Client, delay_id: &str| {
            let path = format!("{EVENTS}/{delay_id}");
            loop {
                let answer = client.get(&path).await.ok();
                if answer.get("finalised_ts").is_some() {
                    return answer;
                }
            }
        };
        let told = finalised(&alice, &suspended).await;
        assert_eq!(told["error"]["errcode"], "M_USER_SUSPENDED", "{told}");
        let told = finalised(&bob, &unheard).await;
        assert!(told.get("error").is_none() && told.get("event_id").is_none(), "{told}");
        assert!(texts(&alice, &room).await.is_empty());
        server.stop().await;
    }

    async fn delays_have_limits(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice]).await;
        let path = |room: &str, delay: &str| {
            format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/t?org.matrix.msc4140.delay={delay}")
        };
        let content = json!({ "msgtype": "m.text", "body": "t" });
        alice.put(&path(&room, "0"), &content).await.error(403, "M_FORBIDDEN");
        alice.put(&path(&room, "86400001"), &content).await.error(403, "M_FORBIDDEN");
        alice.put(&path(&room, "soon"), &content).await.error(400, "M_INVALID_PARAM");
        bob.put(&path(&room, "1000"), &content).await.error(403, "M_FORBIDDEN");
        for number in 0..100 {
            delay_message(alice, &room, &number.to_string()).await;
        }
        alice.put(&path(&room, "1000"), &content).await.error(429, "M_LIMIT_EXCEEDED");
        server.stop().await;
    }

    async fn deleted_account_data_are_gone(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let path = format!("/_matrix/client/v3/user/{}/account_data/org.example", alice.user_id);
        alice.put(&path, &json!({ "a": 1 })).await.ok();
        let since = next_batch(&sync(&alice, None).await);
        let unstable = format!(
            "/_matrix/client/unstable/org.matrix.msc3391/user/{}/account_data/org.example",
            alice.user_id
        );
        alice.delete(&unstable).await.ok();
        alice.get(&path).await.error(404, "M_NOT_FOUND");
        let news = sync(&alice, Some(&since)).await;
        let deleted = json!({ "type": "org.example", "content": {} });
        assert_eq!(news["account_data"]["events"], json!([deleted]));
        let anew = sync(&alice, None).await;
        assert!(!anew.to_string().contains("org.example"), "{anew}");
        server.stop().await;
    }

    async fn pages_are_filtered_by_relation(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = make_room(&[&alice]).await;
        let root = say(&alice, &room, "root").await;
        reply(&alice, &room, &root, "in the thread").await;
        let page = async |filter: Value| {
            let query = [("dir", "b"), ("limit", "50"), ("filter", &filter.to_string())];
            let path = format!("/_matrix/client/v3/rooms/{room}/messages");
            let request = alice.request(reqwest::Method::GET, &path).query(&query);
            let answer = alice.send(request).await.ok();
            let events = answer["chunk"].as_array().unwrap().clone();
            let texts = events.iter().filter_map(|event| event["content"]["body"].as_str());
            texts.map(str::to_owned).collect::<Vec<_>>()
        };
        let threads = json!({ "org.matrix.msc3874.rel_types": ["m.thread"] });
        assert_eq!(page(threads).await, ["in the thread"]);
        let others = json!({ "org.matrix.msc3874.not_rel_types": ["m.thread"] });
        assert_eq!(page(others).await, ["root"]);
        server.stop().await;
    }

    async fn places_for_calls_are_told(backend: Backend) {
        let server = Server::start_with(backend, |config| {
            config.server.public_url = Some("https://matrix.hearth.test".to_owned());
            config.well_known.livekit_service_urls = vec!["https://calls.hearth.test".to_owned()];
        })
        .await;
        let path = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports";
        server.client().get(path).await.error(401, "M_MISSING_TOKEN");
        let alice = server.register("alice").await;
        let expect = json!([{ "type": "livekit", "livekit_service_url": "https://calls.hearth.test" }]);
        assert_eq!(alice.get(path).await.ok()["rtc_transports"], expect);
        let client = server.client().get("/.well-known/matrix/client").await.ok();
        assert_eq!(client["org.matrix.msc4143.rtc_foci"], expect);
        server.stop().await;
    }
}
