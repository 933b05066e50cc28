//! `hearth serve`: starts everything, greets, and runs until the system says stop.

use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    runtime,
    sync::{Mutex, Notify},
};

use super::{CommandError, operator};
use crate::{
    app::{App, AppState},
    clock::Clock,
    config::{Config, LogFormat},
    http::router::build_router,
    server::{BoundAddress, OperatorSocket, Server, Signals, Systemd},
    telemetry::{self, Figures},
};

pub(super) fn run(config: Config) -> Result<(), CommandError> {
    telemetry::start_logging(&config.logging)?;
    raise_open_files_limit();
    let mut builder = runtime::Builder::new_multi_thread();
    if config.server.threads > 0 {
        builder.worker_threads(config.server.threads);
    }
    builder.enable_all().build()?.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), CommandError> {
    let signals = Signals::listen()?;
    let clock = Clock::real();
    let app = App::build(config, clock.clone()).await?;
    let mut router = build_router(app.clone());
    if app.config.metrics.enabled {
        let figures = Figures::start()?;
        router = router.merge(figures.routes()).layer(figures.requests.layer(clock.clone()));
        let app_of_figures = app.clone();
        tokio::spawn(figures.run_upkeep(move || app_of_figures.list_cache_figures()));
    }
    let server = match Server::bind(&app.config, &clock, &router) {
        Ok(server) => server,
        Err(error) => {
            app.stop().await;
            return Err(error.into());
        }
    };
    open_operator_socket(&app);
    greet(&app, &server.addresses()).await;

    let reload = Arc::new(Notify::new());
    tokio::spawn(signals.obey(app.shutdown.clone(), Arc::clone(&reload)));
    tokio::spawn(Systemd.feed_watchdog());
    tokio::spawn(announce_stop(app.clone()));
    Systemd.notify_ready();
    server.run(app.shutdown.clone(), reload).await;
    app.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Without it the server serves all the same; only `hearth user` cannot reach it.
fn open_operator_socket(app: &AppState) {
    let socket = match OperatorSocket::bind(&operator::socket_path(&app.config)) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%error, "`hearth user` will not reach this server");
            return;
        }
    };
    let (shutdown, app_of_socket) = (app.shutdown.clone(), app.clone());
    app.tasks.spawn(async move {
        let changing = Arc::new(Mutex::new(()));
        let answer =
            move |line| operator::answer_line(app_of_socket.clone(), Arc::clone(&changing), line);
        socket.serve(shutdown, answer).await;
    });
}

async fn announce_stop(app: AppState) {
    app.shutdown.cancelled().await;
    Systemd.notify_stopping();
}

/// Tells people where everything is. Machines read the log, which never holds a token.
async fn greet(app: &App, addresses: &[BoundAddress]) {
    let config = &app.config;
    let places: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    if config.logging.format == LogFormat::Json {
        tracing::info!(
            server.name = %config.server.name,
            server.addresses = places.join(" "),
            server.data_dir = %config.server.data_dir.display(),
            "ready"
        );
        return;
    }
    eprintln!("Hearth {} serves {}.", env!("CARGO_PKG_VERSION"), config.server.name);
    eprintln!("  It listens on   {}", places.join(", "));
    eprintln!("  Its data lie in {}", config.server.data_dir.display());
    if let Ok(Some(token)) = app.accounts.find_admin_token().await {
        eprintln!();
        eprintln!(
            "  It has no administrator yet. Register with this one-time token in any Matrix app, with"
        );
        eprintln!("  {} as the homeserver, and it is you:", config.public_url());
        eprintln!();
        eprintln!("      {token}");
        eprintln!();
        eprintln!("  Or make the account here: hearth user create NAME --admin");
    }
}

/// Each connection needs a file descriptor, and shells start programs with only 1,024. What the
/// administrator has set as the hard limit stays the limit.
fn raise_open_files_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
