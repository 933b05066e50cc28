//! `GET /voip/turnServer` (Client-Server API, "Voice over IP"): a login for the relay that helps calls
//! through routers and firewalls.

use axum::extract::State;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::hmac;
use serde_json::{Value, json};

use crate::http::{App, AppState, auth::UserSession, json::Json};

/// Where no relay is configured, the list of addresses is empty.
pub async fn get_turn_server(State(app): State<AppState>, session: UserSession) -> Json<Value> {
    let (username, password) = make_login(&app, session.user_id.as_str());
    Json(json!({
        "username": username,
        "password": password,
        "uris": app.config.voip.turn_uris,
        "ttl": app.config.voip.turn_lifetime.as_secs(),
    }))
}

/// "TURN REST API": the name is the time at which the login ends, with the user behind it, and the
/// password its HMAC-SHA1 under the secret that the relay shares.
fn make_login(app: &App, user_id: &str) -> (String, String) {
    let config = &app.config.voip;
    let Some(secret) = &config.turn_secret else {
        let username = config.turn_username.clone().unwrap_or_default();
        let password = config.turn_password.as_ref().map(|password| password.expose().to_owned());
        return (username, password.unwrap_or_default());
    };
    let expires_s = app.clock.now_ms() / 1000 + config.turn_lifetime.as_secs();
    let username = format!("{expires_s}:{user_id}");
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.expose().as_bytes());
    let password = BASE64_STANDARD.encode(hmac::sign(&key, username.as_bytes()));
    (username, password)
}
