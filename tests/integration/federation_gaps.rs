//! Gaps before events of other servers: what is asked for, of whom, and what becomes of events whose sender
//! does not tell what is before them (server-server API, "Backfilling and retrieving missing events").

use axum::{http::StatusCode, response::IntoResponse as _};
use hearth::clock::Clock;
use ruma::ServerName;
use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{next_batch, sync, wait_for},
    federation_care::install_policy_server,
    harness::{Backend, Network, ScriptedPeer, Server},
    hostile_peers::{Siege, json_of},
};

const MISSING: &str = "/_matrix/federation/v1/get_missing_events/";
const STATE_IDS: &str = "/_matrix/federation/v1/state_ids/";
const EVENT: &str = "/_matrix/federation/v1/event/";

/// An answer of `GET /event`.
fn transaction(event: &Value) -> Value {
    json!({ "origin": "x", "origin_server_ts": 1, "pdus": [event] })
}

/// Waits until Alice sees a text.
async fn hear(siege: &Siege, since: &str, text: &str) {
    let room_id = siege.room.room_id.as_str();
    let heard = |answer: &Value| {
        let events = answer["rooms"]["join"][room_id]["timeline"]["events"].as_array()?;
        events.iter().any(|event| event["content"]["body"] == text).then_some(())
    };
    wait_for(&siege.alice, since, heard).await;
}

/// More than the pause before it is asked again for the first time.
const FIRST_PAUSE_MS: u64 = 10_000;

/// A siege whose server has a clock that stands still.
async fn begin_at(backend: &Backend, clock: &Clock) -> Siege {
    let network = Network::new();
    let name = network.new_name();
    let server = network.start_at(backend, (&name, clock.clone()), |_| ()).await;
    let peer = ScriptedPeer::start(&network).await;
    // What is before an event cannot be told now, which is not to withhold it.
    peer.reply(MISSING, |_, _| StatusCode::SERVICE_UNAVAILABLE.into_response());
    Siege::of(network, server, peer).await
}

/// Has a room's turn come, and waits until it is over.
async fn ask_again(server: &Server, clock: &Clock) {
    clock.advance_ms(FIRST_PAUSE_MS);
    for round in server.app.federation.ask_due() {
        round.await.unwrap();
    }
}

both_databases! {
    async fn what_an_event_waits_for_is_asked_for_again_without_a_next_one(backend: Backend) {
        let clock = Clock::scripted(Clock::real().now_ms(), 1);
        let mut siege = begin_at(backend, &clock).await;
        let since = next_batch(&sync(&siege.alice, None).await);
        let first = siege.branch.message(&siege.bob, "first");
        let second = siege.branch.message(&siege.bob, "second");
        let results = siege.peer.send(&siege.server, "1", &[json_of(&second)]).await;
        assert_eq!(results[second.event_id().as_str()], json!({}));
        assert_eq!(siege.peer.list_asked(MISSING).len(), 1);
        // Not before its time.
        assert!(siege.server.app.federation.ask_due().is_empty());
        siege.peer.reply_json(MISSING, json!({ "events": [json_of(&first)] }));
        ask_again(&siege.server, &clock).await;
        hear(&siege, &since, "second").await;
        assert_eq!(siege.peer.list_asked(MISSING).len(), 2);
        // Then there is nothing to ask.
        ask_again(&siege.server, &clock).await;
        assert_eq!(siege.peer.list_asked(MISSING).len(), 2);
        siege.server.stop().await;
    }

    async fn others_are_asked_again_too_and_after_a_restart(backend: Backend) {
        let clock = Clock::scripted(Clock::real().now_ms(), 1);
        let mut siege = begin_at(backend, &clock).await;
        let helper = ScriptedPeer::start(&siege.network).await;
        let carol = format!("@carol:{}", helper.name);
        let join = siege.branch.member(&carol, &carol, "join");
        let origin: &ServerName = helper.name.as_str().try_into().unwrap();
        siege.server.app.rooms.take_signed(origin, &siege.room, join).await.unwrap();
        let since = next_batch(&sync(&siege.alice, None).await);
        let first = siege.branch.message(&siege.bob, "first");
        let second = siege.branch.message(&siege.bob, "second");
        helper.reply(MISSING, |_, _| StatusCode::SERVICE_UNAVAILABLE.into_response());
        siege.peer.send(&siege.server, "1", &[json_of(&second)]).await;
        assert!(!siege.is_known(&first).await);
        let name = siege.server.app.config.server.name.to_string();
        siege.server.stop().await;

        siege.server = siege.network.start_at(backend, (&name, clock.clone()), |_| ()).await;
        siege.alice = siege.server.reconnect(&siege.alice);
        helper.reply_json(MISSING, json!({ "events": [json_of(&first)] }));
        ask_again(&siege.server, &clock).await;
        hear(&siege, &since, "second").await;
        siege.server.stop().await;
    }

    async fn policy_servers_are_asked_about_what_has_waited(backend: Backend) {
        let clock = Clock::scripted(Clock::real().now_ms(), 1);
        let mut siege = begin_at(backend, &clock).await;
        install_policy_server(&siege).await;
        siege.branch.catch_up(&siege.server.app.rooms, &siege.room).await;
        let since = next_batch(&sync(&siege.alice, None).await);
        let texts = ["first", "second", "spam"];
        let events = texts.map(|text| siege.branch.message(&siege.bob, text));
        for (transaction, event) in [("1", &events[1]), ("2", &events[2]), ("3", &events[0])] {
            let results = siege.peer.send(&siege.server, transaction, &[json_of(event)]).await;
            assert_eq!(results[event.event_id().as_str()], json!({}));
        }
        ask_again(&siege.server, &clock).await;
        hear(&siege, &since, "second").await;
        let spam = siege.server.app.rooms.find_any_event(&siege.room, events[2].event_id());
        let spam = spam.await.unwrap().unwrap();
        assert!(spam.is_in_graph() && spam.is_hidden());
        siege.server.stop().await;
    }

    async fn events_are_not_kept_whose_past_their_sender_withholds(backend: Backend) {
        let mut siege = Siege::begin(backend).await;
        let since = next_batch(&sync(&siege.alice, None).await);
        siege.peer.reply_json(MISSING, json!({ "events": [] }));
        let first = siege.branch.message(&siege.bob, "first");
        let second = siege.branch.message(&siege.bob, "second");
        let results = siege.peer.send(&siege.server, "1", &[json_of(&second)]).await;
        assert!(results[second.event_id().as_str()]["error"].is_string(), "{results}");
        assert!(!siege.is_known(&second).await);
        assert!(siege.peer.list_asked(STATE_IDS).is_empty());
        // It is welcome as soon as it can be judged.
        let results = siege.peer.send(&siege.server, "2", &[json_of(&first)]).await;
        assert_eq!(results[first.event_id().as_str()], json!({}));
        let results = siege.peer.send(&siege.server, "3", &[json_of(&second)]).await;
        assert_eq!(results[second.event_id().as_str()], json!({}));
        hear(&siege, &since, "second").await;
        siege.server.stop().await;
    }

    async fn gap_is_bridged_where_it_begins(backend: Backend) {
        let mut siege = Siege::begin(backend).await;
        let since = next_batch(&sync(&siege.alice, None).await);
        let state: Vec<&str> = siege.branch.state.values().map(|e| e.event_id().as_str()).collect();
        siege.peer.reply_json(STATE_IDS, json!({ "pdu_ids": state, "auth_chain_ids": [] }));
        siege.branch.message(&siege.bob, "never told");
        let start = siege.branch.message(&siege.bob, "told when asked for");
        let middle = siege.branch.message(&siege.bob, "told as missing");
        let last = siege.branch.message(&siege.bob, "sent");
        siege.peer.reply_json(MISSING, json!({ "events": [json_of(&middle)] }));
        let (id, answer) = (start.event_id().as_str().replace('$', "%24"), transaction(&json_of(&start)));
        siege.peer.reply_json(&format!("{EVENT}{id}"), answer);
        let results = siege.peer.send(&siege.server, "gap", &[json_of(&last)]).await;
        assert_eq!(results[last.event_id().as_str()], json!({}));
        hear(&siege, &since, "sent").await;
        // Who told little has told all: it was asked once.
        assert_eq!(siege.peer.list_asked(MISSING).len(), 1);
        let asked = siege.peer.list_asked(STATE_IDS);
        assert!(matches!(asked.as_slice(), [one] if one.contains(&id)), "{asked:?}");
        for event in [&start, &middle] {
            let found = siege.server.app.rooms.find_event(&siege.room, event.event_id()).await;
            assert!(found.unwrap().is_some());
        }
        siege.server.stop().await;
    }

    async fn event_may_be_redacted_before_it_is_here(backend: Backend) {
        let mut siege = Siege::begin(backend).await;
        let room_id = siege.room.room_id.to_string();
        let carol = siege.server.register("carol").await;
        carol.post(&format!("/_matrix/client/v3/join/{room_id}"), &json!({})).await.ok();
        siege.branch.catch_up(&siege.server.app.rooms, &siege.room).await;
        let late = siege.branch.message(&siege.bob, "late");
        let path = format!("/_matrix/client/v3/rooms/{room_id}/redact/{}/1", late.event_id());
        // Only who may redact everything may redact what nobody here has seen.
        carol.put(&path, &json!({})).await.error(404, "M_NOT_FOUND");
        siege.alice.put(&path, &json!({ "reason": "I know" })).await.ok();
        let results = siege.peer.send(&siege.server, "late", &[json_of(&late)]).await;
        assert_eq!(results[late.event_id().as_str()], json!({}));
        let path = format!("/_matrix/client/v3/rooms/{room_id}/event/{}", late.event_id());
        let shown = siege.alice.get(&path).await.ok();
        assert_eq!(shown["content"], json!({}));
        assert_eq!(shown["unsigned"]["redacted_because"]["content"]["reason"], "I know");
        siege.server.stop().await;
    }
}
