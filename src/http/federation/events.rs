//! Events, state and history for other servers in a room (Server-Server API, "Retrieving events",
//! "Backfilling and retrieving missing events", "Retrieving event authorisation information").

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, header::CONTENT_TYPE},
    response::Response,
};
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, ServerName};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    federation::EventsAnswer,
    http::{
        auth::{SignedBody, SignedOrigin},
        error::{MatrixError, MatrixResult},
        json::{Json, Path, Query, RawJson},
        state::{App, AppState},
    },
    protocol::event::Event,
    rooms::{BACKFILL_EVENTS_MAX, Room},
    storage::EventNid,
};

/// Events that one answer to `get_missing_events` has when the other server does not say, and at
/// most.
const MISSING_DEFAULT: usize = 10;
const MISSING_MAX: usize = 50;
/// How long a question for a state waits for a room to become whole; whoever asks can ask others.
const PARTIAL_WAIT: Duration = Duration::from_secs(5);
/// Events that one request names.
const NAMED_EVENTS_MAX: usize = 100;

/// The query of `state` and `state_ids`.
#[derive(Debug, Deserialize)]
pub struct StateQuery {
    event_id: OwnedEventId,
}

/// The query of `backfill`.
#[derive(Debug, Deserialize)]
pub struct BackfillQuery {
    #[serde(default)]
    v: Vec<OwnedEventId>,
    limit: usize,
}

/// The query of `timestamp_to_event`.
#[derive(Debug, Deserialize)]
pub struct TimeQuery {
    ts: i64,
    dir: String,
}

/// The body of `get_missing_events`.
#[derive(Debug, Deserialize)]
pub struct MissingBody {
    limit: Option<usize>,
    #[serde(default)]
    min_depth: i64,
    earliest_events: Vec<OwnedEventId>,
    latest_events: Vec<OwnedEventId>,
}

/// `GET /v1/event/{eventId}`
pub async fn get_event(
    State(app): State<AppState>,
    SignedOrigin(origin): SignedOrigin,
    Path(event_id): Path<OwnedEventId>,
) -> MatrixResult<RawJson> {
    let found = app.rooms.event_for_server(&event_id, &origin).await?;
    let (room, event) = found.ok_or_else(unknown_event)?;
    require_in_room(&app, &origin, &room).await?;
    Ok(transaction(&app, &[event]))
}

/// `GET /v1/state/{roomId}`
pub async fn get_state(
    State(app): State<AppState>,
    SignedOrigin(origin): SignedOrigin,
    Path(room_id): Path<OwnedRoomId>,
    Query(query): Query<StateQuery>,
) -> MatrixResult<Response> {
    let room = find_room(&app, &origin, &room_id).await?;
    let (state, chain) = list_state(&app, &room, &query.event_id).await?;
    // The chain comes first, so that the other server can judge the state while it comes in.
    let answer = EventsAnswer::new(&app.rooms, &room)
        .text("{\"auth_chain\":")
        .events(chain)
        .text(",\"pdus\":")
        .events(state)
        .text("}");
    Ok(stream_answer(answer))
}

/// `GET /v1/state_ids/{roomId}`
pub async fn get_state_ids(
    State(app): State<AppState>,
    SignedOrigin(origin): SignedOrigin,
    Path(room_id): Path<OwnedRoomId>,
    Query(query): Query<StateQuery>,
) -> MatrixResult<Json<Value>> {
    let room = find_room(&app, &origin, &room_id).await?;
    let (state, chain) = list_state(&app, &room, &query.event_id).await?;
    let pdu_ids = app.rooms.list_event_ids(&room, &state).await?;
    let auth_chain_ids = app.rooms.list_event_ids(&room, &chain).await?;
    Ok(Json(json!({ "pdu_ids": pdu_ids, "auth_chain_ids": auth_chain_ids })))
}

/// `GET /v1/event_auth/{roomId}/{eventId}`
pub async fn get_event_auth(
    State(app): State<AppState>,
    SignedOrigin(origin): SignedOrigin,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
) -> MatrixResult<Response> {
    let room = find_room(&app, &origin, &room_id).await?;
    let event = app.rooms.find_any_event(&room, &event_id).await?.ok_or_else(unknown_event)?;
    let chain = app.rooms.list_auth_chain(&room, &[event.nid]).await?;
    let answer = EventsAnswer::new(&app.rooms, &room).text("{\"auth_chain\":").events(chain);
    Ok(stream_answer(answer.text("}")))
}

/// `GET /v1/backfill/{roomId}`
pub async fn get_backfill(
    State(app): State<AppState>,
    SignedOrigin(origin): SignedOrigin,
    Path(room_id): Path<OwnedRoomId>,
    Query(query): Query<BackfillQuery>,
) -> MatrixResult<RawJson> {
    let room = find_room(&app, &origin, &room_id).await?;
    if query.v.is_empty() || query.v.len() > NAMED_EVENTS_MAX {
        return Err(MatrixError::invalid_param("`v` names from 1 to 100 events."));
    }
    let limit = query.limit.clamp(1, BACKFILL_EVENTS_MAX);
    let events = app.rooms.events_backwards(&room, &query.v, limit, &origin).await?;
    Ok(transaction(&app, &events))
}

/// `POST /v1/get_missing_events/{roomId}`
pub async fn post_missing_events(
    State(app): State<AppState>,
    Path(room_id): Path<OwnedRoomId>,
    SignedBody(origin, body): SignedBody<MissingBody>,
) -> MatrixResult<RawJson> {
    let room = find_room(&app, &origin, &room_id).await?;
    if body.earliest_events.len().max(body.latest_events.len()) > NAMED_EVENTS_MAX {
        return Err(MatrixError::invalid_param("100 events may be named at most."));
    }
    let limit = body.limit.unwrap_or(MISSING_DEFAULT).min(MISSING_MAX);
    let (latest, earliest) = (&body.latest_events, &body.earliest_events);
    let bounds = (limit, body.min_depth);
    let events = app.rooms.missing_events(&room, latest, earliest, bounds, &origin).await?;
    let mut text = String::from("{\"events\":");
    push_events(&mut text, events.iter().map(|event| event.json()));
    text.push('}');
    Ok(RawJson(text.into()))
}

/// `GET /v1/timestamp_to_event/{roomId}`
pub async fn find_by_time(
    State(app): State<AppState>,
    SignedOrigin(origin): SignedOrigin,
    Path(room_id): Path<OwnedRoomId>,
    Query(query): Query<TimeQuery>,
) -> MatrixResult<Json<Value>> {
    let room = find_room(&app, &origin, &room_id).await?;
    let forwards = match query.dir.as_str() {
        "f" => true,
        "b" => false,
        _ => return Err(MatrixError::invalid_param("`dir` is `f` or `b`.")),
    };
    let event = app.rooms.find_by_time(&room, query.ts, forwards).await?;
    let event = event.ok_or_else(|| MatrixError::not_found("There is no event on that side."))?;
    Ok(Json(json!({
        "event_id": event.event.event_id(),
        "origin_server_ts": event.event.origin_server_ts(),
    })))
}

/// The room, if the server is in it and may take part.
pub async fn find_room(
    app: &App,
    origin: &ServerName,
    room_id: &RoomId,
) -> MatrixResult<Arc<Room>> {
    let room = app.federation.find_open_room(origin, room_id).await?;
    require_in_room(app, origin, &room).await?;
    Ok(room)
}

async fn require_in_room(app: &App, origin: &ServerName, room: &Arc<Room>) -> MatrixResult<()> {
    match app.rooms.is_server_in_room(room, origin).await? {
        true => Ok(()),
        false => Err(MatrixError::forbidden("Your server is not in the room.")),
    }
}

/// The state before an event, and its authorisation chain. One that was judged while members were missing is
/// waited for (MSC3902), for a moment ("the server doesn't know about the state at that event").
async fn list_state(
    app: &App,
    room: &Arc<Room>,
    at: &EventId,
) -> MatrixResult<(Vec<EventNid>, Vec<EventNid>)> {
    let mut state = app.rooms.state_before(room, at).await?;
    if state.is_none() && room.head().partial().is_some() {
        // Late is no other answer than never.
        let _ = tokio::time::timeout(PARTIAL_WAIT, app.rooms.await_whole(room)).await;
        state = app.rooms.state_before(room, at).await?;
    }
    let state = state.ok_or_else(unknown_event)?;
    let state: Vec<EventNid> = state.iter().map(|(_, nid)| nid).collect();
    let chain = app.rooms.list_auth_chain(room, &state).await?;
    Ok((state, chain))
}

/// An answer that is written while it goes out.
pub fn stream_answer(answer: EventsAnswer) -> Response {
    let mut response = Response::new(Body::from_stream(answer.into_chunks()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// Events as a transaction of this server.
fn transaction(app: &App, events: &[Arc<Event>]) -> RawJson {
    let origin = json!(app.federation.server_name());
    let now_ms = app.clock.now_ms();
    let mut text = format!("{{\"origin\":{origin},\"origin_server_ts\":{now_ms},\"pdus\":");
    push_events(&mut text, events.iter().map(|event| event.json()));
    text.push('}');
    RawJson(text.into())
}

fn push_events<'a>(text: &mut String, events: impl Iterator<Item = &'a str>) {
    text.push('[');
    for (number, json) in events.enumerate() {
        text.push_str(if number > 0 { "," } else { "" });
        text.push_str(json);
    }
    text.push(']');
}

/// The answer about events that are not here or not shown.
pub fn unknown_event() -> MatrixError {
    MatrixError::not_found("This server has no such event.")
}
