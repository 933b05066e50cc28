//! Asynchronous uploads: a media ID first, its content later.

use std::time::Duration;

use hearth::clock::Clock;
use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::json;

use crate::{
    both_databases,
    harness::{Answer, Client, Server},
    media_files::{DOWNLOAD, UPLOAD, download, fetch, noise, place_of, upload},
};

const CREATE: &str = "/_matrix/media/v1/create";
/// The start of the scripted clocks, in milliseconds since the Unix epoch.
const START_MS: u64 = 1_700_000_000_000;

async fn create(client: &Client) -> String {
    place_of(&client.post(CREATE, &json!({})).await.ok())
}

async fn put(client: &Client, place: &str, bytes: &[u8]) -> Answer {
    let request = client.request(Method::PUT, &format!("{UPLOAD}{place}?filename=a.txt"));
    client.send(request.header(CONTENT_TYPE, "text/plain").body(bytes.to_vec())).await
}

/// Downloads with a patience of so many milliseconds.
async fn wait(client: &Client, place: &str, timeout_ms: u64) -> (u16, String) {
    let path = format!("{DOWNLOAD}{place}?timeout_ms={timeout_ms}");
    let found = fetch(client, Method::GET, &path, &[]).await;
    let text = match found.status.as_u16() {
        200 => String::from_utf8(found.bytes).unwrap(),
        _ => found.errcode(),
    };
    (found.status.as_u16(), text)
}

both_databases! {
    async fn announced_content_is_uploaded_once(backend: Backend) {
        let server = Server::start(backend).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let place = create(&alice).await;
        assert_eq!(wait(&bob, &place, 0).await, (504, "M_NOT_YET_UPLOADED".to_owned()));
        put(&bob, &place, b"mine").await.error(403, "M_FORBIDDEN");
        assert_eq!(put(&alice, &place, b"text").await.ok(), json!({}));
        assert_eq!(wait(&bob, &place, 0).await, (200, "text".to_owned()));
        let found = download(&bob, &place).await;
        assert_eq!(found.header("content-disposition"), "inline; filename=\"a.txt\"");
        put(&alice, &place, b"other").await.error(409, "M_CANNOT_OVERWRITE_MEDIA");
        put(&bob, &place, b"other").await.error(403, "M_FORBIDDEN");
        assert_eq!(wait(&bob, &place, 0).await, (200, "text".to_owned()));
    }

    async fn download_waits_for_the_upload(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let place = create(&alice).await;
        let waiting = async { tokio::join!(
            wait(&alice, &place, 20_000),
            wait(&alice, &place, 20_000),
        ) };
        let uploading = async {
            // The server knows of both when this later request is answered.
            assert_eq!(wait(&alice, &place, 50).await.0, 504);
            put(&alice, &place, b"text").await.ok();
        };
        let ((one, two), ()) = tokio::join!(waiting, uploading);
        assert_eq!(one, (200, "text".to_owned()));
        assert_eq!(two, one);
    }

    async fn configuration_bounds_how_long_a_download_waits(backend: Backend) {
        let configure = |config: &mut hearth::config::Config| {
            config.media.download_wait_max = Duration::from_millis(1);
        };
        let server = Server::start_with(backend, configure).await;
        let alice = server.register("alice").await;
        let place = create(&alice).await;
        assert_eq!(wait(&alice, &place, 1_000_000_000).await.0, 504);
        assert_eq!(download(&alice, &place).await.errcode(), "M_NOT_YET_UPLOADED");
    }

    async fn stopping_server_ends_the_wait(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let place = create(&alice).await;
        let (app, waiter) = (server.app.clone(), alice.clone());
        let (answer, ()) = tokio::join!(wait(&waiter, &place, 60_000), async {
            assert_eq!(wait(&alice, &place, 50).await.0, 504);
            app.shutdown.cancel();
        });
        assert_eq!(answer.0, 504);
    }

    async fn unknown_media_ids_take_no_content(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        put(&alice, "/hearth.test/abc", b"text").await.error(404, "M_NOT_FOUND");
        put(&alice, "/other.test/abc", b"text").await.error(404, "M_NOT_FOUND");
        put(&alice, "/hearth.test/a.c", b"text").await.error(400, "M_INVALID_PARAM");
        assert_eq!(wait(&alice, "/hearth.test/abc", 20_000).await, (404, "M_NOT_FOUND".to_owned()));
        let place = upload(&alice, "text/plain", b"text").await;
        put(&alice, &place, b"other").await.error(409, "M_CANNOT_OVERWRITE_MEDIA");
    }

    async fn announced_content_expires(backend: Backend) {
        let clock = Clock::scripted(START_MS, 1);
        let configure = |config: &mut hearth::config::Config| {
            config.media.pending_upload_lifetime = Duration::from_secs(60);
            config.media.pending_uploads_max = 1;
        };
        let server = Server::start_at(backend, clock.clone(), configure).await;
        let alice = server.register("alice").await;
        let answer = alice.post(CREATE, &json!({})).await.ok();
        assert_eq!(answer["unused_expires_at"], START_MS + 60_000);
        let place = place_of(&answer);
        clock.advance_ms(60_000);
        put(&alice, &place, b"text").await.error(404, "M_NOT_FOUND");
        assert_eq!(wait(&alice, &place, 20_000).await, (404, "M_NOT_FOUND".to_owned()));
        // It no longer counts.
        create(&alice).await;
    }

    async fn pending_uploads_are_limited_per_user(backend: Backend) {
        let clock = Clock::scripted(START_MS, 1);
        let configure = |config: &mut hearth::config::Config| {
            config.media.pending_uploads_max = 2;
            config.media.pending_upload_lifetime = Duration::from_secs(60);
        };
        let server = Server::start_at(backend, clock.clone(), configure).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let first = create(&alice).await;
        clock.advance_ms(10_000);
        create(&alice).await;
        let refused = alice.post(CREATE, &json!({})).await.error(429, "M_LIMIT_EXCEEDED");
        assert_eq!(refused["retry_after_ms"], 50_000);
        create(&bob).await;
        put(&alice, &first, b"text").await.ok();
        create(&alice).await;
    }

    async fn two_uploads_to_one_media_id_do_not_mix(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let place = create(&alice).await;
        let (one, two) = (noise(1, 700 * 1024), noise(2, 700 * 1024));
        let (first, second) = tokio::join!(put(&alice, &place, &one), put(&alice, &place, &two));
        let mut statuses = [first.status.as_u16(), second.status.as_u16()];
        let expect = if first.status == 200 { one } else { two };
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409]);
        assert!(download(&alice, &place).await.bytes == expect);
    }
}
