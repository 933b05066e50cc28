//! A scripted application service: a small HTTP server that remembers what it is told and answers as a
//! test wants. The tests are in the files beside it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::IntoResponse,
};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::sync::Notify;

use crate::harness::{Client, Server};

pub const AS_TOKEN: &str = "the token of the service";
pub const HS_TOKEN: &str = "the token of the server";

/// A running service. It stays at its address for the whole test.
#[derive(Clone)]
pub struct Service {
    pub url: String,
    script: Arc<Script>,
}

#[derive(Default)]
struct Script {
    told: Mutex<Told>,
    news: Notify,
}

#[derive(Default)]
struct Told {
    /// Transactions that were answered with 200: path and body.
    accepted: Vec<(String, Value)>,
    /// Those that were refused.
    refused: Vec<(String, Value)>,
    /// Answers for the next transactions; 200 when empty.
    answers: VecDeque<u16>,
    /// Answers for other paths, with their query.
    pages: HashMap<String, (u16, Value)>,
    /// Requests for other paths.
    asked: Vec<String>,
    /// What is done when such a path is asked for: requests at the homeserver.
    reactions: HashMap<String, Vec<(Client, Method, String, Value)>>,
    bad_tokens: usize,
}

impl Service {
    pub async fn start() -> Self {
        let script = Arc::new(Script::default());
        let router = Router::new().fallback(answer).with_state(script.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, script }
    }

    /// The registration of a bridge with `@_irc_…`, `#_irc_…` for itself.
    pub fn registration(&self) -> Value {
        json!({
            "id": "irc", "url": self.url, "as_token": AS_TOKEN, "hs_token": HS_TOKEN,
            "sender_localpart": "_irc_bot", "rate_limited": false, "receive_ephemeral": true,
            "protocols": ["irc"],
            "namespaces": {
                "users": [{ "regex": "@_irc_.*", "exclusive": true }],
                "aliases": [{ "regex": "#_irc_.*", "exclusive": true }],
                "rooms": [],
            },
        })
    }

    pub fn registration_file(&self) -> NamedTempFile {
        write_registration(&self.registration())
    }

    /// The next transactions are answered with these statuses, all others with 200.
    pub fn answer_with(&self, statuses: &[u16]) {
        self.script.told.lock().unwrap().answers = statuses.iter().copied().collect();
    }

    /// Every transaction from now on is answered with 500, or no longer.
    pub fn fail(&self, fails: bool) {
        let statuses = if fails { vec![500; 10_000] } else { Vec::new() };
        self.answer_with(&statuses);
    }

    pub fn set_page(&self, path: &str, status: u16, body: Value) {
        self.script.told.lock().unwrap().pages.insert(path.to_owned(), (status, body));
    }

    /// Has the service make requests before it answers for a path.
    pub fn react(&self, path: &str, requests: Vec<(Client, Method, String, Value)>) {
        self.script.told.lock().unwrap().reactions.insert(path.to_owned(), requests);
        self.set_page(path, 200, json!({}));
    }

    pub fn asked(&self) -> Vec<String> {
        self.script.told.lock().unwrap().asked.clone()
    }

    /// Waits until `found` finds something among the accepted transactions.
    pub async fn wait_for<T>(&self, found: impl Fn(&[(String, Value)]) -> Option<T>) -> T {
        loop {
            let news = self.script.news.notified();
            if let Some(found) = found(&self.script.told.lock().unwrap().accepted) {
                return found;
            }
            news.await;
        }
    }

    /// Waits until a transaction was refused.
    pub async fn wait_for_refusal(&self) -> (String, Value) {
        loop {
            let news = self.script.news.notified();
            if let Some(refused) = self.script.told.lock().unwrap().refused.first() {
                return refused.clone();
            }
            news.await;
        }
    }

    pub fn accepted(&self) -> Vec<(String, Value)> {
        self.script.told.lock().unwrap().accepted.clone()
    }

    /// The texts of all messages that were accepted, each transaction once, in their order.
    pub fn texts(&self) -> Vec<String> {
        texts_of(&self.accepted())
    }

    /// Waits until a message with this text was accepted; returns its event.
    pub async fn wait_for_text(&self, text: &str) -> Value {
        let has = |event: &Value| event["content"]["body"] == text;
        self.wait_for(|accepted| events_of(accepted).into_iter().find(has)).await
    }

    pub fn bad_tokens(&self) -> usize {
        self.script.told.lock().unwrap().bad_tokens
    }

    /// The service as a client of a homeserver.
    pub fn client(&self, server: &Server) -> Client {
        Client { access_token: Some(AS_TOKEN.to_owned()), ..server.client() }
    }
}

/// What a service does with transactions: one whose ID it knows is not processed again.
pub fn events_of(accepted: &[(String, Value)]) -> Vec<Value> {
    let mut seen: HashMap<&str, &Value> = HashMap::new();
    let mut events = Vec::new();
    for (path, body) in accepted {
        match seen.insert(path, body) {
            Some(before) => assert_eq!(before, body, "a repeated transaction was changed"),
            None => events.extend(body["events"].as_array().unwrap().clone()),
        }
    }
    events
}

pub fn texts_of(accepted: &[(String, Value)]) -> Vec<String> {
    let events = events_of(accepted);
    let texts = events.iter().filter_map(|event| event["content"]["body"].as_str());
    texts.map(ToOwned::to_owned).collect()
}

pub fn write_registration(registration: &Value) -> NamedTempFile {
    let file = NamedTempFile::with_suffix(".yaml").unwrap();
    std::fs::write(file.path(), registration.to_string()).unwrap();
    file
}

/// A server with this service, by its file.
pub async fn start_with(backend: &crate::harness::Backend, file: &NamedTempFile) -> Server {
    let path = file.path().to_str().unwrap().to_owned();
    Server::start_with(backend, |config| config.appservices.registrations = vec![path]).await
}

async fn answer(
    State(script): State<Arc<Script>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    let path = uri.path_and_query().unwrap().to_string();
    let good = headers.get("authorization").is_some_and(|v| *v == format!("Bearer {HS_TOKEN}"));
    if !good {
        script.told.lock().unwrap().bad_tokens += 1;
        return (StatusCode::FORBIDDEN, json!({ "errcode": "M_FORBIDDEN" }).to_string());
    }
    let (status, page) = if method == Method::PUT {
        let mut told = script.told.lock().unwrap();
        let status = told.answers.pop_front().unwrap_or(200);
        let body = serde_json::from_slice(&body).unwrap();
        match status {
            200 => told.accepted.push((path, body)),
            _ => told.refused.push((path, body)),
        }
        (status, json!({}))
    } else {
        let reactions = {
            let mut told = script.told.lock().unwrap();
            told.asked.push(path.clone());
            told.reactions.remove(&path).unwrap_or_default()
        };
        for (client, method, path, body) in reactions {
            client.send(client.request(method, &path).json(&body)).await.ok();
        }
        let told = script.told.lock().unwrap();
        let missing = (404, json!({ "errcode": "M_NOT_FOUND" }));
        told.pages.get(&path).cloned().unwrap_or(missing)
    };
    script.news.notify_waiters();
    (StatusCode::from_u16(status).unwrap(), page.to_string())
}
