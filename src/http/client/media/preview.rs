//! `GET /_matrix/client/v1/media/preview_url` and its older path.

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;

use crate::{
    http::{
        auth::UserSession,
        client::register::capitalize,
        error::{MatrixError, MatrixResult},
        json::{Query, RawJson},
        rate_limit::Action,
        state::AppState,
    },
    media::previews::PreviewError,
};

/// `ts`, the preferred point in time, is not looked at: "The server may return a newer version if it
/// does not have the requested version available."
#[derive(Debug, Deserialize)]
pub struct PreviewQuery {
    url: String,
}

/// What a web page says about itself.
pub async fn get_preview(
    State(app): State<AppState>,
    session: UserSession,
    Query(query): Query<PreviewQuery>,
) -> MatrixResult<RawJson> {
    app.rate_limits.take(Action::UrlPreview, &session, app.clock.now_ms())?;
    Ok(RawJson(app.url_previews.find(&query.url).await?.into()))
}

impl From<PreviewError> for MatrixError {
    fn from(error: PreviewError) -> Self {
        let message = capitalize(&error.to_string());
        match error {
            PreviewError::Disabled => Self::unrecognized(message),
            PreviewError::InvalidUrl => Self::invalid_param(message),
            PreviewError::Denied => Self::forbidden(message),
            PreviewError::Unreadable => Self::new(StatusCode::NOT_FOUND, "M_NOT_FOUND", message),
            PreviewError::Storage(error) => error.into(),
        }
    }
}
