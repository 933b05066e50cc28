//! Which API a path belongs to, so that a listener answers only for those that it carries.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};

use crate::config::Api;

/// 404 `M_UNRECOGNIZED` for a path whose API this listener does not carry, as if it did not exist.
#[must_use]
pub fn refuse_foreign(path: &str, carried: &[Api]) -> Option<Response<Body>> {
    let apis = apis_of(path);
    if apis.is_empty() || apis.iter().any(|api| carried.contains(api)) {
        return None;
    }
    let body =
        r#"{"errcode":"M_UNRECOGNIZED","error":"This listener does not carry this endpoint."}"#;
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Some(response)
}

/// The APIs through any of which a path can be reached; none for what every listener answers.
fn apis_of(path: &str) -> &'static [Api] {
    const PREFIXES: [(&str, &[Api]); 9] = [
        ("/_matrix/client/", &[Api::Client]),
        // Older servers fetch media where clients do.
        ("/_matrix/media/", &[Api::Client, Api::Federation]),
        ("/_matrix/federation/", &[Api::Federation]),
        ("/_matrix/key/", &[Api::Federation]),
        // Other servers ask for it at the address of the server name, which often is the clients' one.
        ("/.well-known/matrix/server", &[Api::Client, Api::Federation]),
        ("/.well-known/matrix/", &[Api::Client]),
        ("/_hearth/", &[Api::Admin]),
        ("/_synapse/admin/", &[Api::Admin]),
        ("/metrics", &[Api::Metrics]),
    ];
    PREFIXES.iter().find(|(prefix, _)| path.starts_with(prefix)).map_or(&[], |(_, apis)| apis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_carried(path: &str, carried: &[Api]) -> bool {
        refuse_foreign(path, carried).is_none()
    }

    #[test]
    fn listener_answers_only_for_the_apis_it_carries() {
        let sync = "/_matrix/client/v3/sync";
        assert!(is_carried(sync, &[Api::Client]));
        assert!(!is_carried(sync, &[Api::Federation, Api::Admin, Api::Metrics]));
        assert!(!is_carried("/_matrix/federation/v1/version", &[Api::Client]));
        assert!(is_carried("/_matrix/media/v3/config", &[Api::Federation]));
        assert!(!is_carried("/metrics", &[Api::Client, Api::Federation, Api::Admin]));
    }

    #[test]
    fn every_listener_answers_for_its_health() {
        assert!(is_carried("/health", &[Api::Metrics]));
    }
}
