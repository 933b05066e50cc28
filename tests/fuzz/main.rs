//! Fuzzing with an ordinary compiler: inputs made by code, mutated byte by byte and word by word.
//!
//! Each target is a function of bytes in `targets/`. What it says about an input (which error, which
//! kind of value) takes the place of coverage: an input with a new outcome joins the corpus. The same
//! targets run under libFuzzer, with real coverage, from `coverage/`; see docs/TESTING.md.
//!
//! `HEARTH_FUZZ_SECONDS` says how long each target runs (1 by default), `HEARTH_FUZZ_SEED` from where;
//! `HEARTH_FUZZ_CORPUS` names a directory into which the corpora are written in the end.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod mutator;
#[path = "../protocol/room.rs"]
#[expect(dead_code, reason = "written for the tests of the protocol; seeds need less of it")]
mod room;
mod targets;

use std::{collections::HashSet, panic::AssertUnwindSafe, path::Path, time::Duration};

use hearth::clock::Clock;
use mutator::Mutator;

/// No honest input takes this long, nor may a hostile one.
const INPUT_DURATION_MAX: Duration = Duration::from_secs(5);
/// Inputs kept beside the seeds.
const CORPUS_MAX: usize = 4_000;

fn number_from(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.map_or(default, |text| text.parse().unwrap())
}

/// Runs a target on its seeds and then on mutations of what it has answered in a new way.
fn fuzz(name: &str, run: fn(&[u8]) -> String, seeds: Vec<Vec<u8>>) {
    let clock = Clock::real();
    let end = clock.instant() + Duration::from_secs(number_from("HEARTH_FUZZ_SECONDS", 1));
    let mut mutator = Mutator::new(number_from("HEARTH_FUZZ_SEED", clock.now_ms()));
    let mut outcomes = HashSet::new();
    let mut corpus = seeds;
    assert!(!corpus.is_empty(), "a target has seeds");
    for seed in &corpus {
        outcomes.insert(try_input(&clock, run, seed));
    }
    let mut inputs = corpus.len();
    while clock.instant() < end {
        let input = mutator.mutate(&corpus);
        let outcome = try_input(&clock, run, &input);
        inputs += 1;
        if corpus.len() < CORPUS_MAX && outcomes.insert(outcome) {
            corpus.push(input);
        }
    }
    println!("{name}: {inputs} inputs, {} outcomes", outcomes.len());
    if let Some(directory) = std::env::var_os("HEARTH_FUZZ_CORPUS") {
        let directory = Path::new(&directory).join(name);
        std::fs::create_dir_all(&directory).unwrap();
        for (number, input) in corpus.iter().enumerate() {
            std::fs::write(directory.join(number.to_string()), input).unwrap();
        }
    }
}

/// What the target says; an input that makes it panic or dawdle is printed, ready to become a test.
fn try_input(clock: &Clock, run: fn(&[u8]) -> String, input: &[u8]) -> String {
    let began = clock.instant();
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| run(input)));
    let duration = began.elapsed();
    let outcome = outcome.unwrap_or_else(|_| panic!("failed on b\"{}\"", input.escape_ascii()));
    let input = input.escape_ascii();
    assert!(duration < INPUT_DURATION_MAX, "{duration:?} on b\"{input}\"");
    outcome
}

macro_rules! targets {
    ($($name:ident $target:ident;)*) => {
        $(
            #[test]
            fn $name() {
                fuzz(stringify!($target), targets::$target::run, targets::$target::seeds());
            }
        )*
    };
}

targets! {
    any_event_is_read_or_refused events;
    canonical_json_is_one_text canonical_json;
    any_event_is_judged authorisation;
    any_fork_has_one_state state_resolution;
    identifiers_are_read_back identifiers;
    documents_are_read_or_refused documents;
    no_body_makes_the_server_fail requests;
}
