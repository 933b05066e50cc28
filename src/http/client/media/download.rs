//! `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}[/{fileName}]` and the older
//! `/_matrix/media/v3/download/…`, which ask for no login.

use std::{io, ops::Range};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, Method},
    response::Response,
};
use serde::Deserialize;

use super::{
    ContentWish, Head, Reader, disposition::write_disposition, find_content, send_content,
};
use crate::{
    http::{
        auth::{ClientAddress, UserOrGuestSession},
        error::{MatrixError, MatrixResult},
        json::{Path, Query},
        state::{App, AppState},
    },
    media::{download::Content, records::MediaRecord},
};

/// Which content, and under which name if the client has one for it.
#[derive(Debug, Deserialize)]
pub struct ContentPath {
    server_name: String,
    media_id: String,
    filename: Option<String>,
}

/// Redirects are not offered, so that what a client says about them (`allow_redirect`) changes nothing.
#[derive(Debug, Deserialize)]
pub struct DownloadQuery {
    timeout_ms: Option<u64>,
    /// Of the older paths only.
    allow_remote: Option<bool>,
    /// Administrators see what was quarantined, if they say so (Synapse's administration API).
    #[serde(default)]
    admin_unsafely_bypass_quarantine: bool,
}

/// A download for a user.
pub async fn get_content(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path(place): Path<ContentPath>,
    Query(query): Query<DownloadQuery>,
    method: Method,
    headers: HeaderMap,
) -> MatrixResult<Response> {
    send(&app, Reader::LoggedIn(session), place, query, (&method, &headers)).await
}

/// A download for anybody.
pub async fn get_open_content(
    State(app): State<AppState>,
    address: ClientAddress,
    Path(place): Path<ContentPath>,
    Query(query): Query<DownloadQuery>,
    method: Method,
    headers: HeaderMap,
) -> MatrixResult<Response> {
    let reader = Reader::Anybody(address, query.allow_remote);
    send(&app, reader, place, query, (&method, &headers)).await
}

async fn send(
    app: &AppState,
    reader: Reader,
    ContentPath { server_name, media_id, filename }: ContentPath,
    query: DownloadQuery,
    request: (&Method, &HeaderMap),
) -> MatrixResult<Response> {
    let address = (server_name.as_str(), media_id.as_str());
    let wish = ContentWish {
        timeout_ms: query.timeout_ms,
        even_quarantined: query.admin_unsafely_bypass_quarantine,
    };
    let record = find_content(app, &reader, address, wish).await?;
    let filename = filename.as_deref().or(record.filename.as_deref());
    let head = Head {
        content_type: &record.content_type,
        disposition: write_disposition(&record.content_type, filename),
        etag: format!("\"{}\"", record.hash.to_hex()),
        cache_control: reader.cache_control(),
    };
    send_content(app, &record, head, request).await
}

/// The bytes of a content, as the client takes them.
pub async fn read_body(app: &App, record: &MediaRecord, range: Range<u64>) -> MatrixResult<Body> {
    let content = app.media.read(record.hash, range).await.map_err(report_damage)?;
    Ok(match content {
        Content::Whole(bytes) => Body::from(bytes),
        Content::Chunks(chunks) => Body::from_stream(chunks),
    })
}

/// A content that has a row but no file, or one that is too short.
pub(super) fn report_damage(error: io::Error) -> MatrixError {
    tracing::error!(%error, "a content could not be read");
    MatrixError::internal("The server could not read the content.")
}
