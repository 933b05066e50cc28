//! Events from the wire become events that can be trusted to be what their senders made: format,
//! signatures, content hash (server-server API, "Checks performed on receipt of a PDU", 1 to 3).
//! Keys are fetched together, signatures are checked on all cores. Not for permissions.

use std::sync::Arc;

use ruma::{OwnedEventId, RoomId};
use serde_json::value::RawValue;

use super::server_keys::{ServerKeys, WantedKey};
use crate::{
    protocol::{
        event::Event,
        event_format::EventFormatError,
        event_signatures::{ReceivedEvent, SignatureFailure},
        room_version::RoomRules,
    },
    storage::StorageError,
};

/// Events that one blocking task checks: the 50 of a transaction keep several cores busy.
const CHUNK_EVENTS: usize = 16;

/// Why an event is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    #[error(transparent)]
    Format(#[from] EventFormatError),
    #[error(transparent)]
    Signature(#[from] SignatureFailure),
    #[error("the event is of another room")]
    OtherRoom,
    #[error("the check was broken off")]
    BrokenOff,
}

/// Checks one event.
pub async fn verify_event(
    keys: &ServerKeys,
    rules: &'static RoomRules,
    json: &str,
) -> Result<Result<Arc<Event>, Dropped>, StorageError> {
    let mut results = verify_events(keys, rules, vec![json.to_owned()]).await?;
    Ok(results.pop().unwrap_or(Err(Dropped::BrokenOff)))
}

/// Checks events of one room version; the results are in their order.
pub async fn verify_events(
    keys: &ServerKeys,
    rules: &'static RoomRules,
    texts: Vec<String>,
) -> Result<Vec<Result<Arc<Event>, Dropped>>, StorageError> {
    let checked = verify_named_events(keys, rules, texts).await?;
    Ok(checked.into_iter().map(|(_, result)| result).collect())
}

/// The ID of what was received, if it is an event at all, and what became of it.
pub type Checked = (Option<OwnedEventId>, Result<Arc<Event>, Dropped>);

/// As [`verify_events`], with the IDs of those too that are dropped.
pub async fn verify_named_events(
    keys: &ServerKeys,
    rules: &'static RoomRules,
    texts: Vec<String>,
) -> Result<Vec<Checked>, StorageError> {
    let count = texts.len();
    let parsed = run_chunks(texts, move |text| Ok(ReceivedEvent::parse(&text, rules)?)).await;
    let id_of = |received: &ReceivedEvent| received.unverified().event_id().to_owned();
    let ids: Vec<_> = parsed.iter().map(|parsed| parsed.as_ref().ok().map(id_of)).collect();
    let wanted = parsed.iter().flatten().flat_map(|received: &ReceivedEvent| {
        let signed_ts = received.unverified().origin_server_ts();
        let required = received.list_required_signatures(rules);
        required.into_iter().flat_map(move |required| {
            let server = required.server;
            let key = move |key_id| WantedKey { server: server.clone(), key_id, signed_ts };
            required.key_ids.into_iter().map(key)
        })
    });
    let ring = Arc::new(keys.load_ring(wanted.collect::<Vec<_>>()).await?);
    let verified = run_chunks(parsed, move |received| {
        let event = received?.verify(rules, &ring.for_rules(rules))?;
        Ok(Arc::new(event))
    });
    let mut results = verified.await;
    results.resize_with(count, || Err(Dropped::BrokenOff));
    Ok(ids.into_iter().zip(results).collect())
}

/// As [`verify_events`]; what is not good is left out, and so is what belongs to another room.
pub async fn keep_verified(
    keys: &ServerKeys,
    rules: &'static RoomRules,
    room_id: &RoomId,
    texts: Vec<String>,
) -> Result<Vec<Arc<Event>>, StorageError> {
    let results = verify_events(keys, rules, texts).await?;
    let mut events = Vec::with_capacity(results.len());
    for result in results {
        match result {
            Ok(event) if event.room_id() == room_id => events.push(event),
            Ok(event) => {
                tracing::debug!(room.id = %room_id, event.id = %event.event_id(), "an event is of another room");
            }
            Err(error) => {
                tracing::debug!(room.id = %room_id, %error, "an event is dropped");
            }
        }
    }
    Ok(events)
}

/// The texts of events in an answer.
pub fn to_texts(events: Vec<Box<RawValue>>) -> Vec<String> {
    events.into_iter().map(|raw| Box::<str>::from(raw).into_string()).collect()
}

/// Works through the items off the runtime, in parallel, keeping their order.
async fn run_chunks<T, R>(
    items: Vec<T>,
    work: impl Fn(T) -> Result<R, Dropped> + Send + Sync + 'static,
) -> Vec<Result<R, Dropped>>
where
    T: Send + 'static,
    R: Send + 'static,
{
    // A few events are checked sooner than a thread takes them over.
    if items.len() <= 2 {
        return items.into_iter().map(work).collect();
    }
    let work = Arc::new(work);
    let mut items = items.into_iter();
    let mut tasks = Vec::new();
    loop {
        let chunk: Vec<T> = items.by_ref().take(CHUNK_EVENTS).collect();
        if chunk.is_empty() {
            break;
        }
        let (work, length) = (Arc::clone(&work), chunk.len());
        let task = tokio::task::spawn_blocking(move || {
            chunk.into_iter().map(|item| work(item)).collect::<Vec<_>>()
        });
        tasks.push((task, length));
    }
    let mut results = Vec::new();
    for (task, length) in tasks {
        match task.await {
            Ok(chunk) => results.extend(chunk),
            Err(_) => results.extend((0..length).map(|_| Err(Dropped::BrokenOff))),
        }
    }
    results
}
