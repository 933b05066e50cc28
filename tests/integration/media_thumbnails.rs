//! Thumbnails: of each format, in each shape, and never of a bomb.

use std::{fs, io::Cursor};

use futures_util::future::join_all;
use hearth::config::Config;
use image::{AnimationDecoder, DynamicImage, ImageFormat, codecs::gif::GifDecoder};
use reqwest::Method;

use crate::{
    both_databases,
    harness::{Client, Server},
    media_files::{Download, THUMBNAIL, fetch, noise, upload},
    media_pictures::{
        encode, encode_transparent, gif_bomb, halves, moving_gif, moving_png, moving_webp,
        png_bomb, transparent, turned_jpeg,
    },
};

async fn thumbnail(client: &Client, place: &str, query: &str) -> Download {
    fetch(client, Method::GET, &format!("{THUMBNAIL}{place}?{query}"), &[]).await
}

fn decode(found: &Download) -> DynamicImage {
    assert_eq!(found.status, 200, "{}", String::from_utf8_lossy(&found.bytes));
    image::load_from_memory(&found.bytes).unwrap()
}

fn count_frames(found: &Download) -> usize {
    assert_eq!(found.header("content-type"), "image/gif");
    let decoder = GifDecoder::new(Cursor::new(found.bytes.as_slice())).unwrap();
    decoder.into_frames().map(Result::unwrap).count()
}

/// Whether a pixel is rather red than blue.
fn is_red(picture: &DynamicImage, x: u32, y: u32) -> bool {
    let pixel = picture.to_rgb8().get_pixel(x, y).0;
    pixel[0] > pixel[2]
}

both_databases! {
    async fn pictures_of_each_format_become_small(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        use ImageFormat::{Gif, Jpeg, Png, WebP};
        for format in [Png, Jpeg, Gif, WebP] {
            let file = encode(&halves(1000, 500), format);
            let place = upload(&alice, format.to_mime_type(), &file).await;
            let found = thumbnail(&alice, &place, "width=320&height=240&method=scale").await;
            let picture = decode(&found);
            assert_eq!((picture.width(), picture.height()), (480, 240), "{format:?}");
            // What is drawn stays sharp.
            let (content_type, name) = match format {
                Png => ("image/png", "thumbnail.png"),
                _ => ("image/jpeg", "thumbnail.jpg"),
            };
            assert_eq!(found.header("content-type"), content_type);
            let disposition = format!("inline; filename=\"{name}\"");
            assert_eq!(found.header("content-disposition"), disposition);
            assert_eq!(found.header("x-content-type-options"), "nosniff");
            assert!(found.header("content-security-policy").starts_with("sandbox;"));
            assert!(is_red(&picture, 10, 120) && !is_red(&picture, 470, 120), "{format:?}");

            let found = thumbnail(&alice, &place, "width=96&height=96&method=crop").await;
            let picture = decode(&found);
            assert_eq!((picture.width(), picture.height()), (96, 96), "{format:?}");
            assert!(is_red(&picture, 40, 50) && !is_red(&picture, 56, 50), "{format:?}");
        }
    }

    async fn photographs_become_jpeg_whatever_they_were(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let pixels = noise(7, 400 * 300 * 3);
        let photograph = image::RgbImage::from_raw(400, 300, pixels).unwrap();
        let file = encode(&photograph, ImageFormat::Png);
        let place = upload(&alice, "image/png", &file).await;
        let found = thumbnail(&alice, &place, "width=96&height=96&method=crop").await;
        assert_eq!(found.header("content-type"), "image/jpeg");
        assert_eq!(decode(&found).width(), 96);
    }

    async fn small_pictures_stay_as_they_are(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let file = encode(&halves(200, 100), ImageFormat::Png);
        // What it is decides, not what somebody says it is.
        let place = upload(&alice, "text/html", &file).await;
        for query in [
            "width=320&height=240",
            "width=200&height=100",
            "width=100&height=200&method=crop",
            "width=4000000000&height=4000000000&animated=true",
        ] {
            let found = thumbnail(&alice, &place, query).await;
            assert!(found.bytes == file, "{query}");
            assert_eq!(found.header("content-type"), "image/png");
            assert_eq!(found.header("content-disposition"), "inline; filename=\"thumbnail.png\"");
        }
    }

    async fn transparency_is_kept(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let place = upload(&alice, "image/png", &encode_transparent(&transparent(400, 400))).await;
        let found = thumbnail(&alice, &place, "width=32&height=32&method=crop").await;
        assert_eq!(found.header("content-type"), "image/png");
        let picture = decode(&found).to_rgba8();
        assert_eq!((picture.get_pixel(16, 2).0[3], picture.get_pixel(16, 30).0[3]), (0, 255));
    }

    async fn turned_pictures_are_turned(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let place = upload(&alice, "image/jpeg", &turned_jpeg(1000, 500)).await;
        let found = thumbnail(&alice, &place, "width=320&height=240&method=scale").await;
        let picture = decode(&found);
        assert_eq!((picture.width(), picture.height()), (320, 640));
        assert!(is_red(&picture, 160, 10) && !is_red(&picture, 160, 630));
    }

    async fn animations_move_only_when_asked_for(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let files = [
            ("image/gif", moving_gif(400, 300)),
            ("image/png", moving_png(400, 300)),
            ("image/webp", moving_webp(400, 300)),
        ];
        for (content_type, file) in files {
            let place = upload(&alice, content_type, &file).await;
            let still_type = if content_type == "image/png" { content_type } else { "image/jpeg" };
            let crop = "width=96&height=96&method=crop";
            let found = thumbnail(&alice, &place, &format!("{crop}&animated=true")).await;
            assert_eq!((count_frames(&found), decode(&found).width()), (3, 96), "{content_type}");
            for query in [crop.to_owned(), format!("{crop}&animated=false")] {
                let found = thumbnail(&alice, &place, &query).await;
                assert_eq!(found.header("content-type"), still_type, "{content_type}");
                assert!(is_red(&decode(&found), 5, 5));
            }
            // Too small to be made smaller, but it must not move.
            let found = thumbnail(&alice, &place, "width=800&height=600").await;
            assert_eq!(found.header("content-type"), still_type);
            assert_eq!(decode(&found).width(), 400);
            let found = thumbnail(&alice, &place, "width=800&height=600&animated=true").await;
            assert!(found.bytes == file);
        }
    }

    async fn still_pictures_ignore_the_wish_to_move(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        for format in [ImageFormat::Gif, ImageFormat::Jpeg] {
            let place = upload(&alice, "image/gif", &encode(&halves(400, 300), format)).await;
            let query = "width=96&height=96&method=crop&animated=true";
            let found = thumbnail(&alice, &place, query).await;
            assert_eq!(found.header("content-type"), "image/jpeg");
            assert_eq!(decode(&found).width(), 96);
        }
    }

    async fn bombs_do_not_go_off(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bombs = [png_bomb(60_000, 60_000), png_bomb(u32::MAX >> 1, 1), gif_bomb()];
        for (number, bomb) in bombs.iter().enumerate() {
            let place = upload(&alice, "image/png", bomb).await;
            let found = thumbnail(&alice, &place, "width=96&height=96").await;
            assert_eq!((found.status.as_u16(), found.errcode().as_str()), (413, "M_TOO_LARGE"));
            let found = thumbnail(&alice, &place, "width=96&height=96&animated=true").await;
            assert_eq!(found.status, 413, "{number}");
        }
    }

    async fn configuration_bounds_the_pictures(backend: Backend) {
        let configure = |config: &mut Config| config.media.thumbnail_source_pixels_max = 10_000;
        let server = Server::start_with(backend, configure).await;
        let alice = server.register("alice").await;
        for (width, status) in [(100, 200), (101, 413)] {
            let file = encode(&halves(width, 100), ImageFormat::Png);
            let place = upload(&alice, "image/png", &file).await;
            let found = thumbnail(&alice, &place, "width=32&height=32&method=crop").await;
            assert_eq!(found.status, status);
        }
    }

    async fn what_is_no_picture_has_no_thumbnail(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let picture = encode(&halves(400, 300), ImageFormat::Png);
        let files = [
            Vec::new(),
            b"text".to_vec(),
            noise(1, 10_000),
            b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>".to_vec(),
            picture[..20].to_vec(),
            picture[..picture.len() / 2].to_vec(),
        ];
        for (number, file) in files.iter().enumerate() {
            let place = upload(&alice, "image/png", file).await;
            let path = format!("{THUMBNAIL}{place}?width=32&height=32&method=crop");
            let answer = alice.get(&path).await;
            assert_eq!(answer.status, 400, "{number} {answer:?}");
            answer.error(400, "M_UNKNOWN");
        }
    }

    async fn wishes_that_make_no_sense_are_refused(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let file = encode(&halves(400, 300), ImageFormat::Png);
        let place = upload(&alice, "image/png", &file).await;
        for (query, errcode) in [
            ("width=32", "M_MISSING_PARAM"),
            ("height=32", "M_MISSING_PARAM"),
            ("width=0&height=32", "M_INVALID_PARAM"),
            ("width=-1&height=32", "M_INVALID_PARAM"),
            ("width=3.5&height=32", "M_INVALID_PARAM"),
            ("width=32&height=32&method=stretch", "M_INVALID_PARAM"),
            ("width=32&height=32&animated=maybe", "M_INVALID_PARAM"),
        ] {
            alice.get(&format!("{THUMBNAIL}{place}?{query}")).await.error(400, errcode);
        }
    }

    async fn thumbnails_are_kept_and_can_be_made_again(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let file = encode(&halves(1000, 500), ImageFormat::Jpeg);
        let place = upload(&alice, "image/jpeg", &file).await;
        let query = "width=320&height=240";
        let found = join_all((0..8).map(|_| thumbnail(&alice, &place, query))).await;
        assert!(found.iter().all(|one| one.bytes == found[0].bytes && one.status == 200));
        let etag = found[0].header("etag");
        let path = format!("{THUMBNAIL}{place}?{query}");
        let again = fetch(&alice, Method::GET, &path, &[("if-none-match", etag)]).await;
        assert_eq!(again.status, 304);
        let head = fetch(&alice, Method::HEAD, &path, &[]).await;
        assert_eq!(head.header("content-length"), found[0].bytes.len().to_string());

        let shelf = backend.config().media_dir().join("thumbnails");
        let directory = fs::read_dir(&shelf).unwrap().next().unwrap().unwrap().path();
        let kept: Vec<_> = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
        assert_eq!(kept.len(), 1);
        fs::write(&kept[0], "damaged").unwrap();
        assert!(thumbnail(&alice, &place, query).await.bytes == found[0].bytes);
        fs::remove_dir_all(&shelf).unwrap();
        fs::create_dir(&shelf).unwrap();
        assert!(thumbnail(&alice, &place, query).await.bytes == found[0].bytes);
    }

    async fn without_thumbnails_clients_get_the_whole_picture(backend: Backend) {
        let configure = |config: &mut Config| config.media.thumbnails = false;
        let server = Server::start_with(backend, configure).await;
        let alice = server.register("alice").await;
        let (still, moving) = (encode(&halves(400, 300), ImageFormat::Png), moving_gif(400, 300));
        let place = upload(&alice, "image/png", &still).await;
        assert!(thumbnail(&alice, &place, "width=32&height=32").await.bytes == still);
        let place = upload(&alice, "image/gif", &moving).await;
        let found = thumbnail(&alice, &place, "width=32&height=32&animated=true").await;
        assert!(found.bytes == moving);
        assert_eq!(thumbnail(&alice, &place, "width=32&height=32").await.errcode(), "M_UNKNOWN");
    }
}
