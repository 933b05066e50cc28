//! `POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync` (MSC4186): reads the request;
//! `crate::sync::sliding` answers.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;

use crate::{
    ephemeral::PresenceState,
    http::{
        auth::UserOrGuestSession,
        error::{MatrixError, MatrixResult},
        json::{OptionalJsonBody, Query, RawJson},
        state::AppState,
    },
    sync::sliding::{MalformedPosition, SlidingBody, SlidingError, SlidingRequest},
};

/// The query of a request.
#[derive(Debug, Deserialize)]
pub struct SlidingQuery {
    pos: Option<String>,
    /// Milliseconds.
    #[serde(default)]
    timeout: u64,
    /// `online` unless the client says otherwise.
    set_presence: Option<String>,
}

/// Answers what the client has not seen of the rooms that it asks for, waiting for it if asked to.
pub async fn post_sync(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Query(query): Query<SlidingQuery>,
    OptionalJsonBody(body): OptionalJsonBody<SlidingBody>,
) -> MatrixResult<RawJson> {
    let pos = query.pos.as_deref().map(str::parse).transpose();
    let request = SlidingRequest {
        user_id: session.user_id.clone(),
        device_id: session.device_id.to_string(),
        pos: pos.map_err(|MalformedPosition| SlidingError::UnknownPosition)?,
        timeout: Duration::from_millis(query.timeout),
        body,
    };
    let presence = match query.set_presence.as_deref() {
        None => PresenceState::Online,
        Some(text) => PresenceState::parse(text)
            .ok_or_else(|| MatrixError::invalid_param("`set_presence` is not known."))?,
    };
    let _connected = app.ephemeral.presence.begin_sync(&session.user_id, presence).await;
    let answer = app.sliding_sync.sync(&request, &app.shutdown).await?;
    Ok(RawJson(answer.into()))
}

impl From<SlidingError> for MatrixError {
    fn from(error: SlidingError) -> Self {
        match error {
            SlidingError::UnknownPosition => {
                let message = "This position is not known any more; begin a new connection.";
                Self::new(StatusCode::BAD_REQUEST, "M_UNKNOWN_POS", message)
            }
            SlidingError::Invalid(message) => Self::invalid_param(message),
            SlidingError::Storage(error) => error.into(),
        }
    }
}
