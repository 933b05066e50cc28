//! `POST /user_directory/search` (Client-Server API, "User Directory").

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    http::{
        AppState,
        auth::UserSession,
        error::MatrixResult,
        json::{Json, JsonBody},
        rate_limit::Action,
    },
    workflows::search_users::search_users,
};

/// Results of one search.
const LIMIT_DEFAULT: usize = 10;
const LIMIT_MAX: usize = 50;

#[derive(Debug, Deserialize)]
pub struct SearchRequest {
    search_term: String,
    limit: Option<usize>,
}

pub async fn search(
    State(app): State<AppState>,
    session: UserSession,
    JsonBody(request): JsonBody<SearchRequest>,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Search, &session, app.clock.now_ms())?;
    let limit = request.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
    let parts = (&*app.accounts, &app.rooms);
    let found = search_users(parts, &session.user_id, &request.search_term, limit).await?;
    let results = found.users.iter().map(|(user_id, profile)| {
        let mut user = json!({ "user_id": user_id });
        if let Some(name) = profile.display_name() {
            user["display_name"] = name.into();
        }
        if let Some(url) = profile.avatar_url() {
            user["avatar_url"] = url.into();
        }
        user
    });
    Ok(Json(json!({ "results": results.collect::<Vec<_>>(), "limited": found.limited })))
}
