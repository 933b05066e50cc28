//! `GET /capabilities` (Client-Server API, "Capabilities negotiation").

use axum::extract::State;
use serde_json::{Map, Value, json};

use crate::{
    http::{AppState, auth::UserSession, json::Json},
    protocol::room_version::RoomVersion,
};

pub async fn get_capabilities(State(app): State<AppState>, session: UserSession) -> Json<Value> {
    let stable = RoomVersion::ALL.map(|version| (version.to_string(), Value::from("stable")));
    let unstable =
        RoomVersion::UNSTABLE.map(|version| (version.to_string(), Value::from("unstable")));
    let available: Map<String, Value> = stable.into_iter().chain(unstable).collect();
    let default = app.config.rooms.default_version.as_str();
    let mut answer = json!({
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
    });
    // "This property should be omitted altogether if `suspend` and `lock` would be `false`."
    if session.is_admin {
        answer["capabilities"]["m.account_moderation"] = json!({ "suspend": true, "lock": true });
    }
    Json(answer)
}
