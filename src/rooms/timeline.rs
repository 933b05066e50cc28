//! Reading a room's events in the order of the room. Says nothing about who may see them.

use std::sync::Arc;

use super::{
    event_store::StoredEvent,
    recent::{RECENT_EVENTS_MAX, StateChange},
    registry::Rooms,
    room::Room,
    state::State,
};
use crate::storage::{self, EventNid, ORDERING_STEP, StorageError};

/// Events of a room, oldest first.
pub struct TimelinePart {
    pub events: Vec<Arc<StoredEvent>>,
    /// Whether there are further events in the range, older than these.
    pub has_older: bool,
}

impl Rooms {
    /// The latest `limit` events with `after < ordering <= upto`, without those before a gap in what is
    /// known here.
    pub async fn latest_between(
        &self,
        room: &Room,
        after: i64,
        upto: i64,
        limit: usize,
    ) -> Result<TimelinePart, StorageError> {
        let mut part = self.latest_known_between(room, after, upto, limit).await?;
        let gaps: Vec<_> =
            part.events.iter().enumerate().filter(|(_, event)| event.has_gap()).collect();
        for (place, event) in gaps.into_iter().rev() {
            if storage::graph::has_missing(&self.0.database, room.nid, event.nid).await? {
                part.events.drain(..place);
                part.has_older = true;
                break;
            }
        }
        Ok(part)
    }

    async fn latest_known_between(
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

    /// Changes of the current state with `after < ordering < before`, oldest first; 0 stands for no
    /// event.
    pub async fn list_state_changes(
        &self,
        room: &Room,
        range: (i64, i64),
    ) -> Result<Vec<StateChange>, StorageError> {
        if let Some(changes) = room.recent_changes(range) {
            return Ok(changes);
        }
        storage::events::list_state_changes(&self.0.database, room.nid, range).await
    }

    /// The room's current state before the first event at or above a place.
    pub async fn state_at(&self, room: &Room, ordering: i64) -> Result<Arc<State>, StorageError> {
        let head = room.head();
        let latest = head.extremities.iter().map(|event| event.ordering()).max().unwrap_or(0);
        if ordering > latest {
            return Ok(Arc::new(head.state.clone()));
        }
        let next = self.list_forwards(room, (ordering - 1, i64::MAX), 1).await?;
        match next.first() {
            Some(next) if !next.is_forked() => return self.load_state(next.state_nid).await,
            Some(_) => {}
            None => return Ok(Arc::new(head.state.clone())),
        }
        let before = self.list_backwards(room, (i64::MIN, ordering), 1).await?;
        let Some(before) = before.first() else {
            return Ok(Arc::default());
        };
        let database = &self.0.database;
        match storage::graph::find_fork(database, room.nid, before.ordering()).await? {
            Some(nid) => self.load_state(nid).await,
            None => Ok(Arc::new(self.state_after(room, before).await?.0)),
        }
    }

    /// The event closest to a time (`timestamp_to_event`).
    pub async fn find_by_time(
        &self,
        room: &Room,
        timestamp_ms: i64,
        forwards: bool,
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        let place = place_beside(timestamp_ms, forwards);
        Ok(self.list_by_time(room, place, forwards, 1).await?.pop())
    }

    /// Events behind a time and place in the room in a direction, by time (see [`place_beside`]).
    pub(super) async fn list_by_time(
        &self,
        room: &Room,
        place: (i64, i64),
        forwards: bool,
        limit: usize,
    ) -> Result<Vec<Arc<StoredEvent>>, StorageError> {
        let database = &self.0.database;
        let found =
            storage::events::list_by_time(database, room.nid, place, forwards, limit).await?;
        self.0.events.load(room.facts(), &found).await
    }

    /// The event with this ID, if it belongs to the room and was accepted, or sticks to it.
    pub async fn find_event(
        &self,
        room: &Room,
        event_id: &ruma::EventId,
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        let Some(nid) = self.0.events.find_nid(event_id).await? else {
            return Ok(None);
        };
        let event = self.load_of_room(room, nid).await?;
        let is_shown = |event: &Arc<StoredEvent>| !event.is_hidden() || self.is_shown_sticky(event);
        Ok(event.filter(is_shown))
    }

    /// The room of an event that this server has.
    pub async fn find_room_of_event(
        &self,
        event_id: &ruma::EventId,
    ) -> Result<Option<Arc<Room>>, StorageError> {
        let Some(nid) = self.0.events.find_nid(event_id).await? else {
            return Ok(None);
        };
        let rows = crate::storage::events::list(self.database(), &[nid]).await?;
        let nids: Vec<_> = rows.iter().map(|row| row.room_nid).collect();
        Ok(self.load_all(&nids).await?.into_iter().next())
    }

    /// The event with this number, if it is one of the room.
    pub(super) async fn load_of_room(
        &self,
        room: &Room,
        nid: EventNid,
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        if let Some(event) = self.0.events.find_cached(nid) {
            return Ok(Some(event).filter(|event| event.room_nid == room.nid));
        }
        let mut rows = storage::events::list(&self.0.database, &[nid]).await?;
        rows.retain(|row| row.room_nid == room.nid);
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
        let (above, generation) = room.recent_complete_above();
        if above == i64::MIN || room.recent(RECENT_EVENTS_MAX / 2).is_some() {
            return Ok(());
        }
        let limit = RECENT_EVENTS_MAX;
        let events = self.list_backwards(room, (i64::MIN, above + 1), limit).await?;
        room.extend_recent(&events, events.len() < limit, generation);
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

/// The time and place right beside all events of a time, on the side from which a search comes.
pub(super) fn place_beside(timestamp_ms: i64, forwards: bool) -> (i64, i64) {
    match forwards {
        true => (timestamp_ms.saturating_sub(1), i64::MAX),
        false => (timestamp_ms.saturating_add(1), i64::MIN),
    }
}

/// The place in a room of the latest event that a stream position covers.
pub fn ordering_of_position(position: i64) -> i64 {
    position.saturating_mul(ORDERING_STEP)
}

/// The place in the stream of a live event, by its place in its room: undoes [`ordering_of_position`].
pub fn position_of_ordering(ordering: i64) -> i64 {
    ordering / ORDERING_STEP
}
