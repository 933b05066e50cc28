//! The tree of rooms below a space (client-server API, `GET /rooms/{roomId}/hierarchy`): what this server
//! knows, and what others tell of the rooms that it is not in.

use std::collections::{HashMap, HashSet};

use ruma::{OwnedRoomId, OwnedServerName, RoomId, UserId};
use serde_json::{Map, Value};

use crate::{
    federation::Federation,
    protocol::membership::Membership,
    rooms::{MembershipError, Overview, Rooms},
};

/// The deepest tree that is walked.
pub const DEPTH_MAX: usize = 50;
/// Rooms that one request walks through.
const WALKED_ROOMS_MAX: usize = 5000;
/// Rooms about which one request asks other servers.
const ASKED_ROOMS_MAX: usize = 50;
/// Children of one space that another server tells.
const REMOTE_CHILDREN_MAX: usize = 1000;

/// Which part of a tree is wanted.
#[derive(Clone, Copy, Debug)]
pub struct TreeRequest {
    pub suggested_only: bool,
    pub depth_max: usize,
    /// Rooms that were returned before.
    pub skip: usize,
    pub limit: usize,
}

/// A room of a tree.
pub enum TreeRoom {
    Here(Box<Overview>),
    /// As another server describes it, with `children_state`.
    Elsewhere(Map<String, Value>),
}

/// A room to be looked at.
struct Step {
    room_id: OwnedRoomId,
    /// Servers that may know it.
    via: Vec<OwnedServerName>,
    depth: usize,
}

/// One walk.
struct Walk<'a> {
    rooms: &'a Rooms,
    federation: &'a Federation,
    /// None: somebody who may know of every room that is here, and asks for no other.
    user: Option<&'a UserId>,
    request: TreeRequest,
    stack: Vec<Step>,
    seen: HashSet<OwnedRoomId>,
    /// Summaries that came with the description of a space above.
    told: HashMap<OwnedRoomId, Map<String, Value>>,
    asked: usize,
}

type Result<T> = std::result::Result<T, MembershipError>;

/// A room that this server is not in, as one of these servers describes it; None when none does, or when
/// the user may not know of it.
pub async fn find_room_elsewhere(
    (rooms, federation): (&Rooms, &Federation),
    room_id: &RoomId,
    servers: &[OwnedServerName],
    user: &UserId,
) -> Result<Option<Map<String, Value>>> {
    let Some(space) = federation.find_remote_space(room_id, servers, false).await else {
        return Ok(None);
    };
    let may_know = may_know(rooms, user, room_id, &space.room).await?;
    Ok(may_know.then(|| space.room.clone()))
}

/// The rooms of the tree below a room that the user may know of, depth first; and whether there are more.
pub async fn walk_tree(
    parts: (&Rooms, &Federation),
    root: &RoomId,
    user: &UserId,
    request: TreeRequest,
) -> Result<(Vec<TreeRoom>, bool)> {
    walk_as(parts, root, Some(user), request).await
}

/// The same for an administrator: all rooms of the tree that are here.
pub async fn walk_known_tree(
    parts: (&Rooms, &Federation),
    root: &RoomId,
    request: TreeRequest,
) -> Result<(Vec<TreeRoom>, bool)> {
    walk_as(parts, root, None, request).await
}

async fn walk_as(
    (rooms, federation): (&Rooms, &Federation),
    root: &RoomId,
    user: Option<&UserId>,
    request: TreeRequest,
) -> Result<(Vec<TreeRoom>, bool)> {
    let root = Step { room_id: root.to_owned(), via: Vec::new(), depth: 0 };
    let seen = HashSet::from([root.room_id.clone()]);
    let (stack, told) = (vec![root], HashMap::new());
    let mut walk = Walk { rooms, federation, user, request, stack, seen, told, asked: 0 };
    let (mut found, mut passed, mut walked) = (Vec::new(), 0, 0);
    while let Some(step) = walk.stack.pop() {
        walked += 1;
        if walked > WALKED_ROOMS_MAX {
            break;
        }
        let Some(room) = walk.look_at(&step).await? else {
            continue;
        };
        if passed >= request.skip && found.len() == request.limit {
            return Ok((found, true));
        }
        passed += 1;
        if passed > request.skip {
            found.push(room);
        }
    }
    Ok((found, false))
}

impl Walk<'_> {
    async fn look_at(&mut self, step: &Step) -> Result<Option<TreeRoom>> {
        match self.federation.find_own_room(&step.room_id).await? {
            Some(room) => {
                let overview = match self.user {
                    Some(_) => self.rooms.find_overview(&room, self.user).await?,
                    None => Some(Overview::of_room(&room)),
                };
                let Some(mut overview) = overview else { return Ok(None) };
                if overview.summary.room_type.as_deref() == Some("m.space") {
                    let suggested_only = self.request.suggested_only;
                    overview.children =
                        self.rooms.list_space_children(&room, suggested_only).await?;
                }
                let children = overview.children.iter().filter_map(|child| {
                    let content: Value = child.event.content_as().ok()?;
                    Some((child.event.state_key()?.to_owned(), content))
                });
                self.push_children(children.collect(), step.depth);
                Ok(Some(TreeRoom::Here(Box::new(overview))))
            }
            None => match self.user {
                Some(user) => self.look_elsewhere(step, user).await,
                None => Ok(None),
            },
        }
    }

    async fn look_elsewhere(&mut self, step: &Step, user: &UserId) -> Result<Option<TreeRoom>> {
        let told = self.told.remove(&step.room_id);
        let is_space = |room: &Map<String, Value>| room.get("room_type") == Some(&"m.space".into());
        let needs_asking = told.as_ref().is_none_or(is_space) && self.asked < ASKED_ROOMS_MAX;
        let mut room = told;
        if needs_asking {
            self.asked += 1;
            let suggested_only = self.request.suggested_only;
            let asked =
                self.federation.find_remote_space(&step.room_id, &step.via, suggested_only).await;
            if let Some(space) = asked {
                self.seen.extend(space.inaccessible_children.iter().cloned());
                for child in &space.children {
                    let id = child.get("room_id").and_then(Value::as_str);
                    if let Some(id) = id.and_then(|id| RoomId::parse(id).ok()) {
                        self.told.insert(id, child.clone());
                    }
                }
                room = Some(space.room.clone());
            }
        }
        let Some(mut room) = room else { return Ok(None) };
        if !may_know(self.rooms, user, &step.room_id, &room).await? {
            return Ok(None);
        }
        let children = room.entry("children_state").or_insert_with(|| Vec::<Value>::new().into());
        let children = children.as_array().into_iter().flatten().filter_map(|child| {
            let id = child.get("state_key")?.as_str()?;
            Some((id.to_owned(), child.get("content")?.clone()))
        });
        let children = children.take(REMOTE_CHILDREN_MAX).collect();
        self.push_children(children, step.depth);
        Ok(Some(TreeRoom::Elsewhere(room)))
    }

    /// Has the children looked at next, in their order: the first one comes off the stack first.
    fn push_children(&mut self, children: Vec<(String, Value)>, depth: usize) {
        if depth >= self.request.depth_max.min(DEPTH_MAX) {
            return;
        }
        let mut steps = Vec::new();
        for (id, content) in children {
            let Ok(room_id) = RoomId::parse(id) else { continue };
            // "If not present or invalid, the child room is not considered to be part of the space".
            let via = content.get("via").and_then(Value::as_array);
            let Some(via) = via.filter(|via| !via.is_empty()) else { continue };
            let via =
                via.iter().filter_map(|server| OwnedServerName::try_from(server.as_str()?).ok());
            if self.seen.insert(room_id.clone()) {
                steps.push(Step { room_id, via: via.collect(), depth: depth + 1 });
            }
        }
        self.stack.extend(steps.into_iter().rev());
    }
}

/// Whether the user may know of a room that this server is not in: "the requesting user already has
/// permission to join", or the room can be knocked on or read by everybody.
async fn may_know(
    rooms: &Rooms,
    user: &UserId,
    room_id: &RoomId,
    room: &Map<String, Value>,
) -> Result<bool> {
    if room.get("world_readable") == Some(&Value::Bool(true)) {
        return Ok(true);
    }
    let rule = room.get("join_rule").and_then(Value::as_str).unwrap_or("public");
    if matches!(rule, "public" | "knock" | "knock_restricted") {
        return Ok(true);
    }
    let places = rooms.rooms_of(user).await?;
    if let Some(known) = rooms.find(room_id).await? {
        let place = places.find(known.nid);
        if place.is_some_and(|place| place.membership == Membership::Invite) {
            return Ok(true);
        }
    }
    let allowed = room.get("allowed_room_ids").and_then(Value::as_array).into_iter().flatten();
    for id in allowed.filter_map(|id| RoomId::parse(id.as_str()?).ok()) {
        if let Some(allowed) = rooms.find(&id).await?
            && places.find(allowed.nid).is_some_and(|place| place.is_joined())
        {
            return Ok(rule == "restricted");
        }
    }
    Ok(false)
}
