//! `/logout` (Client-Server API, "Login").

use axum::extract::State;

use crate::http::{
    AppState,
    auth::LogoutSession,
    error::MatrixResult,
    json::{Empty, Json},
};

/// `POST /logout`.
pub async fn log_out(
    State(app): State<AppState>,
    session: LogoutSession,
) -> MatrixResult<Json<Empty>> {
    app.accounts.log_out(&session).await?;
    Ok(Json(Empty {}))
}

/// `POST /logout/all`.
pub async fn log_out_everywhere(
    State(app): State<AppState>,
    session: LogoutSession,
) -> MatrixResult<Json<Empty>> {
    app.accounts.log_out_everywhere(&session.user_id).await?;
    Ok(Json(Empty {}))
}
