//! State resolution, authorisation, hashing, signing and redaction, compared with Synapse's. A step of its
//! own in `tests/run`: it needs a Python with the package `matrix-synapse`, named by
//! `HEARTH_SYNAPSE_PYTHON`. `HEARTH_TEST_ROOMS` says how many rooms of each version, `HEARTH_TEST_SEED` from
//! which seed on.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use base64::Engine as _;
use hearth::protocol::{
    event::Event,
    event_hash,
    redaction::redact_event,
    room_version::{RoomRules, RoomVersion},
    signing::{UNPADDED_BASE64, find_signature},
    state_resolution::{StateMap, resolve_states},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::graph::{Dice, Graph, Step};

/// Rooms of each version, and events in each, where nothing else is asked for.
const ROOMS: u64 = 20;
const STEPS: usize = 60;

/// Synapse in a process of its own, which answers line by line.
struct Synapse {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

#[derive(Deserialize)]
struct Answer {
    events: Vec<Description>,
    resolved: Vec<Vec<String>>,
    verdicts: Vec<bool>,
    receipts: Vec<bool>,
}

/// What hashing, signing and redaction make of an event.
#[derive(Debug, Deserialize, PartialEq)]
struct Description {
    event_id: String,
    content_hash: String,
    signature: String,
    redacted: String,
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

fn describe(event: &Event, rules: &RoomRules) -> Description {
    let object = event.to_object();
    let server = event.sender().server_name().as_str();
    Description {
        event_id: event.event_id().to_string(),
        content_hash: UNPADDED_BASE64.encode(event_hash::content_hash(&object)),
        signature: find_signature(&object, server, "ed25519:test").unwrap().to_owned(),
        redacted: redact_event(event, rules).json().to_owned(),
    }
}

/// Everything that happened in one generated room, to be asked at once.
#[derive(Default)]
struct Questions {
    resolve: Vec<Vec<Vec<String>>>,
    resolved: Vec<Vec<String>>,
    judge: Vec<(String, Vec<String>)>,
    verdicts: Vec<bool>,
    receive: Vec<String>,
    receipts: Vec<bool>,
}

impl Questions {
    fn resolution(&mut self, states: &[&StateMap], resolved: &StateMap) {
        self.resolve.push(states.iter().map(|state| ids(state)).collect());
        self.resolved.push(ids(resolved));
    }

    fn step(&mut self, step: &Step) {
        let json = step.event.json().to_owned();
        // A single state is what it is.
        if step.states.len() > 1 {
            self.resolution(&step.states.iter().collect::<Vec<_>>(), &step.state);
        }
        self.judge.push((json.clone(), ids(&step.state)));
        self.verdicts.push(step.verdict.is_ok());
        self.judge.push((json.clone(), ids(&step.cited_state)));
        self.verdicts.push(step.cited.is_ok());
        self.receive.push(json);
        self.receipts.push(step.receipt.is_ok());
    }

    fn check(self, synapse: &mut Synapse, graph: &Graph, place: &str) {
        let known = graph.order.iter().chain(&graph.rejected).map(|id| &graph.events[id].event);
        let events: Vec<&str> = known.clone().map(|event| event.json()).collect();
        let rejected: Vec<usize> = (graph.order.len()..events.len()).collect();
        let answer = synapse.ask(&json!({
            "room_version": graph.version.as_str(),
            "events": events,
            "rejected": rejected,
            "resolve": self.resolve,
            "judge": self.judge,
            "receive": self.receive,
        }));
        for (event, description) in known.zip(&answer.events) {
            assert_eq!(describe(event, graph.rules()), *description, "{place}");
        }
        assert_eq!(answer.events.len(), events.len());
        assert_eq!(answer.resolved.len(), self.resolved.len());
        assert_eq!(answer.verdicts.len(), self.verdicts.len());
        assert_eq!(answer.receipts.len(), self.receipts.len());
        for (number, (ours, theirs)) in self.resolved.iter().zip(&answer.resolved).enumerate() {
            assert_eq!(ours, theirs, "{place} resolution {number}");
        }
        for (number, (ours, theirs)) in self.verdicts.iter().zip(&answer.verdicts).enumerate() {
            assert_eq!(ours, theirs, "{place}: {:?}", self.judge[number]);
        }
        for (number, (ours, theirs)) in self.receipts.iter().zip(&answer.receipts).enumerate() {
            assert_eq!(ours, theirs, "{place} receipt: {}", self.receive[number]);
        }
    }
}

fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

#[test]
#[ignore = "a step of its own in tests/run, which brings the Python package matrix-synapse"]
fn states_verdicts_hashes_and_redactions_agree_with_synapse() {
    let first = number_from("HEARTH_TEST_SEED", 0);
    let mut synapse = Synapse::start();
    for seed in first..first + number_from("HEARTH_TEST_ROOMS", ROOMS) {
        for version in RoomVersion::ALL {
            let mut dice = Dice(seed);
            let mut graph = Graph::new(version, &mut dice);
            let mut questions = Questions::default();
            for _ in 0..STEPS {
                questions.step(&graph.step(&mut dice));
            }
            let states: Vec<&StateMap> = graph.ends.iter().map(|id| &graph.states[id]).collect();
            let resolved = resolve_states(&states, graph.rules(), &graph.events).unwrap();
            questions.resolution(&states, &resolved);
            questions.check(&mut synapse, &graph, &format!("version {version} seed {seed}"));
        }
    }
}
