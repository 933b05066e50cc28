//! Kills the server at random moments under a load of mixed writes, and holds what it says after
//! every restart against what it had acknowledged: nothing missing, nothing doubled, and a sync
//! from an old token sees exactly what it should.
//!
//! `HEARTH_CRASH_KILLS` says how often (8 by default), `HEARTH_CRASH_SEED` at which moments.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod bridge;
mod bridges;
mod listener;
mod process;
mod soak;
mod soak_device;
mod writer;

use std::time::Duration;

use listener::Listener;
use process::Process;
use writer::Writer;

/// Users that write, each in a lane of its own; the first one made the room.
const WRITERS: usize = 6;
/// A server lives between these before it is killed.
const LIFE_MS: std::ops::Range<u64> = 50..700;

fn number_from(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.map_or(default, |text| text.parse().unwrap())
}

/// SplitMix64, so that a seed repeats the moments of death.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, range: &std::ops::Range<u64>) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        range.start + (mixed ^ (mixed >> 31)) % (range.end - range.start)
    }
}

async fn survive(database: Option<String>) {
    let kills = number_from("HEARTH_CRASH_KILLS", 8);
    let mut dice = Dice(number_from("HEARTH_CRASH_SEED", 1));
    let mut server = Process::start(database).await;
    let mut writers = Vec::new();
    for lane in 0..WRITERS {
        writers.push(Writer::register(&server, lane).await);
    }
    let room = writers[0].create_room(&server).await;
    for writer in &mut writers {
        writer.join(&server, &room).await;
    }
    let mut listener = Listener::register(&server, &room).await;

    for _ in 0..kills {
        let life = Duration::from_millis(dice.roll(&LIFE_MS));
        let working: Vec<_> = writers
            .into_iter()
            .map(|writer| tokio::spawn(writer.write_until_death(server.url())))
            .collect();
        // Not a wait for something to have happened: the moment of death is the test's input.
        tokio::time::sleep(life).await;
        server.kill();
        writers = Vec::new();
        for writer in working {
            writers.push(writer.await.unwrap());
        }
        server.restart().await;
        for writer in &mut writers {
            writer.settle(&server).await;
        }
        listener.catch_up(&server, &writers).await;
        for writer in &writers {
            writer.check_own_data(&server).await;
        }
    }
    listener.check_history(&server, &writers).await;
    let written: usize = writers.iter().map(Writer::acknowledged).sum();
    assert!(written > 0, "the load wrote nothing at all");
    let claimed: usize = writers.iter().map(|writer| writer.claimed.len()).sum();
    let told: usize = writers.iter().map(|writer| writer.told).sum();
    assert!(claimed > 0 && told > 0, "{claimed} keys claimed, {told} messages to the device");
    println!("{claimed} keys claimed, {told} messages to the device, none lost, none doubled");
    println!("{kills} kills, {written} messages acknowledged, none missing, none doubled");
}

fn run(database: Option<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(survive(database));
}

#[test]
fn nothing_acknowledged_is_lost_on_sqlite() {
    run(None);
}

#[test]
fn nothing_acknowledged_is_lost_on_postgres() {
    run(Some(postgres()));
}

fn postgres() -> String {
    std::env::var("HEARTH_TEST_POSTGRES").expect(
        "HEARTH_TEST_POSTGRES names the PostgreSQL of the tests; tests/run starts one and sets it",
    )
}
