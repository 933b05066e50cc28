//! The timeline of a room in view: what is new, or all of what a longer limit asks for (MSC4186,
//! "Changes to `timeline_limit`"); and the stamp that clients sort rooms by.

use std::sync::Arc;

use super::{
    Answer, Result,
    sent_room::{SentRoom, WHOLE_TIMELINE},
};
use crate::{
    rooms::{
        PageToken, RECENT_EVENTS_MAX, Reader, Room, StoredEvent, Viewer, ordering_of_position,
    },
    storage::ORDERING_STEP,
};

/// What counts as activity that makes a room jump up (MSC4186, `bump_stamp`), with the names that
/// clients used before they were stable.
const BUMP_KINDS: [&str; 9] = [
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "org.matrix.msc3381.poll.start",
    "m.beacon_info",
    "org.matrix.msc3672.beacon_info",
];
/// Events that are looked through for one of them.
const BUMP_SCAN_MAX: usize = 500;

/// The events that an answer holds of a room.
pub(super) struct Timeline {
    /// Oldest first.
    pub events: Vec<Arc<StoredEvent>>,
    /// Whether older ones were left out.
    pub limited: bool,
    /// Whether it holds events that the client has already.
    pub is_expanded: bool,
    /// How many of the latest events the client has then, or [`WHOLE_TIMELINE`].
    pub length: u32,
    begins_at: i64,
}

impl Answer<'_> {
    /// The latest events up to a place in the room; those that the client does not have, or as many
    /// as it asks for, when it has none or asks for more than before.
    pub(super) async fn load_timeline(
        &self,
        viewer: &Viewer,
        sent: Option<&SentRoom>,
        limit: usize,
        upto: i64,
    ) -> Result<Timeline> {
        let since = sent.map_or(i64::MIN, |sent| ordering_of_position(sent.upto));
        if limit == 0 {
            let begins_at = upto + 1;
            let length = 0;
            let (events, limited) = (Vec::new(), false);
            return Ok(Timeline { events, limited, is_expanded: false, length, begins_at });
        }
        let rooms = &self.inner.rooms;
        let part = rooms.latest_between(viewer.room(), since, upto, limit).await?;
        let mut timeline = Timeline {
            length: match sent {
                Some(sent) if !part.has_older => {
                    sent.timeline_length.saturating_add(part.events.len() as u32)
                }
                None if !part.has_older => WHOLE_TIMELINE,
                _ => part.events.len() as u32,
            },
            begins_at: part.events.first().map_or(upto + 1, |event| event.ordering()),
            limited: part.has_older,
            events: part.events,
            is_expanded: false,
        };
        let asks_for_more = sent.is_some_and(|sent| sent.config.timeline_limit < limit);
        if asks_for_more && (timeline.length as usize) < limit {
            let whole = rooms.latest_between(viewer.room(), i64::MIN, upto, limit).await?;
            if whole.events.len() > timeline.length as usize {
                timeline.begins_at = whole.events.first().map_or(upto + 1, |e| e.ordering());
                timeline.length = whole.events.len() as u32;
                timeline.limited = whole.has_older;
                timeline.events = whole.events;
                timeline.is_expanded = true;
            }
            if !whole.has_older {
                timeline.length = WHOLE_TIMELINE;
            }
        }
        let events = std::mem::take(&mut timeline.events);
        for event in viewer.retain_visible(events).await? {
            if event.event.is_state() || !self.ignored_users.contains(event.event.sender()) {
                timeline.events.push(event);
            }
        }
        Ok(timeline)
    }

    /// Writes the fields of a timeline, each with a comma before it.
    pub(super) async fn write_timeline(
        &self,
        out: &mut String,
        viewer: &Viewer,
        timeline: &Timeline,
    ) -> Result<()> {
        if !timeline.events.is_empty() {
            out.push_str(",\"timeline\":");
            self.write_events(out, viewer, &timeline.events).await?;
        }
        self.timelines.lock().insert(viewer.room().nid, timeline.begins_at);
        let sticky = timeline.events.iter().filter(|event| event.event.sticky_ms().is_some());
        self.sticky_shown.lock().extend(sticky.map(|event| event.nid));
        let live_above = self.before.map_or(i64::MAX, |before| before.position);
        let newest_first = timeline.events.iter().rev();
        let live = newest_first.take_while(|event| event.position() > live_above).count();
        out.push_str(",\"prev_batch\":\"");
        let prev_batch = PageToken::of_ordering(timeline.begins_at - 1).seen_at(self.upto);
        out.push_str(&prev_batch.to_string());
        out.push_str("\",\"limited\":");
        out.push_str(if timeline.limited { "true" } else { "false" });
        out.push_str(",\"num_live\":");
        out.push_str(&live.to_string());
        if timeline.is_expanded {
            out.push_str(",\"unstable_expanded_timeline\":true");
        }
        Ok(())
    }

    /// Writes a list of events as this user's client gets them.
    pub(super) async fn write_events(
        &self,
        out: &mut String,
        viewer: &Viewer,
        events: &[Arc<StoredEvent>],
    ) -> Result<()> {
        let reader = Reader {
            user_id: &self.request.user_id,
            device_id: Some(&self.request.device_id),
            ignored: &self.ignored_users,
            now_ms: self.now_ms,
            with_room_id: false,
        };
        self.inner.rooms.write_events(out, viewer, &reader, events).await
    }

    /// The place in a room of the last event that this answer covers.
    pub(super) fn end(&self) -> i64 {
        ordering_of_position(self.upto) + ORDERING_STEP - 1
    }

    /// The stream position of the latest event that makes the room jump up.
    pub(super) async fn find_bump_stamp(&self, room: &Room) -> Result<i64> {
        let bumps = |event: &&Arc<StoredEvent>| BUMP_KINDS.contains(&event.event.kind());
        let latest = room.head().latest_position;
        let known = self.inner.bump_stamps.get(&room.nid);
        let since = known.map(|(upto, _)| ordering_of_position(upto));
        let newer = since.and_then(|since| room.recent_above(since));
        let found = match (known, newer) {
            (Some((_, stamp)), Some(newer)) => {
                newer.iter().rev().find(bumps).map_or(stamp, |event| event.position())
            }
            _ => {
                let (mut events, has_older) =
                    room.recent(RECENT_EVENTS_MAX / 2).unwrap_or((Vec::new(), true));
                events.reverse();
                if has_older && !events.iter().any(|event| bumps(&event)) {
                    let range = (i64::MIN, i64::MAX);
                    let rooms = &self.inner.rooms;
                    events = rooms.list_backwards(room, range, BUMP_SCAN_MAX).await?;
                }
                let oldest = events.last();
                let found = events.iter().find(bumps).or(oldest);
                found.map_or(latest, |event| event.position())
            }
        };
        let stamp = found.max(0);
        self.inner.bump_stamps.insert(room.nid, (latest, stamp));
        Ok(stamp)
    }
}
