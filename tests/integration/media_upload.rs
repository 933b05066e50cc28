//! Uploads: what arrives is what comes back, however it comes and whatever happens meanwhile.

use std::{fs, path::Path};

use bytes::Bytes;
use futures_util::{future::join_all, stream};
use hearth::config::Size;
use reqwest::{
    Body, Method,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use serde_json::json;

use crate::{
    both_databases,
    harness::{Client, Server},
    media_files::{UPLOAD, download, noise, place_of, upload},
};

const KIB: usize = 1024;

/// The files below a directory.
fn list_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(list_files(&path)),
            false => files.push(path),
        }
    }
    files
}

/// Uploads in pieces, without saying how much it is.
async fn upload_in_pieces(client: &Client, bytes: &[u8], piece: usize) -> reqwest::Response {
    let pieces: Vec<_> = bytes.chunks(piece).map(|piece| Ok::<_, String>(piece.to_vec())).collect();
    let body = Body::wrap_stream(stream::iter(pieces));
    client.request(Method::POST, UPLOAD).body(body).send().await.unwrap()
}

both_databases! {
    async fn content_comes_back_as_it_was(backend: Backend) {
        let server = Server::start(backend).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let sizes = [0, 1, 100 * KIB, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1, 3000 * KIB];
        for (seed, size) in sizes.into_iter().enumerate() {
            let bytes = noise(seed as u64, size);
            let place = upload(&alice, "application/x-thing", &bytes).await;
            let found = download(&bob, &place).await;
            assert_eq!(found.status, 200);
            assert_eq!(found.header("content-type"), "application/x-thing");
            assert_eq!(found.header("content-length"), size.to_string());
            assert!(found.bytes == bytes, "{size} bytes came back changed");
        }
        assert!(list_files(&backend.config().media_dir().join("incoming")).is_empty());
    }

    async fn nobody_uploads_more_than_the_quota(backend: Backend) {
        let server = Server::start_with(backend, |config| {
            config.media.user_quota = Some(Size::kib(100));
        })
        .await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let first = noise(1, 60 * KIB);
        let place = upload(&alice, "text/plain", &first).await;
        for size in [41 * KIB, 1000 * KIB] {
            let refused = upload_in_pieces(&alice, &noise(2, size), 10 * KIB).await;
            assert_eq!(refused.status(), 403);
            let body: serde_json::Value = refused.json().await.unwrap();
            assert_eq!(body["errcode"], "M_FORBIDDEN");
        }
        // What arrives at the same time counts together.
        let pieces: Vec<_> = (3..7).map(|seed| noise(seed, 30 * KIB)).collect();
        let uploads = pieces.iter().map(|bytes| upload_in_pieces(&alice, bytes, 1000));
        let statuses = join_all(uploads).await;
        assert_eq!(statuses.iter().filter(|answer| answer.status() == 200).count(), 1);
        upload(&bob, "text/plain", &noise(8, 100 * KIB)).await;
        assert_eq!(upload_in_pieces(&bob, b"x", 1).await.status(), 403);
        assert!(download(&alice, &place).await.bytes == first);
    }

    async fn content_in_pieces_is_the_same_content(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        for (size, piece) in [(5 * KIB, 3), (300 * KIB, 999), (2000 * KIB, 64 * KIB)] {
            let bytes = noise(size as u64, size);
            let answer = upload_in_pieces(&alice, &bytes, piece).await;
            assert_eq!(answer.status(), 200);
            let place = place_of(&answer.json().await.unwrap());
            assert!(download(&alice, &place).await.bytes == bytes);
        }
    }

    async fn content_without_a_type_is_a_stream_of_octets(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let request = alice.request(Method::POST, UPLOAD).body("text");
        let place = place_of(&alice.send(request).await.ok());
        let found = download(&alice, &place).await;
        assert_eq!(found.header("content-type"), "application/octet-stream");
        assert_eq!(found.header("content-disposition"), "attachment");
    }

    async fn content_above_the_limit_is_refused(backend: Backend) {
        let configure = |config: &mut hearth::config::Config| {
            config.media.upload_size_max = Size::kib(300);
        };
        let server = Server::start_with(backend, configure).await;
        let alice = server.register("alice").await;
        let limit = alice.get("/_matrix/client/v1/media/config").await.ok();
        assert_eq!(limit, json!({ "m.upload.size": 300 * KIB }));
        assert_eq!(alice.get("/_matrix/media/v3/config").await.ok(), limit);

        upload(&alice, "text/plain", &noise(1, 300 * KIB)).await;
        let announced = alice.request(Method::POST, UPLOAD).body(noise(2, 300 * KIB + 1));
        alice.send(announced).await.error(413, "M_TOO_LARGE");
        let answer = upload_in_pieces(&alice, &noise(3, 300 * KIB + 1), 50 * KIB).await;
        assert_eq!(answer.status(), 413);
        let body: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(body["errcode"], "M_TOO_LARGE");
        let media = backend.config().media_dir();
        assert_eq!(list_files(&media.join("content")).len(), 1);
    }

    async fn uploads_need_a_user(backend: Backend) {
        let server = Server::start(backend).await;
        let nobody = server.client();
        let request = nobody.request(Method::POST, UPLOAD).body("text");
        nobody.send(request).await.error(401, "M_MISSING_TOKEN");
        nobody.get("/_matrix/media/v3/config").await.error(401, "M_MISSING_TOKEN");
        let mut guest = server.client();
        let answer = guest.post("/_matrix/client/v3/register?kind=guest", &json!({})).await.ok();
        guest.take_login(&answer);
        let request = guest.request(Method::POST, UPLOAD).body("text");
        guest.send(request).await.error(403, "M_GUEST_ACCESS_FORBIDDEN");
        let alice = server.register("alice").await;
        let place = upload(&alice, "text/plain", b"text").await;
        assert_eq!(download(&guest, &place).await.bytes, b"text");
        assert_eq!(download(&nobody, &place).await.errcode(), "M_MISSING_TOKEN");
    }

    async fn equal_contents_share_a_file(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let (small, large) = (noise(1, 100 * KIB), noise(2, 400 * KIB));
        let uploads = (0..20).map(|number| match number % 2 {
            0 => upload(&alice, "image/png", &small),
            _ => upload(&alice, "image/png", &large),
        });
        let places = join_all(uploads).await;
        for (number, place) in places.iter().enumerate() {
            let expect = if number % 2 == 0 { &small } else { &large };
            assert!(download(&alice, place).await.bytes == *expect);
        }
        let mut unique = places.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), places.len());
        server.stop().await;
        let media = backend.config().media_dir();
        assert_eq!(list_files(&media.join("content")).len(), 2);
        assert!(list_files(&media.join("incoming")).is_empty());
    }

    async fn acknowledged_content_outlives_a_crash(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let mut places = Vec::new();
        for seed in 0..4 {
            let bytes = noise(seed, 150 * KIB * (seed as usize + 1));
            places.push((upload(&alice, "image/png", &bytes).await, bytes));
        }
        server.kill().await;
        let server = Server::start(backend).await;
        let alice = server.reconnect(&alice);
        for (place, bytes) in places {
            assert!(download(&alice, &place).await.bytes == bytes);
        }
    }

    async fn leftovers_of_a_crash_go_at_the_next_start(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bytes = noise(1, 10 * KIB);
        let place = upload(&alice, "image/png", &bytes).await;
        server.stop().await;

        let media = backend.config().media_dir();
        let (content, incoming) = (media.join("content"), media.join("incoming"));
        let kept = list_files(&content).remove(0);
        let hash = kept.file_name().unwrap().to_str().unwrap();
        // Killed after its row, killed before its row, and killed while it arrived.
        fs::hard_link(&kept, incoming.join(format!("{hash}.one"))).unwrap();
        let orphan = "ab".repeat(32);
        fs::write(content.join("ab").join(&orphan), "text").unwrap();
        fs::write(incoming.join(format!("{orphan}.two")), "text").unwrap();
        fs::write(incoming.join("three"), "te").unwrap();

        let server = Server::start(backend).await;
        assert_eq!(list_files(&content), [kept]);
        assert!(list_files(&incoming).is_empty());
        assert!(download(&server.reconnect(&alice), &place).await.bytes == bytes);
    }

    async fn upload_that_breaks_off_leaves_nothing(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        for size in [10 * KIB, 600 * KIB] {
            let pieces =
                [Ok(Bytes::from(noise(1, size))), Err(std::io::Error::other("the cable is cut"))];
            let body = Body::wrap_stream(stream::iter(pieces));
            let request = alice.request(Method::POST, UPLOAD).body(body);
            assert!(request.send().await.is_err());
        }
        // The server has noticed when it has ended.
        server.stop().await;
        let media = backend.config().media_dir();
        assert!(list_files(&media).is_empty());
    }

    async fn uploads_are_limited_per_user(backend: Backend) {
        let configure = |config: &mut hearth::config::Config| {
            config.rate_limits.enabled = true;
            config.rate_limits.media_uploads.burst = 2;
            config.rate_limits.media_uploads.per_second = 0.001;
        };
        let server = Server::start_with(backend, configure).await;
        // The first one is an administrator, who is exempt.
        let (_, bob) = (server.register("alice").await, server.register("bob").await);
        upload(&bob, "text/plain", b"one").await;
        upload(&bob, "text/plain", b"two").await;
        let request = bob.request(Method::POST, UPLOAD).body("three");
        let answer = bob.send(request).await;
        assert!(answer.headers.contains_key("retry-after"));
        answer.error(429, "M_LIMIT_EXCEEDED");
    }

    async fn odd_heads_are_answered_clearly(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let long = format!("{UPLOAD}?filename={}", "a".repeat(1025));
        alice.send(alice.request(Method::POST, &long).body("")).await.error(400, "M_INVALID_PARAM");
        let nul = format!("{UPLOAD}?filename=a%00b");
        alice.send(alice.request(Method::POST, &nul).body("")).await.error(400, "M_INVALID_PARAM");
        let request = alice.request(Method::POST, UPLOAD).header(CONTENT_TYPE, "a".repeat(300));
        let place = place_of(&alice.send(request.body("text")).await.ok());
        let found = download(&alice, &place).await;
        assert_eq!(found.header("content-type"), "application/octet-stream");
        let request = alice.request(Method::POST, UPLOAD).header(CONTENT_LENGTH, "0");
        assert!(download(&alice, &place_of(&alice.send(request).await.ok())).await.bytes.is_empty());
    }
}
