//! Another server of which the test says what it answers and what it asks: real HTTPS and real signatures,
//! and no honesty unless the test wants it.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use hearth::{clock::Clock, federation::write_own_document, protocol::signing::SigningKey};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{Answer, Network, Server, front::Front};

/// What is answered to a request, by its path with the query and its body.
type Reply = Arc<dyn Fn(&str, &[u8]) -> Response + Send + Sync>;

/// The largest body that such a server reads.
const BODY_BYTES_MAX: usize = 64 << 20;

/// A server that does what it is told.
pub struct ScriptedPeer {
    pub name: String,
    pub key: SigningKey,
    script: Arc<Script>,
    http: reqwest::Client,
    _front: Front,
}

struct Script {
    name: String,
    key: SigningKey,
    replies: Mutex<Vec<(String, Reply)>>,
    asked: Mutex<Vec<String>>,
}

impl ScriptedPeer {
    /// Starts a server that publishes its key, takes every transaction and knows nothing else.
    pub async fn start(network: &Network) -> Self {
        let name = network.new_name();
        // The key with which `Branch` signs.
        let key = || SigningKey::from_seed("test", &[7; 32]).unwrap();
        let script = Arc::new(Script {
            name: name.clone(),
            key: key(),
            replies: Mutex::default(),
            asked: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&script));
        let front = Front::open(&name, network.tls_config(&name), router).await;
        Self { name, key: key(), script, http: reqwest::Client::new(), _front: front }
    }

    /// Has requests whose path begins so answered by `reply`, from now on.
    pub fn reply(
        &self,
        path: &str,
        reply: impl Fn(&str, &[u8]) -> Response + Send + Sync + 'static,
    ) {
        self.script.replies.lock().unwrap().insert(0, (path.to_owned(), Arc::new(reply)));
    }

    /// The same with JSON.
    pub fn reply_json(&self, path: &str, body: Value) {
        self.reply(path, move |_, _| to_response(&body));
    }

    /// The paths that it was asked for, with this beginning.
    pub fn list_asked(&self, path: &str) -> Vec<String> {
        let asked = self.script.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.starts_with(path)).cloned().collect()
    }

    /// Asks a server, signed with this one's key.
    pub async fn ask(
        &self,
        server: &Server,
        (method, path): (Method, &str),
        body: Option<&Value>,
    ) -> Answer {
        self.ask_with(&self.key, server, (method, path), body).await
    }

    /// Asks a server, signed with any key.
    pub async fn ask_with(
        &self,
        key: &SigningKey,
        server: &Server,
        (method, path): (Method, &str),
        body: Option<&Value>,
    ) -> Answer {
        let destination = server.app.config.server.name.as_str();
        let mut signed = Map::new();
        for (name, value) in [
            ("method", method.as_str()),
            ("uri", path),
            ("origin", &self.name),
            ("destination", destination),
        ] {
            signed.insert(name.to_owned(), value.into());
        }
        signed.extend(body.map(|body| ("content".to_owned(), body.clone())));
        key.sign_json(&mut signed, &self.name);
        let signature = &signed["signatures"][&self.name][key.key_id()];
        let header = format!(
            "X-Matrix origin=\"{}\",destination=\"{destination}\",key=\"{}\",sig={signature}",
            self.name,
            key.key_id()
        );
        let request = self.http.request(method, format!("{}{path}", server.url));
        let request = request.header("Authorization", header);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.json().await.unwrap_or(Value::Null);
        Answer { status, headers, body }
    }

    /// Sends a transaction; returns what is said of its events.
    pub async fn send(&self, server: &Server, id: &str, pdus: &[Value]) -> Value {
        self.transmit(server, id, pdus).await.ok()["pdus"].take()
    }

    /// Sends a transaction.
    pub async fn transmit(&self, server: &Server, id: &str, pdus: &[Value]) -> Answer {
        let now_ms = Clock::real().now_ms();
        let body = json!({ "origin": self.name, "origin_server_ts": now_ms, "pdus": pdus });
        let path = format!("/_matrix/federation/v1/send/{id}");
        self.ask(server, (Method::PUT, &path), Some(&body)).await
    }
}

/// JSON as a server would answer with it.
pub fn to_response(body: &Value) -> Response {
    let head = [("content-type", "application/json")];
    (StatusCode::OK, head, body.to_string()).into_response()
}

/// A body that never ends: this piece again and again, counted in bytes by `count`.
pub fn endless(piece: &'static [u8], count: Arc<std::sync::atomic::AtomicUsize>) -> Response {
    let pieces = futures_util::stream::repeat_with(move || {
        count.fetch_add(piece.len(), std::sync::atomic::Ordering::Relaxed);
        Ok::<_, std::convert::Infallible>(piece)
    });
    Response::new(Body::from_stream(pieces))
}

async fn answer(State(script): State<Arc<Script>>, request: Request) -> Response {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let body = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await.unwrap_or_default();
    script.asked.lock().unwrap().push(path.clone());
    let reply = {
        let replies = script.replies.lock().unwrap();
        replies.iter().find(|(start, _)| path.starts_with(start)).map(|(_, reply)| reply.clone())
    };
    if let Some(reply) = reply {
        return reply(&path, &body);
    }
    if path.starts_with("/_matrix/key/v2/server") {
        let name = script.name.as_str().try_into().unwrap();
        let document = write_own_document(name, &script.key, &[], Clock::real().now_ms());
        return to_response(&Value::Object(document));
    }
    if path.starts_with("/_matrix/federation/v1/send/") {
        return to_response(&json!({ "pdus": {} }));
    }
    let refusal = json!({ "errcode": "M_UNRECOGNIZED", "error": "Nobody told me." });
    (StatusCode::NOT_FOUND, refusal.to_string()).into_response()
}
