//! The state before an event as other servers tell it: asked for by IDs, what is not here fetched, and
//! every event of it judged by its own authorisation events. Memory is bounded: a large answer is stored
//! while it comes in. Not for whom to believe: what is told is one side of a fork, or a room being entered.

use std::{collections::HashMap, sync::Arc};

use ruma::{EventId, OwnedEventId};
use tokio::sync::mpsc;

use super::{
    event_store::StoredEvent,
    gap::Hunt,
    head_change::membership_number,
    receive::ReceiveError,
    source::{EventSource, FETCH_EVENTS_MAX, StateIds},
    state::{State, StateMap},
};
use crate::{
    protocol::{event::Event, membership::Membership},
    storage::{EventNid, StateKeyNid, StorageError},
};

/// Events of a state that are fetched singly in any case: no more of it is read than is unknown …
const SINGLE_EVENTS_MIN: usize = 20;
/// … those that are while they are no more than one in so many of all …
const SINGLE_SHARE: usize = 10;
/// … and at most.
const SINGLE_EVENTS_MAX: usize = 500;
/// A state counts as known when at most one in so many of its events cannot be had: signed with lost keys,
/// or broken.
const ABSENT_SHARE: usize = 50;
/// Batches of events that wait to be stored.
const BATCHES_WAITING_MAX: usize = 2;
/// Events that are kept until what they name has come. An honest answer has the chains first, or is of a
/// room that fits.
const HELD_EVENTS_MAX: usize = 400_000;
/// Events of a state that are looked at together.
const STEP: usize = 1000;

/// A state that other servers told, stored.
pub(super) struct ToldState {
    pub state: State,
    /// The memberships in it (1 join …), by their events.
    pub memberships: HashMap<EventNid, i64>,
}

impl Hunt<'_> {
    /// The state before an event, if anybody tells it. While a room's members are missing, what is known
    /// has to do: it is corrected when they have come.
    pub async fn fetch_state_before(&self, event: &Event) -> Result<Option<State>, ReceiveError> {
        let head = self.room.head();
        if head.partial().is_some() {
            return Ok(Some(head.state.clone()));
        }
        Ok(self.fetch_told_state(event.event_id()).await?.map(|told| told.state))
    }

    /// The state before the event by which this server came in. It is asked for at the event before that
    /// one, if there is one only: every server of the room has that, and perhaps not yet our entry.
    pub async fn fetch_state_before_entry(
        &self,
        entry: &Event,
    ) -> Result<Option<ToldState>, ReceiveError> {
        match self.fetch_state_behind_prev(entry).await? {
            Some(told) => Ok(Some(told)),
            None => self.fetch_told_state(entry.event_id()).await,
        }
    }

    async fn fetch_state_behind_prev(
        &self,
        entry: &Event,
    ) -> Result<Option<ToldState>, ReceiveError> {
        let mut prev_events = entry.prev_events();
        let (Some(id), None) = (prev_events.next(), prev_events.next()) else { return Ok(None) };
        let Some(source) = self.source.clone() else { return Ok(None) };
        let is_here = self.rooms.find_any_event(self.room, id).await?.is_some();
        let mut fetched = Vec::new();
        if !is_here {
            fetched = source.fetch_events(self.question(), &[id.to_owned()]).await;
            if fetched.is_empty() {
                return Ok(None);
            }
        }
        let Some(told) = self.fetch_told_state(id).await? else { return Ok(None) };
        self.import(&*source, fetched).await?;
        match self.rooms.find_any_event(self.room, id).await? {
            Some(prev) => self.pass(told, &prev).await.map(Some),
            None => Ok(None),
        }
    }

    /// The state after an event, from that before it.
    async fn pass(
        &self,
        mut told: ToldState,
        event: &StoredEvent,
    ) -> Result<ToldState, ReceiveError> {
        let is_judged = !event.is_rejected() && !event.is_waiting();
        let key =
            event.state_key_nid.filter(|key| is_judged && told.state.get(*key) != Some(event.nid));
        let Some(key) = key else { return Ok(told) };
        let (auth_events, _) = self.rooms.load_known(self.room, event.event.auth_events()).await?;
        let verdict = self.rooms.check(self.room, &event.event, &auth_events, &told.state).await?;
        if verdict.is_ok() {
            let nid = self.rooms.0.next_state_nid();
            let (state, row) = told.state.with_changes(&[(key, Some(event.nid))], nid)?;
            self.rooms.store_snapshot(&row).await?;
            told.state = state;
            note_membership(key, event, &mut told.memberships);
        }
        Ok(told)
    }

    /// The state before an event as the network tells it.
    pub async fn fetch_told_state(&self, id: &EventId) -> Result<Option<ToldState>, ReceiveError> {
        let Some(source) = self.source.clone() else {
            return Ok(None);
        };
        let Some(ids) = source.fetch_state_ids(self.question(), id).await else {
            return Ok(None);
        };
        let unknown = self.list_unknown(&ids).await?;
        let (room_id, count) = (&self.room.room_id, ids.state.len());
        tracing::info!(room.id = %room_id, event.id = %id, count, unknown = unknown.len(), "a state is told");
        let total = ids.state.len() + ids.auth_chain.len();
        if is_fetched_whole(unknown.len(), total) {
            self.fetch_all(&*source, id).await?;
        } else {
            let mut events = Vec::with_capacity(unknown.len());
            for chunk in unknown.chunks(FETCH_EVENTS_MAX) {
                events.extend(source.fetch_events(self.question(), chunk).await);
            }
            self.import(&*source, events).await?;
        }
        self.put_together(&ids).await
    }

    async fn list_unknown(&self, ids: &StateIds) -> Result<Vec<OwnedEventId>, StorageError> {
        let all = || ids.state.iter().chain(&ids.auth_chain);
        let here = self.rooms.events().find_nids(all().map(|id| &**id)).await?;
        let mut unknown: Vec<OwnedEventId> =
            all().filter(|id| !here.contains_key(*id)).cloned().collect();
        unknown.sort_unstable();
        unknown.dedup();
        Ok(unknown)
    }

    /// Fetches the state as events and stores them as they come.
    async fn fetch_all(&self, source: &dyn EventSource, id: &EventId) -> Result<(), ReceiveError> {
        let (batches, arrivals) = mpsc::channel(BATCHES_WAITING_MAX);
        let streamed = source.stream_state(self.question(), id, batches);
        let (is_whole, stored) = tokio::join!(streamed, self.store_batches(arrivals));
        let rest = stored?;
        if !is_whole {
            tracing::info!(room.id = %self.room.room_id, "a state broke off");
        }
        self.import(source, rest).await
    }

    /// Stores what comes; returns what could not be judged because of what has not come.
    async fn store_batches(
        &self,
        mut arrivals: mpsc::Receiver<Vec<Arc<Event>>>,
    ) -> Result<Vec<Arc<Event>>, ReceiveError> {
        let (mut held, mut count) = (Vec::new(), 0_usize);
        while let Some(batch) = arrivals.recv().await {
            let before = count;
            count += batch.len();
            let here = {
                let _alone = self.room.receiving.lock().await;
                let here = self.rooms.import_outliers(self.room, &batch).await?;
                self.rooms.free_waiting_for(self.room, &batch).await?;
                here
            };
            let is_here = |event: &&Arc<Event>| here.contains_key(event.event_id());
            held.extend(batch.iter().filter(|event| !is_here(event)).cloned());
            held.truncate(HELD_EVENTS_MAX);
            if before / 10_000 != count / 10_000 {
                tracing::info!(room.id = %self.room.room_id, events = count, "a state comes in");
            }
        }
        Ok(held)
    }

    /// The state that these events make up, as far as they are here.
    async fn put_together(&self, ids: &StateIds) -> Result<Option<ToldState>, ReceiveError> {
        let mut map = StateMap::new();
        let mut memberships = HashMap::new();
        let mut present = 0;
        for step in ids.state.chunks(STEP) {
            let here = self.rooms.load_here(self.room, step.iter().map(|id| &**id)).await?;
            present += here.len();
            for event in here.into_values() {
                note_entry(&event, &mut map, &mut memberships);
            }
        }
        let absent = ids.state.len().saturating_sub(present);
        if absent * ABSENT_SHARE > ids.state.len() || present == 0 {
            tracing::info!(room.id = %self.room.room_id, absent, "a state is not whole");
            return Ok(None);
        }
        let head = self.room.head();
        let nid = self.rooms.0.next_state_nid();
        let (state, row) = State::near(&[&head.state], &map, nid)?;
        if let Some(row) = row {
            self.rooms.store_snapshot(&row).await?;
        }
        Ok(Some(ToldState { state, memberships }))
    }
}

/// Whether a state of which so much is unknown is asked for as events, not as IDs: one request costs the other
/// server about as much as ten events in the answer to another one.
fn is_fetched_whole(unknown: usize, total: usize) -> bool {
    unknown > SINGLE_EVENTS_MAX
        || unknown > SINGLE_EVENTS_MIN && unknown.saturating_mul(SINGLE_SHARE) > total
}

/// Rejected events, and what is no state, are left out.
fn note_entry(event: &StoredEvent, map: &mut StateMap, memberships: &mut HashMap<EventNid, i64>) {
    let Some(key) = event.state_key_nid.filter(|_| !event.is_rejected() && !event.is_waiting())
    else {
        return;
    };
    map.insert(key, event.nid);
    note_membership(key, event, memberships);
}

fn note_membership(
    key: StateKeyNid,
    event: &StoredEvent,
    memberships: &mut HashMap<EventNid, i64>,
) {
    if key.is_membership() {
        let membership = Membership::of_state(Some(&event.event));
        memberships.insert(event.nid, membership_number(membership));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_fetched_whole_when_much_of_them_is_unknown() {
        let (single, whole) = ([(20, 20), (21, 300), (500, 100_000)], [(21, 200), (501, 100_000)]);
        assert!(single.iter().all(|(unknown, total)| !is_fetched_whole(*unknown, *total)));
        assert!(whole.iter().all(|(unknown, total)| is_fetched_whole(*unknown, *total)));
    }
}
