//! `/_synapse/admin/v1/…/media`: seeing what somebody has uploaded, and deleting it.

use std::time::Duration;

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{limit_of, load_account, page_json};
use crate::{
    http::{
        App, AppState,
        auth::AdminSession,
        error::{MatrixError, MatrixResult},
        json::{Json, Path, Query},
    },
    media::{address::MediaAddress, evict::EvictError, quarantine::JudgedMedia},
    storage::media::{MediaOrder, MediaPage, StoredMedia},
};

/// The query of the list, and of what is deleted of it.
#[derive(Debug, Deserialize)]
pub struct ListQuery {
    #[serde(default)]
    from: usize,
    limit: Option<usize>,
    order_by: Option<String>,
    dir: Option<String>,
}

/// The query of `/purge_media_cache`.
#[derive(Debug, Deserialize)]
pub struct PurgeQuery {
    /// Milliseconds since the Unix epoch.
    before_ts: u64,
}

/// `GET /_synapse/admin/v1/users/{userId}/media`.
pub async fn list_of_user(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
    Query(query): Query<ListQuery>,
) -> MatrixResult<Json<Value>> {
    let (uploads, total) = load_page(&app, &user_id, &query).await?;
    let judged = app.media.judge(uploads).await?;
    let media: Vec<_> = judged.iter().map(describe).collect();
    Ok(Json(page_json("media", media, (query.from, total as usize), Value::from)))
}

/// `DELETE /_synapse/admin/v1/users/{userId}/media`: what the list would show.
pub async fn delete_of_user(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
    Query(query): Query<ListQuery>,
) -> MatrixResult<Json<Value>> {
    let (uploads, _) = load_page(&app, &user_id, &query).await?;
    app.media.delete_uploads(&uploads).await?;
    let deleted: Vec<_> = uploads.iter().map(|media| media.media_id.as_str()).collect();
    Ok(Json(json!({ "deleted_media": deleted, "total": deleted.len() })))
}

/// `DELETE /_synapse/admin/v1/media/{serverName}/{mediaId}`.
pub async fn delete(
    State(app): State<AppState>,
    _: AdminSession,
    Path((server_name, media_id)): Path<(String, String)>,
) -> MatrixResult<Json<Value>> {
    let address = MediaAddress::parse(&server_name, &media_id);
    let address = address.map_err(|error| MatrixError::invalid_param(format!("{error}.")))?;
    match app.media.delete(&address).await? {
        true => Ok(Json(json!({ "deleted_media": [media_id], "total": 1 }))),
        false => Err(MatrixError::not_found("There is no such content here.")),
    }
}

/// `POST /_synapse/admin/v1/purge_media_cache`: deletes what is kept of other servers' media.
pub async fn purge_cache(
    State(app): State<AppState>,
    _: AdminSession,
    Query(query): Query<PurgeQuery>,
) -> MatrixResult<Json<Value>> {
    let unused_ms = app.clock.now_ms().saturating_sub(query.before_ts);
    let evicted = app.media.evict_remote(Duration::from_millis(unused_ms)).await?;
    Ok(Json(json!({ "deleted": evicted.files })))
}

impl From<EvictError> for MatrixError {
    fn from(error: EvictError) -> Self {
        match error {
            EvictError::Disk(error) => {
                tracing::error!(%error, "a content was not deleted");
                Self::internal("A file could not be deleted.")
            }
            EvictError::Storage(error) => error.into(),
        }
    }
}

async fn load_page(
    app: &App,
    user_id: &str,
    query: &ListQuery,
) -> MatrixResult<(Vec<StoredMedia>, u64)> {
    let order = match query.order_by.as_deref() {
        Some("media_length") => MediaOrder::Size,
        Some("media_type") => MediaOrder::Type,
        Some("upload_name") => MediaOrder::Filename,
        _ => MediaOrder::Created,
    };
    // The latest first, unless the client says something of the order.
    let is_unsaid = query.order_by.is_none() && query.dir.is_none();
    let backwards = is_unsaid || query.dir.as_deref() == Some("b");
    let page = MediaPage { order, backwards, from: query.from, limit: limit_of(query.limit) };
    let user_id = load_account(app, user_id).await?.user_id;
    Ok(app.media.list_of_user(&user_id, page).await?)
}

/// An upload as administrators see it.
pub(super) fn describe(judged: &JudgedMedia) -> Value {
    let media = &judged.media;
    json!({
        "media_id": media.media_id,
        "media_type": media.content_type,
        "media_length": media.size_bytes,
        "upload_name": media.filename,
        "created_ts": media.created_ts,
        "last_access_ts": null,
        "quarantined_by": judged.quarantined_by,
        "safe_from_quarantine": judged.is_protected,
    })
}
