//! What the server tells about itself: logs on standard error and figures for Prometheus.
//! Not for: deciding what is worth a log line. Whoever meets an error logs it, once.

use std::{
    io::{IsTerminal as _, stderr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
    routing::get,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{
    Layer as _, Registry, filter::Targets, fmt, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{
    cache_figures::CacheFigures,
    config::{LogFormat, LoggingConfig},
    server::RequestFigures,
};

/// The upper ends of the buckets of histograms whose names end in `_seconds`.
const DURATION_BUCKETS_S: [f64; 10] =
    [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];
/// The upper ends of the buckets of all other histograms, which count things.
const COUNT_BUCKETS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];
/// How often figures that were recorded are moved into their buckets, so that they do not pile up.
const UPKEEP_PAUSE: Duration = Duration::from_secs(5);
/// The media type of Prometheus' text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why logs or figures cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("logging cannot begin: {0}")]
    Logging(String),
    #[error("figures cannot be collected: {0}")]
    Metrics(String),
}

/// The figures of this process.
#[derive(Clone)]
pub struct Figures {
    recorded: PrometheusHandle,
    /// How long requests take, per route.
    pub requests: RequestFigures,
}

/// Sends the logs of this process, panics included, to standard error. Only once per process.
pub fn start_logging(config: &LoggingConfig) -> Result<(), TelemetryError> {
    let filter: Targets = config.level.parse().map_err(logging_error)?;
    let lines = match config.format {
        LogFormat::Human => fmt::layer::<Registry>()
            .with_writer(stderr)
            .with_ansi(stderr().is_terminal())
            .with_target(false)
            .boxed(),
        LogFormat::Json => {
            fmt::layer::<Registry>().with_writer(stderr).json().flatten_event(true).boxed()
        }
    };
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
    subscriber.try_init().map_err(logging_error)?;
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(%panic, %backtrace, "a fault in this program; please report it");
    }));
    Ok(())
}

impl Figures {
    /// Begins to collect. Only once per process.
    pub fn start() -> Result<Self, TelemetryError> {
        let durations = Matcher::Suffix("_seconds".to_owned());
        let recorded = PrometheusBuilder::new()
            .set_buckets(&COUNT_BUCKETS)
            .and_then(|builder| builder.set_buckets_for_metric(durations, &DURATION_BUCKETS_S))
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(|error| TelemetryError::Metrics(error.to_string()))?;
        Ok(Self { recorded, requests: RequestFigures::default() })
    }

    /// `GET /metrics`.
    pub fn routes(&self) -> Router {
        let figures = Arc::new(self.clone());
        Router::new().route("/metrics", get(async move || figures.answer()))
    }

    /// Keeps what was recorded small, and notes how well the caches do; never ends.
    pub async fn run_upkeep(self, list_caches: impl Fn() -> Vec<CacheFigures>) {
        loop {
            list_caches().iter().for_each(record_cache);
            self.recorded.run_upkeep();
            tokio::time::sleep(UPKEEP_PAUSE).await;
        }
    }

    fn answer(&self) -> Response {
        let mut text = self.recorded.render();
        text.push_str(&self.requests.render());
        text.push_str(&render_process_figures());
        ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response()
    }
}

fn record_cache(cache: &CacheFigures) {
    let CacheFigures { name, hits, misses, entries, weight, weight_max } = *cache;
    metrics::counter!("hearth_cache_hits_total", "cache" => name).absolute(hits);
    metrics::counter!("hearth_cache_misses_total", "cache" => name).absolute(misses);
    metrics::gauge!("hearth_cache_entries", "cache" => name).set(entries as f64);
    metrics::gauge!("hearth_cache_weight", "cache" => name).set(weight as f64);
    metrics::gauge!("hearth_cache_weight_max", "cache" => name).set(weight_max as f64);
}

fn logging_error(error: impl ToString) -> TelemetryError {
    TelemetryError::Logging(error.to_string())
}

/// What Linux tells about this process, under the names that Prometheus' own clients use.
fn render_process_figures() -> String {
    let mut text = String::new();
    if let Some(bytes) = find_resident_bytes() {
        text.push_str(&format!(
            "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {bytes}\n"
        ));
    }
    if let Some(seconds) = find_cpu_seconds() {
        text.push_str(&format!(
            "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {seconds}\n"
        ));
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        text.push_str(&format!(
            "# TYPE process_open_fds gauge\nprocess_open_fds {}\n",
            files.count()
        ));
    }
    text
}

fn find_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// proc_pid_stat(5): fields 14 and 15, in ticks of which Linux promises user space 100 a second. The name in
/// field 2 can hold blanks, so that counting begins behind its bracket.
fn find_cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    Some((times.next()?.ok()? + times.next()?.ok()?) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_figures_are_there() {
        let text = render_process_figures();
        for name in
            ["process_resident_memory_bytes ", "process_cpu_seconds_total ", "process_open_fds "]
        {
            assert!(text.contains(name), "{text}");
        }
    }
}
