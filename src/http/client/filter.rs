//! `/user/{userId}/filter` (Client-Server API, "Filtering"): stores filters, which `sync` applies.

use axum::extract::State;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
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
    rooms::{EventFilter, RoomEventFilter},
};

/// What a filter may contain, for checking it.
#[derive(Deserialize)]
#[expect(dead_code, reason = "read only to be checked")]
struct FilterShape {
    event_fields: Option<Vec<String>>,
    event_format: Option<EventFormat>,
    presence: Option<EventFilter>,
    account_data: Option<EventFilter>,
    room: Option<RoomFilterShape>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read only to be checked")]
struct RoomFilterShape {
    not_rooms: Option<Vec<OwnedRoomId>>,
    rooms: Option<Vec<OwnedRoomId>>,
    include_leave: Option<bool>,
    ephemeral: Option<RoomEventFilter>,
    state: Option<RoomEventFilter>,
    timeline: Option<RoomEventFilter>,
    account_data: Option<RoomEventFilter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum EventFormat {
    Client,
    Federation,
}

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
    parse_json::<FilterShape>(filter.0.as_bytes())?;
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
