//! The epoch of what is in memory only: rises with every change, and over restarts too.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ruma::UserId;

use crate::{
    hook::Hook,
    {clock::Clock, rooms::Room},
};

/// Changes that fit into a millisecond before the epoch would run ahead of the clock.
const CHANGES_PER_MS: u64 = 256;

/// What passed.
#[derive(Clone, Copy)]
pub enum EphemeralChange<'a> {
    /// Somebody began or ceased to type.
    Typing(&'a Arc<Room>),
    /// Somebody has read further: told when it is committed, and again when it is published.
    Receipts(&'a Arc<Room>),
    Presence(&'a UserId),
}

/// Called with every change, outside of all locks. It must not block.
pub type EphemeralHook = dyn Fn(EphemeralChange<'_>) + Send + Sync;

/// Counts changes of typing and presence. Starts from the time, so that it does not go back when
/// the server starts again.
pub struct Volatile {
    epoch: AtomicU64,
    hook: Hook<EphemeralHook>,
}

impl Volatile {
    pub fn new(clock: &Clock) -> Self {
        Self { epoch: AtomicU64::new(clock.now_ms() * CHANGES_PER_MS), hook: Hook::default() }
    }

    /// Registers who hears of every change; once, at start.
    pub(super) fn set_hook(&self, hook: Arc<EphemeralHook>) {
        if !self.hook.set(hook) {
            tracing::error!("a second hook for what passes was not registered");
        }
    }

    pub(super) fn release_hook(&self) {
        self.hook.release();
    }

    pub(super) fn tell(&self, change: EphemeralChange<'_>) {
        if let Some(hook) = self.hook.get() {
            hook(change);
        }
    }

    /// The epoch of the latest change.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The epoch of a change that is happening. Take it while holding the lock of what changes,
    /// so that whoever sees the epoch sees the change.
    pub(super) fn advance(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::AcqRel) + 1
    }
}
