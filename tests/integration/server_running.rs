//! A running `server::Server` around routes of the test's own, without a database behind them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Bytes,
    routing::{get, post},
};
use hearth::{
    clock::Clock,
    config::Config,
    http::auth::ClientAddress,
    server::{BoundAddress, Server},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Running {
    pub addresses: Vec<BoundAddress>,
    pub shutdown: CancellationToken,
    pub reload: Arc<Notify>,
    pub serving: JoinHandle<()>,
}

impl Running {
    /// Starts a server with the default configuration, on a port that is free.
    pub async fn start(configure: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.listen[0].address = "127.0.0.1:0".parse().unwrap();
        configure(&mut config);
        let shutdown = CancellationToken::new();
        let router = routes(shutdown.clone());
        let server = Server::bind(&config, &Clock::real(), &router).unwrap();
        let reload = Arc::new(Notify::new());
        Self {
            addresses: server.addresses(),
            serving: tokio::spawn(server.run(shutdown.clone(), reload.clone())),
            shutdown,
            reload,
        }
    }

    pub fn tcp(&self, door: usize) -> SocketAddr {
        match self.addresses[door] {
            BoundAddress::Tcp { address, .. } => address,
            BoundAddress::Unix { .. } => panic!("a Unix socket"),
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.tcp(0))
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.tcp(0)).await.unwrap()
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        within(self.serving).await.unwrap();
    }
}

/// Fails a test that waits for something that does not happen.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this happens in time")
}

/// Everything the other side sends until it closes; a reset closes too.
pub async fn read_to_close(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut bytes = Vec::new();
    let _ = within(stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Asks once and has the connection closed.
pub async fn ask(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), path: &str) -> String {
    ask_with(stream, path, "").await
}

/// Like [`ask`], with further header lines.
pub async fn ask_with(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    path: &str,
    headers: &str,
) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    read_to_close(stream).await
}

fn routes(shutdown: CancellationToken) -> Router {
    let wait = async move || {
        shutdown.cancelled().await;
        "the long poll ended"
    };
    let slow_write = async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        "the write finished"
    };
    let address = async |Extension(ClientAddress(address)): Extension<ClientAddress>| {
        address.map_or("none".to_owned(), |address| address.to_string())
    };
    let upload = async |body: Result<Bytes, _>| match body {
        Ok(bytes) => Ok(format!("{} bytes", bytes.len())),
        Err::<_, axum::extract::rejection::BytesRejection>(error) => Err(error),
    };
    Router::new()
        .route("/_matrix/client/hello", get("hello"))
        .route("/_matrix/client/wait", get(wait))
        .route("/_matrix/client/slow", get(slow_write))
        .route("/_matrix/client/address", get(address))
        .route("/_matrix/client/upload", post(upload))
        .route("/_matrix/client/panic", get(async || -> String { panic!("on purpose") }))
        .route("/_matrix/client/large", get(async || vec![b'x'; 64 << 20]))
        .route("/_matrix/federation/v1/version", get("federation"))
        .route("/metrics", get("figures"))
        .route("/health", get("ok"))
}
