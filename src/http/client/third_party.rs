//! `/thirdparty` (Client-Server API, "Third-party Networks"): without bridges there are none.

use axum::extract::State;
use serde_json::{Value, json};

use crate::http::{
    AppState,
    auth::UserSession,
    error::{MatrixError, MatrixResult},
    json::Json,
};

/// `GET /thirdparty/protocols`.
pub async fn list_protocols(_: State<AppState>, _: UserSession) -> Json<Value> {
    Json(json!({}))
}

/// `GET /thirdparty/location` and `/thirdparty/user`: what an alias or user stands for elsewhere.
pub async fn list_none(_: State<AppState>, _: UserSession) -> Json<Value> {
    Json(json!([]))
}

/// `GET /thirdparty/protocol/{protocol}`, and locations and users of one.
pub async fn refuse_protocol(_: State<AppState>, _: UserSession) -> MatrixResult<Json<Value>> {
    Err(MatrixError::not_found("There is no bridge for this protocol."))
}
