//! `/login` and `/refresh` (Client-Server API, "Login", "Refreshing access tokens"), and login
//! tokens for a user's further devices.

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    register::{APPSERVICE_TYPE, SessionAnswer, capitalize, check_is_covered},
    uia::confirm_identity,
};
use crate::{
    accounts::login::{DeviceRequest, LoginError, RefreshError, UserIdentifier},
    http::{
        App, AppState,
        auth::{ClientAddress, MaybeAppservice, UserSession},
        error::{MatrixError, MatrixResult},
        json::{Json, JsonBody, OptionalJsonBody},
        rate_limit::Action,
    },
};

#[derive(Debug, Deserialize)]
pub struct LoginRequest {
    #[serde(rename = "type")]
    kind: String,
    identifier: Option<UserIdentifier>,
    /// Older clients give the user here.
    user: Option<String>,
    /// Older clients give a third-party identifier here.
    medium: Option<String>,
    address: Option<String>,
    password: Option<String>,
    token: Option<String>,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    refresh_token: bool,
}

#[derive(Debug, Deserialize)]
pub struct RefreshRequest {
    refresh_token: String,
}

#[derive(Debug, Serialize)]
pub struct RefreshAnswer {
    access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_ms: Option<u64>,
}

/// `GET /login`.
pub async fn list_flows() -> Json<Value> {
    Json(json!({
        "flows": [
            { "type": "m.login.password" },
            { "type": "m.login.token", "get_login_token": true },
            { "type": APPSERVICE_TYPE },
        ],
    }))
}

/// `POST /login`.
pub async fn log_in(
    State(app): State<AppState>,
    address: ClientAddress,
    appservice: MaybeAppservice,
    JsonBody(request): JsonBody<LoginRequest>,
) -> MatrixResult<Json<SessionAnswer>> {
    if request.kind != APPSERVICE_TYPE {
        app.rate_limits.take_of_address(Action::Login, address.0, app.clock.now_ms())?;
    }
    let user_id = match &*request.kind {
        "m.login.password" => verify_password(&app, &request).await?,
        "m.login.token" => {
            let token = request.token.as_deref();
            let token = token.ok_or_else(|| MatrixError::missing_param("`token` is missing."))?;
            app.accounts.take_login_token(token).await?
        }
        APPSERVICE_TYPE => {
            let service = appservice.require()?;
            let user_id = find_user_id(&app, &request).await?;
            let user_id = user_id.ok_or(LoginError::WrongCredentials)?;
            check_is_covered(&service, &user_id)?;
            user_id
        }
        _ => return Err(MatrixError::bad_request("This login type is unknown here.")),
    };
    let device = DeviceRequest {
        device_id: request.device_id,
        display_name: request.initial_device_display_name,
        can_refresh: request.refresh_token,
        valid_until_ts: None,
    };
    match app.accounts.begin_session(&user_id, device).await {
        Ok(session) => Ok(Json(SessionAnswer::new(session))),
        Err(LoginError::TooManyDevices) => Err(too_many_devices(&app)),
        Err(error) => Err(error.into()),
    }
}

/// `POST /refresh`.
pub async fn refresh(
    State(app): State<AppState>,
    address: ClientAddress,
    JsonBody(request): JsonBody<RefreshRequest>,
) -> MatrixResult<Json<RefreshAnswer>> {
    app.rate_limits.take_of_address(Action::Login, address.0, app.clock.now_ms())?;
    let session = app.accounts.refresh_session(&request.refresh_token).await?;
    Ok(Json(RefreshAnswer {
        access_token: session.access_token,
        refresh_token: session.refresh_token,
        expires_in_ms: session.expires_in_ms,
    }))
}

/// `POST /v1/login/get_token`.
pub async fn create_login_token(
    State(app): State<AppState>,
    session: UserSession,
    OptionalJsonBody(body): OptionalJsonBody<Value>,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    confirm_identity(&app, &session, "POST /login/get_token", &body).await?;
    let (token, lifetime_ms) = app.accounts.create_login_token(&session.user_id).await?;
    Ok(Json(json!({ "login_token": token, "expires_in_ms": lifetime_ms })))
}

impl From<LoginError> for MatrixError {
    fn from(error: LoginError) -> Self {
        let message = capitalize(&error.to_string());
        match error {
            LoginError::WrongCredentials | LoginError::TooManyDevices => Self::forbidden(message),
            LoginError::Deactivated => Self::user_deactivated(message),
            LoginError::Locked => Self::user_locked(),
            LoginError::InvalidDevice => Self::invalid_param(message),
            LoginError::Storage(error) => error.into(),
        }
    }
}

impl From<RefreshError> for MatrixError {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::UnknownToken => Self::unknown_token("The refresh token is unknown."),
            RefreshError::Expired => {
                Self::unknown_token("The refresh token has expired.").with_soft_logout()
            }
            RefreshError::Locked => Self::user_locked(),
            RefreshError::Storage(error) => error.into(),
        }
    }
}

async fn verify_password(app: &App, request: &LoginRequest) -> MatrixResult<ruma::OwnedUserId> {
    let user_id = find_user_id(app, request).await?;
    let Some(password) = request.password.clone() else {
        return Err(MatrixError::missing_param("`password` is missing."));
    };
    let now_ms = app.clock.now_ms();
    if let Some(user_id) = &user_id {
        app.rate_limits.check_of_user(Action::LoginFailure, user_id, now_ms)?;
    }
    let verified = app.accounts.verify_login(user_id.as_deref(), password).await;
    if let (Err(LoginError::WrongCredentials), Some(user_id)) = (&verified, &user_id) {
        app.rate_limits.take_of_user(Action::LoginFailure, user_id, now_ms)?;
    }
    Ok(verified?)
}

/// Whom a request names; None when it is nobody.
async fn find_user_id(
    app: &App,
    request: &LoginRequest,
) -> MatrixResult<Option<ruma::OwnedUserId>> {
    match (&request.identifier, &request.user) {
        (Some(UserIdentifier::Unknown), _) => {
            Err(MatrixError::bad_request("This type of identifier is unknown here."))
        }
        (Some(identifier), _) => Ok(app.accounts.resolve_identifier(identifier).await?),
        (None, Some(user)) => Ok(app.accounts.resolve_user(user)),
        (None, None) => {
            let (Some(medium), Some(address)) = (&request.medium, &request.address) else {
                return Err(MatrixError::missing_param("`identifier` is missing."));
            };
            let (medium, address) = (medium.clone(), address.clone());
            let identifier = UserIdentifier::ThirdParty { medium, address };
            Ok(app.accounts.resolve_identifier(&identifier).await?)
        }
    }
}

/// `M_USER_LIMIT_EXCEEDED` names a page about the limit.
fn too_many_devices(app: &App) -> MatrixError {
    let message = "This account has as many devices as it may have; delete some.";
    MatrixError::new(StatusCode::FORBIDDEN, "M_USER_LIMIT_EXCEEDED", message)
        .with_field("info_uri", app.config.public_url())
}
