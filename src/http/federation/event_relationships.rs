//! `POST /_matrix/federation/unstable/event_relationships` (MSC2836).

use axum::extract::State;
use serde_json::{Value, json};

use super::events::{find_room, unknown_event};
use crate::{
    http::{
        auth::SignedBody,
        client::event_relationships::{RelationshipsBody, note_children},
        error::MatrixResult,
        json::Json,
        state::AppState,
    },
    rooms::Onlooker,
};

/// Walks along the relations of an event; tells what authorises what it has met.
pub async fn post_relationships(
    State(app): State<AppState>,
    SignedBody(origin, body): SignedBody<RelationshipsBody>,
) -> MatrixResult<Json<Value>> {
    let rooms = &app.rooms;
    let event_id =
        <&ruma::EventId>::try_from(body.event_id.as_str()).map_err(|_| unknown_event())?;
    let room = rooms.find_room_of_event(event_id).await?.ok_or_else(unknown_event)?;
    let room = find_room(&app, &origin, &room.room_id).await?;
    let start = rooms.find_event(&room, event_id).await?.ok_or_else(unknown_event)?;
    let onlooker = Onlooker::Server(&room, &origin);
    if !rooms.is_shown(onlooker, &start).await? {
        return Err(unknown_event());
    }
    let walk = rooms.walk_relationships(onlooker, start, body.to_walk()).await?;
    let mut events = Vec::with_capacity(walk.events.len());
    for event in &walk.events {
        if let Some((_, shown)) = rooms.event_for_server(event.event.event_id(), &origin).await? {
            let mut shown = Value::Object(shown.to_object());
            note_children(&mut shown, &rooms.summarise_children(onlooker, event).await?);
            events.push(shown);
        }
    }
    let nids: Vec<_> = walk.events.iter().map(|event| event.nid).collect();
    let chain = rooms.list_auth_chain(&room, &nids).await?;
    let chain = rooms.events().load(room.facts(), &chain).await?;
    let chain: Vec<Value> =
        chain.iter().map(|event| Value::Object(event.event.to_object())).collect();
    Ok(Json(json!({ "events": events, "limited": walk.is_limited, "auth_chain": chain })))
}
