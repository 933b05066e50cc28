//! Application services (application-service API, "Identity assertion"): their token becomes the
//! session of the user as whom they act.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};
use percent_encoding::percent_decode_str;
use ruma::{OwnedUserId, UserId};

use super::user_session::read_token;
use crate::{
    accounts::sessions::{AppserviceGrant, Session, hash_token},
    appservices::Service,
    http::{
        error::{MatrixError, MatrixResult},
        state::{App, AppState},
    },
};

/// A request by an application service itself, as whomever it acts.
#[derive(Clone, Debug)]
pub struct AppserviceSession(pub Arc<Service>);

impl FromRequestParts<AppState> for AppserviceSession {
    type Rejection = MatrixError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> MatrixResult<Self> {
        let token = read_token(parts)?.ok_or_else(missing_token)?;
        match find_service(app, &token) {
            Some(service) => Ok(Self(service)),
            None => {
                // Somebody else's token is no reason to log them out.
                let now_ms = app.clock.now_ms();
                app.accounts.sessions.authenticate(&token, None, now_ms).await?;
                let message = "This is not the token of an application service.";
                Err(MatrixError::forbidden(message))
            }
        }
    }
}

/// Whose token a request bears, for those endpoints that ask for it by their body
/// (`m.login.application_service`).
pub struct MaybeAppservice(MatrixResult<Arc<Service>>);

impl MaybeAppservice {
    /// The service; 401 as for users' tokens when there is none.
    pub fn require(self) -> MatrixResult<Arc<Service>> {
        self.0
    }
}

impl FromRequestParts<AppState> for MaybeAppservice {
    type Rejection = MatrixError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> MatrixResult<Self> {
        let found = read_token(parts).and_then(|token| {
            let token = token.ok_or_else(missing_token)?;
            let unknown = || MatrixError::unknown_token("No application service has this token.");
            find_service(app, &token).ok_or_else(unknown)
        });
        Ok(Self(found))
    }
}

/// The service that has a token.
pub fn find_service(app: &App, token: &str) -> Option<Arc<Service>> {
    let services = app.appservices.services();
    match services.is_empty() {
        true => None,
        false => services.find_by_token(&hash_token(token)).cloned(),
    }
}

/// The session of a service as the user that the query names, or else as its sender.
pub async fn assume(app: &App, parts: &Parts, service: &Service) -> MatrixResult<Arc<Session>> {
    let user_id: OwnedUserId = match query_value(parts, &["user_id"]) {
        Some(user_id) => UserId::parse(user_id)
            .map_err(|_| MatrixError::invalid_param("`user_id` is not a user ID."))?,
        None => service.sender.clone(),
    };
    if !service.covers_user(&user_id) {
        let message = "This user is outside of the application service's namespaces.";
        return Err(MatrixError::forbidden(message));
    }
    // The second name is from before its specification (MSC3202).
    let device_id = query_value(parts, &["device_id", "org.matrix.msc3202.device_id"]);
    let grant = AppserviceGrant {
        id: service.id.as_str().into(),
        token_hash: service.as_token_hash,
        is_rate_limited: service.is_rate_limited && user_id != service.sender,
    };
    Ok(app.accounts.sessions.assume(&user_id, device_id.as_deref(), grant).await?)
}

/// 400 for what takes a device, when an application service names none.
pub fn require_device(session: &Session) -> MatrixResult<()> {
    match session.device() {
        Some(_) => Ok(()),
        None => Err(MatrixError::missing_param("This needs a `device_id`.")),
    }
}

/// The answer when a service names a device that the user does not have.
pub fn unknown_device() -> MatrixError {
    let message = "The user has no such device.";
    MatrixError::new(StatusCode::BAD_REQUEST, "M_UNKNOWN_DEVICE", message)
}

fn missing_token() -> MatrixError {
    MatrixError::missing_token("This request needs the token of an application service.")
}

fn query_value(parts: &Parts, names: &[&str]) -> Option<String> {
    let pairs = parts.uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    let found = pairs.filter(|(name, _)| names.contains(name)).map(|(_, value)| value).next()?;
    let spaced = found.replace('+', " ");
    Some(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}
