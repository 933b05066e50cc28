//! Whatever bytes arrive at whichever endpoint: the answer is a Matrix error, never a fault of the
//! server. The routes are read from the router's own page, so that none is forgotten.

use std::time::Duration;

use hearth::clock::Clock;
use reqwest::Method;
use serde_json::json;

use crate::{
    both_databases,
    harness::{Client, Server},
};

const ROUTER: &str = include_str!("../../src/http/router.rs");

/// What stands in for each parameter of a path.
const SEGMENTS: [&str; 10] = [
    "@alice:hearth.test",
    "!room:hearth.test",
    "%23alias:hearth.test",
    "$event",
    "m.room.member",
    "%00",
    "%FF%FE",
    "%F0%9F%90%88",
    "..%2F..%2Fetc",
    "-1",
];

const QUERIES: [&str; 6] = [
    "",
    "?limit=-1&from=%00&dir=x",
    "?limit=99999999999999999999&from=s-1_2&dir=b&timeout=0",
    "?access_token=%FF&filter={",
    "?filter=%7B%22room%22%3A1%7D&since=nonsense&user_id=%00",
    "?=&&&%&kind=guest&ts=nan",
];

const BODIES: [&str; 12] = [
    "",
    "{}",
    "[]",
    "null",
    "{",
    "\u{0}",
    "{\"a\":\"\\ud800\"}",
    "{\"auth\":{\"type\":\"m.login.password\",\"password\":5}}",
    "{\"user_id\":\"\\u0000\",\"reason\":7,\"room_id\":\"!\",\"enabled\":\"yes\"}",
    "{\"msgtype\":\"m.text\",\"body\":\"\\u0000\",\"n\":1e400}",
    "{\"displayname\":\"\\u0000\",\"devices\":[\"\\u0000\"],\"actions\":[]}",
    "{\"filter\":{\"limit\":-5},\"search_term\":\"\\u0000\",\"limit\":18446744073709551616}",
];

/// The paths on the router's page, with their parameters.
fn list_paths() -> Vec<String> {
    let literals = ROUTER.split('"').skip(1).step_by(2).filter(|text| text.starts_with('/'));
    let paths = literals.map(|path| match path.starts_with("/_") || path.starts_with("/.") {
        true => path.to_owned(),
        false => format!("/_matrix/client/v3{path}"),
    });
    // Whoever logs out learns nothing more.
    paths.filter(|path| !path.contains("/logout")).collect()
}

fn choose<'a>(clock: &Clock, choices: &[&'a str]) -> &'a str {
    let mut byte = [0];
    clock.fill_random(&mut byte);
    choices[usize::from(byte[0]) % choices.len()]
}

fn fill(path: &str, clock: &Clock) -> String {
    let mut filled = String::new();
    for (number, part) in path.split('/').enumerate() {
        if number > 0 {
            filled.push('/');
        }
        filled.push_str(if part.starts_with('{') { choose(clock, &SEGMENTS) } else { part });
    }
    filled
}

async fn attack(client: &Client, method: Method, path: &str, clock: &Clock) {
    let path = format!("{}{}", fill(path, clock), choose(clock, &QUERIES));
    let body = choose(clock, &BODIES);
    let request = client.request(method.clone(), &path).body(body).timeout(Duration::from_secs(30));
    let answer = client.send(request).await;
    let what = format!("{method} {path} {body:?}: {answer:?}");
    assert!(answer.status.as_u16() < 500, "{what}");
    if answer.status.as_u16() >= 400 && path.starts_with("/_matrix") {
        let is_interactive = answer.body["flows"].is_array();
        assert!(answer.body["errcode"].is_string() || is_interactive, "{what}");
    }
}

both_databases! {
    async fn no_request_makes_the_server_fail(backend: Backend) {
        // Names of other servers, made up by chance, are nobody's to look up.
        let server = Server::start_with(backend, |config| config.federation.enabled = false).await;
        let alice = server.register("alice").await;
        let room = json!({ "preset": "public_chat", "room_alias_name": "alias" });
        alice.post("/_matrix/client/v3/createRoom", &room).await.ok();
        let paths = list_paths();
        assert!(paths.len() > 50, "{paths:?}");
        let clock = Clock::scripted(0, 1);
        for path in &paths {
            for method in [Method::GET, Method::PUT, Method::POST, Method::DELETE] {
                for _ in 0..4 {
                    attack(&alice, method.clone(), path, &clock).await;
                }
            }
        }
        alice.get("/_matrix/client/v3/account/whoami").await.ok();
    }
}
