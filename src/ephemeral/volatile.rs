//! The epoch of what is in memory only: rises with every change, and over restarts too.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Clock;

/// Changes that fit into a millisecond before the epoch would run ahead of the clock.
const CHANGES_PER_MS: u64 = 256;

/// Counts changes of typing and presence. Starts from the time, so that it does not go back when
/// the server starts again.
#[derive(Debug)]
pub struct Volatile(AtomicU64);

impl Volatile {
    pub fn new(clock: &Clock) -> Self {
        Self(AtomicU64::new(clock.now_ms() * CHANGES_PER_MS))
    }

    /// The epoch of the latest change.
    pub fn epoch(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// The epoch of a change that is happening. Take it while holding the lock of what changes,
    /// so that whoever sees the epoch sees the change.
    pub(super) fn advance(&self) -> u64 {
        self.0.fetch_add(1, Ordering::AcqRel) + 1
    }
}
