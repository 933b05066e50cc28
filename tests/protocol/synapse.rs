//! State resolution, authorisation and event IDs, compared with Synapse's. Not part of an ordinary run: it
//! needs a Python with the package `matrix-synapse`, named by `HEARTH_SYNAPSE_PYTHON`.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use hearth::protocol::{
    event::Event,
    room_version::RoomVersion,
    state_resolution::{StateMap, resolve_states},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::graph::{Dice, Graph};

/// Synapse in a process of its own, which answers line by line.
struct Synapse {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

#[derive(Deserialize)]
struct Answer {
    event_ids: Vec<String>,
    resolved: Vec<Vec<String>>,
    verdicts: Vec<bool>,
}

impl Synapse {
    fn start() -> Self {
        let python = std::env::var("HEARTH_SYNAPSE_PYTHON")
            .expect("HEARTH_SYNAPSE_PYTHON names a Python that has matrix-synapse");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/protocol/synapse_oracle.py");
        let mut process = Command::new(python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, input, output }
    }

    fn ask(&mut self, request: &Value) -> Answer {
        writeln!(self.input, "{request}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Synapse {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn ids(state: &StateMap) -> Vec<String> {
    let mut ids: Vec<String> = state.values().map(ToString::to_string).collect();
    ids.sort();
    ids
}

fn pdu(event: &Event) -> Value {
    serde_json::from_str(event.json()).unwrap()
}

/// Everything that happened in one generated room, to be asked at once.
#[derive(Default)]
struct Questions {
    resolve: Vec<Vec<Vec<String>>>,
    resolved: Vec<Vec<String>>,
    judge: Vec<(Value, Vec<String>)>,
    verdicts: Vec<bool>,
}

impl Questions {
    fn resolution(&mut self, states: &[&StateMap], resolved: &StateMap) {
        self.resolve.push(states.iter().map(|state| ids(state)).collect());
        self.resolved.push(ids(resolved));
    }

    fn check(self, synapse: &mut Synapse, graph: &Graph, place: &str) {
        let events: Vec<Value> =
            graph.order.iter().map(|id| pdu(&graph.events[id].event)).collect();
        let answer = synapse.ask(&json!({
            "room_version": graph.version.as_str(),
            "events": events,
            "resolve": self.resolve,
            "judge": self.judge,
        }));
        let event_ids: Vec<String> = graph.order.iter().map(ToString::to_string).collect();
        assert_eq!(answer.event_ids, event_ids, "{place}");
        assert_eq!(answer.resolved.len(), self.resolved.len());
        assert_eq!(answer.verdicts.len(), self.verdicts.len());
        for (number, (ours, theirs)) in self.resolved.iter().zip(&answer.resolved).enumerate() {
            assert_eq!(ours, theirs, "{place} resolution {number}");
        }
        for (number, (ours, theirs)) in self.verdicts.iter().zip(&answer.verdicts).enumerate() {
            assert_eq!(ours, theirs, "{place}: {:?}", self.judge[number]);
        }
    }
}

#[test]
#[ignore = "needs the Python package matrix-synapse"]
fn resolution_verdicts_and_event_ids_agree_with_synapse() {
    let rooms = std::env::var("HEARTH_TEST_ROOMS").map_or(20, |rooms| rooms.parse().unwrap());
    let mut synapse = Synapse::start();
    for version in RoomVersion::ALL {
        for seed in 0..rooms {
            let mut dice = Dice(seed);
            let mut graph = Graph::new(version, &mut dice);
            let mut questions = Questions::default();
            for _ in 0..60 {
                let step = graph.step(&mut dice);
                let states: Vec<&StateMap> = step.states.iter().collect();
                questions.resolution(&states, &step.state);
                questions.judge.push((pdu(&step.event), ids(&step.state)));
                questions.verdicts.push(step.verdict.is_ok());
            }
            let states: Vec<&StateMap> = graph.ends.iter().map(|id| &graph.states[id]).collect();
            let resolved = resolve_states(&states, graph.rules(), &graph.events).unwrap();
            questions.resolution(&states, &resolved);
            questions.check(&mut synapse, &graph, &format!("version {version} seed {seed}"));
        }
    }
}
