//! The commit of an attempt: the rows that depend on all of it, and what memory learns when it is
//! durable, or when it failed.

use std::sync::{Arc, atomic::Ordering};

use ruma::OwnedUserId;

use super::{
    acceptance::Accepted,
    append::ExtraRows,
    attempt::Attempt,
    event_store::{StoredEvent, event_key},
    fork::Forked,
    recent::ForkChanges,
    registry::Engine,
    room::{Head, Room},
    state::State,
    summary,
    user_rooms::UserRoom,
};
use crate::{
    protocol::{event::Event, membership::Membership},
    storage::{
        self, Committed, EventNid, ORDERING_STEP, WriteTx,
        events::{NewEvent, Place},
        rooms::RoomRow,
    },
};

/// A room is weighed again at every such position of its events.
const WEIGHED_EVERY: i64 = 32;

impl Attempt<'_> {
    /// The room that these events begin, which nobody knows yet; None before the first one.
    pub fn begin_room(&self) -> Option<Arc<Room>> {
        let room_id = self.room_id.clone()?;
        let room = Room::new(self.room_nid, room_id, self.rules, Head::empty(), i64::MIN);
        Some(Arc::new(room))
    }

    /// As [`Attempt::finish`], for the room of [`Attempt::begin_room`], which is known after the commit.
    pub fn finish_new(self, room: &Arc<Room>, extra: Option<ExtraRows<'_>>) -> WriteTx {
        let (registered, shared) = (Arc::clone(room), Arc::clone(self.engine));
        let (head, _, mut tx) = self.finish(room, extra);
        *room.speculative.lock() = head;
        tx.after_commit(move |_| shared.register(&registered));
        tx
    }

    /// Queues what depends on the whole, and says what happens after the commit.
    pub fn finish(
        mut self,
        room: &Arc<Room>,
        extra: Option<ExtraRows<'_>>,
    ) -> (Arc<Head>, Vec<Arc<StoredEvent>>, WriteTx) {
        self.save_room(room);
        if let Some(extra) = extra {
            extra(&mut self.tx, self.room_nid);
        }
        if let Some(acceptance) = &self.known.acceptance {
            let accepted = Accepted {
                room,
                head: &self.head,
                events: &self.events,
                positions: &self.positions,
                joined: &self.joined,
                redacted: &self.redacted,
            };
            acceptance.accept(&accepted, &mut self.tx);
        }
        let head = Arc::new(self.head.clone());
        let applied = Applied {
            engine: Arc::clone(self.engine),
            room: Arc::clone(room),
            head: self.head,
            events: self.events.clone(),
            positions: self.positions,
            memberships: self.memberships,
            redacted: self.redacted,
            related: self.known.related.clone(),
            forked: self.forked,
            completed: self.completed,
        };
        let is_state_changed =
            applied.forked.is_some() || self.events.iter().any(|event| event.event.is_state());
        let mut tx = self.tx;
        tx.guard(Arc::clone(&room.epoch), room.epoch.load(Ordering::Acquire));
        for event in &self.events {
            self.engine.events.remember(event);
        }
        let (failed_room, failed_events) = (Arc::clone(room), self.events.clone());
        let engine = Arc::clone(self.engine);
        tx.after_failure(move || engine.take_back(&failed_room, &failed_events));
        let woken: Vec<_> = applied.memberships.iter().map(|(user, ..)| user.clone()).collect();
        tx.after_commit(move |committed| applied.apply(committed));
        let (engine, room) = (Arc::clone(self.engine), Arc::clone(room));
        tx.after_publish(move |_| {
            if is_state_changed {
                engine.sticky.note_change(room.nid);
            }
            room.wake_listeners();
            woken.iter().for_each(|user| engine.notifier.wake(user));
        });
        (head, self.events, tx)
    }

    fn save_room(&mut self, room: &Room) {
        let last = self.positions.last().copied().or(self.completed).unwrap_or(0);
        let row = RoomRow {
            nid: self.room_nid,
            room_id: room.room_id.to_string(),
            version: self.rules.version.as_str().to_owned(),
            extremities: self.head.encode_extremities(),
            state_nid: self.head.state.nid(),
            depth: self.head.depth,
            notify_ordinal: self.head.notify_ordinal,
            latest_position: 0,
            joined_count: self.head.joined_count,
            invited_count: self.head.invited_count,
        };
        storage::rooms::save(&mut self.tx, &row, last);
        if self.summary_changed {
            let summary = summary::of_head(&self.head, self.rules);
            storage::rooms::save_summary(&mut self.tx, self.room_nid, &summary);
        }
    }
}

/// What memory learns from a commit.
struct Applied {
    engine: Arc<Engine>,
    room: Arc<Room>,
    head: Head,
    events: Vec<Arc<StoredEvent>>,
    positions: Vec<u32>,
    memberships: Vec<(OwnedUserId, Membership, Arc<StoredEvent>, usize)>,
    redacted: Vec<(Arc<StoredEvent>, usize)>,
    related: Vec<EventNid>,
    /// The latest event that did not simply follow the head.
    forked: Option<Forked>,
    /// The position at which the room's state became whole.
    completed: Option<u32>,
}

impl Applied {
    fn apply(mut self, committed: Committed) {
        for (event, offset) in self.events.iter().zip(&self.positions) {
            event.set_committed(committed.position(*offset));
            self.engine.events.note_id(event);
            self.head.latest_position = committed.position(*offset);
        }
        if let Some(offset) = self.completed {
            self.head.latest_position = committed.position(offset);
            self.room.note_fork(committed.position(offset) * ORDERING_STEP);
        }
        // What was queued behind this one was built before the position was known.
        let fork = self.forked.map(|forked| {
            let ordering = committed.position(forked.position) * ORDERING_STEP;
            self.room.note_fork(ordering);
            self.engine.remember_state(&forked.before);
            ForkChanges { ordering, changes: forked.changes }
        });
        for (event, _) in &self.redacted {
            self.engine.remember_redacted(event);
            self.room.replace_recent(event);
        }
        for target in self.related.iter().filter_map(|nid| self.engine.events.find_cached(*nid)) {
            target.note_relation();
        }
        // The next reader of a state before one of these events finds it in memory.
        self.engine.remember_state(&self.head.state);
        let is_due = self.head.latest_position % WEIGHED_EVERY == 0;
        self.room.apply(self.head, &self.events, fork);
        if let Some(offset) = self.completed {
            let position = committed.position(offset);
            self.engine.partial.note_whole(self.room.nid, position);
            self.room.note_completed(position);
            self.room.forget_recent();
        }
        if is_due {
            self.engine.reweigh(&self.room);
        }
        for (user, membership, event, index) in self.memberships {
            let place = UserRoom {
                room: Arc::clone(&self.room),
                membership,
                event: event.nid,
                position: self.events[index].position(),
                forgotten: false,
            };
            self.engine.users.apply(&user, place);
        }
    }
}

impl Engine {
    /// Undoes in memory what could not be committed: successors are refused, and the room goes
    /// on from where it is committed.
    fn take_back(&self, room: &Room, events: &[Arc<StoredEvent>]) {
        // Under the lock, so that nothing is built upon the lost head with the new epoch.
        let mut speculative = room.speculative.lock();
        room.epoch.fetch_add(1, Ordering::AcqRel);
        *speculative = room.head();
        drop(speculative);
        events.iter().for_each(|event| self.events.forget(event.nid));
    }
}

impl Head {
    /// The head of a room without events.
    pub(super) fn empty() -> Self {
        Self {
            extremities: Vec::new(),
            forks: Vec::new(),
            depth: 0,
            state: State::default(),
            pinned: Arc::default(),
            notify_ordinal: 0,
            latest_position: 0,
            joined_count: 0,
            invited_count: 0,
            partial: None,
        }
    }
}

impl Engine {
    /// Keeps the original of a redacted event as long as the configuration says.
    pub fn keep_original(
        &self,
        tx: &mut WriteTx,
        original: &Event,
        nid: EventNid,
        redacted_by: EventNid,
    ) {
        let retention = self.settings.redaction_retention_ms;
        let keeps = retention != Some(0);
        let expires = retention.map_or(i64::MAX.cast_unsigned(), |ms| self.clock.now_ms() + ms);
        let original = keeps.then(|| original.json());
        storage::redactions::insert(tx, nid, redacted_by, original, expires);
    }
}

/// Queues an event's row, or what changes of it when it gets a place.
pub(super) fn write_event(tx: &mut WriteTx, stored: &StoredEvent, place: Place, is_stored: bool) {
    let row = NewEvent {
        nid: stored.nid,
        room_nid: stored.room_nid,
        place,
        state_nid: stored.state_nid,
        state_key_nid: stored.state_key_nid,
        replaces_nid: stored.replaces_nid,
        flags: stored.flags,
        notify_ordinal: stored.notify_ordinal,
        origin_server_ts: stored.event.origin_server_ts(),
        event_key: &event_key(stored.event.event_id()),
        sent_by: stored.sent_by.as_deref(),
        json: stored.event.json(),
    };
    match is_stored {
        true => storage::events::place(tx, &row),
        false => storage::events::insert(tx, &row),
    }
}
