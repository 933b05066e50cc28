//! What a user was notified of (client-server API, "Listing Notifications"), newest first over all
//! rooms. Reads what was judged at acceptance; judges nothing again but the actions of defaults.

use std::{collections::HashMap, sync::Arc};

use ruma::{OwnedEventId, UserId};

use super::{Push, judge::actions_json, threads::find_thread, wishes::Wishes};
use crate::{
    protocol::{
        membership::Membership,
        power_levels::PowerLevels,
        push_rules::{CompiledRules, PushEvent},
    },
    rooms::{Room, Rooms, StoredEvent, UserRoom, Viewer, ordering_of_position},
    storage::{
        EventNid, StorageError,
        counts::{DeviationRow, list_default_notifying, list_deviations_of_room},
    },
};

/// Pages that one request looks at, as long as nothing on them is shown.
const PAGES_MAX: usize = 20;

/// One event of which the user was notified.
pub struct Notification {
    pub event: Arc<StoredEvent>,
    pub viewer: Viewer,
    /// JSON array.
    pub actions: String,
    pub is_read: bool,
    /// Its place in the order of its room.
    pub ordering: i64,
    /// The root of its thread.
    pub thread: Option<OwnedEventId>,
}

/// Notifications, newest first.
pub struct NotificationPage {
    pub notifications: Vec<Notification>,
    /// Where the next page begins; None at the end.
    pub next: Option<i64>,
}

/// An event that may be on the page.
struct Candidate {
    room: Arc<Room>,
    event: EventNid,
    ordering: i64,
    /// What the user's rules made of it, if not the default.
    deviation: Option<DeviationRow>,
    /// Whether the user was notified, as far as rows tell. Others are looked at so that paging goes on behind
    /// them.
    is_taken: bool,
}

impl Push {
    /// At most `limit` notifications before `before` (None: from the latest on); with
    /// `only_highlights` those that highlighted. There may be more behind a page that is not full.
    pub async fn list_notifications(
        &self,
        rooms: &Rooms,
        user: &UserId,
        before: Option<i64>,
        wanted: (usize, bool),
    ) -> Result<NotificationPage, StorageError> {
        let mut page = self.list_page(rooms, user, before, wanted).await?;
        for _ in 1..PAGES_MAX {
            if !page.notifications.is_empty() || page.next.is_none() {
                break;
            }
            page = self.list_page(rooms, user, page.next, wanted).await?;
        }
        Ok(page)
    }

    async fn list_page(
        &self,
        rooms: &Rooms,
        user: &UserId,
        before: Option<i64>,
        (limit, only_highlights): (usize, bool),
    ) -> Result<NotificationPage, StorageError> {
        let mut places: Vec<UserRoom> = rooms.rooms_of(user).await?.list();
        places.retain(|p| matches!(p.membership, Membership::Join | Membership::Invite));
        places.sort_by_key(|place| std::cmp::Reverse(place.room.head().latest_position));
        let before = before.unwrap_or(i64::MAX);
        let mut found: Vec<Candidate> = Vec::new();
        for place in places {
            let latest = ordering_of_position(place.room.head().latest_position);
            // Rooms come by their latest event: no later one has anything for a full page.
            if found.get(limit).is_some_and(|last| last.ordering > latest) {
                break;
            }
            let range = (before, limit + 1);
            found.extend(self.list_candidates(rooms, user, &place, range, only_highlights).await?);
            found.sort_by_key(|candidate| std::cmp::Reverse(candidate.ordering));
            found.truncate(limit + 1);
        }
        let has_more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| has_more).map(|last| last.ordering);
        let rules = self.load_rules(rooms, user).await?;
        let mut notifications = Vec::with_capacity(found.len());
        for candidate in found.into_iter().filter(|candidate| candidate.is_taken) {
            notifications.extend(self.admit(rooms, (user, &rules), candidate).await?);
        }
        Ok(NotificationPage { notifications, next })
    }

    /// The latest events of a room before a place that notify by default or for this user.
    async fn list_candidates(
        &self,
        rooms: &Rooms,
        user: &UserId,
        place: &UserRoom,
        (before, limit): (i64, usize),
        only_highlights: bool,
    ) -> Result<Vec<Candidate>, StorageError> {
        let (database, room) = (rooms.database(), &place.room);
        let defaults = match place.is_joined() {
            true => {
                list_default_notifying(database, room.nid, before, only_highlights, limit).await?
            }
            false => Vec::new(),
        };
        let oldest = defaults.last().filter(|_| defaults.len() == limit);
        let range = (oldest.map_or(1, |(_, ordering)| *ordering), before - 1);
        let rows = list_deviations_of_room(database, user.as_str(), room.nid, range).await?;
        let mut deviations: HashMap<i64, DeviationRow> =
            rows.into_iter().map(|row| (row.ordering, row)).collect();
        let mut found = Vec::new();
        for (event, ordering) in defaults {
            let deviation = deviations.remove(&ordering);
            let is_taken = deviation
                .as_ref()
                .is_none_or(|row| row.notifies && (row.highlights || !only_highlights));
            let room = Arc::clone(room);
            found.push(Candidate { room, event, ordering, deviation, is_taken });
        }
        let own = deviations.into_values();
        let own = own.filter(|row| row.notifies && (row.highlights || !only_highlights));
        found.extend(own.map(|row| Candidate {
            room: Arc::clone(room),
            event: row.event,
            ordering: row.ordering,
            deviation: Some(row),
            is_taken: true,
        }));
        Ok(found)
    }

    /// The notification, unless the event is the user's own, hidden, redacted or was quiet.
    async fn admit(
        &self,
        rooms: &Rooms,
        (user, rules): (&UserId, &CompiledRules),
        candidate: Candidate,
    ) -> Result<Option<Notification>, StorageError> {
        let Candidate { room, event, ordering, deviation, .. } = candidate;
        let event = rooms.events().load_one(room.facts(), event).await?;
        let viewer = rooms.viewer(&room, user).await?;
        let is_about_user = event.event.state_key() == Some(user.as_str());
        let is_hidden = !is_about_user && !viewer.sees(&event).await?;
        if event.event.sender() == user || event.is_redacted() || is_hidden {
            return Ok(None);
        }
        let thread = find_thread(rooms, &room, &event).await?;
        let root = thread.as_ref().map(|root| root.as_str());
        let (read, is_quiet) = self.counts().read_and_quiet(user, &event, root).await?;
        if is_quiet && deviation.is_none() {
            return Ok(None);
        }
        let actions = match deviation {
            Some(row) => row.actions,
            None => self.default_actions(&room, &event, (user, rules)),
        };
        // Not the event's own place: an invitation by another server has none in its room.
        let is_read = ordering <= read;
        Ok(Some(Notification { event, viewer, actions, is_read, ordering, thread }))
    }

    /// A user's rules of now.
    pub(super) async fn load_rules(
        &self,
        rooms: &Rooms,
        user: &UserId,
    ) -> Result<CompiledRules, StorageError> {
        let wishes = Wishes::load(rooms.database(), &[user.as_str()]).await?;
        let wishes = wishes.get(user.as_str()).cloned().unwrap_or_default();
        wishes.compile_rules(user, self.0.mentions)
    }

    /// The power levels of a room as it is now.
    pub(super) fn power_levels(&self, room: &Room) -> PowerLevels {
        let head = room.head();
        let state = |kind: &str| head.find_pinned(kind).map(|stored| &*stored.event);
        let (create, power) = (state("m.room.create"), state("m.room.power_levels"));
        PowerLevels::from_events(create, power, room.rules)
    }

    /// The actions of an event that did what it does by default.
    fn default_actions(
        &self,
        room: &Room,
        event: &StoredEvent,
        (user, rules): (&UserId, &CompiledRules),
    ) -> String {
        let levels = self.power_levels(room);
        let members = room.head().joined_count.max(0).cast_unsigned();
        let case = PushEvent::new(&event.event, members, &levels, &self.0.defaults);
        let outcome = rules.evaluate(&case, user, None).filter(|outcome| outcome.notify);
        // Their rules may have changed since.
        outcome.map_or_else(|| "[\"notify\"]".to_owned(), |outcome| actions_json(outcome.actions))
    }
}
