//! Asking web servers that strangers name: encrypted or not, redirects followed a few times, each
//! address checked again, what comes bounded in size. Which networks may be reached, `outbound` knows.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use hyper::{
    HeaderMap, StatusCode,
    header::{
        ACCEPT, ACCEPT_LANGUAGE, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION,
        USER_AGENT,
    },
};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::{
    config::UrlPreviewsConfig,
    outbound::{AnswerStream, Outbound, OutboundError},
};

/// Redirects that are followed one after another.
const REDIRECTS_MAX: usize = 5;
/// Characters of a file's name that are shown.
const FILE_NAME_CHARS_MAX: usize = 200;
pub const ACCEPT_PAGE: &str = "text/html,application/xhtml+xml,image/*;q=0.8,*/*;q=0.1";
pub const ACCEPT_IMAGE: &str = "image/png,image/jpeg,image/gif,image/webp";
pub const ACCEPT_JSON: &str = "application/json";
/// Whoever runs a web server shall see what asks.
const AGENT: &str = concat!("Hearth/", env!("CARGO_PKG_VERSION"), " (Matrix link preview; bot)");

/// Why a page was not read.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the address is not one of the web")]
    BadUrl,
    #[error("the host is on the list of denied ones")]
    Denied,
    #[error("too many redirects")]
    TooManyRedirects,
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("the answer is compressed, which was not asked for")]
    Compressed,
    #[error("the answer is too large")]
    TooLarge,
    #[error("the answer broke off")]
    BrokeOff,
    #[error("the answer took too long")]
    Timeout,
    #[error(transparent)]
    Outbound(#[from] OutboundError),
}

/// An answer whose body is still to come.
pub struct WebAnswer {
    /// Where the redirects led.
    pub url: Url,
    /// In lower case, without parameters.
    pub content_type: String,
    pub charset: Option<String>,
    stream: AnswerStream,
}

/// Refuses what is no address of the web, and hosts that the administrator does not want asked.
pub fn check(config: &UrlPreviewsConfig, url: &Url) -> Result<(), FetchError> {
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(FetchError::BadUrl)?;
    let is_plain = url.username().is_empty() && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || !is_plain {
        return Err(FetchError::BadUrl);
    }
    if config.allows_host(host) { Ok(()) } else { Err(FetchError::Denied) }
}

/// Asks for an address, and for those to which it leads.
pub async fn open(
    outbound: &Outbound,
    config: &UrlPreviewsConfig,
    mut url: Url,
    accept: &'static str,
) -> Result<WebAnswer, FetchError> {
    for _ in 0..=REDIRECTS_MAX {
        check(config, &url)?;
        // What stands behind the # is the browser's own.
        url.set_fragment(None);
        let stream = outbound.open_web(url.as_str(), request_headers(accept)).await?;
        let location = text(&stream.headers, LOCATION);
        match location.filter(|_| stream.status.is_redirection()) {
            Some(location) => url = url.join(&location).map_err(|_| FetchError::BadUrl)?,
            None => return WebAnswer::new(url, stream),
        }
    }
    Err(FetchError::TooManyRedirects)
}

impl WebAnswer {
    fn new(url: Url, stream: AnswerStream) -> Result<Self, FetchError> {
        if !stream.status.is_success() {
            return Err(FetchError::Status(stream.status));
        }
        let encoding = text(&stream.headers, CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
            return Err(FetchError::Compressed);
        }
        let kind = text(&stream.headers, CONTENT_TYPE).unwrap_or_default();
        let mut parts = kind.split(';').map(str::trim);
        let content_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        let charset = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("charset").then(|| value.trim_matches('"').to_owned())
        });
        Ok(Self { url, content_type, charset, stream })
    }

    /// The last part of the path, as people read it.
    pub fn file_name(&self) -> Option<String> {
        let last = self.url.path_segments()?.next_back().filter(|last| !last.is_empty())?;
        let name = percent_decode_str(last).decode_utf8_lossy();
        Some(name.chars().filter(|char| !char.is_control()).take(FILE_NAME_CHARS_MAX).collect())
    }

    /// The body, as far as a limit.
    pub async fn read_beginning(self, bytes_max: usize) -> Result<Bytes, FetchError> {
        let mut chunks = self.stream.into_chunks();
        let mut body = BytesMut::new();
        while body.len() < bytes_max
            && let Some(chunk) = chunks.next().await
        {
            body.extend_from_slice(&chunk.map_err(|_| FetchError::BrokeOff)?);
        }
        body.truncate(bytes_max);
        Ok(body.freeze())
    }

    /// The body, which must not be larger.
    pub async fn read_whole(self, bytes_max: usize) -> Result<Bytes, FetchError> {
        let body = self.read_beginning(bytes_max.saturating_add(1)).await?;
        if body.len() > bytes_max { Err(FetchError::TooLarge) } else { Ok(body) }
    }
}

fn request_headers(accept: &'static str) -> HeaderMap {
    HeaderMap::from_iter([
        (ACCEPT, HeaderValue::from_static(accept)),
        (ACCEPT_LANGUAGE, HeaderValue::from_static("en;q=0.9,*;q=0.5")),
        (USER_AGENT, HeaderValue::from_static(AGENT)),
    ])
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}
