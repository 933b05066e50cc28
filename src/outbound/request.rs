//! One request and its answer, bounded in time and size.

use std::{error::Error, fmt, io, time::Duration};

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{HOST, LOCATION},
};
use ruma::ServerName;

use super::{HttpClient, Outbound, discovery::Discovered};

/// Redirects that are followed one after another.
const REDIRECTS_MAX: usize = 5;

/// What an answer may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the request to the last byte of the answer.
    pub timeout: Duration,
    /// The size of the answer's body.
    pub body_bytes_max: usize,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An answer whose body is still to come.
pub struct AnswerStream {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    #[error("the request cannot be written: {0}")]
    BadRequest(String),
    #[error("{0}")]
    Connection(String),
    #[error("the answer took longer than {0:?}")]
    Timeout(Duration),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the answer broke off: {0}")]
    BrokeOff(String),
    #[error("too many redirects")]
    TooManyRedirects,
    #[error("the redirect to {0} is not followed")]
    BadRedirect(String),
}

impl Outbound {
    /// Sends a request to a homeserver, wherever discovery finds it. `path` is the path with the
    /// query, as it was signed.
    pub async fn request_server(
        &self,
        server: &ServerName,
        (method, path): (Method, &str),
        headers: HeaderMap,
        body: Option<Bytes>,
        limits: Limits,
    ) -> Result<Answer, OutboundError> {
        let work = async {
            let stream = self.open_server(server, (method, path), headers, body).await?;
            stream.read(limits.body_bytes_max).await
        };
        bound(limits.timeout, work).await
    }

    /// As [`Outbound::request_server`], without waiting for the body. The caller bounds the time.
    pub async fn open_server(
        &self,
        server: &ServerName,
        (method, path): (Method, &str),
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<AnswerStream, OutboundError> {
        let Discovered { authority, .. } = self.discover(server).await;
        let authority = authority.to_string();
        let uri = format!("https://{authority}{path}");
        let mut request = build(method, &uri, headers, body)?;
        // As the steps of the discovery say: with the port if one was given, even if it is 443.
        let host = authority.parse().map_err(|_| OutboundError::BadRequest(uri))?;
        request.headers_mut().insert(HOST, host);
        send(&self.0.servers, request).await.map(AnswerStream::from)
    }

    /// Sends a request to an encrypted address of the web. Redirects are not followed.
    pub async fn request_web(
        &self,
        (method, url): (Method, &str),
        headers: HeaderMap,
        body: Option<Bytes>,
        limits: Limits,
    ) -> Result<Answer, OutboundError> {
        if !url.starts_with("https://") {
            return Err(OutboundError::BadRequest(format!("{url} is not encrypted")));
        }
        let work = async {
            let request = build(method, url, headers, body)?;
            let stream = AnswerStream::from(send(&self.0.web, request).await?);
            stream.read(limits.body_bytes_max).await
        };
        bound(limits.timeout, work).await
    }

    /// Asks an address of the web, encrypted or not, without waiting for the body. Redirects are not
    /// followed. The caller bounds the time.
    pub async fn open_web(
        &self,
        url: &str,
        headers: HeaderMap,
    ) -> Result<AnswerStream, OutboundError> {
        let request = build(Method::GET, url, headers, None)?;
        send(&self.0.web, request).await.map(AnswerStream::from)
    }

    /// Fetches a page of the web, following redirects to other pages that are encrypted.
    pub async fn get_page(&self, url: &str, limits: Limits) -> Result<Answer, OutboundError> {
        let work = async {
            let stream = self.open_page(url).await?;
            stream.read(limits.body_bytes_max).await
        };
        bound(limits.timeout, work).await
    }

    /// Posts to an address of the web. Redirects are not followed.
    pub async fn post_page(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        limits: Limits,
    ) -> Result<Answer, OutboundError> {
        // Whatever the address begins with, the connection is encrypted.
        let request = build(Method::POST, url, headers, Some(body))?;
        let work = async {
            let answer = send(&self.0.web, request).await?;
            AnswerStream::from(answer).read(limits.body_bytes_max).await
        };
        bound(limits.timeout, work).await
    }

    /// As [`Outbound::get_page`], without waiting for the body. The caller bounds the time.
    pub async fn open_page(&self, url: &str) -> Result<AnswerStream, OutboundError> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let request = build(Method::GET, &url, HeaderMap::new(), None)?;
            let answer = send(&self.0.web, request).await?;
            let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            match location {
                Some(location) if answer.status().is_redirection() => {
                    url = follow(&url, location)?;
                }
                _ => return Ok(answer.into()),
            }
        }
        Err(OutboundError::TooManyRedirects)
    }
}

impl AnswerStream {
    /// Reads the rest.
    pub async fn read(self, body_bytes_max: usize) -> Result<Answer, OutboundError> {
        let Self { status, headers, body } = self;
        match Limited::new(body, body_bytes_max).collect().await {
            Ok(collected) => Ok(Answer { status, headers, body: collected.to_bytes() }),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                Err(OutboundError::TooLarge(body_bytes_max))
            }
            Err(error) => Err(OutboundError::BrokeOff(error.to_string())),
        }
    }

    /// The body, as it comes.
    pub fn into_chunks(self) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin {
        let stream = self.body.into_data_stream();
        futures_util::StreamExt::map(stream, |chunk| chunk.map_err(io::Error::other))
    }
}

impl From<Response<Incoming>> for AnswerStream {
    fn from(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        Self { status: head.status, headers: head.headers, body }
    }
}

/// Ends what takes longer than `timeout`.
pub(super) async fn bound<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, OutboundError>>,
) -> Result<T, OutboundError> {
    let ended = tokio::time::timeout(timeout, work).await;
    ended.unwrap_or(Err(OutboundError::Timeout(timeout)))
}

pub(super) fn build(
    method: Method,
    uri: &str,
    headers: HeaderMap,
    body: Option<Bytes>,
) -> Result<Request<Full<Bytes>>, OutboundError> {
    let bad = |error: &dyn fmt::Display| OutboundError::BadRequest(error.to_string());
    let uri: Uri = uri.parse().map_err(|error| bad(&error))?;
    let mut request = Request::new(Full::new(body.unwrap_or_default()));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

async fn send(
    client: &HttpClient,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, OutboundError> {
    client.request(request).await.map_err(|error| OutboundError::Connection(explain(&error)))
}

/// What lies at the bottom of an error, which is what helps.
pub(super) fn explain(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The address that a redirect leads to; only encrypted ones are followed.
fn follow(url: &str, location: &str) -> Result<String, OutboundError> {
    let bad = || OutboundError::BadRedirect(location.to_owned());
    if location.starts_with("https://") {
        return Ok(location.to_owned());
    }
    let base: Uri = url.parse().map_err(|_| bad())?;
    let authority = base.authority().ok_or_else(bad)?;
    match location.starts_with('/') && !location.starts_with("//") {
        true => Ok(format!("https://{authority}{location}")),
        false => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_encrypted() {
        let from = "https://example.org/a";
        let elsewhere = follow(from, "https://other.example/b").unwrap();
        assert_eq!(elsewhere, "https://other.example/b");
        assert_eq!(follow(from, "/b?c").unwrap(), "https://example.org/b?c");
        for location in ["http://example.org/b", "//example.org/b", "b", "file:///etc/passwd"] {
            assert!(follow(from, location).is_err(), "{location}");
        }
    }
}
