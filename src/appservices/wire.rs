//! Requests to application services: who we are, which of the two paths a service knows, and answers
//! bounded in time and size. Addresses are the administrator's own, so that private ones are as good
//! as any.

use std::{collections::HashMap, error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::registration::Service;
use crate::{clock::Clock, outbound::DirectConnector};

/// The largest answer, bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Connections that stay open to one service without a request, and for how long.
const IDLE_CONNECTIONS_MAX: usize = 2;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// After this time a service that knew the older paths only is asked by the newer ones again
/// ("Legacy routes").
const LEGACY_KEPT_MS: u64 = 60 * 60 * 1000;
/// What needs no escaping in a part of a path.
const UNRESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why there is no good answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the service has no address")]
    NoUrl,
    #[error("the service cannot be reached: {0}")]
    Connection(String),
    #[error("the service did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("the service answered {status}")]
    Status { status: StatusCode, body: String },
}

/// A path of the application-service API, with the one that came before it.
#[derive(Clone, Debug)]
pub struct Path {
    current: String,
    legacy: Option<String>,
}

/// The HTTP client. Clones share its connections.
#[derive(Clone)]
pub struct Wire(Arc<Inner>);

struct Inner {
    clock: Clock,
    client: Client<DirectConnector, Full<Bytes>>,
    /// Services that knew the older paths only, and when that was found.
    legacy: Mutex<HashMap<String, u64>>,
}

impl Path {
    /// `/_matrix/app/v1/{noun}/{part}`, before it `{legacy}/{noun}/{part}`.
    fn of(noun: &str, part: &str, legacy: Option<&str>) -> Self {
        let part = match part {
            "" => String::new(),
            part => format!("/{}", escape(part)),
        };
        Self {
            current: format!("/_matrix/app/v1/{noun}{part}"),
            legacy: legacy.map(|legacy| format!("{legacy}/{noun}{part}")),
        }
    }

    pub fn transaction(number: i64) -> Self {
        Self::of("transactions", &number.to_string(), Some(""))
    }

    pub fn user(user_id: &str) -> Self {
        Self::of("users", user_id, Some(""))
    }

    pub fn room(alias: &str) -> Self {
        Self::of("rooms", alias, Some(""))
    }

    pub fn ping() -> Self {
        Self::of("ping", "", None)
    }

    /// `kind` is `protocol`, `user` or `location`; `query` are pairs.
    pub fn third_party(kind: &str, protocol: Option<&str>, query: &[(String, String)]) -> Self {
        let noun = format!("thirdparty/{kind}");
        let path = Self::of(&noun, protocol.unwrap_or(""), Some("/_matrix/app/unstable"));
        let pairs = query.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value)));
        let query = pairs.collect::<Vec<_>>().join("&");
        let add = |path: String| if query.is_empty() { path } else { format!("{path}?{query}") };
        Self { current: add(path.current), legacy: path.legacy.map(add) }
    }
}

impl Wire {
    pub fn new(clock: Clock) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(DirectConnector::default());
        Self(Arc::new(Inner { clock, client, legacy: Mutex::default() }))
    }

    /// Makes a request; the body of a good answer. A service that does not know the path is asked
    /// by the older one.
    pub async fn request(
        &self,
        service: &Service,
        method: Method,
        path: &Path,
        body: Option<Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, WireError> {
        let url = service.url.as_deref().ok_or(WireError::NoUrl)?;
        let send = |path: &str| {
            let request = build(service, &method, &format!("{url}{path}"), body.clone());
            async move { bound(timeout, self.send(request?)).await }
        };
        let legacy = path.legacy.as_deref();
        if let Some(legacy) = legacy.filter(|_| self.is_legacy(service)) {
            return send(legacy).await;
        }
        let answer = send(&path.current).await;
        let Some(legacy) = legacy.filter(|_| answer.as_ref().is_err_and(is_unknown_path)) else {
            return answer;
        };
        match send(legacy).await {
            Ok(body) => {
                self.0.legacy.lock().insert(service.id.clone(), self.0.clock.now_ms());
                Ok(body)
            }
            // What the current path said counts.
            Err(_) => answer,
        }
    }

    fn is_legacy(&self, service: &Service) -> bool {
        let mut legacy = self.0.legacy.lock();
        let Some(found_ms) = legacy.get(&service.id) else { return false };
        let is_recent = self.0.clock.now_ms() < found_ms.saturating_add(LEGACY_KEPT_MS);
        if !is_recent {
            legacy.remove(&service.id);
        }
        is_recent
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Bytes, WireError> {
        let answer = self.0.client.request(request).await;
        let answer = answer.map_err(|error| WireError::Connection(explain(&error)))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| WireError::Connection(error.to_string()))?.to_bytes();
        match status.is_success() {
            true => Ok(body),
            false => {
                let body = String::from_utf8_lossy(&body).into_owned();
                Err(WireError::Status { status, body })
            }
        }
    }
}

/// Whether the answer says that there is no such endpoint. Other failures are not taken for it, since
/// a service that fails now and then would get everything twice.
fn is_unknown_path(error: &WireError) -> bool {
    let unknown =
        [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED];
    let WireError::Status { status, body } = error else { return false };
    let errcode = serde_json::from_str::<serde_json::Value>(body).ok();
    let errcode = errcode.as_ref().and_then(|body| body["errcode"].as_str());
    unknown.contains(status) && errcode.is_none_or(|errcode| errcode == "M_UNRECOGNIZED")
}

fn build(
    service: &Service,
    method: &Method,
    uri: &str,
    body: Option<Bytes>,
) -> Result<Request<Full<Bytes>>, WireError> {
    let mut request = Request::builder().method(method).uri(uri);
    let token = HeaderValue::try_from(format!("Bearer {}", service.hs_token));
    let mut token = token.map_err(|_| WireError::Connection("bad hs_token".to_owned()))?;
    token.set_sensitive(true);
    request = request.header(AUTHORIZATION, token);
    if body.is_some() {
        request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let body = Full::new(body.unwrap_or_default());
    request.body(body).map_err(|error| WireError::Connection(error.to_string()))
}

async fn bound<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, WireError>>,
) -> Result<T, WireError> {
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(WireError::Timeout(timeout)))
}

/// What lies at the bottom of an error, which is what helps.
fn explain(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, &UNRESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_and_have_their_older_form() {
        let path = Path::room("#_irc_a/b:hs");
        assert_eq!(path.current, "/_matrix/app/v1/rooms/%23_irc_a%2Fb%3Ahs");
        assert_eq!(path.legacy.as_deref(), Some("/rooms/%23_irc_a%2Fb%3Ahs"));
        let query = [("network".to_owned(), "a&b".to_owned())];
        let path = Path::third_party("location", Some("irc"), &query);
        assert_eq!(path.current, "/_matrix/app/v1/thirdparty/location/irc?network=a%26b");
        let legacy = "/_matrix/app/unstable/thirdparty/location/irc?network=a%26b";
        assert_eq!(path.legacy.as_deref(), Some(legacy));
        assert_eq!(Path::ping().legacy, None);
    }
}
