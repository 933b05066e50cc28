//! How many uploads arrive at the same moment: of all users, and of one, so that nobody's slow
//! uploads keep the others out; and of one media ID. Whoever comes too many waits.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Uploads at the same moment. Each may hold two chunks (see `upload`) in memory.
const UPLOADS_AT_ONCE_MAX: usize = 64;
/// Uploads of one user at the same moment.
const USER_UPLOADS_AT_ONCE_MAX: usize = 16;

/// All slots.
#[derive(Debug)]
pub struct UploadSlots {
    all: Semaphore,
    by_user: KeyedSlots<OwnedUserId>,
    by_media_id: KeyedSlots<String>,
}

/// The right to upload; given back when dropped.
pub struct UploadSlot<'a> {
    _of_all: SemaphorePermit<'a>,
    _of_user: KeyedSlot<'a, OwnedUserId>,
}

/// The right to give a media ID its content; given back when dropped.
pub type MediaIdSlot<'a> = KeyedSlot<'a, String>;

/// A few slots for each key. A key is known as long as somebody has or awaits one.
#[derive(Debug)]
pub(super) struct KeyedSlots<K: Eq + Hash> {
    per_key: usize,
    semaphores: Mutex<HashMap<K, Arc<Semaphore>>>,
}

/// One slot of a key, or the wait for it.
#[derive(Debug)]
pub struct KeyedSlot<'a, K: Eq + Hash> {
    slots: &'a KeyedSlots<K>,
    key: K,
    semaphore: Arc<Semaphore>,
    is_taken: bool,
}

impl Default for UploadSlots {
    fn default() -> Self {
        Self {
            all: Semaphore::new(UPLOADS_AT_ONCE_MAX),
            by_user: KeyedSlots::new(USER_UPLOADS_AT_ONCE_MAX),
            by_media_id: KeyedSlots::new(1),
        }
    }
}

impl UploadSlots {
    /// Waits for a slot.
    pub async fn take(&self, user_id: &UserId) -> UploadSlot<'_> {
        // The user's own first, so that one who waits for it takes no slot from others.
        let of_user = self.by_user.take(user_id.to_owned()).await;
        let of_all = self.all.acquire().await.expect("the slots are never closed");
        UploadSlot { _of_all: of_all, _of_user: of_user }
    }

    /// Waits until nobody else uploads the content of this media ID.
    pub async fn take_media_id(&self, media_id: &str) -> MediaIdSlot<'_> {
        self.by_media_id.take(media_id.to_owned()).await
    }
}

impl<K: Clone + Eq + Hash> KeyedSlots<K> {
    pub fn new(per_key: usize) -> Self {
        Self { per_key, semaphores: Mutex::default() }
    }

    /// Waits for a slot of a key.
    pub async fn take(&self, key: K) -> KeyedSlot<'_, K> {
        let semaphore = {
            let mut semaphores = self.semaphores.lock();
            let entry = semaphores.entry(key.clone());
            Arc::clone(entry.or_insert_with(|| Semaphore::new(self.per_key).into()))
        };
        let mut slot = KeyedSlot { slots: self, key, semaphore, is_taken: false };
        slot.semaphore.acquire().await.expect("the slots are never closed").forget();
        slot.is_taken = true;
        slot
    }
}

impl<K: Eq + Hash> Drop for KeyedSlot<'_, K> {
    fn drop(&mut self) {
        if self.is_taken {
            self.semaphore.add_permits(1);
        }
        let mut semaphores = self.slots.semaphores.lock();
        // The map's own and this one: nobody else has a slot or waits.
        if Arc::strong_count(&self.semaphore) == 2 {
            semaphores.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use ruma::user_id;

    use super::*;

    #[tokio::test]
    async fn one_user_leaves_room_for_others() {
        let slots = UploadSlots::default();
        let (alice, bob) = (user_id!("@alice:a.example"), user_id!("@bob:a.example"));
        let mut taken = Vec::new();
        for _ in 0..USER_UPLOADS_AT_ONCE_MAX {
            taken.push(slots.take(alice).await);
        }
        assert!(slots.take(alice).now_or_never().is_none());
        assert!(slots.take(bob).now_or_never().is_some());
        taken.pop();
        assert!(slots.take(alice).now_or_never().is_some());
        taken.clear();
        assert!(slots.by_user.semaphores.lock().is_empty());
    }
}
