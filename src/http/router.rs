//! All routes on one page, grouped by the file that answers them. Layers that concern every
//! request (CORS, figures, logs) are put around it by `server`.

use axum::{
    Router,
    routing::{MethodRouter, get},
};

use super::{
    client::{sync, versions},
    error::MatrixError,
    health,
    state::AppState,
    well_known,
};

/// Everything this server answers.
pub fn build_router(app: AppState) -> Router {
    let routes = Routes::default()
        // sync.rs
        .client("/sync", get(sync::get_sync))
        // versions.rs
        .plain("/_matrix/client/versions", get(versions::get_versions))
        // well_known.rs
        .plain("/.well-known/matrix/client", get(well_known::get_client))
        .plain("/.well-known/matrix/server", get(well_known::get_server))
        .plain("/.well-known/matrix/support", get(well_known::get_support))
        // health.rs
        .plain("/health", get(health::get_health));
    routes.finish(app)
}

/// Collects routes. `client` ones exist under `/r0` too, which older clients and bridges use.
#[derive(Default)]
struct Routes(Router<AppState>);

#[expect(dead_code, reason = "the groups of routes arrive one after the other")]
impl Routes {
    /// A path as it stands.
    fn plain(self, path: &str, handlers: MethodRouter<AppState>) -> Self {
        Self(self.0.route(path, handlers))
    }

    /// A path of the Client-Server API, under `/_matrix/client/v3` and `/r0`.
    fn client(self, path: &str, handlers: MethodRouter<AppState>) -> Self {
        let v3 = format!("/_matrix/client/v3{path}");
        let r0 = format!("/_matrix/client/r0{path}");
        Self(self.0.route(&v3, handlers.clone()).route(&r0, handlers))
    }

    fn finish(self, app: AppState) -> Router {
        self.0
            .fallback(refuse_unknown_endpoint)
            .method_not_allowed_fallback(refuse_method)
            .with_state(app)
    }
}

async fn refuse_unknown_endpoint() -> MatrixError {
    MatrixError::unrecognized("This server has no such endpoint.")
}

async fn refuse_method() -> MatrixError {
    MatrixError::method_not_allowed("This endpoint exists, but not for this method.")
}
