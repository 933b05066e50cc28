//! `/.well-known/matrix/server` of other servers, cached: answers for as long as they say, errors
//! for longer and longer (server-server API, "Resolving server names", step 3).

use std::{sync::Arc, time::Duration};

use hyper::{HeaderMap, StatusCode, header::CACHE_CONTROL};
use quick_cache::sync::Cache;
use serde::Deserialize;

use super::{Authority, Limits, Outbound, OutboundError, request::Answer};

/// Hosts whose answers are kept.
const CACHE_ENTRIES_MAX: usize = 16_384;
/// "The recommended sensible default is 24 hours", "a maximum cache time … 48 hours is recommended".
const LIFETIME_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
const LIFETIME_MAX: Duration = Duration::from_secs(48 * 60 * 60);
/// Whatever an answer says, it is not asked for more often than this.
const LIFETIME_MIN: Duration = Duration::from_secs(5 * 60);
/// "Errors are recommended to be cached for up to an hour."
const ERROR_LIFETIME_MIN: Duration = Duration::from_secs(60);
const ERROR_LIFETIME_MAX: Duration = Duration::from_secs(60 * 60);
const LIMITS: Limits = Limits { timeout: Duration::from_secs(10), body_bytes_max: 64 * 1024 };

/// What a host says about where its homeserver is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delegation {
    To(Authority),
    /// There is no valid answer: the host itself is meant.
    None(WellKnownFailure),
}

/// Why the answer of a host says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WellKnownFailure {
    #[error(transparent)]
    Request(OutboundError),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("the answer has no valid `m.server`")]
    Malformed,
}

/// Answers by host.
pub struct WellKnownCache(Cache<Box<str>, Arc<Cached>>);

struct Cached {
    delegation: Delegation,
    expires_ms: u64,
    /// Errors one after another.
    failures: u32,
}

#[derive(Deserialize)]
struct WellKnown {
    #[serde(rename = "m.server")]
    server: String,
}

impl Default for WellKnownCache {
    fn default() -> Self {
        Self(Cache::new(CACHE_ENTRIES_MAX))
    }
}

impl Outbound {
    /// What the host says, from the cache while that is fresh.
    pub async fn find_delegation(&self, host: &str) -> Delegation {
        let now_ms = self.0.clock.now_ms();
        let cached = self.0.well_known.0.get(host);
        if let Some(cached) = &cached
            && cached.expires_ms > now_ms
        {
            return cached.delegation.clone();
        }
        let (delegation, lifetime) = self.fetch_delegation(host).await;
        let (failures, lifetime) = match (&delegation, lifetime) {
            (Delegation::To(_), lifetime) => (0, lifetime),
            (Delegation::None(_), _) => {
                let failures = cached.map_or(0, |cached| cached.failures) + 1;
                let doubled = ERROR_LIFETIME_MIN * 2_u32.saturating_pow(failures.min(10) - 1);
                (failures, doubled.min(ERROR_LIFETIME_MAX))
            }
        };
        let expires_ms = now_ms + lifetime.as_millis() as u64;
        let cached = Cached { delegation: delegation.clone(), expires_ms, failures };
        self.0.well_known.0.insert(host.into(), Arc::new(cached));
        delegation
    }

    async fn fetch_delegation(&self, host: &str) -> (Delegation, Duration) {
        let url = format!("https://{host}/.well-known/matrix/server");
        match self.get_page(&url, LIMITS).await {
            Ok(answer) => (read_answer(&answer), lifetime(&answer.headers)),
            Err(error) => (Delegation::None(WellKnownFailure::Request(error)), Duration::ZERO),
        }
    }
}

fn read_answer(answer: &Answer) -> Delegation {
    if answer.status != StatusCode::OK {
        return Delegation::None(WellKnownFailure::Status(answer.status));
    }
    let read = serde_json::from_slice::<WellKnown>(&answer.body).ok();
    match read.and_then(|well_known| Authority::parse(&well_known.server)) {
        Some(authority) => Delegation::To(authority),
        None => Delegation::None(WellKnownFailure::Malformed),
    }
}

fn lifetime(headers: &HeaderMap) -> Duration {
    let directives = headers.get(CACHE_CONTROL).and_then(|value| value.to_str().ok());
    let directives = directives.unwrap_or_default().to_ascii_lowercase();
    for directive in directives.split(',').map(str::trim) {
        if matches!(directive, "no-store" | "no-cache") {
            return LIFETIME_MIN;
        }
        if let Some(seconds) = directive.strip_prefix("max-age=").and_then(|age| age.parse().ok()) {
            return Duration::from_secs(seconds).clamp(LIFETIME_MIN, LIFETIME_MAX);
        }
    }
    LIFETIME_DEFAULT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_lifetime(header: Option<&str>, expect_seconds: u64) {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(CACHE_CONTROL, header.parse().unwrap());
        }
        assert_eq!(lifetime(&headers).as_secs(), expect_seconds, "{header:?}");
    }

    #[test]
    fn answers_live_as_long_as_they_say_within_limits() {
        check_lifetime(None, 24 * 3600);
        check_lifetime(Some("public, max-age=3600"), 3600);
        check_lifetime(Some("max-age=1"), 300);
        check_lifetime(Some("max-age=99999999"), 48 * 3600);
        check_lifetime(Some("no-cache"), 300);
    }

    #[test]
    fn answers_that_say_nothing_delegate_nothing() {
        let answer = |status: StatusCode, body: &'static str| {
            read_answer(&Answer { status, headers: HeaderMap::new(), body: body.into() })
        };
        let good = answer(StatusCode::OK, r#"{"m.server":"matrix.example.org:443"}"#);
        let authority = Authority { host: "matrix.example.org".into(), port: Some(443) };
        assert_eq!(good, Delegation::To(authority));
        for body in ["", "{}", r#"{"m.server":7}"#, r#"{"m.server":"a b"}"#, "<html>"] {
            let expect = Delegation::None(WellKnownFailure::Malformed);
            assert_eq!(answer(StatusCode::OK, body), expect, "{body}");
        }
        let missing = answer(StatusCode::NOT_FOUND, r#"{"m.server":"a"}"#);
        assert!(matches!(missing, Delegation::None(WellKnownFailure::Status(_))));
    }
}
