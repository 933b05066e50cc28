//! Transactions of other servers (server-server API, "Transactions"): each event has its own
//! result, the events of one room are taken in order, and no room waits for another.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
};

use futures_util::future;
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};
use tokio::sync::OnceCell;

use super::{Federation, verify::verify_named_events};
use crate::{
    protocol::{event::Event, server_acl::is_server_allowed},
    rooms::{ReceiveError, Room, Verdict},
    storage::StorageError,
};

/// "They can have at most 50 PDUs and 100 EDUs."
pub const PDUS_MAX: usize = 50;
pub const EDUS_MAX: usize = 100;
/// Transactions of one server that wait for each other. An honest server has one under way.
const WAITING_MAX: usize = 8;
/// How often an event is tried in a room that changes under its hands.
const ATTEMPTS_MAX: usize = 3;

/// The body of `PUT /send/{txnId}`.
#[derive(Debug, Deserialize)]
pub struct Transaction {
    pub pdus: Vec<Box<RawValue>>,
    #[serde(default)]
    pub edus: Vec<Value>,
}

/// Why a transaction was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    #[error("a transaction has at most {PDUS_MAX} PDUs and {EDUS_MAX} EDUs")]
    TooLarge,
    #[error("too many transactions of this server are under way")]
    TooMany,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// One transaction of a server at a time. Clones share it.
#[derive(Clone, Default)]
pub struct OriginLocks(Arc<Mutex<HashMap<OwnedServerName, Weak<tokio::sync::Mutex<()>>>>>);

impl OriginLocks {
    /// The lock of a server; `None` when too many wait for it already.
    fn find(&self, origin: &ServerName) -> Option<Arc<tokio::sync::Mutex<()>>> {
        let mut locks = self.0.lock();
        if let Some(lock) = locks.get(origin).and_then(Weak::upgrade) {
            return (Arc::strong_count(&lock) <= WAITING_MAX).then_some(lock);
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(origin.to_owned(), Arc::downgrade(&lock));
        Some(lock)
    }
}

/// What is known of an event before it is checked.
#[derive(Deserialize)]
struct RoomOfPdu {
    room_id: Option<OwnedRoomId>,
}

/// A transaction on its way in.
struct Delivery<'a> {
    origin: &'a ServerName,
    transaction_id: &'a str,
    /// Set when it is certain that it was not answered before.
    is_new: OnceCell<()>,
}

/// Why a transaction is not looked through to its end.
enum Stop {
    /// It was answered before, like this.
    Answered(String),
    Failed(StorageError),
}

impl From<StorageError> for Stop {
    fn from(error: StorageError) -> Self {
        Self::Failed(error)
    }
}

/// The error of each event that was not taken; `None` for the others.
type Results = BTreeMap<OwnedEventId, Option<String>>;

impl Federation {
    /// Takes a transaction and answers it, a repeated one as before. Returns when what is in it is
    /// durable.
    pub async fn receive_transaction(
        &self,
        origin: &ServerName,
        transaction_id: &str,
        transaction: Transaction,
    ) -> Result<String, TransactionError> {
        if transaction.pdus.len() > PDUS_MAX || transaction.edus.len() > EDUS_MAX {
            return Err(TransactionError::TooLarge);
        }
        // There is nothing to do twice, and nothing to remember.
        if transaction.pdus.is_empty() && transaction.edus.is_empty() {
            return Ok(json!({ "pdus": {} }).to_string());
        }
        let lock = self.origin_locks().find(origin).ok_or(TransactionError::TooMany)?;
        let _guard = lock.lock().await;
        if let Some(answer) = self.find_latest_answer(origin, transaction_id) {
            return Ok(answer);
        }
        metrics::counter!("hearth_federation_received_pdus_total")
            .increment(transaction.pdus.len() as u64);
        metrics::counter!("hearth_federation_received_edus_total")
            .increment(transaction.edus.len() as u64);
        let delivery = Delivery { origin, transaction_id, is_new: OnceCell::new() };
        match self.receive_contents(&delivery, transaction).await {
            Ok(results) => {
                let answer = json!({ "pdus": write_results(results) }).to_string();
                self.keep_answer(origin, transaction_id, &answer);
                Ok(answer)
            }
            Err(Stop::Answered(answer)) => Ok(answer),
            Err(Stop::Failed(error)) => Err(error.into()),
        }
    }

    async fn receive_contents(
        &self,
        delivery: &Delivery<'_>,
        transaction: Transaction,
    ) -> Result<Results, Stop> {
        let results = self.receive_pdus(delivery, transaction.pdus).await?;
        if !transaction.edus.is_empty() {
            self.ensure_new(delivery).await?;
            self.receive_edus(delivery.origin, transaction.edus).await?;
        }
        Ok(results)
    }

    /// Ends a transaction that was answered before. Whether it was is asked of the database only when no event of
    /// it was new: what was answered was also kept, or will be refused again.
    async fn ensure_new(&self, delivery: &Delivery<'_>) -> Result<(), Stop> {
        let find_earlier = async || {
            let earlier = self.find_saved_answer(delivery.origin, delivery.transaction_id).await?;
            earlier.map_or(Ok(()), |answer| Err(Stop::Answered(answer)))
        };
        delivery.is_new.get_or_try_init(find_earlier).await.copied()
    }

    async fn receive_pdus(
        &self,
        delivery: &Delivery<'_>,
        pdus: Vec<Box<RawValue>>,
    ) -> Result<Results, Stop> {
        let mut by_room: BTreeMap<OwnedRoomId, Vec<String>> = BTreeMap::new();
        for pdu in pdus {
            // An event without a room has no version either, and so not even an ID.
            let room: Option<RoomOfPdu> = serde_json::from_str(pdu.get()).ok();
            if let Some(room_id) = room.and_then(|room| room.room_id) {
                by_room.entry(room_id).or_default().push(Box::<str>::from(pdu).into_string());
            }
        }
        let rooms = by_room.into_iter().map(|(room_id, texts)| {
            Box::pin(async move { self.receive_room_pdus(delivery, &room_id, texts).await })
        });
        let mut results = Results::new();
        for of_room in future::join_all(rooms).await {
            results.extend(of_room?);
        }
        Ok(results)
    }

    async fn receive_room_pdus(
        &self,
        delivery: &Delivery<'_>,
        room_id: &RoomId,
        texts: Vec<String>,
    ) -> Result<Results, Stop> {
        let origin = delivery.origin;
        self.0.entries.wait(room_id).await;
        let Some(room) = self.rooms().find(room_id).await? else {
            tracing::debug!(room.id = %room_id, server.name = %origin, "events of an unknown room");
            return Ok(Results::new());
        };
        if let Some(reason) = self.find_refusal(origin, &room).await? {
            let parsed = texts.iter().filter_map(|text| Event::parse(text, room.rules).ok());
            let refused = parsed.map(|event| (event.event_id().to_owned(), Some(reason.clone())));
            return Ok(refused.collect());
        }
        let mut results = Results::new();
        let mut events = Vec::with_capacity(texts.len());
        for (named, checked) in verify_named_events(self.keys(), room.rules, texts).await? {
            match (named, checked) {
                (_, Ok(event)) => events.push(event),
                (Some(id), Err(dropped)) => {
                    results.insert(id, Some(dropped.to_string()));
                }
                // What is not even an event has no ID to answer with.
                (None, Err(_)) => {}
            }
        }
        results.extend(self.take_in_order(delivery, &room, events).await?);
        for (id, reason) in &results {
            if let Some(reason) = reason {
                tracing::debug!(room.id = %room_id, event.id = %id, reason, "an event was not taken");
            }
        }
        Ok(results)
    }

    /// Takes events one after the other, those at once that simply follow one another.
    async fn take_in_order(
        &self,
        delivery: &Delivery<'_>,
        room: &Arc<Room>,
        events: Vec<Arc<Event>>,
    ) -> Result<Results, Stop> {
        let mut results = Results::new();
        let mut rest = events.as_slice();
        while let Some(first) = rest.first() {
            let taken = match self.rooms().receive_procession(room, rest).await {
                Ok(taken) => taken,
                Err(ReceiveError::Storage(error)) => return Err(error.into()),
                Err(_) => 0,
            };
            let (at_once, others) = rest.split_at(taken);
            results.extend(at_once.iter().map(|event| (event.event_id().to_owned(), None)));
            rest = others;
            if taken > 0 {
                // Nobody had heard of these, so this is no repetition.
                let _ = delivery.is_new.set(());
            } else {
                self.ensure_new(delivery).await?;
                let result = self.receive_pdu(delivery.origin, room, Arc::clone(first)).await?;
                results.insert(first.event_id().to_owned(), result);
                rest = &rest[1..];
            }
        }
        // Who speaks can be asked, even if nobody could for a while.
        self.complete_later(room);
        Ok(results)
    }

    /// Why no event of this server is taken in the room at all.
    async fn find_refusal(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
    ) -> Result<Option<String>, StorageError> {
        // In a room that this server is not in, an invitation of its users may still be taken back.
        let head = room.head();
        let acl = head.find_pinned("m.room.server_acl").map(|stored| &*stored.event);
        let is_allowed = is_server_allowed(acl, origin);
        Ok((!is_allowed).then(|| "Your server is not allowed to take part in the room.".to_owned()))
    }

    async fn receive_pdu(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
        event: Arc<Event>,
    ) -> Result<Option<String>, StorageError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.rooms().receive(origin, room, Arc::clone(&event)).await {
                // Soft-failed events have been dealt with; nobody should send them again. Those that wait
                // are kept, and judged when what they lack has come.
                Ok(Verdict::Accepted | Verdict::SoftFailed(_) | Verdict::Known) => return Ok(None),
                Ok(Verdict::Waiting(missing)) => {
                    let (id, missing) = (event.event_id(), missing.len());
                    tracing::debug!(room.id = %room.room_id, event.id = %id, missing, "an event waits");
                    self.ask_again_later(&room.room_id);
                    return Ok(None);
                }
                // What is not allowed by the part of a state may be by the whole of it.
                Ok(Verdict::Rejected(reason)) if room.head().partial().is_some() => {
                    let id = event.event_id();
                    tracing::debug!(room.id = %room.room_id, event.id = %id, reason, "rejected for now");
                    return Ok(None);
                }
                Ok(Verdict::Rejected(reason)) => return Ok(Some(reason)),
                Err(ReceiveError::Contended) if attempts < ATTEMPTS_MAX => {}
                Err(ReceiveError::Storage(error)) => return Err(error),
                Err(error) => return Ok(Some(error.to_string())),
            }
        }
    }
}

fn write_results(results: Results) -> Map<String, Value> {
    let result = |(id, error): (OwnedEventId, Option<String>)| {
        let value = error.map_or(json!({}), |error| json!({ "error": error }));
        (id.to_string(), value)
    };
    results.into_iter().map(result).collect()
}
