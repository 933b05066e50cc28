//! Events that are sent later (MSC4140): `?org.matrix.msc4140.delay` of `/send` and `/state`, and what
//! can be done with an event until then.

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::room_paths::{find_joined_room, not_in_room};
use crate::{
    accounts::sessions::Session,
    http::{
        auth::{ClientAddress, UserOrGuestSession, refuse_suspended},
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, Path},
        rate_limit::Action,
        state::{App, AppState},
    },
    storage::delayed_events::DelayedEventRow,
    workflows::delayed_events::{DELAY_ID_LENGTH, DelayedEventError, NewDelayedEvent},
};

/// What shall become of an event.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DelayedAction {
    Restart,
    Cancel,
    Send,
}

/// A body that names the action.
#[derive(Debug, Deserialize)]
pub struct ActionBody {
    action: DelayedAction,
}

/// The body of `PUT …/delayed_event/{eventType}/{txnId}`.
#[derive(Debug, Deserialize)]
pub struct ScheduleBody {
    delay_ms: u64,
    state_key: Option<String>,
    content: Map<String, Value>,
}

/// `PUT …/rooms/{roomId}/delayed_event/{eventType}/{txnId}`
pub async fn schedule(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path((room_id, kind, transaction_id)): Path<(String, String, String)>,
    JsonBody(body): JsonBody<ScheduleBody>,
) -> MatrixResult<Json<Value>> {
    let event = (kind, body.state_key, body.content);
    delay(&app, &session, &room_id, event, (body.delay_ms, None), Some(&transaction_id)).await
}

/// `GET …/delayed_events`
pub async fn list(
    State(app): State<AppState>,
    session: UserOrGuestSession,
) -> MatrixResult<Json<Value>> {
    let waiting = app.delayed_events.list(&session.user_id).await?;
    let waiting: Vec<Value> = waiting.iter().map(describe).collect();
    Ok(Json(json!({ "delayed_events": waiting })))
}

/// `GET …/delayed_events/{delayId}`
pub async fn get(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path(delay_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    Ok(Json(describe(&app.delayed_events.load(&session.user_id, &delay_id).await?)))
}

/// `POST …/delayed_events/{delayId}/{action}`. Who knows the ID of an event may do this, without being
/// logged in: so that another service can keep an event from being sent as long as a client lives.
pub async fn act(
    State(app): State<AppState>,
    address: ClientAddress,
    Path((delay_id, action)): Path<(String, String)>,
) -> MatrixResult<Json<Empty>> {
    let action: Result<DelayedAction, _> = serde_json::from_value(action.into());
    let action = action.map_err(|_| MatrixError::not_found("There is no such action."))?;
    perform(&app, address, &delay_id, action).await
}

/// `POST …/delayed_events/{delayId}`, as older clients have it.
pub async fn act_by_body(
    State(app): State<AppState>,
    address: ClientAddress,
    Path(delay_id): Path<String>,
    JsonBody(body): JsonBody<ActionBody>,
) -> MatrixResult<Json<Empty>> {
    perform(&app, address, &delay_id, body.action).await
}

/// Has an event (type, state key, content) of a room that the user is in sent later, to be sticky for a
/// while from then on if asked to.
pub async fn delay(
    app: &App,
    session: &Session,
    room_id: &str,
    (kind, state_key, content): (String, Option<String>, Map<String, Value>),
    (delay_ms, sticky_ms): (u64, Option<u32>),
    transaction_id: Option<&str>,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Message, session, app.clock.now_ms())?;
    refuse_suspended(session)?;
    find_joined_room(app, &session.user_id, room_id).await?;
    if session.is_shadow_banned {
        return Ok(Json(json!({ "delay_id": app.clock.random_text(DELAY_ID_LENGTH) })));
    }
    let named = |id: &str| name_request(session, (room_id, &kind, id));
    let new = NewDelayedEvent {
        user_id: session.user_id.clone(),
        room_id: room_id.to_owned(),
        state_key,
        content: Value::Object(content).to_string(),
        delay_ms,
        sticky_ms,
        request: transaction_id.map(named),
        kind,
    };
    let delay_id = app.delayed_events.schedule(new).await.map_err(|error| match error {
        DelayedEventError::TooMany { next_ms } => {
            MatrixError::limit_exceeded(next_ms.saturating_sub(app.clock.now_ms()))
        }
        error => error.into(),
    })?;
    Ok(Json(json!({ "delay_id": delay_id })))
}

/// The answer to a request (room, type, transaction) that this device has made before; 400 for one that it
/// has not, since it came without a body.
pub async fn find_repeated(
    app: &App,
    session: &Session,
    request: (&str, &str, &str),
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Message, session, app.clock.now_ms())?;
    match app.delayed_events.find_repeated(&name_request(session, request)).await? {
        Some(delay_id) => Ok(Json(json!({ "delay_id": delay_id }))),
        None => Err(MatrixError::not_json("The body is empty.")),
    }
}

/// By what a repeated request (room, type, transaction) is known.
fn name_request(session: &Session, (room_id, kind, id): (&str, &str, &str)) -> String {
    json!([session.user_id, session.device_id.as_str(), room_id, kind, id]).to_string()
}

async fn perform(
    app: &App,
    ClientAddress(address): ClientAddress,
    delay_id: &str,
    action: DelayedAction,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take_of_address(Action::Message, address, app.clock.now_ms())?;
    let events = &app.delayed_events;
    match action {
        DelayedAction::Restart => events.restart(delay_id).await?,
        DelayedAction::Cancel => events.cancel(delay_id).await?,
        DelayedAction::Send => events.send_now(delay_id).await?,
    }
    Ok(Json(Empty {}))
}

/// An event with the names of today's proposal and those that clients knew before.
fn describe(row: &DelayedEventRow) -> Value {
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let mut body = json!({
        "delay_id": row.delay_id,
        "room_id": row.room_id,
        "type": row.kind,
        "delay_ms": row.delay_ms,
        "delay": row.delay_ms,
        "scheduled_at": row.scheduled_ms,
        "running_since": row.scheduled_ms,
        "content": parse(&row.content),
    });
    let fields = [
        ("state_key", row.state_key.as_deref().map(Value::from)),
        ("finalised_ts", row.finalised_ms.map(Value::from)),
        ("event_id", row.event_id.as_deref().map(Value::from)),
        ("error", row.error.as_deref().map(parse)),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    body
}

impl From<DelayedEventError> for MatrixError {
    fn from(error: DelayedEventError) -> Self {
        let message = format!("This is not possible: {error}.");
        match error {
            DelayedEventError::BadDelay => Self::forbidden(message),
            DelayedEventError::Membership => Self::invalid_param(message),
            DelayedEventError::TooMany { .. } => Self::limit_exceeded(0),
            DelayedEventError::NotFound => Self::not_found(message),
            DelayedEventError::Sent | DelayedEventError::Cancelled => {
                Self::new(StatusCode::CONFLICT, "M_UNKNOWN", message)
            }
            DelayedEventError::NotInRoom => not_in_room(),
            DelayedEventError::Suspended => {
                Self::user_suspended("The sender may not send anything now.")
            }
            DelayedEventError::Content(error) => error.into(),
            DelayedEventError::Append(error) => error.into(),
            DelayedEventError::Storage(error) => error.into(),
        }
    }
}
