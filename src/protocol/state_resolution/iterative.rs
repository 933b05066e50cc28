//! The iterative auth checks of version 2: events are applied to a state one after the other, those that the
//! rules do not allow are left out.

use std::{collections::HashMap, sync::Arc};

use ruma::OwnedEventId;

use super::{Case, Events, KnownEvent, Needs, UnconflictedState, Verdicts};
use crate::protocol::{
    authorisation::{authorise_with, list_judging_keys},
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
    verdicts: &'a dyn Verdicts,
    pub resolved: HashMap<StateKey, KnownEvent>,
    /// By the power levels and the create event that they come from.
    power_levels: HashMap<[Option<OwnedEventId>; 2], PowerLevels>,
}

impl<'a> PartialState<'a> {
    pub fn new(
        events: &'a Events<'a>,
        rules: &'a RoomRules,
        (base, verdicts): (Option<&'a dyn UnconflictedState>, &'a dyn Verdicts),
    ) -> Self {
        let (resolved, power_levels) = (HashMap::new(), HashMap::new());
        Self { events, rules, base, verdicts, resolved, power_levels }
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
        let found = self.find_judges(event);
        let by = found.0.iter().map(|(_, judge)| Some(judge.as_ref()?.event_id().to_owned()));
        let case = Case { event: event.event_id().to_owned(), by: by.collect() };
        if let Some(is_allowed) = self.verdicts.find(&case) {
            return is_allowed;
        }
        let power = found.find("m.room.power_levels", "");
        let create = found.find("m.room.create", "");
        let ids = [&power, &create].map(|event| Some(event.as_ref()?.event_id().to_owned()));
        let levels = self.power_levels.entry(ids).or_insert_with(|| {
            PowerLevels::from_events(create.as_deref(), power.as_deref(), self.rules)
        });
        let is_allowed = authorise_with(event, self.rules, &found, levels).is_ok();
        self.verdicts.keep(case, is_allowed);
        is_allowed
    }

    /// The entries that the rules look at for an event.
    fn find_judges(&self, event: &Event) -> Judges {
        let view = View { state: self, event };
        let find = |(kind, state_key): (String, String)| {
            let judge = view.find(&kind, &state_key);
            ((kind, state_key), judge)
        };
        Judges(list_judging_keys(self.rules, event).into_iter().map(find).collect())
    }
}

/// What was found of the keys that the rules look at.
struct Judges(Vec<((String, String), Option<Arc<Event>>)>);

impl StateLookup for Judges {
    fn find(&self, kind: &str, state_key: &str) -> Option<Arc<Event>> {
        let is_asked = |key: &(String, String)| key.0 == kind && key.1 == state_key;
        self.0.iter().find(|(key, _)| is_asked(key))?.1.clone()
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
