//! Events that relate to an event, and threads (client-server API, "Relationships API", "Querying
//! threads in a room").

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use serde_json::json;

use super::{
    messages::{QueryDirection, parse_limit, parse_token},
    room_paths::{find_readable_room, find_visible_event, load_ignored_users, reader},
};
use crate::{
    accounts::sessions::Session,
    http::{
        auth::UserOrGuestSession,
        error::{MatrixError, MatrixResult},
        json::{Path, Query, RawJson},
        state::{App, AppState},
    },
    rooms::{ChildrenRequest, Direction, RECURSION_DEPTH_MAX, ThreadsRequest},
    storage::EventNid,
};

/// The query of `/relations`.
#[derive(Debug, Deserialize)]
pub struct RelationsQuery {
    from: Option<String>,
    to: Option<String>,
    limit: Option<usize>,
    dir: Option<QueryDirection>,
    recurse: Option<bool>,
}

/// The query of `/threads`.
#[derive(Debug, Deserialize)]
pub struct ThreadsQuery {
    #[serde(default)]
    include: IncludedThreads,
    limit: Option<usize>,
    from: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IncludedThreads {
    #[default]
    All,
    Participated,
}

/// `GET /rooms/{roomId}/relations/{eventId}`
pub async fn get_relations(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path((room_id, event_id)): Path<(String, String)>,
    Query(query): Query<RelationsQuery>,
) -> MatrixResult<RawJson> {
    list_relations(&app, &session.0, (&room_id, &event_id), (None, None), query).await
}

/// `GET /rooms/{roomId}/relations/{eventId}/{relType}`
pub async fn get_relations_of_type(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path((room_id, event_id, rel_type)): Path<(String, String, String)>,
    Query(query): Query<RelationsQuery>,
) -> MatrixResult<RawJson> {
    let kinds = (Some(rel_type), None);
    list_relations(&app, &session.0, (&room_id, &event_id), kinds, query).await
}

/// `GET /rooms/{roomId}/relations/{eventId}/{relType}/{eventType}`
pub async fn get_relations_of_kind(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path((room_id, event_id, rel_type, kind)): Path<(String, String, String, String)>,
    Query(query): Query<RelationsQuery>,
) -> MatrixResult<RawJson> {
    let kinds = (Some(rel_type), Some(kind));
    list_relations(&app, &session.0, (&room_id, &event_id), kinds, query).await
}

/// `GET /rooms/{roomId}/threads`
pub async fn get_threads(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path(room_id): Path<String>,
    Query(query): Query<ThreadsQuery>,
) -> MatrixResult<RawJson> {
    let parse =
        |text: &str| text.strip_prefix('h').and_then(|number| number.parse().ok()).map(EventNid);
    let from = query.from.as_deref().map(|text| {
        parse(text).ok_or_else(|| MatrixError::invalid_param("Unknown pagination token."))
    });
    let request = ThreadsRequest {
        participated_only: query.include == IncludedThreads::Participated,
        from: from.transpose()?,
        limit: parse_limit(query.limit)?,
    };
    let viewer = find_readable_room(&app, &session.user_id, &room_id).await?;
    let ignored = load_ignored_users(&app, &session.user_id).await?;
    let reader = reader(&app, &session, &ignored);
    let page = app.rooms.list_threads(&viewer, &reader, request).await?;
    let mut out = String::from("{\"chunk\":");
    app.rooms.write_events(&mut out, &viewer, &reader, &page.roots).await?;
    if let Some(EventNid(next)) = page.next {
        out.push_str(&format!(",\"next_batch\":\"h{next}\""));
    }
    out.push('}');
    Ok(RawJson(out.into()))
}

async fn list_relations(
    app: &App,
    session: &Arc<Session>,
    (room_id, event_id): (&str, &str),
    (rel_type, kind): (Option<String>, Option<String>),
    query: RelationsQuery,
) -> MatrixResult<RawJson> {
    let request = ChildrenRequest {
        rel_type,
        kind,
        from: parse_token(query.from.as_deref())?,
        to: parse_token(query.to.as_deref())?,
        direction: query.dir.map_or(Direction::Backwards, Direction::from),
        limit: parse_limit(query.limit)?,
        recurse: query.recurse == Some(true),
    };
    let (viewer, parent) = find_visible_event(app, &session.user_id, room_id, event_id).await?;
    let ignored = load_ignored_users(app, &session.user_id).await?;
    let reader = reader(app, session, &ignored);
    let page = app.rooms.list_children(&viewer, &reader, &parent, &request).await?;
    let mut out = String::from("{\"chunk\":");
    app.rooms.write_events(&mut out, &viewer, &reader, &page.events).await?;
    if let Some(end) = page.end {
        out.push_str(&format!(",\"next_batch\":\"{end}\""));
    }
    if let Some(from) = &query.from {
        out.push_str(&format!(",\"prev_batch\":{}", json!(from)));
    }
    if let Some(recurse) = query.recurse {
        let depth = if recurse { RECURSION_DEPTH_MAX } else { 1 };
        out.push_str(&format!(",\"recursion_depth\":{depth}"));
    }
    out.push('}');
    Ok(RawJson(out.into()))
}
