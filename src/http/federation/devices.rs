//! Devices of our users and their keys, for other servers (Server-Server API, "Device Management",
//! "End-to-End Encryption").

use axum::extract::State;
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    encryption::{ClaimRequest, ClaimedKeys, KeysQuery, Viewer},
    http::{
        auth::{SignedBody, SignedOrigin},
        client::device_keys::write_claimed,
        error::{MatrixError, MatrixResult},
        json::{Json, Path, RawJson},
        state::{App, AppState},
    },
};

/// The body of `/user/keys/query`.
#[derive(Debug, Deserialize)]
pub struct QueryBody {
    device_keys: KeysQuery,
}

/// The body of `/user/keys/claim`.
#[derive(Debug, Deserialize)]
pub struct ClaimBody {
    one_time_keys: ClaimRequest,
}

/// `GET /user/devices/{userId}`
pub async fn get_devices(
    State(app): State<AppState>,
    SignedOrigin(_): SignedOrigin,
    Path(user_id): Path<OwnedUserId>,
) -> MatrixResult<Json<Value>> {
    let unknown = || MatrixError::not_found("There is no such user here.");
    if !is_ours(&app, &user_id) || app.accounts.find_profile(&user_id).await?.is_none() {
        return Err(unknown());
    }
    Ok(Json(app.encryption.describe_devices(&user_id).await?))
}

/// `POST /user/keys/query`
pub async fn query_keys(
    State(app): State<AppState>,
    SignedBody(_, body): SignedBody<QueryBody>,
) -> MatrixResult<Json<Value>> {
    let mut query = body.device_keys;
    query.retain(|user, _| is_ours(&app, user));
    let found = app.encryption.query_local_keys(Viewer::Server, &query).await?;
    Ok(Json(json!({
        "device_keys": found.device_keys,
        "master_keys": found.master_keys,
        "self_signing_keys": found.self_signing_keys,
    })))
}

/// `POST /user/keys/claim`
pub async fn claim_keys(
    State(app): State<AppState>,
    SignedBody(_, body): SignedBody<ClaimBody>,
) -> MatrixResult<RawJson> {
    let mut request = body.one_time_keys;
    request.retain(|user, _| is_ours(&app, user));
    let local = app.encryption.claim_local_keys(request).await?;
    let claimed = ClaimedKeys { local, ..ClaimedKeys::default() };
    Ok(RawJson(write_claimed(&claimed).into()))
}

fn is_ours(app: &App, user: &UserId) -> bool {
    user.server_name() == app.rooms.server_name()
}
