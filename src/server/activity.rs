//! What a connection is doing, so that one that does nothing, or does it too slowly, can be closed.
//! Costs a few relaxed atomic writes per request, and no timer while a request is being answered.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};

use crate::{clock::Clock, config::Config};

/// Stands for "this is not going on".
const NEVER: u64 = u64::MAX;

/// How long a connection may do what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// From one piece of an answer that the client takes to the next.
    pub write: Duration,
    /// From one request to the next.
    pub idle: Duration,
    /// From the wish to stop to the end of the last request.
    pub end: Duration,
}

impl From<&Config> for Patience {
    fn from(config: &Config) -> Self {
        let limits = &config.limits;
        Self {
            head: limits.request_head_timeout,
            write: limits.request_body_timeout,
            idle: limits.idle_timeout,
            end: config.server.shutdown_timeout,
        }
    }
}

/// What one connection is doing. Times are milliseconds since it was opened.
pub(super) struct Activity {
    clock: Clock,
    opened: Instant,
    requests: AtomicU32,
    is_http2: AtomicBool,
    head_since: AtomicU64,
    write_blocked_since: AtomicU64,
    idle_since: AtomicU64,
}

impl Activity {
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            opened: clock.instant(),
            clock,
            requests: AtomicU32::new(0),
            is_http2: AtomicBool::new(false),
            head_since: AtomicU64::new(NEVER),
            write_blocked_since: AtomicU64::new(NEVER),
            idle_since: AtomicU64::new(0),
        })
    }

    /// The connection speaks HTTP/2.
    pub fn note_http2(&self) {
        self.is_http2.store(true, Relaxed);
    }

    /// A request has arrived whole; it lasts until the returned value is dropped.
    pub fn begin_request(self: &Arc<Self>) -> RequestUnderWay {
        self.requests.fetch_add(1, Relaxed);
        self.head_since.store(NEVER, Relaxed);
        RequestUnderWay(Arc::clone(self))
    }

    /// When the connection has to be closed unless something happens; `None` while a request is answered.
    pub fn deadline(&self, patience: Patience) -> Option<Instant> {
        let write_blocked_since = self.write_blocked_since.load(Relaxed);
        let (since, patience) = if write_blocked_since != NEVER {
            (write_blocked_since, patience.write)
        } else if self.requests.load(Relaxed) > 0 {
            return None;
        } else {
            let head_since = self.head_since.load(Relaxed);
            // HTTP/2 sends more than requests: a ping is no head that was begun and never ended.
            if head_since != NEVER && !self.is_http2.load(Relaxed) {
                (head_since, patience.head)
            } else {
                (self.idle_since.load(Relaxed), patience.idle)
            }
        };
        Some(self.opened + Duration::from_millis(since) + patience)
    }

    /// Whether closing the connection now would lose no answer. An HTTP/2 connection may still hold
    /// parts of answers back for the client to ask for them, so that only its own end tells.
    pub fn has_nothing_to_answer(&self) -> bool {
        !self.is_http2.load(Relaxed)
            && self.requests.load(Relaxed) == 0
            && self.write_blocked_since.load(Relaxed) == NEVER
    }

    fn now(&self) -> u64 {
        let elapsed = self.clock.instant().duration_since(self.opened);
        u64::try_from(elapsed.as_millis()).unwrap_or(NEVER - 1)
    }

    pub fn note_read(&self) {
        if self.requests.load(Relaxed) == 0 && self.head_since.load(Relaxed) == NEVER {
            self.head_since.store(self.now(), Relaxed);
        }
    }

    pub fn note_write<T>(&self, result: &Poll<T>) {
        let was_blocked = self.write_blocked_since.load(Relaxed) != NEVER;
        match (result.is_pending(), was_blocked) {
            (true, false) => self.write_blocked_since.store(self.now(), Relaxed),
            (false, true) => {
                self.write_blocked_since.store(NEVER, Relaxed);
                self.idle_since.store(self.now(), Relaxed);
            }
            _ => {}
        }
    }
}

/// A request that has arrived and is not yet answered.
pub(super) struct RequestUnderWay(Arc<Activity>);

impl Drop for RequestUnderWay {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Relaxed);
        self.0.requests.fetch_sub(1, Relaxed);
    }
}

/// The body of an answer; with its end the request ends.
pub(super) struct ObservedBody {
    pub body: Body,
    pub _request: RequestUnderWay,
}

impl HttpBody for ObservedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
