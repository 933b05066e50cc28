//! Servers that answer what they should not, or never end: what is asked of them costs a bounded amount of
//! memory, requests and time, and delays nobody else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{body::Body, http::StatusCode, response::Response};
use futures_util::{StreamExt as _, stream};
use hearth::{clock::Clock, federation::write_own_document, protocol::signing::SigningKey};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    both_databases,
    conversation::say,
    harness::{Network, ScriptedPeer, Server, endless, to_response},
    hostile_peers::{Siege, json_of},
};

/// What all answers to the questions about one event may be together. The largest is a state by IDs, 32 MiB,
/// which several questions may ask for; buffers of the network come on top.
const ANSWERS_BYTES_MAX: usize = 200 << 20;

both_databases! {
    async fn answers_without_end_are_cut_off(backend: Backend) {
        let mut siege = Siege::begin(backend).await;
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        siege.peer.reply("/_matrix/federation/v1/", move |path, _| match path.contains("/send/") {
            true => to_response(&json!({ "pdus": {} })),
            // An array that goes on for ever.
            false => endless(b"                                                                ", Arc::clone(&counted)),
        });
        let mut gap = siege.branch.clone();
        gap.message(&siege.bob, "withheld");
        let event = gap.message(&siege.bob, "behind a gap");
        siege.peer.send(&siege.server, "gap", &[json_of(&event)]).await;
        let found = siege.server.app.rooms.find_event(&siege.room, event.event_id()).await.unwrap();
        assert!(found.is_none());
        assert!(count.load(Relaxed) < ANSWERS_BYTES_MAX, "{count:?} bytes were read");
        siege.assert_unharmed().await;
        siege.server.stop().await;
    }

    async fn server_that_dribbles_delays_nobody_else(backend: Backend) {
        let siege = Siege::begin(backend).await;
        siege.peer.reply("/_matrix/federation/v1/get_missing_events", |_, _| {
            // A byte now and then: the connection always looks alive.
            let bytes = stream::repeat(" ").then(|byte| async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok::<_, std::convert::Infallible>(byte)
            });
            Response::new(Body::from_stream(bytes))
        });
        let other = ScriptedPeer::start(&siege.network).await;
        let carol = format!("@carol:{}", other.name);
        let mut beside = siege.branch.clone();
        let join = beside.member(&carol, &carol, "join");
        let origin: &ruma::ServerName = other.name.as_str().try_into().unwrap();
        siege.server.app.rooms.take_signed(origin, &siege.room, join).await.unwrap();
        let mut gap = siege.branch.clone();
        gap.message(&siege.bob, "withheld");
        let event = json_of(&gap.message(&siege.bob, "behind a gap"));
        let slow = siege.peer.transmit(&siege.server, "slow", std::slice::from_ref(&event));
        let room_id = siege.room.room_id.to_string();
        let meanwhile = async {
            while siege.peer.list_asked("/_matrix/federation/v1/get_missing_events").is_empty() {
                tokio::task::yield_now().await;
            }
            // Other servers and our own users go on, in the same room.
            say(&siege.alice, &room_id, "here").await;
            let event = json_of(&beside.message(&carol, "me too"));
            let id = event["event_id"].clone();
            let results = other.send(&siege.server, "quick", std::slice::from_ref(&event)).await;
            assert!(results.as_object().unwrap().values().all(|r| *r == json!({})), "{results} {id}");
        };
        tokio::select! {
            answer = slow => panic!("the gap was filled: {answer:?}"),
            () = meanwhile => {}
        }
        siege.server.kill().await;
    }

    async fn chains_of_authorisation_without_end_are_given_up(backend: Backend) {
        let mut siege = Siege::begin(backend).await;
        let before = siege.contents().await;
        // Each event names another one that nobody has, for its authorisation.
        let (bomb, made) = (siege.branch.clone(), Arc::new(AtomicUsize::new(0)));
        let (bob, counted) = (siege.bob.clone(), Arc::clone(&made));
        let next = move || {
            let mut branch = bomb.clone();
            let number = counted.fetch_add(1, Relaxed);
            let content = json!({ "membership": "join", "displayname": number });
            let mut draft = branch.draft(&bob, "m.room.member", Some(&bob), content);
            let unknown = format!("${:0>43}", number);
            draft.auth_events.push(unknown.as_str().try_into().unwrap());
            json_of(&branch.seal(draft))
        };
        let next = Arc::new(next);
        let chain = Arc::clone(&next);
        siege.peer.reply("/_matrix/federation/v1/event_auth/", move |_, _| {
            let chain: Vec<Value> = (0..50).map(|_| chain()).collect();
            to_response(&json!({ "auth_chain": chain }))
        });
        let single = Arc::clone(&next);
        siege.peer.reply("/_matrix/federation/v1/event/", move |_, _| {
            to_response(&json!({ "origin": "x", "origin_server_ts": 1, "pdus": [single()] }))
        });
        let trigger = next();
        siege.peer.send(&siege.server, "bomb", std::slice::from_ref(&trigger)).await;
        let asked = siege.peer.list_asked("/_matrix/federation/v1/").len();
        assert!(asked < 3000, "{asked} requests for one event");
        assert_eq!(siege.contents().await, before);
        siege.assert_unharmed().await;
        siege.server.stop().await;
    }

    async fn states_that_name_what_is_not_there_are_not_believed(backend: Backend) {
        let mut siege = Siege::begin(backend).await;
        let before = siege.contents().await;
        let ids: Vec<String> = (0..100_000).map(|number| format!("${number:0>43}")).collect();
        let state = json!({ "pdu_ids": ids, "auth_chain_ids": [] });
        siege.peer.reply_json("/_matrix/federation/v1/state_ids/", state);
        siege.peer.reply_json("/_matrix/federation/v1/state/", json!({ "pdus": [], "auth_chain": [] }));
        let mut gap = siege.branch.clone();
        gap.message(&siege.bob, "withheld");
        let told = json_of(&gap.message(&siege.bob, "told"));
        siege.peer.reply_json("/_matrix/federation/v1/get_missing_events/", json!({ "events": [told] }));
        let event = gap.message(&siege.bob, "behind a made-up state");
        siege.peer.send(&siege.server, "state", &[json_of(&event)]).await;
        assert!(!siege.peer.list_asked("/_matrix/federation/v1/state_ids/").is_empty());
        let rooms = &siege.server.app.rooms;
        assert!(rooms.find_event(&siege.room, event.event_id()).await.unwrap().is_none());
        assert_eq!(siege.contents().await, before);
        siege.assert_unharmed().await;
        siege.server.stop().await;
    }

    async fn giant_and_false_answers_to_a_join_leave_no_room(backend: Backend) {
        let network = Network::new();
        let name = network.new_name();
        let server = network.start(backend, &name).await;
        let peer = ScriptedPeer::start(&network).await;
        let alice = server.register("alice").await;
        let bob = format!("@bob:{}", peer.name);
        let room_id = format!("!trap:{}", peer.name);
        let template = json!({
            "room_version": "11",
            "event": {
                "type": "m.room.member", "room_id": room_id, "sender": alice.user_id,
                "state_key": alice.user_id, "content": { "membership": "join" },
                "prev_events": [format!("${:0>43}", 1)], "auth_events": [], "depth": 5,
                "origin_server_ts": 1,
            },
        });
        peer.reply_json("/_matrix/federation/v1/make_join/", template);
        // Thousands of events that nobody has signed, and none that makes a room.
        let event = json!({
            "type": "org.example.x", "room_id": room_id, "sender": bob, "state_key": "",
            "content": {}, "prev_events": [], "auth_events": [], "depth": 1,
            "origin_server_ts": 1, "hashes": { "sha256": "AAAA" },
            "signatures": { &peer.name: { "ed25519:test": "AAAA" } },
        });
        let events: Vec<Value> = (0..5_000)
            .map(|number| {
                let mut event = event.clone();
                event["state_key"] = number.to_string().into();
                event
            })
            .collect();
        peer.reply_json(
            "/_matrix/federation/v2/send_join/",
            json!({ "origin": peer.name, "members_omitted": false, "state": events, "auth_chain": [] }),
        );
        let path = format!("/_matrix/client/v3/join/{room_id}?via={}", peer.name).replace('!', "%21");
        // A proxy's status for another server's fault, which the specification does not list.
        let join = || alice.request(Method::POST, &path).json(&json!({})).send();
        assert_eq!(join().await.unwrap().status(), StatusCode::BAD_GATEWAY);
        // And one that does not end.
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        peer.reply("/_matrix/federation/v2/send_join/", move |_, _| {
            endless(b"{\"not\": \"what was asked for\"}, ", Arc::clone(&counted))
        });
        assert!(!join().await.unwrap().status().is_success());
        let joined = alice.get("/_matrix/client/v3/joined_rooms").await.ok();
        assert_eq!(joined["joined_rooms"], json!([]));
        say_somewhere(&server).await;
        server.stop().await;
    }

    async fn hearsay_about_keys_takes_none_away(backend: Backend) {
        let network = Network::new();
        let name = network.new_name();
        let liar = ScriptedPeer::start(&network).await;
        let liar_name = liar.name.clone();
        let server = network
            .start_with(backend, &name, |config| {
                config.federation.key_servers = vec![liar_name.as_str().try_into().unwrap()];
            })
            .await;
        let peer = ScriptedPeer::start(&network).await;
        // As the liar has it, the server has other keys, and its own one has long expired.
        let forged = SigningKey::from_seed("forged", &[66; 32]).unwrap();
        let peer_name: &ruma::ServerName = peer.name.as_str().try_into().unwrap();
        let now_ms = Clock::real().now_ms();
        let mut document = write_own_document(peer_name, &forged, &[], now_ms);
        document.remove("signatures");
        document.insert("old_verify_keys".into(), json!({
            "ed25519:test": { "key": peer.key.public_key_base64(), "expired_ts": 1 },
        }));
        forged.sign_json(&mut document, peer_name.as_str());
        liar.key.sign_json(&mut document, &liar.name);
        let hearsay = json!({ "server_keys": [document] });
        liar.reply_json("/_matrix/key/v2/query", hearsay);

        let mut siege = Siege::of(network, server, peer).await;
        siege.assert_unharmed().await;
        // An event with a key that the server itself does not tell of makes it ask around.
        let event = siege.branch.clone().message(&siege.bob, "who signs this?");
        let mut event_json = json_of(&event);
        let signature = event_json["signatures"][&siege.peer.name]["ed25519:test"].take();
        event_json["signatures"] = json!({ &siege.peer.name: { "ed25519:unheard": signature } });
        let results = siege.peer.send(&siege.server, "around", &[event_json]).await;
        assert!(results[event.event_id().as_str()]["error"].is_string(), "{results}");
        siege.assert_unharmed().await;
        siege.server.stop().await;
    }

    async fn documents_of_keys_that_lie_are_not_believed(backend: Backend) {
        let network = Network::new();
        let name = network.new_name();
        let server = network.start(backend, &name).await;
        let ask = (Method::GET, "/_matrix/federation/v1/query/profile?user_id=@a:x");
        // A server whose keys are no good is not asked again for a while: each lie has its own.
        for lie in ["other", "unsigned", "expired", "endless"] {
            let peer = ScriptedPeer::start(&network).await;
            let own_name = peer.name.as_str().try_into().unwrap();
            let now_ms = Clock::real().now_ms();
            let mut document = write_own_document(own_name, &peer.key, &[], now_ms);
            let count = Arc::new(AtomicUsize::new(0));
            match lie {
                "other" => drop(document.insert("server_name".into(), "other.example".into())),
                "unsigned" => drop(document.remove("signatures")),
                "expired" => {
                    document.remove("signatures");
                    document.insert("valid_until_ts".into(), 1.into());
                    peer.key.sign_json(&mut document, &peer.name);
                }
                _ => {
                    let counted = Arc::clone(&count);
                    peer.reply("/_matrix/key/v2/server", move |_, _| {
                        endless(b"[[[[[[[[", Arc::clone(&counted))
                    });
                }
            }
            if lie != "endless" {
                peer.reply_json("/_matrix/key/v2/server", Value::Object(document));
            }
            peer.ask(&server, ask.clone(), None).await.error(401, "M_UNAUTHORIZED");
            assert!(!peer.list_asked("/_matrix/key/v2/server").is_empty());
            assert!(count.load(Relaxed) < 64 << 20, "{count:?}");
        }
        server.stop().await;
    }

    async fn servers_without_a_certificate_are_believed_only_in_test_networks(backend: Backend) {
        // Each network has an authority of its own, which the other does not know.
        let (network, elsewhere) = (Network::new(), Network::new());
        let peer = ScriptedPeer::start(&elsewhere).await;
        let ask = (Method::GET, "/_matrix/federation/v1/query/profile?user_id=@a:x");
        let name = network.new_name();
        let server = network.start(backend, &name).await;
        peer.ask(&server, ask.clone(), None).await.error(401, "M_UNAUTHORIZED");
        server.stop().await;
        let believes = |config: &mut hearth::config::Config| {
            config.federation.verify_certificates = false;
        };
        let server = network.start_with(backend, &name, believes).await;
        // It has read the peer's key, and so knows who asks.
        peer.ask(&server, ask, None).await.error(404, "M_NOT_FOUND");
        server.stop().await;
    }

    async fn redirects_lead_to_no_address_that_is_off_limits(backend: Backend) {
        let network = Network::new();
        let name = network.new_name();
        let server = network
            .start_with(backend, &name, |config| {
                config.federation.allow_private_networks = false;
                config.federation.blocked_networks = vec!["127.0.0.2/32".parse().unwrap()];
            })
            .await;
        let secret = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let target = format!("https://{}/secret", secret.local_addr().unwrap());
        let peer = ScriptedPeer::start(&network).await;
        let alice = server.register("alice").await;
        let media = target.clone();
        peer.reply("/_matrix/federation/v1/media/download/", move |_, _| {
            let body = format!(
                "--b\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--b\r\nLocation: {media}\r\n\r\n\r\n--b--"
            );
            let head = ("content-type", "multipart/mixed; boundary=b");
            let mut response = Response::new(Body::from(body));
            response.headers_mut().insert(head.0, head.1.parse().unwrap());
            response
        });
        let path = format!("/_matrix/client/v1/media/download/{}/abc", peer.name);
        let answer = alice.get(&path).await;
        assert!(!answer.status.is_success(), "{answer:?}");
        // Questions of servers to servers follow no redirects at all.
        peer.reply("/_matrix/key/v2/server", move |_, _| {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::FOUND;
            response.headers_mut().insert("location", target.parse().unwrap());
            response
        });
        let ask = (Method::GET, "/_matrix/federation/v1/query/profile?user_id=@a:x");
        peer.ask(&server, ask, None).await.error(401, "M_UNAUTHORIZED");
        let knock = secret.accept();
        let nobody = futures_util::FutureExt::now_or_never(knock);
        assert!(nobody.is_none(), "somebody came");
        server.stop().await;
    }
}

/// A server that has gone through something still works.
async fn say_somewhere(server: &Server) {
    let carol = server.register("carol").await;
    let room = crate::conversation::make_room(&[&carol]).await;
    say(&carol, &room, "well").await;
}
