//! `POST /_matrix/client/unstable/event_relationships` (MSC2836).

use std::sync::Arc;

use axum::extract::State;
use ruma::EventId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::room_paths::{
    find_readable_room, find_visible_event, load_ignored_users, reader, unknown_event,
};
use crate::{
    http::{
        auth::UserSession,
        error::{MatrixError, MatrixResult},
        json::{Json, JsonBody},
        rate_limit::Action,
        state::{App, AppState},
    },
    rooms::{ChildSummary, Onlooker, Room, StoredEvent, Viewer, WalkRequest},
};

/// Bounds of what a client may ask for; the proposal leaves them to servers.
const DEPTH_MAX: usize = 100;
const BREADTH_MAX: usize = 100;
const EVENTS_MAX: usize = 100;
/// How often other servers are asked for what a walk misses.
const FETCHES_MAX: usize = 3;

/// The body of a request, with the defaults of the proposal.
#[derive(Debug, Deserialize)]
pub struct RelationshipsBody {
    pub event_id: String,
    room_id: Option<String>,
    max_depth: Option<usize>,
    max_breadth: Option<usize>,
    limit: Option<usize>,
    depth_first: Option<bool>,
    recent_first: Option<bool>,
    include_parent: Option<bool>,
    include_children: Option<bool>,
    direction: Option<Direction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Up,
    Down,
}

impl RelationshipsBody {
    /// What is asked for, within the bounds.
    pub fn to_walk(&self) -> WalkRequest {
        WalkRequest {
            is_upwards: self.direction == Some(Direction::Up),
            depth_max: self.max_depth.unwrap_or(3).min(DEPTH_MAX),
            breadth_max: self.max_breadth.unwrap_or(10).min(BREADTH_MAX),
            limit: self.limit.unwrap_or(EVENTS_MAX).clamp(1, EVENTS_MAX),
            depth_first: self.depth_first == Some(true),
            recent_first: self.recent_first != Some(false),
            with_parent: self.include_parent == Some(true),
            with_children: self.include_children == Some(true),
        }
    }
}

/// Walks along the relations of an event; each event tells what points at it. Other servers are asked for
/// what is missing here.
pub async fn post_relationships(
    State(app): State<AppState>,
    session: UserSession,
    JsonBody(body): JsonBody<RelationshipsBody>,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Search, &session, app.clock.now_ms())?;
    let (viewer, start) = find_start(&app, &session.user_id, &body).await?;
    let ignored = load_ignored_users(&app, &session.user_id).await?;
    let reader = reader(&app, &session.0, &ignored);
    let (onlooker, request) = (Onlooker::User(&viewer, &reader), body.to_walk());
    let mut walk = app.rooms.walk_relationships(onlooker, Arc::clone(&start), request).await?;
    for _ in 0..FETCHES_MAX {
        let Some(missing) = walk.missing.first() else { break };
        if !fetch(&app, viewer.room(), missing, request.is_upwards).await {
            break;
        }
        walk = app.rooms.walk_relationships(onlooker, Arc::clone(&start), request).await?;
    }
    let mut text = String::new();
    app.rooms.write_events(&mut text, &viewer, &reader, &walk.events).await?;
    let mut events: Vec<Value> = serde_json::from_str(&text)
        .map_err(|_| MatrixError::internal("The server could not write the events."))?;
    for (event, shown) in walk.events.iter().zip(&mut events) {
        note_children(shown, &app.rooms.summarise_children(onlooker, event).await?);
    }
    Ok(Json(json!({ "events": events, "limited": walk.is_limited })))
}

/// Says in an event what points at it.
pub fn note_children(event: &mut Value, children: &ChildSummary) {
    event["unsigned"]["children"] = json!(children.counts);
    event["unsigned"]["children_hash"] = children.hash().into();
}

/// The event where the walk begins. One that is not here may be known to other servers in the room.
async fn find_start(
    app: &App,
    user_id: &ruma::UserId,
    body: &RelationshipsBody,
) -> MatrixResult<(Viewer, Arc<StoredEvent>)> {
    let event_id = <&EventId>::try_from(body.event_id.as_str()).map_err(|_| unknown_event())?;
    let Some(room_id) = &body.room_id else {
        let room = app.rooms.find_room_of_event(event_id).await?.ok_or_else(unknown_event)?;
        return find_visible_event(app, user_id, room.room_id.as_str(), &body.event_id).await;
    };
    if let Ok(viewer) = find_readable_room(app, user_id, room_id).await {
        let known = app.rooms.find_any_event(viewer.room(), event_id).await?;
        // One that has arrived and waits for those before it is not in the history yet.
        if !known.is_some_and(|known| known.is_in_graph()) {
            fetch(app, viewer.room(), event_id, body.direction == Some(Direction::Up)).await;
        }
    }
    find_visible_event(app, user_id, room_id, &body.event_id).await
}

/// Asks other servers for an event and those around it; whether that brought something.
async fn fetch(app: &App, room: &Arc<Room>, event_id: &EventId, is_upwards: bool) -> bool {
    let fetched = app.federation.fetch_relationships(room, event_id, is_upwards).await;
    fetched.unwrap_or_else(|error| {
        tracing::info!(room.id = %room.room_id, %error, "relations could not be fetched");
        false
    })
}
