//! The sections `state` and `state_after` of a room.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::{Answer, Result, timeline::Timeline};
use crate::{
    rooms::{Room, State, StoredEvent, Viewer},
    storage::{EventNid, StateKeyNid},
};

/// Between which points the client learns of state.
pub(super) struct StateRange<'a> {
    /// From nothing, not from `since`.
    pub is_full: bool,
    /// Places in the room.
    pub since: i64,
    pub upto: i64,
    pub timeline: &'a Timeline,
}

type Changes = BTreeMap<StateKeyNid, EventNid>;

impl Answer<'_> {
    /// Writes the section, with a comma before it, if there is something in it or it is
    /// required. `heroes` are memberships that the summary names.
    pub(super) async fn write_state(
        &self,
        out: &mut String,
        viewer: &Viewer,
        range: &StateRange<'_>,
        heroes: &[(StateKeyNid, EventNid)],
    ) -> Result<()> {
        let filter = &self.request.filter.room.state;
        let after = self.request.state_after;
        let has_timeline = !range.timeline.events.is_empty() || range.timeline.limited;
        let room = viewer.room();
        if !range.is_full && !has_timeline && !room.has_fork_above(range.since) {
            return Ok(());
        }
        let mut events = Vec::new();
        if filter.takes_room(&viewer.room().room_id) {
            let changes = self.load_changes(viewer, range).await?;
            let mut changes = match filter.lazy_load_members {
                true => self.lazy_changes(viewer, range, changes, heroes).await?,
                false => changes,
            };
            if range.is_full && after.is_none() {
                changes.extend(list_latecomers(room, range.timeline));
            }
            let nids: Vec<EventNid> = changes.into_values().collect();
            let facts = viewer.room().facts();
            events = self.parts.rooms.events().load(facts, &nids).await?;
            events.retain(|event| filter.takes(&event.event));
            events.sort_by_key(|event| event.ordering());
        }
        if events.is_empty() && after.is_none() {
            return Ok(());
        }
        out.push_str(",\"");
        out.push_str(after.unwrap_or("state"));
        out.push_str("\":{\"events\":");
        self.write_events(out, viewer, &events).await?;
        out.push('}');
        Ok(())
    }

    /// What the state at the end of the range has that the client does not know of. Without
    /// `state_after` the timeline tells the rest, so the range ends where the timeline begins.
    async fn load_changes(&self, viewer: &Viewer, range: &StateRange<'_>) -> Result<Changes> {
        let (rooms, room) = (&self.parts.rooms, viewer.room());
        let first = range.timeline.events.first();
        let (since, timeline_begin) = (range.since, range.timeline.begins_at);
        let end = if self.request.state_after.is_some() { range.upto + 1 } else { timeline_begin };
        let mut changes: Changes = if !range.is_full && end > since {
            rooms.list_state_changes(room, (since, end)).await?.into_iter().collect()
        } else if range.is_full {
            let state = match first {
                Some(_) if self.request.state_after.is_some() => {
                    self.state_at_end(viewer, range).await?
                }
                Some(first) if timeline_begin == first.ordering() && !first.is_forked() => {
                    rooms.load_state(first.state_nid).await?
                }
                _ => self.state_at(viewer, timeline_begin).await?,
            };
            state.iter().collect()
        } else {
            Changes::new()
        };
        // Where forks met, state changed without an event of the timeline.
        if self.request.state_after.is_none() && room.has_fork_above(timeline_begin - 1) {
            let told: HashSet<EventNid> = range.timeline.events.iter().map(|e| e.nid).collect();
            let range = (timeline_begin - 1, range.upto + 1);
            let later = rooms.list_state_changes(room, range).await?.into_iter();
            changes.extend(later.filter(|(_, nid)| !told.contains(nid)));
        }
        // Clients have no notion of state that is gone.
        changes.retain(|_, nid| nid.0 != 0);
        Ok(changes)
    }

    async fn state_at_end(&self, viewer: &Viewer, range: &StateRange<'_>) -> Result<Arc<State>> {
        self.state_at(viewer, range.upto + 1).await
    }

    /// The current state before the first event at or above a place in the room.
    pub(super) async fn state_at(&self, viewer: &Viewer, ordering: i64) -> Result<Arc<State>> {
        let head = viewer.head();
        let latest = head.extremities.iter().map(|event| event.ordering()).max().unwrap_or(0);
        if ordering > latest {
            return Ok(Arc::new(head.state.clone()));
        }
        self.parts.rooms.state_at(viewer.room(), ordering).await
    }

    /// Of memberships only those that are needed: of the timeline's senders, of heroes, the
    /// user's own, and what changed in a gap.
    async fn lazy_changes(
        &self,
        viewer: &Viewer,
        range: &StateRange<'_>,
        changes: Changes,
        heroes: &[(StateKeyNid, EventNid)],
    ) -> Result<Changes> {
        let request = self.request;
        let sent = &self.parts.sent_members;
        let device = (&request.user_id, request.device_id.as_str(), viewer.room().nid);
        if range.is_full {
            sent.forget(device);
        }
        let (members, mut kept): (Changes, Changes) =
            changes.into_iter().partition(|(key, _)| key.is_membership());
        let state = self.end_state(viewer, range).await?;
        let mut wanted: HashSet<StateKeyNid> = HashSet::new();
        for event in &range.timeline.events {
            wanted.extend(self.parts.rooms.keys().find_user(event.event.sender().as_str()).await?);
        }
        let own = self.parts.rooms.keys().find_user(request.user_id.as_str()).await?;
        wanted.extend(own.filter(|_| range.is_full));
        let wanted = wanted.into_iter().filter_map(|key| Some((key, state.get(key)?)));
        let needed: Changes = wanted.chain(heroes.iter().copied()).collect();
        let needed: Vec<_> = needed.into_iter().collect();
        match request.filter.room.state.include_redundant_members {
            true => kept.extend(needed),
            false => kept.extend(sent.take_unsent(device, needed)),
        }
        if !range.is_full {
            // Joins, leaves and new names in the gap are never redundant.
            kept.extend(members);
        }
        // What the timeline itself holds need not be told before it.
        if request.state_after.is_none() {
            let told: HashSet<EventNid> = range.timeline.events.iter().map(|e| e.nid).collect();
            kept.retain(|_, event| !told.contains(event));
        }
        Ok(kept)
    }

    /// The state that memberships of senders are taken from.
    async fn end_state(&self, viewer: &Viewer, range: &StateRange<'_>) -> Result<Arc<State>> {
        let first: Option<&Arc<StoredEvent>> = range.timeline.events.first();
        match first {
            Some(first) if self.request.state_after.is_none() && !first.is_forked() => {
                self.parts.rooms.load_state(first.state_nid).await
            }
            _ => self.state_at_end(viewer, range).await,
        }
    }
}

/// State events of a timeline that do not build upon what came before them: by the order of the graph they lie before
/// the timeline, where other servers have them in the state. That a client finds them in both with its initial sync
/// costs it nothing. (What forks changed is told apart.)
fn list_latecomers(room: &Room, timeline: &Timeline) -> Changes {
    let follows = |event: &StoredEvent, before: &StoredEvent| {
        event.event.prev_events().any(|prev| prev == before.event.event_id())
    };
    let is_late = |event: &StoredEvent| {
        let before = room.recent_before(event.ordering());
        !event.is_forked() && before.is_some_and(|before| !follows(event, &before))
    };
    let changes = timeline.events.iter().filter_map(|event| Some((event.state_key_nid?, event)));
    changes.filter(|(_, event)| is_late(event)).map(|(key, event)| (key, event.nid)).collect()
}
