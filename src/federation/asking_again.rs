//! When it is asked again for what waiting events lack: less and less often, a few rooms at a time, never twice
//! at once in a room, and after about a day not before something comes there. So a room heals without a next
//! event. Not for whom is asked and for what (`rooms`).

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, RoomId};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
};

use super::Federation;
use crate::{clock::Clock, storage::StorageError};

/// The pause before the first round, which doubles with each further one …
const PAUSE_MS_MIN: u64 = 5_000;
/// … up to this.
const PAUSE_MS_MAX: u64 = 60 * 60 * 1000;
/// Rounds for one room: with these pauses they take a day.
const ROUNDS_MAX: u32 = 32;
/// Rooms that are asked about at the same time.
const ROOMS_AT_ONCE_MAX: usize = 4;
/// Rooms that are taken up at a start; others are when an event begins to wait there.
const ROOMS_AT_START_MAX: usize = 10_000;
/// After a start, one room begins in so much time on average …
const START_PAUSE_MS: u64 = 500;
/// … and all have begun after this.
const START_MS_MAX: u64 = PAUSE_MS_MAX;
/// How long the timer sleeps at most.
const SLEEP_MAX: Duration = Duration::from_secs(600);

/// What is asked again.
pub(super) struct AskingAgain {
    schedule: Mutex<Schedule>,
    slots: Arc<Semaphore>,
    /// Rung when a room is due earlier than the timer thinks.
    bell: Notify,
}

impl Default for AskingAgain {
    fn default() -> Self {
        let slots = Arc::new(Semaphore::new(ROOMS_AT_ONCE_MAX));
        Self { schedule: Mutex::default(), slots, bell: Notify::new() }
    }
}

/// The rooms in which events wait, and when it is their turn.
#[derive(Default)]
struct Schedule(HashMap<OwnedRoomId, Turn>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    /// Rounds that were in vain.
    rounds: u32,
    due_ms: u64,
    is_under_way: bool,
    /// Whether an event has begun to wait since the round began.
    has_new: bool,
}

impl Turn {
    fn new(due_ms: u64) -> Self {
        Self { rounds: 0, due_ms, is_under_way: false, has_new: false }
    }
}

impl Schedule {
    /// Notes that an event waits in the room.
    fn add(&mut self, room: &RoomId, due_ms: u64) {
        match self.0.get_mut(room) {
            Some(turn) => turn.has_new |= turn.is_under_way,
            None => drop(self.0.insert(room.to_owned(), Turn::new(due_ms))),
        }
    }

    /// Begins the rounds that are due.
    fn take_due(&mut self, now_ms: u64) -> Vec<OwnedRoomId> {
        let is_due = |turn: &Turn| !turn.is_under_way && turn.due_ms <= now_ms;
        let due = self.0.iter_mut().filter(|(_, turn)| is_due(turn));
        due.map(|(room, turn)| {
            turn.is_under_way = true;
            room.clone()
        })
        .collect()
    }

    /// Ends a round. False when the room is given up.
    fn end(&mut self, room: &RoomId, still_waits: bool, clock: &Clock) -> bool {
        let Some(turn) = self.0.get_mut(room) else { return true };
        match (still_waits, turn.has_new) {
            (false, false) => {
                self.0.remove(room);
                return true;
            }
            (false, true) => turn.rounds = 0,
            (true, _) => turn.rounds += 1,
        }
        if turn.rounds >= ROUNDS_MAX {
            self.0.remove(room);
            return false;
        }
        *turn = Turn {
            due_ms: clock.now_ms() + spread(pause_ms(turn.rounds), clock),
            is_under_way: false,
            has_new: false,
            rounds: turn.rounds,
        };
        true
    }

    /// When the next round is due.
    fn next_due_ms(&self) -> Option<u64> {
        let waiting = self.0.values().filter(|turn| !turn.is_under_way);
        waiting.map(|turn| turn.due_ms).min()
    }
}

/// The pause after so many rounds in vain.
fn pause_ms(rounds: u32) -> u64 {
    (PAUSE_MS_MIN << rounds.min(20)).min(PAUSE_MS_MAX)
}

/// Up to a quarter longer, so that rooms that failed together are not tried together.
fn spread(pause_ms: u64, clock: &Clock) -> u64 {
    pause_ms + clock.choose(pause_ms as usize / 4 + 1) as u64
}

impl Federation {
    /// Takes up what waited at the last stop, not all at once.
    pub(super) async fn ask_again_everywhere(&self) -> Result<(), StorageError> {
        let rooms = self.rooms().list_rooms_with_waiting(ROOMS_AT_START_MAX).await?;
        let span_ms = (rooms.len() as u64 * START_PAUSE_MS).min(START_MS_MAX);
        let mut schedule = self.0.asking_again.schedule.lock();
        for room in rooms {
            let late_ms = self.clock().choose(span_ms as usize) as u64;
            schedule.add(&room, self.clock().now_ms() + PAUSE_MS_MIN + late_ms);
        }
        Ok(())
    }

    /// Has what events of the room wait for be asked for again, unless that will be done anyway.
    pub(super) fn ask_again_later(&self, room: &RoomId) {
        let asking = &self.0.asking_again;
        let due_ms = self.clock().now_ms() + spread(pause_ms(0), self.clock());
        asking.schedule.lock().add(room, due_ms);
        asking.bell.notify_one();
    }

    /// Asks when it is time, until the server stops.
    pub(super) async fn run_asking_again(self) {
        let asking = &self.0.asking_again;
        loop {
            drop(self.ask_due());
            let (due_ms, rooms) = {
                let schedule = asking.schedule.lock();
                (schedule.next_due_ms(), schedule.0.len())
            };
            metrics::gauge!("hearth_federation_rooms_asked_again").set(rooms as f64);
            let pause_ms = due_ms.map(|due_ms| due_ms.saturating_sub(self.clock().now_ms()));
            let pause = pause_ms.map_or(SLEEP_MAX, Duration::from_millis).min(SLEEP_MAX);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = asking.bell.notified() => {}
                () = self.outbox().stopping() => return,
            }
        }
    }

    /// Begins the rounds that are due by the clock; the timer does the same. Each task is one room's round.
    pub fn ask_due(&self) -> Vec<JoinHandle<()>> {
        let due = self.0.asking_again.schedule.lock().take_due(self.clock().now_ms());
        let begin = |room: OwnedRoomId| {
            let (federation, outbox) = (self.clone(), self.outbox().clone());
            self.outbox().0.tasks.spawn(async move {
                tokio::select! {
                    () = federation.ask_round(&room) => {}
                    () = outbox.stopping() => {}
                }
            })
        };
        due.into_iter().map(begin).collect()
    }

    async fn ask_round(&self, room: &RoomId) {
        let asking = &self.0.asking_again;
        let asked = match asking.slots.acquire().await {
            Ok(_slot) => self.rooms().ask_again(room).await,
            Err(_) => return,
        };
        let still_waits = asked.unwrap_or_else(|error| {
            tracing::warn!(room.id = %room, %error, "what events wait for was not asked for");
            true
        });
        if !asking.schedule.lock().end(room, still_waits, self.clock()) {
            tracing::info!(room.id = %room, "what events wait for is not asked for any more");
        }
        asking.bell.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use ruma::room_id;

    use super::*;

    const DAY_MS: u64 = 24 * 60 * 60 * 1000;

    #[test]
    fn rounds_become_rarer_and_end_after_a_day() {
        let (mut schedule, room) = (Schedule::default(), room_id!("!a:b.test"));
        let clock = Clock::scripted(1000, 1);
        schedule.add(room, 1000);
        assert!(schedule.take_due(999).is_empty());
        for round in 1..=ROUNDS_MAX {
            assert_eq!(schedule.take_due(clock.now_ms()), [room]);
            // Never twice at once.
            assert!(schedule.take_due(u64::MAX).is_empty());
            assert_eq!(schedule.next_due_ms(), None);
            assert_eq!(schedule.end(room, true, &clock), round < ROUNDS_MAX);
            let Some(due_ms) = schedule.next_due_ms() else { break };
            let pause_ms = due_ms - clock.now_ms();
            assert!(pause_ms >= PAUSE_MS_MIN << round.min(9));
            assert!(pause_ms <= PAUSE_MS_MAX / 4 * 5);
            clock.advance_ms(pause_ms);
        }
        assert!(schedule.0.is_empty());
        let all_ms = clock.now_ms();
        assert!((DAY_MS * 9 / 10..DAY_MS * 5 / 4).contains(&all_ms), "{all_ms}");
    }

    #[test]
    fn rooms_in_which_nothing_waits_are_forgotten() {
        let (mut schedule, room) = (Schedule::default(), room_id!("!a:b.test"));
        schedule.add(room, 0);
        schedule.take_due(0);
        assert!(schedule.end(room, false, &Clock::scripted(0, 1)));
        assert!(schedule.0.is_empty());
    }

    #[test]
    fn what_begins_to_wait_during_a_round_has_the_next_one() {
        let (mut schedule, room) = (Schedule::default(), room_id!("!a:b.test"));
        let clock = Clock::scripted(0, 1);
        schedule.add(room, 0);
        schedule.take_due(0);
        assert!(schedule.end(room, true, &clock));
        clock.advance_ms(DAY_MS);
        schedule.take_due(DAY_MS);
        schedule.add(room, DAY_MS);
        assert!(schedule.end(room, false, &clock));
        let pause_ms = schedule.next_due_ms().unwrap() - DAY_MS;
        assert!((PAUSE_MS_MIN..=PAUSE_MS_MIN * 5 / 4).contains(&pause_ms), "{pause_ms}");
    }
}
