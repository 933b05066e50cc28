//! A push gateway that holds every notification against the specification's schema, remembers it and
//! answers as a test wants.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use hearth::config::Config;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{Client, specification::check_notification};

/// A running gateway. It stays at its address for the whole test.
#[derive(Clone)]
pub struct PushGateway {
    pub url: String,
    script: Arc<Script>,
}

#[derive(Default)]
struct Script {
    told: Mutex<Told>,
    news: Notify,
    /// Rung when it is no longer held.
    release: Notify,
}

#[derive(Default)]
struct Told {
    /// What was taken, and what was refused.
    accepted: VecDeque<Value>,
    refused: Vec<Value>,
    /// The status of all answers; 200 when 0.
    status: u16,
    is_held: bool,
    arrived: usize,
    rejected: HashSet<String>,
    /// What is wrong with what came.
    problems: Vec<String>,
}

impl PushGateway {
    pub async fn start() -> Self {
        let script = Arc::new(Script::default());
        let router = Router::new().route("/_matrix/push/v1/notify", post(answer));
        let router = router.with_state(script.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url: format!("http://{address}/_matrix/push/v1/notify"), script }
    }

    /// Lets a server use gateways of this machine.
    pub fn allow(config: &mut Config) {
        config.push.allow_private_networks = true;
    }

    /// A pusher of this gateway, as `POST /pushers/set` wants it.
    pub fn pusher(&self, pushkey: &str) -> Value {
        json!({
            "kind": "http", "app_id": "org.example.app", "pushkey": pushkey, "lang": "en",
            "app_display_name": "App", "device_display_name": "Phone",
            "data": { "url": self.url, "org.example.extra": { "kept": true } },
        })
    }

    /// Gives a user a pusher of this gateway.
    pub async fn subscribe(&self, client: &Client, pushkey: &str) {
        client.post("/_matrix/client/v3/pushers/set", &self.pusher(pushkey)).await.ok();
    }

    /// All answers from now on have this status.
    pub fn answer_with(&self, status: u16) {
        self.script.told.lock().unwrap().status = status;
    }

    /// Lets no answer out until it is released.
    pub fn hold(&self, is_held: bool) {
        self.script.told.lock().unwrap().is_held = is_held;
        self.script.release.notify_waiters();
    }

    /// Waits until so many requests have come since the start, answered or not.
    pub async fn wait_for_arrivals(&self, count: usize) {
        loop {
            let news = self.script.news.notified();
            if self.script.told.lock().unwrap().arrived >= count {
                return;
            }
            news.await;
        }
    }

    /// This push key is not valid any more.
    pub fn reject(&self, pushkey: &str) {
        self.script.told.lock().unwrap().rejected.insert(pushkey.to_owned());
    }

    /// Waits for the next notification that was taken.
    pub async fn next(&self) -> Value {
        loop {
            let news = self.script.news.notified();
            {
                let mut told = self.script.told.lock().unwrap();
                assert!(told.problems.is_empty(), "{:?}", told.problems);
                if let Some(next) = told.accepted.pop_front() {
                    return next;
                }
            }
            news.await;
        }
    }

    /// Waits for the next notification of an event, past those of counts alone.
    pub async fn next_event(&self) -> Value {
        loop {
            let next = self.next().await;
            if next["event_id"].is_string() {
                return next;
            }
        }
    }

    /// Waits until a count alone is this one.
    pub async fn wait_for_badge(&self, unread: i64) {
        loop {
            let next = self.next().await;
            if next["event_id"].is_null()
                && next["counts"]["unread"].as_i64().unwrap_or(0) == unread
            {
                return;
            }
        }
    }

    /// Waits until so many requests have been refused since the start.
    pub async fn wait_for_refusals(&self, count: usize) -> Vec<Value> {
        loop {
            let news = self.script.news.notified();
            {
                let told = self.script.told.lock().unwrap();
                if told.refused.len() >= count {
                    return told.refused.clone();
                }
            }
            news.await;
        }
    }

    /// What was taken and is not looked at yet.
    pub fn waiting(&self) -> usize {
        self.script.told.lock().unwrap().accepted.len()
    }
}

async fn answer(State(script): State<Arc<Script>>, body: Bytes) -> (StatusCode, String) {
    let body: Value = serde_json::from_slice(&body).unwrap();
    script.told.lock().unwrap().arrived += 1;
    script.news.notify_waiters();
    loop {
        let release = script.release.notified();
        if !script.told.lock().unwrap().is_held {
            break;
        }
        release.await;
    }
    let mut told = script.told.lock().unwrap();
    told.problems.extend(check_notification(&body));
    let notification = body["notification"].clone();
    let devices = notification["devices"].as_array().cloned().unwrap_or_default();
    let rejected: Vec<Value> = devices
        .iter()
        .map(|device| device["pushkey"].clone())
        .filter(|key| told.rejected.contains(key.as_str().unwrap_or_default()))
        .collect();
    let status = if told.status == 0 { 200 } else { told.status };
    match status {
        200 => told.accepted.push_back(notification),
        _ => told.refused.push(notification),
    }
    drop(told);
    script.news.notify_waiters();
    let body = if status == 200 { json!({ "rejected": rejected }) } else { json!({}) };
    (StatusCode::from_u16(status).unwrap(), body.to_string())
}
