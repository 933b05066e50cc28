//! History that another server answered to `backfill`: judged, placed below what names it, in no sync.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{OwnedEventId, ServerName};

use super::{
    event_store::{StoredEvent, event_key},
    gap::Hunt,
    placement::{Basis, Judged, by_depth},
    receive::{Advice, ReceiveError, Verdict},
    registry::Rooms,
    room::Room,
    served::BACKFILL_EVENTS_MAX,
    state::State,
};
use crate::{
    protocol::event::Event,
    storage::{self, ORDERING_STEP, StorageError},
};

/// Where something of a room's history is missing: between two places.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    lower: i64,
    upper: i64,
}

impl Rooms {
    /// Takes events that `origin` answered to `backfill`: verified, in any order. They are judged,
    /// get their places in the room's order below what names them, no sync carries them. Returns how
    /// many are new in the timeline.
    pub async fn import_backfilled(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
        events: Vec<Arc<Event>>,
    ) -> Result<usize, ReceiveError> {
        let mut events: Vec<_> =
            events.into_iter().filter(|event| event.room_id() == room.room_id).collect();
        events.truncate(2 * BACKFILL_EVENTS_MAX);
        let ids = events.iter().map(|event| event.event_id());
        let foreign = self.find_foreign(room, ids).await?;
        events.retain(|event| !foreign.contains(event.event_id()));
        by_depth(&mut events);
        let places = self.choose_places(room, &events).await?;
        let hunt = Hunt::new(self, origin, room).await?;
        let mut count = 0;
        for (number, event) in events.iter().enumerate() {
            if let Some(place) = places.get(event.event_id()) {
                let later = &events[number + 1..];
                count += usize::from(self.take_old(&hunt, (room, later), event, *place).await?);
            }
        }
        Ok(count)
    }

    /// Takes an event that lies somewhere in the gap below a place of the room, as
    /// [`Rooms::import_backfilled`] does. Whether it is new in the timeline.
    pub async fn import_in_gap(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
        event: &Arc<Event>,
        gap: &Gap,
    ) -> Result<bool, ReceiveError> {
        let ids = std::iter::once(event.event_id());
        if event.room_id() != room.room_id || !self.find_foreign(room, ids).await?.is_empty() {
            return Ok(false);
        }
        // Far enough from both ends that what is fetched there later finds a place.
        let middle = gap.lower.midpoint(gap.upper).max(gap.upper - ORDERING_STEP / 2);
        let place = self.place_below(room, middle).await?;
        let hunt = Hunt::new(self, origin, room).await?;
        let later: &[Arc<Event>] = &[];
        self.take_old(&hunt, (room, later), event, place).await
    }

    /// The gap in what is known of a room's history at a time, if there is one.
    pub async fn find_gap_at(
        &self,
        room: &Room,
        timestamp_ms: i64,
    ) -> Result<Option<Gap>, StorageError> {
        let before = self.find_by_time(room, timestamp_ms, false).await?;
        let after = self.find_by_time(room, timestamp_ms, true).await?;
        let lower = before.map_or(i64::MIN / 2, |event| event.ordering());
        let upper = after.map_or(i64::MAX, |event| event.ordering());
        let range = (lower, upper);
        let found = storage::graph::find_gap_between(&self.0.database, room.nid, range).await?;
        Ok(found.map(|upper| Gap { lower, upper }))
    }

    /// The place of the newest of these events (newest first) before which something is missing here.
    pub async fn find_gap_in(
        &self,
        room: &Room,
        events: &[Arc<StoredEvent>],
    ) -> Result<Option<i64>, StorageError> {
        for event in events.iter().filter(|event| event.has_gap()) {
            if storage::graph::has_missing(&self.0.database, room.nid, event.nid).await? {
                return Ok(Some(event.ordering()));
            }
        }
        Ok(None)
    }

    /// A place for each event, directly below those that name it. What nobody names gets none.
    async fn choose_places(
        &self,
        room: &Room,
        events: &[Arc<Event>],
    ) -> Result<HashMap<OwnedEventId, i64>, ReceiveError> {
        let mut places: HashMap<OwnedEventId, i64> = HashMap::new();
        let mut named: HashMap<OwnedEventId, i64> = HashMap::new();
        let mut taken: BTreeSet<i64> = BTreeSet::new();
        for event in events.iter().rev() {
            let id = event.event_id();
            let key = event_key(id);
            let children =
                storage::graph::list_children_of_missing(&self.0.database, room.nid, &key).await?;
            let above = children.iter().map(|(_, place)| *place).filter(|place| *place != 0);
            let Some(above) = above.chain(named.get(id).copied()).min() else {
                continue;
            };
            let mut place = self.place_below(room, above).await?;
            while taken.contains(&place) {
                place -= 1;
            }
            taken.insert(place);
            places.insert(id.to_owned(), place);
            for prev in event.prev_events() {
                let lowest = named.entry(prev.to_owned()).or_insert(place);
                *lowest = place.min(*lowest);
            }
        }
        Ok(places)
    }

    /// Whether the event is new in the timeline. `later` came with it.
    async fn take_old(
        &self,
        hunt: &Hunt<'_>,
        (room, later): (&Arc<Room>, &[Arc<Event>]),
        event: &Arc<Event>,
        place: i64,
    ) -> Result<bool, ReceiveError> {
        let mut judged = self.judge_old(room, event, place, Basis::PrevEvents).await?;
        if let Some(Judged::Lacking(lacking)) = &judged {
            if !lacking.auth_events.is_empty() {
                hunt.fetch_auth_of(event).await?;
            }
            if lacking.prev_events.is_empty() {
                judged = self.judge_old(room, event, place, Basis::PrevEvents).await?;
            } else {
                let mut state = self.find_unchanged_state(room, event, later).await?;
                if state.is_none() {
                    state = hunt.fetch_state_before(event).await?;
                }
                if let Some(state) = state {
                    judged = self.judge_old(room, event, place, Basis::Bridged(&state)).await?;
                }
            }
        }
        Ok(judged.is_none())
    }

    /// The state before an event, if nothing between it and an event of the graph changes the state:
    /// from it on, each of `later` follows the one before it alone, and at last one that is known here.
    async fn find_unchanged_state(
        &self,
        room: &Arc<Room>,
        event: &Event,
        later: &[Arc<Event>],
    ) -> Result<Option<State>, StorageError> {
        let mut current = event;
        for _ in 0..=later.len() {
            if current.is_state() {
                return Ok(None);
            }
            let follows = |next: &Event| next.prev_events().eq([current.event_id()]);
            let key = event_key(current.event_id());
            let database = &self.0.database;
            for (nid, place) in
                storage::graph::list_children_of_missing(database, room.nid, &key).await?
            {
                let child = self.events().load_one(room.facts(), nid).await?;
                if place != 0 && follows(&child.event) {
                    return Ok(Some(State::clone(&*self.load_state(child.state_nid).await?)));
                }
            }
            let Some(next) = later.iter().find(|next| follows(next)) else {
                return Ok(None);
            };
            current = next;
        }
        Ok(None)
    }

    /// Judges and places; None when it was placed in the timeline.
    async fn judge_old(
        &self,
        room: &Arc<Room>,
        event: &Arc<Event>,
        place: i64,
        basis: Basis<'_>,
    ) -> Result<Option<Judged>, ReceiveError> {
        let _alone = room.receiving.lock().await;
        match self.judge(room, event, Advice::upon(basis)).await? {
            Judged::Allowed(placed) => {
                self.store_late(room, &placed, place).await?;
                self.free_waiting(room, event).await?;
                Ok(None)
            }
            Judged::Rejected(placed, rejection) => {
                let verdict = Verdict::Rejected(rejection.to_string());
                self.store_hidden(room, &placed, &verdict).await?;
                Ok(Some(Judged::Rejected(placed, rejection)))
            }
            other => Ok(Some(other)),
        }
    }
}
