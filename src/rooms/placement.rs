//! Judging an event from another server with what is here: its authorisation events, and the state
//! before it, which is what the states after its previous events resolve to. No network.

use std::{collections::HashMap, sync::Arc};

use ruma::{EventId, OwnedEventId};

use super::{
    attempt::FoundState,
    event_store::{StoredEvent, event_key},
    fork::Placed,
    receive::Advice,
    registry::Rooms,
    room::Room,
    state::State,
};
use crate::{
    protocol::{
        authorisation::{
            AuthEvent, AuthRejection, authorise, check_auth_events, list_judging_keys, may_redact,
        },
        event::Event,
        power_levels::PowerLevels,
        redaction::redact_event,
        state_key::StateKey as StatePairKey,
    },
    storage::{self, StorageError, snapshots::SnapshotRow},
};

/// What can be said of an event without asking anybody.
pub(super) enum Judged {
    /// It is in the graph already.
    Known(Arc<StoredEvent>),
    /// These events have to be here before it can be judged.
    Lacking(Lacking),
    /// It is allowed where it stands; the current state has not been asked.
    Allowed(Box<Placed>),
    /// It is in the graph, but has no effect.
    Rejected(Box<Placed>, AuthRejection),
}

/// What an event names and nobody has brought yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lacking {
    pub prev_events: Vec<OwnedEventId>,
    pub auth_events: Vec<OwnedEventId>,
}

impl Lacking {
    pub fn all(&self) -> Vec<OwnedEventId> {
        self.auth_events.iter().chain(&self.prev_events).cloned().collect()
    }
}

/// Where the state before an event comes from.
#[derive(Clone, Copy, Default)]
pub(super) enum Basis<'a> {
    /// From its previous events, all of which have to be here.
    #[default]
    PrevEvents,
    /// From those that are here, and from what another server tells in place of those that are missing.
    Bridged(&'a State),
    /// From another server alone, when a room is entered.
    Given(&'a State),
    /// As [`Basis::Given`], without most of the members (MSC3706).
    GivenPart(&'a State),
}

/// A state on its way into the store, and the rows that it needs.
pub(super) struct NewState {
    pub state: State,
    pub rows: Vec<SnapshotRow>,
}

impl Rooms {
    /// Judges an event (checks 4 and 5 of "Checks performed on receipt of a PDU").
    pub(super) async fn judge(
        &self,
        room: &Arc<Room>,
        event: &Arc<Event>,
        advice: Advice<'_>,
    ) -> Result<Judged, StorageError> {
        let basis = advice.basis;
        let stored = match advice.is_unheard_of {
            true => None,
            false => self.find_any_event(room, event.event_id()).await?,
        };
        if let Some(stored) = &stored
            && stored.is_in_graph()
        {
            return Ok(Judged::Known(Arc::clone(stored)));
        }
        let (auth_events, mut lacking_auth) = self.load_known(room, event.auth_events()).await?;
        let (waiting, auth_events): (Vec<_>, Vec<_>) =
            auth_events.into_iter().partition(|event| event.is_waiting());
        lacking_auth.extend(waiting.iter().map(|event| event.event.event_id().to_owned()));
        let (prev_events, mut lacking_prev) = self.load_known(room, event.prev_events()).await?;
        let (prev_events, outliers): (Vec<_>, Vec<_>) =
            prev_events.into_iter().partition(|prev| prev.is_in_graph());
        lacking_prev.extend(outliers.iter().map(|prev| prev.event.event_id().to_owned()));
        let needs_prev = !lacking_prev.is_empty() && matches!(basis, Basis::PrevEvents);
        if needs_prev || !lacking_auth.is_empty() {
            return Ok(Judged::Lacking(Lacking {
                prev_events: if needs_prev { lacking_prev } else { Vec::new() },
                auth_events: lacking_auth,
            }));
        }
        let mut before = self.state_before_new(room, &prev_events, basis).await?;
        let is_part = match basis {
            Basis::GivenPart(_) => true,
            Basis::Given(_) => false,
            Basis::PrevEvents | Basis::Bridged(_) => room.head().partial.is_some(),
        };
        if is_part {
            before = self.with_learnt(before, &auth_events)?;
        }
        let mut verdict = self.check(room, event, &auth_events, &before.state).await?;
        if is_part && verdict.is_err() {
            verdict = self.check_in_part(room, event, &auth_events, &before.state).await?;
        }
        let missing = lacking_prev.iter().map(|id| event_key(id)).collect();
        let early_redaction = match (&stored, advice.is_unheard_of) {
            (Some(stored), _) => stored.redacted_by.clone(),
            (None, true) => None,
            (None, false) => self.find_early_redaction(room, event).await?,
        };
        let event = (event, stored, early_redaction);
        let placed = self.place(room, event, (before, missing), &auth_events, verdict.is_ok());
        let placed = Box::new(Placed { may_be_named: !advice.is_unheard_of, ..placed.await? });
        Ok(match verdict {
            Ok(()) => Judged::Allowed(placed),
            Err(rejection) => Judged::Rejected(placed, rejection),
        })
    }

    async fn place(
        &self,
        room: &Arc<Room>,
        (event, stored, redacted_by): (
            &Arc<Event>,
            Option<Arc<StoredEvent>>,
            Option<Arc<StoredEvent>>,
        ),
        (before, missing): (NewState, Vec<Vec<u8>>),
        auth_events: &[Arc<StoredEvent>],
        is_allowed: bool,
    ) -> Result<Placed, StorageError> {
        let engine = &self.0;
        let nid = stored.as_ref().map_or_else(|| engine.next_event_nid(), |stored| stored.nid);
        let state_key = match event.state_key() {
            Some(state_key) => Some(engine.keys.intern(event.kind(), state_key).await?),
            None => None,
        };
        let (after, after_row) = match &state_key {
            Some(key) if is_allowed => {
                let change = [(key.nid, Some(nid))];
                let (after, row) = before.state.with_changes(&change, engine.next_state_nid())?;
                (after, Some(row))
            }
            _ => (before.state.clone(), None),
        };
        let event = match (&stored, &redacted_by) {
            (Some(stored), _) => Arc::clone(&stored.event),
            (None, Some(_)) => Arc::new(redact_event(event, room.rules)),
            (None, None) => Arc::clone(event),
        };
        Ok(Placed {
            nid,
            redacts: event.redacts(room.rules),
            event,
            is_stored: stored.is_some(),
            may_be_named: true,
            redacted_by,
            state_key,
            before: before.state,
            after,
            before_rows: before.rows,
            after_row,
            auth_events: auth_events.iter().map(|event| event.nid).collect(),
            missing,
        })
    }

    /// A state without most members, with those that an event names.
    fn with_learnt(
        &self,
        mut before: NewState,
        auth_events: &[Arc<StoredEvent>],
    ) -> Result<NewState, StorageError> {
        let learnt = Self::list_learnt(auth_events, &before.state);
        if !learnt.is_empty() {
            let (state, row) = before.state.with_changes(&learnt, self.0.next_state_nid())?;
            before.state = state;
            before.rows.push(row);
        }
        Ok(before)
    }

    /// Checks 4 and 5: the rules by the event's own authorisation events, then by the state before it.
    pub(super) async fn check(
        &self,
        room: &Arc<Room>,
        event: &Event,
        auth_events: &[Arc<StoredEvent>],
        before: &State,
    ) -> Result<Result<(), AuthRejection>, StorageError> {
        if let Err(rejection) = self.check_by_auth_events(room, event, auth_events).await? {
            return Ok(Err(rejection));
        }
        // A room has one create event, the first that is known.
        let head = room.head();
        let known = head.find_pinned("m.room.create").map(|known| known.event.event_id());
        let is_another = known.is_none_or(|known| known != event.event_id());
        if event.kind() == "m.room.create" && !head.extremities.is_empty() && is_another {
            return Ok(Err(AuthRejection::CreateHasPrevEvents));
        }
        let state = self.find_judges(room, event, before).await?;
        Ok(authorise(event, room.rules, &state))
    }

    /// The same for an event that a part of a state forbids. What the event names is resolved against that part:
    /// it may know what the part does not, and a ban still counts (MSC3902, "Handling requests and events in the
    /// partial-state room").
    async fn check_in_part(
        &self,
        room: &Arc<Room>,
        event: &Event,
        auth_events: &[Arc<StoredEvent>],
        before: &State,
    ) -> Result<Result<(), AuthRejection>, StorageError> {
        if let Err(rejection) = self.check_by_auth_events(room, event, auth_events).await? {
            return Ok(Err(rejection));
        }
        let (named, _) = self.state_of(auth_events.iter().cloned(), &[before])?;
        let resolved = self.resolve_states(room, &[before.clone(), named], None).await?;
        let (resolved, _) = State::near(&[before], &resolved, self.0.next_state_nid())?;
        self.check(room, event, auth_events, &resolved).await
    }

    /// Check 4 alone, all that is asked of an outlier.
    pub(super) async fn check_by_auth_events(
        &self,
        room: &Room,
        event: &Event,
        auth_events: &[Arc<StoredEvent>],
    ) -> Result<Result<(), AuthRejection>, StorageError> {
        let create = match room.rules.room_id_is_create_hash {
            true => {
                let id = format!("${}", &room.room_id.as_str()[1..]);
                match <&EventId>::try_from(id.as_str()) {
                    Ok(id) => self.find_any_event(room, id).await?,
                    Err(_) => None,
                }
            }
            false => None,
        };
        Ok(check_by_auth_events(event, room, create.as_deref(), auth_events))
    }

    /// The entries of a state that the rules look at for an event.
    pub(super) async fn find_judges(
        &self,
        room: &Room,
        event: &Event,
        state: &State,
    ) -> Result<FoundState, StorageError> {
        let keys = list_judging_keys(room.rules, event);
        let mut found = Vec::with_capacity(keys.len());
        for (kind, state_key) in keys {
            if let Some(event) = self.find_in_state(room, state, &kind, &state_key).await? {
                found.push(((kind, state_key), event));
            }
        }
        Ok(FoundState(found))
    }

    /// The state before an event that follows these ones of the graph.
    async fn state_before_new(
        &self,
        room: &Arc<Room>,
        prev_events: &[Arc<StoredEvent>],
        basis: Basis<'_>,
    ) -> Result<NewState, StorageError> {
        if let Basis::Given(state) | Basis::GivenPart(state) = basis {
            return Ok(NewState { state: state.clone(), rows: Vec::new() });
        }
        let mut states = Vec::with_capacity(prev_events.len() + 1);
        let mut rows = Vec::new();
        for prev in prev_events {
            let (state, row) = self.state_after(room, prev).await?;
            states.push(state);
            rows.extend(row);
        }
        // While members are missing, what is bridged is a guess that knows no more than the others.
        let is_guess = room.head().partial.is_some() && !states.is_empty();
        if let Basis::Bridged(state) = basis
            && !is_guess
        {
            states.push(state.clone());
        }
        if let [state] = states.as_slice() {
            return Ok(NewState { state: state.clone(), rows });
        }
        let mut new = self.merge_states(room, &states).await?;
        rows.append(&mut new.rows);
        Ok(NewState { rows, ..new })
    }

    /// What states resolve to, as a state.
    pub(super) async fn merge_states(
        &self,
        room: &Arc<Room>,
        states: &[State],
    ) -> Result<NewState, StorageError> {
        let resolved = self.resolve_states(room, states, None).await?;
        let bases: Vec<&State> = states.iter().collect();
        let (state, row) = State::near(&bases, &resolved, self.0.next_state_nid())?;
        Ok(NewState { state, rows: row.into_iter().collect() })
    }

    /// The state after an event of the graph, and its row when it is not in the store yet.
    pub(super) async fn state_after(
        &self,
        room: &Room,
        event: &StoredEvent,
    ) -> Result<(State, Option<SnapshotRow>), StorageError> {
        let head = room.head();
        let place = head.extremities.iter().position(|known| known.nid == event.nid);
        if let Some(state) = place.and_then(|place| head.states_after().into_iter().nth(place)) {
            return Ok((state, None));
        }
        if let Some(nid) = self.0.states_after.get(&event.nid) {
            return Ok((State::clone(&*self.load_state(nid).await?), None));
        }
        let before = self.load_state(event.state_nid).await?;
        match event.state_key_nid.filter(|_| !event.is_rejected()) {
            Some(key) => {
                let change = [(key, Some(event.nid))];
                let (state, row) = before.with_changes(&change, self.0.next_state_nid())?;
                Ok((state, Some(row)))
            }
            None => Ok((State::clone(&before), None)),
        }
    }

    /// The events of the room that are here in whatever form, and the IDs of the others.
    pub(super) async fn load_known<'a>(
        &self,
        room: &Room,
        ids: impl Iterator<Item = &'a EventId>,
    ) -> Result<(Vec<Arc<StoredEvent>>, Vec<OwnedEventId>), StorageError> {
        let ids: Vec<&EventId> = ids.collect();
        let found = self.0.events.find_nids(ids.iter().copied()).await?;
        let mut events: Vec<Arc<StoredEvent>> = Vec::with_capacity(found.len());
        let mut absent: Vec<OwnedEventId> = Vec::new();
        for id in ids {
            let event = match found.get(id) {
                Some(nid) => self.load_of_room(room, *nid).await?,
                None => None,
            };
            match event {
                Some(event) if !events.iter().any(|known| known.nid == event.nid) => {
                    events.push(event);
                }
                Some(_) => {}
                None if !absent.iter().any(|known| known == id) => absent.push(id.to_owned()),
                None => {}
            }
        }
        Ok((events, absent))
    }

    /// The redaction that came before the event and applies to it.
    async fn find_early_redaction(
        &self,
        room: &Room,
        event: &Event,
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        let key = event_key(event.event_id());
        let nids = storage::graph::list_awaited_redactions(&self.0.database, &key).await?;
        for nid in nids {
            let redaction = self.load_of_room(room, nid).await?;
            if let Some(redaction) = redaction.filter(|redaction| !redaction.is_hidden())
                && self.may_redact(room, &redaction, event).await?
            {
                return Ok(Some(redaction));
            }
        }
        Ok(None)
    }

    /// Whether a redaction applies to an event, by the power levels where the redaction stands.
    async fn may_redact(
        &self,
        room: &Room,
        redaction: &StoredEvent,
        event: &Event,
    ) -> Result<bool, StorageError> {
        let state = self.load_state(redaction.state_nid).await?;
        self.may_redact_at(room, &state, &redaction.event, event).await
    }

    /// Whether a redaction applies to an event, by the power levels of `state`.
    pub(super) async fn may_redact_at(
        &self,
        room: &Room,
        state: &State,
        redaction: &Event,
        event: &Event,
    ) -> Result<bool, StorageError> {
        let create = self.find_in_state(room, state, "m.room.create", "").await?;
        let power = self.find_in_state(room, state, "m.room.power_levels", "").await?;
        let levels = PowerLevels::from_events(
            create.as_ref().map(|event| &*event.event),
            power.as_ref().map(|event| &*event.event),
            room.rules,
        );
        Ok(may_redact(redaction.sender(), event.sender(), &levels, room.rules))
    }

    /// Stores a snapshot on its own.
    pub(super) async fn store_snapshot(&self, row: &SnapshotRow) -> Result<(), StorageError> {
        let mut tx = storage::WriteTx::new();
        storage::snapshots::insert(&mut tx, row);
        self.0.writer.commit(tx).await.map(drop)
    }
}

/// Rules 2 and 3, and all others by the state that the authorisation events make up.
pub(super) fn check_by_auth_events(
    event: &Event,
    room: &Room,
    create: Option<&StoredEvent>,
    auth_events: &[Arc<StoredEvent>],
) -> Result<(), AuthRejection> {
    fn judge(stored: &StoredEvent) -> AuthEvent<'_> {
        AuthEvent { event: &stored.event, rejected: stored.is_rejected() }
    }
    let find = |id: &EventId| auth_events.iter().find(|stored| stored.event.event_id() == id);
    // An event that is named twice counts twice.
    let named = event.auth_events().filter_map(find).map(|stored| judge(stored));
    check_auth_events(event, room.rules, create.map(judge), named)?;
    let mut state: HashMap<StatePairKey, Arc<Event>> = HashMap::new();
    for stored in create.into_iter().chain(auth_events.iter().map(|stored| &**stored)) {
        if let Some(key) = StatePairKey::of_event(&stored.event) {
            state.insert(key, Arc::clone(&stored.event));
        }
    }
    authorise(event, room.rules, &state)
}

/// Sorts events as their senders say they follow one another.
pub(super) fn by_depth(events: &mut [Arc<Event>]) {
    events.sort_by(|one, two| (one.depth(), one.event_id()).cmp(&(two.depth(), two.event_id())));
}
