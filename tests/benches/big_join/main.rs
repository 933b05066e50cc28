//! Entering a room of 50,000 members through another server, on both databases: how long until the room can be
//! used, until all its members are known, and how much memory that takes. The other server is made up and has its
//! answers ready; it runs in this process and Hearth in one of its own, so that only Hearth's memory is measured.
//!
//! `HEARTH_TEST_POSTGRES=postgres://… cargo bench --bench big_join`. Without the variable SQLite alone is measured.
//! `HEARTH_BENCH_MEMBERS` makes the room smaller.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures the time that passes")]

mod crowd;
mod peer;
#[path = "../rig/mod.rs"]
mod rig;

use std::time::Instant;

use serde_json::{Value, json};

use self::{
    peer::Peer,
    rig::{place::Place, process::Process},
};

const MEMBERS: usize = 50_000;
/// The other server has an address of this machine, and a certificate that nobody has signed.
const SETTINGS: [(&str, &str); 3] = [
    ("HEARTH_FEDERATION__ALLOW_PRIVATE_NETWORKS", "true"),
    ("HEARTH_FEDERATION__VERIFY_CERTIFICATES", "false"),
    ("HEARTH_FEDERATION__KEY_SERVERS", "[]"),
];

fn main() {
    let members = std::env::var("HEARTH_BENCH_MEMBERS").ok().and_then(|text| text.parse().ok());
    let members = members.unwrap_or(MEMBERS);
    let runtime = tokio::runtime::Runtime::new().expect("the system has threads");
    let postgres = std::env::var("HEARTH_TEST_POSTGRES").ok();
    runtime.block_on(async {
        let peer = Peer::start(members).await;
        for url in [None].into_iter().chain(postgres.map(Some)) {
            let place = Place::make(url.as_deref()).await;
            println!("\n{}, entering a room of {members} members", place.name());
            measure(&place, &peer, members).await;
            place.remove().await;
        }
    });
}

async fn measure(place: &Place, peer: &Peer, members: usize) {
    let process = Process::start(place, &SETTINGS).await;
    let token = process.log_in("alice").await;
    let before = process.memory_mib("VmRSS:");
    let room = peer.room_id.as_str();
    let api = format!("{}/_matrix/client/v3", process.url);

    let begin = Instant::now();
    let join = process.http.post(format!("{api}/join/{room}?via={}", peer.name));
    let joined = join.bearer_auth(&token).json(&json!({})).send().await.expect("answers");
    assert!(joined.status().is_success(), "{}", joined.text().await.unwrap_or_default());
    println!("  s until it is entered (1): {:.2}", begin.elapsed().as_secs_f64());
    process.send(&token, room, "first").await;
    println!("  s until something is said (1): {:.2}", begin.elapsed().as_secs_f64());
    // Answered when all members are known.
    let list = process.http.get(format!("{api}/rooms/{room}/joined_members"));
    let listed = list.bearer_auth(&token).send().await.expect("answers");
    println!("  s until all members are known (20): {:.2}", begin.elapsed().as_secs_f64());
    let listed: Value = listed.json().await.expect("is JSON");
    let count = listed["joined"].as_object().map_or(0, |joined| joined.len());
    assert_eq!(count, members + 1, "somebody is missing");
    let (now, most) = (process.memory_mib("VmRSS:"), process.memory_mib("VmHWM:"));
    println!("  MiB resident before, after, at most (400): {before:.1}, {now:.1}, {most:.1}");
    process.stop();
}
