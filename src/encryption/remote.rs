//! How other servers are asked for keys. This module owns the trait; `federation` implements it.

use std::time::Duration;

use futures_util::future::BoxFuture;
use ruma::{ServerName, UserId};
use serde_json::{Value, json};

/// Asks other servers (server-server API, "End-to-End Encryption", "Device Management").
pub trait RemoteKeys: Send + Sync {
    /// `POST /user/keys/query` with a body `{"device_keys": {user: [device]}}`.
    fn query<'a>(
        &'a self,
        server: &'a ServerName,
        body: Value,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Value, RemoteError>>;

    /// `POST /user/keys/claim` with a body `{"one_time_keys": {user: {device: algorithm}}}`. Must not
    /// be repeated when the answer was lost.
    fn claim<'a>(
        &'a self,
        server: &'a ServerName,
        body: Value,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Value, RemoteError>>;

    /// `GET /user/devices/{userId}` of the user's server.
    fn fetch_devices<'a>(
        &'a self,
        user: &'a UserId,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Value, RemoteError>>;
}

/// Why a server did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RemoteError {
    pub message: String,
}

impl RemoteError {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }

    pub(super) fn unreachable() -> Self {
        Self::new("this server does not talk to other servers")
    }
}

/// An entry of `failures`.
pub(super) fn failure_of(error: &RemoteError) -> Value {
    json!({ "status": 503, "errcode": "M_UNKNOWN", "message": error.message })
}
