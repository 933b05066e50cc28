//! What passes, on its way to one server: at most one of a kind for what it is about, so that a
//! server that is away for long gets the latest and not all. Not for what must arrive.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde_json::{Map, Value, json};

/// Entries of each kind that wait for one server.
const ENTRIES_MAX: usize = 1000;
/// Changes of presence in one EDU.
const PRESENCES_PER_EDU_MAX: usize = 50;

/// A receipt, as another server gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingReceipt {
    pub event_id: OwnedEventId,
    pub thread: Option<String>,
    pub ts: u64,
}

/// What waits for one server.
#[derive(Debug, Default)]
pub struct EduQueue {
    typing: BTreeMap<(OwnedRoomId, OwnedUserId), bool>,
    /// By room, user and thread.
    receipts: BTreeMap<(OwnedRoomId, OwnedUserId, Option<String>), OutgoingReceipt>,
    presence: BTreeSet<OwnedUserId>,
}

impl EduQueue {
    pub fn is_empty(&self) -> bool {
        self.typing.is_empty() && self.receipts.is_empty() && self.presence.is_empty()
    }

    pub fn add_typing(&mut self, room: OwnedRoomId, user: OwnedUserId, types: bool) {
        if self.typing.len() < ENTRIES_MAX {
            self.typing.insert((room, user), types);
        }
    }

    pub fn add_receipt(&mut self, room: OwnedRoomId, user: OwnedUserId, receipt: OutgoingReceipt) {
        if self.receipts.len() < ENTRIES_MAX {
            self.receipts.insert((room, user, receipt.thread.clone()), receipt);
        }
    }

    pub fn add_presence(&mut self, user: OwnedUserId) {
        if self.presence.len() < ENTRIES_MAX {
            self.presence.insert(user);
        }
    }

    /// Forgets who was typing: by the time a server is back, that is over.
    pub fn drop_stale(&mut self) {
        self.typing.clear();
    }

    /// Takes up to `edus_max` EDUs. `presence_of` tells how a user is now.
    pub fn take(
        &mut self,
        edus_max: usize,
        presence_of: impl Fn(&OwnedUserId) -> Option<Value>,
    ) -> Vec<Value> {
        let mut edus = Vec::new();
        while edus.len() < edus_max
            && let Some(((room_id, user_id), typing)) = self.typing.pop_first()
        {
            let content = json!({ "room_id": room_id, "user_id": user_id, "typing": typing });
            edus.push(json!({ "edu_type": "m.typing", "content": content }));
        }
        while edus.len() < edus_max
            && let Some(content) = self.take_receipts()
        {
            edus.push(json!({ "edu_type": "m.receipt", "content": content }));
        }
        while edus.len() < edus_max && !self.presence.is_empty() {
            let users: Vec<_> = self.presence.iter().take(PRESENCES_PER_EDU_MAX).cloned().collect();
            users.iter().for_each(|user| {
                self.presence.remove(user);
            });
            let push: Vec<Value> = users.iter().filter_map(&presence_of).collect();
            if !push.is_empty() {
                edus.push(json!({ "edu_type": "m.presence", "content": { "push": push } }));
            }
        }
        edus
    }

    /// Receipts of any number of rooms and users, of each user in a room one: there is no place for
    /// two of different threads in one EDU.
    fn take_receipts(&mut self) -> Option<Value> {
        let mut by_room: BTreeMap<OwnedRoomId, Map<String, Value>> = BTreeMap::new();
        let mut rest = BTreeMap::new();
        for ((room, user, thread), receipt) in std::mem::take(&mut self.receipts) {
            let users = by_room.entry(room.clone()).or_default();
            if users.contains_key(user.as_str()) {
                rest.insert((room, user, thread), receipt);
                continue;
            }
            let mut data = json!({ "ts": receipt.ts });
            if let Some(thread) = &receipt.thread {
                data["thread_id"] = thread.as_str().into();
            }
            let value = json!({ "data": data, "event_ids": [receipt.event_id] });
            users.insert(user.to_string(), value);
        }
        self.receipts = rest;
        let rooms =
            by_room.into_iter().map(|(room, users)| (room.to_string(), json!({ "m.read": users })));
        let content: Map<String, Value> = rooms.collect();
        (!content.is_empty()).then_some(Value::Object(content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(event: &str, thread: Option<&str>) -> OutgoingReceipt {
        let event_id = event.try_into().unwrap();
        OutgoingReceipt { event_id, thread: thread.map(str::to_owned), ts: 5 }
    }

    #[test]
    fn only_the_latest_of_each_is_sent() {
        let mut queue = EduQueue::default();
        let (room, user) =
            (OwnedRoomId::try_from("!r:a").unwrap(), OwnedUserId::try_from("@u:a").unwrap());
        queue.add_typing(room.clone(), user.clone(), true);
        queue.add_typing(room.clone(), user.clone(), false);
        queue.add_receipt(room.clone(), user.clone(), receipt("$1", None));
        queue.add_receipt(room.clone(), user.clone(), receipt("$2", None));
        queue.add_receipt(room, user.clone(), receipt("$3", Some("main")));
        queue.add_presence(user.clone());
        queue.add_presence(user);
        let edus = queue.take(100, |user| Some(json!({ "user_id": user })));
        assert!(queue.is_empty());
        let kinds: Vec<_> = edus.iter().map(|edu| edu["edu_type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["m.typing", "m.receipt", "m.receipt", "m.presence"]);
        assert_eq!(edus[0]["content"]["typing"], false);
        assert_eq!(edus[1]["content"]["!r:a"]["m.read"]["@u:a"]["event_ids"][0], "$2");
        assert_eq!(edus[2]["content"]["!r:a"]["m.read"]["@u:a"]["data"]["thread_id"], "main");
    }

    #[test]
    fn transaction_has_room_for_a_limited_number() {
        let mut queue = EduQueue::default();
        for number in 0..150 {
            let user = OwnedUserId::try_from(format!("@u{number}:a")).unwrap();
            queue.add_typing("!r:a".try_into().unwrap(), user, true);
        }
        assert_eq!(queue.take(100, |_| None).len(), 100);
        assert_eq!(queue.take(100, |_| None).len(), 50);
    }
}
