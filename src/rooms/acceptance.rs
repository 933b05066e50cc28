//! What others add to the commit of new events: push rules are judged at acceptance, with the
//! state of that moment. Rooms own the trait and know nothing of what is done with it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use ruma::OwnedUserId;

use super::{EventRequest, Head, Room, Rooms, StoredEvent};
use crate::storage::{StorageError, WriteTx};

/// Takes part in every append.
pub trait AcceptanceHook: Send + Sync {
    /// Reads what judging these requests will need. No lock is held. `room` is None for the first
    /// events of a new room.
    fn prepare<'a>(
        &'a self,
        rooms: &'a Rooms,
        room: Option<&'a Arc<Room>>,
        requests: &'a [EventRequest],
    ) -> BoxFuture<'a, Result<Box<dyn Acceptance>, StorageError>>;
}

/// What one append adds to its commit.
pub trait Acceptance: Send + Sync {
    /// Adds rows and hooks for the events, which are going to be committed unless the database
    /// fails. Called under the room's lock: it must be quick.
    fn accept(&self, accepted: &Accepted<'_>, tx: &mut WriteTx);
}

/// Several hooks as one.
pub struct AcceptanceHooks(pub Vec<Arc<dyn AcceptanceHook>>);

struct Acceptances(Vec<Box<dyn Acceptance>>);

impl AcceptanceHook for AcceptanceHooks {
    fn prepare<'a>(
        &'a self,
        rooms: &'a Rooms,
        room: Option<&'a Arc<Room>>,
        requests: &'a [EventRequest],
    ) -> BoxFuture<'a, Result<Box<dyn Acceptance>, StorageError>> {
        Box::pin(async move {
            let mut acceptances = Vec::with_capacity(self.0.len());
            for hook in &self.0 {
                acceptances.push(hook.prepare(rooms, room, requests).await?);
            }
            Ok(Box::new(Acceptances(acceptances)) as Box<dyn Acceptance>)
        })
    }
}

impl Acceptance for Acceptances {
    fn accept(&self, accepted: &Accepted<'_>, tx: &mut WriteTx) {
        self.0.iter().for_each(|acceptance| acceptance.accept(accepted, tx));
    }
}

/// The events of one append.
pub struct Accepted<'a> {
    pub room: &'a Arc<Room>,
    /// Where the room stands behind them.
    pub head: &'a Head,
    /// One for each request.
    pub events: &'a [Arc<StoredEvent>],
    /// The positions of the events, counted within the job.
    pub positions: &'a [u32],
    /// Who was no member before and is one now, by which of the events.
    pub joined: &'a [(OwnedUserId, usize)],
    /// Events that were redacted, as they are now, by which of the events.
    pub redacted: &'a [(Arc<StoredEvent>, usize)],
}
