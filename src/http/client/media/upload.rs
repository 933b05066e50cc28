//! `POST /_matrix/media/v3/upload`, `POST /_matrix/media/v1/create` and
//! `PUT /_matrix/media/v3/upload/{serverName}/{mediaId}`.

use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream},
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    accounts::sessions::Session,
    http::{
        auth::{UserSession, refuse_suspended},
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, Path, Query},
        rate_limit::Action,
        state::AppState,
    },
    media::{
        address::MediaAddress,
        reservations::ReserveError,
        upload::{Description, UploadError},
    },
};

/// The type of a content of which nothing is known.
pub const UNKNOWN_TYPE: &str = "application/octet-stream";
/// A longer content type is none.
const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// File systems allow 255; this leaves room for names that were encoded.
const FILENAME_BYTES_MAX: usize = 1024;
/// How much of a refused upload is read for the sake of the answer, and for how long.
const REFUSED_BYTES_READ_MAX: usize = 8 * 1024 * 1024;
const REFUSED_READ_DURATION_MAX: Duration = Duration::from_secs(2);

#[derive(Debug, Deserialize)]
pub struct UploadQuery {
    filename: Option<String>,
}

/// Takes a content.
pub async fn upload(
    State(app): State<AppState>,
    session: UserSession,
    Query(query): Query<UploadQuery>,
    headers: HeaderMap,
    body: Body,
) -> MatrixResult<Json<Value>> {
    let description = admit(&app, &session, query, &headers)?;
    let mut body = body.into_data_stream();
    let media_id = match app.media.upload(&session.user_id, description, &mut body).await {
        Ok(media_id) => media_id,
        Err(error) => {
            read_away(&mut body).await;
            return Err(error.into());
        }
    };
    Ok(Json(json!({ "content_uri": content_uri(&app, &media_id) })))
}

/// Gives out a media ID whose content comes later.
pub async fn create(
    State(app): State<AppState>,
    session: UserSession,
) -> MatrixResult<Json<Value>> {
    refuse_suspended(&session)?;
    app.rate_limits.take(Action::MediaUpload, &session, app.clock.now_ms())?;
    let reservation = app.media.reserve(&session.user_id).await?;
    Ok(Json(json!({
        "content_uri": content_uri(&app, &reservation.media_id),
        "unused_expires_at": reservation.expires_ts,
    })))
}

/// Takes the content of a media ID that was given out before.
pub async fn upload_reserved(
    State(app): State<AppState>,
    session: UserSession,
    Path((server_name, media_id)): Path<(String, String)>,
    Query(query): Query<UploadQuery>,
    headers: HeaderMap,
    body: Body,
) -> MatrixResult<Json<Empty>> {
    let address = MediaAddress::parse(&server_name, &media_id)?;
    let description = admit(&app, &session, query, &headers)?;
    let mut body = body.into_data_stream();
    let taken = app.media.upload_reserved(&session.user_id, &address, description, &mut body).await;
    if let Err(error) = taken {
        read_away(&mut body).await;
        return Err(error.into());
    }
    Ok(Json(Empty {}))
}

/// Reads on for a while, so that a client that still writes comes to read why it was refused instead
/// of finding the connection broken.
async fn read_away(body: &mut BodyDataStream) {
    let reading = async {
        let mut read = 0;
        while let Some(Ok(piece)) = body.next().await {
            read += piece.len();
            if read > REFUSED_BYTES_READ_MAX {
                return;
            }
        }
    };
    // A slow client is not waited for; what it learns then is that the connection broke.
    let _ = tokio::time::timeout(REFUSED_READ_DURATION_MAX, reading).await;
}

/// A refused upload may still be on its way: says that the connection ends, so that the client
/// does not send its next request on it.
pub async fn close_if_refused(mut response: Response) -> Response {
    if !response.status().is_success() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether the user may upload what the head of the request announces.
fn admit(
    app: &AppState,
    session: &Session,
    query: UploadQuery,
    headers: &HeaderMap,
) -> MatrixResult<Description> {
    refuse_suspended(session)?;
    app.rate_limits.take(Action::MediaUpload, session, app.clock.now_ms())?;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let announced = announced.and_then(|length| length.parse::<u64>().ok());
    if announced.is_some_and(|length| length > app.media.upload_size_bytes_max()) {
        return Err(UploadError::TooLarge.into());
    }
    let filename = query.filename.filter(|name| !name.is_empty());
    if filename.as_ref().is_some_and(|name| name.len() > FILENAME_BYTES_MAX) {
        let message = format!("A file name has at most {FILENAME_BYTES_MAX} bytes.");
        return Err(MatrixError::invalid_param(message));
    }
    Ok(Description { content_type: read_content_type(headers), filename })
}

fn read_content_type(headers: &HeaderMap) -> String {
    let sent = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_usable = |text: &&str| (1..=CONTENT_TYPE_BYTES_MAX).contains(&text.len());
    sent.map(str::trim).filter(is_usable).unwrap_or(UNKNOWN_TYPE).to_owned()
}

fn content_uri(app: &AppState, media_id: &str) -> String {
    format!("mxc://{}/{media_id}", app.config.server.name)
}

impl From<UploadError> for MatrixError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::TooLarge => Self::too_large("The content is too large for this server."),
            UploadError::QuotaReached => {
                Self::forbidden("You have uploaded as much as you may on this server.")
            }
            UploadError::Interrupted => Self::bad_request("The body of the request broke off."),
            UploadError::NotReserved => {
                Self::not_found("This media ID was not given out, or it has expired.")
            }
            UploadError::ReservedByOther => {
                Self::forbidden("This media ID was given out to somebody else.")
            }
            UploadError::AlreadyUploaded => {
                let message = "This media ID has a content already.";
                Self::new(StatusCode::CONFLICT, "M_CANNOT_OVERWRITE_MEDIA", message)
            }
            UploadError::Disk(error) => {
                tracing::error!(%error, "an upload could not be written");
                Self::internal("The server could not store the content.")
            }
            UploadError::Storage(error) => error.into(),
        }
    }
}

impl From<ReserveError> for MatrixError {
    fn from(error: ReserveError) -> Self {
        match error {
            ReserveError::TooManyPending { retry_after_ms } => Self::limit_exceeded(retry_after_ms),
            ReserveError::Storage(error) => error.into(),
        }
    }
}
