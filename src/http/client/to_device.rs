//! `PUT /sendToDevice/{eventType}/{txnId}` (client-server API, "Send-to-Device messaging").

use axum::extract::State;
use serde::Deserialize;

use crate::{
    encryption::{Messages, SendRequest, SendToDeviceError},
    http::{
        AppState,
        auth::UserOrGuestSession,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, Path},
        rate_limit::Action,
    },
};

#[derive(Debug, Deserialize)]
pub struct SendBody {
    messages: Messages,
}

/// `PUT /sendToDevice/{eventType}/{txnId}`. Answers when the messages are durable.
pub async fn send(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path((kind, transaction_id)): Path<(String, String)>,
    JsonBody(body): JsonBody<SendBody>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::ToDevice, &session, app.clock.now_ms())?;
    let request = SendRequest {
        sender: session.user_id.clone(),
        device_id: session.device_id.to_string(),
        kind,
        transaction_id,
        messages: body.messages,
    };
    app.encryption.send_to_devices(request).await?;
    Ok(Json(Empty {}))
}

impl From<SendToDeviceError> for MatrixError {
    fn from(error: SendToDeviceError) -> Self {
        let message = super::register::capitalize(&error.to_string());
        match error {
            SendToDeviceError::NoObject => Self::bad_json(message),
            SendToDeviceError::TooLong => Self::too_large(message),
            SendToDeviceError::Storage(error) => error.into(),
        }
    }
}
