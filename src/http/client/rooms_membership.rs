//! Joining, leaving, knocking, and what moderators do (client-server API, "Room
//! membership").

use std::sync::Arc;

use axum::extract::State;
use ruma::{OwnedServerName, OwnedUserId, RoomId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    appservice::ensure_user,
    invites::{invite_user, refuse_blocked_invite},
    room_paths::{
        await_target, find_by_alias, find_known_room, find_room, not_in_room, parse_room_name,
        parse_user_id, unknown_room,
    },
    send::read_membership,
};
use crate::{
    accounts::sessions::Session,
    federation::RemoteEntry,
    http::{
        auth::{UserOrGuestSession, UserSession, refuse_suspended},
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, OptionalJsonBody, Path, Query},
        rate_limit::Action,
        state::{App, AppState},
    },
    protocol::membership::Membership,
    rooms::{MemberChange, MembershipError, Room, RoomName, StoredEvent},
    workflows::{
        carry_over::carry_settings_over,
        member_content::load_member_content,
        room_place::{RoomPlace, find_place, join_here},
    },
};

/// The body of `/join` and `/knock`.
#[derive(Debug, Default, Deserialize)]
pub struct EnterBody {
    reason: Option<String>,
    third_party_signed: Option<Map<String, Value>>,
    /// Whatever else a client gives goes into the member event, as clients are used to from other
    /// servers (tests of theirs rely on it; the specification is silent).
    #[serde(flatten)]
    custom: Map<String, Value>,
}

/// Servers that may know the room: `via`, and `server_name` of older clients.
#[derive(Debug, Default, Deserialize)]
pub struct ViaQuery {
    #[serde(default)]
    via: Vec<OwnedServerName>,
    #[serde(default)]
    server_name: Vec<OwnedServerName>,
}

/// What the server alone puts into a member event.
const RESERVED_MEMBER_FIELDS: [&str; 3] =
    ["membership", "third_party_invite", "join_authorised_via_users_server"];

/// The body of `/leave`.
#[derive(Debug, Default, Deserialize)]
pub struct LeaveBody {
    reason: Option<String>,
}

/// The body of `/kick`, `/ban` and `/unban`.
#[derive(Debug, Deserialize)]
pub struct TargetBody {
    user_id: String,
    reason: Option<String>,
}

/// What a moderator does to somebody.
#[derive(Clone, Copy)]
enum Moderation {
    Kick,
    Ban,
    Unban,
}

/// `POST /rooms/{roomId}/join`
pub async fn join_by_id(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path(room_id): Path<String>,
    OptionalJsonBody(body): OptionalJsonBody<EnterBody>,
) -> MatrixResult<Json<Value>> {
    let place = locate(&app, &session.0, &room_id, ViaQuery::default()).await?;
    enter(&app, &session.0, place, body).await
}

/// `POST /join/{roomIdOrAlias}`
pub async fn join_by_name(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path(name): Path<String>,
    Query(via): Query<ViaQuery>,
    OptionalJsonBody(body): OptionalJsonBody<EnterBody>,
) -> MatrixResult<Json<Value>> {
    let place = locate(&app, &session.0, &name, via).await?;
    enter(&app, &session.0, place, body).await
}

/// `POST /knock/{roomIdOrAlias}`
pub async fn knock(
    State(app): State<AppState>,
    session: UserSession,
    Path(name): Path<String>,
    Query(via): Query<ViaQuery>,
    OptionalJsonBody(body): OptionalJsonBody<EnterBody>,
) -> MatrixResult<Json<Value>> {
    refuse_suspended(&session)?;
    app.rate_limits.take(Action::Join, &session, app.clock.now_ms())?;
    let place = locate(&app, &session.0, &name, via).await?;
    refuse_blocked_room(&app, &session, place.room_id())?;
    let change = own_change(&app, &session, Membership::Knock, body.reason.as_deref()).await?;
    let room_id = match place {
        RoomPlace::Here(room) => {
            app.rooms.change_membership(&room, change).await?;
            room.room_id.clone()
        }
        RoomPlace::Elsewhere { room_id, servers } => {
            let entry =
                RemoteEntry { user: change.target, room_id, servers, content: change.content };
            app.federation.knock_remote(&entry).await?;
            entry.room_id
        }
    };
    Ok(Json(json!({ "room_id": room_id })))
}

/// `POST /rooms/{roomId}/leave`
pub async fn leave(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path(room_id): Path<String>,
    OptionalJsonBody(body): OptionalJsonBody<LeaveBody>,
) -> MatrixResult<Json<Empty>> {
    let room = find_known_room(&app, &room_id).await?;
    refuse_leaving_notices(&app, &session, &room).await?;
    let content = reason_content(body.reason);
    let target = session.user_id.clone();
    if !app.rooms.is_server_in_room(&room, app.rooms.server_name()).await? {
        app.federation.leave_unjoined(&room, &target, content).await?;
        return Ok(Json(Empty {}));
    }
    let change = change(&session.0, target, Membership::Leave, content);
    app.rooms.leave(&room, change).await?;
    app.ephemeral.note_membership(&room, &session.user_id, Membership::Leave).await;
    Ok(Json(Empty {}))
}

/// `POST /rooms/{roomId}/forget`
pub async fn forget(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path(room_id): Path<String>,
) -> MatrixResult<Json<Empty>> {
    let room = find_known_room(&app, &room_id).await?;
    let rooms = app.rooms.rooms_of(&session.user_id).await?;
    if rooms.find(room.nid).is_none_or(|place| place.forgotten) {
        return Ok(Json(Empty {}));
    }
    match app.rooms.forget(&session.user_id, &room).await? {
        true => Ok(Json(Empty {})),
        false => Err(MatrixError::bad_request("You have not left this room.")),
    }
}

/// `POST /rooms/{roomId}/kick`
pub async fn kick(
    State(app): State<AppState>,
    session: UserSession,
    Path(room_id): Path<String>,
    JsonBody(body): JsonBody<TargetBody>,
) -> MatrixResult<Json<Empty>> {
    moderate(&app, &session.0, &room_id, body, Moderation::Kick).await
}

/// `POST /rooms/{roomId}/ban`
pub async fn ban(
    State(app): State<AppState>,
    session: UserSession,
    Path(room_id): Path<String>,
    JsonBody(body): JsonBody<TargetBody>,
) -> MatrixResult<Json<Empty>> {
    moderate(&app, &session.0, &room_id, body, Moderation::Ban).await
}

/// `POST /rooms/{roomId}/unban`
pub async fn unban(
    State(app): State<AppState>,
    session: UserSession,
    Path(room_id): Path<String>,
    JsonBody(body): JsonBody<TargetBody>,
) -> MatrixResult<Json<Empty>> {
    moderate(&app, &session.0, &room_id, body, Moderation::Unban).await
}

/// `GET /joined_rooms`
pub async fn get_joined_rooms(
    State(app): State<AppState>,
    session: UserSession,
) -> MatrixResult<Json<Value>> {
    let rooms = app.rooms.rooms_of(&session.user_id).await?;
    let joined: Vec<_> =
        rooms.list_joined().into_iter().map(|place| place.room.room_id.clone()).collect();
    Ok(Json(json!({ "joined_rooms": joined })))
}

/// A member event that a client sends as state: whose, what it says, and for application services
/// when it happened.
pub async fn change_by_state(
    app: &App,
    session: &Arc<Session>,
    room: &Arc<Room>,
    (target, mut content, timestamp_ms): (OwnedUserId, Map<String, Value>, Option<u64>),
) -> MatrixResult<Arc<StoredEvent>> {
    let membership = read_membership(&content)?;
    let is_own_leave = membership == Membership::Leave && target == session.user_id;
    match is_own_leave {
        true => refuse_leaving_notices(app, session, room).await?,
        false => refuse_suspended(session)?,
    }
    if membership == Membership::Invite {
        ensure_user(app, &target).await?;
        refuse_blocked_invite(app, session, room, &target).await?;
        app.rate_limits.take(Action::Invite, session, app.clock.now_ms())?;
        let party = (&**session, &*target);
        app.rate_limits.take_of_target(Action::InviteOfUser, party, app.clock.now_ms())?;
    }
    if matches!(membership, Membership::Join | Membership::Knock | Membership::Invite) {
        refuse_blocked_room(app, session, &room.room_id)?;
    }
    // As with the endpoints of their own, name and picture are added unless the client says so.
    if matches!(membership, Membership::Join | Membership::Invite | Membership::Knock) {
        for (key, value) in load_member_content(&app.accounts, &target, None).await? {
            content.entry(key).or_insert(value);
        }
    }
    await_target(app, room, &target).await?;
    let change = change(session, target.clone(), membership, content);
    if membership == Membership::Invite && target.server_name() != app.rooms.server_name() {
        invite_user(app, room, change).await?;
        let event = app.rooms.find_member(room, &target).await?;
        return event.ok_or_else(|| MembershipError::NotInRoom.into());
    }
    let event = app.rooms.change_membership_at(room, change, timestamp_ms).await?;
    app.ephemeral.note_membership(room, &target, membership).await;
    Ok(event)
}

/// Finds the room that a user wants to enter or to know of, wherever it is.
pub async fn locate(
    app: &App,
    session: &Session,
    name: &str,
    via: ViaQuery,
) -> MatrixResult<RoomPlace> {
    let name = parse_room_name(name)?;
    if let RoomName::Alias(alias) = &name {
        // An application service may make it now.
        find_by_alias(app, alias).await?;
    }
    let via = via.via.into_iter().chain(via.server_name).collect();
    let parts = (&app.rooms, &app.federation);
    find_place(parts, &session.user_id, &name, via).await?.ok_or_else(unknown_room)
}

async fn enter(
    app: &App,
    session: &Arc<Session>,
    place: RoomPlace,
    body: EnterBody,
) -> MatrixResult<Json<Value>> {
    refuse_suspended(session)?;
    app.rate_limits.take(Action::Join, session, app.clock.now_ms())?;
    refuse_blocked_room(app, session, place.room_id())?;
    let mut change = own_change(app, session, Membership::Join, body.reason.as_deref()).await?;
    let is_custom = |(field, _): &(String, Value)| !RESERVED_MEMBER_FIELDS.contains(&&**field);
    change.content.extend(body.custom.into_iter().filter(is_custom));
    let room = match place {
        RoomPlace::Here(room) => {
            match &body.third_party_signed {
                Some(signed) => app.rooms.join_by_third_party(&room, change, signed).await?,
                None => join_here((&app.rooms, &app.federation), &room, change).await?,
            }
            room
        }
        // Whether a room elsewhere takes guests is not known before.
        RoomPlace::Elsewhere { .. } if session.is_guest => {
            return Err(MembershipError::GuestsForbidden.into());
        }
        RoomPlace::Elsewhere { room_id, servers } => {
            let (user, content) = (change.target, change.content);
            let entry = RemoteEntry { user, room_id, servers, content };
            app.federation.join_remote(&entry).await?
        }
    };
    carry_settings(app, &session.user_id, &room).await;
    app.ephemeral.note_membership(&room, &session.user_id, Membership::Join).await;
    Ok(Json(json!({ "room_id": room.room_id })))
}

/// The settings of the room that this one replaces. Without them the user is in all the same.
pub async fn carry_settings(app: &App, user_id: &ruma::UserId, room: &Room) {
    if let Err(error) = carry_settings_over(&app.accounts, &app.rooms, user_id, room).await {
        tracing::warn!(room.id = %room.room_id, %error, "settings did not go along");
    }
}

async fn own_change(
    app: &App,
    session: &Session,
    membership: Membership,
    reason: Option<&str>,
) -> MatrixResult<MemberChange> {
    let content = load_member_content(&app.accounts, &session.user_id, reason).await?;
    Ok(change(session, session.user_id.clone(), membership, content))
}

async fn moderate(
    app: &App,
    session: &Arc<Session>,
    room_id: &str,
    body: TargetBody,
    moderation: Moderation,
) -> MatrixResult<Json<Empty>> {
    let target = parse_user_id(&body.user_id)?;
    let room = find_room(app, room_id).await?;
    refuse_suspended(session)?;
    // Strangers do not learn what somebody is to the room.
    if app.rooms.membership_of(&room, &session.user_id).await? != Membership::Join {
        return Err(not_in_room());
    }
    await_target(app, &room, &target).await?;
    let membership = match moderation {
        Moderation::Kick | Moderation::Unban => Membership::Leave,
        Moderation::Ban => Membership::Ban,
    };
    let change = change(session, target.clone(), membership, reason_content(body.reason));
    match moderation {
        Moderation::Kick => app.rooms.kick(&room, change).await?,
        Moderation::Ban => app.rooms.change_membership(&room, change).await.map(drop)?,
        Moderation::Unban => app.rooms.unban(&room, change).await?,
    };
    app.ephemeral.note_membership(&room, &target, membership).await;
    Ok(Json(Empty {}))
}

/// 403 for a room that an administrator has closed; administrators themselves may enter.
pub fn refuse_blocked_room(app: &App, session: &Session, room_id: &RoomId) -> MatrixResult<()> {
    match app.rooms.find_closer(room_id) {
        Some(_) if !session.is_admin => {
            Err(MatrixError::forbidden("This room has been blocked on this server."))
        }
        _ => Ok(()),
    }
}

/// What the server has to say can be left behind, but not refused ("Server Notices").
async fn refuse_leaving_notices(app: &App, session: &Session, room: &Room) -> MatrixResult<()> {
    let is_invited = app.rooms.membership_of(room, &session.user_id).await? == Membership::Invite;
    if is_invited && app.notices.is_notice_room(&room.room_id, &session.user_id).await? {
        let message = "You cannot refuse what this server has to say; join the room to leave it.";
        let errcode = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM";
        return Err(MatrixError::new(axum::http::StatusCode::FORBIDDEN, errcode, message));
    }
    Ok(())
}

fn change(
    session: &Session,
    target: OwnedUserId,
    membership: Membership,
    content: Map<String, Value>,
) -> MemberChange {
    let sender = session.user_id.clone();
    MemberChange { sender, target, membership, content, is_guest: session.is_guest }
}

fn reason_content(reason: Option<String>) -> Map<String, Value> {
    reason.into_iter().map(|reason| ("reason".to_owned(), reason.into())).collect()
}
