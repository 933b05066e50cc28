//! `GET /sync` (client-server API, "Syncing"): reads the request; `crate::sync` answers.

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use ruma::UserId;
use serde::Deserialize;

use crate::{
    ephemeral::PresenceState,
    http::{
        auth::UserOrGuestSession,
        error::{MatrixError, MatrixResult},
        json::{Query, RawJson, parse_json},
        state::{App, AppState},
    },
    sync::{SyncFilter, SyncRequest},
};

/// The query of `GET /sync`.
#[derive(Debug, Deserialize)]
pub struct SyncQuery {
    since: Option<String>,
    filter: Option<String>,
    #[serde(default)]
    full_state: bool,
    #[serde(default)]
    use_state_after: bool,
    /// The same by its name from before v1.16; clients send both.
    #[serde(default, rename = "org.matrix.msc4222.use_state_after")]
    use_unstable_state_after: bool,
    /// `online` unless the client says otherwise.
    set_presence: Option<String>,
    /// Milliseconds.
    #[serde(default)]
    timeout: u64,
}

/// The names of the section that a client may ask for in place of `state` (MSC4222).
const STATE_AFTER: &str = "state_after";
const UNSTABLE_STATE_AFTER: &str = "org.matrix.msc4222.state_after";

/// Answers what the client has not seen, waiting for it if asked to.
pub async fn get_sync(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Query(query): Query<SyncQuery>,
) -> MatrixResult<RawJson> {
    let since = query.since.as_deref().map(str::parse).transpose();
    let since = since.map_err(|_| MatrixError::invalid_param("`since` is no token of mine."))?;
    let request = SyncRequest {
        user_id: session.user_id.clone(),
        device_id: session.device_id.to_string(),
        since,
        filter: find_filter(&app, &session.user_id, query.filter.as_deref()).await?,
        full_state: query.full_state,
        state_after: match (query.use_state_after, query.use_unstable_state_after) {
            (true, _) => Some(STATE_AFTER),
            (false, true) => Some(UNSTABLE_STATE_AFTER),
            (false, false) => None,
        },
        timeout: Duration::from_millis(query.timeout),
    };
    let presence = match query.set_presence.as_deref() {
        None => PresenceState::Online,
        Some(text) => PresenceState::parse(text)
            .ok_or_else(|| MatrixError::invalid_param("`set_presence` is not known."))?,
    };
    let _connected = app.ephemeral.presence.begin_sync(&session.user_id, presence).await;
    let answer = app.sync.sync(&request, &app.shutdown).await?;
    Ok(RawJson(answer.into()))
}

/// The filter that the query names: inline JSON, or the ID of an uploaded one.
async fn find_filter(
    app: &App,
    user_id: &UserId,
    filter: Option<&str>,
) -> MatrixResult<Arc<SyncFilter>> {
    match filter {
        None | Some("") => Ok(Arc::default()),
        Some(inline) if inline.starts_with('{') => parse_json(inline.as_bytes()).map(Arc::new),
        Some(id) => {
            let stored = app.sync.find_filter(user_id, id).await?;
            stored.ok_or_else(|| MatrixError::invalid_param("There is no such filter."))
        }
    }
}
