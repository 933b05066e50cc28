//! Aliases and the public directory of rooms (client-server API, "Room aliases", "Published room
//! directory").

use axum::extract::State;
use ruma::{OwnedRoomAliasId, RoomAliasId, ServerName};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    appservice::check_alias_is_free,
    create_room::require_permission,
    room_paths::{find_by_alias, find_known_room, find_room, not_in_room},
};
use crate::{
    appservices::read_instance_id,
    http::{
        auth::{ClientAddress, OptionalSession, UserSession},
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, OptionalJsonBody, Path, Query},
        rate_limit::Action,
        state::{App, AppState},
    },
    protocol::{history_visibility::HistoryVisibility, membership::Membership},
    rooms::{
        DIRECTORY_PAGE_MAX, DirectoryFilter, DirectoryToken, DirectoryVisibility, EventRequest,
        Room,
    },
    storage::{directory::DirectoryRow, rooms::SummaryRow},
};

/// Servers that are named along with a room.
const SERVERS_MAX: usize = 50;
/// Rooms on a page of the directory when the client does not say.
const PAGE_ROOMS_DEFAULT: usize = 100;

/// Rooms of one network that can be listed.
const NETWORK_ROOMS_MAX: usize = 100_000;

/// The body of `PUT /directory/room/{roomAlias}`.
#[derive(Debug, Deserialize)]
pub struct AliasBody {
    room_id: String,
}

/// The body of `PUT /directory/list/room/{roomId}`.
#[derive(Debug, Default, Deserialize)]
pub struct VisibilityBody {
    visibility: Option<DirectoryVisibility>,
}

/// The query of `/publicRooms`.
#[derive(Debug, Default, Deserialize)]
pub struct PublicRoomsQuery {
    limit: Option<usize>,
    since: Option<String>,
    server: Option<String>,
}

/// The body of `POST /publicRooms`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PublicRoomsBody {
    limit: Option<usize>,
    since: Option<String>,
    filter: PublicRoomsFilter,
    include_all_networks: bool,
    third_party_instance_id: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PublicRoomsFilter {
    generic_search_term: Option<String>,
    room_types: Option<Vec<Option<String>>>,
}

/// `GET /directory/room/{roomAlias}`
pub async fn get_alias(
    State(app): State<AppState>,
    Path(alias): Path<String>,
) -> MatrixResult<Json<Value>> {
    let alias = parse_alias(&alias)?;
    let unknown = || MatrixError::not_found(format!("There is no alias {alias}."));
    if alias.server_name() != app.rooms.server_name() {
        let found = app.federation.find_remote_alias(&alias).await?.ok_or_else(unknown)?;
        return Ok(Json(json!({ "room_id": found.room_id, "servers": found.servers })));
    }
    let room = find_by_alias(&app, &alias).await?.ok_or_else(unknown)?;
    let mut servers = app.rooms.servers_in_room(&room).await?.to_vec();
    servers.retain(|server| server != app.rooms.server_name());
    servers.insert(0, app.rooms.server_name().to_owned());
    servers.truncate(SERVERS_MAX);
    Ok(Json(json!({ "room_id": room.room_id, "servers": servers })))
}

/// `PUT /directory/room/{roomAlias}`
pub async fn put_alias(
    State(app): State<AppState>,
    session: UserSession,
    Path(alias): Path<String>,
    JsonBody(body): JsonBody<AliasBody>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    require_permission(&app, &session, app.config.rooms.alias_permission)?;
    let alias = parse_alias(&alias)?;
    check_alias_is_free(&app, &session, &alias)?;
    let room = find_known_room(&app, &body.room_id).await?;
    if app.rooms.membership_of(&room, &session.user_id).await? != Membership::Join {
        return Err(not_in_room());
    }
    let aliases_max = app.config.rooms.aliases_max;
    app.rooms.add_alias(&room, &alias, &session.user_id, aliases_max).await?;
    app.appservices.note_aliases_changed();
    Ok(Json(Empty {}))
}

/// `DELETE /directory/room/{roomAlias}`
pub async fn delete_alias(
    State(app): State<AppState>,
    session: UserSession,
    Path(alias): Path<String>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    let alias = parse_alias(&alias)?;
    // An application service has full control over its namespace.
    let is_its_own = session.appservice.is_some();
    if !session.is_admin {
        check_alias_is_free(&app, &session, &alias)?;
    }
    let may_always = session.is_admin || is_its_own;
    let room = app.rooms.remove_alias(&alias, &session.user_id, may_always).await?;
    app.appservices.note_aliases_changed();
    drop_canonical_alias(&app, &session, &room, &alias).await;
    Ok(Json(Empty {}))
}

/// `GET /rooms/{roomId}/aliases`
pub async fn get_room_aliases(
    State(app): State<AppState>,
    session: UserSession,
    Path(room_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let room = find_room(&app, &room_id).await?;
    let head = room.head();
    let visibility = head.find_pinned("m.room.history_visibility").map(|event| &*event.event);
    let is_readable = HistoryVisibility::of_state(visibility) == HistoryVisibility::WorldReadable;
    let is_member = app.rooms.membership_of(&room, &session.user_id).await? == Membership::Join;
    if !is_readable && !is_member {
        return Err(not_in_room());
    }
    Ok(Json(json!({ "aliases": app.rooms.list_aliases(&room).await? })))
}

/// `GET /directory/list/room/{roomId}`
pub async fn get_visibility(
    State(app): State<AppState>,
    Path(room_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let room = find_known_room(&app, &room_id).await?;
    let visibility = if app.rooms.is_published(&room).await? { "public" } else { "private" };
    Ok(Json(json!({ "visibility": visibility })))
}

/// `PUT /directory/list/room/{roomId}`
pub async fn put_visibility(
    State(app): State<AppState>,
    session: UserSession,
    Path(room_id): Path<String>,
    OptionalJsonBody(body): OptionalJsonBody<VisibilityBody>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    let room = find_known_room(&app, &room_id).await?;
    let publishes = body.visibility != Some(DirectoryVisibility::Private);
    if publishes {
        require_permission(&app, &session, app.config.rooms.publish_permission)?;
    }
    let kind = "m.room.canonical_alias";
    if !session.is_admin && !app.rooms.may_send_state(&room, &session.user_id, kind).await? {
        let message = "Publishing a room takes the power to change its main alias.";
        return Err(MatrixError::forbidden(message));
    }
    app.rooms.publish(&room, publishes).await?;
    Ok(Json(Empty {}))
}

/// `GET /publicRooms`
pub async fn get_public_rooms(
    State(app): State<AppState>,
    OptionalSession(session): OptionalSession,
    address: ClientAddress,
    Query(query): Query<PublicRoomsQuery>,
) -> MatrixResult<Json<Value>> {
    let PublicRoomsQuery { limit, since, server } = query;
    // Nobody shall have this server ask others as often as they like.
    if server.as_deref().is_some_and(|server| server != app.rooms.server_name()) {
        let party = (session.as_deref(), address.0);
        app.rate_limits.take_of_anybody(Action::Search, party, app.clock.now_ms())?;
    }
    let body = PublicRoomsBody::page(limit, since);
    list_public_rooms(&app, server.as_deref(), body).await
}

/// `POST /publicRooms`
pub async fn post_public_rooms(
    State(app): State<AppState>,
    session: UserSession,
    Query(query): Query<PublicRoomsQuery>,
    OptionalJsonBody(body): OptionalJsonBody<PublicRoomsBody>,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Search, &session, app.clock.now_ms())?;
    list_public_rooms(&app, query.server.as_deref(), body).await
}

impl PublicRoomsBody {
    /// The body with which another server is asked.
    fn to_json(&self) -> Value {
        let mut json = json!({ "include_all_networks": self.include_all_networks });
        let filter = &self.filter;
        let optional = [
            ("limit", self.limit.map(Value::from)),
            ("since", self.since.clone().map(Value::from)),
            ("third_party_instance_id", self.third_party_instance_id.clone().map(Value::from)),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                json[key] = value;
            }
        }
        if let Some(term) = &filter.generic_search_term {
            json["filter"]["generic_search_term"] = term.as_str().into();
        }
        if let Some(types) = &filter.room_types {
            json["filter"]["room_types"] = json!(types);
        }
        json
    }

    /// A request for a page, without a filter.
    pub fn page(limit: Option<usize>, since: Option<String>) -> Self {
        Self { limit, since, ..Self::default() }
    }
}

/// What the directory shows of a room (`PublishedRoomsChunk`).
pub fn summary_json(room_id: &str, joined_count: i64, summary: &SummaryRow) -> Map<String, Value> {
    let mut json = Map::new();
    let mut add = |key: &str, value: Value| json.insert(key.to_owned(), value);
    add("room_id", room_id.into());
    add("num_joined_members", joined_count.into());
    add("world_readable", summary.world_readable.into());
    add("guest_can_join", summary.guest_can_join.into());
    let optional = [
        ("name", &summary.name),
        ("topic", &summary.topic),
        ("canonical_alias", &summary.canonical_alias),
        ("avatar_url", &summary.avatar_url),
        ("room_type", &summary.room_type),
    ];
    for (key, text) in optional {
        if let Some(text) = text {
            add(key, text.as_str().into());
        }
    }
    if !summary.join_rule.is_empty() {
        add("join_rule", summary.join_rule.as_str().into());
    }
    json
}

/// A page of the directory of this server, or of another one.
pub async fn list_public_rooms(
    app: &App,
    server: Option<&str>,
    body: PublicRoomsBody,
) -> MatrixResult<Json<Value>> {
    if let Some(server) = server.filter(|server| *server != app.rooms.server_name()) {
        let server = ServerName::parse(server);
        let server =
            server.map_err(|_| MatrixError::invalid_param("`server` is no server name."))?;
        return Ok(Json(app.federation.list_remote_rooms(&server, &body.to_json()).await?));
    }
    if body.include_all_networks && body.third_party_instance_id.is_some() {
        let message = "Ask for all networks, or for one of them.";
        return Err(MatrixError::invalid_param(message));
    }
    let since = body.since.as_deref().filter(|text| !text.is_empty());
    let since = since.filter(|_| body.third_party_instance_id.is_none());
    let since = since.map(|text| {
        DirectoryToken::parse(text)
            .ok_or_else(|| MatrixError::invalid_param("`since` is no token of this server."))
    });
    let limit = body.limit.unwrap_or(PAGE_ROOMS_DEFAULT).clamp(1, DIRECTORY_PAGE_MAX);
    let filter = DirectoryFilter {
        search_term: body.filter.generic_search_term.filter(|term| !term.trim().is_empty()),
        room_types: body.filter.room_types,
    };
    if let Some(instance) = &body.third_party_instance_id {
        return list_network(app, instance, (body.since.as_deref(), limit), &filter).await;
    }
    let page = app.rooms.list_directory(since.transpose()?, limit, &filter).await?;
    let chunk = |row: &DirectoryRow| summary_json(&row.room_id, row.joined_count, &row.summary);
    let mut answer = json!({
        "chunk": page.rooms.iter().map(chunk).collect::<Vec<_>>(),
        "total_room_count_estimate": page.total,
    });
    for (key, token) in [("next_batch", page.next), ("prev_batch", page.prev)] {
        if let Some(token) = token {
            answer[key] = token.to_string().into();
        }
    }
    Ok(Json(answer))
}

/// The directory that an application service keeps for a network. Its tokens are numbers of rooms.
async fn list_network(
    app: &App,
    instance: &str,
    (since, limit): (Option<&str>, usize),
    filter: &DirectoryFilter,
) -> MatrixResult<Json<Value>> {
    let Some(network) = read_instance_id(instance) else {
        return Err(MatrixError::invalid_param("There is no such network."));
    };
    let mut skip: usize = match since.filter(|text| !text.is_empty()) {
        Some(text) => text
            .parse()
            .ok()
            .filter(|skip| *skip < NETWORK_ROOMS_MAX)
            .ok_or_else(|| MatrixError::invalid_param("`since` is no token of this server."))?,
        None => 0,
    };
    let mut chunk = Vec::new();
    let mut has_more = true;
    while has_more && chunk.len() < limit && skip < NETWORK_ROOMS_MAX {
        let rows = app.appservices.list_network(network, (skip, DIRECTORY_PAGE_MAX)).await?;
        has_more = rows.len() == DIRECTORY_PAGE_MAX;
        for row in rows {
            if chunk.len() == limit {
                has_more = true;
                break;
            }
            skip += 1;
            if filter.takes(&row) {
                chunk.push(summary_json(&row.room_id, row.joined_count, &row.summary));
            }
        }
    }
    let mut answer = json!({ "chunk": chunk });
    if has_more {
        answer["next_batch"] = skip.to_string().into();
    }
    Ok(Json(answer))
}

/// Takes a removed alias out of the room's own list, if the user may; it is gone in any case.
async fn drop_canonical_alias(
    app: &App,
    session: &UserSession,
    room: &std::sync::Arc<Room>,
    alias: &RoomAliasId,
) {
    let kind = "m.room.canonical_alias";
    let head = room.head();
    let Some(event) = head.find_pinned(kind) else { return };
    let mut content: Map<String, Value> = event.event.content_as().unwrap_or_default();
    let before = content.clone();
    if content.get("alias").and_then(Value::as_str) == Some(alias.as_str()) {
        content.remove("alias");
    }
    if let Some(Value::Array(others)) = content.get_mut("alt_aliases") {
        others.retain(|other| other.as_str() != Some(alias.as_str()));
    }
    if content == before {
        return;
    }
    let content = Value::Object(content);
    let request = EventRequest::state(session.user_id.clone(), kind, "", content);
    if let Err(error) = app.rooms.append(room, &[request], None).await {
        tracing::debug!(room.id = %room.room_id, %error, "an alias stays in the room's list");
    }
}

fn parse_alias(alias: &str) -> MatrixResult<OwnedRoomAliasId> {
    RoomAliasId::parse(alias).map_err(|_| MatrixError::invalid_param("This is not a room alias."))
}
