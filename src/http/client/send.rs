//! Sending events (client-server API, "Sending events to a room", "Redactions").

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, State},
    http::request::Parts,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ruma::OwnedEventId;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    delayed_events,
    room_paths::{find_joined_room, find_room, parse_event_id, parse_user_id},
    rooms_membership::change_by_state,
};
use crate::{
    accounts::sessions::Session,
    http::{
        auth::{UserOrGuestSession, UserSession, refuse_suspended},
        error::{MatrixError, MatrixResult},
        json::{JsonBody, MaybeJsonBody, OptionalJsonBody, Path, Query, RawJson},
        rate_limit::Action,
        state::{App, AppState},
    },
    protocol::{
        event::STICKY_MS_MAX,
        membership::{MemberContent, Membership},
    },
    rooms::{AppendError, ContentError, EventRequest, MEMBER, Room, SentBy, StoredEvent},
    workflows::{carry_over::carry_settings_of_members, remove_guests::change_guest_access},
};

/// The largest number in canonical JSON (appendices, "Canonical JSON").
const TIMESTAMP_MS_MAX: u64 = (1 << 53) - 1;

/// The query of `/send` and `/state`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct SendQuery {
    /// Milliseconds after which the event is sent (MSC4140).
    #[serde(rename = "org.matrix.msc4140.delay")]
    delay_ms: Option<u64>,
    /// For how long every client is to get the event, milliseconds (MSC4354).
    #[serde(rename = "org.matrix.msc4354.sticky_duration_ms")]
    sticky_ms: Option<u64>,
}

impl SendQuery {
    /// 400 for what is longer than an event may be sticky.
    fn sticky_ms(self) -> MatrixResult<Option<u32>> {
        let Some(sticky_ms) = self.sticky_ms else { return Ok(None) };
        let sticky_ms = u32::try_from(sticky_ms).ok().filter(|ms| *ms <= STICKY_MS_MAX);
        let message = "An event is sticky for at most an hour.";
        sticky_ms.map(Some).ok_or_else(|| MatrixError::invalid_param(message))
    }
}

/// `PUT /rooms/{roomId}/send/{eventType}/{txnId}`
pub async fn send_message(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path((room_id, kind, transaction_id)): Path<(String, String, String)>,
    Query(query): Query<SendQuery>,
    timestamp: Timestamp,
    MaybeJsonBody(content): MaybeJsonBody<Map<String, Value>>,
) -> MatrixResult<Response> {
    let sticky_ms = query.sticky_ms()?;
    if query.delay_ms.is_some() && content.is_none() {
        // Who asks again what became of a request need not say it all again.
        let request = (room_id.as_str(), kind.as_str(), transaction_id.as_str());
        return Ok(delayed_events::find_repeated(&app, &session, request).await?.into_response());
    }
    let content = content.ok_or_else(|| MatrixError::not_json("The body is empty."))?;
    if let Some(delay_ms) = query.delay_ms {
        let (event, transaction) = ((kind, None, content), Some(transaction_id.as_str()));
        let times = (delay_ms, sticky_ms);
        let delayed = delayed_events::delay(&app, &session, &room_id, event, times, transaction);
        return Ok(delayed.await?.into_response());
    }
    let path = (room_id.as_str(), kind.as_str(), transaction_id);
    let content = (content, sticky_ms);
    Ok(send_now(&app, (&session.0, timestamp), path, content).await?.into_response())
}

async fn send_now(
    app: &App,
    (session, timestamp): (&Arc<Session>, Timestamp),
    (room_id, kind, transaction_id): (&str, &str, String),
    (content, sticky_ms): (Map<String, Value>, Option<u32>),
) -> MatrixResult<RawJson> {
    app.rate_limits.take(Action::Message, session, app.clock.now_ms())?;
    let room = find_joined_room(app, &session.user_id, room_id).await?;
    let sent_by = SentBy {
        user_id: session.user_id.clone(),
        device_id: session.device_id.to_string(),
        transaction_id,
        path: format!("{room_id}/{kind}"),
    };
    let mut request = EventRequest {
        sent_by: Some(sent_by),
        timestamp_ms: timestamp.of(session)?,
        sticky_ms,
        ..EventRequest::message(session.user_id.clone(), kind, Value::Object(content))
    };
    match app.rooms.check_message(&room, &mut request).await {
        Ok(()) => {}
        // The annotation that is there already may be of this very transaction.
        Err(error @ ContentError::DuplicateAnnotation) => {
            let sent = app.rooms.find_repeated(&room, &request).await?;
            return sent.map(|event| answer(&event)).ok_or(error.into());
        }
        Err(error) => return Err(error.into()),
    }
    refuse_suspended_sender(app, session, &room, request.redacts.as_ref()).await?;
    if session.is_shadow_banned {
        return Ok(pretend(app));
    }
    let event = app.rooms.send(&room, request).await?;
    app.ephemeral.presence.note_active(&session.user_id).await;
    Ok(answer(&event))
}

/// `PUT /rooms/{roomId}/redact/{eventId}/{txnId}`
pub async fn redact(
    State(app): State<AppState>,
    session: UserSession,
    Path((room_id, event_id, transaction_id)): Path<(String, String, String)>,
    OptionalJsonBody(content): OptionalJsonBody<Map<String, Value>>,
) -> MatrixResult<RawJson> {
    app.rate_limits.take(Action::Message, &session, app.clock.now_ms())?;
    if content.get("reason").is_some_and(|reason| !reason.is_string()) {
        return Err(MatrixError::bad_json("`reason` must be a text."));
    }
    let target = parse_event_id(&event_id)?;
    let room = find_joined_room(&app, &session.user_id, &room_id).await?;
    refuse_suspended_sender(&app, &session, &room, Some(&target)).await?;
    if session.is_shadow_banned {
        return Ok(pretend(&app));
    }
    let sent_by = SentBy {
        user_id: session.user_id.clone(),
        device_id: session.device_id.to_string(),
        transaction_id,
        path: format!("{room_id}/redact/{event_id}"),
    };
    let content = Value::Object(content);
    let request = EventRequest {
        sent_by: Some(sent_by),
        redacts: Some(target),
        by_administrator: session.is_admin,
        ..EventRequest::message(session.user_id.clone(), "m.room.redaction", content)
    };
    let event = app.rooms.send(&room, request).await?;
    Ok(answer(&event))
}

/// `PUT /rooms/{roomId}/state/{eventType}/{stateKey}`
pub async fn put_state(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path((room_id, kind, state_key)): Path<(String, String, String)>,
    Query(query): Query<SendQuery>,
    timestamp: Timestamp,
    JsonBody(content): JsonBody<Map<String, Value>>,
) -> MatrixResult<Response> {
    let event = (kind, state_key, content);
    set_state_or_delay(&app, (&session.0, timestamp), &room_id, event, query).await
}

/// `PUT /rooms/{roomId}/state/{eventType}`, for an empty state key.
pub async fn put_state_without_key(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path((room_id, kind)): Path<(String, String)>,
    Query(query): Query<SendQuery>,
    timestamp: Timestamp,
    JsonBody(content): JsonBody<Map<String, Value>>,
) -> MatrixResult<Response> {
    let event = (kind, String::new(), content);
    set_state_or_delay(&app, (&session.0, timestamp), &room_id, event, query).await
}

async fn set_state_or_delay(
    app: &App,
    (session, timestamp): (&Arc<Session>, Timestamp),
    room_id: &str,
    (kind, state_key, content): (String, String, Map<String, Value>),
    query: SendQuery,
) -> MatrixResult<Response> {
    let sticky_ms = query.sticky_ms()?;
    if sticky_ms.is_some() && kind == MEMBER {
        return Err(MatrixError::invalid_param("Memberships are never sticky."));
    }
    if let Some(delay_ms) = query.delay_ms {
        let event = (kind, Some(state_key), content);
        let times = (delay_ms, sticky_ms);
        let delayed = delayed_events::delay(app, session, room_id, event, times, None);
        return Ok(delayed.await?.into_response());
    }
    let content = (content, sticky_ms);
    let set = set_state(app, (session, timestamp), room_id, (kind, state_key), content);
    Ok(set.await?.into_response())
}

async fn set_state(
    app: &App,
    (session, timestamp): (&Arc<Session>, Timestamp),
    room_id: &str,
    (kind, state_key): (String, String),
    (content, sticky_ms): (Map<String, Value>, Option<u32>),
) -> MatrixResult<RawJson> {
    app.rate_limits.take(Action::Message, session, app.clock.now_ms())?;
    let timestamp_ms = timestamp.of(session)?;
    let room = find_room(app, room_id).await?;
    if kind == MEMBER {
        let target = parse_user_id(&state_key)?;
        if session.is_shadow_banned && target != session.user_id {
            return Ok(pretend(app));
        }
        let change = (target, content, timestamp_ms);
        let event = change_by_state(app, session, &room, change).await?;
        return Ok(answer(&event));
    }
    refuse_suspended(session)?;
    // Not even whether the state is there is for strangers.
    if app.rooms.membership_of(&room, &session.user_id).await? != Membership::Join {
        return Err(super::room_paths::not_in_room());
    }
    let content = Value::Object(content);
    let request = EventRequest {
        timestamp_ms,
        sticky_ms,
        ..EventRequest::state(session.user_id.clone(), &kind, &state_key, content)
    };
    app.rooms.check_state(&room, &request, app.config.rooms.state_events_max).await?;
    if session.is_shadow_banned {
        return Ok(pretend(app));
    }
    let current = app.rooms.find_state_event(&room, &kind, &state_key).await?;
    let is_said_already = |current: &Arc<StoredEvent>| {
        current.event.sender() == session.user_id
            && current.event.content_as::<Value>().is_ok_and(|c| c == request.content)
    };
    // What is to be sticky is said again.
    if let Some(current) = current.filter(is_said_already).filter(|_| sticky_ms.is_none()) {
        return Ok(answer(&current));
    }
    if request.kind == "m.room.guest_access" && state_key_is_empty(&request) {
        let changed = change_guest_access(&app.accounts, &app.rooms, &room, request).await?;
        let event = changed.ok_or(AppendError::Contended)?;
        return Ok(answer(&event));
    }
    let event = app.rooms.send(&room, request).await?;
    if event.event.is_state_of("m.room.tombstone", "")
        && let Err(error) = carry_settings_of_members(&app.accounts, &app.rooms, &room).await
    {
        tracing::warn!(room.id = %room.room_id, %error, "settings did not go along");
    }
    Ok(answer(&event))
}

/// The query parameter `ts`, with which application services say when something happened
/// (application-service API, "Timestamp massaging"). It means nothing in requests of others.
#[derive(Clone, Debug)]
pub struct Timestamp(Option<String>);

impl Timestamp {
    /// Milliseconds since the Unix epoch; 400 for what `origin_server_ts` could not be.
    fn of(&self, session: &Session) -> MatrixResult<Option<u64>> {
        let Some(text) = self.0.as_ref().filter(|_| session.appservice.is_some()) else {
            return Ok(None);
        };
        let is_possible = |ms: &u64| *ms <= TIMESTAMP_MS_MAX;
        text.parse().ok().filter(is_possible).map(Some).ok_or_else(|| {
            MatrixError::invalid_param("`ts` is no time in milliseconds since 1970.")
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Timestamp {
    type Rejection = MatrixError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> MatrixResult<Self> {
        let mut pairs = parts.uri.query().unwrap_or_default().split('&');
        let found = pairs.find_map(|pair| pair.strip_prefix("ts="));
        Ok(Self(found.map(ToOwned::to_owned)))
    }
}

fn state_key_is_empty(request: &EventRequest) -> bool {
    request.state_key.as_deref() == Some("")
}

/// Suspended users may take back what they said, and nothing else.
async fn refuse_suspended_sender(
    app: &App,
    session: &Session,
    room: &Room,
    redacts: Option<&OwnedEventId>,
) -> MatrixResult<()> {
    if !session.is_suspended {
        return Ok(());
    }
    let target = match redacts {
        Some(target) => app.rooms.find_event(room, target).await?,
        None => None,
    };
    match target.is_some_and(|target| target.event.sender() == session.user_id) {
        true => Ok(()),
        false => refuse_suspended(session),
    }
}

/// The answer to shadow-banned users: it looks as if they had been heard.
fn pretend(app: &App) -> RawJson {
    let mut random = [0; PRETENDED_ID_BYTES];
    app.clock.fill_random(&mut random);
    let event_id = BASE64_URL_SAFE_NO_PAD.encode(random);
    RawJson(format!(r#"{{"event_id":"${event_id}"}}"#).into())
}

/// As long as the hash that the ID of an event is.
const PRETENDED_ID_BYTES: usize = 32;

fn answer(event: &StoredEvent) -> RawJson {
    // Event IDs of our own never need escaping.
    RawJson(format!(r#"{{"event_id":"{}"}}"#, event.event.event_id()).into())
}

/// The membership that a content asks for.
pub fn read_membership(content: &Map<String, Value>) -> MatrixResult<Membership> {
    let content = MemberContent {
        membership: content.get("membership").cloned(),
        ..MemberContent::default()
    };
    let text = content.membership();
    text.ok_or_else(|| MatrixError::bad_json("`membership` is missing or not known."))
}
