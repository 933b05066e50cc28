//! Sending one event, idempotently (client-server API, "Sending events to a room").

use std::sync::Arc;

use super::{
    append::{AppendError, EventRequest},
    event_store::StoredEvent,
    registry::Rooms,
    room::Room,
    transactions::{Earlier, SentBy},
};
use crate::storage;

impl Rooms {
    /// Appends the event, or answers a repeated transaction with the event that it made.
    pub async fn send(
        &self,
        room: &Arc<Room>,
        request: EventRequest,
    ) -> Result<Arc<StoredEvent>, AppendError> {
        let requests = [request];
        loop {
            if let Some(sent_by) = &requests[0].sent_by
                && let Some(event) = self.find_sent(room, sent_by).await?
            {
                return Ok(event);
            }
            match self.append(room, &requests, None).await {
                // Its twin was faster; wait for what becomes of it.
                Err(AppendError::Repeated) => {}
                Err(error) => return Err(error),
                Ok(mut events) => return events.pop().ok_or(AppendError::Contended),
            }
        }
    }

    /// The event that an earlier request with the same transaction made.
    pub async fn find_repeated(
        &self,
        room: &Room,
        request: &EventRequest,
    ) -> Result<Option<Arc<StoredEvent>>, AppendError> {
        match &request.sent_by {
            Some(sent_by) => self.find_sent(room, sent_by).await,
            None => Ok(None),
        }
    }

    /// The event that the same transaction made before, once it is durable.
    async fn find_sent(
        &self,
        room: &Room,
        sent_by: &SentBy,
    ) -> Result<Option<Arc<StoredEvent>>, AppendError> {
        let engine = &self.0;
        let hash = sent_by.hash();
        let device = engine.transactions.of_device(&engine.database, sent_by).await?;
        let nid = match device.find(hash) {
            Some(Earlier::Committed(nid)) => nid,
            Some(Earlier::Pending(nid, mut done)) => {
                let outcome = done.wait_for(Option::is_some).await;
                match outcome.is_ok_and(|outcome| *outcome == Some(true)) {
                    true => nid,
                    false => return Ok(None),
                }
            }
            None if device.is_incomplete() => {
                let range = (hash, hash);
                let rows = storage::events::list_transactions(&engine.database, range, 1).await?;
                match rows.first() {
                    Some((_, nid)) => *nid,
                    None => return Ok(None),
                }
            }
            None => return Ok(None),
        };
        let event = self.load_of_room(room, nid).await?;
        // The hash has 62 bits: what the event itself says decides.
        Ok(event.filter(|event| {
            event.sent_by.as_deref() == Some(&*sent_by.to_bytes())
                && event.event.sender() == sent_by.user_id
        }))
    }
}
