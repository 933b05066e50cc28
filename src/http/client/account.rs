//! `/account` (Client-Server API, "Account management"): who am I, password, deactivation. Mail
//! addresses are in `third_party_ids`.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    register::capitalize,
    third_party_ids::unbind_all,
    uia::{confirm_identity, confirm_unless_appservice, pass_flows, read_auth},
};
use crate::{
    accounts::{interactive_auth::Stage, manage::ManageError, validation::Purpose},
    http::{
        App, AppState,
        auth::{ClientAddress, UserOrGuestSession, UserSession},
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
    id_server: Option<String>,
}

/// `GET /account/whoami`.
pub async fn whoami(session: UserOrGuestSession) -> Json<WhoAmI> {
    Json(WhoAmI {
        user_id: session.user_id.to_string(),
        device_id: session.device().map(ToString::to_string),
        is_guest: session.is_guest,
    })
}

/// `POST /account/password`: by whoever is logged in, or by who forgot the password and proves the mail
/// address of the account.
pub async fn change_password(
    State(app): State<AppState>,
    session: Option<UserSession>,
    address: ClientAddress,
    JsonBody(body): JsonBody<Value>,
) -> MatrixResult<Json<Empty>> {
    let Some(session) = session else { return reset_password(&app, &address, &body).await };
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    let request: PasswordRequest = read_object(&body)?;
    app.accounts.check_new_password(&request.new_password)?;
    confirm_identity(&app, &session, "POST /account/password", &body).await?;
    let (user_id, logout) = (&session.user_id, request.logout_devices);
    let kept = Some(&*session.device_id);
    app.accounts.set_password(user_id, request.new_password, logout, kept).await?;
    Ok(Json(Empty {}))
}

/// `POST /account/deactivate`.
pub async fn deactivate(
    State(app): State<AppState>,
    session: UserSession,
    OptionalJsonBody(body): OptionalJsonBody<Value>,
) -> MatrixResult<Json<Value>> {
    let request: DeactivateRequest = read_object(&body)?;
    confirm_unless_appservice(&app, &session, "POST /account/deactivate", &body).await?;
    let result = unbind_all(&app, &session, request.id_server.as_deref()).await?;
    app.accounts.deactivate(&session.user_id, request.erase).await?;
    Ok(Json(json!({ "id_server_unbind_result": result })))
}

/// Reads a body whose `auth` is needed as well.
pub fn read_object<T: serde::de::DeserializeOwned>(body: &Value) -> MatrixResult<T> {
    if !body.is_object() {
        return Err(MatrixError::bad_json("The body is not an object."));
    }
    serde_json::from_value(body.clone())
        .map_err(|error| MatrixError::bad_json(format!("The body is not as expected: {error}.")))
}

/// A new password for who has proven the mail address of an account.
async fn reset_password(
    app: &App,
    address: &ClientAddress,
    body: &Value,
) -> MatrixResult<Json<Empty>> {
    // Without mails nobody can prove anything.
    if !app.mailer.is_configured() {
        return Err(MatrixError::missing_token("This request needs an access token."));
    }
    let request: PasswordRequest = read_object(body)?;
    app.rate_limits.take_of_address(Action::Login, address.0, app.clock.now_ms())?;
    app.accounts.check_new_password(&request.new_password)?;
    let flows = vec![vec![Stage::Email(Purpose::ResetPassword)]];
    let proof = pass_flows(app, "POST /account/password", flows, read_auth(body)?).await?;
    let Some(proven) = proof.address else {
        return Err(MatrixError::internal("A stage was passed without its proof."));
    };
    let logout = request.logout_devices;
    app.accounts.reset_password(proven, request.new_password, logout).await?;
    Ok(Json(Empty {}))
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
