//! One room in memory: where it stands, its latest events, and who listens to it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use ruma::OwnedRoomId;

use super::{
    event_store::{RoomFacts, StoredEvent},
    noted_weight::{NotedWeight, Weighed},
    state::State,
};
use crate::{
    notifier::UserWaker,
    protocol::room_version::RoomRules,
    storage::{RoomNid, StateKeyNid},
};

/// The latest events that a room keeps at hand for syncs.
pub const RECENT_EVENTS_MAX: usize = 64;
/// State events that are wanted at every turn and stay in memory with the room.
pub const PINNED_KINDS: [&str; 11] = [
    "m.room.create",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.server_acl",
];

/// A room in memory; there is never more than one for a room.
pub struct Room {
    pub nid: RoomNid,
    pub room_id: OwnedRoomId,
    pub rules: &'static RoomRules,
    /// Rises when what was appended could not be committed.
    pub(super) epoch: Arc<AtomicU64>,
    committed: ArcSwap<Head>,
    /// The head that appends build upon: committed or on its way. Only `append` looks at it.
    pub(super) speculative: Mutex<Arc<Head>>,
    recent: Mutex<Recent>,
    /// The latest position of anything that every member's sync carries.
    activity: AtomicI64,
    listeners: Mutex<Vec<Weak<UserWaker>>>,
    weight: NotedWeight,
}

/// Where a room stands: the end of its graph and the state there.
#[derive(Clone)]
pub struct Head {
    /// The forward extremities.
    pub extremities: Vec<Arc<StoredEvent>>,
    pub depth: i64,
    pub state: State,
    /// The current events of [`PINNED_KINDS`] (with an empty state key).
    pub pinned: Arc<Vec<(StateKeyNid, Arc<StoredEvent>)>>,
    pub notify_ordinal: i64,
    /// The position of the room's latest event; not known before it is committed.
    pub latest_position: i64,
    pub joined_count: i64,
    pub invited_count: i64,
}

/// The room's latest events without a gap.
#[derive(Default)]
struct Recent {
    events: VecDeque<Arc<StoredEvent>>,
    /// No event above this place in the room is missing in `events`.
    complete_above: i64,
}

impl Head {
    /// A pinned event by its type.
    pub fn find_pinned(&self, kind: &str) -> Option<&Arc<StoredEvent>> {
        self.pinned.iter().map(|(_, event)| event).find(|event| event.event.kind() == kind)
    }

    fn weight_bytes(&self) -> u64 {
        self.state.weight_bytes() + 2048 * (self.pinned.len() + self.extremities.len()) as u64
    }
}

impl Room {
    /// `complete_above` is the place in the room of its latest committed event.
    pub(super) fn new(
        nid: RoomNid,
        room_id: OwnedRoomId,
        rules: &'static RoomRules,
        head: Head,
        complete_above: i64,
    ) -> Self {
        let activity = AtomicI64::new(head.latest_position);
        let head = Arc::new(head);
        Self {
            nid,
            room_id,
            rules,
            epoch: Arc::default(),
            committed: ArcSwap::new(Arc::clone(&head)),
            speculative: Mutex::new(head),
            recent: Mutex::new(Recent { events: VecDeque::new(), complete_above }),
            activity,
            listeners: Mutex::default(),
            weight: NotedWeight::default(),
        }
    }

    pub fn facts(&self) -> RoomFacts<'_> {
        RoomFacts { room_id: &self.room_id, rules: self.rules }
    }

    /// Where the room stands as far as it is committed.
    pub fn head(&self) -> Arc<Head> {
        self.committed.load_full()
    }

    /// The latest position of anything that every member's sync carries.
    pub fn activity(&self) -> i64 {
        self.activity.load(Ordering::Acquire)
    }

    /// Notes that something at this position concerns every member.
    pub fn note_activity(&self, position: i64) {
        self.activity.fetch_max(position, Ordering::AcqRel);
    }

    /// Wakes the members' waiting syncs. Call it when the position is published.
    pub fn wake_listeners(&self) {
        let mut listeners = self.listeners.lock();
        listeners.retain(|listener| match listener.upgrade() {
            Some(waker) => {
                waker.wake();
                true
            }
            None => false,
        });
    }

    /// Has `waker` rung at every activity until it is dropped or removed.
    pub fn add_listener(&self, waker: &Arc<UserWaker>) {
        let mut listeners = self.listeners.lock();
        if !listeners.iter().any(|known| known.as_ptr() == Arc::as_ptr(waker)) {
            listeners.push(Arc::downgrade(waker));
        }
    }

    pub fn remove_listener(&self, waker: &Arc<UserWaker>) {
        self.listeners.lock().retain(|known| known.as_ptr() != Arc::as_ptr(waker));
    }

    /// The committed events above a place in the room, oldest first, if all of them are at hand.
    pub fn recent_above(&self, ordering: i64) -> Option<Vec<Arc<StoredEvent>>> {
        let recent = self.recent.lock();
        if recent.complete_above > ordering {
            return None;
        }
        let newest_first = recent.events.iter().rev();
        let mut events: Vec<_> =
            newest_first.take_while(|event| event.ordering() > ordering).cloned().collect();
        events.reverse();
        Some(events)
    }

    /// The latest `limit` events, oldest first, if they are at hand; fewer when the room has
    /// no more. The flag says whether there are older ones.
    pub fn recent(&self, limit: usize) -> Option<(Vec<Arc<StoredEvent>>, bool)> {
        let recent = self.recent.lock();
        let complete = recent.complete_above <= 0;
        if recent.events.len() < limit && !complete {
            return None;
        }
        let skipped = recent.events.len().saturating_sub(limit);
        Some((recent.events.iter().skip(skipped).cloned().collect(), skipped > 0 || !complete))
    }

    /// Adds events from the database, newest first and directly below what is at hand;
    /// `reached_start` when there are none below them.
    pub(super) fn extend_recent(&self, older: &[Arc<StoredEvent>], reached_start: bool) {
        let mut recent = self.recent.lock();
        for event in older {
            let expected = recent.events.front().map_or(i64::MAX, |front| front.ordering());
            if event.ordering() < expected
                && event.ordering() <= recent.complete_above
                && recent.events.len() < RECENT_EVENTS_MAX
            {
                recent.complete_above = event.ordering() - 1;
                recent.events.push_front(Arc::clone(event));
            }
        }
        let has_all = older.last().is_none_or(|last| last.ordering() > recent.complete_above);
        if reached_start && has_all {
            recent.complete_above = 0;
        }
    }

    /// Where the events at hand begin: all above this place are there.
    pub(super) fn recent_complete_above(&self) -> i64 {
        self.recent.lock().complete_above
    }

    /// Applies a commit: the new head and the events that led to it.
    pub(super) fn apply(&self, head: Head, events: &[Arc<StoredEvent>]) {
        let mut recent = self.recent.lock();
        for event in events {
            recent.events.push_back(Arc::clone(event));
            if recent.events.len() > RECENT_EVENTS_MAX
                && let Some(oldest) = recent.events.pop_front()
            {
                recent.complete_above = oldest.ordering();
            }
        }
        drop(recent);
        self.note_activity(head.latest_position);
        self.committed.store(Arc::new(head));
    }

    /// Puts a redacted event in the place of the original.
    pub(super) fn replace_recent(&self, event: &Arc<StoredEvent>) {
        let mut recent = self.recent.lock();
        if let Some(place) = recent.events.iter_mut().find(|known| known.nid == event.nid) {
            *place = Arc::clone(event);
        }
    }
}

impl Weighed for Room {
    fn noted_weight(&self) -> &NotedWeight {
        &self.weight
    }

    fn weigh_bytes(&self) -> u64 {
        let recent = self.recent.lock();
        let events: usize =
            recent.events.iter().map(|event| event.event.weight_bytes() + 320).sum();
        self.committed.load().weight_bytes() + events as u64 + 1024
    }
}
