//! `[logging]`: what the server says about its work.

use serde::{Deserialize, Serialize};

use super::problems::Problems;

/// What the server says about its work, on standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoggingConfig {
    /// For people or for machines.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`; also per module, such as `info,hearth::sync=debug`.
    pub level: String,
}

/// For people or for machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Lines to read.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self { format: LogFormat::default(), level: "info".to_owned() }
    }
}

impl LoggingConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if let Err(error) = self.level.parse::<tracing_subscriber::filter::Targets>() {
            problems.add(
                "logging.level",
                &format!("is not understood ({error}); write for example \"info\""),
            );
        }
    }
}
