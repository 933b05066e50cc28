//! Walks along relations from one event, upwards or downwards, over several levels (MSC2836). Not for asking
//! other servers for what is missing here (`federation`).

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use ruma::{EventId, OwnedEventId, ServerName};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    event_store::{StoredEvent, event_key},
    reader::Reader,
    registry::Rooms,
    room::Room,
    server_view::ServerView,
    summary::relation_of,
    visibility::Viewer,
};
use crate::{
    protocol::event::Event,
    storage::{
        StorageError,
        relations::{self, ChildRange},
    },
};

/// Children of one event that are looked at.
const CHILDREN_MAX: usize = 1_000;
/// Where clients of MSC2836 put what an event points at.
const RELATIONSHIP: &str = "m.relationship";

/// Who looks at relations: a user of this server, or another server in the room.
#[derive(Clone, Copy)]
pub enum Onlooker<'a> {
    User(&'a Viewer, &'a Reader<'a>),
    Server(&'a Arc<Room>, &'a ServerName),
}

impl Onlooker<'_> {
    fn room(&self) -> &Arc<Room> {
        match self {
            Self::User(viewer, _) => viewer.room(),
            Self::Server(room, _) => room,
        }
    }

    /// Whether the onlooker wants the event at all.
    fn takes(&self, event: &StoredEvent) -> bool {
        match self {
            Self::User(_, reader) => reader.takes(event),
            Self::Server(..) => true,
        }
    }
}

/// How far a walk goes.
#[derive(Clone, Copy, Debug)]
pub struct WalkRequest {
    pub is_upwards: bool,
    /// Levels, children of one event, and events in all.
    pub depth_max: usize,
    pub breadth_max: usize,
    pub limit: usize,
    /// Whether a child's children come before its sisters.
    pub depth_first: bool,
    pub recent_first: bool,
    pub with_parent: bool,
    pub with_children: bool,
}

/// What a walk has met, in its order, each event once.
#[derive(Default)]
pub struct Walk {
    pub events: Vec<Arc<StoredEvent>>,
    /// Whether it ended before everything was met.
    pub is_limited: bool,
    /// Events that others point at and that are not here.
    pub missing: Vec<OwnedEventId>,
}

/// What points at an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChildSummary {
    /// By type of relation.
    pub counts: BTreeMap<String, u64>,
    /// In their order as texts.
    pub event_ids: Vec<OwnedEventId>,
}

impl ChildSummary {
    /// `children_hash`: SHA-256 of the IDs one after another, as unpadded Base64.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        self.event_ids.iter().for_each(|id| hash.update(id.as_bytes()));
        BASE64_STANDARD_NO_PAD.encode(hash.finalize())
    }
}

impl Rooms {
    /// Walks from an event that the onlooker may see.
    pub async fn walk_relationships(
        &self,
        onlooker: Onlooker<'_>,
        start: Arc<StoredEvent>,
        request: WalkRequest,
    ) -> Result<Walk, StorageError> {
        let mut walk = Walk::default();
        let mut known = HashSet::new();
        walk.meet(&mut known, Arc::clone(&start), request.limit);
        if request.with_parent
            && let Some(parent) = self.find_parent(onlooker, &start, &mut walk).await?
        {
            walk.meet(&mut known, parent, request.limit);
        }
        if request.with_children {
            let children = self.list_all_children(onlooker, &start).await?;
            let ordered = order(children, request.recent_first).into_iter();
            ordered.for_each(|child| walk.meet(&mut known, child, request.limit));
        }
        let mut waiting = VecDeque::from([(start, 0)]);
        while let Some((event, depth)) = waiting.pop_front() {
            walk.meet(&mut known, Arc::clone(&event), request.limit);
            let is_full = walk.is_limited && walk.events.len() == request.limit;
            if depth == request.depth_max || is_full {
                continue;
            }
            let next: Vec<Arc<StoredEvent>> = match request.is_upwards {
                true => self.find_parent(onlooker, &event, &mut walk).await?.into_iter().collect(),
                false => {
                    let all = self.list_all_children(onlooker, &event).await?;
                    let mut children = order(all, request.recent_first);
                    walk.is_limited |= children.len() > request.breadth_max;
                    children.truncate(request.breadth_max);
                    children
                }
            };
            let next = next.into_iter().map(|event| (event, depth + 1));
            match request.depth_first {
                true => next.rev().for_each(|one| waiting.push_front(one)),
                false => waiting.extend(next),
            }
        }
        Ok(walk)
    }

    /// What the onlooker may see of what points at an event.
    pub async fn summarise_children(
        &self,
        onlooker: Onlooker<'_>,
        event: &StoredEvent,
    ) -> Result<ChildSummary, StorageError> {
        let mut summary = ChildSummary::default();
        for child in self.list_all_children(onlooker, event).await? {
            if let Some((rel_type, _)) = relationship_of(&child.event) {
                *summary.counts.entry(rel_type).or_default() += 1;
                summary.event_ids.push(child.event.event_id().to_owned());
            }
        }
        summary.event_ids.sort();
        Ok(summary)
    }

    /// Whether the onlooker may see an event.
    pub async fn is_shown(
        &self,
        onlooker: Onlooker<'_>,
        event: &StoredEvent,
    ) -> Result<bool, StorageError> {
        match onlooker {
            Onlooker::User(viewer, _) => viewer.sees(event).await,
            Onlooker::Server(room, name) => ServerView::new(self, room, name).sees(event).await,
        }
    }

    async fn find_parent(
        &self,
        onlooker: Onlooker<'_>,
        event: &StoredEvent,
        walk: &mut Walk,
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        let Some((_, target)) = relationship_of(&event.event) else { return Ok(None) };
        match self.find_event(onlooker.room(), &target).await? {
            Some(parent) if self.is_shown(onlooker, &parent).await? => Ok(Some(parent)),
            Some(_) => Ok(None),
            None => {
                walk.missing.push(target);
                Ok(None)
            }
        }
    }

    async fn list_all_children(
        &self,
        onlooker: Onlooker<'_>,
        event: &StoredEvent,
    ) -> Result<Vec<Arc<StoredEvent>>, StorageError> {
        let room = onlooker.room();
        let target = [event_key(event.event.event_id())];
        let range = ChildRange { after: i64::MIN, before: i64::MAX, backwards: false };
        let (db, of) = (self.database(), (room.nid, target.as_slice()));
        let nids = relations::list_children(db, of, (None, None), range, CHILDREN_MAX).await?;
        let mut children = Vec::new();
        for child in self.events().load(room.facts(), &nids).await? {
            if onlooker.takes(&child) && self.is_shown(onlooker, &child).await? {
                children.push(child);
            }
        }
        Ok(children)
    }
}

impl Walk {
    fn meet(&mut self, known: &mut HashSet<OwnedEventId>, event: Arc<StoredEvent>, limit: usize) {
        if self.events.len() == limit {
            self.is_limited |= !known.contains(event.event.event_id());
        } else if known.insert(event.event.event_id().to_owned()) {
            self.events.push(event);
        }
    }
}

/// What an event points at, in `m.relates_to` or as MSC2836 has it.
pub(super) fn relationship_of(event: &Event) -> Option<(String, OwnedEventId)> {
    if let Some(relation) = relation_of(event) {
        return Some(relation);
    }
    if !event.content_json().contains(RELATIONSHIP) {
        return None;
    }
    let content: Value = event.content_as().ok()?;
    let relationship = content.get(RELATIONSHIP)?;
    let target = EventId::parse(relationship.get("event_id")?.as_str()?).ok()?;
    // Other types have a meaning of their own, which such an event does not claim.
    let rel_type = relationship.get("rel_type")?.as_str().filter(|kind| *kind == "m.reference")?;
    Some((rel_type.to_owned(), target))
}

fn order(mut events: Vec<Arc<StoredEvent>>, recent_first: bool) -> Vec<Arc<StoredEvent>> {
    events.sort_by_key(|event| (event.event.origin_server_ts(), event.ordering()));
    if recent_first {
        events.reverse();
    }
    events
}
