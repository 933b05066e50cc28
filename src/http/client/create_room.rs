//! `POST /createRoom` (client-server API, "Creation").

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use ruma::{OwnedUserId, RoomAliasId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    appservice::{check_alias_is_free, ensure_user},
    invites::{invite_blocked, invite_checked, invite_user},
    room_paths::parse_user_id,
};
use crate::{
    config::PermittedTo,
    http::{
        auth::{UserSession, refuse_suspended},
        error::{MatrixError, MatrixResult},
        json::{Json, OptionalJsonBody},
        rate_limit::Action,
        state::{App, AppState},
    },
    protocol::{membership::Membership, room_version::RoomVersion},
    rooms::{
        AliasError, DirectoryVisibility, InitialState, MEMBER, MemberChange, NewRoom, Preset,
        ReservedAlias, Room, check_first_aliases,
    },
    workflows::{
        invite_address::{AddressInvite, invite_address},
        member_content::{blocks_invites, load_member_content},
    },
};

/// State events that a client gives a new room: all are made and signed in one go.
const INITIAL_STATE_MAX: usize = 5000;

/// What a client asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CreateRoomBody {
    visibility: Option<DirectoryVisibility>,
    room_alias_name: Option<String>,
    name: Option<String>,
    topic: Option<String>,
    invite: Vec<String>,
    invite_3pid: Vec<AddressInvite>,
    room_version: Option<String>,
    creation_content: Option<Map<String, Value>>,
    initial_state: Vec<InitialState>,
    preset: Option<Preset>,
    is_direct: bool,
    power_level_content_override: Option<Map<String, Value>>,
}

/// Makes a room.
pub async fn create_room(
    State(app): State<AppState>,
    session: UserSession,
    OptionalJsonBody(body): OptionalJsonBody<CreateRoomBody>,
) -> MatrixResult<Json<Value>> {
    refuse_suspended(&session)?;
    app.rate_limits.take(Action::RoomCreation, &session, app.clock.now_ms())?;
    require_permission(&app, &session, app.config.rooms.create_permission)?;
    if body.visibility == Some(DirectoryVisibility::Public) {
        require_permission(&app, &session, app.config.rooms.publish_permission)?;
    }
    // Told before there is a room.
    for invite in &body.invite_3pid {
        app.identity_servers.check_trusted(&invite.access.id_server)?;
    }
    check_initial_state(&app, &body.initial_state)?;
    let version = find_version(&app, body.room_version.as_deref())?;
    let invites = load_invites(&app, &session, &body).await?;
    let alias = match &body.room_alias_name {
        Some(name) => {
            require_permission(&app, &session, app.config.rooms.alias_permission)?;
            Some(reserve_alias(&app, &session, name).await?)
        }
        None => None,
    };
    let is_named =
        |one: &&InitialState| one.kind == "m.room.canonical_alias" && one.state_key.is_empty();
    for state in body.initial_state.iter().filter(is_named) {
        check_first_aliases(&state.content, alias.as_ref().map(|alias| &*alias.alias))?;
    }
    let (addresses, is_direct) = (body.invite_3pid, body.is_direct);
    let new = NewRoom {
        creator: session.user_id.clone(),
        version,
        visibility: body.visibility.unwrap_or_default(),
        preset: body.preset,
        name: body.name,
        topic: body.topic,
        // Whom shadow-banned users invite never learns of it.
        invites: if session.is_shadow_banned { Vec::new() } else { invites },
        creator_profile: load_member_content(&app.accounts, &session.user_id, None).await?,
        creation_content: body.creation_content.unwrap_or_default(),
        initial_state: body.initial_state,
        power_level_content_override: body.power_level_content_override.unwrap_or_default(),
    };
    let room = app.rooms.create(&new, alias.as_ref()).await?;
    app.appservices.note_aliases_changed();
    invite_others(&app, &room, new).await;
    if !session.is_shadow_banned {
        invite_addresses(&app, &session, &room, (&addresses, is_direct)).await;
    }
    Ok(Json(json!({ "room_id": room.room_id })))
}

/// Whom to invite is said by `invite`, where it is asked whether they would have it.
fn check_initial_state(app: &App, state: &[InitialState]) -> MatrixResult<()> {
    if state.len() > app.config.rooms.state_events_max.min(INITIAL_STATE_MAX) {
        return Err(MatrixError::invalid_param("This is too much state to begin with."));
    }
    let invites = |one: &InitialState| {
        one.kind == MEMBER && one.content.get("membership").is_some_and(|text| text == "invite")
    };
    match state.iter().any(invites) {
        true => Err(MatrixError::bad_json("Invitations belong in `invite`, not `initial_state`.")),
        false => Ok(()),
    }
}

/// Invites those of other servers, whose servers have to agree. The room is there in any case.
async fn invite_others(app: &App, room: &Arc<Room>, new: NewRoom) {
    let own_name = app.rooms.server_name();
    let others = new.invites.into_iter().filter(|(user, _)| user.server_name() != own_name);
    for (target, content) in others {
        let change = MemberChange {
            sender: new.creator.clone(),
            target,
            membership: Membership::Invite,
            content,
            is_guest: false,
        };
        if let Err(error) = invite_user(app, room, change).await {
            let reason = error.message;
            tracing::info!(room.id = %room.room_id, %reason, "an invitation to a new room failed");
        }
    }
}

/// Invites mail addresses. The room is there in any case.
async fn invite_addresses(
    app: &App,
    session: &UserSession,
    room: &Arc<Room>,
    (invites, is_direct): (&[AddressInvite], bool),
) {
    let invite_one = async |invite: &AddressInvite| -> MatrixResult<()> {
        let parts = (&app.rooms, &*app.accounts, &app.identity_servers);
        let Some(target) = invite_address(parts, room, &session.user_id, invite).await? else {
            return Ok(());
        };
        invite_checked(app, session, room, target, (None, is_direct)).await
    };
    for invite in invites {
        if let Err(error) = invite_one(invite).await {
            let reason = error.message;
            tracing::info!(room.id = %room.room_id, %reason, "an address was not invited");
        }
    }
}

/// The version that a client names, or the configured one.
pub fn find_version(app: &App, version: Option<&str>) -> MatrixResult<RoomVersion> {
    let version = version.unwrap_or(app.config.rooms.default_version.as_str());
    RoomVersion::parse(version).ok_or_else(|| {
        let message = "This server does not support this room version.";
        MatrixError::new(StatusCode::BAD_REQUEST, "M_UNSUPPORTED_ROOM_VERSION", message)
    })
}

/// Refuses what the configuration leaves to administrators.
pub fn require_permission(
    _app: &App,
    session: &UserSession,
    permitted_to: PermittedTo,
) -> MatrixResult<()> {
    match permitted_to {
        PermittedTo::Administrators if !session.is_admin => {
            Err(MatrixError::forbidden("Only administrators of this server can do this."))
        }
        _ => Ok(()),
    }
}

async fn reserve_alias(
    app: &App,
    session: &UserSession,
    name: &str,
) -> MatrixResult<ReservedAlias> {
    let alias = RoomAliasId::parse(format!("#{name}:{}", app.rooms.server_name()));
    let alias = alias.ok().filter(|_| !name.is_empty() && !name.contains(':'));
    let alias = alias.ok_or_else(|| {
        MatrixError::invalid_param("`room_alias_name` is not the local part of an alias.")
    })?;
    check_alias_is_free(app, session, &alias)?;
    app.rooms.reserve_alias(&alias).await.map_err(|error| match error {
        AliasError::InUse(_) => {
            let message = "There is a room with this alias.";
            MatrixError::new(StatusCode::BAD_REQUEST, "M_ROOM_IN_USE", message)
        }
        error => error.into(),
    })
}

/// Whom to invite, each once, with what their member events will say.
async fn load_invites(
    app: &App,
    session: &UserSession,
    body: &CreateRoomBody,
) -> MatrixResult<Vec<(OwnedUserId, Map<String, Value>)>> {
    if body.invite.len() + body.invite_3pid.len() > app.config.rooms.creation_invites_max {
        return Err(MatrixError::invalid_param("This is too many people to invite at once."));
    }
    let creator = &session.user_id;
    let mut invites: Vec<(OwnedUserId, Map<String, Value>)> = Vec::new();
    for user_id in &body.invite {
        let user_id = parse_user_id(user_id)?;
        if user_id == *creator || invites.iter().any(|(known, _)| *known == user_id) {
            continue;
        }
        ensure_user(app, &user_id).await?;
        if blocks_invites(&app.accounts, &user_id, creator).await? {
            return Err(invite_blocked());
        }
        let party = (&**session, &*user_id);
        app.rate_limits.take_of_target(Action::InviteOfUser, party, app.clock.now_ms())?;
        let mut content = load_member_content(&app.accounts, &user_id, None).await?;
        if body.is_direct {
            content.insert("is_direct".to_owned(), true.into());
        }
        invites.push((user_id, content));
    }
    Ok(invites)
}
