//! `GET` and `PUT /presence/{userId}/status` (Client-Server API, "Presence").

use axum::extract::State;
use ruma::OwnedUserId;
use serde::Deserialize;

use crate::{
    ephemeral::{PresenceState, PresenceStatus},
    http::{
        AppState,
        auth::UserSession,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, Path, RawJson},
        rate_limit::Action,
    },
};

/// The longest status message, bytes. The specification has no limit; every contact gets it.
const STATUS_MESSAGE_BYTES_MAX: usize = 1024;

/// The body of `PUT /presence/{userId}/status`.
#[derive(Debug, Deserialize)]
pub struct PresenceBody {
    presence: String,
    status_msg: Option<String>,
}

/// Sets the user's own presence.
pub async fn put_status(
    State(app): State<AppState>,
    session: UserSession,
    Path(user_id): Path<OwnedUserId>,
    JsonBody(body): JsonBody<PresenceBody>,
) -> MatrixResult<Json<Empty>> {
    if session.user_id != user_id {
        return Err(MatrixError::forbidden("You cannot set the presence of somebody else."));
    }
    let Some(state) = PresenceState::parse(&body.presence) else {
        return Err(MatrixError::invalid_param("`presence` is not known."));
    };
    if body.status_msg.as_ref().is_some_and(|text| text.len() > STATUS_MESSAGE_BYTES_MAX) {
        return Err(MatrixError::invalid_param("`status_msg` is longer than 1024 bytes."));
    }
    app.rate_limits.take(Action::Ephemeral, &session, app.clock.now_ms())?;
    app.ephemeral.presence.set(&user_id, state, body.status_msg).await?;
    Ok(Json(Empty {}))
}

/// The presence of the user themself, or of somebody who is in a room with them.
pub async fn get_status(
    State(app): State<AppState>,
    session: UserSession,
    Path(user_id): Path<OwnedUserId>,
) -> MatrixResult<RawJson> {
    let viewer = app.rooms.rooms_of(&session.user_id).await?;
    if !app.ephemeral.presence.may_see(&viewer, &user_id).await? {
        return Err(MatrixError::forbidden("You are in no room with this user."));
    }
    let status = app.ephemeral.presence.find(&user_id).unwrap_or(PresenceStatus {
        state: PresenceState::Offline,
        status_message: None,
        last_active_ago_ms: None,
        is_currently_active: false,
    });
    let mut out = String::from("{");
    status.write_json(&mut out);
    out.push('}');
    Ok(RawJson(out.into()))
}
