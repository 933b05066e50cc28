//! `/user/{userId}/filter` (Client-Server API, "Filtering"): stores filters, which `sync` applies.

use axum::extract::State;
use ruma::OwnedUserId;
use serde_json::{Value, json};

use super::account_data::require_self;
use crate::{
    http::{
        AppState,
        auth::UserOrGuestSession,
        error::{MatrixError, MatrixResult},
        json::{Json, Path, RawJson, RawObject, parse_json},
        rate_limit::Action,
    },
    sync::SyncFilter,
};

/// A filter larger than this would slow down every sync.
const FILTER_BYTES_MAX: usize = 64 * 1024;

/// `POST /user/{userId}/filter`.
pub async fn create_filter(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path(user_id): Path<OwnedUserId>,
    filter: RawObject,
) -> MatrixResult<Json<Value>> {
    require_self(&session, &user_id)?;
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    if filter.0.len() > FILTER_BYTES_MAX {
        return Err(MatrixError::too_large("A filter has at most 64 KiB."));
    }
    parse_json::<SyncFilter>(filter.0.as_bytes())?;
    let filter_id = app.accounts.store_filter(&user_id, &filter.0).await?;
    Ok(Json(json!({ "filter_id": filter_id })))
}

/// `GET /user/{userId}/filter/{filterId}`.
pub async fn get_filter(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path((user_id, filter_id)): Path<(OwnedUserId, String)>,
) -> MatrixResult<RawJson> {
    require_self(&session, &user_id)?;
    match app.accounts.find_filter(&user_id, &filter_id).await? {
        Some(filter) => Ok(RawJson(filter.into())),
        None => Err(MatrixError::not_found("There is no such filter.")),
    }
}
