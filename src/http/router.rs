//! All routes on one page, grouped by the file that answers them. Layers that concern every
//! request (CORS, figures, logs) are put around it by `server`.

use axum::{
    Router,
    routing::{MethodRouter, get, post, put},
};

use super::{
    client::{media, sync, versions},
    error::MatrixError,
    health,
    state::AppState,
    well_known,
};

/// Everything this server answers.
pub fn build_router(app: AppState) -> Router {
    let routes = Routes::default()
        // media/mod.rs
        .plain("/_matrix/client/v1/media/config", get(media::get_config))
        .media("/config", get(media::get_config))
        // media/upload.rs
        .media("/upload", post(media::upload::upload))
        .plain("/_matrix/media/v1/create", post(media::upload::create))
        .plain(
            "/_matrix/media/v3/upload/{server_name}/{media_id}",
            put(media::upload::upload_reserved),
        )
        // media/download.rs
        .plain(
            "/_matrix/client/v1/media/download/{server_name}/{media_id}",
            get(media::download::get_content),
        )
        .plain(
            "/_matrix/client/v1/media/download/{server_name}/{media_id}/{filename}",
            get(media::download::get_named_content),
        )
        .media("/download/{server_name}/{media_id}", get(media::download::get_open_content))
        .media(
            "/download/{server_name}/{media_id}/{filename}",
            get(media::download::get_open_named_content),
        )
        // media/thumbnail.rs
        .plain(
            "/_matrix/client/v1/media/thumbnail/{server_name}/{media_id}",
            get(media::thumbnail::get_thumbnail),
        )
        .media("/thumbnail/{server_name}/{media_id}", get(media::thumbnail::get_open_thumbnail))
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

    /// An older path of the content repository, under `/_matrix/media/v3`, `/r0` and `/v1`.
    fn media(self, path: &str, handlers: MethodRouter<AppState>) -> Self {
        ["v3", "r0", "v1"].into_iter().fold(self, |routes, version| {
            routes.plain(&format!("/_matrix/media/{version}{path}"), handlers.clone())
        })
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
