//! Reporting rooms, events and users to the administrators (client-server API, "Reporting
//! Content").

use axum::extract::State;
use serde::Deserialize;

use super::room_paths::{find_joined_room, find_known_room, parse_event_id, parse_user_id};
use crate::{
    accounts::sessions::Session,
    http::{
        auth::UserSession,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, OptionalJsonBody, Path},
        rate_limit::Action,
        state::{App, AppState},
    },
    storage::{
        WriteTx,
        reports::{self, NewReport},
    },
};

/// The longest reason that is kept, bytes.
const REASON_BYTES_MAX: usize = 4096;

/// Why a room or a user is reported.
#[derive(Debug, Deserialize)]
pub struct ReportBody {
    reason: String,
}

/// Why an event is reported.
#[derive(Debug, Default, Deserialize)]
pub struct EventReportBody {
    reason: Option<String>,
}

/// `POST /rooms/{roomId}/report`
pub async fn report_room(
    State(app): State<AppState>,
    session: UserSession,
    Path(room_id): Path<String>,
    JsonBody(body): JsonBody<ReportBody>,
) -> MatrixResult<Json<Empty>> {
    let room = find_known_room(&app, &room_id).await?;
    let report = NewReport { room_id: Some(room.room_id.as_str()), ..start(&app, &session) };
    save(&app, &session, report, Some(&body.reason)).await
}

/// `POST /rooms/{roomId}/report/{eventId}`
pub async fn report_event(
    State(app): State<AppState>,
    session: UserSession,
    Path((room_id, event_id)): Path<(String, String)>,
    OptionalJsonBody(body): OptionalJsonBody<EventReportBody>,
) -> MatrixResult<Json<Empty>> {
    let unknown = || {
        let message = "The event was not found or you are not joined to the room.";
        MatrixError::not_found(message)
    };
    let room = find_joined_room(&app, &session.user_id, &room_id).await.map_err(|_| unknown())?;
    let event_id = parse_event_id(&event_id)?;
    let event = app.rooms.find_event(&room, &event_id).await?.ok_or_else(unknown)?;
    if !app.rooms.viewer(&room, &session.user_id).await?.sees(&event).await? {
        return Err(unknown());
    }
    let report = NewReport {
        room_id: Some(room.room_id.as_str()),
        event_id: Some(event_id.as_str()),
        ..start(&app, &session)
    };
    save(&app, &session, report, body.reason.as_deref()).await
}

/// `POST /users/{userId}/report`
pub async fn report_user(
    State(app): State<AppState>,
    session: UserSession,
    Path(user_id): Path<String>,
    JsonBody(body): JsonBody<ReportBody>,
) -> MatrixResult<Json<Empty>> {
    let user_id = parse_user_id(&user_id)?;
    // Whether the user exists is not told.
    let report = NewReport { user_id: Some(user_id.as_str()), ..start(&app, &session) };
    save(&app, &session, report, Some(&body.reason)).await
}

fn start<'a>(app: &App, session: &'a Session) -> NewReport<'a> {
    NewReport {
        reporter: session.user_id.as_str(),
        room_id: None,
        event_id: None,
        user_id: None,
        reason: None,
        received_ts: app.clock.now_ms(),
    }
}

async fn save(
    app: &App,
    session: &Session,
    report: NewReport<'_>,
    reason: Option<&str>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Report, session, app.clock.now_ms())?;
    if reason.is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
        return Err(MatrixError::too_large("The reason is too long."));
    }
    let mut tx = WriteTx::new();
    reports::insert(&mut tx, &NewReport { reason, ..report });
    app.writer.commit(tx).await?;
    tracing::info!(user.id = report.reporter, room.id = report.room_id, "something was reported");
    Ok(Json(Empty {}))
}
