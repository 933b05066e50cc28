//! User-interactive authentication in requests (Client-Server API, "User-interactive API in the
//! REST API"): takes `auth` out of a body, and answers 401 with the flows until it suffices.

use axum::http::StatusCode;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    accounts::{
        interactive_auth::{Attempt, AuthData, Challenge, InteractiveAuthError, Proof, Stage},
        sessions::Session,
    },
    http::{
        App,
        error::{MatrixError, MatrixResult},
        rate_limit::Action,
    },
};

/// Has a logged-in user prove again who they are, by password. `operation` is method and path; it
/// and the body (a JSON object, whose `auth` is used) must stay the same between the stages.
pub async fn confirm_identity(
    app: &App,
    session: &Session,
    operation: &str,
    body: &Value,
) -> MatrixResult<()> {
    let auth = read_auth(body)?;
    let now_ms = app.clock.now_ms();
    let user_id = &*session.user_id;
    if auth.as_ref().is_some_and(|auth| auth.password.is_some()) {
        app.rate_limits.check_of_user(Action::LoginFailure, user_id, now_ms)?;
    }
    let attempt = Attempt {
        operation: bind_body(operation, body),
        user_id: Some(user_id),
        flows: vec![vec![Stage::Password]],
        auth,
    };
    match app.accounts.authenticate_interactively(attempt).await {
        Ok(_) => Ok(()),
        Err(error) => {
            if let InteractiveAuthError::Challenge(Challenge { wrong_password: true, .. }) = error {
                app.rate_limits.take_of_user(Action::LoginFailure, user_id, now_ms)?;
            }
            Err(error.into())
        }
    }
}

/// As [`confirm_identity`], but application services need not prove anything: their users have no
/// passwords (application-service API, "Device management", "Cross-signing").
pub async fn confirm_unless_appservice(
    app: &App,
    session: &Session,
    operation: &str,
    body: &Value,
) -> MatrixResult<()> {
    match session.appservice {
        Some(_) => Ok(()),
        None => confirm_identity(app, session, operation, body).await,
    }
}

/// Has somebody who is not logged in pass one of the flows.
pub async fn pass_flows(
    app: &App,
    operation: &str,
    flows: Vec<Vec<Stage>>,
    auth: Option<AuthData>,
) -> MatrixResult<Proof> {
    let operation = operation.to_owned();
    let attempt = Attempt { operation, user_id: None, flows, auth };
    Ok(app.accounts.authenticate_interactively(attempt).await?)
}

/// The `auth` of a body.
pub fn read_auth(body: &Value) -> MatrixResult<Option<AuthData>> {
    match body.get("auth") {
        None | Some(Value::Null) => Ok(None),
        Some(auth) => serde_json::from_value(auth.clone())
            .map(Some)
            .map_err(|error| MatrixError::bad_json(format!("`auth` is not as expected: {error}."))),
    }
}

impl From<InteractiveAuthError> for MatrixError {
    fn from(error: InteractiveAuthError) -> Self {
        match error {
            InteractiveAuthError::Challenge(challenge) => {
                let (errcode, message) = challenge.error.unwrap_or_default();
                let answer = Self::new(StatusCode::UNAUTHORIZED, errcode, message);
                let Value::Object(fields) = challenge.to_json() else { return answer };
                fields
                    .into_iter()
                    .fold(answer, |answer, (name, value)| answer.with_field(&name, value))
            }
            InteractiveAuthError::OtherUser => {
                Self::forbidden("Only the user who is logged in can confirm this.")
            }
            InteractiveAuthError::OperationChanged => {
                Self::forbidden("The request has changed since this authentication began.")
            }
            InteractiveAuthError::Storage(error) => error.into(),
        }
    }
}

fn bind_body(operation: &str, body: &Value) -> String {
    let mut body = body.clone();
    if let Some(object) = body.as_object_mut() {
        object.remove("auth");
    }
    let hash = Sha256::digest(body.to_string().as_bytes());
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{operation} {digits}")
}
