//! Which membership events a device was sent, so that lazy loading repeats none (client-server
//! API, "Lazy-loading room members"). Losing it means sending one again.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::OwnedUserId;

use crate::rooms::{NotedWeight, NotedWeighter, Weighed, reweigh};
use crate::storage::{EventNid, RoomNid, StateKeyNid};

/// What a remembered membership takes, bytes.
const ENTRY_BYTES: u64 = 32;
const ROOM_BYTES: u64 = 256;
/// Memberships remembered per device and room; past that it begins anew.
const MEMBERS_MAX: usize = 4096;

type Key = (OwnedUserId, String, RoomNid);

#[derive(Default)]
struct Members {
    sent: Mutex<HashMap<StateKeyNid, EventNid>>,
    weight: NotedWeight,
}

impl Weighed for Members {
    fn noted_weight(&self) -> &NotedWeight {
        &self.weight
    }

    fn weigh_bytes(&self) -> u64 {
        ROOM_BYTES + ENTRY_BYTES * self.sent.lock().len() as u64
    }
}

/// What was sent to which device, bounded by weight.
pub(super) struct SentMembers(Cache<Key, Arc<Members>, NotedWeighter>);

impl SentMembers {
    pub fn new(memory_bytes: u64) -> Self {
        Self(Cache::with_weighter(1024, memory_bytes.max(1 << 16), NotedWeighter))
    }

    /// Those of the memberships that the device has not been sent yet; from now on it has.
    pub fn take_unsent(
        &self,
        (user, device, room): (&OwnedUserId, &str, RoomNid),
        members: Vec<(StateKeyNid, EventNid)>,
    ) -> Vec<(StateKeyNid, EventNid)> {
        let key = (user.clone(), device.to_owned(), room);
        let sent = self.0.get(&key).unwrap_or_default();
        let mut known = sent.sent.lock();
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
            match self.0.peek(&key).is_some() {
                true => reweigh(&self.0, &key),
                false => self.0.insert(key, sent),
            }
        }
        unsent
    }

    /// Forgets what the device was sent of a room: it starts from nothing.
    pub fn forget(&self, (user, device, room): (&OwnedUserId, &str, RoomNid)) {
        self.0.remove(&(user.clone(), device.to_owned(), room));
    }
}
