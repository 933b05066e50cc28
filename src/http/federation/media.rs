//! `/_matrix/federation/v1/media/…` (Server-Server API, "Content Repository"): contents of this server
//! for other ones, in two parts: JSON for what may come, and the content.

use std::time::Duration;

use axum::{
    body::{Body, HttpBody as _},
    extract::State,
    http::{HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;

use crate::{
    http::{
        auth::SignedOrigin,
        client::media::{
            disposition::write_disposition,
            download::read_body,
            thumbnail::{ThumbnailQuery, name_of},
        },
        error::MatrixResult,
        json::{Path, Query},
        state::{App, AppState},
    },
    media::{address::MediaAddress, records::MediaRecord, thumbnails::Thumbnail},
};

/// How long a content that was announced is waited for when the other server does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(20);
/// Characters of a boundary: none of our contents has it by chance.
const BOUNDARY_LENGTH: usize = 32;

/// The query of a download.
#[derive(Debug, Deserialize)]
pub struct DownloadQuery {
    timeout_ms: Option<u64>,
}

/// `GET /media/download/{mediaId}`
pub async fn get_content(
    State(app): State<AppState>,
    SignedOrigin(_): SignedOrigin,
    Path(media_id): Path<String>,
    Query(query): Query<DownloadQuery>,
) -> MatrixResult<Response> {
    let record = find(&app, &media_id, query.timeout_ms).await?;
    let disposition = write_disposition(&record.content_type, record.filename.as_deref());
    let body = read_body(&app, &record, 0..record.size_bytes).await?;
    Ok(in_two_parts(&app, (&record.content_type, disposition), body))
}

/// `GET /media/thumbnail/{mediaId}`
pub async fn get_thumbnail(
    State(app): State<AppState>,
    SignedOrigin(_): SignedOrigin,
    Path(media_id): Path<String>,
    Query(query): Query<ThumbnailQuery>,
) -> MatrixResult<Response> {
    let wish = query.to_wish()?;
    let record = find(&app, &media_id, query.timeout_ms()).await?;
    let thumbnail = app.media.thumbnail(record.hash, wish).await?;
    let (Thumbnail::Original { content_type } | Thumbnail::Picture { content_type, .. }) =
        thumbnail;
    let disposition = write_disposition(content_type, Some(name_of(content_type)));
    let body = match thumbnail {
        Thumbnail::Picture { bytes, .. } => Body::from(bytes),
        Thumbnail::Original { .. } => read_body(&app, &record, 0..record.size_bytes).await?,
    };
    Ok(in_two_parts(&app, (content_type, disposition), body))
}

/// A content of this server; those of others are asked for there.
async fn find(
    app: &App,
    media_id: &str,
    timeout_ms: Option<u64>,
) -> MatrixResult<std::sync::Arc<MediaRecord>> {
    let address = MediaAddress::parse(app.rooms.server_name().as_str(), media_id)?;
    let patience = timeout_ms.map_or(WAIT_DEFAULT, Duration::from_millis);
    Ok(app.media.find(&address, patience).await?)
}

fn in_two_parts(
    app: &App,
    (content_type, disposition): (&str, HeaderValue),
    content: Body,
) -> Response {
    let boundary = app.clock.random_text(BOUNDARY_LENGTH);
    let disposition = String::from_utf8_lossy(disposition.as_bytes()).into_owned();
    let head = format!(
        "--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n\
         Content-Type: {content_type}\r\nContent-Disposition: {disposition}\r\n\r\n"
    );
    let end = format!("\r\n--{boundary}--\r\n");
    let length = content.size_hint().exact().map(|bytes| bytes + (head.len() + end.len()) as u64);
    let piece = |text: String| stream::once(async move { Ok::<_, axum::Error>(Bytes::from(text)) });
    let body = piece(head).chain(content.into_data_stream()).chain(piece(end));
    let mut response = Response::new(Body::from_stream(body));
    let kind = HeaderValue::try_from(format!("multipart/mixed; boundary={boundary}"));
    let kind = kind.expect("a boundary is made of letters and digits");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    if let Some(length) = length {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    response
}
