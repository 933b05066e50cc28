//! Timelines: which events of a room an answer holds, and writing them.

use std::sync::Arc;

use super::{Answer, JsonList, Result, filter::EventFormat};
use crate::{
    rooms::{PageToken, Reader, Room, StoredEvent, TimelinePart, Viewer, ordering_of_position},
    storage::ORDERING_STEP,
};

/// How many events are looked through for one that passes the filter, per event asked for.
const SCAN_FACTOR: usize = 20;

/// The events of one room's timeline.
pub(super) struct Timeline {
    /// Oldest first.
    pub events: Vec<Arc<StoredEvent>>,
    pub limited: bool,
    /// The place of the first event that was looked at.
    pub begins_at: i64,
}

impl Timeline {
    /// Where paging backwards goes on.
    fn prev_batch(&self) -> PageToken {
        PageToken::of_ordering(self.begins_at - 1)
    }
}

impl Answer<'_> {
    /// The latest events above `after`, at most as many as the filter asks for.
    pub(super) async fn load_timeline(
        &self,
        room: &Room,
        viewer: &Viewer,
        (after, upto): (i64, i64),
    ) -> Result<Timeline> {
        let filter = &self.request.filter.room.timeline;
        let limit = self.timeline_limit();
        if !filter.takes_room(&room.room_id) || limit == 0 {
            let begins_at = upto + 1;
            return Ok(Timeline { events: Vec::new(), limited: false, begins_at });
        }
        if filter.takes_all() {
            let part = self.parts.rooms.latest_between(room, after, upto, limit).await?;
            let begins_at = part.events.first().map_or(upto + 1, |event| event.ordering());
            let limited = part.has_older;
            let events = self.retain_shown(viewer, part).await?;
            return Ok(Timeline { events, limited, begins_at });
        }
        self.scan_timeline(room, viewer, (after, upto), limit).await
    }

    fn timeline_limit(&self) -> usize {
        let settings = &self.parts.settings;
        let default = match self.since {
            0 => settings.timeline_limit_default,
            // A client that polls sees what came meanwhile without asking again.
            _ => settings.timeline_limit_default.max(settings.timeline_limit_max / 2),
        };
        let asked = self.request.filter.room.timeline.events.limit;
        asked.map_or(default, |limit| limit as usize).min(settings.timeline_limit_max)
    }

    /// Reads backwards until enough events pass the filter, or too many did not.
    async fn scan_timeline(
        &self,
        room: &Room,
        viewer: &Viewer,
        (after, upto): (i64, i64),
        limit: usize,
    ) -> Result<Timeline> {
        let filter = &self.request.filter.room.timeline;
        let mut newest_first = Vec::new();
        let mut begins_at = upto + 1;
        let mut scanned = 0;
        let mut limited = true;
        while newest_first.len() < limit && scanned < limit * SCAN_FACTOR {
            let page = self.parts.rooms.list_backwards(room, (after, begins_at), limit + 1).await?;
            if page.is_empty() {
                limited = false;
                break;
            }
            scanned += page.len();
            for event in page {
                if newest_first.len() == limit {
                    break;
                }
                begins_at = event.ordering();
                if filter.takes(&event.event) && self.is_shown(viewer, &event).await? {
                    newest_first.push(event);
                }
            }
        }
        newest_first.reverse();
        Ok(Timeline { events: newest_first, limited, begins_at })
    }

    async fn retain_shown(
        &self,
        viewer: &Viewer,
        part: TimelinePart,
    ) -> Result<Vec<Arc<StoredEvent>>> {
        let sees_all_above = viewer.sees_all_above().unwrap_or(i64::MAX);
        let mut shown = Vec::with_capacity(part.events.len());
        for event in part.events {
            let visible = event.ordering() > sees_all_above || viewer.sees(&event).await?;
            if visible && !self.is_ignored(&event) {
                shown.push(event);
            }
        }
        Ok(shown)
    }

    async fn is_shown(&self, viewer: &Viewer, event: &StoredEvent) -> Result<bool> {
        Ok(!self.is_ignored(event) && viewer.sees(event).await?)
    }

    /// Messages of ignored users are left out; state is not (client-server API, "Ignoring
    /// users").
    pub(super) fn is_ignored(&self, event: &StoredEvent) -> bool {
        !self.ignored_users.is_empty()
            && !event.event.is_state()
            && self.ignored_users.contains(event.event.sender())
    }

    /// Writes the section `timeline`, with a comma before it.
    pub(super) async fn write_timeline(
        &self,
        out: &mut String,
        viewer: &Viewer,
        timeline: &Timeline,
    ) -> Result<()> {
        out.push_str(",\"timeline\":{\"events\":");
        self.write_events(out, viewer, &timeline.events).await?;
        out.push_str(",\"limited\":");
        out.push_str(if timeline.limited { "true" } else { "false" });
        out.push_str(",\"prev_batch\":\"");
        out.push_str(&timeline.prev_batch().seen_at(self.upto).to_string());
        out.push_str("\"}");
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
        if self.request.filter.event_format == EventFormat::Client {
            return self.parts.rooms.write_events(out, viewer, &reader, events).await;
        }
        let mut list = JsonList::begin(out, "[");
        for event in events {
            list.next(out);
            out.push_str(event.event.json());
        }
        out.push(']');
        Ok(())
    }

    /// The places in a room that this answer covers.
    pub(super) fn range(&self) -> (i64, i64) {
        (ordering_of_position(self.since), ordering_of_position(self.upto) + ORDERING_STEP - 1)
    }
}
