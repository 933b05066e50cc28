//! Threads that a user follows (MSC4306), and reading the changes of that backwards (MSC4308).

use axum::{extract::State, http::StatusCode};
use ruma::EventId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::room_paths::{find_visible_event, unknown_event};
use crate::{
    accounts::thread_subscriptions::{FollowCause, FollowThreadError},
    http::{
        auth::UserSession,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, OptionalJsonBody, Path, Query},
        rate_limit::Action,
        state::{App, AppState},
    },
    rooms::{StoredEvent, Viewer, relation_of},
    sync::sliding::{
        Position, THREAD_CHANGES_DEFAULT, THREAD_CHANGES_MAX, group_thread_changes,
        parse_thread_token, thread_token,
    },
};

/// The body of `PUT …/subscription`.
#[derive(Debug, Default, Deserialize)]
pub struct FollowBody {
    /// The event for which a client follows the thread on its own.
    automatic: Option<String>,
}

/// The query of `GET /thread_subscriptions`.
#[derive(Debug, Deserialize)]
pub struct ChangesQuery {
    dir: Option<String>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<usize>,
}

/// `PUT …/rooms/{roomId}/thread/{eventId}/subscription`
pub async fn follow(
    State(app): State<AppState>,
    session: UserSession,
    Path((room_id, root)): Path<(String, String)>,
    OptionalJsonBody(body): OptionalJsonBody<FollowBody>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    let (viewer, root) = find_visible_event(&app, &session.user_id, &room_id, &root).await?;
    let cause = match &body.automatic {
        None => FollowCause::Manual,
        Some(event_id) => {
            let event = find_in_thread(&app, &viewer, &root, event_id).await?;
            FollowCause::Automatic(event.position())
        }
    };
    let (room, root) = (viewer.room().nid, root.event.event_id());
    app.accounts.follow_thread(&session.user_id, room, root, cause).await?;
    Ok(Json(Empty {}))
}

/// `DELETE …/rooms/{roomId}/thread/{eventId}/subscription`
pub async fn unfollow(
    State(app): State<AppState>,
    session: UserSession,
    Path((room_id, root)): Path<(String, String)>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    let (viewer, root) = find_visible_event(&app, &session.user_id, &room_id, &root).await?;
    let (room, root) = (viewer.room().nid, root.event.event_id());
    app.accounts.unfollow_thread(&session.user_id, room, root).await?;
    Ok(Json(Empty {}))
}

/// `GET …/rooms/{roomId}/thread/{eventId}/subscription`
pub async fn get(
    State(app): State<AppState>,
    session: UserSession,
    Path((room_id, root)): Path<(String, String)>,
) -> MatrixResult<Json<Value>> {
    let (viewer, root) = find_visible_event(&app, &session.user_id, &room_id, &root).await?;
    let (room, root) = (viewer.room().nid, root.event.event_id());
    let found = app.accounts.find_thread_subscription(&session.user_id, room, root).await?;
    match found {
        Some(automatic) => Ok(Json(json!({ "automatic": automatic }))),
        None => Err(MatrixError::not_found("You do not follow this thread.")),
    }
}

/// `GET …/thread_subscriptions`: the latest changes first.
pub async fn list_changes(
    State(app): State<AppState>,
    session: UserSession,
    Query(query): Query<ChangesQuery>,
) -> MatrixResult<Json<Value>> {
    match query.dir.as_deref() {
        Some("b") => {}
        Some(_) => return Err(MatrixError::invalid_param("`dir` must be `b`.")),
        None => return Err(MatrixError::missing_param("`dir` is missing.")),
    }
    let invalid = || MatrixError::invalid_param("Unknown pagination token.");
    let parse = |token: &String| parse_thread_token(token).ok_or_else(invalid);
    let parse_end = |token: &String| {
        let pos = token.parse::<Position>().map(|pos| pos.position);
        pos.ok().or_else(|| parse_thread_token(token)).ok_or_else(invalid)
    };
    let upto = query.from.as_ref().map(parse).transpose()?.unwrap_or(app.writer.position());
    let after = query.to.as_ref().map(parse_end).transpose()?.unwrap_or(0);
    let limit = match query.limit.unwrap_or(THREAD_CHANGES_DEFAULT) {
        0 => return Err(MatrixError::invalid_param("`limit` must be greater than 0.")),
        limit => limit.min(THREAD_CHANGES_MAX),
    };
    let (user, range) = (&session.user_id, (after, upto));
    let list = app.accounts.list_thread_subscriptions(user, range, limit + 1).await?;
    let shown = &list[..list.len().min(limit)];
    let mut answer = group_thread_changes(shown);
    if let Some(last) = shown.last().filter(|_| list.len() > limit) {
        answer.insert("end".to_owned(), thread_token(last.position - 1).into());
    }
    Ok(Json(answer.into()))
}

/// The event for which a thread is to be followed; it must be in the thread.
async fn find_in_thread(
    app: &App,
    viewer: &Viewer,
    root: &StoredEvent,
    event_id: &str,
) -> MatrixResult<std::sync::Arc<StoredEvent>> {
    let event_id = <&EventId>::try_from(event_id);
    let event_id = event_id.map_err(|_| MatrixError::invalid_param("This is not an event ID."))?;
    let event = app.rooms.find_event(viewer.room(), event_id).await?.ok_or_else(not_in_thread)?;
    let relation = relation_of(&event.event);
    let in_thread = relation.is_some_and(|(rel_type, target)| {
        rel_type == "m.thread" && target.as_str() == root.event.event_id().as_str()
    });
    match viewer.sees(&event).await? {
        true if in_thread => Ok(event),
        true => Err(not_in_thread()),
        false => Err(unknown_event()),
    }
}

fn not_in_thread() -> MatrixError {
    let message = "The event is not in this thread.";
    MatrixError::new(StatusCode::BAD_REQUEST, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD", message)
}

impl From<FollowThreadError> for MatrixError {
    fn from(error: FollowThreadError) -> Self {
        match error {
            FollowThreadError::UnfollowedSince => {
                let errcode = "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION";
                let message = "You have ceased to follow this thread since that event.";
                Self::new(StatusCode::CONFLICT, errcode, message)
            }
            FollowThreadError::TooMany => {
                Self::too_large("This account follows as many threads as it may.")
            }
            FollowThreadError::Storage(error) => error.into(),
        }
    }
}
