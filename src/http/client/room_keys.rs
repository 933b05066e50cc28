//! `/room_keys` (client-server API, "Server-side key backups").

use std::collections::BTreeMap;

use axum::{extract::State, http::StatusCode};
use ruma::UserId;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    encryption::{Backup, BackupError, BackupState, RoomKey},
    http::{
        App, AppState,
        auth::UserSession,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, Path, Query, RawJson},
        rate_limit::Action,
    },
    rooms::write_json_string,
    storage::key_backup::{KeyScope, StoredRoomKey},
};

/// A backup's description.
#[derive(Debug, Deserialize)]
pub struct BackupBody {
    algorithm: String,
    auth_data: Map<String, Value>,
    version: Option<String>,
}

/// Which backup the keys belong to.
#[derive(Debug, Deserialize)]
pub struct VersionQuery {
    version: String,
}

/// A key without its session.
#[derive(Debug, Deserialize)]
pub struct KeyBody {
    first_message_index: i64,
    forwarded_count: i64,
    is_verified: bool,
    session_data: Box<RawValue>,
}

/// The keys of a room.
#[derive(Debug, Deserialize)]
pub struct RoomBody {
    sessions: BTreeMap<String, KeyBody>,
}

/// Keys of several rooms.
#[derive(Debug, Deserialize)]
pub struct RoomsBody {
    rooms: BTreeMap<String, RoomBody>,
}

/// `POST /room_keys/version`.
pub async fn create_version(
    State(app): State<AppState>,
    session: UserSession,
    JsonBody(body): JsonBody<BackupBody>,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    let auth_data = Value::Object(body.auth_data).to_string();
    let created = app.encryption.create_backup(&session.user_id, body.algorithm, auth_data);
    Ok(Json(json!({ "version": created.await? })))
}

/// `GET /room_keys/version`.
pub async fn get_current_version(
    State(app): State<AppState>,
    session: UserSession,
) -> MatrixResult<RawJson> {
    describe(&app.encryption.find_backup(&session.user_id, None).await?)
}

/// `GET /room_keys/version/{version}`.
pub async fn get_version(
    State(app): State<AppState>,
    session: UserSession,
    Path(version): Path<String>,
) -> MatrixResult<RawJson> {
    describe(&app.encryption.find_backup(&session.user_id, Some(&version)).await?)
}

/// `PUT /room_keys/version/{version}`.
pub async fn update_version(
    State(app): State<AppState>,
    session: UserSession,
    Path(version): Path<String>,
    JsonBody(body): JsonBody<BackupBody>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    if body.version.is_some_and(|named| named != version) {
        return Err(MatrixError::invalid_param("The body names another version than the path."));
    }
    let changed = (body.algorithm, Value::Object(body.auth_data).to_string());
    app.encryption.update_backup(&session.user_id, &version, changed).await?;
    Ok(Json(Empty {}))
}

/// `DELETE /room_keys/version/{version}`.
pub async fn delete_version(
    State(app): State<AppState>,
    session: UserSession,
    Path(version): Path<String>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    app.encryption.delete_backup(&session.user_id, &version).await?;
    Ok(Json(Empty {}))
}

/// `PUT /room_keys/keys`.
pub async fn put_all(
    State(app): State<AppState>,
    session: UserSession,
    Query(query): Query<VersionQuery>,
    JsonBody(body): JsonBody<RoomsBody>,
) -> MatrixResult<Json<Value>> {
    let keys = body.rooms.into_iter().flat_map(|(room, body)| body.into_keys(room)).collect();
    store(&app, &session.user_id, &query.version, keys).await
}

/// `PUT /room_keys/keys/{roomId}`.
pub async fn put_room(
    State(app): State<AppState>,
    session: UserSession,
    Path(room_id): Path<String>,
    Query(query): Query<VersionQuery>,
    JsonBody(body): JsonBody<RoomBody>,
) -> MatrixResult<Json<Value>> {
    let keys = body.into_keys(room_id).collect();
    store(&app, &session.user_id, &query.version, keys).await
}

/// `PUT /room_keys/keys/{roomId}/{sessionId}`.
pub async fn put_session(
    State(app): State<AppState>,
    session: UserSession,
    Path((room_id, session_id)): Path<(String, String)>,
    Query(query): Query<VersionQuery>,
    JsonBody(body): JsonBody<KeyBody>,
) -> MatrixResult<Json<Value>> {
    let keys = vec![body.into_key(room_id, session_id)];
    store(&app, &session.user_id, &query.version, keys).await
}

/// `GET /room_keys/keys`.
pub async fn get_all(
    State(app): State<AppState>,
    session: UserSession,
    Query(query): Query<VersionQuery>,
) -> MatrixResult<RawJson> {
    let scope = KeyScope { room_id: None, session_id: None };
    let keys = app.encryption.list_room_keys(&session.user_id, &query.version, scope).await?;
    let mut out = String::from("{\"rooms\":{");
    for (number, room) in keys.chunk_by(|one, next| one.room_id == next.room_id).enumerate() {
        out.push_str(if number == 0 { "" } else { "," });
        write_json_string(&mut out, &room[0].room_id);
        out.push(':');
        write_sessions(&mut out, room);
    }
    out.push_str("}}");
    Ok(RawJson(out.into()))
}

/// `GET /room_keys/keys/{roomId}`.
pub async fn get_room(
    State(app): State<AppState>,
    session: UserSession,
    Path(room_id): Path<String>,
    Query(query): Query<VersionQuery>,
) -> MatrixResult<RawJson> {
    let scope = KeyScope { room_id: Some(&room_id), session_id: None };
    let keys = app.encryption.list_room_keys(&session.user_id, &query.version, scope).await?;
    let mut out = String::new();
    write_sessions(&mut out, &keys);
    Ok(RawJson(out.into()))
}

/// `GET /room_keys/keys/{roomId}/{sessionId}`.
pub async fn get_session(
    State(app): State<AppState>,
    session: UserSession,
    Path((room_id, session_id)): Path<(String, String)>,
    Query(query): Query<VersionQuery>,
) -> MatrixResult<RawJson> {
    let scope = KeyScope { room_id: Some(&room_id), session_id: Some(&session_id) };
    let keys = app.encryption.list_room_keys(&session.user_id, &query.version, scope).await?;
    let key = keys.first().ok_or_else(|| MatrixError::not_found("There is no such key."))?;
    let mut out = String::new();
    write_key(&mut out, key);
    Ok(RawJson(out.into()))
}

/// `DELETE /room_keys/keys`.
pub async fn delete_all(
    State(app): State<AppState>,
    session: UserSession,
    Query(query): Query<VersionQuery>,
) -> MatrixResult<Json<Value>> {
    delete(&app, &session.user_id, &query.version, (None, None)).await
}

/// `DELETE /room_keys/keys/{roomId}`.
pub async fn delete_room(
    State(app): State<AppState>,
    session: UserSession,
    Path(room_id): Path<String>,
    Query(query): Query<VersionQuery>,
) -> MatrixResult<Json<Value>> {
    delete(&app, &session.user_id, &query.version, (Some(room_id), None)).await
}

/// `DELETE /room_keys/keys/{roomId}/{sessionId}`.
pub async fn delete_session(
    State(app): State<AppState>,
    session: UserSession,
    Path((room_id, session_id)): Path<(String, String)>,
    Query(query): Query<VersionQuery>,
) -> MatrixResult<Json<Value>> {
    delete(&app, &session.user_id, &query.version, (Some(room_id), Some(session_id))).await
}

async fn store(
    app: &App,
    user: &UserId,
    version: &str,
    keys: Vec<RoomKey>,
) -> MatrixResult<Json<Value>> {
    let is_object = |key: &RoomKey| key.session_data.get().starts_with('{');
    if !keys.iter().all(is_object) {
        return Err(MatrixError::bad_json("`session_data` is not an object."));
    }
    Ok(Json(state_json(app.encryption.store_room_keys(user, version, keys).await?)))
}

async fn delete(
    app: &App,
    user: &UserId,
    version: &str,
    (room, session): (Option<String>, Option<String>),
) -> MatrixResult<Json<Value>> {
    let deleted = app.encryption.delete_room_keys(user, version, room, session);
    Ok(Json(state_json(deleted.await?)))
}

impl RoomBody {
    fn into_keys(self, room_id: String) -> impl Iterator<Item = RoomKey> {
        let sessions = self.sessions.into_iter();
        sessions.map(move |(session_id, body)| body.into_key(room_id.clone(), session_id))
    }
}

impl KeyBody {
    fn into_key(self, room_id: String, session_id: String) -> RoomKey {
        RoomKey {
            room_id,
            session_id,
            first_message_index: self.first_message_index,
            forwarded_count: self.forwarded_count,
            is_verified: self.is_verified,
            session_data: self.session_data,
        }
    }
}

fn state_json(state: BackupState) -> Value {
    json!({ "count": state.count, "etag": state.etag.to_string() })
}

fn describe(backup: &Backup) -> MatrixResult<RawJson> {
    let mut out = String::from("{\"algorithm\":");
    write_json_string(&mut out, &backup.algorithm);
    out.push_str(",\"auth_data\":");
    out.push_str(&backup.auth_data);
    out.push_str(&format!(
        ",\"count\":{},\"etag\":\"{}\",\"version\":\"{}\"}}",
        backup.state.count, backup.state.etag, backup.version
    ));
    Ok(RawJson(out.into()))
}

fn write_sessions(out: &mut String, keys: &[StoredRoomKey]) {
    out.push_str("{\"sessions\":{");
    for (number, key) in keys.iter().enumerate() {
        out.push_str(if number == 0 { "" } else { "," });
        write_json_string(out, &key.session_id);
        out.push(':');
        write_key(out, key);
    }
    out.push_str("}}");
}

fn write_key(out: &mut String, key: &StoredRoomKey) {
    out.push_str(&format!(
        "{{\"first_message_index\":{},\"forwarded_count\":{},\"is_verified\":{},\"session_data\":{}}}",
        key.first_message_index, key.forwarded_count, key.is_verified, key.session_data
    ));
}

impl From<BackupError> for MatrixError {
    fn from(error: BackupError) -> Self {
        let message = super::register::capitalize(&error.to_string());
        match error {
            BackupError::NotFound => Self::not_found(message),
            BackupError::WrongVersion { current } => {
                Self::new(StatusCode::FORBIDDEN, "M_WRONG_ROOM_KEYS_VERSION", message)
                    .with_field("current_version", current)
            }
            BackupError::AlgorithmDiffers | BackupError::BadName => Self::invalid_param(message),
            BackupError::TooLong => Self::too_large(message),
            BackupError::Storage(error) => error.into(),
        }
    }
}
