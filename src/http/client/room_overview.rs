//! Rooms as people see them before they enter: summaries, the tree below a space, rooms shared with
//! somebody (client-server API, "Room Summaries", "Spaces", "Mutual rooms").

use std::{collections::BTreeSet, sync::Arc};

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    room_aliases::summary_json,
    room_paths::{find_named_room, find_room, parse_user_id, unknown_room},
    rooms_membership::{ViaQuery, locate},
};
use crate::{
    accounts::sessions::Session,
    http::{
        auth::{OptionalSession, UserSession},
        error::{MatrixError, MatrixResult},
        json::{Json, Path, Query},
        rate_limit::Action,
        state::{App, AppState},
    },
    protocol::membership::Membership,
    rooms::{Overview, Room},
    workflows::{
        room_place::RoomPlace,
        space_tree::{DEPTH_MAX, TreeRequest, TreeRoom, find_room_elsewhere, walk_tree},
    },
};

/// Rooms of a tree on one page: by default, and at most.
const TREE_PAGE_DEFAULT: usize = 50;
const TREE_PAGE_MAX: usize = 100;
/// Shared rooms on one page.
const MUTUAL_PAGE_MAX: usize = 100;

/// The query of `/hierarchy`.
#[derive(Debug, Deserialize)]
pub struct HierarchyQuery {
    #[serde(default)]
    suggested_only: bool,
    limit: Option<usize>,
    max_depth: Option<usize>,
    from: Option<String>,
}

/// The query of `/mutual_rooms`.
#[derive(Debug, Deserialize)]
pub struct MutualRoomsQuery {
    user_id: String,
    from: Option<String>,
}

/// `GET /room_summary/{roomIdOrAlias}`. For those who are logged in other servers are asked about rooms
/// that this one is not in.
pub async fn get_summary(
    State(app): State<AppState>,
    OptionalSession(session): OptionalSession,
    Path(name): Path<String>,
    Query(via): Query<ViaQuery>,
) -> MatrixResult<Json<Value>> {
    let room = match &session {
        Some(session) => match find_summary(&app, session, &name, via).await? {
            Found::Here(room) => room,
            Found::Elsewhere(told) => return Ok(Json(told)),
        },
        None => find_named_room(&app, &name).await?,
    };
    let user = session.as_ref().map(|session| &*session.user_id);
    let overview = app.rooms.find_overview(&room, user).await?.ok_or_else(unknown_room)?;
    let mut json = overview_json(&overview);
    if let Some(membership) = overview.membership {
        json.insert("membership".to_owned(), membership.as_str().into());
    }
    Ok(Json(Value::Object(json)))
}

/// `GET /rooms/{roomId}/hierarchy`
pub async fn get_hierarchy(
    State(app): State<AppState>,
    session: UserSession,
    Path(room_id): Path<String>,
    Query(query): Query<HierarchyQuery>,
) -> MatrixResult<Json<Value>> {
    let root = find_room(&app, &room_id).await?;
    if app.rooms.find_overview(&root, Some(&session.user_id)).await?.is_none() {
        return Err(MatrixError::forbidden("You are not allowed to view this room."));
    }
    let parts = (&app.rooms, &app.federation);
    write_tree(&query, async |request| {
        Ok(walk_tree(parts, &root.room_id, &session.user_id, request).await?)
    })
    .await
}

/// A page of a tree, which `walk` finds.
pub async fn write_tree(
    query: &HierarchyQuery,
    walk: impl AsyncFnOnce(TreeRequest) -> MatrixResult<(Vec<TreeRoom>, bool)>,
) -> MatrixResult<Json<Value>> {
    let depth_max = query.max_depth.unwrap_or(DEPTH_MAX).min(DEPTH_MAX);
    // The walk is the same every time; the token says how far the pages before got, and with
    // which parameters, which must not change.
    let fingerprint = format!("{}_{depth_max}", u8::from(query.suggested_only));
    let skip = match &query.from {
        Some(token) => parse_tree_token(token, &fingerprint)?,
        None => 0,
    };
    let limit = query.limit.unwrap_or(TREE_PAGE_DEFAULT).min(TREE_PAGE_MAX);
    if limit == 0 {
        return Err(MatrixError::invalid_param("`limit` must be greater than zero."));
    }
    let request = TreeRequest { suggested_only: query.suggested_only, depth_max, skip, limit };
    let (rooms, has_more) = walk(request).await?;
    let chunk: Vec<Value> = rooms
        .iter()
        .map(|room| match room {
            TreeRoom::Here(overview) => tree_room_json(overview),
            TreeRoom::Elsewhere(room) => told_room_json(room),
        })
        .collect();
    let mut answer = json!({ "rooms": chunk });
    if has_more {
        answer["next_batch"] = format!("{}_{fingerprint}", skip + rooms.len()).into();
    }
    Ok(Json(answer))
}

/// `GET /mutual_rooms`
pub async fn get_mutual_rooms(
    State(app): State<AppState>,
    session: UserSession,
    Query(query): Query<MutualRoomsQuery>,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Search, &session, app.clock.now_ms())?;
    let other = parse_user_id(&query.user_id)?;
    if other == session.user_id {
        return Err(MatrixError::invalid_param("All your rooms are shared with yourself."));
    }
    let own = app.rooms.rooms_of(&session.user_id).await?;
    let theirs = app.rooms.rooms_of(&other).await?;
    let is_shared =
        |nid| theirs.find(nid).is_some_and(|place| place.membership == Membership::Join);
    let shared: BTreeSet<String> = own
        .list_joined()
        .into_iter()
        .filter(|place| is_shared(place.room.nid))
        .map(|place| place.room.room_id.to_string())
        .collect();
    let from = query.from.unwrap_or_default();
    if !from.is_empty() && !from.starts_with('!') {
        return Err(MatrixError::invalid_param("`from` is no token of this server."));
    }
    let page: Vec<_> =
        shared.iter().filter(|id| **id > from).take(MUTUAL_PAGE_MAX).cloned().collect();
    let mut answer = json!({ "joined": page, "count": shared.len() });
    if let Some(last) = page.last().filter(|last| shared.last() != Some(*last)) {
        answer["next_batch"] = last.as_str().into();
    }
    Ok(Json(answer))
}

/// Where a room is, and what is told of one that is elsewhere.
enum Found {
    Here(Arc<Room>),
    Elsewhere(Value),
}

/// A room that is elsewhere and that nobody there describes may be known from before.
async fn find_summary(
    app: &App,
    session: &Session,
    name: &str,
    via: ViaQuery,
) -> MatrixResult<Found> {
    let (room_id, servers) = match locate(app, session, name, via).await? {
        RoomPlace::Here(room) => return Ok(Found::Here(room)),
        RoomPlace::Elsewhere { room_id, servers } => (room_id, servers),
    };
    app.rate_limits.take(Action::Search, session, app.clock.now_ms())?;
    let (parts, user) = ((&app.rooms, &app.federation), &session.user_id);
    let known = app.rooms.find(&room_id).await?;
    let Some(told) = find_room_elsewhere(parts, &room_id, &servers, user).await? else {
        return known.map(Found::Here).ok_or_else(unknown_room);
    };
    let place = match known {
        Some(known) => app.rooms.rooms_of(user).await?.find(known.nid),
        None => None,
    };
    let membership = place.map_or(Membership::Leave, |place| place.membership);
    let mut json = told_room_json(&told);
    if let Value::Object(json) = &mut json {
        json.remove("children_state");
        json.insert("membership".to_owned(), membership.as_str().into());
    }
    Ok(Found::Elsewhere(json))
}

fn overview_json(overview: &Overview) -> Map<String, Value> {
    let room_id = overview.room.room_id.as_str();
    let mut json = summary_json(room_id, overview.joined_count, &overview.summary);
    json.insert("room_version".to_owned(), overview.room.rules.version.as_str().into());
    if let Some(algorithm) = &overview.summary.encryption {
        json.insert("encryption".to_owned(), algorithm.as_str().into());
    }
    if !overview.allowed_rooms.is_empty() {
        json.insert("allowed_room_ids".to_owned(), json!(overview.allowed_rooms));
    }
    json
}

/// A room as another server describes it, without what it has no business to say.
fn told_room_json(room: &Map<String, Value>) -> Value {
    const KNOWN: [&str; 14] = [
        "room_id",
        "num_joined_members",
        "world_readable",
        "guest_can_join",
        "name",
        "topic",
        "canonical_alias",
        "avatar_url",
        "room_type",
        "join_rule",
        "room_version",
        "encryption",
        "allowed_room_ids",
        "children_state",
    ];
    let known = KNOWN.iter().filter_map(|key| Some(((*key).to_owned(), room.get(*key)?.clone())));
    Value::Object(known.collect())
}

/// A room of a tree, with its children.
pub fn tree_room_json(overview: &Overview) -> Value {
    let child = |event: &std::sync::Arc<crate::rooms::StoredEvent>| {
        let event = &event.event;
        json!({
            "type": event.kind(),
            "state_key": event.state_key(),
            "content": event.content_as::<Value>().unwrap_or_default(),
            "sender": event.sender(),
            "origin_server_ts": event.origin_server_ts(),
        })
    };
    let mut json = overview_json(overview);
    let children: Vec<_> = overview.children.iter().map(child).collect();
    json.insert("children_state".to_owned(), children.into());
    Value::Object(json)
}

fn parse_tree_token(token: &str, fingerprint: &str) -> MatrixResult<usize> {
    let unknown = || MatrixError::invalid_param("`from` is no token of this server.");
    let (skip, given) = token.split_once('_').ok_or_else(unknown)?;
    let skip = skip.parse().map_err(|_| unknown())?;
    match given == fingerprint {
        true => Ok(skip),
        false => {
            let message = "suggested_only and max_depth cannot change on paginated requests.";
            Err(MatrixError::invalid_param(message))
        }
    }
}
