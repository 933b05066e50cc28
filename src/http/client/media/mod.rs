//! The content repository (Client-Server API, "Content repository"): uploads, downloads and
//! thumbnails, on the paths that ask for a login and on the older ones that do not; previews of web
//! pages.

mod conditions;
pub mod disposition;
pub mod download;
pub mod preview;
pub mod thumbnail;
pub mod upload;

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use self::conditions::Part;
use crate::{
    http::{
        auth::{ClientAddress, UserOrGuestSession, UserSession},
        error::{MatrixError, MatrixResult},
        json::Json,
        rate_limit::Action,
        state::AppState,
    },
    media::{
        address::{AddressError, MediaAddress},
        records::{FindMediaError, MediaRecord},
    },
};

/// How long a download waits for an announced content when the client does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(20);
/// How long clients use what they have before they ask again. Contents never change, but an
/// administrator may have deleted them.
const CACHE_PRIVATELY: &str = "private, max-age=86400, immutable";
const CACHE_PUBLICLY: &str = "public, max-age=86400, immutable";
/// The recommended policy (Client-Server API, "Content repository").
const CONTENT_SECURITY_POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; \
    plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';";

/// `GET /_matrix/client/v1/media/config` and its older path.
pub async fn get_config(State(app): State<AppState>, _session: UserSession) -> Json<Value> {
    Json(json!({ "m.upload.size": app.media.upload_size_bytes_max() }))
}

/// Who asks for a content.
enum Reader {
    LoggedIn(UserOrGuestSession),
    /// On the older paths, which hand out only what they did before they were frozen; with `allow_remote`,
    /// which other servers set to false, since nobody should ask in a circle.
    Anybody(ClientAddress, Option<bool>),
}

impl Reader {
    fn is_logged_in(&self) -> bool {
        matches!(self, Self::LoggedIn(_))
    }

    fn is_admin(&self) -> bool {
        matches!(self, Self::LoggedIn(session) if session.is_admin)
    }

    fn take_token(&self, app: &AppState) -> MatrixResult<()> {
        let now_ms = app.clock.now_ms();
        match self {
            Self::LoggedIn(session) => app.rate_limits.take(Action::MediaDownload, session, now_ms),
            Self::Anybody(address, _) => {
                app.rate_limits.take_of_address(Action::MediaDownload, address.0, now_ms)
            }
        }
    }

    fn may_read(&self, app: &AppState, record: &MediaRecord) -> bool {
        match self {
            Self::LoggedIn(_) => true,
            Self::Anybody(..) => record.is_open || app.media.is_open_access(),
        }
    }

    /// Whether this server gets what is elsewhere for them.
    fn may_fetch(&self, app: &AppState) -> bool {
        match self {
            Self::LoggedIn(_) => true,
            Self::Anybody(_, allow_remote) => {
                app.media.is_open_access() && allow_remote.unwrap_or(true)
            }
        }
    }

    fn cache_control(&self) -> &'static str {
        match self {
            Self::LoggedIn(_) => CACHE_PRIVATELY,
            Self::Anybody(..) => CACHE_PUBLICLY,
        }
    }
}

/// How a content is asked for.
#[derive(Clone, Copy, Debug, Default)]
struct ContentWish {
    /// How long it is waited for when it was announced.
    timeout_ms: Option<u64>,
    /// Also what is kept from everybody, for administrators.
    even_quarantined: bool,
}

/// Finds the content that somebody asks for.
async fn find_content(
    app: &AppState,
    reader: &Reader,
    (server_name, media_id): (&str, &str),
    wish: ContentWish,
) -> MatrixResult<Arc<MediaRecord>> {
    reader.take_token(app)?;
    let address = MediaAddress::parse(server_name, media_id)?;
    // What is announced now is not open either, so nobody need wait for it.
    let is_frozen = !reader.is_logged_in() && !app.media.is_open_access();
    let patience = match is_frozen {
        true => Duration::ZERO,
        false => wish.timeout_ms.map_or(WAIT_DEFAULT, Duration::from_millis),
    };
    if wish.even_quarantined && reader.is_admin() {
        return Ok(app.media.find_even_quarantined(&address, patience).await?);
    }
    match app.media.find(&address, patience).await {
        Ok(record) if reader.may_read(app, &record) => Ok(record),
        Ok(_) => Err(FindMediaError::NotFound.into()),
        Err(FindMediaError::NotFound)
            if reader.may_fetch(app) && address.server_name != app.rooms.server_name() =>
        {
            let fetched = app.federation.fetch_media(&app.media, &address).await?;
            match fetched.is_quarantined {
                true => Err(FindMediaError::Quarantined.into()),
                false => Ok(fetched),
            }
        }
        Err(FindMediaError::NotYetUploaded) if is_frozen => Err(FindMediaError::NotFound.into()),
        Err(error) => Err(error.into()),
    }
}

/// What every answer with a content says about it.
struct Head<'a> {
    content_type: &'a str,
    disposition: HeaderValue,
    etag: String,
    cache_control: &'static str,
}

impl Head<'_> {
    fn write(self, status: StatusCode, mut response: Response) -> Response {
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let content_type = HeaderValue::from_str(self.content_type);
        let content_type = content_type.unwrap_or(HeaderValue::from_static(upload::UNKNOWN_TYPE));
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(header::CONTENT_DISPOSITION, self.disposition);
        let etag = HeaderValue::from_str(&self.etag);
        headers.insert(header::ETAG, etag.expect("hashes and sizes are letters and digits"));
        for (name, value) in [
            (header::CACHE_CONTROL, self.cache_control),
            (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// Answers with a content, or with the part of it that the request asks for.
async fn send_content(
    app: &AppState,
    record: &MediaRecord,
    head: Head<'_>,
    (method, headers): (&Method, &HeaderMap),
) -> MatrixResult<Response> {
    let size_bytes = record.size_bytes;
    let (status, range) = match conditions::select_part(headers, &head.etag, size_bytes) {
        Part::NotModified => {
            return Ok(head.write(StatusCode::NOT_MODIFIED, ().into_response()));
        }
        Part::Unsatisfiable => return Ok(refuse_range(size_bytes)),
        Part::Whole => (StatusCode::OK, 0..size_bytes),
        Part::Range(range) => (StatusCode::PARTIAL_CONTENT, range),
    };
    let body = match *method == Method::HEAD {
        true => axum::body::Body::empty(),
        false => download::read_body(app, record, range.clone()).await?,
    };
    let mut response = head.write(status, Response::new(body));
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if status == StatusCode::PARTIAL_CONTENT {
        let text = format!("bytes {}-{}/{size_bytes}", range.start, range.end - 1);
        let value = HeaderValue::from_str(&text).expect("numbers are ASCII");
        headers.insert(header::CONTENT_RANGE, value);
    }
    Ok(response)
}

fn refuse_range(size_bytes: u64) -> Response {
    let message = "The content does not reach that far.";
    let error = MatrixError::new(StatusCode::RANGE_NOT_SATISFIABLE, "M_INVALID_PARAM", message);
    let mut response = error.into_response();
    let value = HeaderValue::from_str(&format!("bytes */{size_bytes}")).expect("ASCII");
    response.headers_mut().insert(header::CONTENT_RANGE, value);
    response
}

impl From<AddressError> for MatrixError {
    fn from(error: AddressError) -> Self {
        Self::invalid_param(match error {
            AddressError::ServerName => "The server name is not valid.",
            AddressError::MediaId => "A media ID has letters, digits, \"_\" and \"-\" only.",
        })
    }
}

impl From<FindMediaError> for MatrixError {
    fn from(error: FindMediaError) -> Self {
        match error {
            // Nobody is told that somebody has put a content away.
            FindMediaError::NotFound | FindMediaError::Quarantined => {
                Self::not_found("There is no such content.")
            }
            FindMediaError::NotYetUploaded => {
                let message = "The content has not been uploaded yet.";
                Self::new(StatusCode::GATEWAY_TIMEOUT, "M_NOT_YET_UPLOADED", message)
            }
            FindMediaError::Storage(error) => error.into(),
        }
    }
}
