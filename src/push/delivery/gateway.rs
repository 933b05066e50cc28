//! Requests to push gateways. Each gateway has its own few connections, so that one which is dead or
//! slow delays nobody who uses another. Addresses are chosen by users: none that is off limits is
//! connected to.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, StatusCode,
    header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Notify, Semaphore};

use crate::outbound::{Answer, DirectClient, Limits, Outbound, OutboundError};

/// Requests that one gateway gets at a time.
const REQUESTS_MAX: usize = 32;
/// What an answer may take.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(15), body_bytes_max: 1 << 20 };
/// Gateways are swept of those nobody uses at this growth.
const SWEEP_GROWTH: usize = 256;

/// One gateway.
pub struct Gateway {
    turns: Semaphore,
    /// Rung when it has answered well.
    pub lives: Notify,
}

/// All gateways in use.
pub struct Gateways {
    web: Outbound,
    /// Where private networks are allowed.
    direct: Option<DirectClient>,
    known: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    by_authority: HashMap<String, Weak<Gateway>>,
    sweep_at: usize,
}

/// What a gateway says.
#[derive(Debug, Deserialize)]
pub struct Acceptance {
    /// Push keys that are not valid any more.
    #[serde(default)]
    pub rejected: Vec<String>,
}

/// Why a notification was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error(transparent)]
    Wire(#[from] OutboundError),
    #[error("the gateway answered {status}")]
    Status { status: StatusCode, retry_after: Option<Duration> },
}

impl GatewayError {
    /// How long the gateway wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Wire(_) => None,
        }
    }
}

impl Gateways {
    /// With a `direct` client any address may be a gateway's.
    pub fn new(web: Outbound, direct: Option<DirectClient>) -> Self {
        Self { web, direct, known: Mutex::default() }
    }

    /// The gateway at an address, the same for all who hold it at one time.
    pub fn find(&self, url: &str) -> Arc<Gateway> {
        let authority = url.split('/').nth(2).unwrap_or_default();
        let mut known = self.known.lock();
        if let Some(gateway) = known.by_authority.get(authority).and_then(Weak::upgrade) {
            return gateway;
        }
        if known.by_authority.len() >= known.sweep_at {
            known.by_authority.retain(|_, gateway| gateway.strong_count() > 0);
            known.sweep_at = known.by_authority.len() + SWEEP_GROWTH;
        }
        let gateway =
            Arc::new(Gateway { turns: Semaphore::new(REQUESTS_MAX), lives: Notify::new() });
        known.by_authority.insert(authority.to_owned(), Arc::downgrade(&gateway));
        gateway
    }

    /// Delivers a notification.
    pub async fn notify(
        &self,
        gateway: &Gateway,
        url: &str,
        body: &Value,
    ) -> Result<Acceptance, GatewayError> {
        let _turn = gateway.turns.acquire().await.map_err(|_| {
            GatewayError::Wire(OutboundError::Connection("the server stops".to_owned()))
        })?;
        let answer = self.post(url, Bytes::from(body.to_string())).await?;
        if !answer.status.is_success() {
            let seconds = answer.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let seconds = seconds.and_then(|seconds| seconds.parse().ok());
            let retry_after = seconds.map(Duration::from_secs);
            return Err(GatewayError::Status { status: answer.status, retry_after });
        }
        gateway.lives.notify_waiters();
        // What it says beside its status is of no importance, if it says anything.
        let acceptance = serde_json::from_slice(&answer.body);
        Ok(acceptance.unwrap_or_else(|_| Acceptance { rejected: Vec::new() }))
    }

    async fn post(&self, url: &str, body: Bytes) -> Result<Answer, OutboundError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match &self.direct {
            Some(direct) => direct.request((Method::POST, url), headers, Some(body), LIMITS).await,
            None => self.web.post_page(url, headers, body, LIMITS).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, config::FederationConfig, outbound::OutboundSettings};

    #[tokio::test]
    async fn private_addresses_are_not_connected_to() {
        let blocked_networks = FederationConfig::default().blocked_networks;
        let settings =
            OutboundSettings { blocked_networks, ca_files: Vec::new(), verify_servers: true };
        let gateways = Gateways::new(Outbound::new(settings, Clock::real()), None);
        for host in ["127.0.0.1", "localhost", "10.0.0.1", "[::1]"] {
            let url = format!("https://{host}:1/_matrix/push/v1/notify");
            let gateway = gateways.find(&url);
            let error = gateways.notify(&gateway, &url, &Value::Null).await.unwrap_err();
            assert!(error.to_string().contains("does not connect to"), "{host}: {error}");
        }
    }
}
