//! What other servers may ask of a room's graph: state at an event, authorisation chains, events
//! backwards, events between (server-server API, "Retrieving events", "Backfilling and retrieving
//! missing events"). Not for who may ask: whether the server is in the room is for the caller.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, ServerName};

use super::{
    event_store::{StoredEvent, event_id_of_key},
    registry::Rooms,
    room::Room,
    server_view::ServerView,
    state::State,
};
use crate::{
    protocol::event::Event,
    storage::{self, EventNid, StorageError},
};

/// Events in one answer of `backfill`.
pub const BACKFILL_EVENTS_MAX: usize = 100;
/// Events that one authorisation chain may have before an answer is refused.
pub const AUTH_CHAIN_EVENTS_MAX: usize = 200_000;
/// Events of a state read at once.
const STATE_CHUNK: usize = 500;
/// Events looked at for one answer, per event asked for: rejected ones lie between.
const SCAN_FACTOR: usize = 4;

impl Rooms {
    /// The state before an event of the graph (not an outlier); None when it is not known here, or not
    /// wholly.
    /// Shared and cheap; read its events with [`Rooms::load_state_events`].
    pub async fn state_before(
        &self,
        room: &Room,
        event: &EventId,
    ) -> Result<Option<Arc<State>>, StorageError> {
        match self.find_any_event(room, event).await? {
            Some(event) if event.is_in_graph() => {
                match self.is_partial_event(room, event.nid).await? {
                    true => Ok(None),
                    false => self.load_state(event.state_nid).await.map(Some),
                }
            }
            _ => Ok(None),
        }
    }

    /// The events of a state, in no particular order, in chunks so that big ones can be streamed:
    /// `chunk` counts from 0, an empty answer is the end.
    pub async fn load_state_events(
        &self,
        room: &Room,
        state: &State,
        chunk: usize,
    ) -> Result<Vec<Arc<StoredEvent>>, StorageError> {
        let nids: Vec<EventNid> =
            state.iter().skip(chunk * STATE_CHUNK).take(STATE_CHUNK).map(|(_, nid)| nid).collect();
        self.0.events.load(room.facts(), &nids).await
    }

    /// The authorisation chain of these events of the room, without themselves unless one is in
    /// another's chain; at most [`AUTH_CHAIN_EVENTS_MAX`]. What is not known is passed over.
    pub async fn list_auth_chain(
        &self,
        room: &Room,
        events: &[EventNid],
    ) -> Result<Vec<EventNid>, StorageError> {
        let mut chain = Vec::new();
        let mut seen: HashSet<EventNid> = HashSet::new();
        let (mut level, mut is_behind) = (events.to_vec(), false);
        while !level.is_empty() && chain.len() < AUTH_CHAIN_EVENTS_MAX {
            let mut named: HashSet<OwnedEventId> = HashSet::new();
            for step in level.chunks(STATE_CHUNK) {
                for event in self.0.events.load_own(room.facts(), step).await? {
                    if is_behind {
                        chain.push(event.nid);
                    }
                    for id in event.event.auth_events() {
                        // Most name the same few.
                        if !named.contains(id) {
                            named.insert(id.to_owned());
                        }
                    }
                }
            }
            let found = self.0.events.find_nids(named.iter().map(|id| &**id)).await?;
            level = found.into_values().filter(|nid| seen.insert(*nid)).collect();
            is_behind = true;
        }
        chain.truncate(AUTH_CHAIN_EVENTS_MAX);
        Ok(chain)
    }

    /// The IDs of events of the room.
    pub async fn list_event_ids(
        &self,
        room: &Room,
        events: &[EventNid],
    ) -> Result<Vec<OwnedEventId>, StorageError> {
        let mut ids = Vec::with_capacity(events.len());
        for step in events.chunks(STATE_CHUNK) {
            let step = self.0.events.load(room.facts(), step).await?;
            ids.extend(step.iter().map(|event| event.event.event_id().to_owned()));
        }
        Ok(ids)
    }

    /// These events and what came before them, newest first, at most `limit` (itself at most
    /// [`BACKFILL_EVENTS_MAX`]), as `server` may see them (`GET /backfill`): what it may not see it
    /// gets redacted. Rejected events are left out, soft-failed ones only come behind events that
    /// name them.
    pub async fn events_backwards(
        &self,
        room: &Arc<Room>,
        from: &[OwnedEventId],
        limit: usize,
        server: &ServerName,
    ) -> Result<Vec<Arc<Event>>, StorageError> {
        let limit = limit.min(BACKFILL_EVENTS_MAX);
        let mut walk = Walk::default();
        let start = self.load_here(room, from.iter().map(|id| &**id)).await?;
        let asked: HashSet<EventNid> = start.values().map(|event| event.nid).collect();
        walk.add(start.into_values());
        let mut view = ServerView::new(self, room, server);
        let mut found = Vec::new();
        while let Some(event) = walk.next()
            && found.len() < limit
            && walk.seen.len() < limit.max(1) * SCAN_FACTOR * STATE_CHUNK
        {
            walk.add(self.load_here(room, event.event.prev_events()).await?.into_values());
            let is_asked_only = event.is_hidden() && asked.contains(&event.nid);
            if !event.is_rejected() && !is_asked_only {
                found.push(view.show(&event).await?);
            }
        }
        Ok(found)
    }

    /// The events between `earliest` and `latest` without both ends, oldest first, at most `limit`,
    /// as `server` may see them (`POST /get_missing_events`: "a breadth-first walk of the `prev_events`").
    /// The closest ones come, also where a short branch meets a long one.
    pub async fn missing_events(
        &self,
        room: &Arc<Room>,
        latest: &[OwnedEventId],
        earliest: &[OwnedEventId],
        (limit, min_depth): (usize, i64),
        server: &ServerName,
    ) -> Result<Vec<Arc<Event>>, StorageError> {
        let known = self.load_here(room, earliest.iter().map(|id| &**id)).await?;
        let ends = self.load_here(room, latest.iter().map(|id| &**id)).await?;
        let mut level: Vec<Arc<StoredEvent>> = ends.into_values().collect();
        let all_known = known.values().chain(&level);
        let mut seen: HashSet<EventNid> = all_known.map(|event| event.nid).collect();
        let seen_max = limit.max(1) * SCAN_FACTOR * STATE_CHUNK;
        let mut found: Vec<Arc<StoredEvent>> = Vec::new();
        while !level.is_empty() && found.len() < limit && seen.len() < seen_max {
            let named = level.iter().flat_map(|event| event.event.prev_events());
            let mut next: Vec<_> = self.load_here(room, named).await?.into_values().collect();
            next.retain(|event| {
                let is_wanted = event.is_in_graph() && event.event.depth() >= min_depth;
                is_wanted && seen.insert(event.nid)
            });
            next.sort_by_key(|event| Reverse((event.event.depth(), event.nid)));
            found.extend(next.iter().filter(|event| !event.is_rejected()).cloned());
            level = next;
        }
        found.truncate(limit);
        found.sort_by_key(|event| (event.event.depth(), event.nid));
        let mut view = ServerView::new(self, room, server);
        let mut shown = Vec::with_capacity(found.len());
        for event in &found {
            shown.push(view.show(event).await?);
        }
        Ok(shown)
    }

    /// A single event as `server` may see it, redacted where it may not (`GET /event`), with its
    /// room. None when it is not known or was rejected.
    pub async fn event_for_server(
        &self,
        id: &EventId,
        server: &ServerName,
    ) -> Result<Option<(Arc<Room>, Arc<Event>)>, StorageError> {
        let Some(nid) = self.0.events.find_nid(id).await? else {
            return Ok(None);
        };
        let Some(room_nid) = storage::events::find_room(&self.0.database, nid).await? else {
            return Ok(None);
        };
        let Some(room) = self.load_all(&[room_nid]).await?.pop() else {
            return Ok(None);
        };
        let Some(event) = self.load_of_room(&room, nid).await? else {
            return Ok(None);
        };
        if event.is_rejected() || event.is_waiting() {
            return Ok(None);
        }
        let shown = ServerView::new(self, &room, server).show(&event).await?;
        Ok(Some((room, shown)))
    }

    /// An event of the room by ID whatever became of it: outliers, rejected and soft-failed ones
    /// too. Clients get theirs by `find_event`.
    pub async fn find_any_event(
        &self,
        room: &Room,
        id: &EventId,
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        match self.0.events.find_nid(id).await? {
            Some(nid) => self.load_of_room(room, nid).await,
            None => Ok(None),
        }
    }

    /// Where the room's history ends here: events that are named as previous events but not known,
    /// at most `limit`, those closest above `ordering` (a place in the room) first. Empty when
    /// everything is here.
    pub async fn backward_extremities(
        &self,
        room: &Room,
        ordering: i64,
        limit: usize,
    ) -> Result<Vec<OwnedEventId>, StorageError> {
        let database = &self.0.database;
        let keys = storage::graph::list_missing(database, room.nid, ordering, limit).await?;
        Ok(keys.iter().filter_map(|key| event_id_of_key(key, room.rules).ok()).collect())
    }
}

/// A walk backwards through the graph, the deepest events first.
#[derive(Default)]
struct Walk {
    heap: BinaryHeap<Step>,
    seen: HashSet<EventNid>,
}

struct Step(Arc<StoredEvent>);

impl Step {
    fn key(&self) -> (i64, i64) {
        (self.0.event.depth(), self.0.nid.0)
    }
}

impl PartialEq for Step {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Step {}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Step {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Walk {
    fn add(&mut self, events: impl Iterator<Item = Arc<StoredEvent>>) {
        for event in events.filter(|event| event.is_in_graph()) {
            if self.seen.insert(event.nid) {
                self.heap.push(Step(event));
            }
        }
    }

    fn next(&mut self) -> Option<Arc<StoredEvent>> {
        self.heap.pop().map(|step| step.0)
    }
}
