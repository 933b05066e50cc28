//! `/_synapse/admin/…/rooms`: listing, looking into, closing and deleting rooms.

use std::sync::Arc;

use axum::extract::State;
use quick_cache::sync::Cache;
use ruma::{RoomId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{limit_of, parse_local, pattern_of, scheduled_tasks::TaskState};
use crate::{
    http::{
        App, AppState,
        auth::AdminSession,
        client::{create_room::find_version, room_paths::find_named_room},
        error::{MatrixError, MatrixResult},
        json::{Json, JsonBody, OptionalJsonBody, Path, Query},
    },
    protocol::{membership::Membership, power_levels::PowerLevels},
    rooms::{EventRequest, MemberChange, Room, write_client_event},
    storage::administration::{self, RoomOrder},
    workflows::{
        delete_room::{
            DeleteRoomError, DeletedRoom, RoomDeletion, Successor, delete_room, list_local_members,
        },
        member_content::load_member_content,
    },
};

/// Deletions whose outcome is remembered.
const DELETIONS_MAX: usize = 1_000;
const DELETION_ID_LENGTH: usize = 16;
/// Events read at once.
const STEP: usize = 1_000;

/// What became of the deletions that were asked for, by their ID.
pub struct RoomDeletions(pub(super) Cache<String, TaskState>);

/// The query of the list.
#[derive(Debug, Deserialize)]
pub struct ListQuery {
    #[serde(default)]
    from: usize,
    limit: Option<usize>,
    order_by: Option<String>,
    dir: Option<String>,
    search_term: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct BlockBody {
    block: bool,
}

/// How a room is deleted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct DeleteBody {
    new_room_user_id: Option<String>,
    room_name: Option<String>,
    message: Option<String>,
    block: bool,
    purge: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct UserBody {
    user_id: Option<String>,
}

/// `GET /_synapse/admin/v1/rooms`.
pub async fn list(
    State(app): State<AppState>,
    _: AdminSession,
    Query(query): Query<ListQuery>,
) -> MatrixResult<Json<Value>> {
    let order = match query.order_by.as_deref() {
        Some("joined_members" | "joined_local_members" | "size") => RoomOrder::JoinedMembers,
        _ => RoomOrder::Name,
    };
    let pattern = pattern_of(query.search_term.as_deref());
    let page = (query.from, limit_of(query.limit));
    let backwards = query.dir.as_deref() == Some("b");
    let rows = administration::list_rooms(&app.database, &pattern, order, backwards, page).await?;
    let total = rows.first().map_or(0, |row| row.total) as usize;
    let nids: Vec<_> = rows.iter().map(|row| row.room).collect();
    let mut rooms = Vec::with_capacity(rows.len());
    for (room, row) in app.rooms.load_all(&nids).await?.iter().zip(&rows) {
        let mut listed = room_json(&app, room).await?;
        listed["public"] = row.is_published.into();
        rooms.push(listed);
    }
    let mut answer = json!({ "rooms": rooms, "offset": query.from, "total_rooms": total });
    if query.from + rows.len() < total {
        answer["next_batch"] = (query.from + rows.len()).into();
    }
    if query.from > 0 {
        answer["prev_batch"] = query.from.saturating_sub(page.1).into();
    }
    Ok(Json(answer))
}

/// `GET /_synapse/admin/v1/rooms/{roomId}`.
pub async fn get(
    State(app): State<AppState>,
    _: AdminSession,
    Path(room_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let room = load_room(&app, &room_id).await?;
    let mut answer = room_json(&app, &room).await?;
    let head = room.head();
    let text = |kind: &str, key: &str| {
        let event = head.find_pinned(kind)?;
        let content: Value = event.event.content_as().ok()?;
        content[key].as_str().map(ToOwned::to_owned)
    };
    answer["topic"] = text("m.room.topic", "topic").into();
    answer["avatar"] = text("m.room.avatar", "url").into();
    answer["forgotten"] = list_local_members(&app.rooms, &room).await?.is_empty().into();
    Ok(Json(answer))
}

/// `GET /_synapse/admin/v1/rooms/{roomId}/members`.
pub async fn list_members(
    State(app): State<AppState>,
    _: AdminSession,
    Path(room_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let room = load_room(&app, &room_id).await?;
    let nids: Vec<_> = room.head().state.members().map(|(_, nid)| nid).collect();
    let mut members = Vec::new();
    for step in nids.chunks(STEP) {
        for event in app.rooms.events().load(room.facts(), step).await? {
            if Membership::of_event(&event.event) == Some(Membership::Join) {
                members.extend(event.event.state_key().map(ToOwned::to_owned));
            }
        }
    }
    Ok(Json(json!({ "total": members.len(), "members": members })))
}

/// `GET /_synapse/admin/v1/rooms/{roomId}/state`.
pub async fn get_state(
    State(app): State<AppState>,
    _: AdminSession,
    Path(room_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let room = load_room(&app, &room_id).await?;
    let nids: Vec<_> = room.head().state.iter().map(|(_, nid)| nid).collect();
    let view = crate::rooms::EventView { with_room_id: true, ..Default::default() };
    let mut state = Vec::new();
    for step in nids.chunks(STEP) {
        for event in app.rooms.events().load(room.facts(), step).await? {
            let mut json = String::new();
            write_client_event(&mut json, &event, &view);
            state.push(serde_json::from_str(&json).unwrap_or(Value::Null));
        }
    }
    Ok(Json(json!({ "state": state })))
}

/// `GET /_synapse/admin/v1/rooms/{roomId}/block`.
pub async fn get_block(
    State(app): State<AppState>,
    _: AdminSession,
    Path(room_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let room_id = parse_room_id(&room_id)?;
    Ok(Json(match app.rooms.find_closer(&room_id) {
        Some(user_id) => json!({ "block": true, "user_id": user_id }),
        None => json!({ "block": false }),
    }))
}

/// `PUT /_synapse/admin/v1/rooms/{roomId}/block`.
pub async fn set_block(
    State(app): State<AppState>,
    session: AdminSession,
    Path(room_id): Path<String>,
    JsonBody(BlockBody { block }): JsonBody<BlockBody>,
) -> MatrixResult<Json<Value>> {
    let room_id = parse_room_id(&room_id)?;
    match block {
        true => app.rooms.close(&room_id, &session.user_id).await?,
        false => app.rooms.reopen(&room_id).await?,
    }
    Ok(Json(json!({ "block": block })))
}

/// `DELETE /_synapse/admin/v1/rooms/{roomId}`: answers when it is done.
pub async fn delete(
    State(app): State<AppState>,
    session: AdminSession,
    Path(room_id): Path<String>,
    OptionalJsonBody(body): OptionalJsonBody<DeleteBody>,
) -> MatrixResult<Json<Value>> {
    let (room, deletion) = prepare_deletion(&app, &session, &room_id, body).await?;
    let deleted = match room {
        Some(room) => delete_room((&app.accounts, &app.rooms), &room, &deletion).await?,
        None => DeletedRoom::default(),
    };
    Ok(Json(deleted_json(&deleted)))
}

/// `DELETE /_synapse/admin/v2/rooms/{roomId}`: answers at once; see [`get_deletion`].
pub async fn delete_later(
    State(app): State<AppState>,
    session: AdminSession,
    Path(room_id): Path<String>,
    OptionalJsonBody(body): OptionalJsonBody<DeleteBody>,
) -> MatrixResult<Json<Value>> {
    let (room, deletion) = prepare_deletion(&app, &session, &room_id, body).await?;
    let id = app.clock.random_text(DELETION_ID_LENGTH);
    let begun = json!({
        "delete_id": id,
        "status": "shutting_down",
        "shutdown_room": deleted_json(&DeletedRoom::default()),
    });
    let begun = TaskState::now(&app.clock, &room_id, begun);
    app.room_deletions.0.insert(id.clone(), begun);
    let working = Arc::clone(&app);
    let answer = json!({ "delete_id": id });
    app.tasks.spawn(async move {
        let parts = (&*working.accounts, &working.rooms);
        let outcome = match room {
            Some(room) => delete_room(parts, &room, &deletion).await,
            None => Ok(DeletedRoom::default()),
        };
        let status = match outcome {
            Ok(deleted) => json!({
                "delete_id": id, "status": "complete", "shutdown_room": deleted_json(&deleted),
            }),
            Err(error) => {
                tracing::error!(room.id = room_id, %error, "a room was not deleted");
                json!({ "delete_id": id, "status": "failed", "error": error.to_string() })
            }
        };
        let ended = TaskState::now(&working.clock, &room_id, status);
        working.room_deletions.0.insert(id, ended);
    });
    Ok(Json(answer))
}

/// `GET /_synapse/admin/v2/rooms/delete_status/{deleteId}`.
pub async fn get_deletion(
    State(app): State<AppState>,
    _: AdminSession,
    Path(id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let found = app.room_deletions.0.get(&id);
    let found = found.ok_or_else(|| MatrixError::not_found("No such deletion."))?;
    Ok(Json(found.status))
}

/// `GET /_synapse/admin/v2/rooms/{roomId}/delete_status`.
pub async fn list_deletions(
    State(app): State<AppState>,
    _: AdminSession,
    Path(room_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let known = app.room_deletions.0.iter();
    let of_room = known.filter(|(_, deletion)| deletion.subject == room_id);
    let results: Vec<Value> = of_room.map(|(_, deletion)| deletion.status).collect();
    match results.is_empty() {
        true => Err(MatrixError::not_found("No deletion of this room is known.")),
        false => Ok(Json(json!({ "results": results }))),
    }
}

/// `POST /_synapse/admin/v1/join/{roomIdOrAlias}`: has a user of this server join. Where the room asks
/// for an invitation, the administrator's own one leads in.
pub async fn join(
    State(app): State<AppState>,
    session: AdminSession,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<UserBody>,
) -> MatrixResult<Json<Value>> {
    let missing = || MatrixError::missing_param("`user_id` is missing.");
    let user_id = parse_local(&app, &body.user_id.ok_or_else(missing)?)?;
    let room = find_named_room(&app, &name).await?;
    let content = load_member_content(&app.accounts, &user_id, None).await?;
    let change = |sender: &UserId, membership| MemberChange {
        sender: sender.to_owned(),
        target: user_id.clone(),
        membership,
        content: content.clone(),
        is_guest: false,
    };
    if !app.rooms.may_enter(&room, Some(&user_id)).await? {
        app.rooms.invite(&room, change(&session.user_id, Membership::Invite)).await?;
    }
    app.rooms.join(&room, change(&user_id, Membership::Join)).await?;
    Ok(Json(json!({ "room_id": room.room_id })))
}

/// `POST /_synapse/admin/v1/rooms/{roomId}/make_room_admin`: the mightiest user of this server in the
/// room gives their power to somebody else.
pub async fn make_room_admin(
    State(app): State<AppState>,
    session: AdminSession,
    Path(name): Path<String>,
    OptionalJsonBody(body): OptionalJsonBody<UserBody>,
) -> MatrixResult<Json<Value>> {
    let target = match body.user_id {
        Some(user_id) => parse_local(&app, &user_id)?,
        None => session.user_id.clone(),
    };
    let room = find_named_room(&app, &name).await?;
    let power = room.power_levels();
    let members = list_local_members(&app.rooms, &room).await?;
    let may_give =
        |user: &&ruma::OwnedUserId| power.user(user) >= power.to_send("m.room.power_levels", true);
    let giver = members.iter().filter(may_give).max_by_key(|user| power.user(user));
    let giver = giver.ok_or_else(|| {
        MatrixError::bad_request("Nobody of this server has the power to change this room.")
    })?;
    give_power(&app, &room, giver, (&target, &power)).await?;
    if app.rooms.membership_of(&room, &target).await? != Membership::Join
        && !app.rooms.may_enter(&room, Some(&target)).await?
    {
        let content = load_member_content(&app.accounts, &target, None).await?;
        let (sender, membership) = (giver.clone(), Membership::Invite);
        let change = MemberChange { sender, target, membership, content, is_guest: false };
        app.rooms.invite(&room, change).await?;
    }
    Ok(Json(json!({})))
}

impl RoomDeletions {
    pub fn new() -> Self {
        Self(Cache::new(DELETIONS_MAX))
    }
}

impl Default for RoomDeletions {
    fn default() -> Self {
        Self::new()
    }
}

impl From<DeleteRoomError> for MatrixError {
    fn from(error: DeleteRoomError) -> Self {
        match error {
            DeleteRoomError::Create(error) => error.into(),
            DeleteRoomError::Membership(error) => error.into(),
            DeleteRoomError::Append(error) => error.into(),
            DeleteRoomError::Storage(error) => error.into(),
        }
    }
}

async fn give_power(
    app: &App,
    room: &Arc<Room>,
    giver: &UserId,
    (target, power): (&UserId, &PowerLevels),
) -> MatrixResult<()> {
    let current = app.rooms.find_state_event(room, "m.room.power_levels", "").await?;
    let content = current.and_then(|event| event.event.content_as::<Value>().ok());
    let mut content = content.unwrap_or_else(|| json!({}));
    let own = content["users"][giver.as_str()].as_i64();
    // Creators of version 12 stand above every number.
    content["users"][target.as_str()] = own.unwrap_or(CREATORS_GIFT).into();
    if power.user(target) >= power.user(giver) {
        return Ok(());
    }
    let request = EventRequest::state(giver.to_owned(), "m.room.power_levels", "", content);
    app.rooms.send(room, request).await?;
    Ok(())
}

/// The level that creators give away, who have none in numbers.
const CREATORS_GIFT: i64 = 100;

async fn prepare_deletion(
    app: &App,
    session: &AdminSession,
    room_id: &str,
    body: DeleteBody,
) -> MatrixResult<(Option<Arc<Room>>, RoomDeletion)> {
    let parsed = parse_room_id(room_id)?;
    let room = app.rooms.find(&parsed).await?;
    if room.is_none() && !body.block {
        return Err(MatrixError::not_found("Room not found."));
    }
    let successor = match &body.new_room_user_id {
        Some(user_id) => Some(Successor {
            creator: parse_local(app, user_id)?,
            version: find_version(app, None)?,
            name: body.room_name.unwrap_or_else(|| "Content Violation Notification".to_owned()),
            message: body.message.unwrap_or_else(|| {
                "Sharing illegal content on this server is not permitted and rooms in \
                 violation will be blocked."
                    .to_owned()
            }),
        }),
        None => None,
    };
    if body.block {
        app.rooms.close(&parsed, &session.user_id).await?;
    }
    Ok((room, RoomDeletion { purge: body.purge.unwrap_or(true), successor }))
}

fn deleted_json(deleted: &DeletedRoom) -> Value {
    json!({
        "kicked_users": deleted.kicked,
        "failed_to_kick_users": deleted.not_kicked,
        "local_aliases": deleted.aliases,
        "new_room_id": deleted.successor,
    })
}

async fn room_json(app: &App, room: &Arc<Room>) -> MatrixResult<Value> {
    let head = room.head();
    let text = |kind: &str, key: &str| {
        let event = head.find_pinned(kind)?;
        let content: Value = event.event.content_as().ok()?;
        content[key].as_str().map(ToOwned::to_owned)
    };
    let create = head.find_pinned("m.room.create");
    let content: Value =
        create.and_then(|event| event.event.content_as().ok()).unwrap_or(Value::Null);
    Ok(json!({
        "room_id": room.room_id,
        "name": text("m.room.name", "name"),
        "canonical_alias": text("m.room.canonical_alias", "alias"),
        "joined_members": head.joined_count,
        "joined_local_members": list_local_members(&app.rooms, room).await?.len(),
        "version": room.rules.version.as_str(),
        "creator": create.map(|event| event.event.sender().to_owned()),
        "encryption": text("m.room.encryption", "algorithm"),
        "federatable": content["m.federate"] != json!(false),
        "public": app.rooms.is_published(room).await?,
        "join_rules": text("m.room.join_rules", "join_rule"),
        "guest_access": text("m.room.guest_access", "guest_access"),
        "history_visibility": text("m.room.history_visibility", "history_visibility"),
        "state_events": head.state.iter().count(),
        "room_type": content["type"],
    }))
}

fn parse_room_id(room_id: &str) -> MatrixResult<ruma::OwnedRoomId> {
    RoomId::parse(room_id).map_err(|_| MatrixError::invalid_param("This is not a room ID."))
}

/// A room that is here, by its ID or an alias.
pub(super) async fn load_named_room(app: &App, name: &str) -> MatrixResult<Arc<Room>> {
    match name.starts_with('#') {
        true => find_named_room(app, name).await,
        false => load_room(app, name).await,
    }
}

async fn load_room(app: &App, room_id: &str) -> MatrixResult<Arc<Room>> {
    let room = app.rooms.find(&parse_room_id(room_id)?).await?;
    room.ok_or_else(|| MatrixError::not_found("Room not found."))
}
