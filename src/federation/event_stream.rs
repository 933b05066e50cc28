//! Answers that are too large to be taken at once: read as they come, their events verified in batches
//! on all cores. Bounded in time, in bytes and in events.

use std::sync::Arc;

use futures_util::StreamExt as _;
use ruma::{RoomId, ServerName};
use serde_json::{Map, Value};

use super::{
    event_arrays::{ArraysError, EventArrays, FoundEvent},
    peers::{PeerError, PeerRequest, Peers},
    server_keys::ServerKeys,
    verify::keep_verified,
};
use crate::{
    outbound::OutboundError,
    protocol::{event::Event, room_version::RoomRules},
    storage::StorageError,
};

/// Events that are verified together.
const BATCH_EVENTS: usize = 1000;
/// Events of one answer. The largest public rooms have a quarter of that.
const EVENTS_MAX: usize = 1_000_000;
/// How often progress is logged, in events.
const PROGRESS_EVENTS: usize = 20_000;

/// Whom and what to ask, and how the events of the answer are to be read.
#[derive(Clone, Copy)]
pub struct StreamedAnswer<'a> {
    pub server: &'a ServerName,
    pub room_id: &'a RoomId,
    pub rules: &'static RoomRules,
    /// The arrays of the answer that hold events.
    pub arrays: &'static [&'static str],
}

/// Why an answer was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("{0}")]
    Arrays(#[from] ArraysError),
    #[error("it has more than {EVENTS_MAX} events")]
    TooManyEvents,
    #[error("nobody wants it any more")]
    Unwanted,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Events of one answer on their way.
struct Batch<'a> {
    keys: &'a ServerKeys,
    answer: StreamedAnswer<'a>,
    waiting: Vec<FoundEvent>,
    count: usize,
}

impl Peers {
    /// Asks, and hands over verified events as they come: the index of their array, and the events of
    /// the room in it. Returns what else the answer has.
    pub(super) async fn ask_for_events<F>(
        &self,
        keys: &ServerKeys,
        answer: StreamedAnswer<'_>,
        request: PeerRequest,
        take: impl FnMut(usize, Vec<Arc<Event>>) -> F,
    ) -> Result<Map<String, Value>, StreamError>
    where
        F: Future<Output = Result<(), StreamError>>,
    {
        let timeout = request.limits.timeout;
        let read = tokio::time::timeout(timeout, self.read_events(keys, answer, request, take));
        let ended = read.await;
        ended.unwrap_or_else(|_| Err(unusable(answer.server, OutboundError::Timeout(timeout))))
    }

    async fn read_events<F>(
        &self,
        keys: &ServerKeys,
        answer: StreamedAnswer<'_>,
        request: PeerRequest,
        mut take: impl FnMut(usize, Vec<Arc<Event>>) -> F,
    ) -> Result<Map<String, Value>, StreamError>
    where
        F: Future<Output = Result<(), StreamError>>,
    {
        let bytes_max = request.limits.body_bytes_max;
        let mut chunks = self.open(answer.server, request).await?.into_chunks();
        let mut arrays = EventArrays::new(answer.arrays);
        let mut batch = Batch { keys, answer, waiting: Vec::new(), count: 0 };
        let mut bytes = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| {
                unusable(answer.server, OutboundError::BrokeOff(error.to_string()))
            })?;
            bytes += chunk.len();
            if bytes > bytes_max {
                return Err(unusable(answer.server, OutboundError::TooLarge(bytes_max)));
            }
            arrays.read(&chunk, &mut batch.waiting)?;
            if batch.waiting.len() >= BATCH_EVENTS {
                batch.hand_over(&mut take).await?;
            }
        }
        batch.hand_over(&mut take).await?;
        Ok(arrays.finish()?)
    }
}

impl Batch<'_> {
    async fn hand_over<F>(
        &mut self,
        take: &mut impl FnMut(usize, Vec<Arc<Event>>) -> F,
    ) -> Result<(), StreamError>
    where
        F: Future<Output = Result<(), StreamError>>,
    {
        let before = self.count;
        self.count += self.waiting.len();
        if self.count > EVENTS_MAX {
            return Err(StreamError::TooManyEvents);
        }
        let (room_id, server) = (self.answer.room_id, self.answer.server);
        if before / PROGRESS_EVENTS != self.count / PROGRESS_EVENTS {
            tracing::info!(room.id = %room_id, server.name = %server, events = self.count, "events come in");
        }
        let mut waiting = std::mem::take(&mut self.waiting).into_iter().peekable();
        while let Some(first) = waiting.next() {
            let array = first.array;
            let mut texts = vec![first.text];
            while let Some(next) = waiting.next_if(|next| next.array == array) {
                texts.push(next.text);
            }
            let rules = self.answer.rules;
            take(array, keep_verified(self.keys, rules, room_id, texts).await?).await?;
        }
        Ok(())
    }
}

fn unusable(server: &ServerName, source: OutboundError) -> StreamError {
    PeerError::Unreachable { server: server.to_owned(), source }.into()
}
