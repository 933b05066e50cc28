//! The load of a very large public server, as one reported it in 2020: 30 messages a second in, and 30 a second out
//! to each of 100 servers, which makes 3,000, while a client watches. Prints how long messages took on their way, and
//! whether memory stays.
//!
//!     HEARTH_TEST_POSTGRES=postgres://… cargo bench --bench federation_load
//!     HEARTH_BENCH_SECONDS=60 cargo bench --bench federation_load
//!
//! Without the address of a PostgreSQL, SQLite alone is measured. The other servers are one process, the one that measures.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures the time that passes")]

mod crowd;
mod guests;
mod load;
#[path = "../rig/percentiles.rs"]
mod percentiles;
#[path = "../rig/mod.rs"]
mod rig;

use rig::place::Place;

const SECONDS: u64 = 600;

fn main() {
    let seconds = std::env::var("HEARTH_BENCH_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds = seconds.unwrap_or(SECONDS);
    let runtime = tokio::runtime::Runtime::new().expect("the system has threads");
    let postgres = std::env::var("HEARTH_TEST_POSTGRES").ok();
    for url in [None].into_iter().chain(postgres.map(Some)) {
        runtime.block_on(async {
            let place = Place::make(url.as_deref()).await;
            println!("\n{}, {seconds} seconds", place.name());
            load::measure(&place, seconds).await;
            place.remove().await;
        });
    }
}
