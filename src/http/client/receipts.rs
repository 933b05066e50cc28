//! `POST /rooms/{roomId}/receipt/{receiptType}/{eventId}` and `POST /rooms/{roomId}/read_markers`
//! (Client-Server API, "Receipts" and "Fully read markers").

use axum::extract::State;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    accounts::sessions::Session,
    federation::OutgoingReceipt,
    http::{
        App, AppState,
        auth::UserOrGuestSession,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, OptionalJsonBody, Path},
        rate_limit::Action,
    },
    workflows::mark_read::{FULLY_READ, MarkReadError, Parts, ReadMarkers, mark_read},
};

/// The longest event ID ("Size limits").
const EVENT_ID_BYTES_MAX: usize = 255;

/// The body of `POST /rooms/{roomId}/read_markers`.
#[derive(Debug, Deserialize)]
pub struct ReadMarkersBody {
    #[serde(rename = "m.fully_read")]
    fully_read: Option<String>,
    #[serde(rename = "m.read")]
    read: Option<String>,
    #[serde(rename = "m.read.private")]
    read_private: Option<String>,
}

/// `POST /rooms/{roomId}/receipt/{receiptType}/{eventId}`.
pub async fn post_receipt(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path((room_id, kind, event_id)): Path<(OwnedRoomId, String, String)>,
    OptionalJsonBody(body): OptionalJsonBody<Map<String, Value>>,
) -> MatrixResult<Json<Empty>> {
    let event_id = Some(parse_event_id(&event_id)?);
    let thread = parse_thread(&body)?;
    let markers = match kind.as_str() {
        "m.read" => ReadMarkers { read: event_id, thread, ..ReadMarkers::default() },
        "m.read.private" => {
            ReadMarkers { read_private: event_id, thread, ..ReadMarkers::default() }
        }
        FULLY_READ if thread.is_some() => {
            return Err(MatrixError::invalid_param("m.fully_read knows no threads."));
        }
        FULLY_READ => ReadMarkers { fully_read: event_id, ..ReadMarkers::default() },
        _ => return Err(MatrixError::invalid_param("This type of receipt is not known.")),
    };
    mark(&app, &session, &room_id, markers).await
}

/// `POST /rooms/{roomId}/read_markers`.
pub async fn post_read_markers(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path(room_id): Path<OwnedRoomId>,
    JsonBody(body): JsonBody<ReadMarkersBody>,
) -> MatrixResult<Json<Empty>> {
    let parse = |id: Option<String>| id.as_deref().map(parse_event_id).transpose();
    let markers = ReadMarkers {
        fully_read: parse(body.fully_read)?,
        read: parse(body.read)?,
        read_private: parse(body.read_private)?,
        thread: None,
    };
    mark(&app, &session, &room_id, markers).await
}

async fn mark(
    app: &App,
    session: &Session,
    room_id: &RoomId,
    markers: ReadMarkers,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Ephemeral, session, app.clock.now_ms())?;
    let room = app.rooms.find(room_id).await?.ok_or_else(not_joined)?;
    let parts = Parts {
        rooms: &app.rooms,
        accounts: &app.accounts,
        ephemeral: &app.ephemeral,
        push: &app.push,
    };
    let public = markers.read.clone().map(|event_id| OutgoingReceipt {
        event_id,
        thread: markers.thread.clone(),
        ts: app.clock.now_ms(),
    });
    let has_moved = mark_read(parts, &room, &session.user_id, markers).await?;
    // Other servers do not know that one from before counts no more.
    if let Some(receipt) = public.filter(|_| has_moved) {
        app.federation.outbox().send_receipt(&room, &session.user_id, receipt).await;
    }
    app.ephemeral.presence.note_active(&session.user_id).await;
    Ok(Json(Empty {}))
}

fn parse_event_id(text: &str) -> MatrixResult<OwnedEventId> {
    let is_plain = text.len() <= EVENT_ID_BYTES_MAX && !text.contains('\0');
    let event_id = is_plain.then(|| EventId::parse(text).ok()).flatten();
    event_id.ok_or_else(|| MatrixError::invalid_param("This is no event ID."))
}

/// `thread_id`: `main` or an event ID.
fn parse_thread(body: &Map<String, Value>) -> MatrixResult<Option<String>> {
    let Some(thread) = body.get("thread_id") else {
        return Ok(None);
    };
    let invalid = || MatrixError::invalid_param("`thread_id` must be `main` or an event ID.");
    let thread = thread.as_str().filter(|thread| !thread.is_empty()).ok_or_else(invalid)?;
    if thread != "main" {
        parse_event_id(thread).map_err(|_| invalid())?;
    }
    Ok(Some(thread.to_owned()))
}

fn not_joined() -> MatrixError {
    MatrixError::forbidden("You are not in this room.")
}

impl From<MarkReadError> for MatrixError {
    fn from(error: MarkReadError) -> Self {
        match error {
            MarkReadError::NotJoined => not_joined(),
            MarkReadError::UnknownEvent(_) => Self::not_found("This room has no such event."),
            MarkReadError::OtherThread => {
                Self::invalid_param("The event does not belong to this thread.")
            }
            MarkReadError::Storage(error) => error.into(),
        }
    }
}
