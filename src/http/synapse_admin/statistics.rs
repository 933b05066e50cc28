//! `/_synapse/admin/v1/statistics`: what users have uploaded, and which rooms take most of the database.

use axum::extract::State;
use ruma::UserId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{limit_of, page_json, pattern_of};
use crate::{
    http::{
        AppState,
        auth::AdminSession,
        error::MatrixResult,
        json::{Json, Query},
    },
    storage::statistics::{MediaUsageFilter, MediaUserOrder, list_largest_rooms, list_media_usage},
};

/// Rooms that are named.
const ROOMS: usize = 10;

/// The query of `/statistics/users/media`. Times in milliseconds since the Unix epoch.
#[derive(Debug, Deserialize)]
pub struct MediaUsageQuery {
    #[serde(default)]
    from: usize,
    limit: Option<usize>,
    order_by: Option<String>,
    dir: Option<String>,
    #[serde(default)]
    from_ts: u64,
    until_ts: Option<u64>,
    search_term: Option<String>,
}

/// `GET /_synapse/admin/v1/statistics/users/media`.
pub async fn list_users_media(
    State(app): State<AppState>,
    _: AdminSession,
    Query(query): Query<MediaUsageQuery>,
) -> MatrixResult<Json<Value>> {
    let filter = MediaUsageFilter {
        pattern: pattern_of(query.search_term.as_deref()),
        from_ts: query.from_ts,
        until_ts: query.until_ts.unwrap_or(u64::MAX),
        order: match query.order_by.as_deref() {
            Some("displayname") => MediaUserOrder::DisplayName,
            Some("media_count") => MediaUserOrder::Count,
            Some("media_length") => MediaUserOrder::Bytes,
            _ => MediaUserOrder::UserId,
        },
        backwards: query.dir.as_deref() == Some("b"),
        from: query.from,
        limit: limit_of(query.limit),
    };
    let rows = list_media_usage(&app.database, &filter).await?;
    let total = rows.first().map_or(0, |row| row.total) as usize;
    let mut users = Vec::with_capacity(rows.len());
    for row in &rows {
        let profile = match UserId::parse(&row.user_id) {
            Ok(user) => app.accounts.find_profile(&user).await?,
            Err(_) => None,
        };
        users.push(json!({
            "user_id": row.user_id,
            "displayname": profile.as_deref().and_then(|profile| profile.display_name()),
            "media_count": row.count,
            "media_length": row.bytes,
        }));
    }
    Ok(Json(page_json("users", users, (query.from, total), Value::from)))
}

/// `GET /_synapse/admin/v1/statistics/database/rooms`: the ten largest, on both databases.
pub async fn list_database_rooms(
    State(app): State<AppState>,
    _: AdminSession,
) -> MatrixResult<Json<Value>> {
    let largest = list_largest_rooms(&app.database, ROOMS).await?;
    let nids: Vec<_> = largest.iter().map(|(nid, _)| *nid).collect();
    let rooms = app.rooms.load_all(&nids).await?;
    let sized = rooms.iter().zip(&largest);
    let listed: Vec<Value> = sized
        .map(|(room, (_, bytes))| json!({ "room_id": room.room_id, "estimated_size": bytes }))
        .collect();
    Ok(Json(json!({ "rooms": listed })))
}
