//! `GET /notifications` (Client-Server API, "Listing Notifications").

use axum::extract::State;
use serde::Deserialize;

use super::room_paths::{load_ignored_users, reader};
use crate::{
    http::{
        AppState,
        auth::UserSession,
        error::{MatrixError, MatrixResult},
        json::{Query, RawJson},
    },
    rooms::{Reader, write_json_string},
};

/// Notifications on a page when the client does not say, and at most.
const PAGE_DEFAULT: usize = 20;
const PAGE_MAX: usize = 100;

/// The query of the request.
#[derive(Debug, Deserialize)]
pub struct NotificationsQuery {
    from: Option<String>,
    limit: Option<usize>,
    only: Option<String>,
}

/// What the user was notified of, newest first.
pub async fn list_notifications(
    State(app): State<AppState>,
    session: UserSession,
    Query(query): Query<NotificationsQuery>,
) -> MatrixResult<RawJson> {
    let before = match query.from.as_deref().filter(|from| !from.is_empty()) {
        None => None,
        Some(from) => {
            let parsed = from.strip_prefix('n').and_then(|from| from.parse::<i64>().ok());
            let invalid = || MatrixError::invalid_param("`from` is no token of mine.");
            Some(parsed.filter(|before| *before > 0).ok_or_else(invalid)?)
        }
    };
    let limit = query.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let only_highlights = query.only.as_deref() == Some("highlight");
    let wanted = (limit, only_highlights);
    let page = app.push.list_notifications(&app.rooms, &session.user_id, before, wanted).await?;
    let ignored = load_ignored_users(&app, &session.user_id).await?;
    let reader = Reader { with_room_id: false, ..reader(&app, &session, &ignored) };
    let mut out = String::from("{\"notifications\":[");
    let mut is_first = true;
    for notification in page.notifications.iter().filter(|n| reader.takes(&n.event)) {
        out.push_str(if is_first { "{\"actions\":" } else { ",{\"actions\":" });
        is_first = false;
        out.push_str(&notification.actions);
        out.push_str(",\"event\":");
        let (viewer, event) = (&notification.viewer, &notification.event);
        app.rooms.write_event(&mut out, viewer, &reader, event).await?;
        out.push_str(",\"read\":");
        out.push_str(if notification.is_read { "true" } else { "false" });
        out.push_str(",\"room_id\":");
        write_json_string(&mut out, viewer.room().room_id.as_str());
        out.push_str(",\"ts\":");
        out.push_str(&event.event.origin_server_ts().to_string());
        out.push('}');
    }
    out.push(']');
    if let Some(next) = page.next {
        out.push_str(&format!(",\"next_token\":\"n{next}\""));
    }
    out.push('}');
    Ok(RawJson(out.into()))
}
