//! Previews of web pages (client-server API, `preview_url`): what is shown, and what is never fetched.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use hearth::{clock::Clock, config::Config};
use serde_json::{Value, json};

use crate::{
    both_databases,
    harness::{Answer, Backend, Client, Server},
};

/// A picture of 1 × 1 pixels.
const PNG: &[u8] = &[
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 0x0d, 0x49, 0x48, 0x44, 0x52, 0, 0, 0,
    1, 0, 0, 0, 1, 8, 6, 0, 0, 0, 0x1f, 0x15, 0xc4, 0x89, 0, 0, 0, 0x0d, 0x49, 0x44, 0x41, 0x54,
    0x78, 0x9c, 0x63, 0x60, 0xf8, 0xcf, 0xc0, 0, 0, 3, 1, 1, 0, 0xc9, 0xfe, 0x92, 0xef, 0, 0, 0, 0,
    0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82,
];

/// A web server with a few pages, which counts what it is asked.
struct Web {
    url: String,
    asked: Arc<AtomicUsize>,
}

impl Web {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let router = Router::new().fallback(answer).with_state(asked.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, asked }
    }

    fn count(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn answer(State(asked): State<Arc<AtomicUsize>>, uri: Uri) -> Response {
    asked.fetch_add(1, Ordering::Relaxed);
    let html = |body: &'static str| typed("text/html", body.as_bytes());
    match uri.path() {
        "/article" => html(
            r#"<html><head><title>Elsewhere</title>
            <meta property="og:title" content="Der Gr&uuml;ne &amp; ich">
            <meta property="og:description" content="About  it">
            <meta property="og:image" content="/cat.png"><meta property="og:type" content="article">
            </head></html>"#,
        ),
        "/plain" => typed("text/html; charset=iso-8859-1", b"<title>Gr\xfc\xdfe</title>"),
        "/little" => html(
            r#"<link rel="alternate" type="application/json+oembed" href="/oembed?format=json">"#,
        ),
        "/oembed" => {
            let json = br#"{"type":"video","title":"A film","thumbnail_url":"/cat.png"}"#;
            typed("application/json", json)
        }
        "/cat.png" => typed("image/png", PNG),
        "/fake.png" => typed("image/png", b"<svg onload=alert(1)>"),
        "/fake" => html(r#"<title>T</title><meta property="og:image" content="/fake.png">"#),
        "/there" => redirect("/plain"),
        "/loop" => redirect("/loop"),
        "/file" => redirect("file:///etc/passwd"),
        "/inside" => redirect("http://10.1.2.3/"),
        "/large" => {
            let mut page = b"<title>Large</title>".to_vec();
            page.resize(4 << 20, b' ');
            typed("text/html", &page)
        }
        "/song" => typed("audio/ogg", b"OggS"),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn typed(kind: &'static str, body: &[u8]) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], body.to_vec()).into_response()
}

fn redirect(location: &'static str) -> Response {
    (StatusCode::FOUND, [(header::LOCATION, location)]).into_response()
}

/// The web server of a test has a private address.
fn open(config: &mut Config) {
    config.federation.allow_private_networks = true;
}

async fn preview(client: &Client, url: &str) -> Answer {
    let url = url.replace('&', "%26").replace('#', "%23");
    client.get(&format!("/_matrix/client/v1/media/preview_url?url={url}&ts=1")).await
}

async fn start(backend: &Backend) -> (Server, Client, Web) {
    let server = Server::start_with(backend, open).await;
    let alice = server.register("alice").await;
    (server, alice, Web::start().await)
}

both_databases! {
    async fn page_is_shown_with_its_picture(backend: Backend) {
        let (server, alice, web) = start(backend).await;
        let shown = preview(&alice, &format!("{}/article#part", web.url)).await.ok();
        let uri = shown["og:image"].as_str().unwrap().to_owned();
        assert_eq!(shown, json!({
            "og:title": "Der Grüne & ich",
            "og:description": "About it",
            "og:type": "article",
            "og:image": uri,
            "og:image:type": "image/png",
            "og:image:width": 1,
            "og:image:height": 1,
            "matrix:image:size": PNG.len(),
        }));
        let place = uri.strip_prefix("mxc://").unwrap();
        let path = format!("{}/_matrix/client/v1/media/download/{place}", server.url);
        let token = alice.access_token.clone().unwrap();
        let picture = alice.http.get(path).bearer_auth(token).send().await.unwrap();
        assert_eq!(picture.headers()["content-type"], "image/png");
        assert_eq!(picture.bytes().await.unwrap(), PNG);
        // The same picture of another page is the same content, and a preview is kept.
        let image = preview(&alice, &format!("{}/cat.png", web.url)).await.ok();
        assert_eq!(image["og:image"], uri);
        assert_eq!(image["og:title"], "cat.png");
        let asked = web.count();
        preview(&alice, &format!("{}/article", web.url)).await.ok();
        assert_eq!(web.count(), asked);
        server.client().get("/_matrix/client/v1/media/preview_url?url=x").await
            .error(401, "M_MISSING_TOKEN");
    }

    async fn pages_that_say_little_are_filled_up(backend: Backend) {
        let (_server, alice, web) = start(backend).await;
        let older = format!("/_matrix/media/v3/preview_url?url={}/there", web.url);
        assert_eq!(alice.get(&older).await.ok(), json!({ "og:title": "Grüße" }));
        let film = preview(&alice, &format!("{}/little", web.url)).await.ok();
        assert_eq!(film["og:title"], "A film");
        assert_eq!(film["og:image:type"], "image/png");
        let fake = preview(&alice, &format!("{}/fake", web.url)).await.ok();
        assert_eq!(fake, json!({ "og:title": "T" }));
        assert_eq!(preview(&alice, &format!("{}/song", web.url)).await.ok(), json!({}));
        let large = preview(&alice, &format!("{}/large", web.url)).await.ok();
        assert_eq!(large, json!({ "og:title": "Large" }));
    }

    async fn what_cannot_be_read_is_not_found(backend: Backend) {
        let (_server, alice, web) = start(backend).await;
        for path in ["/missing", "/loop", "/file"] {
            let url = format!("{}{path}", web.url);
            preview(&alice, &url).await.error(404, "M_NOT_FOUND");
            let asked = web.count();
            // It is left alone for a while.
            preview(&alice, &url).await.error(404, "M_NOT_FOUND");
            assert_eq!(web.count(), asked);
        }
        for url in ["", "x", "ftp://example.org", "file:///etc/passwd", "http://a:b@example.org/"] {
            preview(&alice, url).await.error(400, "M_INVALID_PARAM");
        }
        alice.get("/_matrix/client/v1/media/preview_url").await.error(400, "M_MISSING_PARAM");
    }

    async fn private_networks_are_not_asked(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let web = Web::start().await;
        let port = web.url.rsplit_once(':').unwrap().1;
        // However the address is written.
        for host in ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"] {
            let url = format!("http://{host}:{port}/article");
            preview(&alice, &url).await.error(404, "M_NOT_FOUND");
        }
        assert_eq!(web.count(), 0);
    }

    async fn redirects_into_blocked_networks_are_not_followed(backend: Backend) {
        let server = Server::start_with(backend, |config| {
            config.federation.blocked_networks = vec!["10.0.0.0/8".parse().unwrap()];
        })
        .await;
        let alice = server.register("alice").await;
        let web = Web::start().await;
        preview(&alice, &format!("{}/inside", web.url)).await.error(404, "M_NOT_FOUND");
        assert_eq!(web.count(), 1);
    }

    async fn administrator_can_deny_hosts(backend: Backend) {
        let server = Server::start_with(backend, |config| {
            open(config);
            config.url_previews.denied_hosts = vec!["example.org".to_owned()];
        })
        .await;
        let alice = server.register("alice").await;
        let denied = preview(&alice, "https://www.example.org/").await;
        denied.error(403, "M_FORBIDDEN");
    }

    async fn page_is_looked_at_again_after_a_while(backend: Backend) {
        let clock = Clock::scripted(1_700_000_000_000, 1);
        let server = Server::start_at(backend, clock.clone(), open).await;
        let alice = server.register("alice").await;
        let web = Web::start().await;
        let url = format!("{}/plain", web.url);
        let shown: Value = preview(&alice, &url).await.ok();
        clock.advance_ms(5 * 60 * 60 * 1000);
        assert_eq!(preview(&alice, &url).await.ok(), shown);
        assert_eq!(web.count(), 1);
        clock.advance_ms(2 * 60 * 60 * 1000);
        assert_eq!(preview(&alice, &url).await.ok(), shown);
        assert_eq!(web.count(), 2);
    }

    async fn pictures_go_when_no_preview_shows_them(backend: Backend) {
        const HOUR_MS: u64 = 60 * 60 * 1000;
        let clock = Clock::scripted(1_700_000_000_000, 1);
        let server = Server::start_at(backend, clock.clone(), open).await;
        let alice = server.register("alice").await;
        let web = Web::start().await;
        let article = format!("{}/article", web.url);
        let shown = preview(&alice, &article).await.ok();
        let place = shown["og:image"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
        let picture = format!("/_matrix/client/v1/media/download/{place}");
        let status = async || {
            let request = alice.request(reqwest::Method::GET, &picture);
            request.send().await.unwrap().status()
        };
        clock.advance_ms(4 * HOUR_MS);
        // The film shows the same picture, and for longer.
        preview(&alice, &format!("{}/little", web.url)).await.ok();
        clock.advance_ms(4 * HOUR_MS);
        server.app.url_previews.expire().await.unwrap();
        assert_eq!(status().await, 200);
        clock.advance_ms(3 * HOUR_MS);
        server.app.url_previews.expire().await.unwrap();
        assert_eq!(status().await, 404);
        // Whoever asks again gets it again.
        assert_eq!(preview(&alice, &article).await.ok(), shown);
        assert_eq!(status().await, 200);
        server.stop().await;
    }

    async fn crowd_has_a_page_fetched_once(backend: Backend) {
        let (_server, alice, web) = start(backend).await;
        let url = format!("{}/plain", web.url);
        let answers = futures_util::future::join_all((0..20).map(|_| preview(&alice, &url))).await;
        for answer in answers {
            answer.ok();
        }
        assert_eq!(web.count(), 1);
    }
}
