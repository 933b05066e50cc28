//! What is sent to a server that does not answer at once, or while this one stops or is killed
//! (server-server API, "Transactions").

use axum::{body::Body, http::StatusCode, response::IntoResponse as _, response::Response};
use futures_util::stream;
use hearth::storage::destinations;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    both_databases,
    conversation::say,
    harness::{ScriptedPeer, Server, to_response},
    hostile_peers::Siege,
};

const SEND: &str = "/_matrix/federation/v1/send/";

/// Waits until a server was asked for this many transactions, trying again at once.
async fn await_sends(server: &Server, peer: &ScriptedPeer, count: usize) -> Vec<String> {
    loop {
        let asked = peer.list_asked(SEND);
        if asked.len() >= count {
            return asked;
        }
        server.app.federation.outbox().retry(None).await.unwrap();
        tokio::task::yield_now().await;
    }
}

/// Has a server answer transactions, and tell which came.
fn listen(peer: &ScriptedPeer) -> mpsc::UnboundedReceiver<Value> {
    let (told, hearing) = mpsc::unbounded_channel();
    peer.reply(SEND, move |_, body| {
        told.send(serde_json::from_slice(body).unwrap()).unwrap();
        to_response(&json!({ "pdus": {} }))
    });
    hearing
}

/// Waits for a transaction with a text in it.
async fn hear(hearing: &mut mpsc::UnboundedReceiver<Value>, text: &str) {
    loop {
        let transaction = hearing.recv().await.unwrap();
        let mut events = transaction["pdus"].as_array().unwrap().iter();
        if events.any(|event| event["content"]["body"] == text) {
            return;
        }
    }
}

both_databases! {
    async fn unanswered_transaction_keeps_its_id_over_a_restart(backend: Backend) {
        let Siege { network, server, peer, alice, room, .. } = Siege::begin(backend).await;
        peer.reply(SEND, |_, _| StatusCode::SERVICE_UNAVAILABLE.into_response());
        say(&alice, room.room_id.as_str(), "wait for it").await;
        await_sends(&server, &peer, 2).await;
        let name = server.app.config.server.name.to_string();
        drop(room);
        server.stop().await;
        let server = network.start(backend, &name).await;
        let before = peer.list_asked(SEND).len();
        let asked = await_sends(&server, &peer, before + 1).await;
        assert!(asked.iter().all(|path| *path == asked[0]), "{asked:?}");
        let mut hearing = listen(&peer);
        await_sends(&server, &peer, asked.len() + 1).await;
        hear(&mut hearing, "wait for it").await;
        server.stop().await;
    }

    async fn answered_transactions_are_never_written_down(backend: Backend) {
        let Siege { network: _network, server, peer, alice, room, .. } = Siege::begin(backend).await;
        let mut hearing = listen(&peer);
        for text in ["one", "two", "three"] {
            say(&alice, room.room_id.as_str(), text).await;
            hear(&mut hearing, text).await;
            let kept = destinations::list_transactions(server.app.rooms.database()).await.unwrap();
            assert!(kept.is_empty());
        }
        drop(room);
        server.stop().await;
    }

    async fn what_was_under_way_at_a_kill_is_sent_again(backend: Backend) {
        let Siege { network, server, peer, alice, room, .. } = Siege::begin(backend).await;
        // An answer that never comes.
        peer.reply(SEND, |_, _| {
            Response::new(Body::from_stream(stream::pending::<Result<&str, std::io::Error>>()))
        });
        say(&alice, room.room_id.as_str(), "before the kill").await;
        await_sends(&server, &peer, 1).await;
        let name = server.app.config.server.name.to_string();
        drop(room);
        server.kill().await;
        let mut hearing = listen(&peer);
        let server = network.start(backend, &name).await;
        hear(&mut hearing, "before the kill").await;
        server.stop().await;
    }
}
