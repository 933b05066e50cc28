//! `POST /rooms/{roomId}/upgrade` (client-server API, "Room Upgrades").

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    create_room::find_version, room_errors::sentence, room_paths::find_known_room,
    rooms_membership::carry_settings,
};
use crate::{
    http::{
        auth::{UserSession, refuse_suspended},
        error::{MatrixError, MatrixResult},
        json::{Json, JsonBody, Path},
        rate_limit::Action,
        state::AppState,
    },
    workflows::upgrade::{Upgrade, UpgradeError, upgrade_room},
};

/// As long as the hash that the ID of a room is from version 12 on.
const REPLACEMENT_ID_LENGTH: usize = 43;

/// Into what the room shall turn.
#[derive(Debug, Deserialize)]
pub struct UpgradeBody {
    new_version: String,
    additional_creators: Option<Value>,
}

impl From<UpgradeError> for MatrixError {
    fn from(error: UpgradeError) -> Self {
        match error {
            UpgradeError::Forbidden => Self::forbidden(sentence(&error)),
            UpgradeError::Create(error) => error.into(),
            UpgradeError::Append(error) => error.into(),
            UpgradeError::Storage(error) => error.into(),
        }
    }
}

/// Replaces a room.
pub async fn upgrade(
    State(app): State<AppState>,
    session: UserSession,
    Path(room_id): Path<String>,
    JsonBody(body): JsonBody<UpgradeBody>,
) -> MatrixResult<Json<Value>> {
    refuse_suspended(&session)?;
    app.rate_limits.take(Action::RoomCreation, &session, app.clock.now_ms())?;
    let upgrade = Upgrade {
        user_id: session.user_id.clone(),
        version: find_version(&app, Some(&body.new_version))?,
        additional_creators: body.additional_creators,
    };
    let room = find_known_room(&app, &room_id).await?;
    if session.is_shadow_banned {
        // It looks as if there were a new room.
        let replacement = format!("!{}", app.clock.random_text(REPLACEMENT_ID_LENGTH));
        return Ok(Json(json!({ "replacement_room": replacement })));
    }
    let new = upgrade_room(&app.accounts, &app.rooms, &room, &upgrade).await?;
    carry_settings(&app, &session.user_id, &new).await;
    Ok(Json(json!({ "replacement_room": new.room_id })))
}
