//! `GET /_matrix/federation/v1/version` (Server-Server API, "Server implementation").

use serde_json::{Value, json};

use crate::http::json::Json;

/// Which program this is. Asked for without a signature.
pub async fn get_version() -> Json<Value> {
    Json(json!({ "server": { "name": "Hearth", "version": env!("CARGO_PKG_VERSION") } }))
}
