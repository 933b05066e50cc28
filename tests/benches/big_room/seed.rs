//! Makes the rooms that are measured, with the engine itself: every event is authorised, signed and committed.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use hearth::{
    app::StoppedServer,
    clock::Clock,
    protocol::room_version::RoomVersion,
    rooms::{EventRequest, Room, Rooms},
    storage::{StateNid, snapshots},
};
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::json;

use super::rig::place::{Place, SERVER_NAME};

/// Events in one commit.
const STEP: usize = 200;
/// Changes that are under way at a time.
const ABREAST: usize = 64;
/// Members of the small room.
const FEW: usize = 10;

pub struct Seeded {
    pub small: OwnedRoomId,
    pub big: OwnedRoomId,
    pub members: usize,
    /// The last snapshot before the later changes, and the last one.
    pub joined: StateNid,
    pub changed: StateNid,
}

pub fn user(number: usize) -> OwnedUserId {
    OwnedUserId::try_from(format!("@m{number}:{SERVER_NAME}")).expect("is a user ID")
}

pub async fn make_rooms(place: &Place, members: usize) -> Seeded {
    let stopped = StoppedServer::open(&place.config(), Clock::real()).await.expect("opens");
    let rooms = &stopped.rooms;
    let small = make_room(rooms).await;
    fill(rooms, &small, 1..FEW).await;
    let big = make_room(rooms).await;
    fill(rooms, &big, 1..members).await;
    let joined = snapshots::load_newest(rooms.database()).await.expect("is there");
    // Members in a random order, the same in every run.
    let mut seed: u64 = 42;
    let numbers = (0..members).map(|_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % members
    });
    change(rooms, &big, numbers).await;
    let changed = snapshots::load_newest(rooms.database()).await.expect("is there");
    let seeded =
        Seeded { small: small.room_id.clone(), big: big.room_id.clone(), members, joined, changed };
    drop((small, big));
    stopped.close().await;
    seeded
}

async fn make_room(rooms: &Rooms) -> Arc<Room> {
    let rules = RoomVersion::V12.rules();
    let creator = user(0);
    let join = json!({ "membership": "join" });
    let requests = [
        EventRequest::state(creator.clone(), "m.room.create", "", json!({ "room_version": "12" })),
        EventRequest::state(creator.clone(), "m.room.member", creator.as_str(), join),
        EventRequest::state(creator.clone(), "m.room.power_levels", "", json!({})),
        EventRequest::state(creator, "m.room.join_rules", "", json!({ "join_rule": "public" })),
    ];
    rooms.append_new_room(rules, None, &requests, None).await.expect("is allowed")
}

/// Has members join, in their order.
async fn fill(rooms: &Rooms, room: &Arc<Room>, numbers: impl IntoIterator<Item = usize>) {
    let numbers: Vec<usize> = numbers.into_iter().collect();
    for step in numbers.chunks(STEP) {
        let requests: Vec<_> = step.iter().map(|number| name(*number, "new")).collect();
        rooms.append(room, &requests, None).await.expect("is allowed");
    }
}

/// Has members change their names, many at a time.
async fn change(rooms: &Rooms, room: &Arc<Room>, numbers: impl Iterator<Item = usize>) {
    stream::iter(numbers.enumerate())
        .for_each_concurrent(ABREAST, |(done, number)| async move {
            let request = name(number, &format!("changed {done}"));
            rooms.append(room, &[request], None).await.expect("is allowed");
        })
        .await;
}

fn name(number: usize, name: &str) -> EventRequest {
    let user = user(number);
    let content = json!({ "membership": "join", "displayname": name });
    EventRequest::state(user.clone(), "m.room.member", user.as_str(), content)
}
