//! `POST /_matrix/client/unstable/event_relationships` (MSC2836).

use axum::extract::State;
use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::room_paths::{find_visible_event, load_ignored_users, reader, unknown_event};
use crate::{
    http::{
        auth::UserSession,
        error::{MatrixError, MatrixResult},
        json::{Json, JsonBody},
        rate_limit::Action,
        state::{App, AppState},
    },
    rooms::WalkRequest,
};

/// Bounds of what a client may ask for; the proposal leaves them to servers.
const DEPTH_MAX: usize = 100;
const BREADTH_MAX: usize = 100;
const EVENTS_MAX: usize = 100;

/// The body of a request, with the defaults of the proposal.
#[derive(Debug, Deserialize)]
pub struct RelationshipsBody {
    event_id: String,
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

/// Walks along the relations of an event; each event tells what points at it.
pub async fn post_relationships(
    State(app): State<AppState>,
    session: UserSession,
    JsonBody(body): JsonBody<RelationshipsBody>,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Search, &session, app.clock.now_ms())?;
    let room_id = match &body.room_id {
        Some(room_id) => room_id.clone(),
        None => find_room_of(&app, &body.event_id).await?,
    };
    let (viewer, start) =
        find_visible_event(&app, &session.user_id, &room_id, &body.event_id).await?;
    let ignored = load_ignored_users(&app, &session.user_id).await?;
    let reader = reader(&app, &session.0, &ignored);
    let request = WalkRequest {
        is_upwards: body.direction == Some(Direction::Up),
        depth_max: body.max_depth.unwrap_or(3).min(DEPTH_MAX),
        breadth_max: body.max_breadth.unwrap_or(10).min(BREADTH_MAX),
        limit: body.limit.unwrap_or(EVENTS_MAX).clamp(1, EVENTS_MAX),
        depth_first: body.depth_first == Some(true),
        recent_first: body.recent_first != Some(false),
        with_parent: body.include_parent == Some(true),
        with_children: body.include_children == Some(true),
    };
    let walk = app.rooms.walk_relationships(&viewer, &reader, start, request).await?;
    let mut text = String::new();
    app.rooms.write_events(&mut text, &viewer, &reader, &walk.events).await?;
    let mut events: Vec<Value> = serde_json::from_str(&text)
        .map_err(|_| MatrixError::internal("The server could not write the events."))?;
    for (event, shown) in walk.events.iter().zip(&mut events) {
        let children = app.rooms.summarise_children(&viewer, &reader, event).await?;
        let mut hash = Sha256::new();
        children.event_ids.iter().for_each(|id| hash.update(id.as_bytes()));
        shown["unsigned"]["children"] = json!(children.counts);
        shown["unsigned"]["children_hash"] = BASE64_STANDARD_NO_PAD.encode(hash.finalize()).into();
    }
    Ok(Json(json!({ "events": events, "limited": walk.is_limited })))
}

/// The room of an event that this server knows.
async fn find_room_of(app: &App, event_id: &str) -> MatrixResult<String> {
    let event_id = <&ruma::EventId>::try_from(event_id).map_err(|_| unknown_event())?;
    let room = app.rooms.find_room_of_event(event_id).await?;
    Ok(room.ok_or_else(unknown_event)?.room_id.to_string())
}
