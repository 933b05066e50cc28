//! TLS: both versions of HTTP, certificates that change while the server runs, and files that are wrong.

use std::{fs, path::Path, sync::Arc};

use hearth::{
    clock::Clock,
    config::{Config, TlsFiles},
    server::{Server, StartServerError},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::server_running::{PATIENCE, Running, ask};

/// Writes a new certificate for `localhost` and its key.
fn write_certificate(directory: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

fn use_tls(config: &mut Config, directory: &Path) {
    config.listen[0].tls = TlsFiles {
        certificate: Some(directory.join("cert.pem")),
        key: Some(directory.join("key.pem")),
    };
}

/// A handshake with a client that trusts only this certificate.
async fn connect(
    server: &Running,
    certificate: &CertificateDer<'static>,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, server.connect().await).await
}

#[tokio::test]
async fn tls_listener_speaks_http1_and_offers_http2() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = write_certificate(directory.path());
    let server = Running::start(|config| use_tls(config, directory.path())).await;
    let mut stream = connect(&server, &certificate, &["http/1.1"]).await.unwrap();
    assert!(ask(&mut stream, "/_matrix/client/hello").await.ends_with("hello"));
    let stream = connect(&server, &certificate, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    drop(stream);
    // Someone who speaks no TLS here gets nothing, and disturbs nobody.
    let mut plain = server.connect().await;
    assert!(!ask(&mut plain, "/_matrix/client/hello").await.contains("hello"));
    server.stop().await;
}

#[tokio::test]
async fn renewed_certificate_is_used_without_a_restart_and_open_connections_stay() {
    let directory = tempfile::tempdir().unwrap();
    let old = write_certificate(directory.path());
    let server = Running::start(|config| use_tls(config, directory.path())).await;
    let mut open = connect(&server, &old, &[]).await.unwrap();

    let new = write_certificate(directory.path());
    // A SIGHUP; without it the files are looked at every few seconds.
    server.reload.notify_one();
    let asked = std::time::Duration::from_millis(20);
    let renewed = async {
        while connect(&server, &new, &[]).await.is_err() {
            tokio::time::sleep(asked).await;
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.unwrap();
    assert!(connect(&server, &old, &[]).await.is_err());
    assert!(ask(&mut open, "/_matrix/client/hello").await.ends_with("hello"));

    // A broken file leaves the certificate in place.
    fs::write(directory.path().join("key.pem"), "nonsense").unwrap();
    server.reload.notify_one();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(connect(&server, &new, &[]).await.is_ok());
    server.stop().await;
}

#[tokio::test]
async fn changed_files_are_noticed_without_a_signal() {
    let directory = tempfile::tempdir().unwrap();
    write_certificate(directory.path());
    let server = Running::start(|config| use_tls(config, directory.path())).await;
    let new = write_certificate(directory.path());
    let renewed = async {
        while connect(&server, &new, &[]).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn wrong_tls_files_are_named_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    write_certificate(directory.path());
    let other = tempfile::tempdir().unwrap();
    write_certificate(other.path());
    let start = |key: &Path| {
        let mut config = Config::default();
        config.listen[0].address = "127.0.0.1:0".parse().unwrap();
        use_tls(&mut config, directory.path());
        config.listen[0].tls.key = Some(key.to_owned());
        match Server::bind(&config, &Clock::real(), &axum::Router::new()) {
            Err(StartServerError::Certificate(error)) => error.to_string(),
            _ => panic!("the server started"),
        }
    };
    assert!(start(Path::new("/nowhere/key.pem")).contains("/nowhere/key.pem cannot be read"));
    assert!(start(&directory.path().join("cert.pem")).contains("holds no private key"));
    assert!(start(&other.path().join("key.pem")).contains("do not work together"));
}
