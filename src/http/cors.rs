//! Cross-Origin Resource Sharing, so that clients in a browser may read the answers
//! (Client-Server API, "Web Browser Clients"). It concerns every endpoint that clients use, errors included.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header},
};

/// "The recommended CORS headers to be returned by servers on all requests", and besides what clients need
/// to read: how long to wait after a 429, and the name of a download.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    (
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"),
    ),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(
            "X-Requested-With, Content-Type, Authorization, Date, If-Match, If-None-Match",
        ),
    ),
    (
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("Retry-After, ETag, Content-Disposition, Location"),
    ),
];

/// For how long a browser need not ask again; most allow no more than a day.
const PREFLIGHT_AGE_S_MAX: HeaderValue = HeaderValue::from_static("86400");

/// Whether clients in a browser use this path.
#[must_use]
pub fn concerns(path: &str) -> bool {
    if let Some(rest) = path.strip_prefix("/_matrix/") {
        return !(rest.starts_with("federation/") || rest.starts_with("key/"));
    }
    path.starts_with("/.well-known/matrix/") || path.starts_with("/_hearth/")
}

/// The answer to an `OPTIONS` request, which no endpoint may see: "the server MUST NOT perform any logic
/// defined for the endpoints when approached with an `OPTIONS` request".
#[must_use]
pub fn answer_preflight(method: &Method) -> Option<Response<Body>> {
    (method == Method::OPTIONS).then(|| {
        let mut response = Response::new(Body::empty());
        response.headers_mut().insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE_S_MAX);
        response
    })
}

/// Adds the headers to an answer; what an endpoint has set itself stays.
pub fn add_headers(headers: &mut HeaderMap) {
    headers.reserve(HEADERS.len());
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_endpoints_are_concerned_and_servers_are_not() {
        for path in [
            "/_matrix/client/v3/sync",
            "/_matrix/media/v3/upload",
            "/_matrix/nonsense",
            "/.well-known/matrix/client",
        ] {
            assert!(concerns(path), "{path}");
        }
        for path in
            ["/_matrix/federation/v1/send/1", "/_matrix/key/v2/server", "/metrics", "/health"]
        {
            assert!(!concerns(path), "{path}");
        }
    }

    #[test]
    fn headers_of_an_endpoint_stay() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("https://a"));
        add_headers(&mut headers);
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://a");
        assert_eq!(headers.len(), HEADERS.len());
    }
}
