//! Every operation of the specification has a route here, of clients and of servers. Not for what the
//! operations do.

use std::fs;

use reqwest::Method;
use serde_json::Value;

use crate::{
    both_databases,
    harness::{Server, specification_folder},
};

/// What this server does not offer, and says so: OAuth ("404 … M_UNRECOGNIZED"), and the judgement of
/// events by a policy server, which this server asks but is not.
const UNRECOGNISED_ON_PURPOSE: [&str; 2] =
    ["/_matrix/client/v1/auth_metadata", "/_matrix/policy/v1/sign"];

/// A path with something in the place of its parameters.
fn fill(template: &str) -> String {
    let parts = template.split('/').map(|part| match part {
        "{userId}" => "@someone:localhost",
        "{roomId}" | "{roomIdOrAlias}" => "!room:localhost",
        "{roomAlias}" => "%23alias:localhost",
        "{eventId}" => "$event",
        "{serverName}" => "localhost",
        part if part.starts_with('{') => "x",
        part => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

both_databases! {
    async fn every_operation_is_recognised(backend: Backend) {
        let server = Server::start(backend).await;
        let http = server.client().http;
        let table = fs::read_to_string(specification_folder().join("endpoints.tsv")).unwrap();
        let (mut count, mut missing) = (0, Vec::new());
        for line in table.lines().skip(1) {
            let cells: Vec<&str> = line.split('\t').collect();
            let [api, _, method, path, ..] = cells[..] else { panic!("{line}") };
            let is_ours = matches!(api, "client-server" | "server-server");
            if !is_ours || UNRECOGNISED_ON_PURPOSE.contains(&path) {
                continue;
            }
            let method: Method = method.parse().unwrap();
            let request = http.request(method.clone(), format!("{}{}", server.url, fill(path)));
            let request = match method {
                Method::GET => request,
                _ => request.header("content-type", "application/json").body("{}"),
            };
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            let body: Value = answer.json().await.unwrap_or_default();
            count += 1;
            let is_unknown = body["errcode"].as_str().is_none_or(|code| code == "M_UNRECOGNIZED");
            if matches!(status, 404 | 405) && is_unknown {
                missing.push(format!("{method} {path}"));
            }
        }
        assert!(count > 190, "{count}");
        assert_eq!(missing, Vec::<String>::new());
    }
}
