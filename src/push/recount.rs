//! Counts again what somebody has said whom a user begins or ceases to ignore (client-server API,
//! "Ignoring Users"): it was judged when it came, by the list of that moment, and clients show it by
//! the list of now. Not for events to come, which are `judge`'s.

use std::collections::HashSet;

use ruma::{OwnedUserId, UserId, push::Action};
use serde_json::Value;

use super::{
    Push,
    judge::{Effect, FOLLOWERS_MAX, actions_json},
    tally::{Deviation, UserRoomCounts},
    threads::find_thread,
};
use crate::{
    protocol::{
        power_levels::PowerLevels,
        push_rules::{CompiledRules, PushEvent},
    },
    rooms::{Room, Rooms, StoredEvent, ordering_of_position},
    storage::{
        self, RoomNid, StorageError, WriteTx,
        counts::DeviationRow,
        thread_subscriptions::{ThreadName, list_followers},
    },
};

/// Unread events that are looked at for one change of the list, and those of one room, the latest
/// first. What lies behind stays counted as it was.
const EVENTS_MAX: usize = 10_000;
const ROOM_EVENTS_MAX: usize = 1000;

/// Whom a list of ignored users names now, and who was added to it or taken from it.
#[derive(Debug)]
pub struct IgnoreChange {
    pub ignored: HashSet<OwnedUserId>,
    pub changed: HashSet<OwnedUserId>,
}

/// The user for whom is counted, in one room.
struct Place<'a> {
    user: &'a UserId,
    room: &'a Room,
    /// Their name there.
    name: Option<String>,
    counts: UserRoomCounts,
    levels: PowerLevels,
    rules: &'a CompiledRules,
}

impl Push {
    /// Adds to the write of a user's new list what it makes of the counts.
    pub async fn recount(
        &self,
        rooms: &Rooms,
        user: &UserId,
        change: &IgnoreChange,
        tx: &mut WriteTx,
    ) -> Result<(), StorageError> {
        if change.changed.is_empty() {
            return Ok(());
        }
        let rules = self.load_rules(rooms, user).await?;
        let mut left = EVENTS_MAX;
        let mut found: Vec<(RoomNid, Deviation)> = Vec::new();
        for place in rooms.rooms_of(user).await?.list_joined() {
            let room: &Room = &place.room;
            let counts = self.counts().load_user_room(user, room.nid).await?;
            let (read, latest) = (counts.marks.all.ordering, room.head().latest_position);
            if ordering_of_position(latest) <= read || !was_there(rooms, room, change).await? {
                continue;
            }
            let limit = left.min(ROOM_EVENTS_MAX);
            let events = rooms.list_backwards(room, (read, i64::MAX), limit).await?;
            left -= events.len();
            let name = find_name(rooms, room, user).await?;
            let levels = self.power_levels(room);
            let place = Place { user, room, name, counts, levels, rules: &rules };
            for event in events.iter().filter(|event| change.concerns(event)) {
                let deviation = self.count_again(rooms, &place, event, change, tx).await?;
                found.extend(deviation.map(|deviation| (room.nid, deviation)));
            }
            if left == 0 {
                break;
            }
        }
        let (counts, user) = (self.counts().clone(), user.to_owned());
        tx.after_commit(move |committed| counts.replace_deviations(&user, found, committed));
        Ok(())
    }

    /// What an event does for the user now, if that has to be noted.
    async fn count_again(
        &self,
        rooms: &Rooms,
        place: &Place<'_>,
        event: &StoredEvent,
        change: &IgnoreChange,
        tx: &mut WriteTx,
    ) -> Result<Option<Deviation>, StorageError> {
        let (parts, ordering) = (&self.0, event.ordering());
        let by_default = self.counts().find_default(event).await?;
        let default = by_default.map_or(
            Effect { notifies: event.notifies(), highlights: false },
            |exception| Effect { notifies: exception.notifies, highlights: exception.highlights },
        );
        let is_quiet = place.counts.is_quiet(ordering);
        let expected = if is_quiet { Effect::default() } else { default };
        let thread = find_thread(rooms, place.room, event).await?;
        let members = place.room.head().joined_count.max(0).cast_unsigned();
        let followers = match thread.as_ref().filter(|_| place.rules.asks_for_threads()) {
            Some(root) => {
                let thread = ThreadName { room: place.room.nid, root: root.as_str() };
                list_followers(rooms.database(), thread, FOLLOWERS_MAX).await?
            }
            None => Vec::new(),
        };
        let case = PushEvent::new(&event.event, members, &place.levels, &parts.defaults);
        let case = case.followed_by(followers);
        let outcome = place.rules.evaluate(&case, place.user, place.name.as_deref());
        let outcome = outcome.filter(|_| !change.ignored.contains(event.event.sender()));
        let effect = Effect::of(outcome.as_ref());
        let is_noted = place.counts.deviations.iter().any(|known| known.ordering == ordering);
        if effect == expected && !is_noted {
            return Ok(None);
        }
        let deviation = Deviation {
            ordering,
            thread: thread.map(|root| root.as_str().into()),
            notify_delta: i64::from(effect.notifies) - i64::from(expected.notifies),
            highlight_delta: i64::from(effect.highlights) - i64::from(expected.highlights),
        };
        let actions: &[Action] = outcome.as_ref().map_or(&[], |outcome| outcome.actions);
        let row = DeviationRow {
            room: place.room.nid,
            ordering,
            event: event.nid,
            thread: deviation.thread.as_deref().unwrap_or_default().to_owned(),
            notifies: effect.notifies,
            highlights: effect.highlights,
            notify_delta: deviation.notify_delta,
            highlight_delta: deviation.highlight_delta,
            actions: actions_json(actions),
        };
        storage::counts::replace_deviation(tx, place.user.as_str(), &row);
        Ok(Some(deviation))
    }
}

impl IgnoreChange {
    /// Whether an event is to be counted again. One that was redacted notifies nobody in any case.
    fn concerns(&self, event: &StoredEvent) -> bool {
        self.changed.contains(event.event.sender()) && !event.is_redacted() && !event.is_hidden()
    }
}

/// Whether anybody of them has ever been in a room.
async fn was_there(
    rooms: &Rooms,
    room: &Room,
    change: &IgnoreChange,
) -> Result<bool, StorageError> {
    for user in &change.changed {
        if rooms.find_member(room, user).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn find_name(
    rooms: &Rooms,
    room: &Room,
    user: &UserId,
) -> Result<Option<String>, StorageError> {
    let member = rooms.find_member(room, user).await?;
    let content: Option<Value> = member.and_then(|member| member.event.content_as().ok());
    Ok(content.and_then(|content| content["displayname"].as_str().map(ToOwned::to_owned)))
}
