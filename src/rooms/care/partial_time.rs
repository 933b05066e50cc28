//! What a replay takes as it is told, since the room's members were missing when it came (MSC3902): states of that
//! time rest upon what another server said later, or upon nothing but the events themselves. Not for how a room
//! becomes whole (`completion`, `rejudging`).

use std::collections::HashSet;

use super::{
    super::{
        event_store::{StoredEvent, event_key},
        state::{Difference, State, StateMap, differences},
    },
    replay::Replay,
};
use crate::storage::{EventNid, StateNid, StorageError, events::flags};

impl Replay<'_> {
    /// Whether the state before an event was told when the room became whole, or may have been.
    pub fn is_told(&self, at: usize) -> bool {
        let position = self.facts[at].position;
        self.whole_since > 0 && position.is_none_or(|position| position <= self.whole_since)
    }

    /// The events that an event followed when the room became whole: those that it names, and through those
    /// of them that are hidden what these name.
    pub async fn list_followed(
        &mut self,
        prevs: &[EventNid],
    ) -> Result<Vec<EventNid>, StorageError> {
        let mut followed = HashSet::new();
        let mut work = prevs.to_vec();
        while let Some(nid) = work.pop() {
            if !followed.insert(nid) {
                continue;
            }
            let facts = &self.facts[self.index[&nid]];
            if facts.flags & flags::REJECTED != 0 || facts.position.is_none() {
                let event = self.rooms.events().load_one(self.room.facts(), nid).await?;
                work.extend(self.prevs_in_graph(&event));
            }
        }
        Ok(followed.into_iter().collect())
    }

    /// The state of the store before an event, if it is what came before it and memberships that the event
    /// names: where members are missing, senders are known by their events alone.
    pub async fn find_learnt(
        &mut self,
        nid: StateNid,
        expected: &StateMap,
        event: &StoredEvent,
    ) -> Result<Option<State>, StorageError> {
        let Some(state) = self.library.find(nid).await? else {
            return Ok(None);
        };
        let named = event.event.auth_events().map(event_key);
        let named: HashSet<EventNid> =
            named.filter_map(|key| self.by_key.get(&key).copied()).collect();
        let is_learnt = |change: &Difference| {
            let is_named = change.new.is_some_and(|event| named.contains(&event));
            change.old.is_none() && change.key.is_membership() && is_named
        };
        if !differences(expected, state.map()).iter().all(is_learnt) {
            return Ok(None);
        }
        self.library.keep(&state);
        Ok(Some(state))
    }
}
