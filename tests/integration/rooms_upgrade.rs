//! Replacing a room happens as a whole or not at all (client-server API, "Room Upgrades").

use hearth::app::open_database;
use reqwest::Method;
use serde_json::json;

use crate::{
    both_databases,
    federation_care::install_policy_server,
    harness::{Backend, Server},
    hostile_peers::Siege,
};

async fn execute(backend: &Backend, sql: &'static str) {
    let database = open_database(&backend.config()).await.unwrap();
    let mut tx = database.begin().await.unwrap();
    tx.execute(sql, &[]).await.unwrap();
    tx.commit().await.unwrap();
    database.close().await;
}

both_databases! {
    async fn failed_upgrade_leaves_nothing_and_can_be_repeated(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let body = json!({ "visibility": "public", "room_alias_name": "moving" });
        let answer = alice.post("/_matrix/client/v3/createRoom", &body).await.ok();
        let old = answer["room_id"].as_str().unwrap().to_owned();
        server.stop().await;
        // New rooms can be made, but no state of this one can change.
        let sql = "CREATE UNIQUE INDEX broken ON events (room_nid, state_key_nid) WHERE room_nid = 1";
        execute(backend, sql).await;
        let server = Server::start(backend).await;
        let alice = server.login("alice").await;
        let count = async || {
            let answer = alice.get("/_matrix/client/v3/joined_rooms").await.ok();
            answer["joined_rooms"].as_array().unwrap().len()
        };
        let path = format!("/_matrix/client/v3/rooms/{old}/upgrade");
        let body = json!({ "new_version": "12" });
        let answer = alice.request(Method::POST, &path).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 500);
        assert_eq!(count().await, 1);
        server.stop().await;
        execute(backend, "DROP INDEX broken").await;
        let server = Server::start(backend).await;
        let alice = server.login("alice").await;
        let answer = alice.post(&path, &body).await.ok();
        let new = answer["replacement_room"].as_str().unwrap();
        let joined = alice.get("/_matrix/client/v3/joined_rooms").await.ok();
        assert_eq!(joined["joined_rooms"].as_array().unwrap().len(), 2);
        let tombstone = format!("/_matrix/client/v3/rooms/{old}/state/m.room.tombstone");
        assert_eq!(alice.get(&tombstone).await.ok()["replacement_room"], new);
        let alias = alice.get("/_matrix/client/v3/directory/room/%23moving:hearth.test").await.ok();
        assert_eq!(alias["room_id"], new);
        server.stop().await;
    }

    async fn policy_server_signs_the_end_of_a_room(backend: Backend) {
        let siege = Siege::begin(backend).await;
        install_policy_server(&siege).await;
        let path = format!("/_matrix/client/v3/rooms/{}/upgrade", siege.room.room_id);
        let answer = siege.alice.post(&path, &json!({ "new_version": "12" })).await.ok();
        let rooms = &siege.server.app.rooms;
        let tombstone = rooms.find_state_event(&siege.room, "m.room.tombstone", "").await;
        let tombstone = tombstone.unwrap().unwrap().event.to_object();
        let signature = &tombstone["signatures"][&siege.peer.name]["ed25519:policy_server"];
        assert!(signature.is_string(), "{tombstone:?}");
        assert_eq!(tombstone["content"]["replacement_room"], answer["replacement_room"]);
        siege.server.stop().await;
    }
}
