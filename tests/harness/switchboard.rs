//! The lines between servers, in the hands of a test: each server is reached under its name through a
//! front that knows who calls, and passes the call on, or not, or loses the answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header::AUTHORIZATION},
    response::{IntoResponse as _, Response},
};

use super::{Network, front::Front};

/// The largest body that is passed on.
const BODY_BYTES_MAX: usize = 64 << 20;

/// How a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    Open,
    /// Nothing gets through.
    Cut,
    /// What is asked gets through, and the answer is lost.
    Deaf,
    /// Everything takes this long; calls that come later may be faster.
    Slow(Duration),
}

/// All lines of one test.
#[derive(Clone, Default)]
pub struct Switchboard(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    /// Where servers listen now, by their names; those that are down are missing.
    urls: HashMap<String, String>,
    /// By who calls and who is called; the others are open.
    lines: HashMap<(String, String), Line>,
}

#[derive(Clone)]
struct Desk {
    board: Switchboard,
    name: String,
    http: reqwest::Client,
}

impl Switchboard {
    /// Opens the front of a server.
    pub async fn connect(&self, network: &Network, name: &str) -> Front {
        let desk =
            Desk { board: self.clone(), name: name.to_owned(), http: reqwest::Client::new() };
        let router = Router::new().fallback(pass_on).with_state(desk);
        Front::open(name, network.tls_config(name), router).await
    }

    /// Says where a server listens, or that it is down.
    pub fn set_url(&self, name: &str, url: Option<&str>) {
        let mut lines = self.0.lock().unwrap();
        match url {
            Some(url) => lines.urls.insert(name.to_owned(), url.to_owned()),
            None => lines.urls.remove(name),
        };
    }

    /// Changes the line from one server to another.
    pub fn set_line(&self, from: &str, to: &str, line: Line) {
        self.0.lock().unwrap().lines.insert((from.to_owned(), to.to_owned()), line);
    }

    /// Opens all lines.
    pub fn heal(&self) {
        self.0.lock().unwrap().lines.clear();
    }

    fn find(&self, from: &str, to: &str) -> (Line, Option<String>) {
        let lines = self.0.lock().unwrap();
        let line = lines.lines.get(&(from.to_owned(), to.to_owned()));
        (line.copied().unwrap_or(Line::Open), lines.urls.get(to).cloned())
    }
}

async fn pass_on(State(desk): State<Desk>, request: Request) -> Response {
    let lost = || StatusCode::BAD_GATEWAY.into_response();
    let (parts, body) = request.into_parts();
    let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let caller = header.and_then(|header| header.split("origin=\"").nth(1)?.split('"').next());
    let (line, url) = desk.board.find(caller.unwrap_or_default(), &desk.name);
    let Some(url) = url else { return lost() };
    match line {
        Line::Cut => return lost(),
        // A slow line is part of what is tested.
        Line::Slow(pause) => tokio::time::sleep(pause).await,
        Line::Open | Line::Deaf => {}
    }
    let Ok(body) = axum::body::to_bytes(body, BODY_BYTES_MAX).await else { return lost() };
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut headers = parts.headers.clone();
    headers.remove("host");
    let call = desk.http.request(parts.method, format!("{url}{path}")).headers(headers).body(body);
    let Ok(answer) = call.send().await else { return lost() };
    let status = answer.status();
    let Ok(bytes) = answer.bytes().await else { return lost() };
    if line == Line::Deaf {
        return lost();
    }
    let head = [("content-type", "application/json")];
    (status, head, Body::from(bytes)).into_response()
}
