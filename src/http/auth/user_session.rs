//! Logged-in users: an access token in the `Authorization` header or in the older `access_token`
//! query parameter becomes a [`Session`]. A warm one costs a hash and a look into memory.

use std::{borrow::Cow, ops::Deref, sync::Arc};

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::{header::AUTHORIZATION, request::Parts},
};
use percent_encoding::percent_decode_str;

use super::{
    ClientAddress,
    appservice_session::{assume, find_service, unknown_device},
};
use crate::{
    accounts::sessions::{AuthenticateError, Session},
    http::{
        error::{MatrixError, MatrixResult},
        state::AppState,
    },
};

macro_rules! session_extractors {
    ($($(#[$doc:meta])* $name:ident: $check:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name(pub Arc<Session>);

        impl Deref for $name {
            type Target = Session;

            fn deref(&self) -> &Session {
                &self.0
            }
        }

        impl FromRequestParts<AppState> for $name {
            type Rejection = MatrixError;

            async fn from_request_parts(parts: &mut Parts, app: &AppState) -> MatrixResult<Self> {
                let session = authenticate(parts, app).await?;
                let check: fn(&Session) -> MatrixResult<()> = $check;
                check(&session)?;
                Ok(Self(session))
            }
        }
    )*};
}

session_extractors! {
    /// A user, no guest: for most endpoints.
    UserSession: |session| refuse_locked(session).and_then(|()| refuse_guest(session));
    /// A user or a guest (Client-Server API, "Guest Access", lists where).
    UserOrGuestSession: refuse_locked;
    /// Whoever wants to log out: locked users may, and guests.
    LogoutSession: |_| Ok(());
    /// An administrator of this server.
    AdminSession: |session| refuse_locked(session).and_then(|()| require_admin(session));
}

/// A user, a guest or nobody: for endpoints that take a token but need none. A token that is not
/// valid is still an error.
#[derive(Clone, Debug)]
pub struct OptionalSession(pub Option<Arc<Session>>);

impl FromRequestParts<AppState> for OptionalSession {
    type Rejection = MatrixError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> MatrixResult<Self> {
        if !has_token(parts) {
            return Ok(Self(None));
        }
        let session = authenticate(parts, app).await?;
        refuse_locked(&session)?;
        Ok(Self(Some(session)))
    }
}

impl OptionalFromRequestParts<AppState> for UserSession {
    type Rejection = MatrixError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> MatrixResult<Option<Self>> {
        match has_token(parts) {
            true => <Self as FromRequestParts<_>>::from_request_parts(parts, app).await.map(Some),
            false => Ok(None),
        }
    }
}

/// 403 `M_USER_SUSPENDED` for what suspended users cannot do (Client-Server API, "Account
/// suspension"): joining, knocking, inviting, sending, changing profiles, redacting others' events.
pub fn refuse_suspended(session: &Session) -> MatrixResult<()> {
    match session.is_suspended {
        true => Err(MatrixError::user_suspended("You cannot do this while suspended.")),
        false => Ok(()),
    }
}

impl From<AuthenticateError> for MatrixError {
    fn from(error: AuthenticateError) -> Self {
        match error {
            AuthenticateError::UnknownToken => Self::unknown_token("The access token is unknown."),
            AuthenticateError::Expired => {
                Self::unknown_token("The access token has expired.").with_soft_logout()
            }
            AuthenticateError::UnknownUser => {
                Self::forbidden("The application service has not registered this user.")
            }
            AuthenticateError::UnknownDevice => unknown_device(),
            AuthenticateError::Storage(error) => error.into(),
        }
    }
}

async fn authenticate(parts: &Parts, app: &AppState) -> MatrixResult<Arc<Session>> {
    let Some(token) = read_token(parts)? else {
        return Err(MatrixError::missing_token("This request needs an access token."));
    };
    if let Some(service) = find_service(app, &token) {
        return assume(app, parts, &service).await;
    }
    let (address, now_ms) = (ClientAddress::of(parts).0, app.clock.now_ms());
    Ok(app.accounts.sessions.authenticate(&token, address, now_ms).await?)
}

/// The token of a request, of whatever kind.
pub fn read_token(parts: &Parts) -> MatrixResult<Option<Cow<'_, str>>> {
    if let Some(token) = header_token(parts)? {
        return Ok(Some(token.into()));
    }
    Ok(query_token(parts).map(|token| percent_decode_str(token).decode_utf8_lossy()))
}

fn has_token(parts: &Parts) -> bool {
    parts.headers.contains_key(AUTHORIZATION) || query_token(parts).is_some()
}

/// The token of `Authorization: Bearer …`; the scheme in any case (RFC 9110, section 11.1).
fn header_token(parts: &Parts) -> MatrixResult<Option<&str>> {
    let Some(value) = parts.headers.get(AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(MatrixError::missing_token("The Authorization header has no bearer token.")),
    }
}

fn query_token(parts: &Parts) -> Option<&str> {
    parts.uri.query()?.split('&').find_map(|pair| pair.strip_prefix("access_token="))
}

fn refuse_locked(session: &Session) -> MatrixResult<()> {
    if session.is_locked { Err(MatrixError::user_locked()) } else { Ok(()) }
}

fn refuse_guest(session: &Session) -> MatrixResult<()> {
    match session.is_guest {
        true => Err(MatrixError::guest_access_forbidden("Guests cannot do this.")),
        false => Ok(()),
    }
}

fn require_admin(session: &Session) -> MatrixResult<()> {
    match session.is_admin {
        true => Ok(()),
        false => Err(MatrixError::forbidden("Only administrators of this server can do this.")),
    }
}
