//! Inviting users and mail addresses to rooms (client-server API, "Room membership", "Third-party
//! invites").

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::Value;

use super::{
    appservice::ensure_user,
    room_paths::{await_target, find_room, parse_user_id},
    rooms_membership::refuse_blocked_room,
};
use crate::{
    accounts::sessions::Session,
    federation::IdentityAccess,
    http::{
        auth::{UserSession, refuse_suspended},
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, Path},
        rate_limit::Action,
        state::{App, AppState},
    },
    protocol::membership::Membership,
    rooms::{EventRequest, MEMBER, MemberChange, Room},
    workflows::{
        invite_address::{AddressInvite, InviteAddressError, invite_address},
        member_content::{blocks_invites, load_member_content},
    },
};

/// The body of `/invite` in its two forms.
#[derive(Debug, Deserialize)]
pub struct InviteBody {
    user_id: Option<String>,
    reason: Option<String>,
    medium: Option<String>,
    address: Option<String>,
    id_server: Option<String>,
    id_access_token: Option<String>,
}

/// `POST /rooms/{roomId}/invite`
pub async fn invite(
    State(app): State<AppState>,
    session: UserSession,
    Path(room_id): Path<String>,
    JsonBody(body): JsonBody<InviteBody>,
) -> MatrixResult<Json<Empty>> {
    refuse_suspended(&session)?;
    app.rate_limits.take(Action::Invite, &session, app.clock.now_ms())?;
    let room = find_room(&app, &room_id).await?;
    let target = match (&body.user_id, body.read_address()?) {
        (Some(user_id), _) => parse_user_id(user_id)?,
        (None, Some(_)) if session.is_shadow_banned => return Ok(Json(Empty {})),
        (None, Some(invite)) => {
            let parts = (&app.rooms, &*app.accounts, &app.identity_servers);
            match invite_address(parts, &room, &session.user_id, &invite).await? {
                Some(user) => user,
                None => return Ok(Json(Empty {})),
            }
        }
        (None, None) => return Err(MatrixError::bad_json("`user_id` is missing.")),
    };
    invite_checked(&app, &session, &room, target, (body.reason.as_deref(), false)).await?;
    Ok(Json(Empty {}))
}

impl InviteBody {
    /// The form that names no user.
    fn read_address(&self) -> MatrixResult<Option<AddressInvite>> {
        let Some(medium) = self.medium.clone() else { return Ok(None) };
        let (Some(address), Some(id_server)) = (self.address.clone(), self.id_server.clone())
        else {
            return Err(MatrixError::missing_param("`address` and `id_server` are needed."));
        };
        let id_access_token = self.id_access_token.clone().unwrap_or_default();
        let access = IdentityAccess { id_server, id_access_token };
        Ok(Some(AddressInvite { access, medium, address }))
    }
}

/// Invites a user who takes invitations, within the limits.
pub async fn invite_checked(
    app: &App,
    session: &Session,
    room: &Arc<Room>,
    target: OwnedUserId,
    (reason, is_direct): (Option<&str>, bool),
) -> MatrixResult<()> {
    ensure_user(app, &target).await?;
    await_target(app, room, &target).await?;
    refuse_blocked_room(app, session, &room.room_id)?;
    refuse_blocked_invite(app, session, room, &target).await?;
    if session.is_shadow_banned {
        return Ok(());
    }
    // However many accounts invite one user, they shall not be flooded.
    let party = (session, &*target);
    app.rate_limits.take_of_target(Action::InviteOfUser, party, app.clock.now_ms())?;
    let mut content = load_member_content(&app.accounts, &target, reason).await?;
    if is_direct {
        content.insert("is_direct".to_owned(), true.into());
    }
    let sender = session.user_id.clone();
    let membership = Membership::Invite;
    let change = MemberChange { sender, target, membership, content, is_guest: false };
    invite_user(app, room, change).await
}

/// Invites somebody of this server or of another one; without effect for who is invited already.
pub async fn invite_user(
    app: &App,
    room: &Arc<Room>,
    mut change: MemberChange,
) -> MatrixResult<()> {
    if change.target.server_name() == app.rooms.server_name() {
        return Ok(app.rooms.invite(room, change).await?);
    }
    let invited = app.rooms.membership_of(room, &change.target).await? == Membership::Invite;
    if invited && app.rooms.membership_of(room, &change.sender).await? == Membership::Join {
        return Ok(());
    }
    change.content.insert("membership".to_owned(), Membership::Invite.as_str().into());
    let content = Value::Object(change.content);
    let request = EventRequest::state(change.sender, MEMBER, change.target.as_str(), content);
    app.federation.invite_remote(room, &change.target, &request).await?;
    Ok(())
}

impl From<InviteAddressError> for MatrixError {
    fn from(error: InviteAddressError) -> Self {
        match error {
            InviteAddressError::NotAllowed => Self::forbidden("You may not invite to this room."),
            InviteAddressError::InvalidAddress => Self::invalid_param("This is no mail address."),
            InviteAddressError::Identity(error) => error.into(),
            InviteAddressError::Append(error) => error.into(),
            InviteAddressError::Storage(error) => error.into(),
        }
    }
}

/// The answer for users who refuse invitations.
pub fn invite_blocked() -> MatrixError {
    let message = "This user does not take invitations of yours.";
    MatrixError::new(StatusCode::FORBIDDEN, "M_INVITE_BLOCKED", message)
}

/// Only who may invite learns that somebody takes no invitations.
pub async fn refuse_blocked_invite(
    app: &App,
    session: &Session,
    room: &Arc<Room>,
    target: &OwnedUserId,
) -> MatrixResult<()> {
    let is_member = app.rooms.membership_of(room, &session.user_id).await? == Membership::Join;
    match is_member && blocks_invites(&app.accounts, target, &session.user_id).await? {
        true => Err(invite_blocked()),
        false => Ok(()),
    }
}
