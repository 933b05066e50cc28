//! Events that are known without their place in the graph: those of states and authorisation chains
//! that other servers tell. They are judged by their own authorisation events only.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, UserId};

use super::{
    commit::write_event,
    event_store::{NewStoredEvent, StoredEvent},
    placement::check_by_auth_events,
    registry::Rooms,
    room::Room,
    state::State,
};
use crate::{
    protocol::event::Event,
    storage::{
        self, EventNid, StateKeyNid, StateNid, StorageError, WriteTx,
        events::{Place, flags},
    },
};

/// Outliers written by one commit.
const COMMIT_EVENTS: usize = 200;

/// The events of one import by ID: those that were given or named, as far as they are here.
pub(super) type Imported = HashMap<OwnedEventId, Arc<StoredEvent>>;

impl Rooms {
    /// Stores those of the events, in any order, that are not here yet and whose authorisation events
    /// are all here or among them. Returns all that are here now, and what they name.
    pub(super) async fn import_outliers(
        &self,
        room: &Arc<Room>,
        events: &[Arc<Event>],
    ) -> Result<Imported, StorageError> {
        let ids = events.iter().map(|event| event.event_id());
        let named = events.iter().flat_map(|event| event.auth_events());
        let foreign = self.find_foreign(room, ids.clone()).await?;
        let mut here = self.load_here(room, ids.chain(named)).await?;
        let create = room.rules.room_id_is_create_hash.then(|| create_id(room)).flatten();
        if let Some(create) = &create
            && !here.contains_key(create)
            && let Some(event) = self.find_any_event(room, create).await?
        {
            here.insert(create.clone(), event);
        }
        let mut sorted = sort_by_auth(events);
        sorted.retain(|event| !foreign.contains(event.event_id()));
        for chunk in sorted.chunks(COMMIT_EVENTS) {
            let pairs: Vec<_> =
                chunk.iter().filter_map(|event| Some((event.kind(), event.state_key()?))).collect();
            self.0.keys.preload(&pairs).await?;
            self.import_chunk(room, chunk, create.as_deref(), &mut here).await?;
        }
        Ok(here)
    }

    async fn import_chunk(
        &self,
        room: &Arc<Room>,
        chunk: &[Arc<Event>],
        create: Option<&EventId>,
        here: &mut Imported,
    ) -> Result<(), StorageError> {
        let mut tx = WriteTx::new();
        let mut written = Vec::new();
        for event in chunk {
            let known = here.get(event.event_id());
            if event.room_id() != room.room_id {
                continue;
            }
            if let Some(known) = known.filter(|known| !known.is_waiting()) {
                self.note_edges_of_member(event, known, here, &mut tx);
                continue;
            }
            let is_judged = |id: &EventId| here.get(id).is_some_and(|known| !known.is_waiting());
            if !event.auth_events().all(is_judged) {
                continue;
            }
            let known = known.map(|known| known.nid);
            let stored = self.write_judged(room, event, (known, create), here, &mut tx).await?;
            here.insert(event.event_id().to_owned(), Arc::clone(&stored));
            written.push(stored);
        }
        if !tx.is_empty() {
            self.0.writer.commit(tx).await?;
            written.iter().for_each(|event| self.0.events.remember(event));
        }
        Ok(())
    }

    /// An invitation or knock of one of our users may have come before anything else of the room: what it
    /// names for its authorisation could not be noted then.
    fn note_edges_of_member(
        &self,
        event: &Event,
        known: &StoredEvent,
        here: &Imported,
        tx: &mut WriteTx,
    ) {
        let user = event.state_key().and_then(|user| <&UserId>::try_from(user).ok());
        let is_ours = user.is_some_and(|user| user.server_name() == self.server_name());
        let Some(key) = known.state_key_nid.filter(|_| is_ours && !known.is_in_graph()) else {
            return;
        };
        let parents = event.auth_events().filter_map(|id| here.get(id)).map(|parent| parent.nid);
        self.0.auth_edges.insert(tx, parents, (known.nid, key));
    }

    /// Judges an event by its authorisation events, all of which are here, and queues its rows.
    async fn write_judged(
        &self,
        room: &Room,
        event: &Arc<Event>,
        (known, create): (Option<EventNid>, Option<&EventId>),
        here: &Imported,
        tx: &mut WriteTx,
    ) -> Result<Arc<StoredEvent>, StorageError> {
        let auth_events: Vec<_> =
            event.auth_events().filter_map(|id| here.get(id).cloned()).collect();
        let create = create.and_then(|id| here.get(id)).map(|create| &**create);
        let verdict = check_by_auth_events(event, room, create, &auth_events);
        let key = match event.state_key() {
            Some(state_key) => Some(self.0.keys.intern(event.kind(), state_key).await?),
            None => None,
        };
        let nid = known.unwrap_or_else(|| self.0.next_event_nid());
        if let Err(rejection) = &verdict {
            storage::graph::save_verdict(tx, nid, room.nid, &rejection.to_string());
        }
        if let Some(key) = &key {
            key.store(tx);
            let parents = auth_events.iter().map(|parent| parent.nid);
            self.0.auth_edges.insert(tx, parents, (nid, key.nid));
        }
        let rejected = if verdict.is_err() { flags::REJECTED } else { 0 };
        let stored = Arc::new(StoredEvent::new(NewStoredEvent {
            nid,
            room_nid: room.nid,
            state_nid: StateNid::EMPTY,
            state_key_nid: key.map(|key| key.nid),
            replaces_nid: None,
            flags: flags::OUTLIER | rejected,
            notify_ordinal: 0,
            sent_by: None,
            redacted_by: None,
            event: Arc::clone(event),
        }));
        write_event(tx, &stored, Place::Nowhere, known.is_some());
        Ok(stored)
    }

    /// Those of the IDs that are taken by events of other rooms, which is possible where they are no
    /// hashes.
    pub(super) async fn find_foreign<'a>(
        &self,
        room: &Room,
        ids: impl Iterator<Item = &'a EventId>,
    ) -> Result<HashSet<OwnedEventId>, StorageError> {
        if !room.rules.has_event_id_field() {
            return Ok(HashSet::new());
        }
        let mut foreign = HashSet::new();
        for (id, nid) in self.0.events.find_nids(ids).await? {
            if self.load_of_room(room, nid).await?.is_none() {
                foreign.insert(id);
            }
        }
        Ok(foreign)
    }

    /// Those of the events that are here in whatever form.
    pub(super) async fn load_here<'a>(
        &self,
        room: &Room,
        ids: impl Iterator<Item = &'a EventId>,
    ) -> Result<Imported, StorageError> {
        let found = self.0.events.find_nids(ids).await?;
        let nids: Vec<_> = found.values().copied().collect();
        let events = self.0.events.load_own(room.facts(), &nids).await?.into_iter();
        Ok(events.map(|event| (event.event.event_id().to_owned(), event)).collect())
    }

    /// The state that these events make up, as changes of the closest of `bases`, with its row.
    /// Rejected events, and what is no state, are left out.
    pub(super) fn state_of(
        &self,
        events: impl Iterator<Item = Arc<StoredEvent>>,
        bases: &[&State],
    ) -> Result<(State, Option<storage::snapshots::SnapshotRow>), StorageError> {
        let pairs = events.filter(|event| !event.is_rejected() && !event.is_waiting());
        let pairs = pairs.filter_map(|event| Some((event.state_key_nid?, event.nid)));
        let map: imbl::OrdMap<StateKeyNid, EventNid> = pairs.collect();
        State::near(bases, &map, self.0.next_state_nid())
    }
}

/// The ID of the create event that the ID of a room (version 12) names.
pub(super) fn create_id(room: &Room) -> Option<OwnedEventId> {
    EventId::parse(format!("${}", &room.room_id.as_str()[1..])).ok()
}

/// The events, each behind those of them that it names for its authorisation; without repetitions.
/// Cycles, possible where IDs are no hashes, are cut. Create events come first, since from version 12 on
/// nothing names them.
fn sort_by_auth(events: &[Arc<Event>]) -> Vec<Arc<Event>> {
    let by_id: HashMap<&EventId, &Arc<Event>> =
        events.iter().map(|event| (event.event_id(), event)).collect();
    let mut seen: HashSet<&EventId> = HashSet::new();
    let mut sorted = Vec::with_capacity(events.len());
    let (creates, others): (Vec<_>, Vec<_>) =
        events.iter().partition(|event| event.kind() == "m.room.create");
    for event in creates.into_iter().chain(others) {
        let mut work = vec![(event, false)];
        while let Some((event, is_done)) = work.pop() {
            if is_done {
                sorted.push(Arc::clone(event));
                continue;
            }
            if !seen.insert(event.event_id()) {
                continue;
            }
            work.push((event, true));
            let parents = event.auth_events().filter_map(|id| by_id.get(id).copied());
            work.extend(parents.filter(|p| !seen.contains(p.event_id())).map(|p| (p, false)));
        }
    }
    sorted
}
