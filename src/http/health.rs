//! `GET /health`: whether this process can do its work, for service managers and load balancers.

use axum::{extract::State, http::StatusCode};

use super::state::AppState;

/// 200 when the store answers; 503 when it does not, or while the server stops.
pub async fn get_health(State(app): State<AppState>) -> (StatusCode, &'static str) {
    if app.shutdown.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    match app.database.fetch_one::<(i64,)>("SELECT CAST(1 AS BIGINT)", &[]).await {
        Ok(_) => (StatusCode::OK, "ok\n"),
        Err(error) => {
            tracing::error!(%error, "the store does not answer");
            (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n")
        }
    }
}
