//! `PUT /rooms/{roomId}/typing/{userId}` (Client-Server API, "Typing Notifications").

use axum::extract::State;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;

use crate::http::{
    AppState,
    auth::UserOrGuestSession,
    error::{MatrixError, MatrixResult},
    json::{Empty, Json, JsonBody, Path},
    rate_limit::Action,
};

/// How long somebody types who does not say, ms.
const TYPING_TIMEOUT_MS_DEFAULT: u64 = 30_000;

/// The body of the request.
#[derive(Debug, Deserialize)]
pub struct TypingBody {
    typing: bool,
    /// Milliseconds.
    timeout: Option<u64>,
}

/// Notes that the user types, or does no more.
pub async fn put_typing(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path((room_id, user_id)): Path<(OwnedRoomId, OwnedUserId)>,
    JsonBody(body): JsonBody<TypingBody>,
) -> MatrixResult<Json<Empty>> {
    if session.user_id != user_id {
        return Err(MatrixError::forbidden("You cannot type for somebody else."));
    }
    app.rate_limits.take(Action::Ephemeral, &session, app.clock.now_ms())?;
    let not_joined = || MatrixError::forbidden("You are not in this room.");
    let room = app.rooms.find(&room_id).await?.ok_or_else(not_joined)?;
    let place = app.rooms.rooms_of(&user_id).await?.find(room.nid);
    if !place.is_some_and(|place| place.is_joined()) {
        return Err(not_joined());
    }
    if session.is_shadow_banned {
        return Ok(Json(Empty {}));
    }
    if body.typing {
        let timeout_ms = body.timeout.unwrap_or(TYPING_TIMEOUT_MS_DEFAULT);
        app.ephemeral.typing.start(&room, &user_id, timeout_ms);
        app.ephemeral.presence.note_active(&user_id).await;
    } else {
        app.ephemeral.typing.stop(&room, &user_id);
    }
    app.federation.outbox().send_typing(&room, &user_id, body.typing).await;
    Ok(Json(Empty {}))
}
