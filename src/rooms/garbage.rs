//! The end of states that nothing names any more: those of deleted rooms, of forks that were merged, of events that
//! were not accepted after all.
//!
//! A state is *condemned* when neither an event, a room, a fork nor a living state names it; memory then forgets
//! it too. What still holds it then is an operation under way, which ends within minutes or has its state written
//! and named. A good while later, what is condemned and still not named is deleted. States that were made since the
//! look began count as named, and so does what they build upon. While a room becomes whole, which may take longer,
//! nothing is deleted.

use std::{sync::Arc, time::Duration};

use super::registry::Rooms;
use crate::storage::{
    EventNid, RoomNid, StateNid, StorageError, WriteTx, rooms,
    snapshots::{self, list_of_events, list_of_forks, list_parents},
};

/// Rows that one step reads.
const STEP_ROWS: usize = 2000;
/// States that one commit deletes.
const DELETED_MAX: usize = 500;
/// The looking rests so many times as long as it works.
const REST_FACTOR: u32 = 20;
/// The least rest between two steps.
const REST_MIN: Duration = Duration::from_millis(5);
/// How long the condemned stay, which no operation outlasts.
const GRACE: Duration = Duration::from_secs(60 * 60);
/// From one collection to the next one, and from the start to the first.
const PAUSE: Duration = Duration::from_secs(24 * 60 * 60);
const FIRST_PAUSE: Duration = Duration::from_secs(10 * 60);

/// States that nothing names, by number.
#[derive(Clone, Debug)]
pub struct Condemned {
    unnamed: Marks,
    /// States from this number on were made since.
    below: StateNid,
}

impl Condemned {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.unnamed.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

/// One bit for each number.
#[derive(Clone, Debug, Default)]
struct Marks(Vec<u64>);

impl Marks {
    fn of_numbers_below(end: StateNid) -> Self {
        Self(vec![0; end.0.max(0) as usize / 64 + 1])
    }

    /// Numbers beyond the end need no mark.
    fn set(&mut self, nid: StateNid) {
        if let Some(word) = self.0.get_mut(nid.0 as usize / 64) {
            *word |= 1 << (nid.0 % 64);
        }
    }

    fn has(&self, nid: StateNid) -> bool {
        self.0.get(nid.0 as usize / 64).is_some_and(|word| word & 1 << (nid.0 % 64) != 0)
    }
}

impl Rooms {
    /// Collects now and then, for as long as it is polled.
    pub async fn run_collection(self) {
        tokio::time::sleep(FIRST_PAUSE).await;
        loop {
            if let Err(error) = self.collect_once().await {
                tracing::warn!(%error, "unused states were not deleted");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn collect_once(&self) -> Result<(), StorageError> {
        let condemned = self.condemn_states().await?;
        if condemned.count() == 0 {
            return Ok(());
        }
        tokio::time::sleep(GRACE).await;
        let deleted = self.delete_condemned(condemned).await?;
        tracing::debug!(deleted, "unused states were deleted");
        Ok(())
    }

    /// Finds the states that nothing names, and has memory forget them.
    pub async fn condemn_states(&self) -> Result<Condemned, StorageError> {
        let below = self.0.next_state_nid();
        let unnamed = self.find_unnamed(below).await?;
        let is_condemned = |nid: StateNid| nid < below && unnamed.has(nid);
        let engine = &self.0;
        engine.states_after.retain(|_, nid| !is_condemned(*nid));
        engine.states.retain(|_, state| !state.chain_nids().any(is_condemned));
        engine.snapshots.retain(|nid, _| !is_condemned(*nid));
        Ok(Condemned { unnamed, below })
    }

    /// Deletes those of the condemned that still nothing names; returns how many. Call it when all operations
    /// have ended that were under way when they were condemned, but for those that say that they take longer.
    pub async fn delete_condemned(&self, condemned: Condemned) -> Result<u64, StorageError> {
        // Whoever begins to hold states from now on makes them anew.
        if Arc::strong_count(&self.0.long_holders) > 1 {
            return Ok(0);
        }
        let still = self.find_unnamed(condemned.below).await?;
        let mut deleted = 0;
        let mut before = condemned.below;
        loop {
            let rows = self.step(list_parents(self.database(), before, STEP_ROWS)).await?;
            let Some((lowest, _)) = rows.last() else {
                return Ok(deleted);
            };
            before = *lowest;
            let nids = rows.iter().map(|(nid, _)| *nid);
            let unnamed: Vec<StateNid> =
                nids.filter(|nid| condemned.unnamed.has(*nid) && still.has(*nid)).collect();
            for chunk in unnamed.chunks(DELETED_MAX) {
                let mut tx = WriteTx::new();
                chunk.iter().for_each(|nid| snapshots::delete(&mut tx, *nid));
                self.writer().commit(tx).await?;
                deleted += chunk.len() as u64;
            }
        }
    }

    /// The states of the store below a number that nothing names.
    async fn find_unnamed(&self, below: StateNid) -> Result<Marks, StorageError> {
        // Rooms first: what a room lets go of while this goes on, its next event names.
        let mut named = Marks::of_numbers_below(below);
        self.mark_rooms(&mut named).await?;
        let mut place = (RoomNid(0), i64::MIN);
        loop {
            let forks = self.step(list_of_forks(self.database(), place, STEP_ROWS)).await?;
            forks.iter().for_each(|(.., state)| named.set(*state));
            match forks.last() {
                Some((room, ordering, _)) => place = (*room, *ordering),
                None => break,
            }
        }
        self.mark_events(&mut named).await?;
        // A state has a higher number than those that it builds upon: from the highest number down, whoever
        // names a state is known before it is its turn.
        let mut unnamed = Marks::of_numbers_below(below);
        let mut before = StateNid(i64::MAX);
        loop {
            let rows = self.step(list_parents(self.database(), before, STEP_ROWS)).await?;
            let Some((lowest, _)) = rows.last() else {
                return Ok(unnamed);
            };
            before = *lowest;
            for (nid, parent) in &rows {
                match *nid >= below || named.has(*nid) {
                    true => named.set(*parent),
                    false => unnamed.set(*nid),
                }
            }
        }
    }

    async fn mark_events(&self, named: &mut Marks) -> Result<(), StorageError> {
        let mut after = EventNid(0);
        loop {
            let step = list_of_events(self.database(), after, STEP_ROWS);
            let (states, last) = self.step(step).await?;
            states.iter().for_each(|state| named.set(*state));
            match last {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }

    async fn mark_rooms(&self, named: &mut Marks) -> Result<(), StorageError> {
        let mut after = RoomNid(0);
        loop {
            let nids = rooms::list_after(self.database(), after, STEP_ROWS).await?;
            let Some(last) = nids.last() else {
                return Ok(());
            };
            after = *last;
            for row in self.step(rooms::list(self.database(), &nids)).await? {
                named.set(row.state_nid);
                let extremities = super::loading::decode_extremities(&row.extremities);
                for state in extremities.map(|(_, states)| states).unwrap_or_default() {
                    named.set(state);
                }
            }
        }
    }

    /// Does one step, and rests.
    async fn step<T>(
        &self,
        work: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let began = self.clock().instant();
        let done = work.await?;
        let took = self.clock().instant().saturating_duration_since(began);
        let rest = (took * REST_FACTOR).max(REST_MIN);
        tokio::time::sleep(rest).await;
        Ok(done)
    }
}
