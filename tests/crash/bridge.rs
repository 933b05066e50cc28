//! A bridge that notes what it is told: well, dead, slow, or one that answers 500 at random.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{post, put},
};
use hearth::clock::Clock;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify};

use crate::Dice;

/// What a slow bridge takes for a transaction.
const SLOW: Duration = Duration::from_secs(2);
/// Of ten transactions an unsteady bridge refuses so many.
const REFUSED_OF_TEN: u64 = 3;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Well,
    Dead,
    Slow,
    Unsteady,
}

pub struct Bridge {
    pub number: usize,
    pub mood: Mood,
    port: u16,
    script: Arc<Script>,
}

struct Script {
    mood: Mood,
    clock: Clock,
    heard: Mutex<Heard>,
    news: Notify,
}

struct Heard {
    dice: Dice,
    /// Transactions by their ID, each as a hash of what was in it.
    transactions: HashMap<String, u64>,
    messages: Vec<Message>,
}

/// A message, when it was said and when it came, milliseconds since the Unix epoch.
struct Message {
    text: String,
    said_ms: u64,
    came_ms: u64,
}

impl Bridge {
    /// Takes a port and, unless it is dead, listens there.
    pub async fn start(number: usize, mood: Mood, clock: &Clock) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard =
            Heard { dice: Dice(number as u64), transactions: HashMap::new(), messages: Vec::new() };
        let (clock, heard) = (clock.clone(), Mutex::new(heard));
        let script = Arc::new(Script { mood, clock, heard, news: Notify::new() });
        let bridge = Self { number, mood, port, script };
        if mood != Mood::Dead {
            bridge.serve(listener);
        }
        bridge
    }

    pub fn id(&self) -> String {
        format!("bridge{}", self.number)
    }

    pub fn as_token(number: usize) -> String {
        format!("as_token_{number}")
    }

    /// Its registration, with `@_b{number}_…` for itself.
    pub fn registration(&self) -> Value {
        let (number, id) = (self.number, self.id());
        json!({
            "id": id, "url": format!("http://127.0.0.1:{}", self.port), "rate_limited": false,
            "as_token": Self::as_token(number), "hs_token": format!("hs_token_{number}"),
            "sender_localpart": format!("_bot{number}"),
            "namespaces": {
                "users": [{ "regex": format!("@_b{number}_.*"), "exclusive": true }],
                "aliases": [{ "regex": format!("#_b{number}_.*"), "exclusive": true }],
                "rooms": [],
            },
        })
    }

    /// Comes to life where it always was.
    pub async fn rise(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.serve(listener);
    }

    /// Waits until so many messages have come.
    pub async fn wait_for(&self, count: usize) {
        loop {
            let news = self.script.news.notified();
            if self.script.heard.lock().unwrap().messages.len() >= count {
                return;
            }
            news.await;
        }
    }

    /// All messages in the order in which they came.
    pub fn texts(&self) -> Vec<String> {
        let heard = self.script.heard.lock().unwrap();
        heard.messages.iter().map(|message| message.text.clone()).collect()
    }

    /// How long each message took that no outage was in the way of.
    pub fn latencies_ms(&self, outages: &[(u64, u64)]) -> Vec<u64> {
        let heard = self.script.heard.lock().unwrap();
        let is_undisturbed = |message: &&Message| {
            !outages.iter().any(|(from, to)| message.said_ms <= *to && message.came_ms >= *from)
        };
        let undisturbed = heard.messages.iter().filter(is_undisturbed);
        undisturbed.map(|message| message.came_ms.saturating_sub(message.said_ms)).collect()
    }

    fn serve(&self, listener: TcpListener) {
        let router = Router::new()
            .route("/_matrix/app/v1/transactions/{id}", put(take))
            .route("/_matrix/app/v1/ping", post(|| async { "{}" }))
            .with_state(Arc::clone(&self.script));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    }
}

async fn take(
    State(script): State<Arc<Script>>,
    Path(id): Path<String>,
    body: String,
) -> (StatusCode, &'static str) {
    if script.mood == Mood::Slow {
        // What makes it slow.
        tokio::time::sleep(SLOW).await;
    }
    let mut heard = script.heard.lock().unwrap();
    if script.mood == Mood::Unsteady && heard.dice.roll(&(0..10)) < REFUSED_OF_TEN {
        return (StatusCode::INTERNAL_SERVER_ERROR, "{}");
    }
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    match heard.transactions.insert(id, hasher.finish()) {
        Some(before) => assert_eq!(before, hasher.finish(), "a repeated transaction was changed"),
        None => heard.note(&body, script.clock.now_ms()),
    }
    drop(heard);
    script.news.notify_waiters();
    (StatusCode::OK, "{}")
}

impl Heard {
    fn note(&mut self, body: &str, came_ms: u64) {
        let body: Value = serde_json::from_str(body).unwrap();
        for event in body["events"].as_array().unwrap() {
            if event["type"] == "m.room.message" {
                let content = &event["content"];
                self.messages.push(Message {
                    text: content["body"].as_str().unwrap().to_owned(),
                    said_ms: content["said_ms"].as_u64().unwrap(),
                    came_ms,
                });
            }
        }
    }
}
