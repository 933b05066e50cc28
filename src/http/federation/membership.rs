//! Joins, leaves and knocks of other servers' users (Server-Server API, "Joining Rooms", "Leaving
//! Rooms", "Knocking upon a room").

use axum::{extract::State, response::Response};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::events::stream_answer;
use crate::{
    federation::{SupportedVersions, Template},
    http::{
        auth::{SignedOrigin, SignedText},
        error::MatrixResult,
        json::{Empty, Json, Path, Query},
        state::AppState,
    },
};

/// The query of `make_join` and `make_knock`.
#[derive(Debug, Deserialize)]
pub struct VersionsQuery {
    #[serde(default)]
    ver: Vec<String>,
}

/// The query of `send_join`.
#[derive(Debug, Deserialize)]
pub struct SendJoinQuery {
    #[serde(default)]
    omit_members: bool,
}

/// `GET /v1/make_join/{roomId}/{userId}`
pub async fn make_join(
    State(app): State<AppState>,
    SignedOrigin(origin): SignedOrigin,
    Path((room_id, user_id)): Path<(OwnedRoomId, OwnedUserId)>,
    Query(query): Query<VersionsQuery>,
) -> MatrixResult<Json<Value>> {
    let place = (&*room_id, &*user_id);
    Ok(template(app.federation.make_join(&origin, place, &query.versions()).await?))
}

/// `GET /v1/make_leave/{roomId}/{userId}`
pub async fn make_leave(
    State(app): State<AppState>,
    SignedOrigin(origin): SignedOrigin,
    Path((room_id, user_id)): Path<(OwnedRoomId, OwnedUserId)>,
) -> MatrixResult<Json<Value>> {
    Ok(template(app.federation.make_leave(&origin, (&room_id, &user_id)).await?))
}

/// `GET /v1/make_knock/{roomId}/{userId}`
pub async fn make_knock(
    State(app): State<AppState>,
    SignedOrigin(origin): SignedOrigin,
    Path((room_id, user_id)): Path<(OwnedRoomId, OwnedUserId)>,
    Query(query): Query<VersionsQuery>,
) -> MatrixResult<Json<Value>> {
    let place = (&*room_id, &*user_id);
    Ok(template(app.federation.make_knock(&origin, place, &query.versions()).await?))
}

/// `PUT /v2/send_join/{roomId}/{eventId}`
pub async fn send_join(
    State(app): State<AppState>,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
    Query(query): Query<SendJoinQuery>,
    SignedText(origin, text): SignedText,
) -> MatrixResult<Response> {
    let place = (&*room_id, &*event_id);
    let answer = app.federation.take_join(&origin, place, &text, query.omit_members).await?;
    Ok(stream_answer(answer))
}

/// `PUT /v1/send_join/{roomId}/{eventId}`: the answer in a pair with 200.
pub async fn send_join_v1(
    State(app): State<AppState>,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
    SignedText(origin, text): SignedText,
) -> MatrixResult<Response> {
    let place = (&*room_id, &*event_id);
    let answer = app.federation.take_join(&origin, place, &text, false).await?;
    Ok(stream_answer(answer.after("[200,").text("]")))
}

/// `PUT /v2/send_leave/{roomId}/{eventId}`
pub async fn send_leave(
    State(app): State<AppState>,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
    SignedText(origin, text): SignedText,
) -> MatrixResult<Json<Empty>> {
    app.federation.take_leave(&origin, (&room_id, &event_id), &text).await?;
    Ok(Json(Empty {}))
}

/// `PUT /v1/send_leave/{roomId}/{eventId}`: the answer in a pair with 200.
pub async fn send_leave_v1(
    State(app): State<AppState>,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
    SignedText(origin, text): SignedText,
) -> MatrixResult<Json<Value>> {
    app.federation.take_leave(&origin, (&room_id, &event_id), &text).await?;
    Ok(Json(json!([200, {}])))
}

/// `PUT /v1/send_knock/{roomId}/{eventId}`
pub async fn send_knock(
    State(app): State<AppState>,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
    SignedText(origin, text): SignedText,
) -> MatrixResult<Json<Value>> {
    let state = app.federation.take_knock(&origin, (&room_id, &event_id), &text).await?;
    Ok(Json(json!({ "knock_room_state": state })))
}

impl VersionsQuery {
    /// "Defaults to `[1]`."
    fn versions(self) -> SupportedVersions {
        match self.ver.is_empty() {
            true => SupportedVersions(vec!["1".to_owned()]),
            false => SupportedVersions(self.ver),
        }
    }
}

fn template(template: Template) -> Json<Value> {
    Json(json!({ "room_version": template.version.as_str(), "event": template.event }))
}
