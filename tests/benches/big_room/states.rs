//! What the states of the big room cost.

use std::time::Instant;

use hearth::{
    app::StoppedServer,
    clock::Clock,
    storage::{StateNid, snapshots},
};

use super::{
    percentiles::percentiles,
    rig::place::Place,
    seed::{Seeded, user},
};

/// Old events that are looked at.
const SAMPLES: usize = 2000;
const COLD_LOADS: usize = 5;

pub async fn measure(place: &Place, seeded: &Seeded) {
    let bytes = place.measure_snapshots(seeded.joined.0).await as f64;
    println!("  bytes a state change (200): {:.0}", bytes / seeded.members as f64);
    let all = place.measure_snapshots(0).await as f64;
    println!("  bytes a state change, joins included: {:.0}", all / (2 * seeded.members) as f64);
    measure_rows(place, seeded).await;
    measure_keys(place, seeded).await;
    let mut cold = Vec::new();
    for _ in 0..COLD_LOADS {
        let stopped = StoppedServer::open(&place.config(), Clock::real()).await.expect("opens");
        let begin = Instant::now();
        let state = stopped.rooms.load_state(seeded.changed).await.expect("is there");
        cold.push(begin.elapsed());
        assert!(state.len() >= seeded.members);
        stopped.close().await;
    }
    println!("  ms to load the current state, cold (50): {}", percentiles(&mut cold));
}

async fn measure_rows(place: &Place, seeded: &Seeded) {
    let stopped = StoppedServer::open(&place.config(), Clock::real()).await.expect("opens");
    let mut most = 0;
    for number in 0..SAMPLES as i64 {
        let span = seeded.changed.0 - seeded.joined.0;
        let nid = StateNid(seeded.changed.0 - number * span / SAMPLES as i64);
        let rows = snapshots::list_lineage(stopped.rooms.database(), nid).await.expect("is there");
        most = most.max(rows.len());
    }
    println!("  rows read to load a state, at most (20): {most}");
    stopped.close().await;
}

async fn measure_keys(place: &Place, seeded: &Seeded) {
    let stopped = StoppedServer::open(&place.config(), Clock::real()).await.expect("opens");
    let rooms = &stopped.rooms;
    let room = rooms.find(&seeded.big).await.expect("can be read").expect("is there");
    let latest = room.head().latest_position;
    // The later changes are the last events of the stream, one position each.
    let place_of = |sample: usize| {
        let back = (sample * 7919) % seeded.members;
        hearth::rooms::ordering_of_position(latest - back as i64)
    };
    let mut times = Vec::with_capacity(SAMPLES);
    for round in 0..2 {
        times.clear();
        for sample in 0..SAMPLES {
            let ordering = place_of(sample + round * SAMPLES);
            let range = (ordering - 1, ordering + 1);
            let event = rooms.list_forwards(&room, range, 1).await.expect("can be read");
            let event = event.first().expect("is there");
            let user = user((sample * 31) % seeded.members);
            let key = rooms.keys().find("m.room.member", user.as_str()).await.expect("can be read");
            let key = key.expect("is known").nid;
            let begin = Instant::now();
            let member = rooms.find_key_before(event, key).await.expect("can be read");
            times.push(begin.elapsed());
            assert!(member.is_some());
        }
    }
    println!("  ms to read one key at an old event, warm (1): {}", percentiles(&mut times));
    stopped.close().await;
}
