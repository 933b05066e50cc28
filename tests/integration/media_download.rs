//! Downloads: their headers, parts of contents, and the older paths that ask for no login.

use hearth::config::{Config, UnauthenticatedAccess};
use reqwest::Method;

use crate::{
    both_databases,
    harness::Server,
    media_files::{DOWNLOAD, THUMBNAIL, UPLOAD, download, fetch, noise, upload, upload_to},
};

const OPEN_DOWNLOAD: &str = "/_matrix/media/v3/download";
const SECURITY_POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; \
    plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';";

fn allow_open_access(config: &mut Config) {
    config.media.unauthenticated_access = UnauthenticatedAccess::Allowed;
}

both_databases! {
    async fn downloads_say_how_to_treat_them(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let place = upload(&alice, "text/html", b"<script>").await;
        let found = download(&alice, &place).await;
        for (name, expect) in [
            ("content-type", "text/html"),
            ("content-disposition", "attachment"),
            ("content-security-policy", SECURITY_POLICY),
            ("cross-origin-resource-policy", "cross-origin"),
            ("x-content-type-options", "nosniff"),
            ("cache-control", "private, max-age=86400, immutable"),
            ("accept-ranges", "bytes"),
            ("content-length", "8"),
        ] {
            assert_eq!(found.header(name), expect, "{name}");
        }
        assert!(found.header("etag").starts_with('"'));
    }

    async fn names_of_files_come_back(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        for (content_type, query, name, expect) in [
            ("image/png", "", "", "inline"),
            ("image/png", "?filename=", "", "inline"),
            ("image/png", "?filename=a%20b.png", "", "inline; filename=\"a b.png\""),
            ("image/png", "?filename=a+b.png", "", "inline; filename=\"a b.png\""),
            ("image/png", "?filename=a%22%3Bb", "", "inline; filename=\"a\\\";b\""),
            ("image/png", "?filename=z%C3%AB", "", "inline; filename*=utf-8''z%C3%AB"),
            ("image/png", "?filename=a.png", "/b.png", "inline; filename=\"b.png\""),
            ("image/png", "", "/z%C3%AB%2F.png", "inline; filename*=utf-8''z%C3%AB%2F.png"),
            ("text/plain; charset=utf-8", "?filename=a", "", "inline; filename=\"a\""),
            ("image/svg+xml", "?filename=a.svg", "", "attachment; filename=\"a.svg\""),
            ("video/x-matroska", "", "/a", "attachment; filename=\"a\""),
        ] {
            let place = upload_to(&alice, &format!("{UPLOAD}{query}"), content_type, b"text").await;
            let found = download(&alice, &format!("{place}{name}")).await;
            assert_eq!(found.header("content-disposition"), expect, "{query} {name}");
            assert_eq!(found.bytes, b"text");
        }
    }

    async fn what_is_not_here_is_not_found(backend: Backend) {
        let server =
            Server::start_with(backend, |config| config.federation.enabled = false).await;
        let alice = server.register("alice").await;
        for (place, status, errcode) in [
            ("/hearth.test/abc", 404, "M_NOT_FOUND"),
            ("/hearth.test/abc/name.png", 404, "M_NOT_FOUND"),
            ("/other.test/abc", 404, "M_NOT_FOUND"),
            ("/other.test:8448/abc?allow_remote=false", 404, "M_NOT_FOUND"),
            ("/hearth.test/..%2F..%2Fhearth.db", 400, "M_INVALID_PARAM"),
            ("/hearth.test%2Fa/abc", 400, "M_INVALID_PARAM"),
            ("/hearth.test/abc?timeout_ms=soon", 400, "M_INVALID_PARAM"),
            ("/hearth.test", 404, "M_UNRECOGNIZED"),
        ] {
            let found = download(&alice, place).await;
            assert_eq!((found.status.as_u16(), found.errcode().as_str()), (status, errcode));
        }
        let path = format!("{THUMBNAIL}/other.test/abc?width=1&height=1");
        assert_eq!(alice.get(&path).await.error(404, "M_NOT_FOUND")["errcode"], "M_NOT_FOUND");
    }

    async fn parts_of_contents_are_sent(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bytes = noise(1, 700_000);
        let place = upload(&alice, "video/mp4", &bytes).await;
        let path = format!("{DOWNLOAD}{place}");
        let etag = download(&alice, &place).await.header("etag").to_owned();
        for (range, expect) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-299999", 0..300_000),
            ("bytes=262144-", 262_144..700_000),
            ("bytes=-5", 699_995..700_000),
        ] {
            let headers = [("range", range), ("if-range", etag.as_str())];
            let found = fetch(&alice, Method::GET, &path, &headers).await;
            assert_eq!(found.status, 206);
            assert!(found.bytes == bytes[expect.clone()], "{range}");
            let told = format!("bytes {}-{}/700000", expect.start, expect.end - 1);
            assert_eq!(found.header("content-range"), told);
        }
        let found = fetch(&alice, Method::GET, &path, &[("range", "bytes=700000-")]).await;
        assert_eq!(found.status, 416);
        assert_eq!(found.header("content-range"), "bytes */700000");
        let found = fetch(&alice, Method::GET, &path, &[("range", "bytes=0-1,5-6")]).await;
        assert_eq!((found.status.as_u16(), found.bytes.len()), (200, 700_000));
    }

    async fn known_content_is_not_sent_again(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let place = upload(&alice, "image/png", b"text").await;
        let path = format!("{DOWNLOAD}{place}");
        let etag = download(&alice, &place).await.header("etag").to_owned();
        let found = fetch(&alice, Method::GET, &path, &[("if-none-match", &etag)]).await;
        assert_eq!((found.status.as_u16(), found.bytes.len()), (304, 0));
        assert_eq!(found.header("etag"), etag);
    }

    async fn head_tells_about_a_content(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let place = upload(&alice, "image/png", &noise(1, 300_000)).await;
        let found = fetch(&alice, Method::HEAD, &format!("{DOWNLOAD}{place}"), &[]).await;
        assert_eq!((found.status.as_u16(), found.bytes.len()), (200, 0));
        assert_eq!(found.header("content-length"), "300000");
        assert_eq!(found.header("content-type"), "image/png");
    }

    async fn older_paths_are_frozen(backend: Backend) {
        let server = Server::start(backend).await;
        let (alice, nobody) = (server.register("alice").await, server.client());
        let place = upload(&alice, "image/png", b"text").await;
        for version in ["v3", "r0", "v1"] {
            let base = format!("/_matrix/media/{version}");
            for path in [
                format!("{base}/download{place}"),
                format!("{base}/download{place}/name"),
                format!("{base}/thumbnail{place}?width=32&height=32"),
            ] {
                nobody.get(&path).await.error(404, "M_NOT_FOUND");
                alice.get(&path).await.error(404, "M_NOT_FOUND");
            }
        }
    }

    async fn freeze_spares_what_was_uploaded_before(backend: Backend) {
        let server = Server::start_with(backend, allow_open_access).await;
        let alice = server.register("alice").await;
        let before = upload(&alice, "image/png", b"before").await;
        let path = format!("{OPEN_DOWNLOAD}{before}?allow_remote=true&allow_redirect=true");
        let found = fetch(&server.client(), Method::GET, &path, &[]).await;
        assert_eq!(found.bytes, b"before");
        assert_eq!(found.header("cache-control"), "public, max-age=86400, immutable");
        server.stop().await;

        let server = Server::start(backend).await;
        let (alice, nobody) = (server.reconnect(&alice), server.client());
        let after = upload(&alice, "image/png", b"after").await;
        let found = fetch(&nobody, Method::GET, &format!("{OPEN_DOWNLOAD}{before}"), &[]).await;
        assert_eq!(found.bytes, b"before");
        nobody.get(&format!("{OPEN_DOWNLOAD}{after}")).await.error(404, "M_NOT_FOUND");
        assert_eq!(download(&alice, &after).await.bytes, b"after");
    }

    async fn url_previews_can_be_switched_off(backend: Backend) {
        let server =
            Server::start_with(backend, |config| config.url_previews.enabled = false).await;
        let alice = server.register("alice").await;
        for path in ["/_matrix/client/v1/media/preview_url", "/_matrix/media/v3/preview_url"] {
            let path = format!("{path}?url=https://example.org");
            alice.get(&path).await.error(404, "M_UNRECOGNIZED");
        }
    }

    async fn downloads_are_limited_per_user(backend: Backend) {
        let configure = |config: &mut Config| {
            config.rate_limits.enabled = true;
            config.rate_limits.media_downloads.burst = 1;
            config.rate_limits.media_downloads.per_second = 0.001;
        };
        let server = Server::start_with(backend, configure).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let place = upload(&alice, "image/png", b"text").await;
        assert_eq!(download(&bob, &place).await.status, 200);
        assert_eq!(download(&bob, &place).await.errcode(), "M_LIMIT_EXCEEDED");
    }
}
