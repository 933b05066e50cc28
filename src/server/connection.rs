//! One connection: HTTP/1.1 or HTTP/2, request after request, until either side has had enough.

use std::{
    convert::Infallible,
    fmt::Display,
    future::{Future as _, poll_fn},
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulConnection};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use super::{
    activity::{Activity, ObservedBody, Patience},
    door::Door,
    observed_transport::ObservedTransport,
    transport::Transport,
};

/// Serves a connection to its end. When `shutdown` is cancelled, it ends after the requests under way.
pub(super) async fn serve_connection(
    transport: Transport,
    peer: Option<IpAddr>,
    door: Arc<Door>,
    shutdown: CancellationToken,
) {
    let mut transport = ObservedTransport::new(transport, door.clock.clone());
    let beginning = tokio::time::timeout(door.patience.head, transport.find_http_version());
    let is_http2 = match shutdown.run_until_cancelled(beginning).await {
        Some(Ok(Ok(is_http2))) => is_http2,
        _ => return,
    };
    let activity = Arc::clone(&transport.activity);
    let io = TokioIo::new(transport);
    let service = {
        let (door, activity) = (Arc::clone(&door), Arc::clone(&activity));
        service_fn(move |request: Request<Incoming>| {
            let under_way = activity.begin_request();
            let answer = door.answer(request, peer);
            async move {
                let body_of = |body| ObservedBody { body, _request: under_way };
                Ok::<_, Infallible>(answer.await.map(body_of))
            }
        })
    };
    if is_http2 {
        drive(door.http2.serve_connection(io, service), &door, &activity, &shutdown).await;
    } else {
        drive(door.http1.serve_connection(io, service), &door, &activity, &shutdown).await;
    }
}

async fn drive<C>(connection: C, door: &Door, activity: &Activity, shutdown: &CancellationToken)
where
    C: GracefulConnection,
    C::Error: Display,
{
    let mut connection = pin!(connection);
    let mut shutdown = pin!(shutdown.cancelled());
    let sleep = pin!(tokio::time::sleep(door.patience.idle));
    let mut alarm = Alarm { sleep, rings_at: None, ends_at: None };
    poll_fn(|cx| {
        if alarm.ends_at.is_none() && shutdown.as_mut().poll(cx).is_ready() {
            alarm.ends_at = Some(door.clock.instant() + door.patience.end);
            connection.as_mut().graceful_shutdown();
        }
        match connection.as_mut().poll(cx) {
            Poll::Ready(result) => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection broke");
                }
                Poll::Ready(())
            }
            // Half a head would keep the server waiting for its other half.
            Poll::Pending if alarm.ends_at.is_some() && activity.has_nothing_to_answer() => {
                Poll::Ready(())
            }
            Poll::Pending => alarm.poll_overdue(cx, activity, door.patience),
        }
    })
    .await;
}

/// Rings when a connection has done nothing, or too little, for too long.
///
/// It is set to the earliest deadline and looks again when it rings, so that a busy connection does not
/// touch the timer at all.
struct Alarm<'a> {
    sleep: Pin<&'a mut Sleep>,
    /// `None` while there is nothing to wait for.
    rings_at: Option<Instant>,
    /// When a server that stops no longer waits for the requests under way.
    ends_at: Option<Instant>,
}

impl Alarm<'_> {
    fn poll_overdue(
        &mut self,
        cx: &mut Context<'_>,
        activity: &Activity,
        patience: Patience,
    ) -> Poll<()> {
        loop {
            let deadline = [activity.deadline(patience), self.ends_at].into_iter().flatten().min();
            match (deadline, self.rings_at) {
                (None, None) => return Poll::Pending,
                (Some(deadline), earlier) if earlier.is_none_or(|earlier| deadline < earlier) => {
                    self.sleep.as_mut().reset(deadline.into());
                    self.rings_at = Some(deadline);
                }
                _ => {}
            }
            ready!(self.sleep.as_mut().poll(cx));
            let rang_at = self.rings_at.take();
            if deadline.is_some_and(|deadline| rang_at >= Some(deadline)) {
                if self.ends_at.is_some() {
                    tracing::warn!("a request took too long to finish and was cut off");
                }
                return Poll::Ready(());
            }
        }
    }
}
