//! Pages of a room's history, and the surroundings of an event, as far as one reader may see them
//! (client-server API, `/messages` and `/context`).

use std::{collections::BTreeSet, sync::Arc};

use super::{
    event_filter::RoomEventFilter, event_store::StoredEvent, reader::Reader, registry::Rooms,
    room::Room, state::State, state_keys::MEMBER, timeline::place_beside, token::PageToken,
    visibility::Viewer,
};
use crate::{protocol::membership::Membership, storage::StorageError};

/// Events on one page.
pub const PAGE_EVENTS_MAX: usize = 1000;
/// Events that one request looks at, however few of them it may return.
const SCANNED_EVENTS_MAX: usize = 2000;
/// Events that are looked at when one by time is sought, and how many at once after the first.
const TIMES_TRIED_MAX: usize = 5000;
const TIMES_STEP: usize = 500;
/// Events read at once, at least.
const SCAN_STEP_MIN: usize = 20;

/// In which direction a page goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To older events.
    Backwards,
    Forwards,
}

/// Which page of history is wanted.
#[derive(Clone, Debug)]
pub struct PageRequest {
    /// The newest or oldest event when None.
    pub from: Option<PageToken>,
    pub to: Option<PageToken>,
    pub direction: Direction,
    pub limit: usize,
    pub filter: RoomEventFilter,
}

/// A page of history, in its direction.
pub struct Page {
    pub events: Vec<Arc<StoredEvent>>,
    pub start: PageToken,
    /// Where the next page begins; None when there is none.
    pub end: Option<PageToken>,
}

/// Events around an event.
pub struct Surroundings {
    /// Newest first.
    pub before: Page,
    /// Oldest first.
    pub after: Page,
}

impl Viewer {
    /// The place in the room up to which the reader may follow it: those who have left stop there.
    pub fn horizon(&self) -> i64 {
        match (self.sees_all_above(), self.membership, self.member_event()) {
            (None, Membership::Leave | Membership::Ban, Some(event)) => event.ordering(),
            _ => PageToken::END.ordering(),
        }
    }
}

impl Rooms {
    /// The events of a page that the reader may see and wants.
    pub async fn load_page(
        &self,
        viewer: &Viewer,
        reader: &Reader<'_>,
        request: &PageRequest,
    ) -> Result<Page, StorageError> {
        let horizon = viewer.horizon();
        let (older_end, newer_end) = match request.direction {
            Direction::Backwards => (request.to, request.from),
            Direction::Forwards => (request.from, request.to),
        };
        let mut after = older_end.map_or(i64::MIN, PageToken::ordering);
        let mut upto = newer_end.map_or(horizon, PageToken::ordering).min(horizon);
        let start = request.from.unwrap_or(match request.direction {
            Direction::Backwards => self.place_of_newest(viewer.room(), horizon),
            Direction::Forwards => PageToken::START,
        });
        let mut page = Page { events: Vec::new(), start, end: None };
        let mut scanned = 0;
        while after < upto && page.events.len() < request.limit {
            if scanned >= SCANNED_EVENTS_MAX {
                return Ok(page);
            }
            let step = (request.limit - page.events.len()).max(SCAN_STEP_MIN);
            let range = (after, upto);
            let (events, has_more) =
                self.scan(viewer.room(), range, request.direction, step).await?;
            scanned += events.len();
            for event in &events {
                if page.events.len() == request.limit {
                    return Ok(page);
                }
                page.end = Some(match request.direction {
                    Direction::Backwards => PageToken::before(event),
                    Direction::Forwards => PageToken::after(event),
                });
                let wanted = request.filter.takes(&event.event) && reader.takes(event);
                if wanted && viewer.sees(event).await? {
                    page.events.push(Arc::clone(event));
                }
            }
            match page.end.filter(|_| has_more) {
                Some(end) if request.direction == Direction::Backwards => upto = end.ordering(),
                Some(end) => after = end.ordering(),
                None => {
                    // Only an empty page says that there is no more, as clients know it from other
                    // servers: a filter may have left out the last events of this one.
                    page.end = page.end.filter(|_| !page.events.is_empty());
                    return Ok(page);
                }
            }
        }
        Ok(page)
    }

    /// At most `limit` events around an event, half of them before it.
    pub async fn load_surroundings(
        &self,
        viewer: &Viewer,
        reader: &Reader<'_>,
        event: &StoredEvent,
        (limit, filter): (usize, &RoomEventFilter),
    ) -> Result<Surroundings, StorageError> {
        let page = |direction, from, limit| PageRequest {
            from: Some(from),
            to: None,
            direction,
            limit,
            filter: filter.clone(),
        };
        let before = page(Direction::Backwards, PageToken::before(event), limit / 2);
        let before = self.load_page(viewer, reader, &before).await?;
        let after = page(Direction::Forwards, PageToken::after(event), limit - limit / 2);
        let after = self.load_page(viewer, reader, &after).await?;
        Ok(Surroundings { before, after })
    }

    /// The event closest to a time on one side of it, as far as the viewer may see.
    pub async fn find_visible_by_time(
        &self,
        viewer: &Viewer,
        timestamp_ms: i64,
        direction: Direction,
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        let forwards = direction == Direction::Forwards;
        let (mut place, mut step) = (place_beside(timestamp_ms, forwards), 1);
        let mut tried = 0;
        while tried < TIMES_TRIED_MAX {
            let events = self.list_by_time(viewer.room(), place, forwards, step).await?;
            for event in &events {
                if viewer.sees(event).await? {
                    return Ok(Some(Arc::clone(event)));
                }
                place = (event.event.origin_server_ts(), event.ordering());
            }
            if events.len() < step {
                return Ok(None);
            }
            tried += step;
            step = TIMES_STEP;
        }
        Ok(None)
    }

    /// The member events of those who sent these events, by the state at the newest of them
    /// (client-server API, "Lazy-loading room members").
    pub async fn load_members_of_senders(
        &self,
        room: &Room,
        events: &[Arc<StoredEvent>],
    ) -> Result<Vec<Arc<StoredEvent>>, StorageError> {
        let Some(newest) = events.iter().max_by_key(|event| event.ordering()) else {
            return Ok(Vec::new());
        };
        let senders: BTreeSet<_> = events.iter().map(|event| event.event.sender()).collect();
        let mut members = Vec::with_capacity(senders.len());
        for sender in senders {
            let key = (MEMBER, sender.as_str());
            members.extend(self.find_before(room, newest, key).await?);
        }
        Ok(members)
    }

    /// Reads some events of a range in a direction, and says whether there are further ones.
    async fn scan(
        &self,
        room: &Room,
        (after, upto): (i64, i64),
        direction: Direction,
        limit: usize,
    ) -> Result<(Vec<Arc<StoredEvent>>, bool), StorageError> {
        let before = upto.saturating_add(1);
        let is_at_end = || upto >= self.place_of_newest(room, i64::MAX).ordering();
        let mut events = match direction {
            Direction::Forwards => self.list_forwards(room, (after, before), limit + 1).await?,
            // The newest ones lie in memory.
            Direction::Backwards if is_at_end() => {
                let part = self.latest_between(room, after, upto, limit).await?;
                return Ok((part.events.into_iter().rev().collect(), part.has_older));
            }
            Direction::Backwards => self.list_backwards(room, (after, before), limit + 1).await?,
        };
        let has_more = events.len() > limit;
        events.truncate(limit);
        Ok((events, has_more))
    }

    fn place_of_newest(&self, room: &Room, horizon: i64) -> PageToken {
        let newest = PageToken::of_position(room.head().latest_position);
        if newest.ordering() > horizon { PageToken::at(horizon) } else { newest }
    }

    /// The state at a place in the room, after the last event before it.
    pub async fn load_state_at(
        &self,
        room: &Room,
        place: PageToken,
    ) -> Result<(Arc<State>, Option<Arc<StoredEvent>>), StorageError> {
        let before = place.ordering().saturating_add(1);
        let mut events = self.list_backwards(room, (i64::MIN, before), 1).await?;
        match events.pop() {
            Some(event) => Ok((self.load_state(event.state_nid).await?, Some(event))),
            None => Ok((Arc::default(), None)),
        }
    }
}
