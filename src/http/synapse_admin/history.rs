//! `/_synapse/admin/v1/rooms/…`: what was said in a room, for administrators who look into a report: pages,
//! surroundings, an event by time or by its ID, the ends of the graph, and the rooms below a space.

use axum::extract::State;
use ruma::{EventId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::HashSet, sync::Arc};

use super::rooms::load_named_room;
use crate::{
    http::{
        App, AppState,
        auth::AdminSession,
        client::{
            messages::{
                ContextQuery, MessagesQuery, QueryDirection, find_by_time, parse_filter,
                write_messages, write_surroundings,
            },
            room_overview::{HierarchyQuery, write_tree},
            room_paths::{parse_event_id, reader},
        },
        error::{MatrixError, MatrixResult},
        json::{Json, Path, Query, RawJson},
    },
    rooms::{Room, StoredEvent},
    workflows::space_tree::walk_known_tree,
};

/// The query of `/timestamp_to_event`.
#[derive(Debug, Deserialize)]
pub struct TimeQuery {
    /// Milliseconds since the Unix epoch.
    ts: i64,
    dir: Option<QueryDirection>,
}

/// `GET /_synapse/admin/v1/rooms/{roomId}/messages`.
pub async fn get_messages(
    State(app): State<AppState>,
    session: AdminSession,
    Path(room): Path<String>,
    Query(mut query): Query<MessagesQuery>,
) -> MatrixResult<RawJson> {
    let room = load_named_room(&app, &room).await?;
    let viewer = app.rooms.overseer(&room, &session.user_id).await?;
    query.dir.get_or_insert(QueryDirection::Forwards);
    let nobody = ignoring_nobody();
    write_messages(&app, &viewer, &reader(&app, &session, &nobody), query).await
}

/// `GET /_synapse/admin/v1/rooms/{roomId}/context/{eventId}`.
pub async fn get_context(
    State(app): State<AppState>,
    session: AdminSession,
    Path((room, event_id)): Path<(String, String)>,
    Query(query): Query<ContextQuery>,
) -> MatrixResult<RawJson> {
    let filter = parse_filter(query.filter.as_deref())?;
    let room = load_named_room(&app, &room).await?;
    let event = app.rooms.find_event(&room, &parse_event_id(&event_id)?).await?;
    let event = event.ok_or_else(unknown_event)?;
    let viewer = app.rooms.overseer(&room, &session.user_id).await?;
    let nobody = ignoring_nobody();
    let reader = reader(&app, &session, &nobody);
    write_surroundings(&app, (viewer, event), &reader, (query.limit, filter)).await
}

/// `GET /_synapse/admin/v1/rooms/{roomId}/timestamp_to_event`.
pub async fn get_event_by_time(
    State(app): State<AppState>,
    session: AdminSession,
    Path(room): Path<String>,
    Query(query): Query<TimeQuery>,
) -> MatrixResult<Json<Value>> {
    let room = load_named_room(&app, &room).await?;
    let viewer = app.rooms.overseer(&room, &session.user_id).await?;
    let direction = query.dir.unwrap_or(QueryDirection::Forwards);
    find_by_time(&app, &viewer, (query.ts, direction.into())).await
}

/// `GET /_synapse/admin/v1/fetch_event/{eventId}`: an event as servers have it among themselves.
pub async fn fetch_event(
    State(app): State<AppState>,
    _: AdminSession,
    Path(event_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let event_id = parse_event_id(&event_id)?;
    let event = find_anywhere(&app, &event_id).await?.ok_or_else(unknown_event)?;
    let mut object = event.event.to_object();
    object.insert("event_id".to_owned(), event_id.as_str().into());
    object.insert("room_id".to_owned(), event.event.room_id().as_str().into());
    Ok(Json(json!({ "event": object })))
}

/// `GET /_synapse/admin/v1/rooms/{roomId}/forward_extremities`: the events that none follows yet. Nothing
/// deletes them here: a room joins them itself when there are many.
pub async fn list_extremities(
    State(app): State<AppState>,
    _: AdminSession,
    Path(room): Path<String>,
) -> MatrixResult<Json<Value>> {
    let room: Arc<Room> = load_named_room(&app, &room).await?;
    let head = room.head();
    let describe = |event: &Arc<StoredEvent>| {
        json!({
            "event_id": event.event.event_id(),
            "state_group": event.state_nid.0,
            "depth": event.event.depth(),
            "received_ts": event.event.origin_server_ts(),
        })
    };
    let results: Vec<Value> = head.extremities.iter().map(describe).collect();
    Ok(Json(json!({ "count": results.len(), "results": results })))
}

/// `GET /_synapse/admin/v1/rooms/{roomId}/hierarchy`: of the rooms below a space those that are here.
pub async fn get_hierarchy(
    State(app): State<AppState>,
    _: AdminSession,
    Path(room): Path<String>,
    Query(query): Query<HierarchyQuery>,
) -> MatrixResult<Json<Value>> {
    let root = load_named_room(&app, &room).await?;
    write_tree(&query, async |request| {
        Ok(walk_known_tree((&app.rooms, &app.federation), &root.room_id, request).await?)
    })
    .await
}

async fn find_anywhere(app: &App, event_id: &EventId) -> MatrixResult<Option<Arc<StoredEvent>>> {
    match app.rooms.find_room_of_event(event_id).await? {
        Some(room) => Ok(app.rooms.find_any_event(&room, event_id).await?),
        None => Ok(None),
    }
}

/// Administrators see what they look into, whomever they ignore as users.
fn ignoring_nobody() -> HashSet<OwnedUserId> {
    HashSet::new()
}

fn unknown_event() -> MatrixError {
    MatrixError::not_found("There is no such event.")
}
