//! Which membership events a device was sent, so that lazy loading repeats none (client-server
//! API, "Lazy-loading room members"). Losing it means sending one again.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use quick_cache::{Weighter, sync::Cache};
use ruma::OwnedUserId;

use crate::storage::{EventNid, RoomNid, StateKeyNid};

/// What a remembered membership takes, bytes.
const ENTRY_BYTES: u64 = 32;
const ROOM_BYTES: u64 = 256;
/// Memberships remembered per device and room; past that it begins anew.
const MEMBERS_MAX: usize = 4096;

type Key = (OwnedUserId, String, RoomNid);
type Members = Arc<Mutex<HashMap<StateKeyNid, EventNid>>>;

#[derive(Clone)]
struct MembersWeighter;

impl Weighter<Key, Members> for MembersWeighter {
    fn weight(&self, _: &Key, members: &Members) -> u64 {
        ROOM_BYTES + ENTRY_BYTES * members.lock().len() as u64
    }
}

/// What was sent to which device, bounded by weight.
pub(super) struct SentMembers(Cache<Key, Members, MembersWeighter>);

impl SentMembers {
    pub fn new(memory_bytes: u64) -> Self {
        Self(Cache::with_weighter(1024, memory_bytes.max(1 << 16), MembersWeighter))
    }

    /// Those of the memberships that the device has not been sent yet; from now on it has.
    pub fn take_unsent(
        &self,
        (user, device, room): (&OwnedUserId, &str, RoomNid),
        members: Vec<(StateKeyNid, EventNid)>,
    ) -> Vec<(StateKeyNid, EventNid)> {
        let key = (user.clone(), device.to_owned(), room);
        let sent = self.0.get(&key).unwrap_or_default();
        let mut known = sent.lock();
        if known.len() > MEMBERS_MAX {
            known.clear();
        }
        let before = known.len();
        let unsent: Vec<_> = members
            .into_iter()
            .filter(|(member, event)| known.insert(*member, *event) != Some(*event))
            .collect();
        let has_grown = known.len() > before;
        drop(known);
        if has_grown {
            // Again, so that its weight is taken anew.
            self.0.insert(key, sent);
        }
        unsent
    }

    /// Forgets what the device was sent of a room: it starts from nothing.
    pub fn forget(&self, (user, device, room): (&OwnedUserId, &str, RoomNid)) {
        self.0.remove(&(user.clone(), device.to_owned(), room));
    }
}
