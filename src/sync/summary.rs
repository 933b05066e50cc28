//! The section `summary` of a joined room: heroes and counts.

use std::sync::Arc;

use ruma::UserId;
use serde_json::Value;

use super::{Answer, JsonList, Result, room_state::StateRange};
use crate::{
    protocol::membership::Membership,
    rooms::{MEMBER, Rooms, StoredEvent, Viewer, ordering_of_position, write_json_string},
    storage::{EventNid, StateKeyNid},
};

/// Heroes of a room without a name.
const HEROES_MAX: usize = 5;
/// Members looked at to find them.
const CANDIDATES_MAX: usize = 64;

impl Answer<'_> {
    /// Writes the section, with a comma before it, when memberships may have changed; returns
    /// the heroes' memberships.
    pub(super) async fn write_summary(
        &self,
        out: &mut String,
        viewer: &Viewer,
        range: &StateRange<'_>,
    ) -> Result<Vec<(StateKeyNid, EventNid)>> {
        let member = |event: &Arc<StoredEvent>| event.event.kind() == MEMBER;
        let timeline = range.timeline;
        let is_completed = ordering_of_position(viewer.room().completed_position()) > range.since;
        let is_due = range.is_full || timeline.limited || is_completed;
        if !is_due && !timeline.events.iter().any(member) {
            return Ok(Vec::new());
        }
        let head = viewer.head();
        let heroes = match has_name(viewer) {
            true => Vec::new(),
            false => find_heroes(&self.parts.rooms, viewer, &self.request.user_id).await?,
        };
        out.push_str(",\"summary\":{");
        if !heroes.is_empty() {
            let mut list = JsonList::begin(out, "\"m.heroes\":[");
            for hero in &heroes {
                list.next(out);
                write_json_string(out, hero.event.state_key().unwrap_or_default());
            }
            out.push_str("],");
        }
        out.push_str("\"m.joined_member_count\":");
        out.push_str(&head.joined_count.to_string());
        out.push_str(",\"m.invited_member_count\":");
        out.push_str(&head.invited_count.to_string());
        out.push('}');
        let key = |hero: Arc<StoredEvent>| Some((hero.state_key_nid?, hero.nid));
        Ok(heroes.into_iter().filter_map(key).collect())
    }
}

/// The first members by age, without the user; former ones where there are no others.
pub(super) async fn find_heroes(
    rooms: &Rooms,
    viewer: &Viewer,
    user: &UserId,
) -> Result<Vec<Arc<StoredEvent>>> {
    let head = viewer.head();
    let mut candidates: Vec<_> = head.state.members().map(|(_, event)| event).collect();
    candidates.sort_unstable();
    candidates.truncate(CANDIDATES_MAX);
    let facts = viewer.room().facts();
    let members = rooms.events().load(facts, &candidates).await?;
    let others =
        members.into_iter().filter(|member| member.event.state_key() != Some(user.as_str()));
    let (present, former): (Vec<_>, Vec<_>) = others.partition(|member| {
        matches!(Membership::of_event(&member.event), Some(Membership::Join | Membership::Invite))
    });
    let mut heroes = if present.is_empty() { former } else { present };
    heroes.truncate(HEROES_MAX);
    Ok(heroes)
}

fn has_name(viewer: &Viewer) -> bool {
    let has_text = |kind: &str, property: &str| {
        let content = viewer.head().find_pinned(kind)?.event.content_as::<Value>().ok()?;
        Some(!content.get(property)?.as_str()?.is_empty())
    };
    has_text("m.room.name", "name") == Some(true)
        || has_text("m.room.canonical_alias", "alias") == Some(true)
}
