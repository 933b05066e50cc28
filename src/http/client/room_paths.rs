//! Rooms, events and users as paths name them, and who reads them: shared by the handlers of
//! rooms.

use std::{collections::HashSet, sync::Arc, time::Duration};

use axum::http::StatusCode;
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomAliasId, RoomId, UserId};

use crate::{
    accounts::sessions::Session,
    http::{
        error::{MatrixError, MatrixResult},
        state::App,
    },
    protocol::membership::Membership,
    rooms::{Access, Reader, Room, RoomName, StoredEvent, Viewer},
};

/// How long a request waits for the members of a room that was entered without them.
const MEMBERS_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// A room that the path names by its ID. Whether an unknown room exists is nobody's business:
/// 403, as for rooms that the user is not in.
pub async fn find_room(app: &App, room_id: &str) -> MatrixResult<Arc<Room>> {
    let parsed = <&RoomId>::try_from(room_id);
    let parsed = parsed.map_err(|_| MatrixError::invalid_param("This is not a room ID."))?;
    app.rooms.find(parsed).await?.ok_or_else(not_in_room)
}

/// As [`find_room`], where the specification has 404.
pub async fn find_known_room(app: &App, room_id: &str) -> MatrixResult<Arc<Room>> {
    let parsed = <&RoomId>::try_from(room_id);
    let parsed = parsed.map_err(|_| MatrixError::invalid_param("This is not a room ID."))?;
    app.rooms.find(parsed).await?.ok_or_else(unknown_room)
}

/// The ID or alias of a room.
pub fn parse_room_name(name: &str) -> MatrixResult<RoomName> {
    RoomName::parse(name)
        .ok_or_else(|| MatrixError::invalid_param("This is neither the ID nor an alias of a room."))
}

/// A room that the path names by ID or alias.
pub async fn find_named_room(app: &App, name: &str) -> MatrixResult<Arc<Room>> {
    let parsed = parse_room_name(name)?;
    match parsed {
        RoomName::Id(_) => app.rooms.find_named(&parsed).await?.ok_or_else(unknown_room),
        RoomName::Alias(alias) => find_by_alias(app, &alias).await?.ok_or_else(unknown_room),
    }
}

/// The room of an alias, which an application service may make now that somebody asks for it
/// (application-service API, "Querying").
pub async fn find_by_alias(app: &App, alias: &RoomAliasId) -> MatrixResult<Option<Arc<Room>>> {
    let found = app.rooms.find_by_alias(alias).await?;
    if found.is_some() || alias.server_name() != app.rooms.server_name() {
        return Ok(found);
    }
    match app.appservices.query_alias(alias).await? {
        true => Ok(app.rooms.find_by_alias(alias).await?),
        false => Ok(None),
    }
}

/// A room that the user is in.
pub async fn find_joined_room(
    app: &App,
    user_id: &UserId,
    room_id: &str,
) -> MatrixResult<Arc<Room>> {
    let room = find_room(app, room_id).await?;
    match app.rooms.membership_of(&room, user_id).await? {
        Membership::Join => Ok(room),
        _ => Err(not_in_room()),
    }
}

/// Waits until the members of a room are known that was entered without them (MSC3902).
pub async fn await_members(app: &App, room: &Room) -> MatrixResult<()> {
    if room.head().partial().is_none() {
        return Ok(());
    }
    let waited = tokio::time::timeout(MEMBERS_TIMEOUT, app.rooms.await_whole(room)).await;
    waited.map_err(|_| {
        let message = "The members of this room are still being fetched from other servers.";
        MatrixError::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", message)
    })
}

/// Waits until it is known what somebody elsewhere is to a room that was entered without its members.
pub async fn await_target(app: &App, room: &Room, target: &UserId) -> MatrixResult<()> {
    let is_ours = target.server_name() == app.rooms.server_name();
    if is_ours || app.rooms.find_member(room, target).await?.is_some() {
        return Ok(());
    }
    await_members(app, room).await
}

/// A user's view of a room of which they may read at least a part.
pub async fn find_readable_room(
    app: &App,
    user_id: &UserId,
    room_id: &str,
) -> MatrixResult<Viewer> {
    let room = find_room(app, room_id).await?;
    let viewer = app.rooms.viewer(&room, user_id).await?;
    match viewer.access().await? {
        Access::None => Err(not_in_room()),
        // What was forgotten cannot be read any more (client-server API, "Leaving rooms").
        Access::UntilLeft if has_forgotten(app, user_id, &room).await? => Err(not_in_room()),
        _ => Ok(viewer),
    }
}

/// An event that the user may see, and their view of its room. Everything else is 404.
pub async fn find_visible_event(
    app: &App,
    user_id: &UserId,
    room_id: &str,
    event_id: &str,
) -> MatrixResult<(Viewer, Arc<StoredEvent>)> {
    let event_id = <&EventId>::try_from(event_id).map_err(|_| unknown_event())?;
    let viewer = find_readable_room(app, user_id, room_id).await.map_err(hide_room)?;
    let event = app.rooms.find_event(viewer.room(), event_id).await?;
    let event = event.ok_or_else(unknown_event)?;
    match viewer.sees(&event).await? {
        true => Ok((viewer, event)),
        false => Err(unknown_event()),
    }
}

/// Whose events the user does not want to see.
pub async fn load_ignored_users(
    app: &App,
    user_id: &UserId,
) -> MatrixResult<Arc<HashSet<OwnedUserId>>> {
    Ok(app.accounts.load_ignored_users(user_id).await?)
}

/// Who reads, outside of /sync.
pub fn reader<'a>(
    app: &App,
    session: &'a Session,
    ignored: &'a HashSet<OwnedUserId>,
) -> Reader<'a> {
    Reader {
        user_id: &session.user_id,
        device_id: Some(session.device_id.as_str()),
        ignored,
        now_ms: app.clock.now_ms(),
        with_room_id: true,
    }
}

pub fn parse_event_id(event_id: &str) -> MatrixResult<OwnedEventId> {
    EventId::parse(event_id).map_err(|_| MatrixError::invalid_param("This is not an event ID."))
}

pub fn parse_user_id(user_id: &str) -> MatrixResult<OwnedUserId> {
    UserId::parse(user_id).map_err(|_| MatrixError::invalid_param("This is not a user ID."))
}

pub fn not_in_room() -> MatrixError {
    MatrixError::forbidden("You are not in this room.")
}

pub fn unknown_room() -> MatrixError {
    MatrixError::not_found("There is no such room.")
}

pub fn unknown_event() -> MatrixError {
    MatrixError::not_found("There is no such event, or you may not see it.")
}

async fn has_forgotten(app: &App, user_id: &UserId, room: &Room) -> MatrixResult<bool> {
    let rooms = app.rooms.rooms_of(user_id).await?;
    Ok(rooms.find(room.nid).is_some_and(|place| place.forgotten))
}

/// Of an event that cannot be read, not even its room is told.
fn hide_room(error: MatrixError) -> MatrixError {
    if error.errcode == "M_FORBIDDEN" { unknown_event() } else { error }
}
