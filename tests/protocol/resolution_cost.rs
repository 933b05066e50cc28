//! What state resolution costs, counted and not timed: events asked for, and bytes of memory at the peak.
//! The bounds stand in docs/PERFORMANCE.md.

use std::{cell::Cell, collections::HashMap};

use hearth::protocol::{
    room_version::RoomVersion,
    state_key::StateKey,
    state_resolution::{
        Conflict, EventSource, KnownEvent, NoVerdicts, StateMap, UnconflictedState, resolve,
    },
};
use ruma::{EventId, OwnedEventId};

use crate::{
    allocations,
    large_room::{LargeRoom, MEMBERS_MIN, State},
    oracle,
};

/// Bytes at the peak of a resolution for each event of the full conflicted set (conflicted state, auth
/// difference, conflicted subgraph), with what the result takes.
const EVENT_BYTES_MAX: usize = 1_024;
/// Bytes that a resolution takes whatever its size.
const FIXED_BYTES_MAX: usize = 16_384;
/// How often each event of the full conflicted set may be asked for.
const EVENT_LOOKUPS_MAX: usize = 40;

/// Counts what it is asked.
struct Counted<'a> {
    events: &'a HashMap<OwnedEventId, KnownEvent>,
    lookups: Cell<usize>,
}

impl EventSource for Counted<'_> {
    fn find(&self, id: &EventId) -> Option<KnownEvent> {
        self.lookups.set(self.lookups.get() + 1);
        self.events.get(id).cloned()
    }
}

/// The agreed state by a map that was made before the measurement.
struct Agreed(HashMap<(String, String), OwnedEventId>);

impl UnconflictedState for Agreed {
    fn find(&self, kind: &str, state_key: &str) -> Option<OwnedEventId> {
        self.0.get(&(kind.to_owned(), state_key.to_owned())).cloned()
    }
}

struct Cost {
    /// Events of the full conflicted set.
    events: usize,
    lookups: usize,
    bytes: usize,
}

fn measure(version: RoomVersion, members: usize, branches: usize) -> Cost {
    let room = LargeRoom::new(version, members, branches);
    let prepared = room.prepare(&room.branches);
    let agreed = prepared.split.unconflicted.values().map(|nid| {
        let event = room.event(*nid);
        let key = (event.kind().to_owned(), event.state_key().unwrap().to_owned());
        (key, event.event_id().to_owned())
    });
    let agreed = Agreed(agreed.collect());
    let conflicted = prepared.split.conflicted.keys();
    let conflict = Conflict {
        unconflicted: &agreed,
        conflicted: conflicted.map(|nid| room.ids[*nid as usize].clone()).collect(),
        auth_difference: prepared.auth_difference.clone(),
        conflicted_subgraph: prepared.subgraph.clone(),
        verdicts: &NoVerdicts,
    };
    let events = conflict.conflicted.len()
        + conflict.auth_difference.len()
        + conflict.conflicted_subgraph.len();
    // What events remember of their power levels belongs to them.
    let source = Counted { events: &room.events, lookups: Cell::new(0) };
    resolve(&conflict, room.rules(), &source).unwrap();
    source.lookups.set(0);
    let (resolved, bytes) =
        allocations::peak_of(|| resolve(&conflict, room.rules(), &source).unwrap());
    assert!(!resolved.is_empty());
    Cost { events, lookups: source.lookups.get(), bytes }
}

/// A large state as the oracle wants it.
fn name_entries(room: &LargeRoom, state: &State) -> StateMap {
    let entry = |nid: &u32| {
        let event = room.event(*nid);
        (StateKey::of_event(event).unwrap(), event.event_id().to_owned())
    };
    state.values().map(entry).collect()
}

#[test]
fn forks_of_large_rooms_are_resolved_as_ruma_does() {
    for version in [RoomVersion::V11, RoomVersion::V12] {
        let room = LargeRoom::new(version, MEMBERS_MIN, 10);
        let states: Vec<StateMap> =
            room.branches.iter().map(|state| name_entries(&room, state)).collect();
        let expected = oracle::resolve(version, &states, &room.events);
        assert_eq!(name_entries(&room, &room.resolve(&room.branches)), expected, "{version}");
    }
}

#[test]
fn cost_of_a_resolution_is_that_of_the_conflict_and_not_of_the_room() {
    for version in [RoomVersion::V11, RoomVersion::V12] {
        let small = measure(version, MEMBERS_MIN, 10);
        let large = measure(version, 20 * MEMBERS_MIN, 10);
        assert_eq!((small.events, small.lookups), (large.events, large.lookups), "{version}");
        // Tables of another seed split at other moments.
        assert!(large.bytes < small.bytes * 5 / 4, "{version} {} {}", large.bytes, small.bytes);
    }
}

#[test]
fn memory_of_a_resolution_is_bounded_by_the_events_of_its_conflict() {
    for version in [RoomVersion::V3, RoomVersion::V11, RoomVersion::V12] {
        for branches in [2, 10, 100] {
            let Cost { events, lookups, bytes } = measure(version, MEMBERS_MIN, branches);
            let place = format!("version {version}, {branches} branches, {events} events");
            let bytes_max = FIXED_BYTES_MAX + events * EVENT_BYTES_MAX;
            assert!(bytes <= bytes_max, "{place}: {bytes} bytes, {}", bytes / events);
            assert!(lookups <= events * EVENT_LOOKUPS_MAX, "{place}: {lookups} lookups");
            println!("{place}: {} bytes and {} lookups an event", bytes / events, lookups / events);
        }
    }
}
