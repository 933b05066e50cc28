//! The extension for events that stick to rooms (MSC4480).

use std::collections::{HashMap, HashSet};

use super::{Answer, News, Result, lists::Windows, request::StickyEvents};
use crate::{
    protocol::membership::Membership,
    rooms::{StickyEvent, UserRooms, write_json_string},
    storage::{EventNid, RoomNid},
};

/// Events in one answer when the client names no limit (MSC4480), and at most.
const STICKY_EVENTS_MAX: usize = 100;

impl Answer<'_> {
    /// Writes the section with a comma before it, if there is something to tell.
    pub(super) async fn write_sticky(
        &self,
        out: &mut String,
        rooms: &UserRooms,
        (windows, wish): (&Windows, &StickyEvents),
        news: &mut News,
    ) -> Result<()> {
        // Who names no place goes on from where this connection is.
        let since = wish.since_position().unwrap_or(news.told.sticky_upto);
        let limit = wish.limit.and_then(|limit| usize::try_from(limit).ok());
        let limit = limit.unwrap_or(STICKY_EVENTS_MAX).clamp(1, STICKY_EVENTS_MAX);
        let entered = self.list_entered(rooms, windows, since);
        let is_wanted = |room: RoomNid| {
            windows.wanted.contains(&room)
                && !entered.contains(&room)
                && rooms.find(room).is_some_and(|place| place.is_joined())
        };
        let all = &self.inner.rooms;
        let (found, upto) = all.list_sticky((since, self.upto), limit, is_wanted);
        let mut by_room: HashMap<RoomNid, Vec<StickyEvent>> = HashMap::new();
        for (room, sticky) in found {
            by_room.entry(room).or_default().push(sticky);
        }
        // "The server MAY ignore the `limit`" for what sticks to a room that the user has just joined.
        for room in entered {
            let sticky = all.list_sticky_of(room, (0, self.upto));
            if !sticky.is_empty() {
                by_room.insert(room, sticky);
            }
        }
        news.told.sticky_upto = upto;
        if by_room.is_empty() {
            return Ok(());
        }
        // What a timeline of this answer holds moves the client's place too.
        out.push_str(",\"org.matrix.msc4354.sticky_events\":{\"rooms\":{");
        let mut has_some = false;
        for (room, sticky) in by_room {
            has_some |= self.write_sticky_of(out, (room, &sticky), has_some).await?;
        }
        out.push_str("},\"next_batch\":\"");
        out.push_str(&upto.to_string());
        out.push_str("\"}");
        Ok(())
    }

    /// Rooms that the user has joined above a position, as far as the client does not know them yet.
    fn list_entered(&self, rooms: &UserRooms, windows: &Windows, since: i64) -> HashSet<RoomNid> {
        let mut entered = HashSet::new();
        rooms.for_each(|place| {
            let nid = place.room.nid;
            let sent = self.resumed.rooms.get(&nid);
            let was_told = sent.is_some_and(|sent| sent.membership == Membership::Join);
            if place.is_joined()
                && since > 0
                && place.position > since
                && !was_told
                && windows.wanted.contains(&nid)
            {
                entered.insert(nid);
            }
        });
        entered
    }

    /// Writes what sticks to one room and is in no timeline of this answer; false if there is nothing.
    async fn write_sticky_of(
        &self,
        out: &mut String,
        (room, sticky): (RoomNid, &[StickyEvent]),
        with_comma: bool,
    ) -> Result<bool> {
        let Some(room) = self.inner.rooms.load_all(&[room]).await?.pop() else { return Ok(false) };
        let nids: Vec<EventNid> = {
            let shown = self.sticky_shown.lock();
            let nids = sticky.iter().map(|sticky| sticky.event);
            nids.filter(|nid| !shown.contains(nid)).collect()
        };
        let mut events = self.inner.rooms.events().load(room.facts(), &nids).await?;
        // A redacted event is an ordinary one.
        events.retain(|event| {
            event.event.sticky_ms().is_some()
                && (event.event.is_state() || !self.ignored_users.contains(event.event.sender()))
        });
        if events.is_empty() {
            return Ok(false);
        }
        let viewer = self.inner.rooms.viewer(&room, &self.request.user_id).await?;
        out.push_str(if with_comma { "," } else { "" });
        write_json_string(out, room.room_id.as_str());
        out.push_str(":{\"events\":");
        self.write_events(out, &viewer, &events).await?;
        out.push('}');
        Ok(true)
    }
}
