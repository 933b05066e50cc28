//! An independent implementation of state resolution and authorisation, asked through one interface.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use hearth::protocol::{
    event::Event,
    room_version::RoomVersion,
    state_key::StateKey,
    state_resolution::{KnownEvent, StateMap, conflicted_subgraph},
};
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, RoomVersionId, UInt, UserId,
    events::TimelineEventType,
    room_version_rules::RoomVersionRules,
    state_res::{self, utils::event_id_set::EventIdSet},
};
use serde_json::value::RawValue;

pub type Events = HashMap<OwnedEventId, KnownEvent>;

/// An event in the shape that the oracle wants.
#[derive(Clone)]
pub struct OracleEvent(Arc<Parts>);

struct Parts {
    event: Arc<Event>,
    id: OwnedEventId,
    kind: TimelineEventType,
    content: Box<RawValue>,
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
    /// What stands at the top level, where the rules of the first two versions look.
    redacts: Option<OwnedEventId>,
    rejected: bool,
}

impl OracleEvent {
    pub fn new(known: &KnownEvent) -> Self {
        let event = &known.event;
        Self(Arc::new(Parts {
            id: event.event_id().to_owned(),
            kind: event.kind().into(),
            content: event.content().to_owned(),
            prev_events: event.prev_events().map(ToOwned::to_owned).collect(),
            auth_events: event.auth_events().map(ToOwned::to_owned).collect(),
            redacts: event.redacts(RoomVersion::V1.rules()),
            rejected: known.rejected,
            event: Arc::clone(event),
        }))
    }
}

impl state_res::Event for OracleEvent {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.0.id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.0.event.states_room_id().then(|| self.0.event.room_id())
    }

    fn sender(&self) -> &UserId {
        self.0.event.sender()
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::try_from(self.0.event.origin_server_ts()).unwrap())
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.0.kind
    }

    fn content(&self) -> &RawValue {
        &self.0.content
    }

    fn state_key(&self) -> Option<&str> {
        self.0.event.state_key()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.0.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.0.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.0.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.0.rejected
    }
}

/// The rules of `version` as the oracle has them.
pub fn rules(version: RoomVersion) -> RoomVersionRules {
    RoomVersionId::try_from(version.as_str()).unwrap().rules().unwrap()
}

/// What the oracle resolves `states` to, for versions 2 and later.
pub fn resolve(version: RoomVersion, states: &[StateMap], events: &Events) -> StateMap {
    let rules = rules(version);
    let resolution = rules.state_res.v2_rules().unwrap();
    let oracle_states: Vec<state_res::StateMap<OwnedEventId>> = states
        .iter()
        .map(|state| {
            let entries = state.iter();
            entries
                .map(|(key, id)| (((*key.kind).into(), key.state_key.to_string()), id.clone()))
                .collect()
        })
        .collect();
    let chains = states.iter().map(|state| auth_chain(state.values(), events)).collect();
    let resolved = state_res::resolve(
        &rules.authorization,
        resolution,
        &oracle_states,
        chains,
        |id: &EventId| events.get(id).map(OracleEvent::new),
        |conflicted: &state_res::StateMap<Vec<OwnedEventId>>| {
            let conflicted: Vec<_> = conflicted.values().flatten().cloned().collect();
            Some(conflicted_subgraph(&conflicted, events).unwrap().into_iter().collect())
        },
    );
    let resolved = resolved.unwrap().into_iter();
    resolved.map(|((kind, key), id)| (StateKey::new(&kind.to_string(), &key), id)).collect()
}

/// Whether the oracle allows `event` in `state`.
pub fn authorise(
    version: RoomVersion,
    event: &Arc<Event>,
    state: &StateMap,
    events: &Events,
) -> Result<(), String> {
    let find = |id: &EventId| events.get(id).map(OracleEvent::new);
    let event = OracleEvent::new(&KnownEvent { event: Arc::clone(event), rejected: false });
    let rules = rules(version).authorization;
    state_res::check_state_dependent_auth_rules(&rules, event, |kind, key| {
        find(state.get(&StateKey::new(&kind.to_string(), key))?)
    })
}

/// Whether the oracle has nothing against the authorisation events that `event` names.
pub fn check_receipt(
    version: RoomVersion,
    event: &Arc<Event>,
    events: &Events,
) -> Result<(), String> {
    let find = |id: &EventId| events.get(id).map(OracleEvent::new);
    let event = OracleEvent::new(&KnownEvent { event: Arc::clone(event), rejected: false });
    let rules = rules(version).authorization;
    state_res::check_state_independent_auth_rules(&rules, event, find)
}

/// The chains of `ids`, with themselves.
pub fn auth_chain<'a>(
    ids: impl Iterator<Item = &'a OwnedEventId>,
    events: &Events,
) -> EventIdSet<OwnedEventId> {
    let mut chain = BTreeSet::new();
    let mut work: Vec<OwnedEventId> = ids.cloned().collect();
    while let Some(id) = work.pop() {
        if chain.insert(id.clone()) {
            work.extend(events[&id].event.auth_events().map(ToOwned::to_owned));
        }
    }
    chain.into_iter().collect()
}
