//! `/_synapse/admin/v1/user/{userId}/redact`: taking back what somebody has sent, and how far that is.

use std::sync::Arc;

use axum::extract::State;
use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::scheduled_tasks::TaskState;
use crate::{
    http::{
        AppState,
        auth::AdminSession,
        error::{MatrixError, MatrixResult},
        json::{Json, OptionalJsonBody, Path},
    },
    workflows::redact_user::{UserRedaction, redact_user},
};

/// Redactions whose outcome is remembered.
const REDACTIONS_MAX: usize = 1_000;
const REDACTION_ID_LENGTH: usize = 16;
/// Events of one room when the client does not say.
const LIMIT_DEFAULT: usize = 1_000;

/// What became of the redactions that were asked for, by their ID.
pub struct UserRedactions(pub(super) Cache<String, TaskState>);

/// What to take back.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RedactBody {
    rooms: Vec<OwnedRoomId>,
    reason: Option<String>,
    limit: Option<usize>,
    use_admin: bool,
}

/// `POST /_synapse/admin/v1/user/{userId}/redact`: answers at once; see [`get_status`].
pub async fn redact(
    State(app): State<AppState>,
    session: AdminSession,
    Path(user): Path<OwnedUserId>,
    OptionalJsonBody(body): OptionalJsonBody<RedactBody>,
) -> MatrixResult<Json<Value>> {
    if app.user_redactions.is_under_way(&user) {
        return Err(MatrixError::bad_request("What this user has sent is being redacted already."));
    }
    let limit = body.limit.unwrap_or(LIMIT_DEFAULT);
    if limit == 0 {
        return Err(MatrixError::invalid_param("`limit` must be greater than 0."));
    }
    let redaction = UserRedaction {
        user: user.clone(),
        administrator: session.user_id.clone(),
        by_administrator: body.use_admin,
        rooms: body.rooms,
        reason: body.reason,
        limit,
    };
    let id = app.clock.random_text(REDACTION_ID_LENGTH);
    let begun = json!({ "status": "active", "failed_redactions": {} });
    let begun = TaskState::now(&app.clock, user.as_str(), begun);
    app.user_redactions.0.insert(id.clone(), begun);
    let (working, answer) = (Arc::clone(&app), json!({ "redact_id": id }));
    app.tasks.spawn(async move {
        let status = match redact_user(&working.rooms, &redaction).await {
            Ok(failed) => json!({ "status": "completed", "failed_redactions": failed }),
            Err(error) => {
                tracing::error!(user.id = %user, %error, "what a user has sent was not redacted");
                json!({ "status": "failed", "failed_redactions": {}, "error": error.to_string() })
            }
        };
        let ended = TaskState::now(&working.clock, user.as_str(), status);
        working.user_redactions.0.insert(id, ended);
    });
    Ok(Json(answer))
}

/// `GET /_synapse/admin/v1/user/redact_status/{redactId}`.
pub async fn get_status(
    State(app): State<AppState>,
    _: AdminSession,
    Path(id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let found = app.user_redactions.0.get(&id);
    let found = found.ok_or_else(|| MatrixError::not_found("No such redaction."))?;
    Ok(Json(found.status))
}

impl UserRedactions {
    pub fn new() -> Self {
        Self(Cache::new(REDACTIONS_MAX))
    }

    fn is_under_way(&self, user: &OwnedUserId) -> bool {
        let known = self.0.iter().map(|(_, redaction)| redaction);
        known.into_iter().any(|redaction| {
            redaction.subject == user.as_str() && redaction.status["status"] == "active"
        })
    }
}

impl Default for UserRedactions {
    fn default() -> Self {
        Self::new()
    }
}
