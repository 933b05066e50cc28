//! `/keys` (client-server API, "Key management API"): device keys, one-time keys, whose keys changed.

use std::{collections::BTreeMap, time::Duration};

use axum::extract::State;
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    encryption::{ClaimRequest, ClaimedKeys, IdentityError, KeysUpload, UploadKeysError},
    http::{
        AppState,
        auth::{UserOrGuestSession, UserSession, require_device},
        error::{MatrixError, MatrixResult},
        json::{Json, JsonBody, Query, RawJson},
        rate_limit::Action,
    },
    rooms::write_json_string,
    sync::SyncToken,
};

/// How long other servers may take unless the client says otherwise ("10 seconds is the recommended
/// default"), and at most.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Users of one query and devices of one claim.
const QUERIED_USERS_MAX: usize = 10_000;

#[derive(Debug, Deserialize)]
pub struct QueryRequest {
    timeout: Option<u64>,
    device_keys: BTreeMap<OwnedUserId, Vec<String>>,
}

#[derive(Debug, Deserialize)]
pub struct ClaimBody {
    timeout: Option<u64>,
    one_time_keys: ClaimRequest,
}

#[derive(Debug, Deserialize)]
pub struct ChangesQuery {
    from: String,
    to: String,
}

/// `POST /keys/upload`.
pub async fn upload_keys(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    JsonBody(upload): JsonBody<KeysUpload>,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::ToDevice, &session, app.clock.now_ms())?;
    require_device(&session)?;
    let counts = app.encryption.upload_keys(&session.user_id, &session.device_id, upload).await?;
    Ok(Json(json!({ "one_time_key_counts": counts.one_time })))
}

/// `POST /keys/query`.
pub async fn query_keys(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    JsonBody(request): JsonBody<QueryRequest>,
) -> MatrixResult<Json<Value>> {
    if request.device_keys.len() > QUERIED_USERS_MAX {
        return Err(MatrixError::too_large("These are too many users for one request."));
    }
    let timeout = read_timeout(request.timeout);
    let found = app.encryption.query_keys(&session.user_id, request.device_keys, timeout).await?;
    Ok(Json(found.into_json()))
}

/// `POST /keys/claim`.
pub async fn claim_keys(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    JsonBody(request): JsonBody<ClaimBody>,
) -> MatrixResult<RawJson> {
    app.rate_limits.take(Action::ToDevice, &session, app.clock.now_ms())?;
    let devices: usize = request.one_time_keys.values().map(BTreeMap::len).sum();
    if devices > QUERIED_USERS_MAX {
        return Err(MatrixError::too_large("These are too many devices for one request."));
    }
    let timeout = read_timeout(request.timeout);
    let claimed = app.encryption.claim_keys(request.one_time_keys, timeout).await?;
    Ok(RawJson(write_claimed(&claimed).into()))
}

/// `GET /keys/changes`.
pub async fn list_changes(
    State(app): State<AppState>,
    session: UserSession,
    Query(query): Query<ChangesQuery>,
) -> MatrixResult<Json<Value>> {
    let position = |token: &str| {
        let parsed: Result<SyncToken, _> = token.parse();
        let token = parsed.map_err(|_| MatrixError::invalid_param("This is no token of mine."))?;
        Ok::<_, MatrixError>(token.position)
    };
    let range = (position(&query.from)?, position(&query.to)?);
    let rooms = app.rooms.rooms_of(&session.user_id).await?;
    let changes = app.encryption.list_device_changes(&rooms, range).await?;
    Ok(Json(json!({ "changed": changes.changed, "left": changes.left })))
}

/// The answer to a claim, as clients and other servers get it. The keys must be in the order of users.
pub fn write_claimed(claimed: &ClaimedKeys) -> String {
    let mut out = String::from("{\"one_time_keys\":{");
    let mut user = None;
    for key in &claimed.local {
        match user == Some(&key.user) {
            true => out.push(','),
            false => {
                out.push_str(if user.is_some() { "}," } else { "" });
                write_json_string(&mut out, &key.user);
                out.push_str(":{");
                user = Some(&key.user);
            }
        }
        write_json_string(&mut out, &key.device);
        out.push_str(":{");
        write_json_string(&mut out, &key.key_id);
        out.push(':');
        out.push_str(&key.key);
        out.push('}');
    }
    out.push_str(if user.is_some() { "}" } else { "" });
    write_members(&mut out, &claimed.remote, user.is_none());
    out.push_str("},\"failures\":{");
    write_members(&mut out, &claimed.failures, true);
    out.push_str("}}");
    out
}

fn write_members(out: &mut String, members: &Map<String, Value>, mut is_first: bool) {
    for (name, value) in members {
        out.push_str(if is_first { "" } else { "," });
        is_first = false;
        write_json_string(out, name);
        out.push(':');
        out.push_str(&value.to_string());
    }
}

fn read_timeout(timeout_ms: Option<u64>) -> Duration {
    timeout_ms.map_or(TIMEOUT_DEFAULT, Duration::from_millis).min(TIMEOUT_MAX)
}

impl From<IdentityError> for MatrixError {
    fn from(error: IdentityError) -> Self {
        let message = super::register::capitalize(&error.to_string());
        match error {
            IdentityError::BadShape(_) => Self::bad_json(message),
            IdentityError::WrongOwner => Self::invalid_param(message),
            IdentityError::BadSignature { .. } => Self::invalid_signature(message),
        }
    }
}

impl From<UploadKeysError> for MatrixError {
    fn from(error: UploadKeysError) -> Self {
        let message = super::register::capitalize(&error.to_string());
        match error {
            UploadKeysError::Identity(IdentityError::BadShape(_)) => Self::bad_json(message),
            UploadKeysError::Identity(_)
            | UploadKeysError::BadKey(_)
            | UploadKeysError::Conflict(_) => Self::invalid_param(message),
            UploadKeysError::TooMany => Self::too_large(message),
            UploadKeysError::NamedLikeKey => Self::forbidden(message),
            UploadKeysError::Storage(error) => error.into(),
        }
    }
}
