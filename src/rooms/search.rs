//! Full-text search over the events that a user may see (client-server API, "Server Side Search").
//! The index names candidates; what they say now, after edits and redactions, decides.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{OwnedUserId, UserId};
use serde_json::Value;

use super::{
    event_filter::RoomEventFilter,
    event_store::{StoredEvent, event_key},
    reader::Reader,
    room::Room,
    search_index::{SearchIndex, SearchKey, list_texts},
    search_terms::SearchQuery,
    visibility::Viewer,
};
use crate::{
    protocol::membership::Membership,
    storage::{self, EventNid, RoomNid, StorageError, search::Candidate},
};

/// Candidates that one search by rank compares, and of which the results are counted: the newest.
const RANKED_MAX: usize = 1_000;
/// Candidates that are read at once, and that one request looks at.
const STEP: usize = 100;
const SCANNED_MAX: usize = 5_000;

/// In which order results come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchOrder {
    /// The most relevant first.
    Rank,
    /// The newest first.
    Recent,
}

/// Where the next page of a search begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchPlace {
    /// Time (milliseconds since the epoch) and number of an event: only older ones are looked at.
    pub before: (i64, i64),
    /// By rank: how many results came on earlier pages.
    pub skipped: usize,
    /// How many events were found when the first page was made.
    pub counted: Option<i64>,
}

/// What is searched for.
#[derive(Clone, Debug)]
pub struct SearchRequest {
    pub query: SearchQuery,
    pub keys: Vec<SearchKey>,
    pub filter: RoomEventFilter,
    pub order: SearchOrder,
    pub limit: usize,
    pub from: SearchPlace,
    /// Only what this user sent (a page of a group).
    pub sender: Option<OwnedUserId>,
    /// A page ends before the room with which the states of its rooms would hold more events than this
    /// together; the first room is there in any case.
    pub state_events_max: Option<usize>,
}

/// An event that was found.
pub struct SearchHit {
    pub event: Arc<StoredEvent>,
    pub viewer: Arc<Viewer>,
    pub rank: f64,
}

/// A page of results.
pub struct SearchPage {
    pub hits: Vec<SearchHit>,
    /// How many of the newest events that have the words the user may see. The others are not counted:
    /// that would tell what words they have.
    pub count: i64,
    pub next: Option<SearchPlace>,
}

impl SearchPlace {
    pub const START: Self = Self { before: (i64::MAX, i64::MAX), skipped: 0, counted: None };

    fn after(candidate: &Candidate) -> Self {
        let before = (candidate.origin_server_ts, candidate.event.0);
        Self { before, ..Self::START }
    }

    /// The place right behind a hit.
    pub fn behind(hit: &SearchHit) -> Self {
        let before = (hit.event.event.origin_server_ts(), hit.event.nid.0);
        Self { before, ..Self::START }
    }
}

impl SearchIndex {
    /// The page of results that the reader may see.
    pub async fn search(
        &self,
        reader: &Reader<'_>,
        request: &SearchRequest,
    ) -> Result<SearchPage, StorageError> {
        let mut page = SearchPage { hits: Vec::new(), count: 0, next: None };
        let terms = request.query.terms();
        if terms.is_empty() {
            return Ok(page);
        }
        self.fill_of_user(reader.user_id).await?;
        let rooms = self.list_searched(reader.user_id, &request.filter).await?;
        let nids: Vec<_> = rooms.keys().copied().collect();
        let most = match request.order {
            SearchOrder::Rank => RANKED_MAX,
            SearchOrder::Recent => SCANNED_MAX,
        };
        let before = request.from.before;
        let database = self.rooms.database();
        let candidates =
            storage::search::list_candidates(database, &nids, &terms, before, most).await?;
        let mut search = Search { index: self, reader, request, rooms, viewers: HashMap::new() };
        match request.order {
            SearchOrder::Recent => search.take_recent(&candidates, &mut page).await?,
            SearchOrder::Rank => search.take_ranked(&candidates, &mut page).await?,
        }
        page.count = request.from.counted.unwrap_or(page.count);
        let counted = Some(page.count);
        page.next = page.next.map(|next| SearchPlace { counted, ..next });
        Ok(page)
    }

    /// The rooms that the user is or was in and that the filter lets pass.
    async fn list_searched(
        &self,
        user: &UserId,
        filter: &RoomEventFilter,
    ) -> Result<HashMap<RoomNid, Arc<Room>>, StorageError> {
        let places = self.rooms.rooms_of(user).await?.list();
        let was_in = |membership: Membership| {
            matches!(membership, Membership::Join | Membership::Leave | Membership::Ban)
        };
        let places = places
            .into_iter()
            .filter(|place| was_in(place.membership) && filter.takes_room(&place.room.room_id));
        Ok(places.map(|place| (place.room.nid, place.room)).collect())
    }
}

/// One search under way.
struct Search<'a> {
    index: &'a SearchIndex,
    reader: &'a Reader<'a>,
    request: &'a SearchRequest,
    rooms: HashMap<RoomNid, Arc<Room>>,
    viewers: HashMap<RoomNid, Arc<Viewer>>,
}

impl Search<'_> {
    async fn take_recent(
        &mut self,
        candidates: &[Candidate],
        page: &mut SearchPage,
    ) -> Result<(), StorageError> {
        let limit = self.request.limit;
        // When the page is full, the rest is looked at to be counted only.
        let counted_max = if self.request.from.counted.is_none() { RANKED_MAX } else { 0 };
        for (number, step) in candidates.chunks(STEP).enumerate() {
            if page.next.is_some() && number * STEP >= counted_max {
                break;
            }
            let hits = self.keep_fitting(step).await?;
            page.count += hits.len() as i64;
            let room = limit - page.hits.len();
            page.hits.extend(hits.into_iter().take(room));
            // A full page may be followed by an empty one, as with other servers.
            if page.hits.len() == limit {
                page.next = page.hits.last().map(SearchPlace::behind);
            }
        }
        if let Some(max) = self.request.state_events_max
            && bound_states(&mut page.hits, max)
        {
            page.next = page.hits.last().map(SearchPlace::behind);
        }
        // As many as were asked for have been looked at; there may be more behind them.
        if page.next.is_none() && candidates.len() == SCANNED_MAX {
            page.next = candidates.last().map(SearchPlace::after);
        }
        Ok(())
    }

    async fn take_ranked(
        &mut self,
        candidates: &[Candidate],
        page: &mut SearchPage,
    ) -> Result<(), StorageError> {
        let mut hits = Vec::new();
        for step in candidates.chunks(STEP) {
            hits.extend(self.keep_fitting(step).await?);
        }
        page.count = hits.len() as i64;
        // A stable sort: of two that fit equally well the newer one comes first.
        hits.sort_by(|one, two| two.rank.total_cmp(&one.rank));
        let SearchPlace { before, skipped, .. } = self.request.from;
        let total = hits.len();
        page.hits = hits.into_iter().skip(skipped).take(self.request.limit).collect();
        let max = self.request.state_events_max;
        let shown = match max.is_some_and(|max| bound_states(&mut page.hits, max)) {
            true => page.hits.len(),
            false => self.request.limit,
        };
        let behind = skipped.saturating_add(shown);
        // A full page may be followed by an empty one, as with other servers.
        if total >= behind {
            // What is sent meanwhile must not move the pages.
            let newest = candidates.first().map(|c| (c.origin_server_ts, c.event.0 + 1));
            let before = if skipped == 0 { newest.unwrap_or(before) } else { before };
            page.next = Some(SearchPlace { before, skipped: behind, counted: None });
        }
        Ok(())
    }

    /// Those of the candidates that say what is looked for and that the reader may see, in the
    /// same order.
    async fn keep_fitting(&mut self, step: &[Candidate]) -> Result<Vec<SearchHit>, StorageError> {
        let mut by_room: HashMap<RoomNid, Vec<EventNid>> = HashMap::new();
        for candidate in step {
            by_room.entry(candidate.room).or_default().push(candidate.event);
        }
        let mut fitting: HashMap<EventNid, SearchHit> = HashMap::new();
        for (room, nids) in by_room {
            let Some(room) = self.rooms.get(&room).cloned() else { continue };
            let events = self.index.rooms.events().load_own(room.facts(), &nids).await?;
            let viewer = self.viewer(&room).await?;
            let edits = self.load_edits(&viewer, &events).await?;
            for event in events {
                if !self.takes(&event) || !viewer.sees(&event).await? {
                    continue;
                }
                let rank = self.rank(&event, edits.get(&event.nid));
                if rank > 0.0 {
                    let viewer = Arc::clone(&viewer);
                    fitting.insert(event.nid, SearchHit { event, viewer, rank });
                }
            }
        }
        Ok(step.iter().filter_map(|candidate| fitting.remove(&candidate.event)).collect())
    }

    async fn viewer(&mut self, room: &Arc<Room>) -> Result<Arc<Viewer>, StorageError> {
        if let Some(viewer) = self.viewers.get(&room.nid) {
            return Ok(Arc::clone(viewer));
        }
        let viewer = Arc::new(self.index.rooms.viewer(room, self.reader.user_id).await?);
        self.viewers.insert(room.nid, Arc::clone(&viewer));
        Ok(viewer)
    }

    fn takes(&self, event: &StoredEvent) -> bool {
        let sender = event.event.sender();
        !event.is_redacted()
            && self.reader.takes(event)
            && self.request.filter.takes(&event.event)
            && self.request.sender.as_ref().is_none_or(|wanted| wanted == sender)
    }

    /// The edit that holds, by edited event.
    async fn load_edits(
        &self,
        viewer: &Viewer,
        events: &[Arc<StoredEvent>],
    ) -> Result<HashMap<EventNid, Arc<StoredEvent>>, StorageError> {
        let may_be_edited = events
            .iter()
            .filter(|event| event.event.kind() == "m.room.message" && event.may_have_relations());
        let targets: HashMap<Vec<u8>, &Arc<StoredEvent>> =
            may_be_edited.map(|event| (event_key(event.event.event_id()), event)).collect();
        if targets.is_empty() {
            return Ok(HashMap::new());
        }
        let keys: Vec<_> = targets.keys().cloned().collect();
        let newest = EventNid(i64::MAX);
        let database = self.index.rooms.database();
        let nobody = "[]".to_owned();
        let of = (viewer.room().nid, keys.as_slice());
        let rows = storage::relations::aggregate(database, of, nobody, newest).await?;
        let mut edits = HashMap::new();
        for row in rows {
            let Some(target) = targets.get(&row.target_key) else { continue };
            let holds = row.rel_type == "m.replace"
                && row.kind == target.event.kind()
                && row.sender == target.event.sender().as_str();
            if holds {
                let facts = viewer.room().facts();
                let edit = self.index.rooms.events().load_one(facts, row.event).await?;
                if viewer.sees(&edit).await? {
                    edits.insert(target.nid, edit);
                }
            }
        }
        Ok(edits)
    }

    fn rank(&self, event: &StoredEvent, edit: Option<&Arc<StoredEvent>>) -> f64 {
        let content = match edit {
            Some(edit) => edit.event.content_as::<Value>().map(|mut c| c["m.new_content"].take()),
            None => event.event.content_as::<Value>(),
        };
        let Ok(content) = content else { return 0.0 };
        let texts = list_texts(&event.event, &content);
        let wanted = texts.iter().filter(|(key, _)| self.request.keys.contains(key));
        wanted.map(|(_, text)| self.request.query.rank(text)).fold(0.0, f64::max)
    }
}

/// Leaves out the results from the first one on with whose room the states of the rooms would hold more than
/// `max` events together, unless that is the first room of all; whether there are some.
fn bound_states(hits: &mut Vec<SearchHit>, max: usize) -> bool {
    let (mut known, mut sum) = (HashSet::new(), 0_usize);
    let is_too_much = |hit: &SearchHit| {
        if known.insert(hit.viewer.room().nid) {
            sum = sum.saturating_add(hit.viewer.head().state.len());
        }
        sum > max && known.len() > 1
    };
    let end = hits.iter().position(is_too_much);
    hits.truncate(end.unwrap_or(hits.len()));
    end.is_some()
}

/// The rooms of some results, each once, in their order.
pub fn rooms_of_hits(hits: &[SearchHit]) -> Vec<Arc<Viewer>> {
    let mut known = HashSet::new();
    let new = hits.iter().filter(|hit| known.insert(hit.viewer.room().nid));
    new.map(|hit| Arc::clone(&hit.viewer)).collect()
}
