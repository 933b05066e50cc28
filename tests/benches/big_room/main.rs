//! A room of 100,000 members with 100,000 later state changes, on both databases: what its states cost on the disk and
//! in reading, and whether sending to it costs more than sending to a room of ten.
//!
//! `HEARTH_TEST_POSTGRES=postgres://… cargo bench --bench big_room`. Without the variable SQLite alone is measured.
//! `HEARTH_BENCH_MEMBERS` makes the room smaller.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures the time that passes")]

mod disk;
#[path = "../rig/percentiles.rs"]
mod percentiles;
#[path = "../rig/mod.rs"]
mod rig;
mod seed;
mod sending;
mod states;

use rig::place::Place;

const MEMBERS: usize = 100_000;

fn main() {
    let members = std::env::var("HEARTH_BENCH_MEMBERS").ok().and_then(|text| text.parse().ok());
    let members = members.unwrap_or(MEMBERS);
    let runtime = tokio::runtime::Runtime::new().expect("the system has threads");
    let postgres = std::env::var("HEARTH_TEST_POSTGRES").ok();
    for url in [None].into_iter().chain(postgres.map(Some)) {
        runtime.block_on(async {
            let place = Place::make(url.as_deref()).await;
            println!("\n{} with {members} members and as many later changes", place.name());
            let seeded = seed::make_rooms(&place, members).await;
            states::measure(&place, &seeded).await;
            sending::measure(&place, &seeded).await;
            place.remove().await;
        });
    }
}
