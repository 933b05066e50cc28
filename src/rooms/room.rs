//! One room in memory: where it stands, what it keeps at hand, and who listens to it.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use ruma::OwnedRoomId;

use super::{
    event_store::{RoomFacts, StoredEvent},
    noted_weight::{NotedWeight, Weighed},
    partial::PartialState,
    recent::{ForkChanges, Recent, StateChange},
    servers::KnownServers,
    state::State,
};
use crate::{
    notifier::UserWaker,
    protocol::room_version::RoomRules,
    storage::{ORDERING_STEP, RoomNid, StateKeyNid},
};

/// State events that are wanted at every turn and stay in memory with the room.
pub const PINNED_KINDS: [&str; 12] = [
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
    "m.room.policy",
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
    /// The place of the latest event that did not simply follow the head.
    latest_fork: AtomicI64,
    /// Held while an event from another server is judged and placed, one after the other.
    pub(super) receiving: tokio::sync::Mutex<()>,
    /// Held while a policy server is asked about events of this server, one after the other.
    pub(super) asking: tokio::sync::Mutex<()>,
    pub(super) servers: Mutex<Option<KnownServers>>,
    /// The stream position since which the state is whole; 0 where it always was, or is not.
    pub(super) completed_position: AtomicI64,
    /// Rung when the state became whole.
    pub(super) completed: tokio::sync::Notify,
}

/// Where a room stands: the end of its graph and the state there.
#[derive(Clone)]
pub struct Head {
    /// The forward extremities, the oldest first.
    pub extremities: Vec<Arc<StoredEvent>>,
    /// Where there are several: the state after each of them.
    pub(super) forks: Vec<State>,
    /// The greatest depth of an extremity.
    pub depth: i64,
    /// The current state: what the states after all extremities resolve to.
    pub state: State,
    /// The current events of [`PINNED_KINDS`] (with an empty state key).
    pub pinned: Arc<Vec<(StateKeyNid, Arc<StoredEvent>)>>,
    pub notify_ordinal: i64,
    /// The position of the room's latest event; not known before it is committed.
    pub latest_position: i64,
    pub joined_count: i64,
    pub invited_count: i64,
    /// How the room was entered, while its state is not whole.
    pub(super) partial: Option<Arc<PartialState>>,
}

impl Head {
    /// A pinned event by its type.
    pub fn find_pinned(&self, kind: &str) -> Option<&Arc<StoredEvent>> {
        self.pinned.iter().map(|(_, event)| event).find(|event| event.event.kind() == kind)
    }

    /// The state after each extremity.
    pub(super) fn states_after(&self) -> Vec<State> {
        match self.extremities.len() {
            0 => Vec::new(),
            1 => vec![self.state.clone()],
            _ => self.forks.clone(),
        }
    }

    /// The extremities as the store keeps them: a list of numbers, or (where there are several) of
    /// pairs of event and state after it.
    pub(super) fn encode_extremities(&self) -> String {
        let nids = self.extremities.iter().map(|event| event.nid.0);
        if self.forks.is_empty() {
            return format!("{:?}", nids.collect::<Vec<_>>());
        }
        let pairs = nids.zip(&self.forks).map(|(nid, state)| [nid, state.nid().0]);
        format!("{:?}", pairs.collect::<Vec<_>>())
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
            recent: Mutex::new(Recent::new(complete_above)),
            activity,
            listeners: Mutex::default(),
            weight: NotedWeight::default(),
            latest_fork: AtomicI64::new(0),
            receiving: tokio::sync::Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            servers: Mutex::default(),
            completed_position: AtomicI64::new(0),
            completed: tokio::sync::Notify::new(),
        }
    }

    pub fn facts(&self) -> RoomFacts<'_> {
        RoomFacts { nid: self.nid, room_id: &self.room_id, rules: self.rules }
    }

    /// Where the room stands as far as it is committed.
    pub fn head(&self) -> Arc<Head> {
        self.committed.load_full()
    }

    /// The place of the latest event that did not simply follow the head; 0 when there is none.
    pub(super) fn latest_fork(&self) -> i64 {
        self.latest_fork.load(Ordering::Acquire)
    }

    /// Whether, above a place, the current state did not simply follow the events.
    pub fn has_fork_above(&self, ordering: i64) -> bool {
        self.latest_fork() > ordering
    }

    pub(super) fn note_fork(&self, ordering: i64) {
        self.latest_fork.fetch_max(ordering, Ordering::AcqRel);
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
        self.recent.lock().events_above(ordering)
    }

    /// The latest `limit` events, oldest first, if they are at hand; fewer when the room has
    /// no more. The flag says whether there are older ones.
    pub fn recent(&self, limit: usize) -> Option<(Vec<Arc<StoredEvent>>, bool)> {
        self.recent.lock().latest(limit)
    }

    /// The committed event directly before a place in the room, if it is at hand.
    pub fn recent_before(&self, ordering: i64) -> Option<Arc<StoredEvent>> {
        self.recent.lock().event_before(ordering)
    }

    /// Changes of the current state with `after < ordering < before`, oldest first, if all of them are at hand;
    /// 0 stands for no event.
    pub(super) fn recent_changes(&self, range: (i64, i64)) -> Option<Vec<StateChange>> {
        self.recent.lock().changes_between(range, self.latest_fork())
    }

    /// Adds events from the database, newest first and directly below what is at hand;
    /// `reached_start` when there are none below them. `generation` is that of before they were read.
    pub(super) fn extend_recent(
        &self,
        older: &[Arc<StoredEvent>],
        reached_start: bool,
        generation: u64,
    ) {
        self.recent.lock().extend(older, reached_start, generation);
    }

    /// Lets go of the events at hand, since others were put between or below them.
    pub(super) fn forget_recent(&self) {
        let mut recent = self.recent.lock();
        recent.forget(self.committed.load().latest_position * ORDERING_STEP);
    }

    /// Where the events at hand begin: all above this place are there. And their generation.
    pub(super) fn recent_complete_above(&self) -> (i64, u64) {
        self.recent.lock().complete_above()
    }

    /// Applies a commit: the new head, the events that led to it, and what changed where they did not simply
    /// follow the old one.
    pub(super) fn apply(&self, head: Head, events: &[Arc<StoredEvent>], fork: Option<ForkChanges>) {
        self.recent.lock().append(events, fork);
        self.note_activity(head.latest_position);
        self.committed.store(Arc::new(head));
    }

    /// Puts a redacted event in the place of the original.
    pub(super) fn replace_recent(&self, event: &Arc<StoredEvent>) {
        self.recent.lock().replace(event);
    }
}

impl Weighed for Room {
    fn noted_weight(&self) -> &NotedWeight {
        &self.weight
    }

    fn weigh_bytes(&self) -> u64 {
        self.committed.load().weight_bytes() + self.recent.lock().weight_bytes() + 1024
    }
}
