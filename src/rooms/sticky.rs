//! Events that stick to a room for a while (MSC4354): every member gets them, however far behind the
//! timeline they lie, and other servers get ours when they come in. They lie in memory, since nothing sticks
//! for more than an hour. Not for what a client has not seen yet (`sync`).

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::{
    event_store::StoredEvent,
    registry::{Engine, Rooms},
    room::Room,
};
use crate::{
    protocol::{authorisation::authorise, event::Event},
    storage::{Database, EventNid, RoomNid, StorageError, WriteTx, events::flags, sticky_events},
};

/// Sticky events of one room; of more, the oldest ones stick no longer.
const STICKY_EVENTS_MAX: usize = 5_000;
/// How often those are let go that are sticky no longer.
const EXPIRY_PAUSE: Duration = Duration::from_secs(10 * 60);

/// An event that sticks to its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StickyEvent {
    pub event: EventNid,
    /// Where the stream carries it; 0 while the room's current state forbids it.
    pub position: i64,
    /// Milliseconds since the Unix epoch.
    pub expires_ms: u64,
}

/// All that is sticky.
#[derive(Default)]
pub(super) struct StickyEvents {
    /// In the order of the stream.
    shown: RwLock<HashMap<RoomNid, Vec<StickyEvent>>>,
    /// Those that were soft-failed.
    hidden: RwLock<HashMap<RoomNid, Vec<StickyEvent>>>,
    /// The position of the latest of all.
    latest: AtomicI64,
    /// Rooms that have changed since their hidden ones were judged.
    changed: Mutex<HashSet<RoomNid>>,
    bell: Notify,
}

impl StickyEvents {
    pub async fn load(database: &Database, now_ms: u64) -> Result<Self, StorageError> {
        let all = Self::default();
        for row in sticky_events::list(database, now_ms).await? {
            let (position, expires_ms) = (row.position.unwrap_or(0), row.expires_ts);
            let expires_ms = expires_ms.cast_unsigned();
            all.note(row.room, StickyEvent { event: row.event, position, expires_ms });
        }
        Ok(all)
    }

    /// Notes a committed event, or that one is not hidden any more.
    fn note(&self, room: RoomNid, sticky: StickyEvent) {
        if let Some(hidden) = self.hidden.write().get_mut(&room) {
            hidden.retain(|known| known.event != sticky.event);
        }
        let into = if sticky.position == 0 { &self.hidden } else { &self.shown };
        let mut rooms = into.write();
        let events = rooms.entry(room).or_default();
        let place = events.partition_point(|known| known.position <= sticky.position);
        events.insert(place, sticky);
        let excess = events.len().saturating_sub(STICKY_EVENTS_MAX);
        events.drain(..excess);
        drop(rooms);
        self.latest.fetch_max(sticky.position, Ordering::AcqRel);
    }

    /// Those of a room with `after < position <= upto`.
    fn list(&self, room: RoomNid, (after, upto): (i64, i64), now_ms: u64) -> Vec<StickyEvent> {
        let rooms = self.shown.read();
        let Some(events) = rooms.get(&room) else { return Vec::new() };
        let first = events.partition_point(|known| known.position <= after);
        let in_range = events[first..].iter().take_while(|known| known.position <= upto);
        in_range.filter(|known| known.expires_ms > now_ms).copied().collect()
    }

    fn list_hidden(&self, room: RoomNid, now_ms: u64) -> Vec<StickyEvent> {
        let rooms = self.hidden.read();
        let events = rooms.get(&room).into_iter().flatten();
        events.filter(|known| known.expires_ms > now_ms).copied().collect()
    }

    /// Has hidden events of a room judged again, if there are any.
    pub fn note_change(&self, room: RoomNid) {
        if self.hidden.read().contains_key(&room) {
            self.changed.lock().insert(room);
            self.bell.notify_one();
        }
    }

    pub fn forget_room(&self, room: RoomNid) {
        self.shown.write().remove(&room);
        self.hidden.write().remove(&room);
    }

    fn forget_expired(&self, now_ms: u64) {
        for rooms in [&self.shown, &self.hidden] {
            rooms.write().retain(|_, events| {
                events.retain(|known| known.expires_ms > now_ms);
                !events.is_empty()
            });
        }
    }
}

impl Engine {
    /// Until when an event that arrives now is sticky, if it is: "The start time is
    /// `min(received_ts, origin_server_ts)`."
    fn find_expiry(&self, event: &Event) -> Option<u64> {
        let (duration_ms, now_ms) = (event.sticky_ms()?, self.clock.now_ms());
        let starts_ms = event.origin_server_ts().max(0).cast_unsigned().min(now_ms);
        Some(starts_ms + u64::from(duration_ms)).filter(|expires_ms| *expires_ms > now_ms)
    }

    /// Queues that an event, if it is sticky still, sticks from the job's position `offset` on, or is
    /// hidden; returns whether it does.
    pub(super) fn stick(
        self: &Arc<Self>,
        tx: &mut WriteTx,
        (room, nid): (RoomNid, EventNid),
        event: &Event,
        offset: Option<u32>,
    ) -> bool {
        let Some(expires_ms) = self.find_expiry(event) else { return false };
        self.stick_until(tx, (room, nid), offset, expires_ms);
        true
    }

    fn stick_until(
        self: &Arc<Self>,
        tx: &mut WriteTx,
        (room, nid): (RoomNid, EventNid),
        offset: Option<u32>,
        expires_ms: u64,
    ) {
        sticky_events::save(tx, (room, nid), offset, expires_ms);
        let engine = Arc::clone(self);
        tx.after_commit(move |committed| {
            let position = offset.map_or(0, |offset| committed.position(offset));
            engine.sticky.note(room, StickyEvent { event: nid, position, expires_ms });
        });
    }

    /// As [`Engine::stick`] for an event that no timeline of a sync holds: gives it a position of its own,
    /// at which members hear of it.
    pub(super) fn stick_late(
        self: &Arc<Self>,
        tx: &mut WriteTx,
        (room, nid): (&Arc<Room>, EventNid),
        event: &Event,
    ) {
        if event.sticky_ms().is_none() {
            return;
        }
        let offset = tx.next_position();
        if self.stick(tx, (room.nid, nid), event, Some(offset)) {
            announce(tx, room, offset);
        }
    }
}

/// Has members hear of what has this position.
fn announce(tx: &mut WriteTx, room: &Arc<Room>, offset: u32) {
    let (changed, listened) = (Arc::clone(room), Arc::clone(room));
    tx.after_commit(move |committed| changed.note_activity(committed.position(offset)));
    tx.after_publish(move |_| listened.wake_listeners());
}

impl Rooms {
    /// Events that stick to rooms of which `is_wanted` is true, with `after < position <= upto`, at most
    /// `limit` of them, the earliest first; and the position up to which these are all.
    pub fn list_sticky(
        &self,
        (after, upto): (i64, i64),
        limit: usize,
        is_wanted: impl Fn(RoomNid) -> bool,
    ) -> (Vec<(RoomNid, StickyEvent)>, i64) {
        let all = &self.0.sticky;
        if all.latest.load(Ordering::Acquire) <= after {
            return (Vec::new(), upto);
        }
        let rooms: Vec<RoomNid> = {
            let shown = all.shown.read();
            let has_some = |events: &Vec<StickyEvent>| {
                events.last().is_some_and(|latest| latest.position > after)
            };
            let rooms = shown.iter().filter(|(_, events)| has_some(events));
            rooms.map(|(room, _)| *room).collect()
        };
        let mut found: Vec<(RoomNid, StickyEvent)> = Vec::new();
        for room in rooms.into_iter().filter(|room| is_wanted(*room)) {
            let events = self.list_sticky_of(room, (after, upto));
            found.extend(events.into_iter().map(|event| (room, event)));
        }
        found.sort_by_key(|(_, sticky)| sticky.position);
        match found.get(limit) {
            // No two have the same position.
            Some((_, next)) => {
                let upto = next.position - 1;
                found.truncate(limit);
                (found, upto)
            }
            None => (found, upto),
        }
    }

    /// Whether an event that arrives now is sticky still.
    pub(super) fn is_sticky(&self, event: &Event) -> bool {
        self.0.find_expiry(event).is_some()
    }

    /// Events that stick to one room, with `after < position <= upto`.
    pub fn list_sticky_of(&self, room: RoomNid, range: (i64, i64)) -> Vec<StickyEvent> {
        self.0.sticky.list(room, range, self.0.clock.now_ms())
    }

    /// Events that stick to a room, of users of this server.
    pub async fn list_own_sticky(
        &self,
        room: &Room,
    ) -> Result<Vec<(StickyEvent, Arc<StoredEvent>)>, StorageError> {
        let sticky = self.list_sticky_of(room.nid, (0, i64::MAX));
        let nids: Vec<EventNid> = sticky.iter().map(|sticky| sticky.event).collect();
        let events = self.0.events.load(room.facts(), &nids).await?;
        let is_own = |event: &StoredEvent| event.event.sender().server_name() == self.server_name();
        let pairs = sticky.into_iter().zip(events);
        Ok(pairs.filter(|(_, event)| event.event.sticky_ms().is_some() && is_own(event)).collect())
    }

    /// For how many milliseconds the event sticks yet, if it does.
    pub(super) fn sticky_ttl_ms(&self, event: &StoredEvent, now_ms: u64) -> Option<u64> {
        event.event.sticky_ms()?;
        let rooms = self.0.sticky.shown.read();
        let mut newest_first = rooms.get(&event.room_nid)?.iter().rev();
        let sticky = newest_first.find(|known| known.event == event.nid)?;
        sticky.expires_ms.checked_sub(now_ms).filter(|ttl_ms| *ttl_ms > 0)
    }

    /// Whether members may see the event although it has no place in the timeline.
    pub(super) fn is_shown_sticky(&self, event: &StoredEvent) -> bool {
        event.flags & flags::HIDDEN == flags::SOFT_FAILED
            && self.sticky_ttl_ms(event, self.0.clock.now_ms()).is_some()
    }

    /// Remembers a soft-failed event, so that it is judged again when the room changes.
    pub(super) async fn stick_hidden(
        &self,
        room: &Room,
        (nid, event): (EventNid, &Event),
    ) -> Result<(), StorageError> {
        let mut tx = WriteTx::new();
        match self.0.stick(&mut tx, (room.nid, nid), event, None) {
            true => self.0.writer.commit(tx).await.map(drop),
            false => Ok(()),
        }
    }

    /// Judges hidden events again when their rooms change, and lets go of what sticks no longer, for as
    /// long as it is polled.
    pub async fn run_sticky(self) {
        let mut expiry = tokio::time::interval(EXPIRY_PAUSE);
        expiry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let done = tokio::select! {
                _ = expiry.tick() => self.expire_sticky().await,
                () = self.0.sticky.bell.notified() => self.judge_hidden().await,
            };
            if let Err(error) = done {
                tracing::warn!(%error, "sticky events were not looked after");
            }
        }
    }

    async fn expire_sticky(&self) -> Result<(), StorageError> {
        let now_ms = self.0.clock.now_ms();
        self.0.sticky.forget_expired(now_ms);
        let deleted: Result<u64, StorageError> = self
            .0
            .writer
            .transact(move |tx| Box::pin(sticky_events::delete_expired(tx, now_ms)))
            .await;
        deleted.map(drop)
    }

    async fn judge_hidden(&self) -> Result<(), StorageError> {
        let changed: Vec<RoomNid> = self.0.sticky.changed.lock().drain().collect();
        for room in self.load_all(&changed).await? {
            self.judge_hidden_of(&room).await?;
        }
        Ok(())
    }

    /// "Soft-failure checks MUST be re-evaluated when the membership state changes for a user with unexpired
    /// sticky events." What is allowed then sticks; it has no place in the timeline, which has gone on.
    async fn judge_hidden_of(&self, room: &Arc<Room>) -> Result<(), StorageError> {
        let _alone = room.receiving.lock().await;
        let head = room.head();
        for sticky in self.0.sticky.list_hidden(room.nid, self.0.clock.now_ms()) {
            let event = self.0.events.load_one(room.facts(), sticky.event).await?;
            // State is what the room's states resolve to, and nothing else.
            if event.flags & flags::HIDDEN != flags::SOFT_FAILED || event.event.is_state() {
                continue;
            }
            let state = self.find_judges(room, &event.event, &head.state).await?;
            if authorise(&*event.event, room.rules, &state).is_ok() {
                let mut tx = WriteTx::new();
                let offset = tx.next_position();
                let named = (room.nid, sticky.event);
                self.0.stick_until(&mut tx, named, Some(offset), sticky.expires_ms);
                announce(&mut tx, room, offset);
                self.0.writer.commit(tx).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sticky(number: i64, position: i64, expires_ms: u64) -> StickyEvent {
        StickyEvent { event: EventNid(number), position, expires_ms }
    }

    #[test]
    fn events_are_listed_in_the_order_of_the_stream_until_they_expire() {
        let all = StickyEvents::default();
        let room = RoomNid(1);
        [(1, 10, 500), (2, 30, 900), (3, 20, 900)]
            .into_iter()
            .for_each(|(number, position, ms)| all.note(room, sticky(number, position, ms)));
        let positions = |range, now_ms| -> Vec<i64> {
            all.list(room, range, now_ms).iter().map(|known| known.position).collect()
        };
        assert_eq!(positions((0, 100), 0), [10, 20, 30]);
        assert_eq!(positions((10, 29), 0), [20]);
        assert_eq!(positions((0, 100), 500), [20, 30]);
        all.forget_expired(900);
        assert!(positions((0, 100), 0).is_empty());
    }

    #[test]
    fn hidden_events_are_not_listed_before_they_have_a_position() {
        let all = StickyEvents::default();
        let room = RoomNid(1);
        all.note(room, sticky(1, 0, 500));
        assert!(all.list(room, (0, 100), 0).is_empty());
        assert_eq!(all.list_hidden(room, 0).len(), 1);
        all.note(room, sticky(1, 7, 500));
        assert!(all.list_hidden(room, 0).is_empty());
        assert_eq!(all.list(room, (0, 100), 0).len(), 1);
    }

    #[test]
    fn room_keeps_the_latest_of_too_many() {
        let all = StickyEvents::default();
        let count = STICKY_EVENTS_MAX as i64 + 3;
        (1..=count).for_each(|number| all.note(RoomNid(1), sticky(number, number, 500)));
        let listed = all.list(RoomNid(1), (0, i64::MAX), 0);
        assert_eq!(listed.len(), STICKY_EVENTS_MAX);
        assert_eq!(listed[0].position, 4);
    }
}
