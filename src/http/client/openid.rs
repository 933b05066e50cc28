//! OpenID tokens (Client-Server API, "OpenID"), with which another service learns who somebody is,
//! and the answer to that service (Server-Server API, "OpenID").

use axum::extract::State;
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::account_data::require_self;
use crate::http::{
    AppState,
    auth::UserSession,
    error::{MatrixError, MatrixResult},
    json::{Json, Path, Query},
    rate_limit::Action,
};

#[derive(Debug, Deserialize)]
pub struct UserInfoQuery {
    access_token: Option<String>,
}

/// `POST /user/{userId}/openid/request_token`.
pub async fn request_token(
    State(app): State<AppState>,
    session: UserSession,
    Path(user_id): Path<OwnedUserId>,
) -> MatrixResult<Json<Value>> {
    require_self(&session, &user_id)?;
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    let (token, lifetime_ms) = app.accounts.create_openid_token(&user_id).await?;
    Ok(Json(json!({
        "access_token": token,
        "token_type": "Bearer",
        "matrix_server_name": app.accounts.server_name(),
        "expires_in": lifetime_ms / 1000,
    })))
}

/// `GET /_matrix/federation/v1/openid/userinfo`.
pub async fn get_user_info(
    State(app): State<AppState>,
    Query(query): Query<UserInfoQuery>,
) -> MatrixResult<Json<Value>> {
    let Some(token) = query.access_token else {
        return Err(MatrixError::missing_token("This request needs an access token."));
    };
    match app.accounts.find_openid_user(&token).await? {
        Some(user_id) => Ok(Json(json!({ "sub": user_id }))),
        None => Err(MatrixError::unknown_token("The access token is unknown or has expired.")),
    }
}
