//! A stop that loses nothing: long polls end at once, writes finish, and the wait is bounded.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::server_running::{Running, read_to_close, within};

#[tokio::test]
async fn long_polls_end_at_once_and_writes_finish() {
    let server = Running::start(|_| ()).await;
    let mut polls = Vec::new();
    for path in ["wait", "wait", "wait", "slow"] {
        let mut stream = server.connect().await;
        let head = format!("GET /_matrix/client/{path} HTTP/1.1\r\nhost: h\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        polls.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let address = server.tcp(0);
    server.stop().await;
    for (mut stream, expected) in
        polls.into_iter().zip(["poll ended", "poll ended", "poll ended", "write finished"])
    {
        let answer = read_to_close(&mut stream).await;
        assert!(answer.ends_with(expected), "{answer}");
    }
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn long_polls_of_http2_end_at_once() {
    let server = Running::start(|_| ()).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let poll = tokio::spawn(client.get(server.url("/_matrix/client/wait")).send());
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.stop().await;
    let answer = within(poll).await.unwrap().unwrap();
    assert_eq!(answer.text().await.unwrap(), "the long poll ended");
}

#[tokio::test]
async fn request_that_does_not_finish_is_cut_off_after_the_timeout() {
    let server = Running::start(|config| {
        config.server.shutdown_timeout = Duration::from_millis(200);
    })
    .await;
    let mut stream = server.connect().await;
    stream
        .write_all(
            b"POST /_matrix/client/upload HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nabc",
        )
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.stop().await;
    assert_eq!(read_to_close(&mut stream).await, "");
}
