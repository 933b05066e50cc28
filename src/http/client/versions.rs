//! `GET /_matrix/client/versions` (Client-Server API, "API Versions").

use serde_json::{Map, Value, json};

use crate::http::json::Json;

/// The versions of the specification that this server implements.
const VERSIONS: [&str; 20] = [
    "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10",
    "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
];

/// What clients look for that is not part of a version yet.
const UNSTABLE_FEATURES: [&str; 14] = [
    // MSC3391: account_data.rs
    "org.matrix.msc3391",
    // MSC3874: filters of events
    "org.matrix.msc3874",
    // MSC3890: sessions.rs
    "org.matrix.msc3890",
    // MSC3814: dehydrated_device.rs
    "org.matrix.msc3814",
    // MSC3930: push rules for polls
    "org.matrix.msc3930",
    // MSC4115: memberships on events
    "org.matrix.msc4115",
    // MSC4140: delayed_events.rs
    "org.matrix.msc4140",
    // MSC4143: well_known.rs
    "org.matrix.msc4143",
    // MSC4155: account_data.rs
    "org.matrix.msc4155",
    // MSC4186: sliding_sync.rs
    "org.matrix.simplified_msc3575",
    // MSC4222: sync.rs
    "org.matrix.msc4222",
    // MSC4306, MSC4308: thread_subscriptions.rs
    "org.matrix.msc4306",
    "org.matrix.msc4308",
    // MSC4354: send.rs
    "org.matrix.msc4354",
];

/// Lists versions and unstable features.
pub async fn get_versions() -> Json<Value> {
    let features: Map<String, Value> =
        UNSTABLE_FEATURES.iter().map(|name| ((*name).to_owned(), Value::Bool(true))).collect();
    Json(json!({ "versions": VERSIONS, "unstable_features": features }))
}
