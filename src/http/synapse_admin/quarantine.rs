//! `/_synapse/admin/v1/…/quarantine`: media that are here and that nobody gets, one by one, of a room, of a
//! user; media that stay; and what is known of one.

use axum::extract::State;
use ruma::UserId;
use serde_json::{Value, json};

use super::{load_account, media::describe, rooms::load_named_room};
use crate::{
    http::{
        App, AppState,
        auth::AdminSession,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, Path},
    },
    media::{address::MediaAddress, content::ContentHash},
};

/// `GET /_synapse/admin/v1/media/{serverName}/{mediaId}`.
pub async fn get_media(
    State(app): State<AppState>,
    _: AdminSession,
    Path(place): Path<(String, String)>,
) -> MatrixResult<Json<Value>> {
    let address = parse_address(&place)?;
    let judged = app.media.find_judged(&address).await?;
    let judged = judged.ok_or_else(|| MatrixError::not_found("There is no such content here."))?;
    let hash = ContentHash(judged.media.content_hash).to_hex();
    let mut info = describe(&judged);
    info["media_origin"] = address.server_name.as_str().into();
    info["media_id"] = address.media_id.as_str().into();
    let user = Some(&judged.media.user_id).filter(|user| !user.is_empty());
    info["user_id"] = user.map(String::as_str).into();
    info["filesystem_id"] = hash.as_str().into();
    info["sha256"] = hash.into();
    info["url_cache"] = Value::Null;
    info["authenticated"] = (!judged.media.is_open).into();
    Ok(Json(json!({ "media_info": info })))
}

/// `POST /_synapse/admin/v1/media/quarantine/{serverName}/{mediaId}`.
pub async fn quarantine(
    State(app): State<AppState>,
    session: AdminSession,
    Path(place): Path<(String, String)>,
) -> MatrixResult<Json<Empty>> {
    app.media.quarantine(&[parse_address(&place)?], &session.user_id).await?;
    Ok(Json(Empty {}))
}

/// `POST /_synapse/admin/v1/media/unquarantine/{serverName}/{mediaId}`.
pub async fn release(
    State(app): State<AppState>,
    _: AdminSession,
    Path(place): Path<(String, String)>,
) -> MatrixResult<Json<Empty>> {
    app.media.release(&parse_address(&place)?).await?;
    Ok(Json(Empty {}))
}

/// `POST /_synapse/admin/v1/media/protect/{mediaId}`.
pub async fn protect(
    State(app): State<AppState>,
    session: AdminSession,
    Path(media_id): Path<String>,
) -> MatrixResult<Json<Empty>> {
    set_protected(&app, &session.user_id, &media_id, true).await
}

/// `POST /_synapse/admin/v1/media/unprotect/{mediaId}`.
pub async fn unprotect(
    State(app): State<AppState>,
    session: AdminSession,
    Path(media_id): Path<String>,
) -> MatrixResult<Json<Empty>> {
    set_protected(&app, &session.user_id, &media_id, false).await
}

/// `GET /_synapse/admin/v1/room/{roomId}/media`: what events name that are not encrypted.
pub async fn list_of_room(
    State(app): State<AppState>,
    _: AdminSession,
    Path(room): Path<String>,
) -> MatrixResult<Json<Value>> {
    let room = load_named_room(&app, &room).await?;
    let own = format!("mxc://{}/", app.rooms.server_name());
    let named = app.rooms.list_named_media(&room).await?;
    let (local, remote): (Vec<_>, Vec<_>) =
        named.into_iter().partition(|url| url.starts_with(&own));
    Ok(Json(json!({ "total": local.len() + remote.len(), "local": local, "remote": remote })))
}

/// `POST /_synapse/admin/v1/room/{roomId}/media/quarantine`.
pub async fn quarantine_of_room(
    State(app): State<AppState>,
    session: AdminSession,
    Path(room): Path<String>,
) -> MatrixResult<Json<Value>> {
    let room = load_named_room(&app, &room).await?;
    let named = app.rooms.list_named_media(&room).await?;
    let address = |url: &String| {
        let (server_name, media_id) = url.strip_prefix("mxc://")?.split_once('/')?;
        MediaAddress::parse(server_name, media_id).ok()
    };
    let addresses: Vec<_> = named.iter().filter_map(address).collect();
    let count = app.media.quarantine(&addresses, &session.user_id).await?;
    Ok(Json(json!({ "num_quarantined": count })))
}

/// `POST /_synapse/admin/v1/user/{userId}/media/quarantine`.
pub async fn quarantine_of_user(
    State(app): State<AppState>,
    session: AdminSession,
    Path(user_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let user_id = load_account(&app, &user_id).await?.user_id;
    let count = app.media.quarantine_of_user(&user_id, &session.user_id).await?;
    Ok(Json(json!({ "num_quarantined": count })))
}

async fn set_protected(
    app: &App,
    by: &UserId,
    media_id: &str,
    protects: bool,
) -> MatrixResult<Json<Empty>> {
    let address = MediaAddress::parse(app.rooms.server_name().as_str(), media_id)?;
    app.media.set_protected(&address.media_id, protects, by).await?;
    Ok(Json(Empty {}))
}

fn parse_address((server_name, media_id): &(String, String)) -> MatrixResult<MediaAddress> {
    Ok(MediaAddress::parse(server_name, media_id)?)
}
