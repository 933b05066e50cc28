//! The state of a room and its members (client-server API, "Getting events for a room").

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use ruma::UserId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    messages::{parse_token, stream_state},
    room_paths::{await_members, find_joined_room, find_readable_room, not_in_room},
};
use crate::{
    http::{
        auth::{UserOrGuestSession, UserSession},
        error::{MatrixError, MatrixResult},
        json::{Json, Path, Query, RawJson},
        state::{App, AppState},
    },
    protocol::membership::Membership,
    rooms::{EventView, Kinds, MEMBER, Room, Viewer, write_client_event},
};

/// The query of `GET …/state/{eventType}/{stateKey}`.
#[derive(Debug, Default, Deserialize)]
pub struct StateQuery {
    #[serde(default)]
    format: StateFormat,
}

/// What of a state event is returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateFormat {
    #[default]
    Content,
    Event,
}

/// The query of `/members`.
#[derive(Debug, Deserialize)]
pub struct MembersQuery {
    at: Option<String>,
    membership: Option<String>,
    not_membership: Option<String>,
}

/// `GET /rooms/{roomId}/state`
pub async fn get_state(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path(room_id): Path<String>,
) -> MatrixResult<Response> {
    let viewer = find_whole_room(&app, &session.user_id, &room_id).await?;
    let state = app.rooms.load_readable_state(&viewer).await?.ok_or_else(not_in_room)?;
    let events = state.list(Kinds::All);
    Ok(stream_state(&app, state, events, ("[", "]"), |_| true))
}

/// `GET /rooms/{roomId}/state/{eventType}/{stateKey}`
pub async fn get_state_event(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path((room_id, kind, state_key)): Path<(String, String, String)>,
    Query(query): Query<StateQuery>,
) -> MatrixResult<RawJson> {
    read_state_event(&app, &session, (&room_id, &kind, &state_key), query.format).await
}

/// `GET /rooms/{roomId}/state/{eventType}`, for an empty state key.
pub async fn get_state_event_without_key(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path((room_id, kind)): Path<(String, String)>,
    Query(query): Query<StateQuery>,
) -> MatrixResult<RawJson> {
    read_state_event(&app, &session, (&room_id, &kind, ""), query.format).await
}

/// `GET /rooms/{roomId}/members`
pub async fn get_members(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path(room_id): Path<String>,
    Query(query): Query<MembersQuery>,
) -> MatrixResult<Response> {
    let at = parse_token(query.at.as_deref())?;
    let is = parse_membership(query.membership.as_deref())?;
    let is_not = parse_membership(query.not_membership.as_deref())?;
    let viewer = find_whole_room(&app, &session.user_id, &room_id).await?;
    let state = match at {
        Some(place) => app.rooms.load_readable_state_at(&viewer, place.moment()).await?,
        None => app.rooms.load_readable_state(&viewer).await?,
    };
    let state = state.ok_or_else(not_in_room)?;
    let events = state.list(Kinds::Members);
    let ends = ("{\"chunk\":[", "]}");
    Ok(stream_state(&app, state, events, ends, move |event| {
        let membership = Membership::of_event(&event.event);
        match (is, is_not) {
            (None, None) => true,
            // "the two parameters create an 'or' condition".
            _ => {
                is.is_some_and(|is| membership == Some(is))
                    || is_not.is_some_and(|is_not| membership != Some(is_not))
            }
        }
    }))
}

/// `GET /rooms/{roomId}/joined_members`
pub async fn get_joined_members(
    State(app): State<AppState>,
    session: UserSession,
    Path(room_id): Path<String>,
) -> MatrixResult<Response> {
    let room = find_joined_room(&app, &session.user_id, &room_id).await?;
    await_members(&app, &room).await?;
    let nids: Vec<_> = room.head().state.members().map(|(_, nid)| nid).collect();
    let mut joined = Map::new();
    for event in app.rooms.events().load(room.facts(), &nids).await? {
        if Membership::of_event(&event.event) == Some(Membership::Join)
            && let Some(user) = event.event.state_key()
        {
            let content: Map<String, Value> = event.event.content_as().unwrap_or_default();
            // Clients expect both, null where the user has none.
            let text = |key: &str| content.get(key).filter(|value| value.is_string()).cloned();
            let member =
                json!({ "display_name": text("displayname"), "avatar_url": text("avatar_url") });
            joined.insert(user.to_owned(), member);
        }
    }
    Ok(Json(json!({ "joined": joined })).into_response())
}

async fn read_state_event(
    app: &App,
    session: &UserOrGuestSession,
    (room_id, kind, state_key): (&str, &str, &str),
    format: StateFormat,
) -> MatrixResult<RawJson> {
    let mut viewer = find_readable_room(app, &session.user_id, room_id).await?;
    if kind == MEMBER && is_missing(app, viewer.room(), state_key).await? {
        await_members(app, viewer.room()).await?;
        viewer = find_readable_room(app, &session.user_id, room_id).await?;
    }
    let state = app.rooms.load_readable_state(&viewer).await?.ok_or_else(not_in_room)?;
    let event = app.rooms.find_in_readable_state(&state, kind, state_key).await?;
    let event = event.ok_or_else(|| MatrixError::not_found("The room has no such state."))?;
    if format == StateFormat::Content {
        return Ok(RawJson(event.event.content_json().to_owned().into()));
    }
    let mut out = String::new();
    let view = EventView {
        user_id: Some(&session.user_id),
        device_id: Some(session.device_id.as_str()),
        now_ms: app.clock.now_ms(),
        with_room_id: true,
        ..EventView::default()
    };
    write_client_event(&mut out, &event, &view);
    Ok(RawJson(out.into()))
}

/// As [`find_readable_room`], when its members are known (MSC3902: such requests wait).
async fn find_whole_room(app: &App, user_id: &UserId, room_id: &str) -> MatrixResult<Viewer> {
    let viewer = find_readable_room(app, user_id, room_id).await?;
    if viewer.head().partial().is_none() {
        return Ok(viewer);
    }
    await_members(app, viewer.room()).await?;
    find_readable_room(app, user_id, room_id).await
}

/// Whether the user may be in the room without this server knowing it yet.
async fn is_missing(app: &App, room: &Room, user: &str) -> MatrixResult<bool> {
    let user = <&UserId>::try_from(user).ok();
    let Some(user) = user.filter(|user| user.server_name() != app.rooms.server_name()) else {
        return Ok(false);
    };
    Ok(room.head().partial().is_some() && app.rooms.find_member(room, user).await?.is_none())
}

fn parse_membership(membership: Option<&str>) -> MatrixResult<Option<Membership>> {
    let parse = |text| {
        Membership::parse(text)
            .ok_or_else(|| MatrixError::invalid_param("This membership is not known."))
    };
    membership.map(parse).transpose()
}
