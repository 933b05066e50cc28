//! `/account` (Client-Server API, "Account management"): who am I, password, deactivation, and the
//! third-party identifiers that this server does not keep.

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    register::capitalize,
    uia::{confirm_identity, confirm_unless_appservice},
};
use crate::{
    accounts::manage::ManageError,
    http::{
        AppState,
        auth::{UserOrGuestSession, UserSession},
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, OptionalJsonBody},
        rate_limit::Action,
    },
};

#[derive(Debug, Serialize)]
pub struct WhoAmI {
    user_id: String,
    /// Application services may act without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<String>,
    is_guest: bool,
}

#[derive(Debug, Deserialize)]
struct PasswordRequest {
    new_password: String,
    #[serde(default = "default_logout_devices")]
    logout_devices: bool,
}

#[derive(Debug, Deserialize)]
struct DeactivateRequest {
    #[serde(default)]
    erase: bool,
}

/// `GET /account/whoami`.
pub async fn whoami(session: UserOrGuestSession) -> Json<WhoAmI> {
    Json(WhoAmI {
        user_id: session.user_id.to_string(),
        device_id: session.device().map(ToString::to_string),
        is_guest: session.is_guest,
    })
}

/// `POST /account/password`.
pub async fn change_password(
    State(app): State<AppState>,
    session: UserSession,
    JsonBody(body): JsonBody<Value>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    let request: PasswordRequest = read_object(&body)?;
    app.accounts.check_new_password(&request.new_password)?;
    confirm_identity(&app, &session, "POST /account/password", &body).await?;
    let (user_id, logout) = (&session.user_id, request.logout_devices);
    let kept = Some(&*session.device_id);
    app.accounts.set_password(user_id, request.new_password, logout, kept).await?;
    Ok(Json(Empty {}))
}

/// `POST /account/deactivate`. There is no identity server, so there is nothing to unbind.
pub async fn deactivate(
    State(app): State<AppState>,
    session: UserSession,
    OptionalJsonBody(body): OptionalJsonBody<Value>,
) -> MatrixResult<Json<Value>> {
    let request: DeactivateRequest = read_object(&body)?;
    confirm_unless_appservice(&app, &session, "POST /account/deactivate", &body).await?;
    app.accounts.deactivate(&session.user_id, request.erase).await?;
    Ok(Json(json!({ "id_server_unbind_result": "success" })))
}

/// `GET /account/3pid`: none are kept here.
pub async fn list_third_party_ids(_: UserSession) -> Json<Value> {
    Json(json!({ "threepids": [] }))
}

/// `POST /account/3pid/delete` and `/unbind`: there is nothing to remove, here or elsewhere.
pub async fn remove_third_party_id(_: UserSession) -> Json<Value> {
    Json(json!({ "id_server_unbind_result": "no-support" }))
}

/// `POST …/requestToken` for an address to be added: this server keeps none.
pub async fn refuse_third_party_id() -> MatrixError {
    let message = "This server keeps no mail addresses or phone numbers.";
    MatrixError::new(StatusCode::FORBIDDEN, "M_THREEPID_DENIED", message)
}

/// `POST /account/password/…/requestToken`: nobody has an address here.
pub async fn refuse_password_reset() -> MatrixError {
    let message = "This server keeps no mail addresses or phone numbers; ask its administrator \
                   for a new password.";
    MatrixError::new(StatusCode::BAD_REQUEST, "M_THREEPID_NOT_FOUND", message)
}

/// Reads a body whose `auth` is needed as well.
pub fn read_object<T: serde::de::DeserializeOwned>(body: &Value) -> MatrixResult<T> {
    if !body.is_object() {
        return Err(MatrixError::bad_json("The body is not an object."));
    }
    serde_json::from_value(body.clone())
        .map_err(|error| MatrixError::bad_json(format!("The body is not as expected: {error}.")))
}

impl From<ManageError> for MatrixError {
    fn from(error: ManageError) -> Self {
        let message = capitalize(&error.to_string());
        match error {
            ManageError::NotFound | ManageError::Deactivated => Self::not_found(message),
            ManageError::WeakPassword(error) => error.into(),
            ManageError::Storage(error) => error.into(),
        }
    }
}

fn default_logout_devices() -> bool {
    true
}
