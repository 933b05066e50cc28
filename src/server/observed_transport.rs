//! The bytes of a connection on their way to and from HTTP: what passes is noted in its `Activity`, and its
//! first bytes tell which version of HTTP it speaks.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::{activity::Activity, transport::Transport};
use crate::clock::Clock;

/// How an HTTP/2 connection begins (RFC 9113, section 3.4). No method of HTTP/1.1 does.
const HTTP2_BEGINNING: [u8; 3] = *b"PRI";

/// The bytes of a connection, observed.
pub(super) struct ObservedTransport {
    transport: Transport,
    pub activity: Arc<Activity>,
    /// What was read to find the version and still has to be handed on.
    beginning: [u8; HTTP2_BEGINNING.len()],
    beginning_length: usize,
    handed_on: usize,
}

impl ObservedTransport {
    pub fn new(transport: Transport, clock: Clock) -> Self {
        let activity = Activity::new(clock);
        Self {
            transport,
            activity,
            beginning: Default::default(),
            beginning_length: 0,
            handed_on: 0,
        }
    }

    /// Reads as much as it takes to tell whether the client speaks HTTP/2.
    pub async fn find_http_version(&mut self) -> io::Result<bool> {
        while self.beginning_length < HTTP2_BEGINNING.len() {
            let rest = &mut self.beginning[self.beginning_length..];
            let count = self.transport.read(rest).await?;
            self.beginning_length += count;
            let read = &self.beginning[..self.beginning_length];
            if count == 0 || !HTTP2_BEGINNING.starts_with(read) {
                self.activity.note_read();
                return Ok(false);
            }
        }
        self.activity.note_http2();
        Ok(true)
    }
}

impl AsyncRead for ObservedTransport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let filled = buffer.filled().len();
        let pending = &this.beginning[this.handed_on..this.beginning_length];
        if !pending.is_empty() {
            let count = pending.len().min(buffer.remaining());
            buffer.put_slice(&pending[..count]);
            this.handed_on += count;
            // More is read at once, since hyper doubles a buffer that is hardly filled.
            return match Pin::new(&mut this.transport).poll_read(cx, buffer) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Ready(Ok(())),
            };
        }
        let result = Pin::new(&mut this.transport).poll_read(cx, buffer);
        if buffer.filled().len() > filled {
            this.activity.note_read();
        }
        result
    }
}

impl AsyncWrite for ObservedTransport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.transport).poll_write(cx, bytes);
        this.activity.note_write(&result);
        result
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.transport).poll_write_vectored(cx, slices);
        this.activity.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}
