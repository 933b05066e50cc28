//! `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}` and its older form (Server-Server API,
//! "Inviting to a room").

use axum::extract::State;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, ServerName};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use crate::{
    federation::{ArrivedInvite, HandshakeError},
    http::{
        auth::{SignedBody, SignedText},
        error::{MatrixError, MatrixResult},
        json::{Path, RawJson, parse_json},
        rate_limit::Action,
        state::{App, AppState},
    },
    protocol::room_version::RoomVersion,
    workflows::member_content::blocks_invites,
};

/// The body of the newer form.
#[derive(Debug, Deserialize)]
pub struct InviteBody {
    room_version: String,
    event: Box<RawValue>,
    #[serde(default)]
    invite_room_state: Vec<Value>,
}

/// `PUT /v2/invite/{roomId}/{eventId}`
pub async fn put_invite(
    State(app): State<AppState>,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
    SignedBody(origin, body): SignedBody<InviteBody>,
) -> MatrixResult<RawJson> {
    let version = RoomVersion::parse(&body.room_version)
        .ok_or(HandshakeError::UnknownVersion(body.room_version))?;
    let invite = ArrivedInvite {
        version,
        event: Box::<str>::from(body.event).into_string(),
        invite_room_state: body.invite_room_state,
    };
    let signed = take(&app, &origin, (&room_id, &event_id), invite).await?;
    Ok(RawJson(format!("{{\"event\":{signed}}}").into()))
}

/// `PUT /v1/invite/{roomId}/{eventId}`, for rooms of version 1 and 2: the event itself, with the
/// state in `unsigned`.
pub async fn put_invite_v1(
    State(app): State<AppState>,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
    SignedText(origin, text): SignedText,
) -> MatrixResult<RawJson> {
    let event: Map<String, Value> = parse_json(text.as_bytes())?;
    let state = event.get("unsigned").and_then(|unsigned| unsigned.get("invite_room_state"));
    let state = state.and_then(Value::as_array).cloned().unwrap_or_default();
    let invite = ArrivedInvite { version: RoomVersion::V1, event: text, invite_room_state: state };
    let signed = take(&app, &origin, (&room_id, &event_id), invite).await?;
    Ok(RawJson(format!("[200,{{\"event\":{signed}}}]").into()))
}

async fn take(
    app: &App,
    origin: &ServerName,
    place: (&RoomId, &EventId),
    invite: ArrivedInvite,
) -> MatrixResult<String> {
    let (target, inviter) = match app.federation.find_invited(origin, place, &invite).await {
        Ok(users) => users,
        // "M_FORBIDDEN … the homeserver does not permit anyone to invite its users".
        Err(HandshakeError::UnknownUser) => {
            return Err(MatrixError::forbidden("There is no such user here."));
        }
        Err(error) => return Err(error.into()),
    };
    if blocks_invites(&app.accounts, &target, &inviter).await? {
        return Err(HandshakeError::InviteBlocked.into());
    }
    if app.rooms.find_closer(place.0).is_some() {
        return Err(MatrixError::forbidden("This room has been blocked on this server."));
    }
    app.rate_limits.take_of_user(Action::InviteOfUser, &target, app.clock.now_ms())?;
    let signed = app.federation.take_invite(origin, place, invite).await?;
    Ok(signed.json().to_owned())
}
