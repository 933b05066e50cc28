//! How long requests take: a histogram per route, method and class of status, which costs a few atomic
//! additions per request and no allocation.

use std::{
    convert::Infallible,
    fmt::Write as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    extract::{MatchedPath, Request},
    response::Response,
};
use parking_lot::Mutex;
use tower::{Layer, Service};

use crate::clock::Clock;

/// The upper ends of the histogram's buckets, in microseconds, with their names in seconds.
const BUCKETS: [(u64, &str); 14] = [
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (1_000_000, "1"),
    (5_000_000, "5"),
    (30_000_000, "30"),
];

/// The classes of status that are told apart, by their first digit.
const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

const METRIC: &str = "hearth_http_request_duration_seconds";

/// The histograms of all routes.
#[derive(Clone, Default)]
pub struct RequestFigures(Arc<Mutex<Vec<Arc<RouteFigures>>>>);

/// Counts the requests of each route that it is put around.
#[derive(Clone)]
pub struct RequestFiguresLayer {
    figures: RequestFigures,
    clock: Clock,
}

impl RequestFigures {
    /// To be put around a whole router, behind its routes.
    #[must_use]
    pub fn layer(&self, clock: Clock) -> RequestFiguresLayer {
        RequestFiguresLayer { figures: self.clone(), clock }
    }

    /// The histograms in Prometheus' text format; a route that nobody asked for is left out.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!(
            "# HELP {METRIC} Time from a request's head to its answer's head.\n# TYPE {METRIC} histogram\n"
        );
        for route in self.0.lock().iter() {
            for (class, histogram) in STATUS_CLASSES.iter().zip(&route.classes) {
                histogram.render(&route.labels, class, &mut text);
            }
        }
        text
    }
}

struct RouteFigures {
    labels: String,
    classes: [Histogram; STATUS_CLASSES.len()],
}

#[derive(Default)]
struct Histogram {
    /// Each counts what fell between the bucket below and itself; the last one what is above all.
    counts: [AtomicU64; BUCKETS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|(end, _)| *end < micros);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(micros, Relaxed);
    }

    fn render(&self, labels: &str, class: &str, text: &mut String) {
        let counts: [u64; BUCKETS.len() + 1] =
            std::array::from_fn(|i| self.counts[i].load(Relaxed));
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return;
        }
        let labels = format!("{labels},status=\"{class}\"");
        let mut sum = 0;
        for ((_, end), count) in BUCKETS.iter().zip(counts) {
            sum += count;
            let _ = writeln!(text, "{METRIC}_bucket{{{labels},le=\"{end}\"}} {sum}");
        }
        let seconds = self.sum_us.load(Relaxed) as f64 / 1e6;
        let _ = writeln!(
            text,
            "{METRIC}_bucket{{{labels},le=\"+Inf\"}} {total}\n\
             {METRIC}_sum{{{labels}}} {seconds}\n{METRIC}_count{{{labels}}} {total}"
        );
    }
}

impl<S> Layer<S> for RequestFiguresLayer {
    type Service = RequestFiguresService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestFiguresService { inner, route: Arc::default(), layer: self.clone() }
    }
}

/// Counts the requests of one route and method.
#[derive(Clone)]
pub struct RequestFiguresService<S> {
    inner: S,
    /// Found at the first request, since only a request knows its route.
    route: Arc<OnceLock<Arc<RouteFigures>>>,
    layer: RequestFiguresLayer,
}

impl<S> RequestFiguresService<S> {
    fn find_route(&self, request: &Request) -> Arc<RouteFigures> {
        let route = self.route.get_or_init(|| {
            let path = request.extensions().get::<MatchedPath>();
            let path = path.map_or("unknown", MatchedPath::as_str);
            let method = request.method().as_str();
            let labels = format!("method=\"{method}\",route=\"{path}\"");
            let route = Arc::new(RouteFigures { labels, classes: Default::default() });
            self.layer.figures.0.lock().push(Arc::clone(&route));
            route
        });
        Arc::clone(route)
    }
}

impl<S> Service<Request> for RequestFiguresService<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = futures_util::future::BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let route = self.find_route(&request);
        let clock = self.layer.clock.clone();
        let started = clock.instant();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let Ok(response) = answer.await;
            let duration = clock.instant().duration_since(started);
            let status = response.status().as_u16();
            let class = usize::from(status / 100).clamp(1, STATUS_CLASSES.len()) - 1;
            route.classes[class].record(duration);
            tracing::debug!(
                http.route = route.labels,
                http.status = status,
                duration_ms = duration.as_secs_f64() * 1e3,
                "answered"
            );
            Ok(response)
        })
    }
}
