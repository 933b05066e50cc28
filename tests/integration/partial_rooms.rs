//! Rooms that are entered without their members (MSC3706, MSC3902): what works at once, what waits, and
//! what becomes of it when the members have come.

use std::sync::Arc;

use hearth::{
    protocol::{event::Event, room_version::RoomVersion},
    rooms::{JoinedRoom, Room, Verdict},
};
use serde_json::{Value, json};

use crate::{
    both_databases,
    graph_room::{BOB, Branch, CAROL, Network, contents, receive, server},
    harness::{Client, Server},
};

const DAVE: &str = "@dave:d.test";

/// Asks for members only where they are needed.
const LAZY: &str = "%7B%22room%22%3A%7B%22state%22%3A%7B%22lazy_load_members%22%3Atrue%7D%7D%7D";

/// A room of Bob, Carol and Dave that Alice has entered without knowing them.
struct Entered {
    room: Arc<Room>,
    /// What goes on in the room, with all of its state.
    line: Branch,
    join: Arc<Event>,
    /// The whole state before the join.
    before: Vec<Arc<Event>>,
    network: Arc<Network>,
}

async fn sync(client: &Client, since: &str, filter: &str) -> Value {
    let since = if since.is_empty() { String::new() } else { format!("&since={since}") };
    client.get(&format!("/_matrix/client/v3/sync?timeout=0&filter={filter}{since}")).await.ok()
}

fn next_batch(answer: &Value) -> String {
    answer["next_batch"].as_str().unwrap().to_owned()
}

fn bodies(room: &Value) -> Vec<&str> {
    let events = room["timeline"]["events"].as_array().into_iter().flatten();
    events.filter_map(|event| event["content"]["body"].as_str()).collect()
}

fn members(events: &Value) -> Vec<&str> {
    let events = events.as_array().into_iter().flatten();
    let members = events.filter(|event| event["type"] == "m.room.member");
    let mut members: Vec<&str> = members.filter_map(|e| e["state_key"].as_str()).collect();
    members.sort_unstable();
    members
}

/// Enters a room; `shape` changes it before.
async fn enter(server_: &Server, alice: &Client, shape: impl FnOnce(&mut Branch)) -> Entered {
    let rooms = &server_.app.rooms;
    let (mut line, _) = Branch::new_room(RoomVersion::V11, &format!("big{}", alice.device_id));
    line.member(CAROL, CAROL, "join");
    line.member(DAVE, DAVE, "join");
    shape(&mut line);
    let before: Vec<Arc<Event>> = line.state.values().cloned().collect();
    let join = line.member(&alice.user_id, &alice.user_id, "join");
    let network = Arc::new(Network { fills_gaps: true, ..Network::default() });
    network.knows(&before);
    rooms.set_event_source(network.clone());
    let (members, state): (Vec<_>, Vec<_>) =
        before.iter().cloned().partition(|event| event.kind() == "m.room.member");
    // The chains hold who made the state, and nobody else.
    let is_bob = |event: &Arc<Event>| event.state_key() == Some(BOB);
    let joined = JoinedRoom {
        room_id: line.room_id().to_owned(),
        version: RoomVersion::V11,
        origin: server("b.test").to_owned(),
        join: Arc::clone(&join),
        state,
        auth_chain: members.into_iter().filter(is_bob).collect(),
        servers: Some(vec![server("c.test").to_owned(), server("d.test").to_owned()]),
    };
    let room = rooms.import_joined_room(joined).await.unwrap();
    Entered { room, line, join, before, network }
}

/// Enters a room in which users have these powers and which Dave has left; with his join, which others tell.
async fn enter_without_dave(
    server_: &Server,
    alice: &Client,
    powers: Value,
) -> (Entered, Arc<Event>) {
    let mut daves_join = None;
    let entered = enter(server_, alice, |line| {
        line.state(BOB, "m.room.power_levels", "", json!({ "users": powers }));
        daves_join = line.state.values().find(|e| e.state_key() == Some(DAVE)).cloned();
        line.member(DAVE, DAVE, "leave");
    })
    .await;
    let daves_join = daves_join.unwrap();
    entered.network.knows([&daves_join]);
    (entered, daves_join)
}

impl Entered {
    /// Has the other servers tell the state before the join.
    fn tell_state(&self) {
        let id = self.join.event_id().to_owned();
        self.network.states.lock().unwrap().insert(id, self.before.clone());
    }

    async fn complete(&self, server_: &Server) {
        self.tell_state();
        let rooms = &server_.app.rooms;
        // Unless somebody did so in the background.
        rooms.complete(server("b.test"), &self.room).await.unwrap();
        rooms.await_whole(&self.room).await;
        let found = rooms.check_room(&self.room.room_id, &|_, _| ()).await.unwrap();
        assert_eq!(found, Some(Vec::new()));
        assert!(rooms.list_partial().await.unwrap().is_empty());
    }

    fn of<'a>(&self, answer: &'a Value) -> &'a Value {
        &answer["rooms"]["join"][self.room.room_id.as_str()]
    }
}

both_databases! {
    async fn a_partial_room_is_usable_at_once(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let since = next_batch(&sync(&alice, "", "{}").await);
        let mut entered = enter(&server_, &alice, |_| ()).await;
        let rooms = &server_.app.rooms;
        // Who asks for all members does not get the room yet; who does not, does.
        let eager = sync(&alice, &since, "{}").await;
        assert!(entered.of(&eager).is_null(), "{eager}");
        let lazy = sync(&alice, &since, LAZY).await;
        assert!(entered.of(&lazy).is_object(), "{lazy}");
        let lazy_since = next_batch(&lazy);
        // Everybody who was there is told what Alice says.
        let servers = rooms.servers_in_room(&entered.room).await.unwrap();
        let names: Vec<_> = servers.iter().map(|name| name.as_str()).collect();
        assert_eq!(names, ["b.test", "c.test", "d.test", "hearth.test"]);
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/1", entered.room.room_id);
        alice.put(&path, &json!({ "msgtype": "m.text", "body": "mine" })).await.ok();
        // A member of whom nobody has told is known by what they send.
        let head = Branch::of_room(rooms, &entered.room).await;
        entered.line.tips = head.tips;
        let hello = entered.line.message(CAROL, "hello");
        entered.network.knows([&hello]);
        assert_eq!(receive(rooms, &entered.room, &hello).await, Verdict::Accepted);
        let lazy = sync(&alice, &lazy_since, LAZY).await;
        assert_eq!(bodies(entered.of(&lazy)), ["mine", "hello"]);
        let told = members(&entered.of(&lazy)["state"]["events"]);
        assert!(told.contains(&CAROL) && !told.contains(&DAVE), "{lazy}");
        let state = format!("/_matrix/client/v3/rooms/{}/state/m.room.join_rules", entered.room.room_id);
        assert_eq!(alice.get(&state).await.ok()["join_rule"], "public");
        entered.complete(&server_).await;
        server_.stop().await;
    }

    async fn a_room_becomes_whole_for_everybody(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let since = next_batch(&sync(&alice, "", "{}").await);
        let mut entered = enter(&server_, &alice, |line| {
            let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
            line.state(BOB, "m.room.encryption", "", encryption);
        })
        .await;
        let rooms = &server_.app.rooms;
        let lazy_since = next_batch(&sync(&alice, "", LAZY).await);
        let hello = entered.line.message(CAROL, "hello");
        entered.network.knows([&hello]);
        assert_eq!(receive(rooms, &entered.room, &hello).await, Verdict::Accepted);
        // These wait until somebody has told the members.
        let room_id = entered.room.room_id.as_str();
        let (members_path, joined_path, dave_path) = (
            format!("/_matrix/client/v3/rooms/{room_id}/members"),
            format!("/_matrix/client/v3/rooms/{room_id}/joined_members"),
            format!("/_matrix/client/v3/rooms/{room_id}/state/m.room.member/{DAVE}"),
        );
        let (all, joined, dave, ()) = tokio::join!(
            alice.get(&members_path),
            alice.get(&joined_path),
            alice.get(&dave_path),
            entered.complete(&server_),
        );
        let everybody = [alice.user_id.as_str(), BOB, CAROL, DAVE];
        assert_eq!(members(&all.ok()["chunk"]), everybody);
        assert_eq!(joined.ok()["joined"].as_object().unwrap().len(), 4);
        assert_eq!(dave.ok()["membership"], "join");
        assert_eq!(entered.room.head().joined_count, 4);
        // Now everybody who asks for all members gets the room with them.
        for since in ["", &since] {
            let eager = sync(&alice, since, "{}").await;
            let room = entered.of(&eager);
            let mut found = members(&room["state"]["events"]);
            found.extend(members(&room["timeline"]["events"]));
            found.sort_unstable();
            found.dedup();
            assert_eq!(found, everybody, "{eager}");
            assert_eq!(bodies(room), ["hello"]);
            let after = sync(&alice, &next_batch(&eager), "{}").await;
            assert!(entered.of(&after).is_null(), "{after}");
        }
        let lazy = sync(&alice, &lazy_since, LAZY).await;
        let room = entered.of(&lazy);
        assert_eq!(room["summary"]["m.joined_member_count"], 4, "{lazy}");
        assert!(members(&room["state"]["events"]).contains(&CAROL), "{lazy}");
        let whole: Vec<_> = lazy["device_lists"]["changed"].as_array().unwrap().clone();
        assert!(whole.contains(&json!(DAVE)), "{lazy}");
        assert_eq!(contents(rooms, &entered.room).await.len(), entered.line.state.len());
        server_.stop().await;
    }

    async fn what_was_wrongly_accepted_is_rejected_in_the_end(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let mut carols_join = None;
        let mut entered = enter(&server_, &alice, |line| {
            carols_join = line.state.values().find(|e| e.state_key() == Some(CAROL)).cloned();
            line.member(CAROL, CAROL, "leave");
        })
        .await;
        let rooms = &server_.app.rooms;
        let since = next_batch(&sync(&alice, "", LAZY).await);
        // Carol has left, and says that she is there.
        let carols_join = carols_join.unwrap();
        entered.network.knows([&carols_join]);
        let mut draft = entered.line.draft(CAROL, "m.room.message", None, json!({ "msgtype": "m.text", "body": "boo" }));
        for id in &mut draft.auth_events {
            let leave = entered.before.iter().find(|e| e.state_key() == Some(CAROL)).unwrap();
            if id == leave.event_id() {
                *id = carols_join.event_id().to_owned();
            }
        }
        let boo = entered.line.seal(draft);
        entered.network.knows([&boo]);
        assert_eq!(receive(rooms, &entered.room, &boo).await, Verdict::Accepted);
        let kick = entered.line.member(BOB, DAVE, "leave");
        entered.network.knows([&kick]);
        assert_eq!(receive(rooms, &entered.room, &kick).await, Verdict::Accepted);
        let lazy = sync(&alice, &since, LAZY).await;
        assert_eq!(bodies(entered.of(&lazy)), ["boo"]);
        entered.complete(&server_).await;
        let path = format!("/_matrix/client/v3/rooms/{}/event/{}", entered.room.room_id, boo.event_id());
        alice.get(&path).await.error(404, "M_NOT_FOUND");
        let dave = format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{DAVE}", entered.room.room_id);
        assert_eq!(alice.get(&dave).await.ok()["membership"], "leave");
        assert_eq!(entered.room.head().joined_count, 2);
        server_.stop().await;
    }

    async fn what_was_wrongly_rejected_counts_in_the_end(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let powers = json!({ BOB: 100, DAVE: 100, CAROL: 50 });
        let (mut entered, daves_join) = enter_without_dave(&server_, &alice, powers).await;
        let rooms = &server_.app.rooms;
        // Dave has left, and kicks Carol all the same. Then she does something.
        let mut honest = entered.line.clone();
        let content = json!({ "membership": "leave" });
        let mut draft = entered.line.draft(DAVE, "m.room.member", Some(CAROL), content);
        let leave = entered.before.iter().find(|e| e.state_key() == Some(DAVE)).unwrap();
        for id in draft.auth_events.iter_mut().filter(|id| *id == leave.event_id()) {
            *id = daves_join.event_id().to_owned();
        }
        let kick = entered.line.seal(draft);
        honest.tips = vec![Arc::clone(&kick)];
        let topic = honest.topic(CAROL, "still here");
        let last = honest.message(BOB, "go on");
        entered.network.knows([&kick, &topic, &last]);
        assert_eq!(receive(rooms, &entered.room, &kick).await, Verdict::Accepted);
        let verdict = receive(rooms, &entered.room, &topic).await;
        assert!(matches!(verdict, Verdict::Rejected(_)), "{verdict:?}");
        assert_eq!(receive(rooms, &entered.room, &last).await, Verdict::Accepted);
        entered.complete(&server_).await;
        let room_id = &entered.room.room_id;
        let path = format!("/_matrix/client/v3/rooms/{room_id}/event/{}", kick.event_id());
        alice.get(&path).await.error(404, "M_NOT_FOUND");
        let path = format!("/_matrix/client/v3/rooms/{room_id}/state/m.room.topic");
        assert_eq!(alice.get(&path).await.ok()["topic"], "still here");
        assert_eq!(rooms.forward_extremities(&entered.room), [last.event_id()]);
        server_.stop().await;
    }

    async fn a_restart_and_a_silent_server_do_not_end_the_wait(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let mut entered = enter(&server_, &alice, |_| ()).await;
        let (room_id, rooms) = (entered.room.room_id.clone(), server_.app.rooms.clone());
        rooms.complete(server("b.test"), &entered.room).await.unwrap_err();
        let hello = entered.line.message(DAVE, "hello");
        entered.network.knows([&hello]);
        assert_eq!(receive(&rooms, &entered.room, &hello).await, Verdict::Accepted);
        drop(rooms);
        server_.stop().await;

        let server_ = Server::start(backend).await;
        let alice = server_.reconnect(&alice);
        let rooms = &server_.app.rooms;
        rooms.set_event_source(entered.network.clone());
        let partial = rooms.list_partial().await.unwrap();
        assert_eq!(partial.iter().map(|room| &room.room_id).collect::<Vec<_>>(), [&room_id]);
        entered.room = Arc::clone(&partial[0]);
        assert!(entered.of(&sync(&alice, "", "{}").await).is_null());
        entered.complete(&server_).await;
        let eager = sync(&alice, "", "{}").await;
        assert_eq!(bodies(entered.of(&eager)), ["hello"]);
        server_.stop().await;

        // It stays whole, and is given once.
        let server_ = Server::start(backend).await;
        let alice = server_.reconnect(&alice);
        assert!(server_.app.rooms.list_partial().await.unwrap().is_empty());
        let after = sync(&alice, &next_batch(&eager), "{}").await;
        assert!(entered.of(&after).is_null(), "{after}");
        server_.stop().await;
    }

    async fn gaps_are_bridged_and_corrected_in_the_end(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let mut entered = enter(&server_, &alice, |_| ()).await;
        let rooms = &server_.app.rooms;
        // Nobody tells what was said meanwhile, nor the state behind it.
        let missed = [entered.line.topic(BOB, "new"), entered.line.message(BOB, "missed")];
        let state: Vec<_> = entered.line.state.values().cloned().collect();
        let late = entered.line.message(CAROL, "late");
        entered.network.knows([&late]);
        assert_eq!(receive(rooms, &entered.room, &late).await, Verdict::Accepted);
        entered.network.knows([&missed[0]]);
        entered.network.states.lock().unwrap().insert(late.event_id().to_owned(), state);
        entered.complete(&server_).await;
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.topic", entered.room.room_id);
        assert_eq!(alice.get(&path).await.ok()["topic"], "new");
        server_.stop().await;
    }

    async fn a_partial_room_can_be_left_and_entered_again(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let mut entered = enter(&server_, &alice, |_| ()).await;
        let rooms = &server_.app.rooms;
        let room_id = entered.room.room_id.clone();
        alice.post(&format!("/_matrix/client/v3/rooms/{room_id}/leave"), &json!({})).await.ok();
        let mut line = Branch::of_room(rooms, &entered.room).await;
        let members = entered.line.state.iter().map(|(key, event)| (key.clone(), Arc::clone(event)));
        line.state = members.chain(line.state).collect();
        rooms.give_up_partial(&entered.room).await.unwrap();
        assert!(rooms.list_partial().await.unwrap().is_empty());

        entered.line = line;
        entered.before = entered.line.state.values().cloned().collect();
        entered.join = entered.line.member(&alice.user_id, &alice.user_id, "join");
        let (_, state): (Vec<_>, Vec<_>) =
            entered.before.iter().cloned().partition(|event| event.kind() == "m.room.member");
        let joined = JoinedRoom {
            room_id: room_id.clone(),
            version: RoomVersion::V11,
            origin: server("b.test").to_owned(),
            join: Arc::clone(&entered.join),
            state,
            auth_chain: entered.before.clone(),
            servers: Some(vec![server("c.test").to_owned()]),
        };
        rooms.import_joined_room(joined).await.unwrap();
        assert!(entered.room.head().partial().is_some());
        entered.complete(&server_).await;
        let path = format!("/_matrix/client/v3/rooms/{room_id}/joined_members");
        assert_eq!(alice.get(&path).await.ok()["joined"].as_object().unwrap().len(), 4);
        server_.stop().await;
    }

    async fn an_entry_made_again_asks_for_no_other_state(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let entered = enter(&server_, &alice, |_| ()).await;
        let rooms = &server_.app.rooms;
        let room_id = entered.room.room_id.clone();
        alice.post(&format!("/_matrix/client/v3/rooms/{room_id}/leave"), &json!({})).await.ok();
        let mut line = Branch::of_room(rooms, &entered.room).await;
        let state = entered.before.clone();
        let again = line.member(&alice.user_id, &alice.user_id, "join");
        let joined = JoinedRoom {
            room_id: room_id.clone(),
            version: RoomVersion::V11,
            origin: server("c.test").to_owned(),
            join: Arc::clone(&again),
            state: state.iter().filter(|event| event.kind() != "m.room.member").cloned().collect(),
            auth_chain: state,
            servers: Some(vec![server("d.test").to_owned()]),
        };
        rooms.import_joined_room(joined).await.unwrap();
        // Only the state before the first entry is told.
        entered.complete(&server_).await;
        let path = format!("/_matrix/client/v3/rooms/{room_id}/joined_members");
        assert_eq!(alice.get(&path).await.ok()["joined"].as_object().unwrap().len(), 4);
        assert_eq!(rooms.forward_extremities(&entered.room), [again.event_id()]);
        server_.stop().await;
    }

    async fn what_an_event_names_counts_beside_the_part_that_is_known(backend: Backend) {
        let server_ = Server::start(backend).await;
        let alice = server_.register("alice").await;
        let powers = json!({ BOB: 100, DAVE: 100 });
        let (mut entered, daves_join) = enter_without_dave(&server_, &alice, powers).await;
        let rooms = &server_.app.rooms;
        // Dave has left, and removes Carol all the same, of whom he names nothing. She leaves herself.
        let mut honest = entered.line.clone();
        let content = json!({ "membership": "leave" });
        let mut draft = entered.line.draft(DAVE, "m.room.member", Some(CAROL), content);
        let of = |user: &str| entered.before.iter().find(|e| e.state_key() == Some(user)).unwrap();
        draft.auth_events.retain(|id| id != of(CAROL).event_id() && id != of(DAVE).event_id());
        draft.auth_events.push(daves_join.event_id().to_owned());
        let kick = entered.line.seal(draft);
        honest.tips = vec![Arc::clone(&kick)];
        let leave = honest.member(CAROL, CAROL, "leave");
        entered.network.knows([&kick, &leave]);
        assert_eq!(receive(rooms, &entered.room, &kick).await, Verdict::Accepted);
        assert_eq!(receive(rooms, &entered.room, &leave).await, Verdict::Accepted);
        entered.complete(&server_).await;
        let path = format!("/_matrix/client/v3/rooms/{}/event/", entered.room.room_id);
        alice.get(&format!("{path}{}", kick.event_id())).await.error(404, "M_NOT_FOUND");
        alice.get(&format!("{path}{}", leave.event_id())).await.ok();
        server_.stop().await;
    }
}
