//! Uploading and downloading, for the tests of media. Not a test itself.

use reqwest::{
    Method, StatusCode,
    header::{CONTENT_TYPE, HeaderMap},
};

use crate::harness::Client;

pub const UPLOAD: &str = "/_matrix/media/v3/upload";
pub const DOWNLOAD: &str = "/_matrix/client/v1/media/download";
pub const THUMBNAIL: &str = "/_matrix/client/v1/media/thumbnail";

/// An answer that need not be JSON.
#[derive(Debug)]
pub struct Download {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Download {
    /// A header as text; empty when it is missing.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The code of an error.
    pub fn errcode(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.bytes).unwrap();
        body["errcode"].as_str().unwrap().to_owned()
    }
}

/// Uploads; returns `/{server-name}/{media-id}`.
pub async fn upload(client: &Client, content_type: &str, bytes: &[u8]) -> String {
    upload_to(client, UPLOAD, content_type, bytes).await
}

/// Uploads to a path with a query; returns `/{server-name}/{media-id}`.
pub async fn upload_to(client: &Client, path: &str, content_type: &str, bytes: &[u8]) -> String {
    let request = client.request(Method::POST, path).header(CONTENT_TYPE, content_type);
    let answer = client.send(request.body(bytes.to_vec())).await.ok();
    place_of(&answer)
}

/// The path of the `content_uri` of an answer.
pub fn place_of(answer: &serde_json::Value) -> String {
    let uri = answer["content_uri"].as_str().unwrap();
    let place = uri.strip_prefix("mxc:/").unwrap();
    assert!(place.starts_with("/hearth.test/"), "{uri}");
    place.to_owned()
}

/// Asks for a path with some headers.
pub async fn fetch(
    client: &Client,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Download {
    let mut request = client.request(method, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = response.bytes().await.unwrap().to_vec();
    Download { status, headers, bytes }
}

/// Downloads what [`upload`] uploaded.
pub async fn download(client: &Client, place: &str) -> Download {
    fetch(client, Method::GET, &format!("{DOWNLOAD}{place}"), &[]).await
}

/// Bytes without a pattern, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    hearth::clock::Clock::scripted(0, seed).fill_random(&mut bytes);
    bytes
}
