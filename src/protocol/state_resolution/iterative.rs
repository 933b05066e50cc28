//! The iterative auth checks of version 2: events are applied to a state one after the other, those that the
//! rules do not allow are left out.

use std::{collections::HashMap, sync::Arc};

use ruma::OwnedEventId;

use super::{Events, KnownEvent, Needs, UnconflictedState};
use crate::protocol::{
    authorisation::authorise_with,
    event::Event,
    power_levels::PowerLevels,
    room_version::RoomRules,
    state_key::{StateKey, StateLookup, StatePair},
};

/// A state in the making: what was resolved so far, over the state that resolution started from.
pub(super) struct PartialState<'a> {
    pub events: &'a Events<'a>,
    pub rules: &'a RoomRules,
    /// `None` where resolution starts from an empty state (version 2.1).
    pub base: Option<&'a dyn UnconflictedState>,
    pub resolved: HashMap<StateKey, KnownEvent>,
    /// By the power levels and the create event that they come from.
    power_levels: HashMap<[Option<OwnedEventId>; 2], PowerLevels>,
}

impl<'a> PartialState<'a> {
    pub fn new(
        events: &'a Events<'a>,
        rules: &'a RoomRules,
        base: Option<&'a dyn UnconflictedState>,
    ) -> Self {
        Self { events, rules, base, resolved: HashMap::new(), power_levels: HashMap::new() }
    }

    /// Applies those of `sorted` that the rules allow.
    ///
    /// An event that is missing ends the checks with all that is known to be needed so far.
    pub fn apply(&mut self, sorted: impl IntoIterator<Item = KnownEvent>) -> Result<(), Needs> {
        for known in sorted {
            let Some(key) = StateKey::of_event(&known.event) else {
                continue;
            };
            if self.is_allowed(&known.event) {
                self.resolved.insert(key, known);
            }
            self.events.check_complete()?;
        }
        Ok(())
    }

    /// The entry of the state as it is now, rejected or not.
    pub fn find(&self, kind: &str, state_key: &str) -> Option<KnownEvent> {
        if let Some(known) = self.resolved.get(&(kind, state_key) as &dyn StatePair) {
            return Some(known.clone());
        }
        let id = self.base?.find(kind, state_key)?;
        self.events.find(&id)
    }

    fn is_allowed(&mut self, event: &Event) -> bool {
        let view = View { state: self, event };
        let power = view.find("m.room.power_levels", "");
        let create = view.find("m.room.create", "");
        let ids = [&power, &create].map(|event| Some(event.as_ref()?.event_id().to_owned()));
        if !self.power_levels.contains_key(&ids) {
            let levels = PowerLevels::from_events(create.as_deref(), power.as_deref(), self.rules);
            self.power_levels.insert(ids.clone(), levels);
        }
        let view = View { state: self, event };
        authorise_with(event, self.rules, &view, &self.power_levels[&ids]).is_ok()
    }
}

/// The state as one event is judged by it: where the state has no entry, or a rejected one, the event's
/// own authorisation events count, unless they were rejected.
struct View<'a> {
    state: &'a PartialState<'a>,
    event: &'a Event,
}

impl StateLookup for View<'_> {
    fn find(&self, kind: &str, state_key: &str) -> Option<Arc<Event>> {
        let accepted = |known: KnownEvent| (!known.rejected).then_some(known.event);
        if let Some(event) = self.state.find(kind, state_key).and_then(accepted) {
            return Some(event);
        }
        let events = self.state.events;
        let cited = self.event.auth_events().filter_map(|id| events.find(id)).filter_map(accepted);
        // Of several entries for a key the last one counts.
        let cited = cited.filter(|event| event.is_state_of(kind, state_key)).last();
        if cited.is_some() || kind != "m.room.create" {
            return cited;
        }
        events.find_create(self.event, self.state.rules).map(|known| known.event)
    }
}
