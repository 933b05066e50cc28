//! Messages both ways at a steady rate, whether or not the last ones have arrived, and what became of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{
    crowd::{Arrival, Crowd},
    percentiles::percentiles,
    rig::{place::Place, process::Process},
};

const SERVERS: usize = 100;
/// Messages a second, in and out.
const RATE: u64 = 30;
const LOCAL_SENDERS: u64 = 4;
/// By then the last message must have arrived.
const PATIENCE: Duration = Duration::from_secs(30);
const MEMORY_EVERY: Duration = Duration::from_secs(60);

/// When messages were sent, by their texts.
type Sent = Arc<Mutex<HashMap<String, Instant>>>;

pub async fn measure(place: &Place, seconds: u64) {
    let settings = [
        ("HEARTH_FEDERATION__ALLOW_PRIVATE_NETWORKS", "true"),
        ("HEARTH_FEDERATION__VERIFY_CERTIFICATES", "false"),
        ("HEARTH_FEDERATION__KEY_SERVERS", "[]"),
    ];
    let process = Arc::new(Process::start(place, &settings).await);
    let owner = process.log_in("owner").await;
    let room = process.create_room(&owner).await;
    let (arrivals, mut arrived) = unbounded_channel();
    let crowd = Arc::new(Crowd::join(&process, &room, SERVERS, &arrivals).await);
    // What the joins have set in motion is over when a message is everywhere.
    process.send(&owner, &room, "settled").await;
    wait_for(&mut arrived, "settled").await;

    let count = seconds * RATE;
    let cpu = process.cpu_seconds();
    let began = Instant::now();
    let watching = tokio::spawn(watch(Arc::clone(&process), owner.clone(), count));
    let memory = tokio::spawn(sample_memory(Arc::clone(&process)));
    let sent_in = Sent::default();
    let incoming = tokio::spawn(speak_in(Arc::clone(&crowd), Arc::clone(&sent_in), count));
    let outgoing = speak_out(&process, &room, count);
    let hearing = tokio::spawn(hear(arrived, count));
    let sent_out = outgoing.await;
    incoming.await.expect("ends");
    let mut seen = watching.await.expect("ends");
    let heard = hearing.await.expect("ends");
    let took = began.elapsed().as_secs_f64();
    let cpu = process.cpu_seconds() - cpu;
    memory.abort();
    // It has let go of the process then.
    let _ = memory.await;

    let sent_in = sent_in.lock().expect("nobody panics with it");
    let mut ways_in: Vec<Duration> =
        seen.drain().map(|(text, at)| at.saturating_duration_since(sent_in[&text])).collect();
    let mut ways_out: Vec<Duration> = heard
        .iter()
        .map(|arrival| arrival.at.saturating_duration_since(sent_out[&arrival.text]))
        .collect();
    println!("  {SERVERS} servers; {RATE}/s in, {} arrived", ways_in.len());
    println!("  ms from a transaction to a client's /sync: {}", percentiles(&mut ways_in));
    println!("  {}/s out, {} arrived", RATE as usize * SERVERS, ways_out.len());
    println!("  ms from a request to another server: {}", percentiles(&mut ways_out));
    println!("  cores in use: {:.2}, for {took:.1} s", cpu / took);
    println!("  MiB resident at the end: {:.1}", process.memory_mib("VmRSS:"));
    Arc::into_inner(process).expect("nobody else has it").stop();
}

/// Has all servers of the crowd speak in turn.
async fn speak_in(crowd: Arc<Crowd>, sent: Sent, count: u64) {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE as u32);
    let mut speaking = tokio::task::JoinSet::new();
    for number in 0..count {
        tick.tick().await;
        let (crowd, sent) = (Arc::clone(&crowd), Arc::clone(&sent));
        speaking.spawn(async move {
            let text = format!("in{number}");
            sent.lock().expect("nobody panics with it").insert(text.clone(), Instant::now());
            crowd.say(number as usize % SERVERS, &text).await;
        });
    }
    while let Some(spoken) = speaking.join_next().await {
        spoken.expect("is taken");
    }
}

/// Has local users speak; returns when each message was due to be sent.
async fn speak_out(process: &Arc<Process>, room: &str, count: u64) -> HashMap<String, Instant> {
    let mut tokens = Vec::new();
    for number in 0..LOCAL_SENDERS {
        let token = process.log_in(&format!("local{number}")).await;
        process.join(&token, room).await;
        tokens.push(token);
    }
    let mut speaking = tokio::task::JoinSet::new();
    let begin = tokio::time::Instant::now();
    for (number, token) in (0..LOCAL_SENDERS).zip(tokens) {
        let (process, room) = (Arc::clone(process), room.to_owned());
        speaking.spawn(async move {
            let mut sent = Vec::new();
            for message in (number..count).step_by(LOCAL_SENDERS as usize) {
                let due = begin + Duration::from_secs(message) / RATE as u32;
                tokio::time::sleep_until(due).await;
                let text = format!("out{message}");
                process.send(&token, &room, &text).await;
                sent.push((text, due.into_std()));
            }
            sent
        });
    }
    speaking.join_all().await.into_iter().flatten().collect()
}

/// Takes what arrives at the crowd until every server has had every message, each sender's in order.
async fn hear(mut arrived: UnboundedReceiver<Arrival>, count: u64) -> Vec<Arrival> {
    let mut heard = Vec::new();
    let mut next = vec![[0; LOCAL_SENDERS as usize]; SERVERS];
    while heard.len() < count as usize * SERVERS {
        let arrival = tokio::time::timeout(PATIENCE, arrived.recv()).await;
        let arrival = arrival.expect("nothing came for long").expect("somebody sends");
        let Some(number) = arrival.text.strip_prefix("out") else { continue };
        let number: u64 = number.parse().expect("is a number");
        let sender = (number % LOCAL_SENDERS) as usize;
        let place = &mut next[arrival.server][sender];
        assert_eq!(number / LOCAL_SENDERS, *place, "out of order at {}", arrival.server);
        *place += 1;
        heard.push(arrival);
    }
    heard
}

async fn wait_for(arrived: &mut UnboundedReceiver<Arrival>, text: &str) {
    let mut missing = SERVERS;
    while missing > 0 {
        let arrival = tokio::time::timeout(PATIENCE, arrived.recv()).await;
        let arrival = arrival.expect("nothing came for long").expect("somebody sends");
        missing -= usize::from(arrival.text == text);
    }
}

/// Follows a user's /sync until every message of the crowd was in it, once; returns when each was.
async fn watch(process: Arc<Process>, token: String, count: u64) -> HashMap<String, Instant> {
    let filter = json!({ "room": { "timeline": { "limit": 200 } } }).to_string();
    let mut seen = HashMap::new();
    let mut since: Option<String> = None;
    while seen.len() < count as usize {
        let path = format!("{}/_matrix/client/v3/sync", process.url);
        let mut query = vec![("filter", filter.as_str()), ("timeout", "30000")];
        query.extend(since.as_deref().map(|since| ("since", since)));
        let request = process.http.get(path).query(&query).bearer_auth(&token);
        let answer = request.send().await.expect("answers");
        let answer: Value = answer.json().await.expect("is JSON");
        let at = Instant::now();
        since = Some(answer["next_batch"].as_str().expect("goes on").to_owned());
        for room in answer["rooms"]["join"].as_object().into_iter().flat_map(|rooms| rooms.values())
        {
            for event in room["timeline"]["events"].as_array().into_iter().flatten() {
                let text = event["content"]["body"].as_str().unwrap_or_default();
                if text.starts_with("in") {
                    assert!(seen.insert(text.to_owned(), at).is_none(), "{text} came twice");
                }
            }
        }
    }
    seen
}

/// Prints how memory goes.
async fn sample_memory(process: Arc<Process>) {
    let began = Instant::now();
    loop {
        tokio::time::sleep(MEMORY_EVERY).await;
        let after = began.elapsed().as_secs();
        println!("  MiB resident after {after} s: {:.1}", process.memory_mib("VmRSS:"));
    }
}
