//! `/livekit/jwt/…`: lets people into calls on a LiveKit server (MatrixRTC; MSC4195, "LiveKit JWT
//! service"). Not part of the specification yet; clients find the address in
//! `/.well-known/matrix/client`.

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    http::{
        AppState,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody},
    },
    workflows::livekit::{Entry, LivekitError, OpenIdToken, ROOM_SLOT},
};

/// Of older clients.
#[derive(Debug, Deserialize)]
pub struct OldBody {
    room: String,
    openid_token: OpenIdToken,
    device_id: String,
    delay_id: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct GetTokenBody {
    room_id: String,
    slot_id: String,
    openid_token: OpenIdToken,
    member: Member,
    delay_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Member {
    id: String,
    claimed_user_id: String,
    claimed_device_id: String,
}

/// `POST /livekit/jwt/sfu/get`.
pub async fn get_by_device(
    State(app): State<AppState>,
    JsonBody(body): JsonBody<OldBody>,
) -> MatrixResult<Json<Value>> {
    refuse_delegation(body.delay_id)?;
    let entry = Entry {
        room_id: body.room,
        slot_id: ROOM_SLOT.to_owned(),
        token: body.openid_token,
        device_id: body.device_id,
        member: None,
    };
    admit(&app, &entry).await
}

/// `POST /livekit/jwt/get_token`.
pub async fn get_token(
    State(app): State<AppState>,
    JsonBody(body): JsonBody<GetTokenBody>,
) -> MatrixResult<Json<Value>> {
    refuse_delegation(body.delay_id)?;
    let entry = Entry {
        room_id: body.room_id,
        slot_id: body.slot_id,
        token: body.openid_token,
        device_id: body.member.claimed_device_id,
        member: Some((body.member.id, body.member.claimed_user_id)),
    };
    admit(&app, &entry).await
}

/// `GET /livekit/jwt/healthz`.
pub async fn get_health(State(app): State<AppState>) -> MatrixResult<Json<Empty>> {
    match app.config.livekit.url {
        Some(_) => Ok(Json(Empty {})),
        None => Err(LivekitError::NotConfigured.into()),
    }
}

async fn admit(app: &AppState, entry: &Entry) -> MatrixResult<Json<Value>> {
    let admission = app.livekit.admit(entry).await?;
    Ok(Json(json!({ "url": admission.url, "jwt": admission.jwt })))
}

/// A client that wants its delayed event kept back by us has to do that itself, as always.
fn refuse_delegation(delay_id: Option<String>) -> MatrixResult<()> {
    match delay_id.filter(|id| !id.is_empty()) {
        Some(_) => Err(MatrixError::bad_json("Delayed events cannot be delegated to this server.")),
        None => Ok(()),
    }
}

impl From<LivekitError> for MatrixError {
    fn from(error: LivekitError) -> Self {
        match error {
            LivekitError::NotConfigured => Self::not_found("No calls take place on this server."),
            LivekitError::TooLong => Self::bad_json("A part of the request is too long."),
            LivekitError::NotAuthorised => Self::new(
                StatusCode::UNAUTHORIZED,
                "M_UNAUTHORIZED",
                "The OpenID token is not valid, or it is somebody else's.",
            ),
            LivekitError::NotInRoom => {
                Self::forbidden("Only members of the room may enter its call.")
            }
            LivekitError::Unreachable(reason) => {
                tracing::warn!(reason, "LiveKit does not begin a call");
                Self::new(
                    StatusCode::BAD_GATEWAY,
                    "M_UNKNOWN",
                    "The server for calls does not answer as it should.",
                )
            }
            LivekitError::Storage(error) => error.into(),
        }
    }
}
