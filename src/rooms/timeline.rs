//! Reading a room's events in the order of the room. Says nothing about who may see them.

use std::sync::Arc;

use super::{
    event_store::StoredEvent,
    registry::Rooms,
    room::{RECENT_EVENTS_MAX, Room},
};
use crate::storage::{self, EventNid, ORDERING_STEP, StateKeyNid, StorageError};

/// Events of a room, oldest first.
pub struct TimelinePart {
    pub events: Vec<Arc<StoredEvent>>,
    /// Whether there are further events in the range, older than these.
    pub has_older: bool,
}

impl Rooms {
    /// The latest `limit` events with `after < ordering <= upto`.
    pub async fn latest_between(
        &self,
        room: &Room,
        after: i64,
        upto: i64,
        limit: usize,
    ) -> Result<TimelinePart, StorageError> {
        if let Some(events) = room.recent_above(after) {
            return Ok(last_of(events, upto, limit, false));
        }
        if limit <= RECENT_EVENTS_MAX / 2 {
            self.fill_recent(room).await?;
            if let Some((events, has_older)) = room.recent(RECENT_EVENTS_MAX) {
                let reaches_below = events.first().is_some_and(|first| first.ordering() <= after);
                let within = |event: &&Arc<StoredEvent>| {
                    event.ordering() > after && event.ordering() <= upto
                };
                let within: Vec<_> = events.iter().filter(within).cloned().collect();
                let cut = has_older && !reaches_below;
                if !cut || within.len() >= limit {
                    return Ok(last_of(within, upto, limit, cut));
                }
            }
        }
        let mut events = self.list_backwards(room, (after, upto + 1), limit + 1).await?;
        let has_older = events.len() > limit;
        events.truncate(limit);
        events.reverse();
        Ok(TimelinePart { events, has_older })
    }

    /// Events with `after < ordering < before`, newest first.
    pub async fn list_backwards(
        &self,
        room: &Room,
        range: (i64, i64),
        limit: usize,
    ) -> Result<Vec<Arc<StoredEvent>>, StorageError> {
        let database = &self.0.database;
        let rows = storage::events::list_backwards(database, room.nid, range, limit).await?;
        self.0.events.read_rows(room.facts(), rows).await
    }

    /// Events with `after < ordering < before`, oldest first.
    pub async fn list_forwards(
        &self,
        room: &Room,
        range: (i64, i64),
        limit: usize,
    ) -> Result<Vec<Arc<StoredEvent>>, StorageError> {
        let database = &self.0.database;
        let rows = storage::events::list_forwards(database, room.nid, range, limit).await?;
        self.0.events.read_rows(room.facts(), rows).await
    }

    /// State changes with `after < ordering < before`, oldest first.
    pub async fn list_state_changes(
        &self,
        room: &Room,
        range: (i64, i64),
    ) -> Result<Vec<(StateKeyNid, EventNid)>, StorageError> {
        if let Some(events) = room.recent_above(range.0) {
            let changes = events.iter().filter(|event| event.ordering() < range.1);
            return Ok(changes.filter_map(|e| Some((e.state_key_nid?, e.nid))).collect());
        }
        storage::events::list_state_changes(&self.0.database, room.nid, range).await
    }

    /// The event closest to a time (`timestamp_to_event`).
    pub async fn find_by_time(
        &self,
        room: &Room,
        timestamp_ms: i64,
        forwards: bool,
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        let database = &self.0.database;
        let found =
            storage::events::find_by_time(database, room.nid, timestamp_ms, forwards).await?;
        match found {
            Some(nid) => self.0.events.load_one(room.facts(), nid).await.map(Some),
            None => Ok(None),
        }
    }

    /// The event with this ID, if it belongs to the room and was accepted.
    pub async fn find_event(
        &self,
        room: &Room,
        event_id: &ruma::EventId,
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        let Some(nid) = self.0.events.find_nid(event_id).await? else {
            return Ok(None);
        };
        let database = &self.0.database;
        if let Some(event) = self.0.events.find_cached(nid) {
            return Ok(Some(event).filter(|event| event.room_nid == room.nid));
        }
        let rows = storage::events::list(database, &[nid]).await?;
        let rows: Vec<_> =
            rows.into_iter().filter(|row| row.room_nid == room.nid && row.flags & 7 == 0).collect();
        Ok(self.0.events.read_rows(room.facts(), rows).await?.pop())
    }

    /// The event with this key, if it belongs to the room and was accepted.
    pub(super) async fn find_by_key(
        &self,
        room: &Room,
        key: &[u8],
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        match super::event_store::event_id_of_key(key, room.rules) {
            Ok(event_id) => self.find_event(room, &event_id).await,
            Err(_) => Ok(None),
        }
    }

    /// Reads the room's latest events into memory, once.
    async fn fill_recent(&self, room: &Room) -> Result<(), StorageError> {
        let above = room.recent_complete_above();
        if above <= 0 || room.recent(RECENT_EVENTS_MAX / 2).is_some() {
            return Ok(());
        }
        let limit = RECENT_EVENTS_MAX;
        let events = self.list_backwards(room, (i64::MIN, above + 1), limit).await?;
        room.extend_recent(&events, events.len() < limit);
        Ok(())
    }
}

fn last_of(
    mut events: Vec<Arc<StoredEvent>>,
    upto: i64,
    limit: usize,
    has_older: bool,
) -> TimelinePart {
    events.retain(|event| event.ordering() <= upto);
    let skipped = events.len().saturating_sub(limit);
    events.drain(..skipped);
    TimelinePart { events, has_older: has_older || skipped > 0 }
}

/// The place in a room of the latest event that a stream position covers.
pub fn ordering_of_position(position: i64) -> i64 {
    position.saturating_mul(ORDERING_STEP)
}
