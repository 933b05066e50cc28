//! `/.well-known/matrix/…`, from the configuration: where clients find this server (Client-Server API,
//! "Well-known URIs"), where other servers do (Server-Server API, "Server discovery"), and whom to ask.
//! What is not configured is answered with 404, as the specification says.

use axum::extract::State;
use serde_json::{Map, Value, json};

use super::{
    auth::UserOrGuestSession,
    error::{MatrixError, MatrixResult},
    json::Json,
    state::AppState,
};
use crate::config::{Config, SupportContact};

/// `GET /.well-known/matrix/client`.
pub async fn get_client(State(app): State<AppState>) -> MatrixResult<Json<Value>> {
    let url = find_client_base_url(&app.config).ok_or_else(not_configured)?;
    let mut body = json!({ "m.homeserver": { "base_url": url } });
    let transports = list_rtc_transports(&app.config);
    if !transports.is_empty() {
        // MSC4143, as clients knew it before there was an endpoint.
        body["org.matrix.msc4143.rtc_foci"] = transports.into();
    }
    Ok(Json(body))
}

/// `GET …/rtc/transports` (MSC4143): where calls can take place.
pub async fn get_rtc_transports(State(app): State<AppState>, _: UserOrGuestSession) -> Json<Value> {
    Json(json!({ "rtc_transports": list_rtc_transports(&app.config) }))
}

fn list_rtc_transports(config: &Config) -> Vec<Value> {
    let own = config.livekit.url.as_ref();
    let own = own.map(|_| format!("{}/livekit/jwt", config.public_url()));
    let urls = own.into_iter().chain(config.well_known.livekit_service_urls.iter().cloned());
    urls.map(|url| json!({ "type": "livekit", "livekit_service_url": url })).collect()
}

/// `GET /.well-known/matrix/server`.
pub async fn get_server(State(app): State<AppState>) -> MatrixResult<Json<Value>> {
    let config = &app.config;
    let server = config.well_known.server.as_ref().filter(|_| config.federation.enabled);
    let server = server.ok_or_else(not_configured)?;
    Ok(Json(json!({ "m.server": server })))
}

/// `GET /.well-known/matrix/support`: "At least one of `contacts` or `support_page` is required".
pub async fn get_support(State(app): State<AppState>) -> MatrixResult<Json<Value>> {
    let config = &app.config.well_known;
    let mut body = Map::new();
    if !config.support_contacts.is_empty() {
        body.insert("contacts".to_owned(), config.support_contacts.iter().map(contact).collect());
    }
    if let Some(page) = &config.support_page {
        body.insert("support_page".to_owned(), page.as_str().into());
    }
    if body.is_empty() { Err(not_configured()) } else { Ok(Json(Value::Object(body))) }
}

/// `GET /.well-known/matrix/policy_server`: for whoever runs a policy server under the same name.
pub async fn get_policy_server(State(app): State<AppState>) -> MatrixResult<Json<Value>> {
    let key = app.config.well_known.policy_server_key.as_ref().ok_or_else(not_configured)?;
    Ok(Json(json!({ "public_keys": { "ed25519": key } })))
}

/// What the administrator has said; the server's guess about its own address is no discovery information.
fn find_client_base_url(config: &Config) -> Option<&str> {
    let url = config.well_known.client_base_url.as_ref().or(config.server.public_url.as_ref());
    url.map(|url| url.trim_end_matches('/'))
}

fn contact(contact: &SupportContact) -> Value {
    let mut body = Map::new();
    body.insert("role".to_owned(), contact.role.as_str().into());
    if let Some(user) = &contact.matrix_id {
        body.insert("matrix_id".to_owned(), user.as_str().into());
    }
    if let Some(address) = &contact.email_address {
        body.insert("email_address".to_owned(), address.as_str().into());
    }
    Value::Object(body)
}

fn not_configured() -> MatrixError {
    MatrixError::not_found("The administrator of this server has not published this.")
}
