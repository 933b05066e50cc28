//! How other servers are asked for keys. This module owns the trait; `federation` implements it.

use std::{pin::pin, time::Duration};

use futures_util::{StreamExt as _, future::BoxFuture, stream};
use ruma::{ServerName, UserId};
use serde_json::{Value, json};

/// What is asked of other servers at the same time for one request.
const ASKED_AT_ONCE_MAX: usize = 100;

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
    /// Whether it has answered, and knows nothing of what it was asked for.
    pub is_not_found: bool,
}

impl RemoteError {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_not_found: false }
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_not_found: true }
    }

    pub(super) fn unreachable() -> Self {
        Self::new("this server does not talk to other servers")
    }

    pub(super) fn late() -> Self {
        Self::new("there was no answer in time")
    }
}

/// An entry of `failures`.
pub(super) fn failure_of(error: &RemoteError) -> Value {
    json!({ "status": 503, "errcode": "M_UNKNOWN", "message": error.message })
}

/// Waits for what was asked of other servers, some of it at a time, and no longer than `timeout` for all of
/// it: a client waits meanwhile. What is not answered by then is missing.
pub(super) async fn gather<T>(asked: Vec<impl Future<Output = T>>, timeout: Duration) -> Vec<T> {
    let mut answers = Vec::with_capacity(asked.len());
    let mut arriving = pin!(stream::iter(asked).buffer_unordered(ASKED_AT_ONCE_MAX));
    let mut late = pin!(tokio::time::sleep(timeout));
    loop {
        tokio::select! {
            answer = arriving.next() => match answer {
                Some(answer) => answers.push(answer),
                None => return answers,
            },
            () = &mut late => return answers,
        }
    }
}
