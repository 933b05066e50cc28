//! How long resolving a fork takes, against `ruma-state-res` on the same rooms in the same run.
//!
//! `HEARTH_BENCH_ROOMS` names a directory into which the rooms are written instead, for `time_synapse.py`.
//! `table` beside this file runs both and prints what stands in docs/PERFORMANCE.md.

#![expect(clippy::unwrap_used, reason = "a benchmark may fail by panicking")]
#![expect(dead_code, reason = "the tests of the protocol ask more of what is shared with them")]

#[path = "../../protocol/large_room.rs"]
mod large_room;
#[path = "../../protocol/oracle.rs"]
mod oracle;

use std::{collections::HashMap, hint::black_box, path::Path, time::Duration};

use criterion::{BatchSize, Criterion, SamplingMode};
use hearth::protocol::room_version::RoomVersion;
use ruma::{
    EventId, OwnedEventId,
    state_res::{self, utils::event_id_set::EventIdSet},
};
use serde_json::json;

use crate::{
    large_room::{LargeRoom, Prepared, State},
    oracle::OracleEvent,
};

const VERSIONS: [RoomVersion; 2] = [RoomVersion::V11, RoomVersion::V12];
const MEMBERS: [usize; 3] = [1_000, 10_000, 100_000];
const BRANCHES: [usize; 3] = [2, 10, 100];

type RumaState = state_res::StateMap<OwnedEventId>;

/// A fork as `ruma-state-res` wants it.
struct RumaFork<'a> {
    version: RoomVersion,
    events: &'a HashMap<OwnedEventId, OracleEvent>,
    states: Vec<RumaState>,
    /// It takes whole chains: finding them is not counted.
    chains: Vec<EventIdSet<OwnedEventId>>,
    subgraph: EventIdSet<OwnedEventId>,
}

impl<'a> RumaFork<'a> {
    fn new(
        room: &LargeRoom,
        events: &'a HashMap<OwnedEventId, OracleEvent>,
        branches: &[State],
        prepared: &Prepared,
    ) -> Self {
        let state = |branch: &State| -> RumaState {
            let entry = |nid: &u32| {
                let event = room.event(*nid);
                let key = (event.kind().into(), event.state_key().unwrap().to_owned());
                (key, event.event_id().to_owned())
            };
            branch.values().map(entry).collect()
        };
        let states: Vec<RumaState> = branches.iter().map(state).collect();
        let chains =
            states.iter().map(|state| oracle::auth_chain(state.values(), &room.events)).collect();
        let subgraph = prepared.subgraph.iter().cloned().collect();
        Self { version: room.version, events, states, chains, subgraph }
    }

    fn resolve(&self, chains: Vec<EventIdSet<OwnedEventId>>) -> RumaState {
        let rules = oracle::rules(self.version);
        let resolved = state_res::resolve(
            &rules.authorization,
            rules.state_res.v2_rules().unwrap(),
            &self.states,
            chains,
            |id: &EventId| self.events.get(id).cloned(),
            |_: &state_res::StateMap<Vec<OwnedEventId>>| Some(self.subgraph.clone()),
        );
        resolved.unwrap()
    }
}

fn main() {
    if let Some(directory) = std::env::var_os("HEARTH_BENCH_ROOMS") {
        return write_rooms(Path::new(&directory));
    }
    let mut criterion = Criterion::default().configure_from_args();
    for version in VERSIONS {
        for members in MEMBERS {
            let room = LargeRoom::new(version, members, BRANCHES[2]);
            let events: HashMap<OwnedEventId, OracleEvent> = room
                .events
                .iter()
                .map(|(id, known)| (id.clone(), OracleEvent::new(known)))
                .collect();
            for branches in BRANCHES {
                compare(&mut criterion, &room, &events, members, branches);
            }
        }
    }
    criterion.final_summary();
}

fn compare(
    criterion: &mut Criterion,
    room: &LargeRoom,
    events: &HashMap<OwnedEventId, OracleEvent>,
    members: usize,
    branches: usize,
) {
    let states = &room.branches[..branches];
    let fork = RumaFork::new(room, events, states, &room.prepare(states));
    assert_equal(room, &room.resolve(states), &fork.resolve(fork.chains.clone()));
    let mut group =
        criterion.benchmark_group(format!("resolution-{}-{members}-{branches}", room.version));
    group.sample_size(10).warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_secs(1)).sampling_mode(SamplingMode::Flat);
    group.bench_function("hearth", |bencher| {
        bencher.iter(|| room.resolve(black_box(states)));
    });
    group.bench_function("ruma", |bencher| {
        let chains = || fork.chains.clone();
        bencher.iter_batched(chains, |chains| fork.resolve(chains), BatchSize::PerIteration);
    });
    group.finish();
}

fn assert_equal(room: &LargeRoom, ours: &State, theirs: &RumaState) {
    assert_eq!(ours.len(), theirs.len());
    for nid in ours.values() {
        let event = room.event(*nid);
        let key = (event.kind().into(), event.state_key().unwrap().to_owned());
        assert_eq!(theirs.get(&key).map(|id| &**id), Some(event.event_id()));
    }
}

/// Writes each room with its forks and what they resolve to, as JSON.
fn write_rooms(directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    for version in VERSIONS {
        for members in MEMBERS {
            let room = LargeRoom::new(version, members, BRANCHES[2]);
            let forks: Vec<_> = BRANCHES
                .iter()
                .map(|branches| {
                    let states = &room.branches[..*branches];
                    let prepared = room.prepare(states);
                    let difference = prepared.auth_difference.iter().chain(&prepared.subgraph);
                    json!({
                        "branches": branches,
                        "difference": difference.collect::<Vec<_>>(),
                        "resolved": changes(&room, &room.resolve(states)),
                    })
                })
                .collect();
            let document = json!({
                "room_version": version.as_str(),
                "members": members,
                "events": (0..room.ids.len() as u32)
                    .map(|nid| room.event(nid).json().to_owned()).collect::<Vec<_>>(),
                "base": room.base.values().collect::<Vec<_>>(),
                "branches": room.branches.iter().map(|state| changes(&room, state)).collect::<Vec<_>>(),
                "forks": forks,
            });
            let path = directory.join(format!("{version}-{members}.json"));
            std::fs::write(path, serde_json::to_vec(&document).unwrap()).unwrap();
        }
    }
}

/// The numbers of the events that a state has and the room had not before its branches.
fn changes(room: &LargeRoom, state: &State) -> Vec<u32> {
    let is_new = |key: &u32, nid: &u32| room.base.get(key) != Some(nid);
    state.iter().filter(|(key, nid)| is_new(key, nid)).map(|(_, nid)| *nid).collect()
}
