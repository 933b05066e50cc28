//! Servers that send what they should not: each thing is refused as the specification says, costs a
//! bounded amount, and leaves the room as it was (server-server API, "Checks performed on receipt of a
//! PDU", "Transactions").

use std::sync::Arc;

use futures_util::future;
use hearth::{
    clock::Clock,
    federation::Transaction,
    protocol::{event::Event, signing::SigningKey},
    rooms::Room,
};
use reqwest::Method;
use ruma::ServerName;
use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{next_batch, sync, wait_for},
    graph_room::{Branch, contents, public_room},
    harness::{Backend, Client, Network, ScriptedPeer, Server},
};

/// Alice's room, which a user of a scripted server has joined.
pub struct Siege {
    pub network: Network,
    pub server: Server,
    pub peer: ScriptedPeer,
    pub alice: Client,
    pub room: Arc<Room>,
    /// The room as that server sees it.
    pub branch: Branch,
    pub bob: String,
}

impl Siege {
    pub async fn begin(backend: &Backend) -> Self {
        let network = Network::new();
        let name = network.new_name();
        let server = network.start(backend, &name).await;
        let peer = ScriptedPeer::start(&network).await;
        Self::of(network, server, peer).await
    }

    pub async fn of(network: Network, server: Server, peer: ScriptedPeer) -> Self {
        let alice = server.register("alice").await;
        let room = public_room(&server.app.rooms, &alice, "12").await;
        let bob = format!("@bob:{}", peer.name);
        let mut branch = Branch::of_room(&server.app.rooms, &room).await;
        branch.set_time(Clock::real().now_ms());
        let join = branch.member(&bob, &bob, "join");
        let origin: &ServerName = peer.name.as_str().try_into().unwrap();
        server.app.rooms.take_signed(origin, &room, join).await.unwrap();
        Self { network, server, peer, alice, room, branch, bob }
    }

    /// What Bob says next, in order.
    pub fn say(&mut self, text: &str) -> Value {
        json_of(&self.branch.message(&self.bob, text))
    }

    pub async fn is_known(&self, event: &Event) -> bool {
        let found = self.server.app.rooms.find_any_event(&self.room, event.event_id());
        found.await.unwrap().is_some()
    }

    pub async fn contents(&self) -> Vec<Value> {
        contents(&self.server.app.rooms, &self.room).await.into_values().collect()
    }

    /// Bob goes on from where the room stands, and Alice hears him.
    pub async fn assert_unharmed(&mut self) {
        self.branch.catch_up(&self.server.app.rooms, &self.room).await;
        let since = next_batch(&sync(&self.alice, None).await);
        let event = self.branch.message(&self.bob, "nothing happened");
        let id = event.event_id().as_str().replace('$', "unharmed");
        let results = self.peer.send(&self.server, &id, &[json_of(&event)]).await;
        assert_eq!(results[event.event_id().as_str()], json!({}));
        let room_id = self.room.room_id.as_str();
        let heard = wait_for(&self.alice, &since, |answer| {
            let events = answer["rooms"]["join"][room_id]["timeline"]["events"].as_array()?;
            events.last().map(|event| event["content"]["body"].clone())
        });
        assert_eq!(heard.await.0, "nothing happened");
    }
}

pub fn json_of(event: &Event) -> Value {
    Value::Object(event.to_object())
}

fn error_of(results: &Value, event: &Event) -> String {
    let result = &results[event.event_id().as_str()];
    result["error"]
        .as_str()
        .unwrap_or_else(|| panic!("{} was taken: {results}", event.event_id()))
        .to_owned()
}

/// The texts that Alice sees of the latest events.
async fn texts(siege: &Siege) -> Vec<String> {
    let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=50", siege.room.room_id);
    let page = siege.alice.get(&path).await.ok();
    let events = page["chunk"].as_array().unwrap().iter();
    let texts = events.filter_map(|event| event["content"]["body"].as_str().map(str::to_owned));
    texts.collect()
}

both_databases! {
    async fn forged_events_are_dropped_and_changed_ones_redacted(backend: Backend) {
        let mut siege = Siege::begin(backend).await;
        let before = siege.contents().await;
        let start = siege.branch.clone();
        // Signed with a key that is not the one of this name.
        let forged = start.clone().message(&siege.bob, "forged");
        let mut forged_json = json_of(&forged);
        let other = SigningKey::from_seed("test", &[9; 32]).unwrap();
        let mut object = forged.to_object();
        object.remove("signatures");
        other.sign_json(&mut object, &siege.peer.name);
        forged_json["signatures"] = object["signatures"].clone();
        // Signed with a key that nobody knows.
        let unknown = start.clone().message(&siege.bob, "unknown key");
        let mut unknown_json = json_of(&unknown);
        let signature = unknown_json["signatures"][&siege.peer.name]["ed25519:test"].take();
        unknown_json["signatures"] = json!({ &siege.peer.name: { "ed25519:unknown": signature } });
        // In the name of somebody of another server.
        let stolen = start.clone().message(&siege.alice.user_id, "stolen");
        // Not signed at all.
        let unsigned = start.clone().message(&siege.bob, "unsigned");
        let mut unsigned_json = json_of(&unsigned);
        unsigned_json["signatures"] = json!({});
        // Its content is another one than was hashed.
        let changed = siege.branch.message(&siege.bob, "as it was");
        let mut changed_json = json_of(&changed);
        changed_json["content"]["body"] = json!("as it was not");

        let pdus = [forged_json, unknown_json, json_of(&stolen), unsigned_json, changed_json];
        let results = siege.peer.send(&siege.server, "1", &pdus).await;
        for event in [&forged, &unknown, &stolen, &unsigned] {
            error_of(&results, event);
            assert!(!siege.is_known(event).await, "{results}");
        }
        assert_eq!(results[changed.event_id().as_str()], json!({}));
        let stored = siege.server.app.rooms.find_any_event(&siege.room, changed.event_id());
        assert_eq!(stored.await.unwrap().unwrap().event.content_json(), "{}");
        assert_eq!(siege.contents().await, before);
        siege.assert_unharmed().await;
        siege.server.stop().await;
    }

    async fn events_of_other_rooms_stay_out(backend: Backend) {
        let mut siege = Siege::begin(backend).await;
        let rooms = &siege.server.app.rooms;
        let private = public_room(rooms, &siege.alice, "12").await;
        let mut inside = Branch::of_room(rooms, &private).await;
        let before = contents(rooms, &private).await;
        let intruding = inside.clone().message(&siege.bob, "let me in");
        let join = inside.member(&siege.bob, &siege.bob, "invite");
        // One that names events of this room, for the other one.
        let mut moved = json_of(&siege.branch.clone().message(&siege.bob, "moved"));
        moved["room_id"] = private.room_id.as_str().into();
        let mut nowhere = json_of(&siege.branch.clone().message(&siege.bob, "nowhere"));
        nowhere["room_id"] = "!nowhere".into();
        let no_event = json!({ "room_id": siege.room.room_id, "type": 7 });
        let pdus = [json_of(&intruding), json_of(&join), moved, nowhere, no_event];
        let results = siege.peer.send(&siege.server, "1", &pdus).await;
        error_of(&results, &intruding);
        error_of(&results, &join);
        assert_eq!(contents(&siege.server.app.rooms, &private).await, before);
        siege.assert_unharmed().await;
        siege.server.stop().await;
    }

    async fn floods_of_state_that_is_not_allowed_change_nothing(backend: Backend) {
        let mut siege = Siege::begin(backend).await;
        let before = siege.contents().await;
        let mut flood = siege.branch.clone();
        for transaction in 0..10 {
            let events: Vec<_> = (0..50)
                .map(|number| {
                    let key = format!("{transaction}/{number}");
                    flood.state(&siege.bob, "org.example.flood", &key, json!({ "n": number }))
                })
                .collect();
            let pdus: Vec<Value> = events.iter().map(|event| json_of(event)).collect();
            let results = siege.peer.send(&siege.server, &format!("f{transaction}"), &pdus).await;
            events.iter().for_each(|event| drop(error_of(&results, event)));
        }
        let too_many: Vec<Value> = (0..51).map(|_| siege.say("one of too many")).collect();
        siege.peer.transmit(&siege.server, "51", &too_many).await.error(400, "M_TOO_LARGE");
        assert_eq!(siege.contents().await, before);
        siege.assert_unharmed().await;
        siege.server.stop().await;
    }

    async fn ten_thousand_tiny_transactions_are_taken_by_and_by(backend: Backend) {
        let mut siege = Siege::begin(backend).await;
        let origin: &ServerName = siege.peer.name.as_str().try_into().unwrap();
        let federation = &siege.server.app.federation;
        // As many at once as may wait; others are told to come back.
        let send = async |first: usize| {
            for number in (first..10_000).step_by(8) {
                let transaction = Transaction { pdus: Vec::new(), edus: Vec::new() };
                let id = format!("t{number}");
                let taken = federation.receive_transaction(origin, &id, transaction).await;
                assert_eq!(taken.unwrap(), r#"{"pdus":{}}"#);
            }
        };
        future::join_all((0..8).map(send)).await;
        siege.assert_unharmed().await;
        siege.server.stop().await;
    }

    async fn more_transactions_at_once_than_wait_are_told_to_come_back(backend: Backend) {
        let mut siege = Siege::begin(backend).await;
        let events: Vec<Value> = (0..30).map(|number| siege.say(&number.to_string())).collect();
        let sends = events.iter().enumerate().map(|(number, event)| {
            let id = format!("many{number}");
            let (peer, server) = (&siege.peer, &siege.server);
            async move { peer.transmit(server, &id, std::slice::from_ref(event)).await }
        });
        for answer in future::join_all(sends).await {
            match answer.status.as_u16() {
                200 => {}
                _ => drop(answer.error(429, "M_LIMIT_EXCEEDED")),
            }
        }
        siege.assert_unharmed().await;
        siege.server.stop().await;
    }

    async fn replayed_transactions_and_events_happen_once(backend: Backend) {
        let mut siege = Siege::begin(backend).await;
        let (first, second) = (siege.say("once"), siege.say("instead"));
        let one = siege.peer.send(&siege.server, "same", std::slice::from_ref(&first)).await;
        // The same transaction, whatever it holds, gets the same answer and does nothing.
        let again = siege.peer.send(&siege.server, "same", std::slice::from_ref(&first)).await;
        let other = siege.peer.send(&siege.server, "same", std::slice::from_ref(&second)).await;
        assert_eq!((&one, &one), (&again, &other));
        for number in 0..5 {
            let id = format!("again{number}");
            siege.peer.send(&siege.server, &id, &[first.clone(), first.clone()]).await;
        }
        assert_eq!(texts(&siege).await, ["once"]);
        // Nor does a request that somebody else has overheard serve for another one.
        let stranger = ScriptedPeer::start(&siege.network).await;
        let path = "/_matrix/federation/v1/send/stolen";
        let body = json!({ "origin": siege.peer.name, "origin_server_ts": 1, "pdus": [second] });
        let wrong = SigningKey::from_seed("test", &[8; 32]).unwrap();
        let ask = stranger.ask_with(&wrong, &siege.server, (Method::PUT, path), Some(&body));
        ask.await.error(401, "M_UNAUTHORIZED");
        assert_eq!(texts(&siege).await, ["once"]);
        siege.assert_unharmed().await;
        siege.server.stop().await;
    }
}
