//! Signed requests to other servers, and what comes back. Not for deciding whether and when to ask.

use std::{sync::Arc, time::Duration};

use hyper::{
    HeaderMap, Method, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ruma::{OwnedServerName, ServerName};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::request_signature::{Destination, SignedParts};
use crate::{
    outbound::{Answer, AnswerStream, Limits, Outbound, OutboundError},
    protocol::{canonical_json, signing::SigningKey},
    rooms::OwnKey,
};

/// For most requests.
pub const REQUEST_LIMITS: Limits =
    Limits { timeout: Duration::from_secs(30), body_bytes_max: 8 << 20 };
/// What may stand in a segment of a path as it is (RFC 3986, "unreserved", and what Matrix IDs
/// are made of that is allowed there).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Asks other servers in the name of this one. Clones share it.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    outbound: Outbound,
    server_name: OwnedServerName,
    own_key: OwnKey,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct PeerRequest {
    pub method: Method,
    /// With the query; made by [`path`].
    pub path: String,
    /// Canonical JSON.
    pub body: Option<String>,
    pub limits: Limits,
}

/// Why another server gave no answer that can be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PeerError {
    #[error("other servers are not talked with")]
    Disabled,
    #[error("this server does not ask itself")]
    Ourselves,
    #[error("{server} cannot be reached: {source}")]
    Unreachable { server: OwnedServerName, source: OutboundError },
    #[error("{server} refuses with {status} {errcode}: {message}")]
    Refused {
        server: OwnedServerName,
        status: StatusCode,
        errcode: String,
        message: String,
        body: Map<String, Value>,
    },
    #[error("{server} answers with something else than expected: {reason}")]
    BadAnswer { server: OwnedServerName, reason: String },
    #[error("{server} did not answer lately and is not asked for a while")]
    BackingOff { server: OwnedServerName },
}

impl PeerError {
    /// The status and `errcode` of a refusal.
    pub fn refusal(&self) -> Option<(StatusCode, &str)> {
        match self {
            Self::Refused { status, errcode, .. } => Some((*status, errcode)),
            _ => None,
        }
    }

    /// Whether the endpoint does not exist there: "a 404 `M_UNRECOGNIZED` error"; older servers
    /// answer with 400 or 405, or without a code.
    pub fn is_unrecognized(&self) -> bool {
        self.refusal().is_some_and(|(status, errcode)| {
            errcode == "M_UNRECOGNIZED" || (status == StatusCode::NOT_FOUND && errcode.is_empty())
        })
    }
}

impl PeerRequest {
    pub fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: None, limits: REQUEST_LIMITS }
    }

    pub fn put(path: String, body: &Value) -> Self {
        let body = Some(canonical_json::encode(body));
        Self { method: Method::PUT, path, body, limits: REQUEST_LIMITS }
    }

    pub fn post(path: String, body: &Value) -> Self {
        Self { method: Method::POST, ..Self::put(path, body) }
    }

    /// With other limits than usual.
    #[must_use]
    pub fn limited(self, timeout: Duration, body_bytes_max: usize) -> Self {
        Self { limits: Limits { timeout, body_bytes_max }, ..self }
    }
}

/// A path of segments, which are encoded, behind a prefix, which is not:
/// `path("/_matrix/federation/v1/event", ["$id"], &[])`.
pub fn path<const N: usize>(prefix: &str, segments: [&str; N], query: &[(&str, &str)]) -> String {
    let mut text = prefix.to_owned();
    for segment in segments {
        text.push('/');
        text.extend(utf8_percent_encode(segment, SEGMENT));
    }
    for (number, (name, value)) in query.iter().enumerate() {
        text.push(if number > 0 { '&' } else { '?' });
        text.extend(utf8_percent_encode(name, SEGMENT));
        text.push('=');
        text.extend(utf8_percent_encode(value, SEGMENT));
    }
    text
}

impl Peers {
    pub fn new(outbound: Outbound, server_name: OwnedServerName, own_key: OwnKey) -> Self {
        Self(Arc::new(Inner { outbound, server_name, own_key }))
    }

    pub fn outbound(&self) -> &Outbound {
        &self.0.outbound
    }

    pub fn server_name(&self) -> &ServerName {
        &self.0.server_name
    }

    pub fn own_key(&self) -> &OwnKey {
        &self.0.own_key
    }

    /// The key to sign with.
    pub fn signing_key(&self) -> Arc<SigningKey> {
        self.0.own_key.current()
    }

    /// Asks, and reads the answer, which must be a success.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        server: &ServerName,
        request: PeerRequest,
    ) -> Result<T, PeerError> {
        let body = self.ask_raw(server, request).await?.body;
        serde_json::from_slice(&body).map_err(|error| PeerError::BadAnswer {
            server: server.to_owned(),
            reason: error.to_string(),
        })
    }

    /// Asks; the answer must be a success.
    pub async fn ask_raw(
        &self,
        server: &ServerName,
        request: PeerRequest,
    ) -> Result<Answer, PeerError> {
        let headers = self.sign(server, &request)?;
        let PeerRequest { method, path, body, limits } = request;
        let body = body.map(Into::into);
        let outbound = &self.0.outbound;
        let answer = outbound.request_server(server, (method, &path), headers, body, limits).await;
        let answer = answer.map_err(|source| unreachable(server, source))?;
        check_status(server, answer)
    }

    /// Asks; the body of the answer is still to come. The caller bounds the time.
    pub async fn open(
        &self,
        server: &ServerName,
        request: PeerRequest,
    ) -> Result<AnswerStream, PeerError> {
        let headers = self.sign(server, &request)?;
        let PeerRequest { method, path, body, .. } = request;
        let body = body.map(Into::into);
        let outbound = &self.0.outbound;
        let answer = outbound.open_server(server, (method, &path), headers, body).await;
        let answer = answer.map_err(|source| unreachable(server, source))?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        let answer = answer.read(REQUEST_LIMITS.body_bytes_max).await;
        check_status(server, answer.map_err(|source| unreachable(server, source))?)?;
        Err(PeerError::BadAnswer { server: server.to_owned(), reason: "no success".to_owned() })
    }

    fn sign(&self, server: &ServerName, request: &PeerRequest) -> Result<HeaderMap, PeerError> {
        if server == self.0.server_name {
            return Err(PeerError::Ourselves);
        }
        let parts = SignedParts {
            method: request.method.as_str(),
            uri: &request.path,
            origin: self.0.server_name.as_str(),
            destination: Destination::Named(server.as_str()),
            content: request.body.as_deref(),
        };
        let header = HeaderValue::try_from(parts.sign(&self.signing_key()));
        let header = header.map_err(|error| PeerError::BadAnswer {
            server: server.to_owned(),
            reason: error.to_string(),
        })?;
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, header);
        let agent = concat!("Hearth/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        if request.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok(headers)
    }
}

fn unreachable(server: &ServerName, source: OutboundError) -> PeerError {
    PeerError::Unreachable { server: server.to_owned(), source }
}

fn check_status(server: &ServerName, answer: Answer) -> Result<Answer, PeerError> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    let body: Map<String, Value> = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Err(PeerError::Refused {
        server: server.to_owned(),
        status: answer.status,
        errcode: text("errcode"),
        message: text("error"),
        body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded() {
        let text = path("/p", ["!a:b", "$x/y+z"], &[("ver", "1"), ("a", "#r:s&t")]);
        assert_eq!(text, "/p/%21a%3Ab/%24x%2Fy%2Bz?ver=1&a=%23r%3As%26t");
    }
}
