//! Pages of the events that relate to an event, and of a room's threads (client-server API,
//! "Relationships API", "Querying threads in a room").

use std::{collections::HashSet, sync::Arc};

use super::{
    event_store::{StoredEvent, event_key},
    history::{Direction, Page},
    reader::Reader,
    registry::Rooms,
    token::PageToken,
    visibility::Viewer,
};
use crate::storage::{
    EventNid, StorageError, json_text_rows,
    relations::{self, ChildRange},
};

/// How far relations of relations are followed ("Homeservers SHOULD traverse at least 3 levels").
pub const RECURSION_DEPTH_MAX: usize = 3;
/// Events that are followed per level.
const RECURSION_EVENTS_MAX: usize = 2000;
/// Children or threads that one request looks at.
const SCANNED_MAX: usize = 2000;

/// Which children of an event are wanted.
#[derive(Clone, Debug)]
pub struct ChildrenRequest {
    pub rel_type: Option<String>,
    pub kind: Option<String>,
    pub from: Option<PageToken>,
    pub to: Option<PageToken>,
    pub direction: Direction,
    pub limit: usize,
    pub recurse: bool,
}

/// Which threads are wanted.
#[derive(Clone, Copy, Debug)]
pub struct ThreadsRequest {
    pub participated_only: bool,
    /// The number of the latest event of the last thread seen.
    pub from: Option<EventNid>,
    pub limit: usize,
}

/// Roots of threads, the one with the latest message first.
pub struct ThreadsPage {
    pub roots: Vec<Arc<StoredEvent>>,
    pub next: Option<EventNid>,
}

impl Rooms {
    /// The children of an event that the reader may see.
    pub async fn list_children(
        &self,
        viewer: &Viewer,
        reader: &Reader<'_>,
        parent: &StoredEvent,
        request: &ChildrenRequest,
    ) -> Result<Page, StorageError> {
        let horizon = viewer.horizon();
        let (older_end, newer_end) = match request.direction {
            Direction::Backwards => (request.to, request.from),
            Direction::Forwards => (request.from, request.to),
        };
        let range = ChildRange {
            after: older_end.map_or(i64::MIN, PageToken::ordering),
            before: newer_end.map_or(horizon, PageToken::ordering).min(horizon).saturating_add(1),
            backwards: request.direction == Direction::Backwards,
        };
        let targets = match request.recurse {
            true => self.list_descended_targets(viewer, parent).await?,
            false => vec![event_key(parent.event.event_id())],
        };
        let (rel_type, kind) = (request.rel_type.as_deref(), request.kind.as_deref());
        let db = self.database();
        let room = viewer.room();
        let nids = relations::list_children(
            db,
            (room.nid, &targets),
            (rel_type, kind),
            range,
            SCANNED_MAX,
        )
        .await?;
        let mut page =
            Page { events: Vec::new(), start: request.from.unwrap_or(PageToken::END), end: None };
        for (at, event) in self.events().load(room.facts(), &nids).await?.iter().enumerate() {
            if reader.takes(event) && viewer.sees(event).await? {
                page.events.push(Arc::clone(event));
            }
            let is_last = at + 1 == nids.len() && nids.len() < SCANNED_MAX;
            if page.events.len() == request.limit || at + 1 == SCANNED_MAX {
                page.end = Some(match request.direction {
                    Direction::Backwards => PageToken::before(event),
                    Direction::Forwards => PageToken::after(event),
                })
                .filter(|_| !is_last);
                break;
            }
        }
        Ok(page)
    }

    /// The keys of an event and of what relates to it, to some depth: a loop is walked once.
    async fn list_descended_targets(
        &self,
        viewer: &Viewer,
        parent: &StoredEvent,
    ) -> Result<Vec<Vec<u8>>, StorageError> {
        let mut level = vec![event_key(parent.event.event_id())];
        let mut all: HashSet<Vec<u8>> = level.iter().cloned().collect();
        for _ in 1..RECURSION_DEPTH_MAX {
            let limit = RECURSION_EVENTS_MAX;
            let of = (viewer.room().nid, level.as_slice());
            let rows = relations::list_of_targets(self.database(), of, limit).await?;
            let nids: Vec<EventNid> = rows.iter().map(|row| row.event).collect();
            let events = self.events().load(viewer.room().facts(), &nids).await?;
            let keys = events.iter().map(|event| event_key(event.event.event_id()));
            level = keys.filter(|key| all.insert(key.clone())).collect();
            if level.is_empty() {
                break;
            }
        }
        Ok(all.into_iter().collect())
    }

    /// The roots of threads that the reader may see; those of ignored users redacted ("this is to simulate
    /// the same behaviour of a client doing aggregation locally on the thread").
    pub async fn list_threads(
        &self,
        viewer: &Viewer,
        reader: &Reader<'_>,
        request: ThreadsRequest,
    ) -> Result<ThreadsPage, StorageError> {
        let room = viewer.room();
        let ignored = json_text_rows(reader.ignored.iter().map(|user| user.as_str()));
        let before = request.from.unwrap_or(EventNid(i64::MAX));
        let by = (reader.user_id.as_str(), ignored);
        let threads =
            relations::list_threads(self.database(), room.nid, by, before, SCANNED_MAX).await?;
        let scanned_all = threads.len() < SCANNED_MAX;
        let mut page = ThreadsPage { roots: Vec::new(), next: None };
        let count = threads.len();
        for (at, thread) in threads.into_iter().enumerate() {
            if let Some(root) = self.find_by_key(room, &thread.root_key).await?
                && viewer.sees(&root).await?
            {
                let participated = thread.participated || root.event.sender() == reader.user_id;
                if participated || !request.participated_only {
                    page.roots.push(match reader.takes(&root) {
                        true => root,
                        false => Arc::new(viewer.erase(&root)),
                    });
                }
            }
            let is_last = at + 1 == count;
            if page.roots.len() == request.limit || is_last {
                page.next = Some(thread.latest).filter(|_| !is_last || !scanned_all);
                break;
            }
        }
        Ok(page)
    }
}
