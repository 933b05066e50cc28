//! Rooms that were entered without their members become whole in the background, also after a restart:
//! one server after another is asked for the rest (MSC3902, "Resynchronisation"). Not for what is done
//! with it (`rooms::completion`).

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use ruma::OwnedServerName;
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::timeout,
};

use super::Federation;
use crate::{
    rooms::{PartialState, ReceiveError, Room},
    storage::{RoomNid, StorageError},
};

/// Rooms that are completed at the same time: each may take some memory …
const COMPLETIONS_AT_ONCE_MAX: usize = 2;
/// … and those that are when others wait for servers that do not answer.
const COMPLETIONS_MAX: usize = 10;
/// How long a room waits for its turn before the others are taken to wait themselves.
const PATIENCE: Duration = Duration::from_secs(5);
/// Servers that are asked in one round.
const SERVERS_MAX: usize = 10;
/// The pause after a round in which nobody told the state; it doubles with each further one.
const PAUSE: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(10 * 60);

/// The rooms that somebody completes.
pub(super) struct Completions {
    under_way: Arc<Mutex<HashSet<RoomNid>>>,
    slots: Semaphore,
    further_slots: Semaphore,
    /// Rung when a room is entered, so that one that was given up is not waited for, and when a server
    /// that is in one is heard of: it may have been away.
    bell: Arc<Notify>,
}

/// What a round came to.
enum Round {
    Ended,
    Failed,
}

impl Default for Completions {
    fn default() -> Self {
        Self {
            under_way: Arc::default(),
            slots: Semaphore::new(COMPLETIONS_AT_ONCE_MAX),
            further_slots: Semaphore::new(COMPLETIONS_MAX - COMPLETIONS_AT_ONCE_MAX),
            bell: Arc::default(),
        }
    }
}

impl Completions {
    /// Waits for a room's turn. One silent server holds up the rooms that it is asked about, and no others.
    async fn wait_for_turn(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(slot) = timeout(PATIENCE, self.slots.acquire()).await {
            return slot.ok();
        }
        tokio::select! {
            slot = self.slots.acquire() => slot.ok(),
            slot = self.further_slots.acquire() => slot.ok(),
        }
    }
}

impl Federation {
    /// Takes up what was left at the last stop.
    pub(super) async fn complete_all(&self) -> Result<(), StorageError> {
        for room in self.rooms().list_partial().await? {
            self.complete_later(&room);
        }
        Ok(())
    }

    /// Has the room become whole, unless it is or somebody is at it.
    pub(super) fn complete_later(&self, room: &Arc<Room>) {
        let completions = &self.0.completions;
        if room.head().partial().is_none() {
            return;
        }
        if !completions.under_way.lock().insert(room.nid) {
            return completions.bell.notify_waiters();
        }
        let (federation, room) = (self.clone(), Arc::clone(room));
        let outbox = self.outbox().clone();
        self.outbox().0.tasks.spawn(async move {
            tokio::select! {
                () = federation.complete_room(&room) => {}
                () = outbox.stopping() => {}
            }
        });
    }

    async fn complete_room(&self, room: &Arc<Room>) {
        let completions = &self.0.completions;
        let mut pause = PAUSE;
        loop {
            let round = match completions.wait_for_turn().await {
                Some(_slot) => self.complete_once(room).await,
                None => return,
            };
            match round {
                Ok(Round::Ended) => {
                    completions.under_way.lock().remove(&room.nid);
                    // It may have been left and entered again at this very moment.
                    return self.complete_later(room);
                }
                Ok(Round::Failed) => {}
                Err(error) => {
                    tracing::warn!(room.id = %room.room_id, %error, "a room could not be completed");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
                // Somebody was heard of who may know more, or the room was entered again; not at every word.
                _ = futures_util::future::join(tokio::time::sleep(PAUSE), completions.bell.notified()) => {
                    pause = PAUSE;
                }
            }
        }
    }

    /// Asks one server after another.
    async fn complete_once(&self, room: &Arc<Room>) -> Result<Round, ReceiveError> {
        // One that was deleted is nobody's concern.
        let known = self.rooms().find(&room.room_id).await?;
        let partial = known.and_then(|known| known.head().partial().cloned());
        let Some(partial) = partial else {
            return Ok(Round::Ended);
        };
        for server in self.list_knowing(room, &partial).await? {
            if !self.rooms().is_server_in_room(room, self.server_name()).await? {
                let ended = self.rooms().give_up_partial(room).await;
                ended.map_err(ReceiveError::from)?;
                tracing::info!(room.id = %room.room_id, "a room was left before it was whole");
                return Ok(Round::Ended);
            }
            let before = self.rooms().servers_in_room(room).await?;
            match self.rooms().complete(&server, room).await {
                Ok(true) => {
                    let since = self.rooms().find_entry_position(room, &partial).await?;
                    self.tell_devices_late(room, since, &before).await?;
                    self.0.encryption.tell_changes_again(room, since).await?;
                    let (room_id, state) = (&room.room_id, room.head().state.len());
                    tracing::info!(room.id = %room_id, server.name = %server, state, "a room is whole");
                    return Ok(Round::Ended);
                }
                Ok(false) => return Ok(Round::Ended),
                Err(ReceiveError::Storage(error)) => return Err(error.into()),
                Err(error) => {
                    tracing::info!(room.id = %room.room_id, server.name = %server, %error, "a room is not whole yet");
                }
            }
        }
        Ok(Round::Failed)
    }

    /// Servers that nobody named, or that were wrongly believed to have left, may have missed changes of our
    /// users' devices, also if they have left since and share another room with these.
    async fn tell_devices_late(
        &self,
        room: &Arc<Room>,
        since: i64,
        before: &[OwnedServerName],
    ) -> Result<(), StorageError> {
        let mut late: BTreeSet<OwnedServerName> =
            self.rooms().list_departed_servers(room, since).await?;
        late.extend(self.rooms().servers_in_room(room).await?.iter().cloned());
        late.retain(|server| !before.contains(server));
        let late: Vec<OwnedServerName> = late.into_iter().collect();
        self.outbox().tell_devices(&late, since).await
    }

    /// Who may know the state: the server that let us in, then the others, of whom each round begins
    /// with different ones.
    async fn list_knowing(
        &self,
        room: &Arc<Room>,
        partial: &PartialState,
    ) -> Result<Vec<OwnedServerName>, StorageError> {
        let known = self.rooms().servers_in_room(room).await?;
        let is_other = |server: &&OwnedServerName| {
            **server != *self.server_name() && **server != partial.origin
        };
        let mut others: Vec<OwnedServerName> = known.iter().filter(is_other).cloned().collect();
        let first = self.clock().choose(others.len());
        others.rotate_left(first);
        others.truncate(SERVERS_MAX - 1);
        others.insert(0, partial.origin.clone());
        Ok(others)
    }
}
