//! One connection: HTTP/1.1 or HTTP/2, request after request, until either side has had enough.

use std::{
    convert::Infallible,
    future::{Future as _, poll_fn},
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::http::{Request, Version};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use super::{
    activity::{Activity, ObservedBody, ObservedTransport, Patience},
    door::Door,
    transport::Transport,
};

/// Serves a connection to its end. When `shutdown` is cancelled, it ends after the requests under way.
pub(super) async fn serve_connection(
    transport: Transport,
    peer: Option<IpAddr>,
    door: Arc<Door>,
    shutdown: CancellationToken,
) {
    let activity = Activity::new(door.clock.clone());
    let io = TokioIo::new(ObservedTransport { transport, activity: Arc::clone(&activity) });
    let service = {
        let (door, activity) = (Arc::clone(&door), Arc::clone(&activity));
        service_fn(move |request: Request<Incoming>| {
            let under_way = activity.begin_request(request.version() == Version::HTTP_2);
            let answer = door.answer(request, peer);
            async move {
                let body_of = |body| ObservedBody { body, _request: under_way };
                Ok::<_, Infallible>(answer.await.map(body_of))
            }
        })
    };
    let mut connection = pin!(door.http.serve_connection(io, service));
    let mut shutdown = pin!(shutdown.cancelled());
    let mut alarm = Alarm { sleep: pin!(tokio::time::sleep(door.patience.idle)), rings_at: None };
    let mut is_ending = false;
    poll_fn(|cx| {
        if !is_ending && shutdown.as_mut().poll(cx).is_ready() {
            is_ending = true;
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
            Poll::Pending if is_ending && activity.has_nothing_to_answer() => Poll::Ready(()),
            Poll::Pending => alarm.poll_overdue(cx, &activity, door.patience),
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
}

impl Alarm<'_> {
    fn poll_overdue(
        &mut self,
        cx: &mut Context<'_>,
        activity: &Activity,
        patience: Patience,
    ) -> Poll<()> {
        loop {
            let deadline = activity.deadline(patience);
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
                return Poll::Ready(());
            }
        }
    }
}
