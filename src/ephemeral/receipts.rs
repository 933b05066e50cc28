//! Receipts: how far users have read (client-server API, "Receipts"). A receipt never moves
//! backwards. Not for unread counts (`push`), nor for fully-read markers (account data).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard, RwLock};
use quick_cache::sync::Cache;
use ruma::{OwnedEventId, OwnedUserId, UserId};
use tokio::sync::OnceCell;

use super::{
    push_json_text,
    volatile::{EphemeralChange, Volatile},
};
use crate::{
    cache_figures::CacheFigures,
    rooms::{NotedWeight, NotedWeighter, Room, Rooms, Weighed, reweigh},
    storage::{self, RoomNid, StorageError, WriteTx, receipts::ReceiptRow},
};

/// What a receipt costs in memory beside its text, bytes.
const RECEIPT_BYTES: usize = 320;
const ROOM_BYTES: u64 = 256;
/// Receipts of others that an initial sync carries for one room: the latest.
const INITIAL_RECEIPTS_MAX: usize = 1000;

/// Who may see a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReceiptKind {
    /// `m.read`: everybody in the room.
    Read,
    /// `m.read.private`: only the user.
    ReadPrivate,
}

/// A receipt as its sender wants it.
#[derive(Clone, Debug)]
pub struct NewReceipt {
    pub user_id: OwnedUserId,
    pub kind: ReceiptKind,
    /// None: unthreaded; `main`, or the event ID of a thread's root.
    pub thread: Option<String>,
    pub event_id: OwnedEventId,
    /// The event's place in the room.
    pub ordering: i64,
    /// Milliseconds since the epoch.
    pub ts: u64,
}

/// The receipts of all rooms, in memory for those in use. Clones share them.
#[derive(Clone)]
pub struct Receipts {
    rooms: Rooms,
    cache: Arc<RoomCache>,
    volatile: Arc<Volatile>,
}

type RoomCache = Cache<RoomNid, Arc<RoomReceipts>, NotedWeighter>;

/// The receipts of one room.
#[derive(Default)]
pub struct RoomReceipts {
    known: RwLock<Known>,
    loaded: OnceCell<()>,
    order: Mutex<()>,
    weight: NotedWeight,
}

#[derive(Default)]
struct Known {
    by_key: HashMap<Key, Arc<Receipt>>,
    by_position: BTreeMap<i64, Arc<Receipt>>,
    /// The places of receipts on their way into the store.
    submitted: HashMap<Key, i64>,
    text_bytes: usize,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    user_id: OwnedUserId,
    kind: ReceiptKind,
    thread: Option<Box<str>>,
}

struct Receipt {
    key: Key,
    event_id: Box<str>,
    ordering: i64,
    ts: i64,
    position: i64,
}

impl Weighed for RoomReceipts {
    fn noted_weight(&self) -> &NotedWeight {
        &self.weight
    }

    fn weigh_bytes(&self) -> u64 {
        let known = self.known.read();
        ROOM_BYTES + (known.by_key.len() * RECEIPT_BYTES + known.text_bytes) as u64
    }
}

impl ReceiptKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "m.read",
            Self::ReadPrivate => "m.read.private",
        }
    }

    fn number(self) -> i64 {
        match self {
            Self::Read => 1,
            Self::ReadPrivate => 2,
        }
    }
}

impl Receipts {
    pub(super) fn new(rooms: Rooms, memory_bytes: u64, volatile: Arc<Volatile>) -> Self {
        let estimate = (memory_bytes / 2048).max(64) as usize;
        let cache = Arc::new(Cache::with_weighter(estimate, memory_bytes, NotedWeighter));
        Self { rooms, cache, volatile }
    }

    /// How well the cache does.
    pub fn cache_figures(&self) -> CacheFigures {
        CacheFigures::of("receipts", &self.cache)
    }

    /// The receipts of a room, read into memory if need be.
    pub async fn of_room(&self, room: &Room) -> Result<Arc<RoomReceipts>, StorageError> {
        let receipts = self.find_or_make(room.nid);
        let read = || async {
            let rows = storage::receipts::list(self.rooms.database(), &[room.nid]).await?;
            receipts.admit(rows);
            Ok::<_, StorageError>(())
        };
        if !receipts.loaded.initialized() {
            receipts.loaded.get_or_try_init(read).await?;
            reweigh(&self.cache, &room.nid);
        }
        Ok(receipts)
    }

    /// Reads the receipts of many rooms at once, for an initial sync.
    pub async fn preload(&self, rooms: &[RoomNid]) -> Result<(), StorageError> {
        let made: HashMap<RoomNid, Arc<RoomReceipts>> =
            rooms.iter().map(|nid| (*nid, self.find_or_make(*nid))).collect();
        let missing: Vec<RoomNid> = made
            .iter()
            .filter(|(_, receipts)| !receipts.loaded.initialized())
            .map(|(nid, _)| *nid)
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut rows: HashMap<RoomNid, Vec<ReceiptRow>> = HashMap::new();
        for row in storage::receipts::list(self.rooms.database(), &missing).await? {
            rows.entry(row.room).or_default().push(row);
        }
        for nid in missing {
            let receipts = &made[&nid];
            receipts.admit(rows.remove(&nid).unwrap_or_default());
            let _ = receipts.loaded.set(());
            reweigh(&self.cache, &nid);
        }
        Ok(())
    }

    /// Adds the rows of a receipt to a write and says who learns of it; false, and nothing is
    /// added, when the user's receipt of this kind and thread is as far or further.
    ///
    /// `order` ([`RoomReceipts::lock_order`]) is held until the write is submitted, so that a
    /// later receipt is not written before an earlier one.
    pub fn add(
        &self,
        room: &Arc<Room>,
        (receipts, _order): (&Arc<RoomReceipts>, &MutexGuard<'_, ()>),
        new: NewReceipt,
        tx: &mut WriteTx,
    ) -> bool {
        let (row, key) = (new.to_row(room.nid), new.into_key());
        if !receipts.submit(&key, row.ordering) {
            return false;
        }
        let offset = tx.next_position();
        storage::receipts::save(tx, &row, offset);
        let (failed, failed_key, ordering) = (Arc::clone(receipts), key.clone(), row.ordering);
        tx.after_failure(move || failed.withdraw(&failed_key, ordering));
        let (volatile, read_room) = (Arc::clone(&self.volatile), Arc::clone(room));
        // With the commit and with its publication: who looks in between must look again.
        let (published, published_room) = (Arc::clone(&volatile), Arc::clone(room));
        tx.after_commit(move |_| volatile.tell(EphemeralChange::Receipts(&read_room)));
        tx.after_publish(move |_| published.tell(EphemeralChange::Receipts(&published_room)));
        let (receipts, all) = (Arc::clone(receipts), Arc::clone(&self.cache));
        let (committed_room, is_public) = (Arc::clone(room), key.kind == ReceiptKind::Read);
        tx.after_commit(move |committed| {
            receipts.withdraw(&key, ordering);
            let position = committed.position(offset);
            let receipt = Arc::new(Receipt::from_row(key, row, position));
            // Those in use may have left the cache and been read again meanwhile.
            if let Some(current) = all.get(&committed_room.nid)
                && !Arc::ptr_eq(&current, &receipts)
            {
                current.apply(Arc::clone(&receipt));
            }
            receipts.apply(receipt);
            reweigh(&all, &committed_room.nid);
            if is_public {
                committed_room.note_activity(position);
            }
        });
        true
    }

    /// Appends the event `m.receipt` with the room's public receipts and the user's own private
    /// ones at positions above `since` up to `upto`; false when there are none. For an initial
    /// sync (`since` 0) it holds the latest thousand of others.
    pub async fn write_since(
        &self,
        out: &mut String,
        room: &Room,
        user: &UserId,
        range: (i64, i64),
    ) -> Result<bool, StorageError> {
        self.write_from(out, room, user, range, i64::MIN).await
    }

    /// As [`Receipts::write_since`], of others only those for events from a place in the room on.
    pub async fn write_from(
        &self,
        out: &mut String,
        room: &Room,
        user: &UserId,
        range: (i64, i64),
        ordering_min: i64,
    ) -> Result<bool, StorageError> {
        self.write_for(out, room, &|reader| reader == user, range, ordering_min).await
    }

    /// As [`Receipts::write_from`], for a reader who stands for all users of whom `is_own` is true.
    pub async fn write_for(
        &self,
        out: &mut String,
        room: &Room,
        is_own: &(dyn Fn(&UserId) -> bool + Sync),
        (since, upto): (i64, i64),
        ordering_min: i64,
    ) -> Result<bool, StorageError> {
        let receipts = self.of_room(room).await?;
        let known = receipts.known.read();
        let mut others = if since <= 0 { INITIAL_RECEIPTS_MAX } else { usize::MAX };
        let newest_first = known.by_position.range(since.max(0) + 1..=upto.max(since.max(0) + 1));
        let mut news: Vec<&Receipt> = Vec::new();
        for receipt in newest_first.rev().map(|(_, receipt)| &**receipt) {
            let is_own = is_own(&receipt.key.user_id);
            if receipt.position > upto || !is_own && receipt.key.kind == ReceiptKind::ReadPrivate {
                continue;
            }
            if !is_own {
                if others == 0 || receipt.ordering < ordering_min {
                    continue;
                }
                others -= 1;
            }
            news.push(receipt);
        }
        Ok(write_event(out, news))
    }

    /// The user's furthest receipt of a kind in a room: place and event.
    pub async fn find(
        &self,
        room: &Room,
        user: &UserId,
        kind: ReceiptKind,
        thread: Option<&str>,
    ) -> Result<Option<(i64, String)>, StorageError> {
        let receipts = self.of_room(room).await?;
        let key = Key { user_id: user.to_owned(), kind, thread: thread.map(Into::into) };
        let known = receipts.known.read();
        Ok(known.by_key.get(&key).map(|receipt| (receipt.ordering, receipt.event_id.to_string())))
    }

    fn find_or_make(&self, nid: RoomNid) -> Arc<RoomReceipts> {
        if let Some(receipts) = self.cache.get(&nid) {
            return receipts;
        }
        // In the cache before the rows are read, so that no commit in between is missed.
        let made = self.cache.get_or_insert_with(&nid, || Ok::<_, ()>(Arc::default()));
        made.unwrap_or_default()
    }
}

impl RoomReceipts {
    /// Held while a receipt is added to a write until that is submitted.
    pub fn lock_order(&self) -> MutexGuard<'_, ()> {
        self.order.lock()
    }

    fn admit(&self, rows: Vec<ReceiptRow>) {
        for row in rows {
            if let Some(key) = Key::from_row(&row) {
                let position = row.position;
                self.apply(Arc::new(Receipt::from_row(key, row, position)));
            }
        }
    }

    /// False when the user has read as far already.
    fn submit(&self, key: &Key, ordering: i64) -> bool {
        let mut known = self.known.write();
        let committed = known.by_key.get(key).map(|receipt| receipt.ordering);
        if committed.max(known.submitted.get(key).copied()) >= Some(ordering) {
            return false;
        }
        known.submitted.insert(key.clone(), ordering);
        true
    }

    fn withdraw(&self, key: &Key, ordering: i64) {
        let mut known = self.known.write();
        if known.submitted.get(key) == Some(&ordering) {
            known.submitted.remove(key);
        }
    }

    fn apply(&self, receipt: Arc<Receipt>) {
        let mut known = self.known.write();
        let before = known.by_key.get(&receipt.key).cloned();
        if let Some(before) = &before {
            if before.ordering >= receipt.ordering {
                return;
            }
            known.by_position.remove(&before.position);
            known.text_bytes -= before.text_bytes();
        }
        known.text_bytes += receipt.text_bytes();
        known.by_position.insert(receipt.position, Arc::clone(&receipt));
        known.by_key.insert(receipt.key.clone(), receipt);
    }
}

impl NewReceipt {
    fn to_row(&self, room: RoomNid) -> ReceiptRow {
        ReceiptRow {
            room,
            user_id: self.user_id.to_string(),
            kind: self.kind.number(),
            thread: self.thread.clone().unwrap_or_default(),
            event_id: self.event_id.to_string(),
            ordering: self.ordering,
            ts: self.ts.cast_signed(),
            position: 0,
        }
    }

    fn into_key(self) -> Key {
        let thread = self.thread.map(String::into_boxed_str);
        Key { user_id: self.user_id, kind: self.kind, thread }
    }
}

impl Key {
    /// None for a row that no version of this server writes.
    fn from_row(row: &ReceiptRow) -> Option<Self> {
        let kind = match row.kind {
            1 => ReceiptKind::Read,
            2 => ReceiptKind::ReadPrivate,
            _ => return None,
        };
        let user_id = OwnedUserId::try_from(row.user_id.as_str()).ok()?;
        let thread = Some(row.thread.as_str()).filter(|thread| !thread.is_empty());
        Some(Self { user_id, kind, thread: thread.map(Into::into) })
    }
}

impl Receipt {
    fn from_row(key: Key, row: ReceiptRow, position: i64) -> Self {
        let event_id = row.event_id.into();
        Self { key, event_id, ordering: row.ordering, ts: row.ts, position }
    }

    fn text_bytes(&self) -> usize {
        let thread = self.key.thread.as_deref().map_or(0, str::len);
        self.event_id.len() + 2 * (self.key.user_id.as_str().len() + thread)
    }
}

/// Appends `m.receipt`: event, kind, user. Of a user's receipts of one kind for one event the
/// unthreaded one is shown, since there is place for one only (MSC4102).
fn write_event(out: &mut String, mut receipts: Vec<&Receipt>) -> bool {
    if receipts.is_empty() {
        return false;
    }
    receipts.sort_unstable_by_key(|receipt| {
        let Key { user_id, kind, thread } = &receipt.key;
        (&*receipt.event_id, *kind, user_id, thread)
    });
    receipts.dedup_by(|next, first| {
        let same_user = next.key.user_id == first.key.user_id && next.key.kind == first.key.kind;
        next.event_id == first.event_id && same_user
    });
    out.push_str("{\"content\":{");
    for (number, group) in receipts.chunk_by(|a, b| a.event_id == b.event_id).enumerate() {
        out.push_str(if number > 0 { "," } else { "" });
        push_json_text(out, &group[0].event_id);
        out.push_str(":{");
        for (number, group) in group.chunk_by(|a, b| a.key.kind == b.key.kind).enumerate() {
            out.push_str(if number > 0 { "," } else { "" });
            push_json_text(out, group[0].key.kind.as_str());
            out.push(':');
            write_users(out, group);
        }
        out.push('}');
    }
    out.push_str("},\"type\":\"m.receipt\"}");
    true
}

fn write_users(out: &mut String, receipts: &[&Receipt]) {
    out.push('{');
    for (number, receipt) in receipts.iter().enumerate() {
        out.push_str(if number > 0 { "," } else { "" });
        push_json_text(out, receipt.key.user_id.as_str());
        out.push_str(":{");
        if let Some(thread) = &receipt.key.thread {
            out.push_str("\"thread_id\":");
            push_json_text(out, thread);
            out.push(',');
        }
        out.push_str("\"ts\":");
        out.push_str(&receipt.ts.to_string());
        out.push('}');
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(user: &str, thread: Option<&str>, event: &str, position: i64) -> Arc<Receipt> {
        let user_id = OwnedUserId::try_from(user).expect("is a user ID");
        let key = Key { user_id, kind: ReceiptKind::Read, thread: thread.map(Into::into) };
        Arc::new(Receipt { key, event_id: event.into(), ordering: position, ts: 7, position })
    }

    #[test]
    fn unthreaded_receipts_hide_threaded_ones_for_the_same_event() {
        let (main, all) = (receipt("@a:b", Some("main"), "$1", 1), receipt("@a:b", None, "$1", 2));
        let other = receipt("@c:b", Some("main"), "$1", 3);
        let mut out = String::new();
        assert!(write_event(&mut out, vec![&main, &all, &other]));
        let expect = r#"{"content":{"$1":{"m.read":{"@a:b":{"ts":7},"@c:b":{"thread_id":"main","ts":7}}}},"type":"m.receipt"}"#;
        assert_eq!(out, expect);
    }

    #[test]
    fn only_the_latest_receipt_of_a_thread_is_kept() {
        let room = RoomReceipts::default();
        room.apply(receipt("@a:b", None, "$1", 1));
        room.apply(receipt("@a:b", Some("main"), "$1", 2));
        room.apply(receipt("@a:b", None, "$2", 3));
        let known = room.known.read();
        let positions: Vec<_> = known.by_position.keys().copied().collect();
        assert_eq!((known.by_key.len(), positions), (2, vec![2, 3]));
    }

    #[test]
    fn receipts_on_their_way_count_already() {
        let room = RoomReceipts::default();
        let key = receipt("@a:b", None, "$1", 5).key.clone();
        assert!(room.submit(&key, 5));
        assert!(!room.submit(&key, 4));
        assert!(!room.submit(&key, 5));
        room.withdraw(&key, 5);
        assert!(room.submit(&key, 4));
    }
}
