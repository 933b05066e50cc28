//! Sending to the big room and to the small one, over real HTTP, by the program as it is run.

use std::time::Duration;

use super::{
    percentiles::percentiles,
    rig::{place::Place, process::Process},
    seed::Seeded,
};

const MESSAGES: usize = 500;

pub async fn measure(place: &Place, seeded: &Seeded) {
    // A server of its own for each memory, since what it once held it may keep.
    let small = measure_memory(place, seeded.small.as_str()).await;
    let big = measure_memory(place, seeded.big.as_str()).await;
    println!("  MiB resident after sending to 10, to all (60 more): {small:.1}, {big:.1}");
    let process = Process::start(place, &[]).await;
    let token = process.log_in("m0").await;
    let rooms = [seeded.small.as_str(), seeded.big.as_str()];
    let mut times: [Vec<Duration>; 2] = [Vec::new(), Vec::new()];
    for round in 0..MESSAGES + 50 {
        for (room, times) in rooms.iter().zip(&mut times) {
            let took = process.send(&token, room, &format!("r{round}")).await;
            // The first ones fill caches.
            if round >= 50 {
                times.push(took);
            }
        }
    }
    let [mut small, mut big] = times;
    println!("  ms to send to 10:  {}", percentiles(&mut small));
    println!("  ms to send to all: {}", percentiles(&mut big));
    let ratio = big[big.len() / 2].as_secs_f64() / small[small.len() / 2].as_secs_f64();
    println!("  ratio of the p50 (1.5): {ratio:.2}");
    process.stop();
}

async fn measure_memory(place: &Place, room: &str) -> f64 {
    let process = Process::start(place, &[]).await;
    let token = process.log_in("m0").await;
    for number in 0..MESSAGES {
        process.send(&token, room, &format!("m{number}")).await;
    }
    let memory = process.memory_mib("VmRSS:");
    process.stop();
    memory
}
