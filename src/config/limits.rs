//! `[limits]`: what one connection and one request may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    problems::Problems,
    units::{self, Size},
};

/// What one connection and one request may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitsConfig {
    /// Connections of all listeners together. Further ones wait in the kernel's queue.
    pub connections_max: usize,
    /// The largest body of a request, uploads aside.
    pub request_body_size_max: Size,
    /// The largest head (request line and headers) of a request.
    pub request_head_size_max: Size,
    /// How long the head of a request, or a TLS handshake, may take to arrive.
    #[serde(with = "units::duration")]
    pub request_head_timeout: Duration,
    /// How long the body of a request may pause while it arrives.
    #[serde(with = "units::duration")]
    pub request_body_timeout: Duration,
    /// How long a connection may stay open without a request.
    #[serde(with = "units::duration")]
    pub idle_timeout: Duration,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            request_body_size_max: Size::mib(4),
            request_head_size_max: Size::kib(32),
            request_head_timeout: Duration::from_secs(15),
            request_body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(3 * 60),
        }
    }
}

impl LimitsConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.connections_max == 0 {
            problems.add("limits.connections_max", "must be at least 1");
        }
        // An event may have 65,536 bytes (Client-Server API, "Size limits").
        if self.request_body_size_max < Size::kib(64) {
            problems.add(
                "limits.request_body_size_max",
                "must be at least 64 KiB, as large as an event",
            );
        }
        if self.request_head_size_max < Size::kib(8) || self.request_head_size_max > Size::mib(1) {
            problems.add("limits.request_head_size_max", "must be from 8 KiB to 1 MiB");
        }
        for (key, timeout) in [
            ("request_head_timeout", self.request_head_timeout),
            ("request_body_timeout", self.request_body_timeout),
            ("idle_timeout", self.idle_timeout),
        ] {
            if timeout < Duration::from_secs(1) {
                problems.add(&format!("limits.{key}"), "must be at least 1s");
            }
        }
    }
}
