//! Contents of other servers (server-server API, "Content Repository"): by the endpoint for servers,
//! or by the older one of clients where that does not exist yet.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use hyper::{
    HeaderMap, Method, StatusCode,
    header::{CONTENT_DISPOSITION, CONTENT_TYPE},
};

use super::{
    Federation,
    multipart::{Multipart, find_boundary, find_filename},
    peers::{PeerError, PeerRequest, path},
};
use crate::{
    media::{
        Media,
        address::MediaAddress,
        records::MediaRecord,
        upload::{Description, UploadError},
    },
    outbound::{AnswerStream, OutboundError},
};

/// How long the other server may wait for an upload that was announced to it.
const PATIENCE_MS: &str = "20000";
/// How long it may take until the content begins to come.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
const UNKNOWN_TYPE: &str = "application/octet-stream";

/// Why a content of another server is not there.
#[derive(Debug, thiserror::Error)]
pub enum FetchMediaError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("the content could not be fetched: {0}")]
    Outbound(#[from] OutboundError),
    #[error("the answer is not as expected: {0}")]
    Malformed(&'static str),
    #[error(transparent)]
    Keep(#[from] UploadError),
}

type Body = BoxStream<'static, std::io::Result<Bytes>>;

impl Federation {
    /// Fetches a content of another server and keeps it.
    pub async fn fetch_media(
        &self,
        media: &Arc<Media>,
        address: &MediaAddress,
    ) -> Result<Arc<MediaRecord>, FetchMediaError> {
        if !self.is_enabled() {
            return Err(PeerError::Disabled.into());
        }
        let open = async {
            let opened = tokio::time::timeout(HEAD_TIMEOUT, self.open_media(address)).await;
            opened.unwrap_or(Err(OutboundError::Timeout(HEAD_TIMEOUT).into()))
        };
        media.keep_remote(address, open).await
    }

    async fn open_media(
        &self,
        address: &MediaAddress,
    ) -> Result<(Description, Body), FetchMediaError> {
        let query = [("timeout_ms", PATIENCE_MS)];
        let prefix = "/_matrix/federation/v1/media/download";
        let request = PeerRequest::get(path(prefix, [&address.media_id], &query));
        match self.peers().open(&address.server_name, request).await {
            Ok(answer) => self.read_multipart(answer).await,
            Err(error) if error.is_unrecognized() || is_no_answer(&error) => {
                self.open_older(address).await
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn read_multipart(
        &self,
        answer: AnswerStream,
    ) -> Result<(Description, Body), FetchMediaError> {
        let content_type = header(&answer.headers, CONTENT_TYPE.as_str());
        let boundary = content_type.as_deref().and_then(find_boundary);
        let boundary = boundary.ok_or(FetchMediaError::Malformed("it has no boundary"))?;
        let multipart = Multipart::new(boundary, answer.into_chunks());
        let (head, body) = multipart
            .into_second_part()
            .await
            .map_err(|_| FetchMediaError::Malformed("it has no second part"))?;
        if let Some(location) = head.find("location") {
            let answer = self.peers().outbound().open_page(location).await?;
            return match answer.status {
                StatusCode::OK => Ok(plain(answer)),
                _ => Err(FetchMediaError::Malformed("the redirect leads to nothing")),
            };
        }
        let description = Description {
            content_type: head.find("content-type").unwrap_or(UNKNOWN_TYPE).to_owned(),
            filename: head.find("content-disposition").and_then(find_filename),
        };
        Ok((description, body.boxed()))
    }

    /// "When falling back, servers MUST be sure to set `allow_remote` to `false`."
    async fn open_older(
        &self,
        address: &MediaAddress,
    ) -> Result<(Description, Body), FetchMediaError> {
        let server = &address.server_name;
        let query =
            [("allow_remote", "false"), ("allow_redirect", "false"), ("timeout_ms", PATIENCE_MS)];
        let segments = [server.as_str(), &address.media_id];
        let path = path("/_matrix/media/v3/download", segments, &query);
        let outbound = self.peers().outbound();
        let request = (Method::GET, path.as_str());
        let answer = outbound.open_server(server, request, HeaderMap::new(), None).await?;
        if answer.status.is_success() {
            return Ok(plain(answer));
        }
        Err(PeerError::Refused {
            server: server.clone(),
            status: answer.status,
            errcode: "M_NOT_FOUND".to_owned(),
            message: "There is no such content.".to_owned(),
            body: serde_json::Map::new(),
        }
        .into())
    }
}

fn plain(answer: AnswerStream) -> (Description, Body) {
    let content_type = header(&answer.headers, CONTENT_TYPE.as_str());
    let disposition = header(&answer.headers, CONTENT_DISPOSITION.as_str());
    let description = Description {
        content_type: content_type.unwrap_or_else(|| UNKNOWN_TYPE.to_owned()),
        filename: disposition.as_deref().and_then(find_filename),
    };
    (description, body_of(answer).boxed())
}

fn body_of(answer: AnswerStream) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    answer.into_chunks()
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Whether a refusal has no code, as those of endpoints have that a server does not know.
fn is_no_answer(error: &PeerError) -> bool {
    error.refusal().is_some_and(|(status, code)| status.is_client_error() && code.is_empty())
}
