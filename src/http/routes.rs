//! Collects routes under the prefixes and versions that each API has them under. The routes
//! themselves stand in `router`.

use axum::{Router, routing::MethodRouter};

use super::{error::MatrixError, state::AppState};

/// Collects routes. `client` ones exist under `/r0` too, which older clients and bridges use.
#[derive(Default)]
pub(super) struct Routes(Router<AppState>);

impl Routes {
    /// A path as it stands.
    pub(super) fn plain(self, path: &str, handlers: MethodRouter<AppState>) -> Self {
        Self(self.0.route(path, handlers))
    }

    /// A path of the Client-Server API, under `/_matrix/client/v3` and `/r0`.
    pub(super) fn client(self, path: &str, handlers: MethodRouter<AppState>) -> Self {
        let v3 = format!("/_matrix/client/v3{path}");
        let r0 = format!("/_matrix/client/r0{path}");
        Self(self.0.route(&v3, handlers.clone()).route(&r0, handlers))
    }

    /// A newer path of the Client-Server API, under `/_matrix/client/v1`.
    pub(super) fn v1(self, path: &str, handlers: MethodRouter<AppState>) -> Self {
        self.plain(&format!("/_matrix/client/v1{path}"), handlers)
    }

    /// An older path of the content repository, under `/_matrix/media/v3`, `/r0` and `/v1`.
    pub(super) fn media(self, path: &str, handlers: MethodRouter<AppState>) -> Self {
        ["v3", "r0", "v1"].into_iter().fold(self, |routes, version| {
            routes.plain(&format!("/_matrix/media/{version}{path}"), handlers.clone())
        })
    }

    /// A path of the Server-Server API.
    pub(super) fn federation(
        self,
        version: &str,
        path: &str,
        handlers: MethodRouter<AppState>,
    ) -> Self {
        self.plain(&format!("/_matrix/federation/{version}{path}"), handlers)
    }

    pub(super) fn finish(self, app: AppState) -> Router {
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
