//! Two servers in one process that talk over TLS: who they are, entering rooms both ways, talking,
//! and what happens when one of them is away.

use reqwest::Method;
use serde_json::{Value, json};

use super::conversation::{ephemeral, next_batch, read, say, sync, wait_for};
use crate::{
    harness::{Backend, Client, Network, Server},
    keyring::Device,
    two_servers,
};

/// Two servers that trust each other, and a user on each.
pub struct Pair {
    pub network: Network,
    pub servers: [Server; 2],
    pub names: [String; 2],
    pub alice: Client,
    pub bob: Client,
}

pub async fn start_pair(one: &Backend, two: &Backend) -> Pair {
    let network = Network::new();
    let names = [network.new_name(), network.new_name()];
    let servers = [network.start(one, &names[0]).await, network.start(two, &names[1]).await];
    let alice = servers[0].register("alice").await;
    let bob = servers[1].register("bob").await;
    Pair { network, servers, names, alice, bob }
}

/// Joins a room through a server.
pub async fn join(client: &Client, room: &str, via: &str) -> Value {
    let room = room.replace('#', "%23").replace('!', "%21");
    client.post(&format!("/_matrix/client/v3/join/{room}?via={via}"), &json!({})).await.ok()
}

pub async fn create(client: &Client, body: Value) -> String {
    let answer = client.post("/_matrix/client/v3/createRoom", &body).await.ok();
    answer["room_id"].as_str().unwrap().to_owned()
}

/// Waits until a text arrives in a room.
pub async fn hear(client: &Client, since: &str, room_id: &str, text: &str) -> Value {
    let found = |answer: &Value| {
        let events = answer["rooms"]["join"][room_id]["timeline"]["events"].as_array()?;
        events.iter().find(|event| event["content"]["body"] == text).cloned()
    };
    wait_for(client, since, found).await.0
}

/// The state of a room by type and state key, as event IDs.
pub async fn state_of(client: &Client, room_id: &str) -> Vec<(String, String, String)> {
    let path = format!("/_matrix/client/v3/rooms/{room_id}/state");
    let state = client.get(&path).await.ok();
    let text = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
    let mut entries: Vec<_> = state
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (text(event, "type"), text(event, "state_key"), text(event, "event_id")))
        .collect();
    entries.sort();
    entries
}

/// Waits until a user's membership is what it should be, on the side of `client`.
pub async fn await_membership(client: &Client, room_id: &str, user: &str, expect: &str) {
    let path = format!("/_matrix/client/v3/rooms/{room_id}/state/m.room.member/{user}");
    let mut since = next_batch(&sync(client, None).await);
    loop {
        let answer = client.get(&path).await;
        if answer.body["membership"] == expect {
            return;
        }
        let path =
            format!("/_matrix/client/v3/sync?set_presence=offline&timeout=500&since={since}");
        since = next_batch(&client.get(&path).await.ok());
    }
}

two_servers! {
    async fn servers_publish_signed_keys_and_their_version(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let anyone = pair.servers[0].client();
        let keys = anyone.get("/_matrix/key/v2/server").await.ok();
        assert_eq!(keys["server_name"], pair.names[0]);
        let key_ids: Vec<_> = keys["verify_keys"].as_object().unwrap().keys().cloned().collect();
        assert!(keys["signatures"][&pair.names[0]][&key_ids[0]].is_string());
        let version = anyone.get("/_matrix/federation/v1/version").await.ok();
        assert_eq!(version["server"]["name"], "Hearth");
        // As a notary: the other server's keys, signed by both.
        let query = format!("/_matrix/key/v2/query/{}", pair.names[1]);
        let answer = anyone.get(&query).await.ok();
        let document = &answer["server_keys"][0];
        assert_eq!(document["server_name"], pair.names[1]);
        for name in &pair.names {
            assert!(document["signatures"][name].is_object(), "{document}");
        }
        let nobody = anyone.get("/_matrix/key/v2/query/127.0.0.1:1").await.ok();
        assert_eq!(nobody["server_keys"], json!([]));
    }

    async fn unsigned_requests_are_refused(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let anyone = pair.servers[0].client();
        for (method, path) in [
            (Method::GET, "/_matrix/federation/v1/query/profile?user_id=@alice:x"),
            (Method::PUT, "/_matrix/federation/v1/send/1"),
            (Method::GET, "/_matrix/federation/v1/event/$x"),
            (Method::POST, "/_matrix/federation/v1/publicRooms"),
        ] {
            let answer = anyone.send_text(method.clone(), path, "{}").await;
            answer.error(401, "M_UNAUTHORIZED");
            let header = format!(
                "X-Matrix origin=\"{}\",destination=\"{}\",key=\"ed25519:x\",sig=\"AAAA\"",
                pair.names[1], pair.names[0]
            );
            let forged = anyone.request(method, path).header("Authorization", header).body("{}");
            anyone.send(forged).await.error(401, "M_UNAUTHORIZED");
        }
    }

    async fn users_of_two_servers_join_and_talk(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let (alice, bob) = (&pair.alice, &pair.bob);
        let room = create(alice, json!({ "preset": "public_chat", "name": "Bridge" })).await;
        say(alice, &room, "before").await;
        let joined = join(bob, &room, &pair.names[0]).await;
        assert_eq!(joined["room_id"], room);
        let (alice_since, bob_since) =
            (next_batch(&sync(alice, None).await), next_batch(&sync(bob, None).await));
        await_membership(alice, &room, &bob.user_id, "join").await;
        say(alice, &room, "from one").await;
        hear(bob, &bob_since, &room, "from one").await;
        say(bob, &room, "from two").await;
        let event = hear(alice, &alice_since, &room, "from two").await;
        assert_eq!(event["sender"], bob.user_id);
        assert_eq!(state_of(alice, &room).await, state_of(bob, &room).await);
    }

    async fn rooms_are_found_by_the_aliases_of_other_servers(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let body = json!({ "preset": "public_chat", "room_alias_name": "hall" });
        let room = create(&pair.alice, body).await;
        let alias = format!("%23hall:{}", pair.names[0]);
        let path = format!("/_matrix/client/v3/directory/room/{alias}");
        let found = pair.bob.get(&path).await.ok();
        assert_eq!(found["room_id"], room);
        assert_eq!(found["servers"][0], pair.names[0]);
        let unknown = format!("/_matrix/client/v3/directory/room/%23none:{}", pair.names[0]);
        pair.bob.get(&unknown).await.error(404, "M_NOT_FOUND");
        let joined = pair.bob.post(&format!("/_matrix/client/v3/join/{alias}"), &json!({})).await;
        assert_eq!(joined.ok()["room_id"], room);
    }

    async fn profiles_and_directories_of_other_servers_are_shown(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let path = format!("/_matrix/client/v3/profile/{}", pair.alice.user_id);
        let name = json!({ "displayname": "Alice A." });
        pair.alice.put(&format!("{path}/displayname"), &name).await.ok();
        assert_eq!(pair.bob.get(&path).await.ok()["displayname"], "Alice A.");
        assert_eq!(pair.bob.get(&format!("{path}/displayname")).await.ok(), name);
        let nobody = format!("/_matrix/client/v3/profile/@nobody:{}", pair.names[0]);
        pair.bob.get(&nobody).await.error(404, "M_NOT_FOUND");
        let room = create(&pair.alice, json!({ "visibility": "public", "name": "Square" })).await;
        let list = format!("/_matrix/client/v3/publicRooms?server={}", pair.names[0]);
        let answer = pair.bob.get(&list).await.ok();
        assert_eq!(answer["chunk"][0]["room_id"], room);
    }

    async fn invited_users_of_other_servers_come_or_refuse(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let (alice, bob) = (&pair.alice, &pair.bob);
        for accepts in [true, false] {
            let since = next_batch(&sync(bob, None).await);
            let room = create(alice, json!({ "preset": "private_chat", "name": "Den" })).await;
            let body = json!({ "user_id": bob.user_id });
            alice.post(&format!("/_matrix/client/v3/rooms/{room}/invite"), &body).await.ok();
            let invited = |answer: &Value| {
                let invite = &answer["rooms"]["invite"][&room];
                invite.is_object().then(|| invite["invite_state"]["events"].clone())
            };
            let (events, _) = wait_for(bob, &since, invited).await;
            let kinds: Vec<_> =
                events.as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect();
            assert!(kinds.contains(&"m.room.create") && kinds.contains(&"m.room.name"), "{kinds:?}");
            // As who is invited here has it (MSC4311).
            let create = events.as_array().unwrap().iter().find(|e| e["type"] == "m.room.create");
            assert!(create.unwrap()["origin_server_ts"].is_i64(), "{events}");
            if accepts {
                let path = format!("/_matrix/client/v3/rooms/{room}/join");
                bob.post(&path, &json!({})).await.ok();
                await_membership(alice, &room, &bob.user_id, "join").await;
            } else {
                let path = format!("/_matrix/client/v3/rooms/{room}/leave");
                bob.post(&path, &json!({})).await.ok();
                await_membership(alice, &room, &bob.user_id, "leave").await;
            }
        }
    }

    async fn who_deactivates_rejects_invitations_from_other_servers(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let (alice, bob) = (&pair.alice, &pair.bob);
        let room = create(alice, json!({ "invite": [bob.user_id] })).await;
        await_membership(alice, &room, &bob.user_id, "invite").await;
        bob.post_with_password("/_matrix/client/v3/account/deactivate", &json!({})).await.ok();
        await_membership(alice, &room, &bob.user_id, "leave").await;
    }

    async fn uninvited_users_of_other_servers_stay_outside(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let room = create(&pair.alice, json!({ "preset": "private_chat" })).await;
        let path = format!("/_matrix/client/v3/join/{room}?via={}", pair.names[0]);
        pair.bob.post(&path, &json!({})).await.error(403, "M_FORBIDDEN");
        let path = format!("/_matrix/client/v3/join/!nowhere:{}", pair.names[0]);
        pair.bob.post(&path, &json!({})).await.error(404, "M_NOT_FOUND");
    }

    async fn removed_users_hear_of_it_and_banned_ones_cannot_return(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let (alice, bob) = (&pair.alice, &pair.bob);
        let room = create(alice, json!({ "preset": "public_chat" })).await;
        join(bob, &room, &pair.names[0]).await;
        await_membership(alice, &room, &bob.user_id, "join").await;
        let since = next_batch(&sync(bob, None).await);
        let body = json!({ "user_id": bob.user_id, "reason": "enough" });
        alice.post(&format!("/_matrix/client/v3/rooms/{room}/ban"), &body).await.ok();
        let left = |answer: &Value| {
            answer["rooms"]["leave"][&room].is_object().then_some(())
        };
        wait_for(bob, &since, left).await;
        let path = format!("/_matrix/client/v3/join/{room}?via={}", pair.names[0]);
        pair.bob.post(&path, &json!({})).await.error(403, "M_FORBIDDEN");
    }

    async fn typing_receipts_and_presence_reach_other_servers(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let (alice, bob) = (&pair.alice, &pair.bob);
        let room = create(alice, json!({ "preset": "public_chat" })).await;
        join(bob, &room, &pair.names[0]).await;
        await_membership(alice, &room, &bob.user_id, "join").await;
        let event_id = say(alice, &room, "read me").await;
        let since = next_batch(&sync(bob, None).await);
        let path = format!("/_matrix/client/v3/rooms/{room}/typing/{}", alice.user_id);
        alice.put(&path, &json!({ "typing": true, "timeout": 30_000 })).await.ok();
        let types = |answer: &Value| {
            let content = ephemeral(answer, &room, "m.typing")?;
            (content["user_ids"] == json!([alice.user_id])).then_some(())
        };
        wait_for(bob, &since, types).await;
        let since = next_batch(&sync(alice, None).await);
        hear_of(bob, &room, &event_id).await;
        read(bob, &room, &event_id).await;
        let has_read = |answer: &Value| {
            let content = ephemeral(answer, &room, "m.receipt")?;
            content[&event_id]["m.read"][&bob.user_id].is_object().then_some(())
        };
        wait_for(alice, &since, has_read).await;
        let since = next_batch(&sync(alice, None).await);
        let path = format!("/_matrix/client/v3/presence/{}/status", bob.user_id);
        let status = json!({ "presence": "online", "status_msg": "here" });
        bob.put(&path, &status).await.ok();
        let is_online = |answer: &Value| {
            let events = answer["presence"]["events"].as_array()?;
            let event = events.iter().find(|event| event["sender"] == bob.user_id)?;
            (event["content"]["status_msg"] == "here").then_some(())
        };
        wait_for(alice, &since, is_online).await;
    }

    async fn what_was_said_while_a_server_was_away_arrives(one: Backend, two: Backend) {
        let mut pair = start_pair(one, two).await;
        let room = create(&pair.alice, json!({ "preset": "public_chat" })).await;
        join(&pair.bob, &room, &pair.names[0]).await;
        await_membership(&pair.alice, &room, &pair.bob.user_id, "join").await;
        let since = next_batch(&sync(&pair.bob, None).await);
        let [first, second] = pair.servers;
        second.stop().await;
        say(&pair.alice, &room, "are you there?").await;
        // What could not be sent survives a restart of the sender, too.
        first.stop().await;
        let first = pair.network.start(one, &pair.names[0]).await;
        pair.alice = first.reconnect(&pair.alice);
        let second = pair.network.start(two, &pair.names[1]).await;
        pair.bob = second.reconnect(&pair.bob);
        // A request from there is a sign of life, so that nobody waits for the next attempt.
        let path = format!("/_matrix/client/v3/profile/{}", pair.alice.user_id);
        pair.bob.get(&path).await.ok();
        say(&pair.alice, &room, "and now?").await;
        hear(&pair.bob, &since, &room, "are you there?").await;
        pair.servers = [first, second];
    }

    async fn history_from_before_the_join_is_fetched(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let (alice, bob) = (&pair.alice, &pair.bob);
        let room = create(alice, json!({ "preset": "public_chat" })).await;
        for number in 0..30 {
            say(alice, &room, &format!("number {number}")).await;
        }
        join(bob, &room, &pair.names[0]).await;
        let mut texts = Vec::new();
        let mut from = String::new();
        loop {
            let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=20{from}");
            let page = bob.get(&path).await.ok();
            let chunk = page["chunk"].as_array().unwrap();
            texts.extend(chunk.iter().filter_map(|e| e["content"]["body"].as_str()).map(str::to_owned));
            match page["end"].as_str() {
                Some(end) => from = format!("&from={end}"),
                None => break,
            }
        }
        let expect: Vec<_> = (0..30).rev().map(|number| format!("number {number}")).collect();
        assert_eq!(texts, expect);
    }

    async fn devices_and_messages_to_them_reach_other_servers(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let (alice, bob) = (&pair.alice, &pair.bob);
        let room = create(alice, json!({ "preset": "public_chat" })).await;
        join(bob, &room, &pair.names[0]).await;
        await_membership(alice, &room, &bob.user_id, "join").await;
        let since = next_batch(&sync(alice, None).await);
        Device::new(bob, 7).upload(1).await;
        let has_changed = |answer: &Value| {
            let changed = answer["device_lists"]["changed"].as_array()?;
            changed.contains(&json!(bob.user_id)).then_some(())
        };
        wait_for(alice, &since, has_changed).await;
        let body = json!({ "device_keys": { &bob.user_id: [] } });
        let found = alice.post("/_matrix/client/v3/keys/query", &body).await.ok();
        let device = &found["device_keys"][&bob.user_id][&bob.device_id];
        assert_eq!(device["device_id"], *bob.device_id, "{found}");
        let body = json!({
            "one_time_keys": { &bob.user_id: { &bob.device_id: "signed_curve25519" } },
        });
        let claimed = alice.post("/_matrix/client/v3/keys/claim", &body).await.ok();
        let claimed = &claimed["one_time_keys"][&bob.user_id][&bob.device_id];
        assert!(claimed["signed_curve25519:AAAA0000"].is_object(), "{claimed}");
        let since = next_batch(&sync(bob, None).await);
        let body = json!({ "messages": { &bob.user_id: { &bob.device_id: { "word": "hush" } } } });
        alice.put("/_matrix/client/v3/sendToDevice/m.test/1", &body).await.ok();
        let heard = |answer: &Value| {
            let events = answer["to_device"]["events"].as_array()?;
            events.iter().find(|event| event["content"]["word"] == "hush").cloned()
        };
        let (event, _) = wait_for(bob, &since, heard).await;
        assert_eq!(event["sender"], alice.user_id);
    }
}

/// Waits until an event is there.
async fn hear_of(client: &Client, room_id: &str, event_id: &str) {
    let path = format!("/_matrix/client/v3/rooms/{room_id}/event/{event_id}");
    let mut since = next_batch(&sync(client, None).await);
    while client.get(&path).await.status != 200 {
        let path =
            format!("/_matrix/client/v3/sync?set_presence=offline&timeout=500&since={since}");
        since = next_batch(&client.get(&path).await.ok());
    }
}
