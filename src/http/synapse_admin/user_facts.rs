//! `/_synapse/admin/v1/…`: what tools ask about single users beside their accounts: whose an address is, how many
//! rooms they entered and how many people they invited of late, what is on for them alone.

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{load_account, parse_local};
use crate::{
    http::{
        AppState,
        auth::AdminSession,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, Path, Query},
    },
    storage::cross_signing,
};

/// How long a user may replace their keys without proof: as on Synapse.
const GRANT_MS: u64 = 10 * 60 * 1000;

/// Features to be switched, by name.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct FeaturesBody {
    features: Map<String, Value>,
}

/// Since when is counted.
#[derive(Debug, Deserialize)]
pub struct SinceQuery {
    /// Milliseconds since the Unix epoch.
    from_ts: i64,
}

/// `GET /_synapse/admin/v1/threepid/{medium}/users/{address}`.
pub async fn find_by_third_party_id(
    State(app): State<AppState>,
    _: AdminSession,
    Path((medium, address)): Path<(String, String)>,
) -> MatrixResult<Json<Value>> {
    let found = app.accounts.find_third_party_id(&medium, &address).await?;
    Ok(Json(json!({ "user_id": found.ok_or_else(unknown_user)?.user_id })))
}

/// `GET /_synapse/admin/v1/auth_providers/{provider}/users/{externalId}`: nobody is signed in by another
/// service here.
pub async fn find_by_auth_provider(
    _: AdminSession,
    Path(_): Path<(String, String)>,
) -> MatrixResult<Json<Value>> {
    Err(unknown_user())
}

/// `GET /_synapse/admin/v1/users/{userId}/cumulative_joined_room_count`: the rooms that the user entered since
/// then, also if they have left them.
pub async fn count_joined_rooms(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
    Query(query): Query<SinceQuery>,
) -> MatrixResult<Json<Value>> {
    let user_id = load_account(&app, &user_id).await?.user_id;
    let count = app.rooms.count_rooms_joined_since(&user_id, query.from_ts).await?;
    Ok(Json(json!({ "cumulative_joined_room_count": count })))
}

/// `GET /_synapse/admin/v1/users/{userId}/sent_invite_count`: the invitations that the user sent since then.
pub async fn count_sent_invites(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
    Query(query): Query<SinceQuery>,
) -> MatrixResult<Json<Value>> {
    let user_id = parse_local(&app, &user_id)?;
    let count = app.rooms.count_invites_since(&user_id, query.from_ts).await?;
    Ok(Json(json!({ "invite_count": count })))
}

/// `GET /_synapse/admin/v1/experimental_features/{userId}`: none is on for some and off for others.
pub async fn list_features(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    load_account(&app, &user_id).await?;
    Ok(Json(json!({ "features": {} })))
}

/// `PUT /_synapse/admin/v1/experimental_features/{userId}`: there is none to be switched.
pub async fn set_features(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
    JsonBody(body): JsonBody<FeaturesBody>,
) -> MatrixResult<Json<Empty>> {
    load_account(&app, &user_id).await?;
    match body.features.keys().next() {
        Some(name) => {
            Err(MatrixError::bad_request(format!("{name} is no feature of single users here.")))
        }
        None => Err(MatrixError::bad_request("You must provide features to set.")),
    }
}

/// `POST /_synapse/admin/v1/users/{userId}/_allow_cross_signing_replacement_without_uia`.
pub async fn allow_new_cross_signing(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let user_id = load_account(&app, &user_id).await?.user_id;
    let keys = cross_signing::list_keys(&app.database, &[user_id.as_str()]).await?;
    if !keys.iter().any(|(_, usage, _)| usage == "master") {
        return Err(MatrixError::not_found("User has no master cross-signing key."));
    }
    let until_ms = app.clock.now_ms() + GRANT_MS;
    app.cross_signing_grants.allow(&user_id, until_ms);
    Ok(Json(json!({ "updatable_without_uia_before_ms": until_ms })))
}

fn unknown_user() -> MatrixError {
    MatrixError::not_found("User not found.")
}
