//! `GET /capabilities` (Client-Server API, "Capabilities negotiation").

use axum::extract::State;
use serde_json::{Map, Value, json};

use crate::http::{AppState, auth::UserSession, json::Json};

/// The newest room version that this server knows; it knows all before it.
const ROOM_VERSION_NEWEST: u8 = 12;

pub async fn get_capabilities(State(app): State<AppState>, _: UserSession) -> Json<Value> {
    let available: Map<String, Value> = (1..=ROOM_VERSION_NEWEST)
        .map(|version| (version.to_string(), Value::from("stable")))
        .collect();
    let default = app.config.rooms.default_version.as_str();
    Json(json!({
        "capabilities": {
            "m.change_password": { "enabled": true },
            "m.room_versions": { "default": default, "available": available },
            "m.profile_fields": { "enabled": true },
            "m.set_displayname": { "enabled": true },
            "m.set_avatar_url": { "enabled": true },
            "m.3pid_changes": { "enabled": app.mailer.is_configured() },
            "m.get_login_token": { "enabled": true },
            "m.forget_forced_upon_leave": { "enabled": false },
        },
    }))
}
