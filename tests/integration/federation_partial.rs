//! What other servers see of a room that is not whole: what is sent to them and what they are answered
//! (MSC3902).

use std::collections::{BTreeSet, HashMap};

use axum::{http::StatusCode, response::IntoResponse as _};
use hearth::{clock::Clock, protocol::room_version::RoomVersion};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    both_databases,
    conversation::{next_batch, say, sync, wait_for},
    federation::join,
    graph_room::Branch,
    harness::{Backend, Network, ScriptedPeer, Server, to_response},
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
    tell_events(resident, line);
    resident.reply_json("/_matrix/federation/v1/state_ids/", state);
}

/// Has a server tell the events of its room's state.
fn tell_events(resident: &ScriptedPeer, line: &Branch) {
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
}

/// A room of Bob and Dave, which Alice has entered without knowing them.
async fn enter(backend: &Backend, network: &Network) -> (Server, ScriptedPeer, Branch) {
    let server = network.start(backend, &network.new_name()).await;
    let resident = ScriptedPeer::start(network).await;
    let alice = server.register("alice").await;
    let [bob, dave] = ["bob", "dave"].map(|name| format!("@{name}:{}", resident.name));
    let now_ms = Clock::real().now_ms().cast_signed();
    let (mut line, _) = Branch::new_room_of(RoomVersion::V11, "hall", (&bob, now_ms));
    line.member(&dave, &dave, "join");
    let_in(&resident, &mut line, &alice.user_id);
    join(&alice, line.room_id().as_str(), &resident.name).await;
    (server, resident, line)
}

/// Has a server tell all of its room, and the other one ask for it.
async fn complete(server: &Server, resident: &ScriptedPeer, line: &Branch) {
    tell_state(resident, line);
    let rooms = &server.app.rooms;
    let room = rooms.find(line.room_id()).await.unwrap().unwrap();
    // It may be asked already.
    rooms.complete(resident.name.as_str().try_into().unwrap(), &room).await.unwrap();
    rooms.await_whole(&room).await;
}

/// The transactions that a server is sent from now on.
fn hear(peer: &ScriptedPeer) -> mpsc::UnboundedReceiver<Value> {
    let (told, hearing) = mpsc::unbounded_channel();
    peer.reply("/_matrix/federation/v1/send/", move |_, body| {
        // A test that has ended wants no more.
        let _ = told.send(serde_json::from_slice(body).unwrap());
        to_response(&json!({ "pdus": {} }))
    });
    hearing
}

both_databases! {
    async fn servers_that_nobody_named_hear_of_changed_devices_in_the_end(backend: Backend) {
        let network = Network::new();
        let server = network.start(backend, &network.new_name()).await;
        let resident = ScriptedPeer::start(&network).await;
        let hidden = ScriptedPeer::start(&network).await;
        let mut hearing = hear(&hidden);
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

    async fn the_state_of_an_event_is_told_when_it_is_known(backend: Backend) {
        let network = Network::new();
        let (server, resident, mut line) = enter(backend, &network).await;
        let [bob, dave] = ["bob", "dave"].map(|name| format!("@{name}:{}", resident.name));
        tell_events(&resident, &line);
        // Whether Dave may do that is not known for certain before all of the state is.
        let topic = line.clone().topic(&dave, "mine");
        let hello = line.message(&bob, "hello");
        let results = resident.send(&server, "1", &[json_of(&topic), json_of(&hello)]).await;
        assert_eq!(results[topic.event_id().as_str()], json!({}));
        let room = server.app.rooms.find(line.room_id()).await.unwrap().unwrap();
        let judged = server.app.rooms.find_any_event(&room, topic.event_id()).await.unwrap();
        assert!(judged.unwrap().is_rejected());
        let id = hello.event_id().as_str().replace('$', "%24");
        let path = format!("/_matrix/federation/v1/state_ids/{}?event_id={id}", line.room_id());
        let asked = resident.ask(&server, (Method::GET, &path), None);
        let (answer, ()) = tokio::join!(asked, complete(&server, &resident, &line));
        let told = answer.ok()["pdu_ids"].clone();
        let told: BTreeSet<&str> =
            told.as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
        let state = line.state.values().map(|event| event.event_id().as_str());
        assert_eq!(told, state.collect());
        server.stop().await;
    }

    async fn who_enters_is_introduced_when_the_room_is_whole(backend: Backend) {
        let network = Network::new();
        let (server, resident, mut line) = enter(backend, &network).await;
        let mut hearing = hear(&resident);
        // Another user of ours is let in by the server that knows who is banned, and passes this on.
        let eve = server.register("eve").await;
        let_in(&resident, &mut line, &eve.user_id);
        join(&eve, line.room_id().as_str(), &resident.name).await;
        say(&eve, line.room_id().as_str(), "here I am").await;
        let (mut introduced, mut is_whole) = (BTreeSet::new(), false);
        while introduced.len() < 2 {
            let transaction = hearing.recv().await.unwrap();
            for event in transaction["pdus"].as_array().unwrap() {
                assert_eq!(event["content"]["body"], "here I am");
                complete(&server, &resident, &line).await;
                is_whole = true;
            }
            for edu in transaction["edus"].as_array().into_iter().flatten() {
                if edu["edu_type"] == "m.device_list_update" {
                    assert!(is_whole, "{edu}");
                    introduced.insert(edu["content"]["user_id"].to_string());
                }
            }
        }
        server.stop().await;
    }

    async fn changes_of_devices_count_when_their_users_are_found(backend: Backend) {
        let network = Network::new();
        let (server, resident, line) = enter(backend, &network).await;
        let alice = server.login("alice").await;
        let dave = format!("@dave:{}", resident.name);
        let update = json!({ "user_id": dave, "device_id": "NEW", "stream_id": 1 });
        let edu = json!({ "edu_type": "m.device_list_update", "content": update });
        let body = json!({ "origin": resident.name, "origin_server_ts": 1, "pdus": [], "edus": [edu] });
        let path = "/_matrix/federation/v1/send/1";
        resident.ask(&server, (Method::PUT, path), Some(&body)).await.ok();
        let changed = |answer: &Value| {
            let changed = answer["device_lists"]["changed"].as_array().cloned();
            changed.filter(|changed| !changed.is_empty())
        };
        // Nobody knows yet that he is in the room.
        let before = sync(&alice, None).await;
        assert_eq!(changed(&before), None);
        tell_state(&resident, &line);
        let (changed, _) = wait_for(&alice, &next_batch(&before), changed).await;
        assert_eq!(changed, [json!(dave)]);
        server.stop().await;
    }

    async fn an_entry_is_not_sent_again_after_a_restart(backend: Backend) {
        let network = Network::new();
        let (server, resident, line) = enter(backend, &network).await;
        let name = server.app.config.server.name.to_string();
        server.stop().await;
        let mut hearing = hear(&resident);
        let server = network.start(backend, &name).await;
        let alice = server.login("alice").await;
        say(&alice, line.room_id().as_str(), "still here").await;
        let first = loop {
            let transaction = hearing.recv().await.unwrap();
            if let Some(event) = transaction["pdus"].as_array().and_then(|pdus| pdus.first()) {
                break event.clone();
            }
        };
        assert_eq!(first["content"]["body"], "still here");
        server.stop().await;
    }
}
