//! Rooms that this server is about to enter: what is sent to them meanwhile waits for the answer that lets us
//! in, since nothing that is thrown away now would come again. Not for rooms whose members are fetched later
//! (`completing`).

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, RoomId};
use tokio::{sync::watch, time::timeout};

/// How long events wait at most. Their sender waits longer for the answer to its transaction.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// That a room is being entered, as long as somebody holds it.
pub type Entry = Arc<watch::Sender<()>>;

/// All rooms that are being entered.
#[derive(Default)]
pub struct Entries(Mutex<HashMap<OwnedRoomId, Weak<watch::Sender<()>>>>);

impl Entries {
    /// Notes that a room is being entered, until what is returned is dropped.
    pub fn begin(&self, room_id: &RoomId) -> Entry {
        let mut entries = self.0.lock();
        if let Some(entry) = entries.get(room_id).and_then(Weak::upgrade) {
            return entry;
        }
        entries.retain(|_, entry| entry.strong_count() > 0);
        let entry = Arc::new(watch::Sender::new(()));
        entries.insert(room_id.to_owned(), Arc::downgrade(&entry));
        entry
    }

    /// Waits until nobody is about to enter the room, or for too long.
    pub async fn wait(&self, room_id: &RoomId) {
        let entry = self.0.lock().get(room_id).and_then(Weak::upgrade);
        let Some(mut ended) = entry.map(|entry| entry.subscribe()) else { return };
        // Nothing is ever said: the channel closes with the last holder.
        let _ = timeout(WAIT_MAX, ended.changed()).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use ruma::room_id;

    use super::*;

    #[tokio::test]
    async fn events_wait_until_the_last_one_has_entered() {
        let entries = Entries::default();
        let (room, other) = (room_id!("!a:b.test"), room_id!("!c:b.test"));
        assert!(entries.wait(room).now_or_never().is_some());
        let (one, two) = (entries.begin(room), entries.begin(room));
        let mut waiting = Box::pin(entries.wait(room));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(entries.wait(other).now_or_never().is_some());
        drop(one);
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(two);
        waiting.await;
        assert!(entries.wait(room).now_or_never().is_some());
    }
}
