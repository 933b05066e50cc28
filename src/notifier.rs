//! Wakes waiting syncs. Knows users and nothing else; what is new they look up themselves.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};
use tokio::sync::Notify;

/// The users somebody waits for are swept of those nobody waits for any more at this growth.
const SWEEP_GROWTH: usize = 1024;

/// One user's bell. Whoever holds it hears it.
#[derive(Debug, Default)]
pub struct UserWaker(Notify);

impl UserWaker {
    /// Wakes all that wait.
    pub fn wake(&self) {
        self.0.notify_waiters();
    }

    /// Resolves at the next [`UserWaker::wake`] after this call returned; subscribe first, then
    /// look, then wait.
    pub fn subscribe(&self) -> std::pin::Pin<Box<tokio::sync::futures::Notified<'_>>> {
        let mut notified = Box::pin(self.0.notified());
        notified.as_mut().enable();
        notified
    }
}

/// All bells that somebody holds. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Notifier(Arc<Mutex<Wakers>>);

#[derive(Debug, Default)]
struct Wakers {
    by_user: HashMap<OwnedUserId, Weak<UserWaker>>,
    sweep_at: usize,
}

impl Notifier {
    pub fn new() -> Self {
        Self::default()
    }

    /// The user's bell, the same for all that hold it at one time.
    pub fn watch(&self, user: &UserId) -> Arc<UserWaker> {
        let mut wakers = self.0.lock();
        if let Some(waker) = wakers.by_user.get(user).and_then(Weak::upgrade) {
            return waker;
        }
        if wakers.by_user.len() >= wakers.sweep_at {
            wakers.by_user.retain(|_, waker| waker.strong_count() > 0);
            wakers.sweep_at = wakers.by_user.len() + SWEEP_GROWTH;
        }
        let waker = Arc::new(UserWaker::default());
        wakers.by_user.insert(user.to_owned(), Arc::downgrade(&waker));
        waker
    }

    /// Wakes the user's waiting syncs. Call it when the new position is published.
    pub fn wake(&self, user: &UserId) {
        let waker = self.0.lock().by_user.get(user).and_then(Weak::upgrade);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
