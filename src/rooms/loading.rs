//! Reading rooms from the store into memory, many together: whoever asks for all rooms of an account waits
//! for the database a few times and not a few times a room. Not for finding those that lie in memory.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ruma::RoomId;

use super::{
    event_store::{RoomFacts, StoredEvent},
    registry::{Engine, Rooms},
    room::{Head, PINNED_KINDS, Room},
    state::State,
};
use crate::{
    protocol::room_version::RoomVersion,
    storage::{
        self, EventNid, ORDERING_STEP, RoomNid, StateKeyNid, StateNid, StorageError,
        events::EventRow, rooms::RoomRow,
    },
};

/// Rooms that are read together.
const ROOMS_STEP: usize = 64;
/// Events that are read together.
const EVENTS_STEP: usize = 500;

/// A room's row with what is read out of it before anything else of the room.
struct OpenedRow {
    row: RoomRow,
    room_id: ruma::OwnedRoomId,
    version: RoomVersion,
    extremities: Vec<EventNid>,
    /// The states after the extremities, where there are several.
    forks: Vec<StateNid>,
}

impl Rooms {
    /// Reads events into memory together, with what the states before them consist of: for whoever is going to
    /// look at each of them.
    pub async fn warm_events(&self, events: &[(RoomNid, EventNid)]) -> Result<(), StorageError> {
        let (mut states, mut nids_of) = (Vec::new(), BTreeMap::<RoomNid, Vec<EventNid>>::new());
        for (room, nid) in events {
            match self.0.events.find_cached(*nid) {
                Some(event) => states.push(event.state_nid),
                None => nids_of.entry(*room).or_default().push(*nid),
            }
        }
        let rooms: Vec<RoomNid> = nids_of.keys().copied().collect();
        for (room, nids) in self.load_all(&rooms).await?.iter().zip(nids_of.values()) {
            let read = self.0.events.load(room.facts(), nids).await?;
            states.extend(read.iter().map(|event| event.state_nid));
        }
        states.retain(|nid| self.0.states.peek(nid).is_none());
        self.0.warm_snapshots(&states).await
    }
}

impl Engine {
    /// Reads rooms into memory; those that are not there are left out.
    pub async fn read_rooms(&self, nids: &[RoomNid]) -> Result<Vec<Arc<Room>>, StorageError> {
        let mut rooms = Vec::with_capacity(nids.len());
        for step in nids.chunks(ROOMS_STEP) {
            let rows = storage::rooms::list(&self.database, step).await?;
            rooms.extend(self.admit_all(rows).await?);
        }
        Ok(rooms)
    }

    /// Reads a room into memory.
    pub async fn admit(&self, row: RoomRow) -> Result<Arc<Room>, StorageError> {
        let nid = row.nid;
        let room = self.admit_all(vec![row]).await?.pop();
        room.ok_or_else(|| StorageError::Damaged(format!("room {} is missing", nid.0)))
    }

    /// Reads rooms into memory, as their rows say.
    async fn admit_all(&self, rows: Vec<RoomRow>) -> Result<Vec<Arc<Room>>, StorageError> {
        let opened = rows.into_iter().map(OpenedRow::open).collect::<Result<Vec<_>, _>>()?;
        let nids: Vec<RoomNid> = opened.iter().map(|opened| opened.row.nid).collect();
        let latest_forks = storage::graph::list_latest_forks(&self.database, &nids).await?;
        self.warm(&opened).await?;
        let mut rooms = Vec::with_capacity(opened.len());
        for opened in opened {
            let latest_fork = latest_forks.get(&opened.row.nid).copied().unwrap_or(0);
            let room = self.read_room(opened, latest_fork).await?;
            rooms.push(self.settle(room));
        }
        Ok(rooms)
    }

    /// Reads at once what the rooms' heads consist of.
    async fn warm(&self, opened: &[OpenedRow]) -> Result<(), StorageError> {
        let states: Vec<StateNid> = opened.iter().flat_map(OpenedRow::states).collect();
        self.warm_snapshots(&states).await?;
        let mut wanted = Vec::new();
        for opened in opened {
            let state = self.load_state(opened.row.state_nid).await?;
            wanted.extend(opened.extremities.iter().copied());
            wanted.extend(self.find_pinned(&state).await?.into_iter().map(|(_, nid)| nid));
        }
        wanted.retain(|nid| self.events.find_cached(*nid).is_none());
        let mut rows_of: HashMap<RoomNid, Vec<EventRow>> = HashMap::new();
        for step in wanted.chunks(EVENTS_STEP) {
            for row in storage::events::list(&self.database, step).await? {
                rows_of.entry(row.room_nid).or_default().push(row);
            }
        }
        for opened in opened {
            let rows = rows_of.remove(&opened.row.nid).unwrap_or_default();
            self.events.read_rows(opened.facts(), rows).await?;
        }
        Ok(())
    }

    async fn read_room(
        &self,
        opened: OpenedRow,
        latest_fork: i64,
    ) -> Result<Arc<Room>, StorageError> {
        let facts = opened.facts();
        let row = &opened.row;
        let mut forks = Vec::with_capacity(opened.forks.len());
        for nid in &opened.forks {
            forks.push(State::clone(&*self.load_state(*nid).await?));
        }
        let state = State::clone(&*self.load_state(row.state_nid).await?);
        let head = Head {
            extremities: self.events.load(facts, &opened.extremities).await?,
            forks,
            depth: row.depth,
            pinned: Arc::new(self.load_pinned(facts, &state).await?),
            state,
            notify_ordinal: row.notify_ordinal,
            latest_position: row.latest_position,
            joined_count: row.joined_count,
            invited_count: row.invited_count,
            partial: self.partial.find(row.nid),
        };
        let complete_above = row.latest_position * ORDERING_STEP;
        let (nid, rules) = (row.nid, opened.version.rules());
        let room = Room::new(nid, opened.room_id, rules, head, complete_above);
        room.note_fork(latest_fork);
        room.note_completed(self.partial.completed_position(nid));
        Ok(Arc::new(room))
    }

    pub async fn load_pinned(
        &self,
        facts: RoomFacts<'_>,
        state: &State,
    ) -> Result<Vec<(StateKeyNid, Arc<StoredEvent>)>, StorageError> {
        let (keys, nids): (Vec<_>, Vec<_>) = self.find_pinned(state).await?.into_iter().unzip();
        Ok(keys.into_iter().zip(self.events.load(facts, &nids).await?).collect())
    }

    /// The events of a state that its room keeps at hand.
    async fn find_pinned(
        &self,
        state: &State,
    ) -> Result<Vec<(StateKeyNid, EventNid)>, StorageError> {
        let mut pinned = Vec::new();
        for kind in PINNED_KINDS {
            if let Some(key) = self.keys.find(kind, "").await?
                && let Some(nid) = state.get(key.nid)
            {
                pinned.push((key.nid, nid));
            }
        }
        Ok(pinned)
    }
}

impl OpenedRow {
    fn open(row: RoomRow) -> Result<Self, StorageError> {
        let damaged = |what: &str| StorageError::Damaged(format!("room {}: {what}", row.room_id));
        let version = RoomVersion::parse(&row.version).ok_or_else(|| damaged("its version"))?;
        let room_id = RoomId::parse(&row.room_id).map_err(|_| damaged("its ID"))?;
        let (extremities, forks) =
            decode_extremities(&row.extremities).ok_or_else(|| damaged("its extremities"))?;
        Ok(Self { row, room_id, version, extremities, forks })
    }

    fn facts(&self) -> RoomFacts<'_> {
        let (nid, rules) = (self.row.nid, self.version.rules());
        RoomFacts { nid, room_id: &self.room_id, rules }
    }

    /// All that its head stands upon.
    fn states(&self) -> impl Iterator<Item = StateNid> + '_ {
        self.forks.iter().copied().chain([self.row.state_nid])
    }
}

/// The extremities as [`Head::encode_extremities`] writes them: events, and the states after them where
/// there are several.
pub(super) fn decode_extremities(text: &str) -> Option<(Vec<EventNid>, Vec<StateNid>)> {
    if let Ok(nids) = serde_json::from_str::<Vec<i64>>(text) {
        return Some((nids.into_iter().map(EventNid).collect(), Vec::new()));
    }
    let pairs: Vec<(i64, i64)> = serde_json::from_str(text).ok()?;
    Some(pairs.into_iter().map(|(event, state)| (EventNid(event), StateNid(state))).unzip())
}
