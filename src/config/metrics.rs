//! `[metrics]`: figures for Prometheus.

use serde::{Deserialize, Serialize};

/// Figures for Prometheus, at `/metrics` of listeners whose `apis` carry `metrics`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsConfig {
    /// Whether figures are collected at all.
    pub enabled: bool,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}
