//! `/_synapse/admin/v1/users/{userId}/override_ratelimit`: how often one user may send something, whatever holds
//! for others.

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::load_account;
use crate::{
    http::{
        AppState,
        auth::AdminSession,
        error::MatrixResult,
        json::{Empty, Json, OptionalJsonBody, Path},
        rate_limit::UserLimit,
    },
    storage::{WriteTx, administration},
};

/// The limit of a user; 0 messages a second: none.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LimitBody {
    messages_per_second: u32,
    burst_count: u32,
}

/// `GET …/override_ratelimit`: an empty object where the same holds as for others.
pub async fn get(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let user_id = load_account(&app, &user_id).await?.user_id;
    let limit = app.rate_limits.find_of_user(&user_id);
    Ok(Json(limit.map_or_else(|| json!({}), limit_json)))
}

/// `POST …/override_ratelimit`.
pub async fn set(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
    OptionalJsonBody(body): OptionalJsonBody<LimitBody>,
) -> MatrixResult<Json<Value>> {
    let user_id = load_account(&app, &user_id).await?.user_id;
    let LimitBody { messages_per_second: per_second, burst_count: burst } = body;
    let mut tx = WriteTx::new();
    administration::save_rate_limit(&mut tx, user_id.as_str(), (per_second, burst));
    app.writer.commit(tx).await?;
    let limit = UserLimit { per_second, burst };
    app.rate_limits.set_of_user(&user_id, Some(limit));
    Ok(Json(limit_json(limit)))
}

/// `DELETE …/override_ratelimit`.
pub async fn remove(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
) -> MatrixResult<Json<Empty>> {
    let user_id = load_account(&app, &user_id).await?.user_id;
    let mut tx = WriteTx::new();
    administration::delete_rate_limit(&mut tx, user_id.as_str());
    app.writer.commit(tx).await?;
    app.rate_limits.set_of_user(&user_id, None);
    Ok(Json(Empty {}))
}

fn limit_json(limit: UserLimit) -> Value {
    json!({ "messages_per_second": limit.per_second, "burst_count": limit.burst })
}
