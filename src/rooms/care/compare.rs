//! Compares the tables that are derived from a room's events with what a replay of the events came to, or with
//! what the events themselves say. Memberships are in `members`.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use serde_json::Value;

use super::{
    super::{
        event_store::{StoredEvent, event_key},
        room::Head,
        search_index::list_texts,
        search_terms::hash_terms,
        state::State,
        summary,
    },
    replay::{EVENTS_STEP, Progress, Replay},
};
use crate::storage::{
    self, EventNid, StateKeyNid, StateNid, StorageError,
    care::{self, RelationFacts},
    directory,
    events::flags,
    relations::Relation,
    rooms::{RoomRow, SummaryRow},
};

/// What the events themselves say of other tables.
#[derive(Default)]
pub(super) struct Contents {
    relations: BTreeMap<EventNid, RelationFacts>,
    /// Edges that must be there: who authorises whom, and the state key of the latter.
    edges: BTreeMap<(EventNid, EventNid), StateKeyNid>,
    /// Edges that may be there: those of events whose chain is not here.
    loose_edges: HashSet<(EventNid, EventNid)>,
    search: Option<(i64, i64)>,
    is_search_wrong: bool,
}

impl Replay<'_> {
    /// Compares all tables but the edges.
    pub async fn compare(&mut self, contents: &Contents) -> Result<(), StorageError> {
        self.compare_stand().await?;
        self.compare_members().await?;
        self.compare_missing().await?;
        self.compare_summary().await?;
        self.compare_relations(contents).await?;
        self.compare_search(contents).await
    }

    /// Where the room stands: its row.
    async fn compare_stand(&mut self) -> Result<(), StorageError> {
        // A room of which only invitations are known stands nowhere.
        if self.line.extremities.is_empty() {
            return Ok(());
        }
        let known = read_extremities(&self.row.extremities);
        let nids = || self.line.extremities.iter().map(|(nid, _)| *nid);
        let mut are_right =
            known.as_ref().is_some_and(|known| known.iter().map(|(nid, _)| *nid).eq(nids()));
        let is_forked = self.line.extremities.len() > 1;
        for (at, (_, nid)) in known.unwrap_or_default().into_iter().enumerate() {
            let state = self.line.extremities.get(at).map(|(_, state)| state.map().clone());
            let Some(state) = state.filter(|_| are_right && is_forked) else { continue };
            are_right = match nid {
                Some(nid) => self.library.confirm(nid, &state).await?.is_some(),
                None => false,
            };
        }
        let mut row = self.row.clone();
        if !are_right {
            self.findings.note("the ends of the room's graph are others than noted");
            let extremities = self.line.extremities.clone();
            row.extremities = self.write_extremities(&extremities);
        }
        let current = self.line.current.clone();
        if self.library.confirm(row.state_nid, current.map()).await?.is_none() {
            self.findings.note("the current state is not what the ends of the graph resolve to");
            self.library.save(&current, &mut self.findings);
            row.state_nid = current.nid();
        }
        self.compare_numbers(&mut row);
        let is_same = |one: &RoomRow, two: &RoomRow| {
            one.extremities == two.extremities
                && one.state_nid == two.state_nid
                && numbers_of(one) == numbers_of(two)
        };
        if !is_same(&row, &self.row) {
            care::correct_room(&mut self.findings.tx, &row);
            self.row = row;
        }
        Ok(())
    }

    /// The extremities as the row has them, with the states after them written where there are several.
    fn write_extremities(&mut self, extremities: &[(EventNid, State)]) -> String {
        if let [(only, _)] = extremities {
            return format!("[{}]", only.0);
        }
        let mut pairs = Vec::with_capacity(extremities.len());
        for (nid, state) in extremities {
            self.library.save(state, &mut self.findings);
            pairs.push([nid.0, state.nid().0]);
        }
        format!("{pairs:?}")
    }

    fn compare_numbers(&mut self, row: &mut RoomRow) {
        let line = &self.line;
        // Leaving a room while its members are missing ends the wait for them, at a place behind the last event.
        let latest_position = match line.ours {
            0 => line.latest_position.max(row.latest_position),
            _ => line.latest_position,
        };
        let numbers = [
            ("the depth", &mut row.depth, line.depth),
            ("the count of events that notify", &mut row.notify_ordinal, line.notify_ordinal),
            ("the position of the latest event", &mut row.latest_position, latest_position),
            ("the count of joined members", &mut row.joined_count, line.joined),
            ("the count of invited members", &mut row.invited_count, line.invited),
        ];
        for (name, noted, derived) in numbers {
            if *noted != derived {
                self.findings.note(format!("{name} is {derived}, not {noted}"));
                *noted = derived;
            }
        }
    }

    async fn compare_missing(&mut self) -> Result<(), StorageError> {
        let (database, room) = (self.rooms.database(), self.row.nid);
        let mut derived = std::mem::take(&mut self.missing);
        for row in care::list_missing(database, room).await? {
            if !derived.remove(&row) {
                self.findings.note("an event counts as missing that is not");
                // The same key may be noted with another place, which is corrected below.
                let is_misplaced =
                    derived.iter().any(|(key, child, _)| (key, child) == (&row.0, &row.1));
                if !is_misplaced {
                    care::delete_missing(&mut self.findings.tx, room, &row);
                }
            }
        }
        for row in derived {
            self.findings.note("a gap before an event is not noted");
            care::correct_missing(&mut self.findings.tx, room, &row);
        }
        for event in care::list_idle_waits(database, room).await? {
            self.findings.note("an event counts as waiting that does not wait");
            storage::graph::delete_awaited(&mut self.findings.tx, room, event);
        }
        Ok(())
    }

    async fn compare_summary(&mut self) -> Result<(), StorageError> {
        if self.line.extremities.is_empty() {
            return Ok(());
        }
        let pinned = self.rooms.0.load_pinned(self.room.facts(), &self.line.current).await?;
        let head = Head { pinned: Arc::new(pinned), ..Head::empty() };
        let derived = summary::of_head(&head, self.room.rules);
        let listed = directory::find_listed(self.rooms.database(), self.row.nid).await?;
        if listed.map(|listed| listed.summary) != Some(without_nul(&derived)) {
            self.findings.note("what the directory shows of the room is not what its state says");
            storage::rooms::save_summary(&mut self.findings.tx, self.row.nid, &derived);
        }
        Ok(())
    }

    /// Reads all events for what they say of other tables.
    pub async fn read_contents(
        &mut self,
        progress: Progress<'_>,
    ) -> Result<Contents, StorageError> {
        let search = care::find_search_cursor(self.rooms.database(), self.row.nid).await?;
        let mut contents = Contents { search, ..Contents::default() };
        let total = self.facts.len();
        for start in (0..total).step_by(EVENTS_STEP) {
            let step = start..(start + EVENTS_STEP).min(total);
            let nids: Vec<EventNid> = self.facts[step.clone()].iter().map(|e| e.nid).collect();
            let events = self.rooms.events().load(self.room.facts(), &nids).await?;
            let mut terms = BTreeSet::new();
            for (at, event) in step.clone().zip(&events) {
                self.read_content(at, event, &mut contents, &mut terms);
            }
            if !terms.is_empty() {
                let terms: Vec<_> = terms.into_iter().collect();
                let database = self.rooms.database();
                let known = care::count_terms(database, self.row.nid, &terms).await?;
                contents.is_search_wrong |= known != terms.len() as i64;
            }
            progress(step.end as u64, total as u64);
        }
        Ok(contents)
    }

    fn read_content(
        &self,
        at: usize,
        event: &StoredEvent,
        contents: &mut Contents,
        terms: &mut BTreeSet<(i64, EventNid)>,
    ) {
        let facts = &self.facts[at];
        let has_place = facts.position.is_some() || facts.ordering != 0;
        if has_place && let Some((rel_type, target)) = summary::relation_to_keep(&event.event) {
            let relation = RelationFacts {
                target_key: event_key(&target),
                event: event.nid,
                rel_type,
                kind: event.event.kind().to_owned(),
                sender: event.event.sender().to_string(),
            };
            contents.relations.insert(event.nid, relation);
        }
        if let Some(key) = facts.key {
            let keys = event.event.auth_events().map(event_key);
            let parents: Vec<_> = keys.map(|key| self.by_key.get(&key).copied()).collect();
            let is_outlier = facts.flags & flags::OUTLIER != 0;
            let is_loose = facts.flags & flags::WAITING != 0
                || is_outlier && parents.iter().any(Option::is_none);
            let edges = parents.into_iter().flatten().map(|parent| (parent, event.nid));
            match is_loose {
                true => contents.loose_edges.extend(edges),
                false => contents.edges.extend(edges.map(|edge| (edge, key))),
            }
        }
        let is_indexed =
            contents.search.is_some_and(|(lowest, upto)| (lowest..=upto).contains(&facts.ordering));
        if is_indexed && has_place && facts.flags & flags::HIDDEN == 0 {
            self.list_terms(event, terms);
        }
    }

    /// The terms by which an event has to be found.
    fn list_terms(&self, event: &StoredEvent, terms: &mut BTreeSet<(i64, EventNid)>) {
        let kinds = ["m.room.message", "m.room.name", "m.room.topic"];
        if event.is_redacted() || !kinds.contains(&event.event.kind()) {
            return;
        }
        let Ok(content) = event.event.content_as::<Value>() else { return };
        let (nid, texts) = match summary::relation_of(&event.event) {
            Some((rel_type, target)) if rel_type == "m.replace" => {
                let target = self.by_key.get(&event_key(&target));
                let is_there =
                    |nid: &&EventNid| self.facts[self.index[*nid]].flags & flags::REDACTED == 0;
                let Some(target) = target.filter(is_there) else { return };
                (*target, list_texts(&event.event, &content["m.new_content"]))
            }
            _ => (event.nid, list_texts(&event.event, &content)),
        };
        for (_, text) in texts {
            terms.extend(hash_terms(&text).into_iter().map(|term| (term, nid)));
        }
    }

    async fn compare_relations(&mut self, contents: &Contents) -> Result<(), StorageError> {
        let (database, room) = (self.rooms.database(), self.row.nid);
        let mut open: BTreeMap<_, _> = contents.relations.iter().collect();
        let mut last = (String::new(), EventNid(0));
        loop {
            let place = (last.0.as_str(), last.1);
            let step = care::list_relations(database, room, place, EVENTS_STEP).await?;
            let is_all = step.len() < EVENTS_STEP;
            for noted in &step {
                let known = open.get(&noted.event).copied();
                if known == Some(noted) {
                    open.remove(&noted.event);
                    continue;
                }
                self.findings.note("a relation is noted that no event has");
                let key = &noted.target_key;
                match known.filter(|known| known.target_key == *key) {
                    Some(known) => {
                        open.remove(&noted.event);
                        care::correct_relation(&mut self.findings.tx, room, known);
                    }
                    None => storage::relations::delete(&mut self.findings.tx, key, noted.event),
                }
            }
            match step.last() {
                Some(noted) if !is_all => last = (noted.rel_type.clone(), noted.event),
                _ => break,
            }
        }
        for relation in open.into_values() {
            self.findings.note("the relation of an event is not noted");
            let row = Relation {
                target_key: &relation.target_key,
                event: relation.event,
                room,
                rel_type: &relation.rel_type,
                kind: &relation.kind,
                sender: &relation.sender,
            };
            storage::relations::insert(&mut self.findings.tx, &row);
        }
        Ok(())
    }

    /// Compares the edges between events and those that authorise them.
    pub async fn compare_edges(&mut self, contents: &mut Contents) -> Result<(), StorageError> {
        let mut open = std::mem::take(&mut contents.edges);
        for step in self.facts.chunks(EVENTS_STEP) {
            let parents: Vec<EventNid> = step.iter().map(|event| event.nid).collect();
            for edge in care::list_edges(self.rooms.database(), &parents).await? {
                let (parent, child, key) = edge;
                let known = open.get(&(parent, child)).copied();
                if known == Some(key) {
                    open.remove(&(parent, child));
                } else if !contents.loose_edges.contains(&(parent, child)) {
                    self.findings.note("an event is noted to authorise one that does not name it");
                    // One with another key is corrected below.
                    if known.is_none() {
                        care::delete_edge(&mut self.findings.tx, edge);
                    }
                }
            }
        }
        for ((parent, child), key) in open {
            self.findings.note("an event is not noted to authorise one that names it");
            care::correct_edge(&mut self.findings.tx, (parent, child, key));
        }
        Ok(())
    }

    async fn compare_search(&mut self, contents: &Contents) -> Result<(), StorageError> {
        let room = self.row.nid;
        let strays = care::count_stray_terms(self.rooms.database(), room).await?;
        if contents.is_search_wrong || strays > 0 {
            self.findings.note("the search does not know all words of the room, or unknown ones");
            care::clear_search(&mut self.findings.tx, room);
        }
        Ok(())
    }
}

/// The numbers of a room's row.
fn numbers_of(row: &RoomRow) -> [i64; 5] {
    [row.depth, row.notify_ordinal, row.latest_position, row.joined_count, row.invited_count]
}

/// The extremities of a row, with the states after them where there are several.
fn read_extremities(text: &str) -> Option<Vec<(EventNid, Option<StateNid>)>> {
    let (events, states) = super::super::loading::decode_extremities(text)?;
    let mut states = states.into_iter();
    Some(events.into_iter().map(|nid| (nid, states.next())).collect())
}

/// As the store keeps it.
fn without_nul(summary: &SummaryRow) -> SummaryRow {
    let clean = |text: &Option<String>| text.as_ref().map(|text| text.replace('\0', ""));
    SummaryRow {
        name: clean(&summary.name),
        topic: clean(&summary.topic),
        canonical_alias: clean(&summary.canonical_alias),
        avatar_url: clean(&summary.avatar_url),
        join_rule: summary.join_rule.replace('\0', ""),
        room_type: clean(&summary.room_type),
        encryption: clean(&summary.encryption),
        ..*summary
    }
}
