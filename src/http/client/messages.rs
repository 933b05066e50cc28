//! History: pages of messages, the surroundings of an event, one event, an event by time
//! (client-server API, "Getting events for a room").

use std::sync::Arc;

use axum::{body::Body, extract::State, response::Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::room_paths::{find_readable_room, find_visible_event, load_ignored_users, reader};
use crate::{
    http::{
        auth::UserOrGuestSession,
        error::{MatrixError, MatrixResult},
        json::{Json, Path, Query, RawJson, parse_json},
        state::{App, AppState},
    },
    rooms::{
        Direction, Kinds, PAGE_EVENTS_MAX, Page, PageRequest, PageToken, Reader, RoomEventFilter,
        StoredEvent, Viewer,
    },
};

/// Events on a page when the client does not say.
const PAGE_EVENTS_DEFAULT: usize = 10;
/// How often one page asks other servers for older events.
const FETCHES_MAX: usize = 3;

/// `b` or `f`, as queries name a direction.
#[derive(Clone, Copy, Debug, Deserialize)]
pub enum QueryDirection {
    #[serde(rename = "b")]
    Backwards,
    #[serde(rename = "f")]
    Forwards,
}

impl From<QueryDirection> for Direction {
    fn from(direction: QueryDirection) -> Self {
        match direction {
            QueryDirection::Backwards => Self::Backwards,
            QueryDirection::Forwards => Self::Forwards,
        }
    }
}

/// The query of `/messages`.
#[derive(Debug, Deserialize)]
pub struct MessagesQuery {
    from: Option<String>,
    to: Option<String>,
    pub dir: Option<QueryDirection>,
    limit: Option<usize>,
    filter: Option<String>,
}

/// The query of `/context`.
#[derive(Debug, Deserialize)]
pub struct ContextQuery {
    pub limit: Option<usize>,
    pub filter: Option<String>,
}

/// The query of `/timestamp_to_event`.
#[derive(Debug, Deserialize)]
pub struct TimestampQuery {
    ts: i64,
    dir: QueryDirection,
}

/// `GET /rooms/{roomId}/messages`
pub async fn get_messages(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path(room_id): Path<String>,
    Query(query): Query<MessagesQuery>,
) -> MatrixResult<RawJson> {
    // Who may read nothing is told so, whatever the query.
    let viewer = find_readable_room(&app, &session.user_id, &room_id).await?;
    let ignored = load_ignored_users(&app, &session.user_id).await?;
    let reader = reader(&app, &session, &ignored);
    write_messages(&app, &viewer, &reader, query).await
}

/// A page of a room as somebody sees it.
pub async fn write_messages(
    app: &App,
    viewer: &Viewer,
    reader: &Reader<'_>,
    query: MessagesQuery,
) -> MatrixResult<RawJson> {
    let filter = parse_filter(query.filter.as_deref())?;
    let limit = query.limit.or(filter.events.limit.map(|limit| limit as usize));
    let direction = query.dir.ok_or_else(|| MatrixError::missing_param("`dir` is missing."))?;
    let request = PageRequest {
        from: parse_token(query.from.as_deref())?,
        to: parse_token(query.to.as_deref())?,
        direction: direction.into(),
        limit: parse_limit(limit)?,
        filter,
    };
    let page = match request.filter.takes_room(&viewer.room().room_id) {
        true => load_page(app, viewer, reader, &request).await?,
        false => {
            let start = request.from.unwrap_or(PageToken::END);
            Page { events: Vec::new(), start, end: None }
        }
    };
    let mut out = String::with_capacity(256 + page.events.len() * 1024);
    out.push_str("{\"chunk\":");
    app.rooms.write_events(&mut out, viewer, reader, &page.events).await?;
    // A token given comes back as it was.
    let start = query.from.unwrap_or_else(|| page.start.to_string());
    out.push_str(&format!(",\"start\":{}", json!(start)));
    if let Some(end) = page.end {
        out.push_str(&format!(",\"end\":\"{end}\""));
    }
    if request.filter.lazy_load_members {
        let members = app.rooms.load_members_of_senders(viewer.room(), &page.events).await?;
        out.push_str(",\"state\":");
        write_state(&mut out, reader, &members);
    }
    out.push('}');
    Ok(RawJson(out.into()))
}

/// A page of history. Where it ends because older events are not here yet, they are fetched from
/// other servers.
async fn load_page(
    app: &App,
    viewer: &Viewer,
    reader: &Reader<'_>,
    request: &PageRequest,
) -> MatrixResult<Page> {
    let mut page = app.rooms.load_page(viewer, reader, request).await?;
    for _ in 0..FETCHES_MAX {
        if request.direction != Direction::Backwards {
            break;
        }
        let is_short = page.events.len() < request.limit && page.end.is_none();
        let oldest = page.events.last().map_or(page.start.ordering(), |event| event.ordering());
        let gap = app.rooms.find_gap_in(viewer.room(), &page.events).await?;
        let Some(place) = gap.or(is_short.then_some(oldest)) else {
            break;
        };
        match app.federation.fetch_history(viewer.room(), place).await {
            Ok(0) => break,
            Ok(_) => page = app.rooms.load_page(viewer, reader, request).await?,
            Err(error) => {
                tracing::warn!(room.id = %viewer.room().room_id, %error, "history was not fetched");
                break;
            }
        }
    }
    Ok(page)
}

/// `GET /rooms/{roomId}/context/{eventId}`
pub async fn get_context(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path((room_id, event_id)): Path<(String, String)>,
    Query(query): Query<ContextQuery>,
) -> MatrixResult<RawJson> {
    let filter = parse_filter(query.filter.as_deref())?;
    let seen = find_visible_event(&app, &session.user_id, &room_id, &event_id).await?;
    let ignored = load_ignored_users(&app, &session.user_id).await?;
    let reader = reader(&app, &session, &ignored);
    write_surroundings(&app, seen, &reader, (query.limit, filter)).await
}

/// The surroundings of an event as somebody sees them who sees the event.
pub async fn write_surroundings(
    app: &App,
    (viewer, event): (Viewer, Arc<StoredEvent>),
    reader: &Reader<'_>,
    (limit, filter): (Option<usize>, RoomEventFilter),
) -> MatrixResult<RawJson> {
    let limit = limit.unwrap_or(PAGE_EVENTS_DEFAULT).min(PAGE_EVENTS_MAX);
    let limit = if filter.takes_room(&viewer.room().room_id) { limit } else { 0 };
    let around = app.rooms.load_surroundings(&viewer, reader, &event, (limit, &filter)).await?;
    let (before, after) = (&around.before.events, &around.after.events);

    let mut out = String::with_capacity(4096);
    out.push_str("{\"event\":");
    app.rooms.write_event(&mut out, &viewer, reader, &event).await?;
    out.push_str(",\"events_before\":");
    app.rooms.write_events(&mut out, &viewer, reader, before).await?;
    out.push_str(",\"events_after\":");
    app.rooms.write_events(&mut out, &viewer, reader, after).await?;
    let oldest = before.last().unwrap_or(&event);
    let newest = after.last().unwrap_or(&event);
    let (start, end) = (PageToken::before(oldest), PageToken::after(newest));
    out.push_str(&format!(",\"start\":\"{start}\",\"end\":\"{end}\",\"state\":"));
    let shown: Vec<_> = before.iter().chain([&event]).chain(after).cloned().collect();
    let state = load_context_state(app, &viewer, newest, (&filter, &shown)).await?;
    write_state(&mut out, reader, &state);
    out.push('}');
    Ok(RawJson(out.into()))
}

/// `GET /rooms/{roomId}/event/{eventId}`
pub async fn get_event(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path((room_id, event_id)): Path<(String, String)>,
) -> MatrixResult<RawJson> {
    let (viewer, event) = find_visible_event(&app, &session.user_id, &room_id, &event_id).await?;
    let ignored = load_ignored_users(&app, &session.user_id).await?;
    let mut out = String::new();
    let reader = reader(&app, &session, &ignored);
    app.rooms.write_event(&mut out, &viewer, &reader, &event).await?;
    Ok(RawJson(out.into()))
}

/// `GET /rooms/{roomId}/timestamp_to_event`
pub async fn find_event_by_time(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path(room_id): Path<String>,
    Query(query): Query<TimestampQuery>,
) -> MatrixResult<Json<Value>> {
    let viewer = find_readable_room(&app, &session.user_id, &room_id).await?;
    find_by_time(&app, &viewer, (query.ts, query.dir.into())).await
}

/// The event of a room that is next to a time, of those that somebody sees.
pub async fn find_by_time(
    app: &App,
    viewer: &Viewer,
    (ts, direction): (i64, Direction),
) -> MatrixResult<Json<Value>> {
    let mut found = app.rooms.find_visible_by_time(viewer, ts, direction).await?;
    let known_ms = found.as_ref().map(|event| event.event.origin_server_ts());
    let wanted = (ts, direction == Direction::Forwards);
    match app.federation.fetch_by_time(viewer.room(), wanted, known_ms).await {
        Ok(false) => {}
        Ok(true) => found = app.rooms.find_visible_by_time(viewer, ts, direction).await?,
        Err(error) => {
            tracing::warn!(room.id = %viewer.room().room_id, %error, "no other server was asked for a time");
        }
    }
    let event = found.ok_or_else(|| {
        MatrixError::not_found("There is no event on this side of the time that you may see.")
    })?;
    Ok(Json(json!({
        "event_id": event.event.event_id(),
        "origin_server_ts": event.event.origin_server_ts(),
    })))
}

/// A pagination token of a query.
pub fn parse_token(token: Option<&str>) -> MatrixResult<Option<PageToken>> {
    let parse = |text| {
        PageToken::parse(text).ok_or_else(|| {
            MatrixError::invalid_param("This pagination token is not one of this server.")
        })
    };
    token.filter(|text| !text.is_empty()).map(parse).transpose()
}

/// How many events a page shall have.
pub fn parse_limit(limit: Option<usize>) -> MatrixResult<usize> {
    match limit.unwrap_or(PAGE_EVENTS_DEFAULT) {
        0 => Err(MatrixError::invalid_param("`limit` must be greater than zero.")),
        limit => Ok(limit.min(PAGE_EVENTS_MAX)),
    }
}

/// Appends state events as a JSON array.
pub fn write_state(out: &mut String, reader: &Reader<'_>, events: &[Arc<StoredEvent>]) {
    out.push('[');
    for (number, event) in events.iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        crate::rooms::write_client_event(out, event, &reader.view());
    }
    out.push(']');
}

/// State events as an answer that is written while it goes out, since it may be large.
pub fn stream_state(
    app: &AppState,
    state: crate::rooms::ReadableState,
    events: Vec<crate::storage::EventNid>,
    (head, tail): (&'static str, &'static str),
    keep: impl Fn(&StoredEvent) -> bool + Send + Sync + 'static,
) -> Response {
    /// Events written at once.
    const STEP: usize = 200;
    let app = Arc::clone(app);
    let now_ms = app.clock.now_ms();
    let view = crate::rooms::EventView { now_ms, with_room_id: true, ..Default::default() };
    let steps = (app, state, events, keep, 0_usize, true);
    let chunks = futures_util::stream::unfold(Some(steps), move |steps| async move {
        let (app, state, events, keep, at, mut is_first) = steps?;
        let mut out = String::with_capacity(64 * 1024);
        if at == 0 {
            out.push_str(head);
        }
        let end = (at + STEP).min(events.len());
        let loaded = match app.rooms.events().load(state.room.facts(), &events[at..end]).await {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::error!(%error, "an answer broke off");
                return Some((Err(std::io::Error::other("the store failed")), None));
            }
        };
        for event in loaded.iter().filter(|event| keep(event)) {
            if !std::mem::take(&mut is_first) {
                out.push(',');
            }
            crate::rooms::write_client_event(&mut out, event, &view);
        }
        if end < events.len() {
            return Some((Ok(out), Some((app, state, events, keep, end, is_first))));
        }
        out.push_str(tail);
        Some((Ok(out), None))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let json = axum::http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(axum::http::header::CONTENT_TYPE, json);
    response
}

pub fn parse_filter(filter: Option<&str>) -> MatrixResult<RoomEventFilter> {
    match filter {
        None | Some("") => Ok(RoomEventFilter::default()),
        Some(filter) => parse_json(filter.as_bytes())
            .map_err(|error| MatrixError::invalid_param(format!("`filter`: {}", error.message))),
    }
}

/// The state at the last event shown; with lazy loading, of the members only those who sent some.
async fn load_context_state(
    app: &App,
    viewer: &Viewer,
    newest: &Arc<StoredEvent>,
    (filter, shown): (&RoomEventFilter, &[Arc<StoredEvent>]),
) -> MatrixResult<Vec<Arc<StoredEvent>>> {
    if !filter.takes_room(&viewer.room().room_id) {
        return Ok(Vec::new());
    }
    let place = PageToken::after(newest);
    let Some(state) = app.rooms.load_readable_state_at(viewer, place).await? else {
        return Ok(Vec::new());
    };
    let kinds = if filter.lazy_load_members { Kinds::AllButMembers } else { Kinds::All };
    let nids = state.list(kinds);
    let mut events = app.rooms.events().load(viewer.room().facts(), &nids).await?;
    if filter.lazy_load_members {
        events.extend(app.rooms.load_members_of_senders(viewer.room(), shown).await?);
    }
    events.retain(|event| filter.takes(&event.event));
    Ok(events)
}
