//! What each listener carries, whom it believes and what a browser is told.

use std::os::unix::fs::PermissionsExt;

use hearth::config::{Api, Listener, SocketMode};
use reqwest::{Client, Method, StatusCode};
use tokio::net::UnixStream;

use super::server_running::{Running, ask, ask_with};

#[tokio::test]
async fn listener_answers_only_for_the_apis_it_carries() {
    let server = Running::start(|config| {
        config.listen[0].apis = vec![Api::Client];
        let address = "127.0.0.1:0".parse().unwrap();
        config.listen.push(Listener { address, apis: vec![Api::Metrics], ..Listener::default() });
    })
    .await;
    let status = async |door: usize, path: &str| {
        let url = format!("http://{}{path}", server.tcp(door));
        reqwest::get(url).await.unwrap().status().as_u16()
    };
    assert_eq!(status(0, "/_matrix/client/hello").await, 200);
    assert_eq!(status(0, "/_matrix/federation/v1/version").await, 404);
    assert_eq!(status(0, "/metrics").await, 404);
    assert_eq!(status(1, "/_matrix/client/hello").await, 404);
    assert_eq!(status(1, "/metrics").await, 200);
    assert_eq!(status(1, "/health").await, 200);
    server.stop().await;
}

#[tokio::test]
async fn no_listener_answers_other_servers_when_federation_is_off() {
    let server = Running::start(|config| config.federation.enabled = false).await;
    let status = async |path: &str| reqwest::get(server.url(path)).await.unwrap().status();
    assert_eq!(status("/_matrix/federation/v1/version").await, StatusCode::NOT_FOUND);
    assert_eq!(status("/_matrix/client/hello").await, StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn plain_listener_speaks_http1_and_http2() {
    let server = Running::start(|_| ()).await;
    let url = server.url("/_matrix/client/hello");
    let answer = reqwest::get(&url).await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_11);
    assert_eq!(answer.text().await.unwrap(), "hello");
    let http2 = Client::builder().http2_prior_knowledge().build().unwrap();
    let answer = http2.get(&url).send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert_eq!(answer.text().await.unwrap(), "hello");
    drop(http2);
    server.stop().await;
}

#[tokio::test]
async fn unix_socket_has_its_mode_replaces_a_stale_one_and_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.sock");
    // A listener that ends without cleaning up leaves its file behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = Running::start(|config| {
        config.listen[0].address = format!("unix:{}", path.display()).parse().unwrap();
        config.listen[0].mode = SocketMode(0o600);
    })
    .await;
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).await.unwrap();
    assert!(ask(&mut stream, "/_matrix/client/address").await.ends_with("\r\n\r\nnone"));
    server.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn forwarded_address_is_believed_only_from_a_listed_proxy() {
    let forwarded = "x-forwarded-for: 203.0.113.7\r\n";
    for (trusted, expected) in [("127.0.0.0/8", "203.0.113.7"), ("10.0.0.1", "127.0.0.1")] {
        let server = Running::start(|config| {
            config.listen[0].trusted_proxies = vec![trusted.parse().unwrap()];
        })
        .await;
        let mut stream = server.connect().await;
        let answer = ask_with(&mut stream, "/_matrix/client/address", forwarded).await;
        assert!(answer.ends_with(expected), "{answer}");
        server.stop().await;
    }
}

#[tokio::test]
async fn browser_is_told_that_it_may_ask() {
    let server = Running::start(|_| ()).await;
    let client = Client::new();
    for (method, path, status) in [
        (Method::GET, "/_matrix/client/hello", StatusCode::OK),
        (Method::OPTIONS, "/_matrix/client/wait", StatusCode::OK),
        (Method::OPTIONS, "/_matrix/client/nonsense", StatusCode::OK),
        (Method::GET, "/_matrix/client/nonsense", StatusCode::NOT_FOUND),
        (Method::DELETE, "/_matrix/client/hello", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let answer = client.request(method, server.url(path)).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.headers()["access-control-allow-origin"], "*", "{path}");
        let methods = answer.headers()["access-control-allow-methods"].to_str().unwrap();
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
            assert!(methods.contains(method), "{methods}");
        }
        let headers = answer.headers()["access-control-allow-headers"].to_str().unwrap();
        for header in ["X-Requested-With", "Content-Type", "Authorization"] {
            assert!(headers.contains(header), "{headers}");
        }
    }
    server.stop().await;
}
