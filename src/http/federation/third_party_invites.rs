//! `/3pid/onbind` and `/exchange_third_party_invite` (server-server API, "Third-party invites").

use axum::extract::State;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    federation::{BOUND_INVITES_MAX, BoundInvite, HandshakeError, PeerError},
    http::{
        auth::{ClientAddress, SignedBody},
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, Path},
        rate_limit::Action,
        state::AppState,
    },
    rooms::MEMBER,
};

/// The body of `/3pid/onbind`.
#[derive(Debug, Deserialize)]
pub struct OnBindBody {
    #[serde(default)]
    invites: Vec<BoundInvite>,
}

/// The body of `/exchange_third_party_invite`: a member event in part.
#[derive(Debug, Deserialize)]
pub struct ExchangeBody {
    #[serde(rename = "type")]
    kind: String,
    room_id: OwnedRoomId,
    sender: OwnedUserId,
    state_key: OwnedUserId,
    content: ExchangeContent,
}

#[derive(Debug, Deserialize)]
struct ExchangeContent {
    membership: String,
    third_party_invite: ExchangeInvite,
}

#[derive(Debug, Deserialize)]
struct ExchangeInvite {
    signed: Map<String, Value>,
}

/// `PUT /3pid/onbind`, and `POST`, which Sydent uses. Identity servers do not sign it: what counts is
/// their signature in each invitation.
pub async fn on_bind(
    State(app): State<AppState>,
    address: ClientAddress,
    JsonBody(body): JsonBody<OnBindBody>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take_of_address(Action::Invite, address.0, app.clock.now_ms())?;
    let mut failure = None;
    for invite in body.invites.iter().take(BOUND_INVITES_MAX) {
        let (user, room) = (&invite.mxid, &invite.room_id);
        match app.federation.take_bound_invite(&app.identity_servers, invite).await {
            Ok(()) => {}
            // The identity server tries again when it hears of a failure, which helps only here.
            Err(
                error @ (HandshakeError::Peer(PeerError::Unreachable { .. })
                | HandshakeError::IdentityServer(_)),
            ) => {
                tracing::info!(user.id = %user, room.id = %room, %error, "no invitation yet");
                failure = Some(error);
            }
            Err(error) => {
                tracing::info!(user.id = %user, room.id = %room, %error, "no invitation was made");
            }
        }
    }
    match failure {
        None => Ok(Json(Empty {})),
        Some(error) => Err(error.into()),
    }
}

/// `PUT /exchange_third_party_invite/{roomId}`
pub async fn exchange(
    State(app): State<AppState>,
    Path(room_id): Path<OwnedRoomId>,
    SignedBody(origin, body): SignedBody<ExchangeBody>,
) -> MatrixResult<Json<Empty>> {
    if body.kind != MEMBER || body.content.membership != "invite" || body.room_id != room_id {
        return Err(MatrixError::invalid_param("This is no invitation to this room."));
    }
    if body.state_key.server_name() != origin {
        return Err(MatrixError::forbidden("The invited user is not one of your server."));
    }
    let invite = BoundInvite {
        mxid: body.state_key,
        room_id,
        sender: body.sender,
        signed: body.content.third_party_invite.signed,
    };
    app.federation.exchange_invite(&app.identity_servers, &invite).await?;
    Ok(Json(Empty {}))
}
