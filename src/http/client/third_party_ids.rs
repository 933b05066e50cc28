//! `/account/3pid` and the `…/requestToken` before it (client-server API, "Adding Account
//! Administrative Contact Information"): mail addresses of accounts, and what is published of them at
//! identity servers.

use axum::{extract::State, http::StatusCode};
use ruma::UserId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{account::read_object, register::capitalize, uia::confirm_identity};
use crate::{
    accounts::{
        third_party_ids::{Binding, ResetPasswordError, ThirdPartyId},
        validation::{
            EMAIL, Purpose, ValidationCredentials, ValidationError, ValidationRequest,
            canonical_address,
        },
    },
    federation::{IdentityAccess, IdentityError},
    http::{
        App, AppState,
        auth::{ClientAddress, UserSession},
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody},
        rate_limit::Action,
    },
};

/// The body of `…/email/requestToken`. An identity server is not asked: "This parameter is ignored when
/// the homeserver handles 3PID verification."
#[derive(Debug, Deserialize)]
pub struct EmailTokenBody {
    client_secret: String,
    email: String,
    send_attempt: i64,
    next_link: Option<String>,
}

/// The body of `POST /account/3pid`.
#[derive(Debug, Deserialize)]
pub struct OldAddBody {
    #[serde(alias = "threePidCreds")]
    three_pid_creds: OldCredentials,
}

#[derive(Debug, Deserialize)]
struct OldCredentials {
    #[serde(flatten)]
    proof: ValidationCredentials,
    id_server: Option<String>,
    id_access_token: Option<String>,
}

/// The body of `POST /account/3pid/bind`.
#[derive(Debug, Deserialize)]
pub struct BindBody {
    #[serde(flatten)]
    proof: ValidationCredentials,
    #[serde(flatten)]
    access: IdentityAccess,
}

/// The body of `POST /account/3pid/delete` and `/unbind`.
#[derive(Debug, Deserialize)]
pub struct RemoveBody {
    id_server: Option<String>,
    medium: String,
    address: String,
}

/// `POST /register/email/requestToken`.
pub async fn request_to_register(
    State(app): State<AppState>,
    address: ClientAddress,
    JsonBody(body): JsonBody<EmailTokenBody>,
) -> MatrixResult<Json<Value>> {
    request_token(&app, &address, body, Purpose::Register).await
}

/// `POST /account/3pid/email/requestToken`.
pub async fn request_to_add(
    State(app): State<AppState>,
    address: ClientAddress,
    JsonBody(body): JsonBody<EmailTokenBody>,
) -> MatrixResult<Json<Value>> {
    request_token(&app, &address, body, Purpose::Add).await
}

/// `POST /account/password/email/requestToken`.
pub async fn request_to_reset_password(
    State(app): State<AppState>,
    address: ClientAddress,
    JsonBody(body): JsonBody<EmailTokenBody>,
) -> MatrixResult<Json<Value>> {
    request_token(&app, &address, body, Purpose::ResetPassword).await
}

/// `POST …/msisdn/requestToken`: this server sends no text messages.
pub async fn refuse_phone_number() -> MatrixError {
    medium_not_supported("This server does not take phone numbers.")
}

/// `GET /account/3pid`.
pub async fn list(State(app): State<AppState>, session: UserSession) -> MatrixResult<Json<Value>> {
    Ok(Json(json!({ "threepids": describe_all(&app, &session.user_id).await? })))
}

/// The identifiers of an account, as clients and administrators see them.
pub async fn describe_all(app: &App, user_id: &UserId) -> MatrixResult<Vec<Value>> {
    let ids = app.accounts.list_third_party_ids(user_id).await?;
    Ok(ids
        .into_iter()
        .map(|ThirdPartyId { medium, address, validated_ts, added_ts, .. }| {
            json!({
                "medium": medium,
                "address": address,
                "validated_at": validated_ts,
                "added_at": added_ts,
            })
        })
        .collect())
}

/// `POST /account/3pid/add`.
pub async fn add(
    State(app): State<AppState>,
    session: UserSession,
    JsonBody(body): JsonBody<Value>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    let proof: ValidationCredentials = read_object(&body)?;
    confirm_identity(&app, &session, "POST /account/3pid/add", &body).await?;
    app.accounts.add_proven_address(&session.user_id, &proof).await?;
    Ok(Json(Empty {}))
}

/// `POST /account/3pid`, which is deprecated: what was proven here is added, what was proven at an
/// identity server is bound there.
pub async fn add_or_bind(
    State(app): State<AppState>,
    session: UserSession,
    JsonBody(OldAddBody { three_pid_creds: given }): JsonBody<OldAddBody>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    match app.accounts.add_proven_address(&session.user_id, &given.proof).await {
        Err(ValidationError::UnknownSession) => {}
        added => return Ok(added.map(|()| Json(Empty {}))?),
    }
    let (Some(id_server), Some(id_access_token)) = (given.id_server, given.id_access_token) else {
        return Err(ValidationError::UnknownSession.into());
    };
    let access = IdentityAccess { id_server, id_access_token };
    bind_at(&app, &session, &given.proof, &access).await
}

/// `POST /account/3pid/bind`.
pub async fn bind(
    State(app): State<AppState>,
    session: UserSession,
    JsonBody(body): JsonBody<BindBody>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    bind_at(&app, &session, &body.proof, &body.access).await
}

/// `POST /account/3pid/delete`: from the account, and from identity servers if that can be done.
pub async fn delete(
    State(app): State<AppState>,
    session: UserSession,
    JsonBody(body): JsonBody<RemoveBody>,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    let (medium, address) = canonical(&body);
    let result = match unbind_everywhere(&app, &session, &body).await {
        Ok(result) => result,
        // The user has it removed here in any case; it "might not cause an unbind".
        Err(error) => {
            tracing::info!(reason = %error.message, "an identifier was not unbound");
            "no-support"
        }
    };
    app.accounts.remove_third_party_id(&session.user_id, (&medium, &address)).await?;
    Ok(Json(json!({ "id_server_unbind_result": result })))
}

/// `POST /account/3pid/unbind`: from identity servers only.
pub async fn unbind(
    State(app): State<AppState>,
    session: UserSession,
    JsonBody(body): JsonBody<RemoveBody>,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    let result = unbind_everywhere(&app, &session, &body).await?;
    Ok(Json(json!({ "id_server_unbind_result": result })))
}

/// Unbinds all that a user has published, before the account goes (`POST /account/deactivate`):
/// `success` or `no-support`.
pub async fn unbind_all(
    app: &App,
    session: &UserSession,
    id_server: Option<&str>,
) -> MatrixResult<&'static str> {
    let user_id = &session.user_id;
    let mut is_complete = true;
    for mut binding in app.accounts.list_bindings(user_id).await? {
        if let Some(id_server) = id_server {
            binding.id_server = id_server.to_owned();
        }
        let threepid = (binding.medium.as_str(), binding.address.as_str());
        let unbound = app.identity_servers.unbind(&binding.id_server, user_id, threepid).await;
        is_complete &= matches!(unbound, Ok(true));
    }
    Ok(if is_complete { "success" } else { "no-support" })
}

impl From<ValidationError> for MatrixError {
    fn from(error: ValidationError) -> Self {
        let message = capitalize(&error.to_string());
        let bad = |errcode, message| Self::new(StatusCode::BAD_REQUEST, errcode, message);
        match error {
            ValidationError::MailNotConfigured => medium_not_supported(message),
            ValidationError::InvalidAddress
            | ValidationError::InvalidSecret
            | ValidationError::InvalidNextLink => Self::invalid_param(message),
            ValidationError::InUse => bad("M_THREEPID_IN_USE", message),
            ValidationError::NotFound => bad("M_THREEPID_NOT_FOUND", message),
            ValidationError::MailNotSent(_) => Self::internal(message),
            ValidationError::UnknownSession
            | ValidationError::Expired
            | ValidationError::NotValidated => {
                Self::new(StatusCode::FORBIDDEN, "M_THREEPID_AUTH_FAILED", message)
            }
            ValidationError::WrongToken => bad("M_TOKEN_INCORRECT", message),
            ValidationError::Storage(error) => error.into(),
        }
    }
}

impl From<ResetPasswordError> for MatrixError {
    fn from(error: ResetPasswordError) -> Self {
        match error {
            ResetPasswordError::Proof(error) => error.into(),
            ResetPasswordError::Manage(error) => error.into(),
            ResetPasswordError::Storage(error) => error.into(),
        }
    }
}

/// "Homeservers should simply proxy any errors received by the identity server to the caller."
impl From<IdentityError> for MatrixError {
    fn from(error: IdentityError) -> Self {
        let message = capitalize(&error.to_string());
        match error {
            IdentityError::NotTrusted(_) => {
                Self::new(StatusCode::FORBIDDEN, "M_SERVER_NOT_TRUSTED", message)
            }
            IdentityError::Unreachable(_) => {
                Self::new(StatusCode::BAD_GATEWAY, "M_UNREACHABLE", message)
            }
            IdentityError::BadAnswer(_) => Self::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message),
            IdentityError::Refused { status, errcode, message } => {
                let known = IDENTITY_ERRORS.into_iter().find(|known| *known == errcode);
                Self::new(status, known.unwrap_or("M_UNKNOWN"), message)
            }
        }
    }
}

/// Identity service API, "General", and the errors of its operations.
const IDENTITY_ERRORS: [&str; 16] = [
    "M_EMAIL_SEND_ERROR",
    "M_FORBIDDEN",
    "M_INVALID_ADDRESS",
    "M_INVALID_EMAIL",
    "M_INVALID_PARAM",
    "M_INVALID_PEPPER",
    "M_LIMIT_EXCEEDED",
    "M_MISSING_PARAMS",
    "M_NOT_FOUND",
    "M_NO_VALID_SESSION",
    "M_SESSION_EXPIRED",
    "M_SESSION_NOT_VALIDATED",
    "M_TERMS_NOT_SIGNED",
    "M_THREEPID_IN_USE",
    "M_UNAUTHORIZED",
    "M_UNRECOGNIZED",
];

async fn request_token(
    app: &App,
    address: &ClientAddress,
    body: EmailTokenBody,
    purpose: Purpose,
) -> MatrixResult<Json<Value>> {
    let now_ms = app.clock.now_ms();
    app.rate_limits.take_of_address(Action::Mail, address.0, now_ms)?;
    // However many ask, nobody's mailbox shall be flooded.
    if let Some(mailbox) = canonical_address(&body.email) {
        app.rate_limits.take_of_mailbox(Action::Mail, mailbox, now_ms)?;
    }
    let EmailTokenBody { client_secret, email, send_attempt, next_link } = body;
    // "The server will only send an email if the `send_attempt` is a number greater than …": clients
    // begin at 0 or 1.
    let request =
        ValidationRequest { purpose, address: email, client_secret, send_attempt, next_link };
    let sid = app.accounts.request_validation(request).await?;
    Ok(Json(json!({ "sid": sid })))
}

fn medium_not_supported(message: impl Into<std::borrow::Cow<'static, str>>) -> MatrixError {
    MatrixError::new(StatusCode::BAD_REQUEST, "M_THREEPID_MEDIUM_NOT_SUPPORTED", message)
}

async fn bind_at(
    app: &App,
    session: &UserSession,
    proof: &ValidationCredentials,
    access: &IdentityAccess,
) -> MatrixResult<Json<Empty>> {
    let proof = (proof.sid.as_str(), proof.client_secret.as_str());
    let (medium, address) = app.identity_servers.bind(access, proof, &session.user_id).await?;
    let binding = Binding { medium, address, id_server: access.id_server.clone() };
    app.accounts.note_binding(&session.user_id, binding).await?;
    Ok(Json(Empty {}))
}

/// Unbinds at the identity server that is named, or at those where it was bound.
async fn unbind_everywhere(
    app: &App,
    session: &UserSession,
    body: &RemoveBody,
) -> MatrixResult<&'static str> {
    let (medium, address) = canonical(body);
    let servers = match &body.id_server {
        Some(id_server) => vec![id_server.clone()],
        None => {
            let bindings = app.accounts.list_bindings(&session.user_id).await?.into_iter();
            let of_this = bindings.filter(|b| b.medium == medium && b.address == address);
            of_this.map(|binding| binding.id_server).collect()
        }
    };
    let mut is_unbound = !servers.is_empty();
    for id_server in servers {
        let threepid = (medium.as_str(), address.as_str());
        if app.identity_servers.unbind(&id_server, &session.user_id, threepid).await? {
            let (medium, address) = (medium.clone(), address.clone());
            let binding = Binding { medium, address, id_server };
            app.accounts.forget_binding(&session.user_id, binding).await?;
        } else {
            is_unbound = false;
        }
    }
    Ok(if is_unbound { "success" } else { "no-support" })
}

fn canonical(body: &RemoveBody) -> (String, String) {
    let address = canonical_address(&body.address).filter(|_| body.medium == EMAIL);
    (body.medium.clone(), address.unwrap_or_else(|| body.address.clone()))
}
