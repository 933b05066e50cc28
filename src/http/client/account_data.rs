//! `/user/{userId}/account_data` and tags (Client-Server API, "Client Config", "Room Tagging").

use axum::{extract::State, http::StatusCode};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Map, Value, json};

use crate::{
    accounts::{
        account_data::{DELETED, IGNORED_USERS_KIND, StoreDataError},
        sessions::Session,
    },
    http::{
        App, AppState,
        auth::UserSession,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, Path, RawJson, RawObject},
        rate_limit::Action,
    },
    workflows::ignored_users::store_ignored_users,
};

/// Types that the server writes itself.
const SERVER_KINDS: [&str; 2] = ["m.fully_read", "m.push_rules"];
/// Types and tags are at most as long as the type of an event ("Size limits").
const KIND_BYTES_MAX: usize = 255;

/// `GET /user/{userId}/account_data/{type}`.
pub async fn get_global(
    State(app): State<AppState>,
    session: UserSession,
    Path((user_id, kind)): Path<(OwnedUserId, String)>,
) -> MatrixResult<RawJson> {
    get(&app, &session, &user_id, None, &kind).await
}

/// `PUT /user/{userId}/account_data/{type}`.
pub async fn set_global(
    State(app): State<AppState>,
    session: UserSession,
    Path((user_id, kind)): Path<(OwnedUserId, String)>,
    content: RawObject,
) -> MatrixResult<Json<Empty>> {
    set(&app, &session, &user_id, None, &kind, content).await
}

/// `DELETE …/user/{userId}/account_data/{type}` (MSC3391).
pub async fn delete_global(
    State(app): State<AppState>,
    session: UserSession,
    Path((user_id, kind)): Path<(OwnedUserId, String)>,
) -> MatrixResult<Json<Empty>> {
    set(&app, &session, &user_id, None, &kind, RawObject(DELETED.to_owned())).await
}

/// `DELETE …/user/{userId}/rooms/{roomId}/account_data/{type}` (MSC3391).
pub async fn delete_of_room(
    State(app): State<AppState>,
    session: UserSession,
    Path((user_id, room_id, kind)): Path<(OwnedUserId, OwnedRoomId, String)>,
) -> MatrixResult<Json<Empty>> {
    set(&app, &session, &user_id, Some(&room_id), &kind, RawObject(DELETED.to_owned())).await
}

/// `GET /user/{userId}/rooms/{roomId}/account_data/{type}`.
pub async fn get_of_room(
    State(app): State<AppState>,
    session: UserSession,
    Path((user_id, room_id, kind)): Path<(OwnedUserId, OwnedRoomId, String)>,
) -> MatrixResult<RawJson> {
    get(&app, &session, &user_id, Some(&room_id), &kind).await
}

/// `PUT /user/{userId}/rooms/{roomId}/account_data/{type}`.
pub async fn set_of_room(
    State(app): State<AppState>,
    session: UserSession,
    Path((user_id, room_id, kind)): Path<(OwnedUserId, OwnedRoomId, String)>,
    content: RawObject,
) -> MatrixResult<Json<Empty>> {
    set(&app, &session, &user_id, Some(&room_id), &kind, content).await
}

/// `GET /user/{userId}/rooms/{roomId}/tags`.
pub async fn list_tags(
    State(app): State<AppState>,
    session: UserSession,
    Path((user_id, room_id)): Path<(OwnedUserId, OwnedRoomId)>,
) -> MatrixResult<Json<Value>> {
    require_self(&session, &user_id)?;
    let tags = app.accounts.load_tags(&user_id, &room_id).await?;
    Ok(Json(json!({ "tags": tags })))
}

/// `PUT /user/{userId}/rooms/{roomId}/tags/{tag}`.
pub async fn set_tag(
    State(app): State<AppState>,
    session: UserSession,
    Path((user_id, room_id, tag)): Path<(OwnedUserId, OwnedRoomId, String)>,
    JsonBody(content): JsonBody<Map<String, Value>>,
) -> MatrixResult<Json<Empty>> {
    check_change(&app, &session, &user_id, &tag)?;
    if content.get("order").is_some_and(|order| !order.is_number()) {
        return Err(MatrixError::bad_json("`order` must be a number."));
    }
    app.accounts.change_tag(&user_id, &room_id, &tag, Some(content.into())).await?;
    Ok(Json(Empty {}))
}

/// `DELETE /user/{userId}/rooms/{roomId}/tags/{tag}`.
pub async fn delete_tag(
    State(app): State<AppState>,
    session: UserSession,
    Path((user_id, room_id, tag)): Path<(OwnedUserId, OwnedRoomId, String)>,
) -> MatrixResult<Json<Empty>> {
    check_change(&app, &session, &user_id, &tag)?;
    app.accounts.change_tag(&user_id, &room_id, &tag, None).await?;
    Ok(Json(Empty {}))
}

/// 403 unless the path names the user who asks.
pub fn require_self(session: &Session, user_id: &UserId) -> MatrixResult<()> {
    match session.user_id == user_id {
        true => Ok(()),
        false => Err(MatrixError::forbidden("This belongs to another user.")),
    }
}

impl From<StoreDataError> for MatrixError {
    fn from(error: StoreDataError) -> Self {
        match error {
            StoreDataError::TooMuch => Self::too_large("This account stores as much as it may."),
            StoreDataError::Damaged => {
                tracing::error!("stored tags cannot be read");
                Self::internal("The stored tags cannot be read.")
            }
            StoreDataError::Storage(error) => error.into(),
        }
    }
}

async fn get(
    app: &App,
    session: &Session,
    user_id: &UserId,
    room_id: Option<&RoomId>,
    kind: &str,
) -> MatrixResult<RawJson> {
    require_self(session, user_id)?;
    match app.accounts.find_data(user_id, room_id, kind).await? {
        Some(content) => Ok(RawJson(content.into())),
        None => Err(MatrixError::not_found("There is no such account data.")),
    }
}

async fn set(
    app: &App,
    session: &Session,
    user_id: &UserId,
    room_id: Option<&RoomId>,
    kind: &str,
    content: RawObject,
) -> MatrixResult<Json<Empty>> {
    check_change(app, session, user_id, kind)?;
    if SERVER_KINDS.contains(&kind) {
        let message = "This type of account data is written by the server.";
        return Err(MatrixError::new(StatusCode::METHOD_NOT_ALLOWED, "M_BAD_JSON", message));
    }
    match (room_id, kind) {
        (None, IGNORED_USERS_KIND) => {
            let parts = (&*app.accounts, &app.rooms, &app.push);
            store_ignored_users(parts, user_id, &content.0).await?;
        }
        _ => app.accounts.store_data(user_id, room_id, kind, &content.0).await?,
    }
    Ok(Json(Empty {}))
}

fn check_change(app: &App, session: &Session, user_id: &UserId, kind: &str) -> MatrixResult<()> {
    require_self(session, user_id)?;
    if kind.is_empty() || kind.len() > KIND_BYTES_MAX {
        return Err(MatrixError::invalid_param("A type or tag has 1 to 255 bytes."));
    }
    app.rate_limits.take(Action::Change, session, app.clock.now_ms())
}
