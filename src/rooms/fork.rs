//! Placing a judged event from another server behind the head: where it does not follow the head, the
//! room forks, and its current state is what the states after all extremities resolve to.

use std::sync::Arc;

use ruma::OwnedEventId;

use super::{
    append::AppendError,
    attempt::{Admission, Attempt, AttemptError, FoundState, Missing},
    event_store::{NewStoredEvent, StoredEvent, event_key},
    recent::StateChange,
    state::{Difference, State, StateMap, differences},
    state_keys::StateKey,
};
use crate::{
    protocol::{
        authorisation::{authorise, list_judging_keys},
        event::Event,
    },
    storage::{
        self, EventNid, RoomNid, WriteTx,
        events::{Place, flags},
        snapshots::{self, SnapshotRow},
    },
};

/// Forward extremities of one room. Beyond, the oldest are given up: they stay in the graph, but the
/// current state does without them until an event names them.
pub(super) const EXTREMITIES_MAX: usize = 100;

/// An event that passed the checks against its authorisation events and the state before it.
pub(super) struct Placed {
    pub nid: EventNid,
    pub event: Arc<Event>,
    /// Whether it has a row already: it was an outlier.
    pub is_stored: bool,
    /// Whether an event here may name it already.
    pub may_be_named: bool,
    /// The redaction that came before it.
    pub redacted_by: Option<Arc<StoredEvent>>,
    pub state_key: Option<Arc<StateKey>>,
    pub before: State,
    pub after: State,
    /// The rows of the state before it and of those that this came from, as far as they are new.
    pub before_rows: Vec<SnapshotRow>,
    pub after_row: Option<SnapshotRow>,
    pub auth_events: Vec<EventNid>,
    /// Keys of the events that it follows and that are not in the graph.
    pub missing: Vec<Vec<u8>>,
    pub redacts: Option<OwnedEventId>,
}

impl Placed {
    /// Queues that nobody waits for the event any more, nor it for others.
    pub fn note_arrival(&self, room: RoomNid, tx: &mut WriteTx) {
        if self.may_be_named {
            storage::graph::delete_missing(tx, room, &event_key(self.event.event_id()));
        }
        if self.is_stored {
            storage::graph::delete_awaited(tx, room, self.nid);
            storage::graph::delete_verdict(tx, self.nid);
        }
    }

    /// The event as the store keeps it, outside of the timeline.
    pub fn to_stored(&self, room_nid: RoomNid, flags: i64) -> StoredEvent {
        StoredEvent::new(NewStoredEvent {
            nid: self.nid,
            room_nid,
            state_nid: self.before.nid(),
            state_key_nid: self.state_key.as_ref().map(|key| key.nid),
            replaces_nid: self.replaces(),
            flags,
            notify_ordinal: 0,
            sent_by: None,
            redacted_by: self.redacted_by.clone(),
            event: Arc::clone(&self.event),
        })
    }

    /// The event that it replaces in the state before it.
    pub fn replaces(&self) -> Option<EventNid> {
        self.before.get(self.state_key.as_ref()?.nid)
    }
}

/// What memory keeps of an event that did not simply follow the head.
pub(super) struct Forked {
    /// Its position, counted within the job.
    pub position: u32,
    /// All that it changed of the current state.
    pub changes: Vec<StateChange>,
    /// The state before it, by which it is decided who sees it.
    pub before: State,
}

impl Attempt<'_> {
    /// Places the event behind the head. Fails with the broken rule when the current state does not
    /// allow it ("Soft failure").
    pub fn add_placed(&mut self, placed: &Placed) -> Result<(), AttemptError> {
        self.check_current(placed)?;
        let mut extremities = self.head.extremities.clone();
        let mut states = self.head.states_after();
        let is_followed = |event: &StoredEvent| {
            placed.event.prev_events().any(|prev| prev == event.event.event_id())
        };
        let mut keep = extremities.iter().map(|event| !is_followed(event)).collect::<Vec<_>>();
        let excess =
            (keep.iter().filter(|kept| **kept).count() + 1).saturating_sub(EXTREMITIES_MAX);
        keep.iter_mut().filter(|kept| **kept).take(excess).for_each(|kept| *kept = false);
        let mut kept = keep.iter();
        extremities.retain(|_| *kept.next().unwrap_or(&false));
        let mut kept = keep.iter();
        states.retain(|_| *kept.next().unwrap_or(&false));
        states.push(placed.after.clone());

        let before = self.head.state.clone();
        let (current, row) = self.current_of(&states, placed)?;
        let is_forked = !before.is_same(&placed.before) || !current.is_same(&placed.after);
        for row in placed.before_rows.iter().chain(&placed.after_row).chain(&row) {
            snapshots::insert(&mut self.tx, row);
        }
        let gap = if placed.missing.is_empty() { 0 } else { flags::GAP };
        let (stored, position) = self.admit(Admission {
            nid: placed.nid,
            event: Arc::clone(&placed.event),
            state_nid: placed.before.nid(),
            replaces_nid: placed.replaces(),
            flags: gap | if is_forked { flags::FORKED } else { 0 },
            is_stored: placed.is_stored,
            redacted_by: placed.redacted_by.clone(),
            auth_events: &placed.auth_events,
            redacts: placed.redacts.as_ref(),
            sent_by: None,
        })?;
        placed.note_arrival(self.room_nid, &mut self.tx);
        for key in &placed.missing {
            let child = (placed.nid, Place::Live(position));
            storage::graph::insert_missing(&mut self.tx, self.room_nid, key, child);
        }
        let index = self.events.len() - 1;
        let changes = differences(before.map(), current.map());
        if is_forked {
            let told: Vec<StateChange> = changes.iter().map(Difference::told).collect();
            let place = (self.room_nid, position);
            storage::graph::insert_fork(&mut self.tx, place, current.nid(), &told);
            self.forked = Some(Forked { position, changes: told, before: placed.before.clone() });
        }
        self.head.state = current;
        for change in changes {
            self.apply_difference(change, index, position)?;
        }
        extremities.push(stored);
        self.head.forks = if extremities.len() > 1 { states } else { Vec::new() };
        self.head.extremities = extremities;
        self.head.depth = self.head.depth.max(placed.event.depth());
        Ok(())
    }

    /// Check 6: passes authorisation rules based on the current state of the room. As other
    /// implementations have it, the state before the event counts as one more fork: what lies in a gap is
    /// known by it alone.
    fn check_current(&self, placed: &Placed) -> Result<(), AttemptError> {
        // The state before the event has allowed it already. Where members are missing, nobody can say
        // more (MSC3902: "no attempt is made to perform a soft fail check").
        if self.head.partial.is_some() || placed.before.is_same(&self.head.state) {
            return Ok(());
        }
        let mut states = self.head.states_after();
        states.push(placed.before.clone());
        let current = self.resolved(states)?;
        let keys = list_judging_keys(self.rules, &*placed.event);
        let mut found = Vec::with_capacity(keys.len());
        for (kind, state_key) in keys {
            let key = self.find_key(&kind, &state_key)?;
            if let Some(nid) = current.get(&key.nid) {
                found.push(((kind, state_key), self.find_event(*nid)?));
            }
        }
        authorise(&*placed.event, self.rules, &FoundState(found)).map_err(AppendError::Rejected)?;
        Ok(())
    }

    /// What states resolve to, if that is known.
    fn resolved(&self, mut states: Vec<State>) -> Result<StateMap, AttemptError> {
        states.sort_by_key(State::nid);
        states.dedup_by_key(|state| state.nid());
        if let [only] = states.as_slice() {
            return Ok(only.map().clone());
        }
        let key: Vec<_> = states.iter().map(State::nid).collect();
        let resolved = self.known.resolved.get(&key).cloned();
        let resolved = resolved.or_else(|| self.engine.resolutions.get(&key));
        resolved.ok_or(AttemptError::Missing(Missing::Resolution(states)))
    }

    /// What the states after all extremities resolve to, and its row if it is new.
    fn current_of(
        &self,
        states: &[State],
        placed: &Placed,
    ) -> Result<(State, Option<SnapshotRow>), AttemptError> {
        let is_after = |state: &State| state.nid() == placed.after.nid();
        if states.iter().all(is_after) {
            return Ok((placed.after.clone(), None));
        }
        let resolved = self.resolved(states.to_vec())?;
        let bases = [&self.head.state, &placed.after];
        Ok(State::near(&bases, &resolved, self.engine.next_state_nid())?)
    }
}
