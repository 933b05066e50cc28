//! Clients that are slow, silent, greedy or talk nonsense: they lose their connection, and nobody else does.

use std::time::Duration;

use hearth::config::{Config, Size};
use tokio::io::AsyncWriteExt;

use super::server_running::{Running, ask, read_to_close, within};

/// Timeouts short enough to wait for.
fn impatient(config: &mut Config) {
    config.limits.request_head_timeout = Duration::from_millis(300);
    config.limits.request_body_timeout = Duration::from_millis(300);
    config.limits.idle_timeout = Duration::from_millis(600);
}

async fn is_alive(server: &Running) -> bool {
    let mut stream = server.connect().await;
    ask(&mut stream, "/_matrix/client/hello").await.ends_with("hello")
}

#[tokio::test]
async fn head_that_arrives_byte_by_byte_is_cut_off() {
    let server = Running::start(|config| {
        impatient(config);
        config.limits.idle_timeout = Duration::from_secs(600);
    })
    .await;
    let (mut reader, mut writer) = server.connect().await.into_split();
    let trickle = tokio::spawn(async move {
        for byte in
            b"GET /_matrix/client/hello HTTP/1.1\r\nx-a: ".iter().chain([b'a'; 10_000].iter())
        {
            if writer.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert_eq!(read_to_close(&mut reader).await, "");
    trickle.abort();
    assert!(is_alive(&server).await);
    server.stop().await;
}

#[tokio::test]
async fn second_head_on_a_connection_is_cut_off_as_well() {
    let server = Running::start(|config| {
        impatient(config);
        config.limits.idle_timeout = Duration::from_secs(600);
    })
    .await;
    let mut stream = server.connect().await;
    let request = b"GET /_matrix/client/hello HTTP/1.1\r\nhost: h\r\n\r\n";
    stream.write_all(request).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    stream.write_all(b"GET /_matrix/cl").await.unwrap();
    let answer = read_to_close(&mut stream).await;
    assert!(answer.ends_with("hello"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn silent_connection_is_closed_and_a_waiting_one_is_not() {
    let server = Running::start(impatient).await;
    let mut silent = server.connect().await;
    let mut waiting = server.connect().await;
    waiting
        .write_all(b"GET /_matrix/client/wait HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(read_to_close(&mut silent).await, "");
    tokio::time::sleep(Duration::from_millis(700)).await;
    server.shutdown.cancel();
    assert!(read_to_close(&mut waiting).await.ends_with("the long poll ended"));
    server.stop().await;
}

#[tokio::test]
async fn body_that_pauses_is_refused() {
    let server = Running::start(impatient).await;
    let mut stream = server.connect().await;
    stream
        .write_all(
            b"POST /_matrix/client/upload HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\nabc",
        )
        .await
        .unwrap();
    let answer = read_to_close(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn client_that_does_not_take_its_answer_is_cut_off() {
    let server = Running::start(impatient).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /_matrix/client/large HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let received = read_to_close(&mut stream).await;
    assert!(received.len() < 64 << 20, "{} bytes", received.len());
    server.stop().await;
}

#[tokio::test]
async fn client_that_takes_its_answer_slowly_gets_all_of_it() {
    use tokio::io::AsyncReadExt;
    let server = Running::start(impatient).await;
    let mut stream = server.connect().await;
    let request = b"GET /_matrix/client/large HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut buffer = vec![0; 8 << 20];
    let mut received = 0;
    loop {
        let count = within(stream.read(&mut buffer)).await.unwrap();
        received += count;
        if count == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(received > 64 << 20, "{received} bytes");
    server.stop().await;
}

#[tokio::test]
async fn huge_head_is_refused() {
    let server = Running::start(|config| {
        config.limits.request_head_size_max = Size::kib(16);
    })
    .await;
    let mut stream = server.connect().await;
    let head = format!("GET /_matrix/client/hello HTTP/1.1\r\nx-a: {}\r\n\r\n", "a".repeat(20_000));
    let _ = stream.write_all(head.as_bytes()).await;
    let answer = read_to_close(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let mut stream = server.connect().await;
    let many = (0..1000).map(|i| format!("x-{i}: 1\r\n")).collect::<String>();
    let head = format!("GET /_matrix/client/hello HTTP/1.1\r\n{many}\r\n");
    let _ = stream.write_all(head.as_bytes()).await;
    let answer = read_to_close(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert!(is_alive(&server).await);
    server.stop().await;
}

#[tokio::test]
async fn garbage_harms_nobody() {
    let server = Running::start(impatient).await;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..100 {
        let garbage: Vec<u8> = (0..round * 7 + 1)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            })
            .collect();
        let mut stream = server.connect().await;
        let _ = stream.write_all(&garbage).await;
        let _ = stream.write_all(b"\r\n\r\n").await;
        drop(stream);
    }
    for start in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..],
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\n\r\n",
        b"POST /_matrix/client/upload HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /_matrix/client/upload HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    ] {
        let mut stream = server.connect().await;
        stream.write_all(start).await.unwrap();
        let answer = read_to_close(&mut stream).await;
        assert!(!answer.contains("HTTP/1.1 5"), "{answer}");
    }
    assert!(is_alive(&server).await);
    server.stop().await;
}

#[tokio::test]
async fn connections_above_the_limit_wait_for_their_turn() {
    let server = Running::start(|config| config.limits.connections_max = 2).await;
    let first = server.connect().await;
    let second = server.connect().await;
    let mut third = server.connect().await;
    let answer = tokio::spawn(async move { ask(&mut third, "/_matrix/client/hello").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!answer.is_finished());
    drop((first, second));
    assert!(within(answer).await.unwrap().ends_with("hello"));
    server.stop().await;
}

#[tokio::test]
async fn fault_in_one_request_leaves_its_connection_alive() {
    let server = Running::start(|_| ()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /_matrix/client/panic HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let answers = ask(&mut stream, "/_matrix/client/hello").await;
    assert!(answers.starts_with("HTTP/1.1 500"), "{answers}");
    assert!(answers.contains("M_UNKNOWN") && answers.ends_with("hello"), "{answers}");
    server.stop().await;
}
