//! What people may learn of a room before they enter it: its summary, and the rooms that a space names
//! (client-server API, "Room Summaries", "Spaces"). Not for the whole tree (`workflows::space_tree`).

use std::{cmp::Ordering, sync::Arc};

use ruma::{ServerName, UserId};
use serde_json::{Map, Value};

use super::{
    event_store::StoredEvent, membership::MembershipError, registry::Rooms, room::Room, summary,
};
use crate::{
    protocol::{
        history_visibility::HistoryVisibility, membership::Membership, room_content::JoinRules,
    },
    storage::{StorageError, rooms::SummaryRow},
};

/// Children of a space that are looked at.
const CHILDREN_MAX: usize = 5000;
/// The length of a valid `order` (`m.space.child`).
const ORDER_LENGTH_MAX: usize = 50;

/// What is told of a room.
pub struct Overview {
    pub room: Arc<Room>,
    pub summary: SummaryRow,
    pub joined_count: i64,
    /// The rooms whose members may join, where the room is restricted.
    pub allowed_rooms: Vec<ruma::OwnedRoomId>,
    /// The user's, if there is a user.
    pub membership: Option<Membership>,
    /// The valid `m.space.child` events of a space, in the order of the space.
    pub children: Vec<Arc<StoredEvent>>,
}

impl Rooms {
    /// What a user (None: somebody unknown) may learn of a room; None when nothing.
    pub async fn find_overview(
        &self,
        room: &Arc<Room>,
        user: Option<&UserId>,
    ) -> Result<Option<Overview>, MembershipError> {
        let membership = match user {
            Some(user) => Some(self.membership_of(room, user).await?),
            None => None,
        };
        let is_inside = matches!(membership, Some(Membership::Join | Membership::Invite));
        if !is_inside && !self.is_open_to(room, user).await? {
            return Ok(None);
        }
        Ok(Some(Overview { membership, ..Overview::of_room(room) }))
    }

    /// What another server may learn of a room, with the children of a space; None when nothing:
    /// nobody there is in the room, could enter it, or is in a room whose members may (server-server
    /// API, "Spaces").
    pub async fn find_overview_for_server(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        suggested_only: bool,
    ) -> Result<Option<Overview>, MembershipError> {
        let mut overview = Overview::of_room(room);
        let mut is_open =
            self.is_open_to(room, None).await? || self.is_server_in_room(room, server).await?;
        for allowed in &overview.allowed_rooms {
            if !is_open && let Some(allowed) = self.find(allowed).await? {
                is_open = self.is_server_in_room(&allowed, server).await?;
            }
        }
        if !is_open {
            return Ok(None);
        }
        if overview.summary.room_type.as_deref() == Some("m.space") {
            overview.children = self.list_space_children(room, suggested_only).await?;
        }
        Ok(Some(overview))
    }

    /// Whether somebody outside may know of the room: it is readable, or they could enter.
    async fn is_open_to(
        &self,
        room: &Arc<Room>,
        user: Option<&UserId>,
    ) -> Result<bool, MembershipError> {
        let head = room.head();
        let visibility = head.find_pinned("m.room.history_visibility").map(|event| &*event.event);
        if HistoryVisibility::of_state(visibility) == HistoryVisibility::WorldReadable {
            return Ok(true);
        }
        self.may_enter(room, user).await
    }

    /// The valid `m.space.child` events of a space, in its order.
    pub async fn list_space_children(
        &self,
        room: &Room,
        suggested_only: bool,
    ) -> Result<Vec<Arc<StoredEvent>>, StorageError> {
        let head = room.head();
        let nids: Vec<_> = head
            .state
            .iter()
            .filter(|(key, _)| !key.is_membership())
            .map(|(_, nid)| nid)
            .take(CHILDREN_MAX)
            .collect();
        let events = self.events().load(room.facts(), &nids).await?;
        let mut children: Vec<_> = events
            .into_iter()
            .filter(|event| event.event.kind() == "m.space.child")
            .filter_map(|event| Some((Child::of_event(&event)?, event)))
            .filter(|(child, _)| child.suggested || !suggested_only)
            .collect();
        children.sort_by(|(a, a_event), (b, b_event)| {
            a.compare(b).then_with(|| a_event.event.state_key().cmp(&b_event.event.state_key()))
        });
        Ok(children.into_iter().map(|(_, event)| event).collect())
    }
}

impl Overview {
    /// What there is to be told, for whoever may know all of it.
    pub fn of_room(room: &Arc<Room>) -> Self {
        let head = room.head();
        let rules = head.find_pinned("m.room.join_rules").map(|event| &*event.event);
        let rules = JoinRules::of_state(rules);
        let is_restricted = rules.join_rule.is_restricted(room.rules);
        Self {
            room: Arc::clone(room),
            summary: summary::of_head(&head, room.rules),
            joined_count: head.joined_count,
            allowed_rooms: if is_restricted { rules.allow } else { Vec::new() },
            membership: None,
            children: Vec::new(),
        }
    }
}

/// A valid `m.space.child`.
struct Child {
    order: Option<String>,
    timestamp_ms: i64,
    suggested: bool,
}

impl Child {
    /// None without a `via`: the child was removed from the space.
    fn of_event(event: &StoredEvent) -> Option<Self> {
        let content: Map<String, Value> = event.event.content_as().ok()?;
        let via = content.get("via")?.as_array()?;
        if via.is_empty() || !via.iter().all(Value::is_string) {
            return None;
        }
        let order = content.get("order").and_then(Value::as_str);
        let is_valid = |order: &&str| {
            order.len() <= ORDER_LENGTH_MAX && order.bytes().all(|b| (0x20..=0x7e).contains(&b))
        };
        Some(Self {
            order: order.filter(is_valid).map(str::to_owned),
            timestamp_ms: event.event.origin_server_ts(),
            suggested: content.get("suggested") == Some(&Value::Bool(true)),
        })
    }

    /// Client-server API, "Ordering of children within a space".
    fn compare(&self, other: &Self) -> Ordering {
        let by_order = match (&self.order, &other.order) {
            (Some(a), Some(b)) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        };
        by_order.then(self.timestamp_ms.cmp(&other.timestamp_ms))
    }
}
