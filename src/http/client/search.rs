//! `POST /search` (client-server API, "Server Side Search").

use std::collections::BTreeMap;

use axum::extract::State;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ruma::{RoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};

use super::room_paths::{load_ignored_users, reader};
use crate::{
    http::{
        auth::UserSession,
        error::{MatrixError, MatrixResult},
        json::{Json, JsonBody, Query},
        rate_limit::Action,
        state::{App, AppState},
    },
    rooms::{
        Direction, Kinds, PageRequest, PageToken, Reader, RoomEventFilter, SearchHit, SearchKey,
        SearchOrder, SearchPage, SearchPlace, SearchQuery, SearchRequest, rooms_of_hits,
        write_client_event,
    },
};

/// Results on a page when the client does not say, and at most.
const PAGE_DEFAULT: usize = 10;
const PAGE_MAX: usize = 100;
/// Events around a result on each side when the client does not say, and at most.
const CONTEXT_DEFAULT: usize = 5;
const CONTEXT_MAX: usize = 20;
/// State events of all rooms on a page together, where the state is asked for. A page ends before the room with
/// which there would be more, unless that is its first.
const STATE_EVENTS_MAX: usize = 10_000;
/// State events that are read at once.
const STATE_STEP: usize = 1_000;

/// The query of the request.
#[derive(Debug, Deserialize)]
pub struct SearchParameters {
    next_batch: Option<String>,
}

/// What a client asks for.
#[derive(Debug, Deserialize)]
pub struct SearchBody {
    search_categories: Categories,
}

#[derive(Debug, Deserialize)]
struct Categories {
    room_events: Option<Criteria>,
}

#[derive(Debug, Deserialize)]
struct Criteria {
    search_term: String,
    keys: Option<Vec<Key>>,
    #[serde(default)]
    filter: RoomEventFilter,
    #[serde(default)]
    order_by: Order,
    event_context: Option<ContextWish>,
    #[serde(default)]
    include_state: bool,
    #[serde(default)]
    groupings: Groupings,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Key {
    #[serde(rename = "content.body")]
    Body,
    #[serde(rename = "content.name")]
    Name,
    #[serde(rename = "content.topic")]
    Topic,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    #[default]
    Rank,
    Recent,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContextWish {
    before_limit: Option<usize>,
    after_limit: Option<usize>,
    include_profile: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Groupings {
    group_by: Vec<Grouping>,
}

#[derive(Debug, Deserialize)]
struct Grouping {
    key: GroupKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum GroupKey {
    RoomId,
    Sender,
}

/// `next_batch`: where to go on, and in which group.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    before: (i64, i64),
    skipped: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    counted: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<(GroupKey, String)>,
}

#[derive(Debug, Serialize)]
struct ResultAnswer {
    rank: f64,
    result: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<ContextAnswer>,
}

#[derive(Debug, Serialize)]
struct ContextAnswer {
    start: String,
    end: String,
    events_before: Box<RawValue>,
    events_after: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile_info: Option<Map<String, Value>>,
}

#[derive(Debug, Default, Serialize)]
struct GroupAnswer {
    order: usize,
    results: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

#[derive(Debug, Serialize)]
struct RoomEventsAnswer {
    count: i64,
    highlights: Vec<String>,
    results: Vec<ResultAnswer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<BTreeMap<String, Box<RawValue>>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    groups: BTreeMap<GroupKey, BTreeMap<String, GroupAnswer>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

pub async fn search(
    State(app): State<AppState>,
    session: UserSession,
    Query(parameters): Query<SearchParameters>,
    JsonBody(body): JsonBody<SearchBody>,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Search, &session, app.clock.now_ms())?;
    let Some(criteria) = body.search_categories.room_events else {
        return Ok(Json(json!({ "search_categories": {} })));
    };
    let token = parameters.next_batch.as_deref().map(Token::parse).transpose()?;
    let request = build_request(&criteria, token.as_ref())?;
    let ignored = load_ignored_users(&app, &session.user_id).await?;
    let reader = reader(&app, &session, &ignored);
    let page = app.search.search(&reader, &request).await?;
    let mut results = Vec::with_capacity(page.hits.len());
    for hit in &page.hits {
        results.push(write_result(&app, &reader, hit, criteria.event_context.as_ref()).await?);
    }
    let state = match criteria.include_state {
        true => Some(write_states(&app, &reader, &page.hits).await?),
        false => None,
    };
    let group = token.and_then(|token| token.group);
    let room_events = RoomEventsAnswer {
        count: page.count,
        highlights: request.query.highlights(),
        results,
        state,
        groups: group_hits(&criteria, &request, &page),
        next_batch: page.next.map(|place| Token::of(place, group).to_string()),
    };
    Ok(Json(json!({ "search_categories": { "room_events": room_events } })))
}

fn build_request(criteria: &Criteria, token: Option<&Token>) -> MatrixResult<SearchRequest> {
    let keys = criteria.keys.as_ref().filter(|keys| !keys.is_empty());
    let mut request = SearchRequest {
        query: SearchQuery::parse(&criteria.search_term),
        keys: match keys {
            Some(keys) => keys.iter().map(|key| key.to_search_key()).collect(),
            None => vec![SearchKey::Body, SearchKey::Name, SearchKey::Topic],
        },
        order: match criteria.order_by {
            Order::Rank => SearchOrder::Rank,
            Order::Recent => SearchOrder::Recent,
        },
        limit: criteria.filter.events.limit.map_or(PAGE_DEFAULT, |limit| limit as usize),
        filter: criteria.filter.clone(),
        from: SearchPlace::START,
        sender: None,
        state_events_max: criteria.include_state.then_some(STATE_EVENTS_MAX),
    };
    request.limit = request.limit.clamp(1, PAGE_MAX);
    let Some(token) = token else { return Ok(request) };
    request.from = token.place();
    match &token.group {
        Some((GroupKey::RoomId, room_id)) => {
            let room_id = RoomId::parse(room_id).map_err(|_| unknown_token())?;
            if request.filter.takes_room(&room_id) {
                request.filter.rooms = Some(vec![room_id]);
            }
        }
        Some((GroupKey::Sender, sender)) => {
            request.sender = Some(UserId::parse(sender).map_err(|_| unknown_token())?);
        }
        None => {}
    }
    Ok(request)
}

async fn write_result(
    app: &App,
    reader: &Reader<'_>,
    hit: &SearchHit,
    wish: Option<&ContextWish>,
) -> MatrixResult<ResultAnswer> {
    let mut event = String::new();
    app.rooms.write_event(&mut event, &hit.viewer, reader, &hit.event).await?;
    let context = match wish {
        Some(wish) => Some(write_context(app, reader, hit, wish).await?),
        None => None,
    };
    Ok(ResultAnswer { rank: hit.rank, result: raw(event)?, context })
}

async fn write_context(
    app: &App,
    reader: &Reader<'_>,
    hit: &SearchHit,
    wish: &ContextWish,
) -> MatrixResult<ContextAnswer> {
    let page = |direction, from, limit: Option<usize>| PageRequest {
        from: Some(from),
        to: None,
        direction,
        limit: limit.unwrap_or(CONTEXT_DEFAULT).min(CONTEXT_MAX),
        filter: RoomEventFilter::default(),
    };
    let (viewer, event) = (&hit.viewer, &hit.event);
    let before = page(Direction::Backwards, PageToken::before(event), wish.before_limit);
    let before = app.rooms.load_page(viewer, reader, &before).await?.events;
    let after = page(Direction::Forwards, PageToken::after(event), wish.after_limit);
    let after = app.rooms.load_page(viewer, reader, &after).await?.events;
    let (mut events_before, mut events_after) = (String::new(), String::new());
    app.rooms.write_events(&mut events_before, viewer, reader, &before).await?;
    app.rooms.write_events(&mut events_after, viewer, reader, &after).await?;
    let profile_info = match wish.include_profile {
        true => {
            let shown: Vec<_> = before.iter().chain([event]).chain(&after).cloned().collect();
            let members = app.rooms.load_members_of_senders(viewer.room(), &shown).await?;
            Some(members.iter().filter_map(|member| profile_of(&member.event)).collect())
        }
        false => None,
    };
    Ok(ContextAnswer {
        start: PageToken::before(before.last().unwrap_or(event)).to_string(),
        end: PageToken::after(after.last().unwrap_or(event)).to_string(),
        events_before: raw(events_before)?,
        events_after: raw(events_after)?,
        profile_info,
    })
}

/// Name and picture as the member event has them.
fn profile_of(member: &crate::protocol::event::Event) -> Option<(String, Value)> {
    let content: Map<String, Value> = member.content_as().ok()?;
    let fields = content
        .into_iter()
        .filter(|(key, value)| matches!(&**key, "displayname" | "avatar_url") && value.is_string());
    Some((member.state_key()?.to_owned(), Value::Object(fields.collect())))
}

/// The state of every room of the results, as far as the reader may read it.
async fn write_states(
    app: &App,
    reader: &Reader<'_>,
    hits: &[SearchHit],
) -> MatrixResult<BTreeMap<String, Box<RawValue>>> {
    let mut states = BTreeMap::new();
    for viewer in rooms_of_hits(hits) {
        let Some(state) = app.rooms.load_readable_state(&viewer).await? else { continue };
        let mut out = String::from("[");
        for step in state.list(Kinds::All).chunks(STATE_STEP) {
            for event in app.rooms.events().load(viewer.room().facts(), step).await? {
                if out.len() > 1 {
                    out.push(',');
                }
                write_client_event(&mut out, &event, &reader.view());
            }
        }
        out.push(']');
        states.insert(viewer.room().room_id.to_string(), raw(out)?);
    }
    Ok(states)
}

fn group_hits(
    criteria: &Criteria,
    request: &SearchRequest,
    page: &SearchPage,
) -> BTreeMap<GroupKey, BTreeMap<String, GroupAnswer>> {
    let mut groups: BTreeMap<GroupKey, BTreeMap<String, GroupAnswer>> = BTreeMap::new();
    for Grouping { key } in &criteria.groupings.group_by {
        let group = groups.entry(*key).or_default();
        for hit in &page.hits {
            let value = key.value_of(hit);
            let order = group.len() + 1;
            let answer = group.entry(value.clone());
            let answer = answer.or_insert_with(|| GroupAnswer { order, ..GroupAnswer::default() });
            answer.results.push(hit.event.event.event_id().to_string());
            let next = group_place(request, page, hit, answer.results.len());
            answer.next_batch = next.map(|place| Token::of(place, Some((*key, value))).to_string());
        }
    }
    groups
}

/// Where a group goes on behind its hit number `shown` of this page; None when it is at its end, or
/// when it is not known how many of its hits came on earlier pages.
fn group_place(
    request: &SearchRequest,
    page: &SearchPage,
    hit: &SearchHit,
    shown: usize,
) -> Option<SearchPlace> {
    let next = page.next?;
    match request.order {
        SearchOrder::Recent => Some(SearchPlace::behind(hit)),
        SearchOrder::Rank if request.from.skipped == 0 => {
            Some(SearchPlace { skipped: shown, counted: None, ..next })
        }
        SearchOrder::Rank => None,
    }
}

impl Key {
    fn to_search_key(self) -> SearchKey {
        match self {
            Self::Body => SearchKey::Body,
            Self::Name => SearchKey::Name,
            Self::Topic => SearchKey::Topic,
        }
    }
}

impl GroupKey {
    fn value_of(self, hit: &SearchHit) -> String {
        match self {
            Self::RoomId => hit.event.event.room_id().to_string(),
            Self::Sender => hit.event.event.sender().to_string(),
        }
    }
}

impl Token {
    fn of(place: SearchPlace, group: Option<(GroupKey, String)>) -> Self {
        let SearchPlace { before, skipped, counted } = place;
        Self { before, skipped, counted, group }
    }

    fn place(&self) -> SearchPlace {
        SearchPlace { before: self.before, skipped: self.skipped, counted: self.counted }
    }

    fn parse(text: &str) -> MatrixResult<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| unknown_token())?;
        serde_json::from_slice(&bytes).map_err(|_| unknown_token())
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| std::fmt::Error)?;
        formatter.write_str(&BASE64_URL_SAFE_NO_PAD.encode(json))
    }
}

fn unknown_token() -> MatrixError {
    MatrixError::invalid_param("`next_batch` is no token of this server.")
}

/// JSON that this server wrote itself.
fn raw(json: String) -> MatrixResult<Box<RawValue>> {
    RawValue::from_string(json).map_err(|error| {
        tracing::error!(%error, "an event could not be written as JSON");
        MatrixError::internal("The server could not write its answer.")
    })
}
