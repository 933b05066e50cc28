//! Other servers: a request signed with `X-Matrix` becomes the name of the server that signed it
//! (Server-Server API, "Request Authentication").

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Request},
    http::{Method, StatusCode, header::AUTHORIZATION, request::Parts},
};
use bytes::Bytes;
use ruma::OwnedServerName;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::{
    federation::{ArrivedRequest, AuthenticateError},
    http::{
        error::{MatrixError, MatrixResult},
        json::{parse_json, read_body},
        state::{App, AppState},
    },
    protocol::canonical_json,
};

/// The largest body of another server: 50 events and 100 EDUs, each of 64 KiB, and room to spare.
const BODY_BYTES_MAX: usize = 12 << 20;

/// The server that sent a request without a body.
#[derive(Clone, Debug)]
pub struct SignedOrigin(pub OwnedServerName);

/// The server that sent a request, and its body.
#[derive(Clone, Debug)]
pub struct SignedBody<T>(pub OwnedServerName, pub T);

/// The server that sent a request, and its body as text: a JSON object.
#[derive(Clone, Debug)]
pub struct SignedText(pub OwnedServerName, pub String);

impl FromRequestParts<AppState> for SignedOrigin {
    type Rejection = MatrixError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> MatrixResult<Self> {
        authenticate(parts, app, None).await.map(Self)
    }
}

impl<T: DeserializeOwned> FromRequest<AppState> for SignedBody<T> {
    type Rejection = MatrixError;

    async fn from_request(request: Request, app: &AppState) -> MatrixResult<Self> {
        let (origin, bytes) = read_signed(request, app).await?;
        Ok(Self(origin, parse_json(&bytes)?))
    }
}

impl FromRequest<AppState> for SignedText {
    type Rejection = MatrixError;

    async fn from_request(request: Request, app: &AppState) -> MatrixResult<Self> {
        let (origin, bytes) = read_signed(request, app).await?;
        let text = String::from_utf8(bytes.into());
        text.map(|text| Self(origin, text))
            .map_err(|_| MatrixError::not_json("The body is not valid UTF-8."))
    }
}

impl From<AuthenticateError> for MatrixError {
    fn from(error: AuthenticateError) -> Self {
        match error {
            AuthenticateError::Storage(error) => error.into(),
            error => {
                let message = format!("This request cannot be authenticated: {error}.");
                let status = axum::http::StatusCode::UNAUTHORIZED;
                Self::new(status, "M_UNAUTHORIZED", message)
            }
        }
    }
}

async fn read_signed(request: Request, app: &AppState) -> MatrixResult<(OwnedServerName, Bytes)> {
    let (parts, body) = request.into_parts();
    // A stranger's body is not read before there is at least a header to check.
    if !parts.headers.contains_key(AUTHORIZATION) {
        return Err(AuthenticateError::Missing.into());
    }
    let bytes = read_body(Body::new(body), BODY_BYTES_MAX).await?;
    if bytes.is_empty() && parts.method == Method::GET {
        let origin = authenticate(&parts, app, None).await?;
        return Ok((origin, bytes));
    }
    if let Some(origin) = authenticate_as_sent(&parts, app, &bytes).await? {
        return Ok((origin, bytes));
    }
    let value: Value = parse_json(&bytes)?;
    if !value.is_object() {
        return Err(MatrixError::bad_json("The body must be a JSON object."));
    }
    let content = canonical_json::encode(&value);
    let origin = authenticate(&parts, app, Some(&content)).await?;
    Ok((origin, bytes))
}

/// Most servers send the canonical JSON that they have signed: where the signature is one of the bytes
/// themselves, there is no need to make it anew. None says nothing.
async fn authenticate_as_sent(
    parts: &Parts,
    app: &App,
    bytes: &[u8],
) -> MatrixResult<Option<OwnedServerName>> {
    // One JSON object and nothing behind it, so that what is signed is the content and no other part.
    let Ok(content) = std::str::from_utf8(bytes) else { return Ok(None) };
    let is_object = content.starts_with('{') && serde_json::from_str::<IgnoredAny>(content).is_ok();
    if !is_object {
        return Ok(None);
    }
    match authenticate(parts, app, Some(content)).await {
        Ok(origin) => Ok(Some(origin)),
        Err(error) if error.status == StatusCode::UNAUTHORIZED => Ok(None),
        Err(error) => Err(error),
    }
}

async fn authenticate(
    parts: &Parts,
    app: &App,
    content: Option<&str>,
) -> MatrixResult<OwnedServerName> {
    if !app.federation.is_enabled() {
        return Err(MatrixError::forbidden("This server does not talk with other servers."));
    }
    let headers = parts.headers.get_all(AUTHORIZATION).iter();
    let headers = headers.filter_map(|value| value.to_str().ok());
    let uri = parts.uri.path_and_query().map_or("/", |uri| uri.as_str());
    let request = ArrivedRequest { method: parts.method.as_str(), uri, content };
    Ok(app.federation.authenticate(headers, request).await?)
}
