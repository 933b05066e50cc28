//! One server that we send to: what waits for it, in order, and when it is tried again. Holds no
//! connection and does no input or output.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use ruma::{OwnedServerName, OwnedUserId};
use tokio::sync::Notify;

use super::edu_queue::EduQueue;
use crate::{
    encryption::DeviceUpdate,
    storage::{
        EventNid, RoomNid,
        destinations::{DestinationRow, MissedRoomRow, TransactionRow},
    },
};

/// Events that wait for one server. Of more, only the latest of each room is kept: the server asks
/// for those before it.
const QUEUE_EVENTS_MAX: usize = 500;
/// Changes of devices that wait for one server.
const DEVICE_UPDATES_MAX: usize = 1000;
/// A server that does not answer is tried again after this, doubled with every failure …
const RETRY_MS_MIN: u64 = 5_000;
/// … up to this.
const RETRY_MS_MAX: u64 = 6 * 60 * 60 * 1000;

/// A server that has not answered for this long is called lost in the figures.
const LOST_AFTER_MS: u64 = 24 * 60 * 60 * 1000;

/// How servers are told apart in figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DestinationClass {
    Answering,
    Failing,
    Lost,
}

impl DestinationClass {
    pub const ALL: [Self; 3] = [Self::Answering, Self::Failing, Self::Lost];

    pub fn name(self) -> &'static str {
        match self {
            Self::Answering => "answering",
            Self::Failing => "failing",
            Self::Lost => "lost",
        }
    }
}

/// An event that a server should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    pub room: RoomNid,
    pub event: EventNid,
    pub position: i64,
}

/// One server.
pub struct Destination {
    pub name: OwnedServerName,
    pub state: Mutex<DestinationState>,
    /// Rung when there is no need to wait any longer.
    pub hurry: Notify,
}

/// What waits for a server, and how it is doing.
#[derive(Default)]
pub struct DestinationState {
    queue: VecDeque<Pending>,
    /// The latest event of each room of which something had to be dropped. Sent before the queue.
    missed: BTreeMap<RoomNid, Pending>,
    /// Events that were taken for a transaction which is not in the database: a server that is killed
    /// meanwhile must find them again.
    in_hand: Vec<Pending>,
    pub edus: EduQueue,
    /// The latest change of each device of ours that the server has not heard of.
    device_updates: BTreeMap<(OwnedUserId, Option<String>), DeviceUpdate>,
    /// The position of the first of those that were taken like events in hand.
    updates_in_hand: Option<i64>,
    /// Whether messages to devices may wait in the database.
    pub has_stored_edus: bool,
    /// A transaction that was sent and not answered.
    pub unanswered: Option<TransactionRow>,
    /// Whether it is in the database: those that are answered at once never are.
    pub is_unanswered_stored: bool,
    pub failures: u32,
    pub failing_since_ms: Option<u64>,
    pub retry_at_ms: u64,
    pub last_error: String,
    /// Whether a task works for it.
    pub is_running: bool,
    /// Whether rows in the database tell of it.
    pub is_stored: bool,
    /// Whether a row in the database tells that it has not heard of all devices.
    pub is_update_stored: bool,
}

impl Destination {
    pub fn new(name: OwnedServerName) -> Arc<Self> {
        Arc::new(Self { name, state: Mutex::default(), hurry: Notify::new() })
    }
}

/// How long a server is left alone that has failed this often one after another, milliseconds.
pub fn retry_pause_ms(failures: i64) -> u64 {
    let doublings = failures.saturating_sub(1).clamp(0, 20);
    (RETRY_MS_MIN << doublings).min(RETRY_MS_MAX)
}

impl DestinationState {
    /// Adds an event behind the others.
    pub fn push(&mut self, pending: Pending) {
        self.queue.push_back(pending);
        while self.queue.len() > QUEUE_EVENTS_MAX
            && let Some(dropped) = self.queue.pop_front()
        {
            self.missed.insert(dropped.room, dropped);
        }
    }

    /// The rooms of which something was dropped and that the next `max` events are of.
    pub fn list_behind(&self, max: usize) -> Vec<RoomNid> {
        self.missed.keys().take(max).copied().collect()
    }

    /// Adds events before the others, in this order, as far as they do not wait already.
    pub fn push_first(&mut self, events: Vec<Pending>) {
        for pending in events.into_iter().rev() {
            if !self.queue.contains(&pending) {
                self.queue.push_front(pending);
            }
        }
    }

    /// Notes the latest event of a room that the server missed.
    pub fn miss(&mut self, pending: Pending) {
        self.missed.insert(pending.room, pending);
    }

    pub fn has_work(&self) -> bool {
        self.unanswered.is_some()
            || !self.queue.is_empty()
            || !self.missed.is_empty()
            || !self.edus.is_empty()
            || !self.device_updates.is_empty()
            || self.has_stored_edus
    }

    /// Adds a change of a device, unless a later one waits; of too many, the oldest ones are given up: the
    /// server notices that it lacks some when it gets a later one.
    pub fn add_device_update(&mut self, update: DeviceUpdate) {
        let key = (update.user_id.clone(), update.device_id.clone());
        let rank = |update: &DeviceUpdate| (update.position, !update.is_introduction);
        if self.device_updates.get(&key).is_some_and(|known| rank(known) > rank(&update)) {
            return;
        }
        self.device_updates.insert(key, update);
        if self.device_updates.len() > DEVICE_UPDATES_MAX {
            let oldest = self.device_updates.iter().min_by_key(|(_, update)| update.position);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.device_updates.remove(&key);
            }
        }
    }

    /// Takes changes of devices, at most `max`, in their order.
    pub fn take_device_updates(&mut self, max: usize) -> Vec<DeviceUpdate> {
        let mut updates: Vec<_> = self.device_updates.values().cloned().collect();
        updates.sort_by_key(|update| update.position);
        updates.truncate(max);
        for update in &updates {
            let key = (update.user_id.clone(), update.device_id.clone());
            self.device_updates.remove(&key);
        }
        let mut changes = updates.iter().filter(|update| !update.is_introduction);
        self.updates_in_hand = changes.next().map(|update| update.position);
        updates
    }

    /// The position of the first change of a device that the server has not heard of. Introductions are
    /// not kept: a server that misses them asks for the devices when it needs them.
    pub fn first_device_update(&self) -> Option<i64> {
        let changes = self.device_updates.values().filter(|update| !update.is_introduction);
        changes.map(|update| update.position).chain(self.updates_in_hand).min()
    }

    /// How many events wait.
    pub fn count_events(&self) -> usize {
        self.queue.len() + self.missed.len()
    }

    /// Takes the next events, at most `max`. A room of which something was dropped comes first, with
    /// its latest event only if the queue has no later one.
    pub fn take_events(&mut self, max: usize) -> Vec<Pending> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some((_, pending)) = self.missed.pop_first()
        {
            taken.push(pending);
        }
        taken.sort_by_key(|pending| pending.position);
        while taken.len() < max
            && let Some(pending) = self.queue.pop_front()
        {
            taken.push(pending);
        }
        self.in_hand.clone_from(&taken);
        taken
    }

    /// What was taken last has arrived, or is in the database with its transaction.
    pub fn let_go(&mut self) {
        self.in_hand.clear();
        self.updates_in_hand = None;
    }

    /// Puts events back that could not be put into a transaction.
    pub fn put_back(&mut self, events: Vec<Pending>) {
        self.let_go();
        for pending in events.into_iter().rev() {
            self.queue.push_front(pending);
        }
    }

    /// The latest event of each room that waits.
    pub fn list_missed(&self) -> Vec<MissedRoomRow> {
        let mut latest: BTreeMap<RoomNid, Pending> = self.missed.clone();
        for pending in self.in_hand.iter().chain(&self.queue) {
            latest.insert(pending.room, *pending);
        }
        let row = |pending: &Pending| MissedRoomRow {
            room: pending.room,
            event: pending.event,
            position: pending.position,
        };
        latest.values().map(row).collect()
    }

    /// How the server is doing, for figures: few words, so that they stay few.
    pub fn class(&self, now_ms: u64) -> DestinationClass {
        let failing_ms = self.failing_since_ms.map(|since_ms| now_ms.saturating_sub(since_ms));
        match failing_ms {
            None => DestinationClass::Answering,
            Some(ms) if ms < LOST_AFTER_MS => DestinationClass::Failing,
            Some(_) => DestinationClass::Lost,
        }
    }

    pub fn note_success(&mut self) {
        self.failures = 0;
        self.failing_since_ms = None;
        self.retry_at_ms = 0;
        self.last_error.clear();
    }

    /// `spread` is a random number from 0 to 255, so that servers that failed together are not
    /// tried together.
    pub fn note_failure(&mut self, error: String, now_ms: u64, spread: u8) {
        self.failures += 1;
        let pause_ms = retry_pause_ms(self.failures.into());
        let pause_ms = pause_ms + pause_ms / 1024 * u64::from(spread);
        self.failing_since_ms.get_or_insert(now_ms);
        self.retry_at_ms = now_ms + pause_ms;
        self.last_error = error;
        self.edus.drop_stale();
    }

    pub fn to_row(&self, name: &OwnedServerName) -> DestinationRow {
        DestinationRow {
            server_name: name.to_string(),
            failing_since_ts: self.failing_since_ms.map(u64::cast_signed),
            retry_ts: self.retry_at_ms.cast_signed(),
            failures: self.failures.into(),
            last_error: self.last_error.clone(),
        }
    }

    /// Takes over what a row tells.
    pub fn restore(&mut self, row: &DestinationRow, missed: Vec<MissedRoomRow>) {
        self.failing_since_ms = row.failing_since_ts.map(i64::cast_unsigned);
        self.retry_at_ms = row.retry_ts.cast_unsigned();
        self.failures = u32::try_from(row.failures).unwrap_or(u32::MAX);
        self.last_error.clone_from(&row.last_error);
        self.is_stored = true;
        for MissedRoomRow { room, event, position } in missed {
            self.miss(Pending { room, event, position });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(room: i64, position: i64) -> Pending {
        Pending { room: RoomNid(room), event: EventNid(position), position }
    }

    #[test]
    fn events_are_taken_in_order() {
        let mut state = DestinationState::default();
        (1..=60).for_each(|position| state.push(pending(position % 3, position)));
        let first: Vec<_> = state.take_events(50).iter().map(|p| p.position).collect();
        assert_eq!(first, (1..=50).collect::<Vec<_>>());
        assert_eq!(state.take_events(50).len(), 10);
        assert!(!state.has_work());
        // Until the transaction is kept, the events still are what the server misses.
        assert_eq!(state.list_missed().len(), 3);
        state.let_go();
        assert!(state.list_missed().is_empty());
    }

    #[test]
    fn of_too_many_events_the_latest_of_each_room_is_kept() {
        let mut state = DestinationState::default();
        state.push(pending(7, 1));
        (2..=2000).for_each(|position| state.push(pending(8, position)));
        assert_eq!(state.count_events(), QUEUE_EVENTS_MAX + 2);
        let taken = state.take_events(50);
        assert_eq!(taken[0], pending(7, 1));
        assert_eq!(taken[1], pending(8, 2000 - QUEUE_EVENTS_MAX as i64));
        state.let_go();
        let missed = state.list_missed();
        assert_eq!(missed.len(), 1);
        assert_eq!(missed[0].position, 2000);
    }

    #[test]
    fn what_sticks_to_a_room_that_fell_behind_goes_first() {
        let mut state = DestinationState::default();
        state.miss(pending(7, 9));
        (10..=12).for_each(|position| state.push(pending(8, position)));
        assert_eq!(state.list_behind(50), [RoomNid(7)]);
        state.push_first(vec![pending(7, 3), pending(7, 5)]);
        // Once is enough.
        state.push_first(vec![pending(7, 3)]);
        let taken: Vec<_> = state.take_events(50).iter().map(|p| p.position).collect();
        assert_eq!(taken, [9, 3, 5, 10, 11, 12]);
        assert!(state.list_behind(50).is_empty());
    }

    #[test]
    fn failing_servers_are_tried_less_and_less() {
        let mut state = DestinationState::default();
        state.note_failure("gone".into(), 0, 0);
        assert_eq!(state.retry_at_ms, 5_000);
        state.note_failure("gone".into(), 5_000, 0);
        assert_eq!(state.retry_at_ms, 15_000);
        assert_eq!(state.class(LOST_AFTER_MS - 1), DestinationClass::Failing);
        assert_eq!(state.class(LOST_AFTER_MS), DestinationClass::Lost);
        (0..40).for_each(|_| state.note_failure("gone".into(), 0, 255));
        assert!(state.retry_at_ms <= RETRY_MS_MAX + RETRY_MS_MAX / 4);
        assert_eq!(state.failing_since_ms, Some(0));
        state.note_success();
        assert_eq!((state.failures, state.retry_at_ms), (0, 0));
        assert_eq!(state.class(LOST_AFTER_MS), DestinationClass::Answering);
    }
}
