//! The program itself, killed and started again on the same data. `HEARTH_BINARY` names another one than
//! that of this build, such as one that was built for speed.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

/// No start takes this long, not even one that recovers.
const START_PATIENCE: Duration = Duration::from_secs(60);

const APIS: &str = "[\"client\", \"metrics\"]";
/// The folder with registrations of application services.
const SERVICES: &str = "services";

/// A server as a process.
pub struct Process {
    child: Child,
    directory: TempDir,
    database: Option<String>,
    port: u16,
    http: Client,
}

/// An answer, or that the server died before it gave one.
pub type Answer = Result<(StatusCode, Value), reqwest::Error>;

impl Process {
    /// Starts the server, on a schema of its own where `database` is a PostgreSQL.
    pub async fn start(database: Option<String>) -> Self {
        Self::start_with_services(database, &[]).await
    }

    /// Starts the server with these registrations of application services.
    pub async fn start_with_services(database: Option<String>, services: &[Value]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join(SERVICES);
        std::fs::create_dir(&folder).unwrap();
        for (number, registration) in services.iter().enumerate() {
            std::fs::write(folder.join(format!("{number}.yaml")), registration.to_string())
                .unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let database = match database {
            Some(url) => Some(make_schema(&url).await),
            None => None,
        };
        let child = spawn(&directory, database.as_deref(), port);
        let server = Self { child, directory, database, port, http: Client::new() };
        server.wait_until_ready().await;
        server
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the server again on what it left.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.directory, self.database.as_deref(), self.port);
        // Connections of the dead server are of no use.
        self.http = Client::new();
        self.wait_until_ready().await;
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A request to a living server; anything but 200 is a failure of the test.
    pub async fn call(&self, method: Method, path: &str, token: &str, body: Value) -> Value {
        let (status, answer) = self.try_call(method, path, token, body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// A request to a living server.
    pub async fn try_call(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        request(&self.http, &self.url(), method, path, token, &body).await.unwrap()
    }

    /// Registers a user; returns the access token.
    pub async fn register(&self, name: &str) -> String {
        let body = json!({
            "username": name, "password": "correct horse", "device_id": "PHONE",
            "auth": { "type": "m.login.dummy" },
        });
        let answer = self.call(Method::POST, "/_matrix/client/v3/register", "", body).await;
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// The figures for Prometheus.
    pub async fn figures(&self) -> String {
        let answer = self.http.get(format!("{}/metrics", self.url())).send().await.unwrap();
        answer.text().await.unwrap()
    }

    async fn wait_until_ready(&self) {
        let ready = async {
            while self.http.get(format!("{}/health", self.url())).send().await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(START_PATIENCE, ready).await.unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is dead already where a restart failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request that may find the server dying.
pub async fn request(
    http: &Client,
    url: &str,
    method: Method,
    path: &str,
    token: &str,
    body: &Value,
) -> Answer {
    let mut request = http.request(method.clone(), format!("{url}{path}")).bearer_auth(token);
    if method != Method::GET {
        request = request.json(body);
    }
    let answer = request.send().await?;
    Ok((answer.status(), answer.json().await?))
}

fn spawn(directory: &TempDir, database: Option<&str>, port: u16) -> Child {
    let given = std::env::var_os("HEARTH_BINARY");
    let mut command = Command::new(given.unwrap_or_else(|| env!("CARGO_BIN_EXE_hearth").into()));
    command
        .env_clear()
        .current_dir(directory.path())
        .env("HEARTH_LISTEN", format!("[{{address = \"127.0.0.1:{port}\", apis = {APIS}}}]"))
        .env("HEARTH_REGISTRATION__MODE", "open")
        .env("HEARTH_RATE_LIMITS__ENABLED", "false")
        .env("HEARTH_LOGGING__LEVEL", "warn")
        .env("HEARTH_APPSERVICES__REGISTRATIONS", format!("[\"{SERVICES}/*.yaml\"]"))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if let Some(url) = database {
        command.env("HEARTH_DATABASE__URL", url);
    }
    command.spawn().unwrap()
}

async fn make_schema(url: &str) -> String {
    static SCHEMAS: AtomicUsize = AtomicUsize::new(0);
    let number = SCHEMAS.fetch_add(1, Ordering::Relaxed);
    let name = format!("crash_{}_{number}", std::process::id());
    let mut connection = PgConnection::connect(url).await.unwrap();
    let sql = format!("DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}options[search_path]={name}")
}
