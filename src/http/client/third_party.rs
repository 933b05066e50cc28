//! `/thirdparty` (Client-Server API, "Third-party Networks"): what application services know of the
//! networks that they lead to.

use axum::extract::State;
use serde_json::{Value, json};

use crate::http::{
    AppState,
    auth::UserSession,
    error::{MatrixError, MatrixResult},
    json::{Json, Path, Query},
    rate_limit::Action,
};

/// Fields of one lookup, and their size together in bytes.
const FIELDS_MAX: usize = 50;
const FIELDS_BYTES_MAX: usize = 16 * 1024;

/// The query of a lookup, as it is passed on.
type Fields = Query<Vec<(String, String)>>;

/// `GET /thirdparty/protocols`.
pub async fn list_protocols(
    State(app): State<AppState>,
    session: UserSession,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Search, &session, app.clock.now_ms())?;
    Ok(Json(Value::Object(app.appservices.list_protocols().await)))
}

/// `GET /thirdparty/protocol/{protocol}`.
pub async fn get_protocol(
    State(app): State<AppState>,
    session: UserSession,
    Path(protocol): Path<String>,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Search, &session, app.clock.now_ms())?;
    app.appservices.find_protocol(&protocol).await.map(Json).ok_or_else(no_such_protocol)
}

/// `GET /thirdparty/location/{protocol}`.
pub async fn find_locations(
    state: State<AppState>,
    session: UserSession,
    protocol: Path<String>,
    fields: Fields,
) -> MatrixResult<Json<Value>> {
    look_up("location", state, session, Some(protocol), fields).await
}

/// `GET /thirdparty/user/{protocol}`.
pub async fn find_users(
    state: State<AppState>,
    session: UserSession,
    protocol: Path<String>,
    fields: Fields,
) -> MatrixResult<Json<Value>> {
    look_up("user", state, session, Some(protocol), fields).await
}

/// `GET /thirdparty/location`: what an alias stands for elsewhere.
pub async fn find_locations_of_alias(
    state: State<AppState>,
    session: UserSession,
    fields: Fields,
) -> MatrixResult<Json<Value>> {
    require_field(&fields, "alias")?;
    look_up("location", state, session, None, fields).await
}

/// `GET /thirdparty/user`: who somebody is elsewhere.
pub async fn find_users_of_id(
    state: State<AppState>,
    session: UserSession,
    fields: Fields,
) -> MatrixResult<Json<Value>> {
    require_field(&fields, "userid")?;
    look_up("user", state, session, None, fields).await
}

async fn look_up(
    kind: &str,
    State(app): State<AppState>,
    session: UserSession,
    protocol: Option<Path<String>>,
    Query(mut fields): Fields,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Search, &session, app.clock.now_ms())?;
    let protocol = protocol.map(|Path(protocol)| protocol);
    if protocol.as_ref().is_some_and(|protocol| !app.appservices.has_protocol(protocol)) {
        return Err(no_such_protocol());
    }
    // Not for others: whoever asks authenticates to us.
    fields.retain(|(name, _)| !matches!(&**name, "access_token" | "user_id" | "device_id"));
    let bytes: usize = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
    if fields.len() > FIELDS_MAX || bytes > FIELDS_BYTES_MAX {
        return Err(MatrixError::invalid_param("These are too many fields."));
    }
    let found = app.appservices.look_up(kind, protocol.as_deref(), &fields).await;
    Ok(Json(json!(found)))
}

fn require_field(fields: &Fields, name: &str) -> MatrixResult<()> {
    match fields.0.iter().any(|(field, _)| field == name) {
        true => Ok(()),
        false => Err(MatrixError::missing_param(format!("`{name}` is missing."))),
    }
}

fn no_such_protocol() -> MatrixError {
    MatrixError::not_found("There is no bridge for this protocol.")
}
