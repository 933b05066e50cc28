//! `/_synapse/admin/v1/send_server_notice`.

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::parse_local;
use crate::{
    http::{
        App, AppState,
        auth::AdminSession,
        error::{MatrixError, MatrixResult},
        json::{Json, JsonBody, Path},
    },
    workflows::server_notices::{Notice, NoticeError},
};

/// What to tell whom.
#[derive(Debug, Deserialize)]
pub struct NoticeBody {
    user_id: String,
    content: Map<String, Value>,
    #[serde(rename = "type")]
    kind: Option<String>,
    state_key: Option<String>,
}

/// `POST /_synapse/admin/v1/send_server_notice`.
pub async fn send(
    State(app): State<AppState>,
    session: AdminSession,
    JsonBody(body): JsonBody<NoticeBody>,
) -> MatrixResult<Json<Value>> {
    tell(&app, &session, body, None).await
}

/// `PUT /_synapse/admin/v1/send_server_notice/{txnId}`.
pub async fn send_once(
    State(app): State<AppState>,
    session: AdminSession,
    Path(transaction): Path<String>,
    JsonBody(body): JsonBody<NoticeBody>,
) -> MatrixResult<Json<Value>> {
    tell(&app, &session, body, Some(transaction)).await
}

async fn tell(
    app: &App,
    session: &AdminSession,
    body: NoticeBody,
    transaction: Option<String>,
) -> MatrixResult<Json<Value>> {
    let notice = Notice {
        user_id: parse_local(app, &body.user_id)?,
        kind: body.kind.unwrap_or_else(|| "m.room.message".to_owned()),
        state_key: body.state_key,
        content: body.content,
        sent_by: transaction.map(|transaction| (session.user_id.clone(), transaction)),
    };
    let event_id = app.notices.send(notice).await?;
    Ok(Json(json!({ "event_id": event_id })))
}

impl From<NoticeError> for MatrixError {
    fn from(error: NoticeError) -> Self {
        match error {
            NoticeError::UnknownUser => Self::not_found("User not found."),
            NoticeError::NameTaken => Self::bad_request(
                "The name in `server_notices.localpart` belongs to somebody; choose another one.",
            ),
            NoticeError::Unreachable(error) => error.into(),
            NoticeError::Register(error) => error.into(),
            NoticeError::Create(error) => error.into(),
            NoticeError::Tag(error) => error.into(),
            NoticeError::Append(error) => error.into(),
            NoticeError::Storage(error) => error.into(),
        }
    }
}
