//! `/_matrix/federation/v1/query/…` (Server-Server API, "Querying for information"): aliases and
//! profiles of this server.

use axum::extract::State;
use ruma::{OwnedRoomAliasId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::{
    auth::SignedOrigin,
    error::{MatrixError, MatrixResult},
    json::{Json, Path, Query},
    state::AppState,
};

/// Servers that are named as residents of a room.
const SERVERS_MAX: usize = 50;

/// The query of `directory`.
#[derive(Debug, Deserialize)]
pub struct DirectoryQuery {
    room_alias: OwnedRoomAliasId,
}

/// The query of `profile`.
#[derive(Debug, Deserialize)]
pub struct ProfileQuery {
    user_id: OwnedUserId,
    field: Option<String>,
}

/// `GET /query/directory`
pub async fn get_directory(
    State(app): State<AppState>,
    SignedOrigin(_): SignedOrigin,
    Query(query): Query<DirectoryQuery>,
) -> MatrixResult<Json<Value>> {
    let alias = query.room_alias;
    let room = app.rooms.find_by_alias(&alias).await?;
    let room = room.ok_or_else(|| MatrixError::not_found(format!("There is no alias {alias}.")))?;
    let mut servers = app.rooms.servers_in_room(&room).await?.to_vec();
    // The one that is certain to answer comes first.
    servers.retain(|server| server != app.federation.server_name());
    servers.truncate(SERVERS_MAX - 1);
    servers.insert(0, app.federation.server_name().to_owned());
    Ok(Json(json!({ "room_id": room.room_id, "servers": servers })))
}

/// `GET /query/profile`
pub async fn get_profile(
    State(app): State<AppState>,
    SignedOrigin(_): SignedOrigin,
    Query(query): Query<ProfileQuery>,
) -> MatrixResult<Json<Value>> {
    let profile = app.accounts.find_profile(&query.user_id).await?;
    let profile = profile.ok_or_else(|| MatrixError::not_found("There is no such user here."))?;
    Ok(Json(match query.field {
        None => json!(profile.0),
        Some(field) => match profile.0.get(&field) {
            Some(value) => json!({ field: value }),
            None => json!({}),
        },
    }))
}

/// `GET /query/{queryType}` of a type that nobody knows.
pub async fn refuse_other(
    SignedOrigin(_): SignedOrigin,
    Path(_): Path<String>,
) -> MatrixResult<Json<Value>> {
    Err(MatrixError::unrecognized("This server knows no such query."))
}
