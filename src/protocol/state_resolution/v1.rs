//! State resolution of room version 1.
//!
//! The text leaves open how far results of one pass are seen within it; as in all known implementations a
//! pass sees the results of the passes before.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{Conflict, Events, Needs, StateMap, UnconflictedState, sha1::sha1};
use crate::protocol::{
    authorisation::authorise,
    event::Event,
    room_version::RoomRules,
    state_key::{StateKey, StateLookup, StatePair},
};

type Conflicts = BTreeMap<StateKey, Vec<Arc<Event>>>;

/// Chooses one of the events in conflict for a key.
type Pick<R> = fn(&R, &[Arc<Event>]) -> Option<Arc<Event>>;

pub(super) fn resolve(
    conflict: &Conflict<'_>,
    rules: &RoomRules,
    events: &Events<'_>,
) -> Result<StateMap, Needs> {
    let mut conflicts = load_conflicts(conflict, events)?;
    let mut resolver =
        Resolver { rules, events, base: conflict.unconflicted, resolved: HashMap::new() };
    let is_power = |key: &StateKey| key.pair() == ("m.room.power_levels", "");
    resolver.run_pass(take(&mut conflicts, is_power), Resolver::pick_last_allowed)?;
    let is_join_rule = |key: &StateKey| &*key.kind == "m.room.join_rules";
    resolver.run_pass(take(&mut conflicts, is_join_rule), Resolver::pick_last_allowed)?;
    let is_member = |key: &StateKey| &*key.kind == "m.room.member";
    resolver.run_pass(take(&mut conflicts, is_member), Resolver::pick_last_allowed)?;
    resolver.run_pass(conflicts, Resolver::pick_first_allowed)?;
    let resolved = resolver.resolved.into_iter();
    Ok(resolved.map(|(key, event)| (key, event.event_id().to_owned())).collect())
}

/// The conflicting events by their key, each list by ascending depth, then descending hash of the ID.
fn load_conflicts(conflict: &Conflict<'_>, events: &Events<'_>) -> Result<Conflicts, Needs> {
    let mut conflicts = Conflicts::new();
    for id in &conflict.conflicted {
        if let Some(known) = events.find(id)
            && let Some(key) = StateKey::of_event(&known.event)
        {
            conflicts.entry(key).or_default().push(known.event);
        }
    }
    events.check_complete()?;
    for events in conflicts.values_mut() {
        events.sort_by_cached_key(|event| {
            (event.depth(), Reverse(sha1(event.event_id().as_bytes())))
        });
    }
    Ok(conflicts)
}

fn take(conflicts: &mut Conflicts, select: impl Fn(&StateKey) -> bool) -> Conflicts {
    conflicts.extract_if(.., |key, _| select(key)).collect()
}

struct Resolver<'a> {
    rules: &'a RoomRules,
    events: &'a Events<'a>,
    base: &'a dyn UnconflictedState,
    resolved: HashMap<StateKey, Arc<Event>>,
}

impl Resolver<'_> {
    fn run_pass(&mut self, conflicts: Conflicts, pick: Pick<Self>) -> Result<(), Needs> {
        let mut picked = Vec::new();
        for (key, events) in conflicts {
            if let Some(event) = pick(self, &events) {
                picked.push((key, event));
            }
        }
        self.events.check_complete()?;
        self.resolved.extend(picked);
        Ok(())
    }

    /// Applies the events in ascending order until one is not allowed.
    fn pick_last_allowed(&self, events: &[Arc<Event>]) -> Option<Arc<Event>> {
        let (first, rest) = events.split_first()?;
        let mut picked = first;
        for event in rest {
            if !self.allows(event, Some(picked)) {
                break;
            }
            picked = event;
        }
        Some(Arc::clone(picked))
    }

    /// The highest event that is allowed; the lowest if none is, as in all known implementations.
    fn pick_first_allowed(&self, events: &[Arc<Event>]) -> Option<Arc<Event>> {
        let allowed = events.iter().rev().find(|event| self.allows(event, None));
        allowed.or(events.first()).cloned()
    }

    fn allows(&self, event: &Event, applied: Option<&Arc<Event>>) -> bool {
        authorise(event, self.rules, &View { resolver: self, applied }).is_ok()
    }
}

/// The results so far, with the event applied last.
struct View<'a> {
    resolver: &'a Resolver<'a>,
    applied: Option<&'a Arc<Event>>,
}

impl StateLookup for View<'_> {
    fn find(&self, kind: &str, state_key: &str) -> Option<Arc<Event>> {
        if let Some(applied) = self.applied
            && applied.is_state_of(kind, state_key)
        {
            return Some(Arc::clone(applied));
        }
        let resolved = self.resolver.resolved.get(&(kind, state_key) as &dyn StatePair);
        if let Some(event) = resolved {
            return Some(Arc::clone(event));
        }
        let id = self.resolver.base.find(kind, state_key)?;
        self.resolver.events.find(&id).map(|known| known.event)
    }
}
