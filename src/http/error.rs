//! The standard error response of the Matrix APIs (Client-Server API, "Standard error response"):
//! what every handler answers when it does not answer with success. Each module's error enums are
//! turned into it beside the handlers that meet them.

use std::borrow::Cow;

use axum::{
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value};

use super::json::Json;
use crate::storage::StorageError;

/// A status, an error code and a sentence for people, with further fields where a code defines them.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixError {
    pub status: StatusCode,
    /// Empty only in the 401 answers of user-interactive authentication, which need none.
    pub errcode: &'static str,
    pub message: Cow<'static, str>,
    /// Further fields of the answer, such as `soft_logout` or `room_version`.
    fields: Option<Box<Map<String, Value>>>,
    retry_after_ms: Option<u64>,
}

/// What handlers return.
pub type MatrixResult<T> = Result<T, MatrixError>;

/// A constructor per common code: its name, status and code.
macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident($status:ident, $errcode:literal);)*) => {
        $($(#[$doc])*
        pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
            Self::new(StatusCode::$status, $errcode, message)
        })*
    };
}

impl MatrixError {
    pub fn new(
        status: StatusCode,
        errcode: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, errcode, message: message.into(), fields: None, retry_after_ms: None }
    }

    constructors! {
        /// 400: the body is no JSON.
        not_json(BAD_REQUEST, "M_NOT_JSON");
        /// 400: the body is JSON of the wrong shape.
        bad_json(BAD_REQUEST, "M_BAD_JSON");
        /// 400: a parameter of the path or query has a wrong value.
        invalid_param(BAD_REQUEST, "M_INVALID_PARAM");
        /// 400: a required parameter is missing.
        missing_param(BAD_REQUEST, "M_MISSING_PARAM");
        /// 400: a name that no user can have.
        invalid_username(BAD_REQUEST, "M_INVALID_USERNAME");
        /// 400: a name that somebody has.
        user_in_use(BAD_REQUEST, "M_USER_IN_USE");
        /// 400: reserved by an application service.
        exclusive(BAD_REQUEST, "M_EXCLUSIVE");
        /// 400: what is wrong with the request has no code of its own.
        bad_request(BAD_REQUEST, "M_UNKNOWN");
        /// 400: a signature is missing or wrong.
        invalid_signature(BAD_REQUEST, "M_INVALID_SIGNATURE");
        /// 401: no access token.
        missing_token(UNAUTHORIZED, "M_MISSING_TOKEN");
        /// 401: an access or refresh token that is not valid; see also [`Self::with_soft_logout`].
        unknown_token(UNAUTHORIZED, "M_UNKNOWN_TOKEN");
        /// 403.
        forbidden(FORBIDDEN, "M_FORBIDDEN");
        /// 403: not for guests.
        guest_access_forbidden(FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN");
        /// 403: the account exists no more.
        user_deactivated(FORBIDDEN, "M_USER_DEACTIVATED");
        /// 403: not while suspended.
        user_suspended(FORBIDDEN, "M_USER_SUSPENDED");
        /// 404: nothing has this name.
        not_found(NOT_FOUND, "M_NOT_FOUND");
        /// 404: no such endpoint.
        unrecognized(NOT_FOUND, "M_UNRECOGNIZED");
        /// 405: the endpoint exists, the method does not.
        method_not_allowed(METHOD_NOT_ALLOWED, "M_UNRECOGNIZED");
        /// 413: the body is too large.
        too_large(PAYLOAD_TOO_LARGE, "M_TOO_LARGE");
        /// 500: a fault of this server. The cause belongs into the log, not into the answer.
        internal(INTERNAL_SERVER_ERROR, "M_UNKNOWN");
    }

    /// 429 with the time to wait, as field and as header (Client-Server API, "Rate limiting").
    pub fn limit_exceeded(retry_after_ms: u64) -> Self {
        let message = "Too many requests; wait a moment and try again.";
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED", message);
        error.retry_after_ms = Some(retry_after_ms);
        error.with_field("retry_after_ms", retry_after_ms)
    }

    /// 401 for a locked account (Client-Server API, "Account locking").
    pub fn user_locked() -> Self {
        let message = "This account has been locked.";
        Self::new(StatusCode::UNAUTHORIZED, "M_USER_LOCKED", message).with_soft_logout()
    }

    /// Tells the client to keep its keys and log in again (Client-Server API, "Soft logout").
    #[must_use]
    pub fn with_soft_logout(self) -> Self {
        self.with_field("soft_logout", true)
    }

    /// Adds a field to the answer.
    #[must_use]
    pub fn with_field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.get_or_insert_default().insert(name.to_owned(), value.into());
        self
    }

    /// The body of the answer.
    pub fn to_json(&self) -> Value {
        let mut body = self.fields.as_deref().cloned().unwrap_or_default();
        if !self.errcode.is_empty() {
            body.insert("errcode".to_owned(), self.errcode.into());
            body.insert("error".to_owned(), self.message.as_ref().into());
        }
        Value::Object(body)
    }
}

impl IntoResponse for MatrixError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.to_json())).into_response();
        if let Some(retry_after_ms) = self.retry_after_ms {
            let seconds = HeaderValue::from(retry_after_ms.div_ceil(1000));
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }
}

impl From<StorageError> for MatrixError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::NulInText => {
                Self::invalid_param("The character U+0000 is not allowed here.")
            }
            StorageError::Closed => {
                let message = "The server is shutting down.";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", message)
            }
            error => {
                tracing::error!(%error, "a request failed in the store");
                Self::internal("The server could not read or write its data.")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_carry_code_sentence_and_fields() {
        let body = MatrixError::unknown_token("Unknown.").with_soft_logout().to_json();
        let expect = serde_json::json!(
            { "errcode": "M_UNKNOWN_TOKEN", "error": "Unknown.", "soft_logout": true }
        );
        assert_eq!(body, expect);
    }

    #[test]
    fn limits_say_when_to_come_back() {
        let response = MatrixError::limit_exceeded(1500).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
    }
}
