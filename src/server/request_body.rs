//! The body of a request, which may not pause for too long while it arrives.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time::Sleep;

/// Makes the body that handlers see; `patience` is how long it may pause.
pub(super) fn receive_body(body: Incoming, patience: Duration) -> Body {
    if body.is_end_stream() {
        // Most requests have none, and an empty body costs no memory.
        return Body::empty();
    }
    Body::new(PunctualBody { body, patience, pause: None })
}

struct PunctualBody {
    body: Incoming,
    patience: Duration,
    /// Made at the first pause, since most bodies arrive together with their head.
    pause: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for PunctualBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.pause = None;
            return Poll::Ready(frame.map(|result| result.map_err(axum::Error::new)));
        }
        let patience = this.patience;
        let pause = this.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        pause.as_mut().poll(cx).map(|()| {
            let error = io::Error::new(io::ErrorKind::TimedOut, "the body paused for too long");
            Some(Err(axum::Error::new(error)))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
