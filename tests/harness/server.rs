//! A server in a runtime of its own, so that it can be stopped, or killed with all its tasks.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hearth::{
    app::{App, AppState},
    clock::Clock,
    config::Config,
    http::router::build_router,
    server::BoundAddress,
};
use serde_json::json;
use tokio::{runtime::Runtime, task::JoinHandle};

use super::{Backend, Client};

/// How long a killed server's threads may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

/// A running server. Dropping it kills it without waiting; [`Server::stop`] and
/// [`Server::kill`] wait until its data are free.
pub struct Server {
    pub app: AppState,
    pub url: String,
    http: reqwest::Client,
    serving: JoinHandle<()>,
    runtime: Option<Runtime>,
}

impl Server {
    /// Starts a server with the usual configuration.
    pub async fn start(backend: &Backend) -> Self {
        Self::start_with(backend, |_| ()).await
    }

    /// Starts a server with a configuration of its own.
    pub async fn start_with(backend: &Backend, configure: impl FnOnce(&mut Config)) -> Self {
        Self::start_at(backend, Clock::real(), configure).await
    }

    /// Starts a server with a clock that the test moves.
    pub async fn start_at(
        backend: &Backend,
        clock: Clock,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = backend.config();
        configure(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let started = runtime.spawn(start(config, clock));
        let (app, address, serving) = started.await.unwrap();
        Self {
            app,
            url: format!("http://{address}"),
            http: reqwest::Client::new(),
            serving,
            runtime: Some(runtime),
        }
    }

    /// Asks the server to stop, as SIGTERM does, and waits for it.
    pub async fn stop(mut self) {
        let app = self.app.clone();
        app.shutdown.cancel();
        (&mut self.serving).await.unwrap();
        let runtime = self.runtime.take().unwrap();
        runtime.spawn(async move { app.stop().await }).await.unwrap();
        end(self, runtime).await;
    }

    /// Ends the server's tasks wherever they are, and waits until they are gone.
    pub async fn kill(mut self) {
        let runtime = self.runtime.take().unwrap();
        end(self, runtime).await;
    }

    /// A client that is nobody.
    pub fn client(&self) -> Client {
        Client::new(self.http.clone(), self.url.clone())
    }

    /// Registers a user with the password `password of {name}` and logs in.
    pub async fn register(&self, name: &str) -> Client {
        let body = json!({
            "username": name,
            "password": format!("password of {name}"),
            "auth": { "type": "m.login.dummy" },
        });
        let mut client = self.client();
        let answer = client.post("/_matrix/client/v3/register", &body).await.ok();
        client.take_login(&answer);
        client
    }

    /// Logs a user of [`Server::register`] in again, on a new device.
    pub async fn login(&self, name: &str) -> Client {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": name },
            "password": format!("password of {name}"),
        });
        let mut client = self.client();
        let answer = client.post("/_matrix/client/v3/login", &body).await.ok();
        client.take_login(&answer);
        client
    }

    /// The same login after a restart, which changed the port.
    pub fn reconnect(&self, client: &Client) -> Client {
        Client { url: self.url.clone(), http: self.http.clone(), ..client.clone() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn start(config: Config, clock: Clock) -> (AppState, SocketAddr, JoinHandle<()>) {
    let app = App::build(config, clock.clone()).await.unwrap();
    let router = build_router(app.clone());
    let doors = hearth::server::Server::bind(&app.config, &clock, &router).unwrap();
    let BoundAddress::Tcp { address, .. } = doors.addresses()[0] else { panic!("a Unix socket") };
    let serving = tokio::spawn(doors.run(app.shutdown.clone(), Arc::default()));
    (app, address, serving)
}

async fn end(server: Server, runtime: Runtime) {
    drop(server);
    tokio::task::spawn_blocking(move || runtime.shutdown_timeout(KILL_TIMEOUT)).await.unwrap();
}
