//! `/_matrix/federation/v1/publicRooms` (Server-Server API, "Published Room Directory").

use axum::extract::State;
use serde::Deserialize;
use serde_json::Value;

use crate::http::{
    auth::{SignedBody, SignedOrigin},
    client::room_aliases::{PublicRoomsBody, list_public_rooms},
    error::MatrixResult,
    json::{Json, Query},
    state::AppState,
};

/// The query of the GET request.
#[derive(Debug, Deserialize)]
pub struct PageQuery {
    limit: Option<usize>,
    since: Option<String>,
}

/// `GET /publicRooms`
pub async fn get_public_rooms(
    State(app): State<AppState>,
    SignedOrigin(_): SignedOrigin,
    Query(query): Query<PageQuery>,
) -> MatrixResult<Json<Value>> {
    list_public_rooms(&app, None, PublicRoomsBody::page(query.limit, query.since)).await
}

/// `POST /publicRooms`
pub async fn post_public_rooms(
    State(app): State<AppState>,
    SignedBody(_, body): SignedBody<PublicRoomsBody>,
) -> MatrixResult<Json<Value>> {
    list_public_rooms(&app, None, body).await
}
