//! `/register` (Client-Server API, "Account registration"): new accounts and guests, which names
//! are free, which tokens are valid.

use axum::{extract::State, http::StatusCode};
use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::uia::{pass_flows, read_auth};
use crate::{
    accounts::{
        flags::AccountFlags,
        login::{DeviceRequest, NewSession},
        register::{NewAccount, RegisterError, Registered},
    },
    appservices::Service,
    config::RegistrationMode,
    http::{
        AppState,
        auth::{ClientAddress, MaybeAppservice},
        error::{MatrixError, MatrixResult},
        json::{Json, OptionalJsonBody, Query},
        rate_limit::Action,
    },
};

/// The type of registrations and logins by application services.
pub const APPSERVICE_TYPE: &str = "m.login.application_service";

#[derive(Debug, Deserialize)]
pub struct RegisterQuery {
    #[serde(default)]
    kind: Kind,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    User,
    Guest,
}

#[derive(Debug, Deserialize)]
struct RegisterRequest {
    /// Application services say here that they are one.
    #[serde(rename = "type")]
    kind: Option<String>,
    username: Option<String>,
    password: Option<String>,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
    /// The token of a guest who becomes a user (Client-Server API, "Guest Access").
    guest_access_token: Option<String>,
    #[serde(default)]
    inhibit_login: bool,
    #[serde(default)]
    refresh_token: bool,
}

/// The answer of registrations and logins.
#[derive(Debug, Serialize)]
pub struct SessionAnswer {
    user_id: String,
    home_server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub struct AvailableQuery {
    username: String,
}

#[derive(Debug, Deserialize)]
pub struct ValidityQuery {
    token: String,
}

/// `POST /register`.
pub async fn register(
    State(app): State<AppState>,
    address: ClientAddress,
    appservice: MaybeAppservice,
    Query(query): Query<RegisterQuery>,
    OptionalJsonBody(body): OptionalJsonBody<Value>,
) -> MatrixResult<Json<SessionAnswer>> {
    let request: RegisterRequest = serde_json::from_value(body.clone())
        .map_err(|error| MatrixError::bad_json(format!("The body is not as expected: {error}.")))?;
    if request.kind.as_deref() == Some(APPSERVICE_TYPE) {
        return register_for_appservice(&app, &*appservice.require()?, request).await;
    }
    let auth = read_auth(&body)?;
    if auth.is_some() || query.kind == Kind::Guest {
        let now_ms = app.clock.now_ms();
        app.rate_limits.take_of_address(Action::Registration, address.0, now_ms)?;
    }
    if query.kind == Kind::Guest {
        return register_guest(&app, request).await;
    }
    let flows = app.accounts.list_registration_flows().await?;
    let flows = flows.ok_or_else(|| MatrixError::forbidden("Registration is disabled."))?;
    // These are told before the authentication, so that nobody goes through it for nothing.
    let guest = find_guest(&app, &request).await?;
    if let (Some(name), None) = (&request.username, &guest) {
        app.accounts.check_name_is_free(name, None).await?;
    }
    if let Some(password) = &request.password {
        app.accounts.check_new_password(password)?;
    }
    let proof = pass_flows(&app, "POST /register", flows, auth).await?;
    if request.password.is_none() {
        return Err(MatrixError::missing_param("A password is needed."));
    }
    let device = DeviceRequest {
        device_id: request.device_id,
        display_name: request.initial_device_display_name,
        can_refresh: request.refresh_token,
        valid_until_ts: None,
    };
    let account = NewAccount {
        name: request.username,
        password: request.password,
        guest,
        registration_token: proof.registration_token,
        address: proof.address,
        // Every flow asks for it where there are any.
        has_accepted_terms: true,
        device: (!request.inhibit_login).then_some(device),
        ..NewAccount::default()
    };
    create(&app, account).await
}

/// `GET /register/available`.
pub async fn check_available(
    State(app): State<AppState>,
    address: ClientAddress,
    Query(query): Query<AvailableQuery>,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take_of_address(Action::Registration, address.0, app.clock.now_ms())?;
    app.accounts.check_name_is_free(&query.username, None).await?;
    Ok(Json(json!({ "available": true })))
}

/// `GET /v1/register/m.login.registration_token/validity`.
pub async fn check_token(
    State(app): State<AppState>,
    address: ClientAddress,
    Query(query): Query<ValidityQuery>,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take_of_address(Action::Registration, address.0, app.clock.now_ms())?;
    if app.config.registration.mode == RegistrationMode::Closed
        && app.accounts.list_registration_flows().await?.is_none()
    {
        return Err(MatrixError::forbidden("Registration is disabled."));
    }
    let valid = app.accounts.is_registration_token_valid(&query.token).await?;
    Ok(Json(json!({ "valid": valid })))
}

impl SessionAnswer {
    pub fn new(session: NewSession) -> Self {
        Self {
            home_server: session.user_id.server_name().to_string(),
            user_id: session.user_id.into(),
            access_token: Some(session.access_token),
            device_id: Some(session.device_id.into()),
            refresh_token: session.refresh_token,
            expires_in_ms: session.expires_in_ms,
        }
    }

    /// With a session or without.
    pub fn of(registered: Registered) -> Self {
        match registered.session {
            Some(session) => Self::new(session),
            None => Self {
                home_server: registered.user_id.server_name().to_string(),
                user_id: registered.user_id.into(),
                access_token: None,
                device_id: None,
                refresh_token: None,
                expires_in_ms: None,
            },
        }
    }
}

impl From<RegisterError> for MatrixError {
    fn from(error: RegisterError) -> Self {
        let message = capitalize(&error.to_string());
        match error {
            RegisterError::InvalidName | RegisterError::NameTooLong => {
                Self::invalid_username(message)
            }
            RegisterError::NameTaken => Self::user_in_use(message),
            RegisterError::Exclusive => Self::exclusive(message),
            RegisterError::WeakPassword(_) => {
                Self::new(StatusCode::BAD_REQUEST, "M_WEAK_PASSWORD", message)
            }
            RegisterError::InvalidToken => Self::forbidden(message),
            RegisterError::AddressInUse => {
                Self::new(StatusCode::BAD_REQUEST, "M_THREEPID_IN_USE", message)
            }
            RegisterError::ProofUsed => {
                Self::new(StatusCode::FORBIDDEN, "M_THREEPID_AUTH_FAILED", message)
            }
            RegisterError::InvalidDevice => Self::invalid_param(message),
            RegisterError::Storage(error) => error.into(),
        }
    }
}

/// Makes a sentence of an error's text.
pub fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(chars).chain(['.']).collect()
}

/// A user of an application service, without a password (application-service API, "Server admin style
/// permissions").
async fn register_for_appservice(
    app: &AppState,
    service: &Service,
    request: RegisterRequest,
) -> MatrixResult<Json<SessionAnswer>> {
    let Some(name) = request.username else {
        return Err(MatrixError::missing_param("`username` is missing."));
    };
    // The service will use the name as it wrote it.
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(RegisterError::InvalidName.into());
    }
    check_is_covered(service, &app.accounts.parse_new_name(&name)?)?;
    let device = DeviceRequest {
        device_id: request.device_id,
        display_name: request.initial_device_display_name,
        can_refresh: request.refresh_token,
        valid_until_ts: None,
    };
    let account = NewAccount {
        name: Some(name),
        appservice_id: Some(service.id.clone()),
        device: (!request.inhibit_login).then_some(device),
        ..NewAccount::default()
    };
    create(app, account).await
}

/// Refuses a service users outside of its namespaces.
pub fn check_is_covered(service: &Service, user_id: &UserId) -> MatrixResult<()> {
    match service.covers_user(user_id) {
        true => Ok(()),
        false => {
            let message = "This user is outside of the application service's namespaces.";
            Err(MatrixError::exclusive(message))
        }
    }
}

/// A guest: all but the device's name is ignored (Client-Server API, `POST /register`).
async fn register_guest(
    app: &AppState,
    request: RegisterRequest,
) -> MatrixResult<Json<SessionAnswer>> {
    if !app.config.registration.allow_guests {
        return Err(MatrixError::forbidden("Guests are not admitted here."));
    }
    let display_name = request.initial_device_display_name;
    let account = NewAccount {
        flags: AccountFlags::GUEST,
        device: Some(DeviceRequest { display_name, ..DeviceRequest::default() }),
        ..NewAccount::default()
    };
    create(app, account).await
}

/// The guest whom a registration names, who must keep their name.
async fn find_guest(
    app: &AppState,
    request: &RegisterRequest,
) -> MatrixResult<Option<OwnedUserId>> {
    let Some(token) = &request.guest_access_token else { return Ok(None) };
    let session = app.accounts.sessions.authenticate(token, None, app.clock.now_ms()).await?;
    let Some(name) = &request.username else {
        return Err(MatrixError::missing_param("`username` must be the guest's name."));
    };
    match session.is_guest && session.user_id.localpart() == name {
        true => Ok(Some(session.user_id.clone())),
        false => Err(MatrixError::forbidden("This is not the token of this guest.")),
    }
}

async fn create(app: &AppState, account: NewAccount) -> MatrixResult<Json<SessionAnswer>> {
    Ok(Json(SessionAnswer::of(app.accounts.register(account).await?)))
}
