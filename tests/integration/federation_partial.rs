//! Servers of which it is learnt only when a room becomes whole that they are in it (MSC3902).

use std::collections::HashMap;

use axum::{http::StatusCode, response::IntoResponse as _};
use hearth::{clock::Clock, protocol::room_version::RoomVersion};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    both_databases,
    federation::join,
    graph_room::Branch,
    harness::{Network, ScriptedPeer, to_response},
    hostile_peers::json_of,
    keyring::Device,
};

/// Has a server let a user into a room without its members, as if only its own were there.
fn let_in(resident: &ScriptedPeer, line: &mut Branch, user: &str) {
    let before: Vec<Value> = line.state.values().map(|event| json_of(event)).collect();
    let content = json!({ "membership": "join" });
    let draft = line.draft(user, "m.room.member", Some(user), content);
    let template = json!({
        "type": draft.kind, "room_id": line.room_id(), "sender": user, "state_key": user,
        "content": draft.content, "prev_events": draft.prev_events,
        "auth_events": draft.auth_events, "depth": draft.depth, "origin_server_ts": 1,
    });
    let template = json!({ "room_version": "11", "event": template });
    resident.reply_json("/_matrix/federation/v1/make_join/", template);
    let is_member = |event: &Value| event["type"] == "m.room.member";
    let is_own = |event: &Value| event["sender"].as_str().unwrap().ends_with(&resident.name);
    let state: Vec<&Value> = before.iter().filter(|event| !is_member(event)).collect();
    let chain: Vec<&Value> =
        before.iter().filter(|event| is_member(event) && is_own(event)).collect();
    let answer = json!({
        "origin": resident.name, "members_omitted": true, "servers_in_room": [resident.name],
        "state": state, "auth_chain": chain,
    });
    resident.reply_json("/_matrix/federation/v2/send_join/", answer);
}

/// Has a server tell these events, and that they are the state of its room.
fn tell_state(resident: &ScriptedPeer, line: &Branch) {
    let ids: Vec<&str> = line.state.values().map(|event| event.event_id().as_str()).collect();
    let state = json!({ "pdu_ids": ids, "auth_chain_ids": [] });
    let answers: HashMap<String, Value> = line
        .state
        .values()
        .map(|event| {
            let answer = json!({ "origin": "x", "origin_server_ts": 1, "pdus": [json_of(event)] });
            (event.event_id().as_str().replace('$', "%24"), answer)
        })
        .collect();
    resident.reply("/_matrix/federation/v1/event/", move |path, _| {
        let id = path.rsplit('/').next().unwrap();
        to_response(answers.get(id).unwrap_or(&Value::Null))
    });
    resident.reply_json("/_matrix/federation/v1/state_ids/", state);
}

both_databases! {
    async fn servers_that_nobody_named_hear_of_changed_devices_in_the_end(backend: Backend) {
        let network = Network::new();
        let server = network.start(backend, &network.new_name()).await;
        let resident = ScriptedPeer::start(&network).await;
        let hidden = ScriptedPeer::start(&network).await;
        let (told, mut hearing) = mpsc::unbounded_channel();
        hidden.reply("/_matrix/federation/v1/send/", move |_, body| {
            told.send(serde_json::from_slice::<Value>(body).unwrap()).unwrap();
            to_response(&json!({ "pdus": {} }))
        });
        let alice = server.register("alice").await;
        let bob = format!("@bob:{}", resident.name);
        let carol = format!("@carol:{}", hidden.name);
        let now_ms = Clock::real().now_ms().cast_signed();
        let (mut line, _) = Branch::new_room_of(RoomVersion::V11, "hall", (&bob, now_ms));
        line.member(&carol, &carol, "join");
        let_in(&resident, &mut line, &alice.user_id);
        join(&alice, line.room_id().as_str(), &resident.name).await;
        Device::new(&alice, 7).upload(1).await;
        assert!(hidden.list_asked("/_matrix/federation/v1/send/").is_empty());
        tell_state(&resident, &line);
        let is_news = |edu: &Value| {
            edu["edu_type"] == "m.device_list_update"
                && edu["content"]["device_id"] == alice.device_id
        };
        loop {
            let transaction = hearing.recv().await.unwrap();
            if transaction["edus"].as_array().unwrap().iter().any(is_news) {
                break;
            }
        }
        server.stop().await;
    }

    async fn state_is_asked_for_where_everybody_knows_it(backend: Backend) {
        let network = Network::new();
        let server = network.start(backend, &network.new_name()).await;
        let resident = ScriptedPeer::start(&network).await;
        let other = ScriptedPeer::start(&network).await;
        let alice = server.register("alice").await;
        let bob = format!("@bob:{}", resident.name);
        let carol = format!("@carol:{}", other.name);
        let now_ms = Clock::real().now_ms().cast_signed();
        let (mut line, _) = Branch::new_room_of(RoomVersion::V11, "hall", (&bob, now_ms));
        let before: Vec<String> = line.state.values().map(|e| e.event_id().to_string()).collect();
        let last = line.member(&carol, &carol, "join");
        tell_state(&resident, &line);
        // As a server that has not heard of the entry, but of the event before it.
        let place = format!("event_id={}", last.event_id().as_str().replace('$', "%24"));
        resident.reply("/_matrix/federation/v1/state_ids/", move |path, _| match path {
            path if path.contains(&place) => {
                to_response(&json!({ "pdu_ids": before, "auth_chain_ids": [] }))
            }
            _ => StatusCode::NOT_FOUND.into_response(),
        });
        let_in(&resident, &mut line, &alice.user_id);
        let room_id = line.room_id().to_string();
        join(&alice, &room_id, &resident.name).await;
        let path = format!("/_matrix/client/v3/rooms/{room_id}/joined_members");
        let joined = alice.get(&path).await.ok();
        let joined: Vec<&String> = joined["joined"].as_object().unwrap().keys().collect();
        assert!(joined.len() == 3 && joined.contains(&&carol), "{joined:?}");
        server.stop().await;
    }
}
