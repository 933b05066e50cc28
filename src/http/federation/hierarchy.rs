//! `GET /_matrix/federation/v1/hierarchy/{roomId}` (Server-Server API, "Spaces").

use axum::extract::State;
use ruma::{OwnedRoomId, RoomId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::{
    auth::SignedOrigin,
    client::room_overview::tree_room_json,
    error::{MatrixError, MatrixResult},
    json::{Json, Path, Query},
    state::AppState,
};

/// Children that one answer describes.
const CHILDREN_MAX: usize = 100;

/// The query.
#[derive(Debug, Deserialize)]
pub struct HierarchyQuery {
    #[serde(default)]
    suggested_only: bool,
}

/// A space and its direct children, as far as the other server may know of them.
pub async fn get_hierarchy(
    State(app): State<AppState>,
    SignedOrigin(origin): SignedOrigin,
    Path(room_id): Path<OwnedRoomId>,
    Query(query): Query<HierarchyQuery>,
) -> MatrixResult<Json<Value>> {
    let unknown = || MatrixError::not_found("There is no such room, or you may not know of it.");
    let room = app.federation.find_own_room(&room_id).await?.ok_or_else(unknown)?;
    let suggested_only = query.suggested_only;
    let found = app.rooms.find_overview_for_server(&room, &origin, suggested_only).await?;
    let overview = found.ok_or_else(unknown)?;
    let (mut children, mut inaccessible) = (Vec::new(), Vec::new());
    for child in overview.children.iter().take(CHILDREN_MAX) {
        let Some(Ok(child_id)) = child.event.state_key().map(RoomId::parse) else { continue };
        // Rooms that this server is not in, somebody else knows more about.
        let Some(room) = app.federation.find_own_room(&child_id).await? else { continue };
        match app.rooms.find_overview_for_server(&room, &origin, false).await? {
            Some(mut child) => {
                child.children.clear();
                let mut json = tree_room_json(&child);
                if let Some(fields) = json.as_object_mut() {
                    fields.remove("children_state");
                }
                children.push(json);
            }
            None => inaccessible.push(child_id),
        }
    }
    Ok(Json(json!({
        "room": tree_room_json(&overview),
        "children": children,
        "inaccessible_children": inaccessible,
    })))
}
