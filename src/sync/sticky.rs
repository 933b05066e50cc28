//! The section `msc4354_sticky`: events that stick to a room and that the timeline does not hold (MSC4354).

use std::collections::HashMap;

use super::{Answer, Result, timeline::Timeline};
use crate::{
    rooms::{Rooms, StickyEvent, UserRooms, Viewer},
    storage::{EventNid, RoomNid},
};

/// Sticky events in one answer: "if there are too many sticky events to deliver at once, they will be
/// delivered in subsequent `/sync` responses instead".
pub(super) const STICKY_EVENTS_MAX: usize = 100;

/// What sticks to the user's rooms and is new to the client.
#[derive(Default)]
pub(super) struct StickyNews {
    by_room: HashMap<RoomNid, Vec<StickyEvent>>,
    /// The stream position up to which this is all.
    pub upto: i64,
}

impl StickyNews {
    /// What is in this range, from its beginning on.
    pub fn find(rooms: &Rooms, places: &UserRooms, range: (i64, i64)) -> Self {
        let is_joined = |room: RoomNid| places.find(room).is_some_and(|place| place.is_joined());
        let (found, upto) = rooms.list_sticky(range, STICKY_EVENTS_MAX, is_joined);
        let mut by_room: HashMap<RoomNid, Vec<StickyEvent>> = HashMap::new();
        for (room, sticky) in found {
            by_room.entry(room).or_default().push(sticky);
        }
        Self { by_room, upto }
    }

    pub fn has_room(&self, room: RoomNid) -> bool {
        self.by_room.contains_key(&room)
    }
}

impl Answer<'_> {
    /// Writes the section with a comma before it, if there is something to tell. Whoever has just joined
    /// gets all that sticks to the room, more than once if much waits for them elsewhere. History
    /// visibility does not matter: "Any joined user is authorised to see sticky events".
    pub(super) async fn write_sticky(
        &self,
        out: &mut String,
        viewer: &Viewer,
        is_newly_joined: bool,
        timeline: &Timeline,
    ) -> Result<()> {
        let (rooms, room) = (&self.parts.rooms, viewer.room());
        let sticky = match is_newly_joined {
            true => rooms.list_sticky_of(room.nid, (0, self.upto)),
            false => self.sticky.by_room.get(&room.nid).cloned().unwrap_or_default(),
        };
        let is_elsewhere = |nid: &EventNid| !timeline.events.iter().any(|shown| shown.nid == *nid);
        let nids: Vec<EventNid> =
            sticky.iter().map(|sticky| sticky.event).filter(is_elsewhere).collect();
        if nids.is_empty() {
            return Ok(());
        }
        let mut events = rooms.events().load(room.facts(), &nids).await?;
        // A redacted event is an ordinary one.
        events.retain(|event| event.event.sticky_ms().is_some() && !self.is_ignored(event));
        if events.is_empty() {
            return Ok(());
        }
        out.push_str(",\"msc4354_sticky\":{\"events\":");
        self.write_events(out, viewer, &events).await?;
        out.push('}');
        Ok(())
    }
}
