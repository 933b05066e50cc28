//! `GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}` and the older
//! `/_matrix/media/v3/thumbnail/…`, which asks for no login.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    ContentWish, Head, Reader, conditions::is_known_to_client, disposition::write_disposition,
    download, find_content, send_content,
};
use crate::{
    http::{
        auth::{ClientAddress, UserOrGuestSession},
        error::{MatrixError, MatrixResult},
        json::{Path, Query},
        state::AppState,
    },
    media::thumbnails::{self, Thumbnail, ThumbnailError, Wish},
};

#[derive(Clone, Debug, Deserialize)]
pub struct ThumbnailQuery {
    width: u32,
    height: u32,
    #[serde(default)]
    method: MethodParameter,
    #[serde(default)]
    animated: bool,
    timeout_ms: Option<u64>,
    /// Of the older path only.
    allow_remote: Option<bool>,
}

/// The parameter `method`. The specification names no default; other servers scale.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum MethodParameter {
    Crop,
    #[default]
    Scale,
}

/// A thumbnail for a user.
pub async fn get_thumbnail(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path(place): Path<(String, String)>,
    Query(query): Query<ThumbnailQuery>,
    method: Method,
    headers: HeaderMap,
) -> MatrixResult<Response> {
    send(&app, Reader::LoggedIn(session), place, query, (&method, &headers)).await
}

/// A thumbnail for anybody.
pub async fn get_open_thumbnail(
    State(app): State<AppState>,
    address: ClientAddress,
    Path(place): Path<(String, String)>,
    Query(query): Query<ThumbnailQuery>,
    method: Method,
    headers: HeaderMap,
) -> MatrixResult<Response> {
    let reader = Reader::Anybody(address, query.allow_remote);
    send(&app, reader, place, query, (&method, &headers)).await
}

async fn send(
    app: &AppState,
    reader: Reader,
    (server_name, media_id): (String, String),
    query: ThumbnailQuery,
    (method, headers): (&Method, &HeaderMap),
) -> MatrixResult<Response> {
    let wish = query.to_wish()?;
    let of_content = ContentWish { timeout_ms: query.timeout_ms, ..ContentWish::default() };
    let record = find_content(app, &reader, (&server_name, &media_id), of_content).await?;
    let thumbnail = app.media.thumbnail(record.hash, wish).await?;
    let (Thumbnail::Original { content_type } | Thumbnail::Picture { content_type, .. }) =
        thumbnail;
    let head = Head {
        content_type,
        disposition: write_disposition(content_type, Some(name_of(content_type))),
        etag: query.etag(&record.hash.to_hex()),
        cache_control: reader.cache_control(),
    };
    let Thumbnail::Picture { bytes, .. } = thumbnail else {
        return send_content(app, &record, head, (method, headers)).await;
    };
    if is_known_to_client(headers, &head.etag) {
        return Ok(head.write(StatusCode::NOT_MODIFIED, ().into_response()));
    }
    let length = HeaderValue::from(bytes.len());
    let body = if *method == Method::HEAD { Body::empty() } else { Body::from(bytes) };
    let mut response = head.write(StatusCode::OK, Response::new(body));
    response.headers_mut().insert(header::CONTENT_LENGTH, length);
    Ok(response)
}

impl ThumbnailQuery {
    /// What it asks for; a picture of no size is an error.
    pub fn to_wish(&self) -> MatrixResult<Wish> {
        if self.width == 0 || self.height == 0 {
            return Err(MatrixError::invalid_param("A picture has at least one pixel."));
        }
        let method = match self.method {
            MethodParameter::Crop => thumbnails::Method::Crop,
            MethodParameter::Scale => thumbnails::Method::Scale,
        };
        let (width, height) = (self.width, self.height);
        Ok(Wish { width, height, method, is_animated: self.animated })
    }

    pub fn timeout_ms(&self) -> Option<u64> {
        self.timeout_ms
    }

    fn etag(&self, hash: &str) -> String {
        let Self { width, height, method, animated, .. } = self;
        format!("\"{hash}-{width}x{height}-{method:?}-{animated}\"")
    }
}

/// What a thumbnail of this type is called.
pub fn name_of(content_type: &str) -> &'static str {
    match content_type {
        "image/jpeg" => "thumbnail.jpg",
        "image/gif" => "thumbnail.gif",
        "image/webp" => "thumbnail.webp",
        _ => "thumbnail.png",
    }
}

impl From<ThumbnailError> for MatrixError {
    fn from(error: ThumbnailError) -> Self {
        match error {
            ThumbnailError::NotAPicture => {
                Self::bad_request("Cannot generate thumbnails for the requested content.")
            }
            ThumbnailError::TooLarge => Self::too_large("Content is too large to thumbnail."),
            ThumbnailError::Disk(error) => download::report_damage(error),
        }
    }
}
