//! Unread counts in memory: what users have read, and exceptions by room. Both follow the commits
//! and are read from the store once. Not for judging events (`judge`), nor for arithmetic (`tally`).

use std::{collections::HashMap, sync::Arc};

use parking_lot::{Mutex, RwLock};
use quick_cache::sync::Cache;
use ruma::{OwnedUserId, UserId};
use tokio::sync::OnceCell;

use super::{
    delivery::intake::Intake,
    tally::{Deviation, Exception, Place, QuietRange, UnreadCounts, UserRoomCounts},
};
use crate::{
    cache_figures::CacheFigures,
    rooms::{NotedWeight, NotedWeighter, Room, StoredEvent, Weighed, reweigh},
    storage::{
        self, Cell, Committed, Database, RoomNid, StorageError, WriteTx,
        counts::{DeviationRow, ExceptionRow},
    },
};

/// Exceptions of a room in memory; for marks behind them the store is asked.
const EXCEPTIONS_MAX: usize = 4096;
/// Exceptions read for one answer, when a mark is far behind.
const OLD_EXCEPTIONS_MAX: usize = 65_536;
/// Unread deviations and quiet ranges of one user.
const DEVIATIONS_MAX: usize = 10_000;
const QUIET_RANGES_MAX: usize = 10_000;
const EXCEPTION_BYTES: u64 = 96;
const USER_ROOM_BYTES: u64 = 256;
const DEVIATION_BYTES: u64 = 96;
const ENTRY_BYTES: u64 = 256;

/// Everybody's unread counts. Clones share them.
#[derive(Clone)]
pub struct Counts(Arc<Inner>);

struct Inner {
    database: Database,
    /// Hears of who has read something.
    intake: Arc<Intake>,
    rooms: Cache<RoomNid, Arc<RoomEntry>, NotedWeighter>,
    users: Cache<OwnedUserId, Arc<UserEntry>, NotedWeighter>,
}

#[derive(Default)]
struct RoomEntry {
    loaded: OnceCell<()>,
    weight: NotedWeight,
    exceptions: RwLock<Exceptions>,
}

#[derive(Default)]
struct Exceptions {
    /// In the order of the room.
    list: Vec<Exception>,
    /// None is missing above this place.
    complete_above: i64,
}

#[derive(Default)]
struct UserEntry {
    loaded: OnceCell<()>,
    weight: NotedWeight,
    rooms: Mutex<HashMap<RoomNid, UserRoomCounts>>,
}

impl Weighed for RoomEntry {
    fn noted_weight(&self) -> &NotedWeight {
        &self.weight
    }

    fn weigh_bytes(&self) -> u64 {
        ENTRY_BYTES + EXCEPTION_BYTES * self.exceptions.read().list.len() as u64
    }
}

impl Weighed for UserEntry {
    fn noted_weight(&self) -> &NotedWeight {
        &self.weight
    }

    fn weigh_bytes(&self) -> u64 {
        let rooms = self.rooms.lock();
        let deviations: usize = rooms.values().map(|room| room.deviations.len()).sum();
        let (rooms, deviations) = (rooms.len() as u64, deviations as u64);
        ENTRY_BYTES + USER_ROOM_BYTES * rooms + DEVIATION_BYTES * deviations
    }
}

/// What an append changes, with places that are known at its commit.
#[derive(Default)]
pub(super) struct Changes {
    /// Own events: user, thread (empty, `main` or a root), offset of the event, ordinal.
    pub marks: Vec<(OwnedUserId, String, u32, i64)>,
    pub exceptions: Vec<(Exception, u32)>,
    pub deviations: Vec<(OwnedUserId, Deviation, u32)>,
    /// User, whether a range begins (or ends), offset, ordinal before.
    pub quiet: Vec<(OwnedUserId, bool, u32, i64)>,
    /// What became of older events.
    pub redacted: Vec<Exception>,
}

impl Counts {
    pub(super) fn cache_figures(&self) -> [CacheFigures; 2] {
        [
            CacheFigures::of("counts_of_rooms", &self.0.rooms),
            CacheFigures::of("counts_of_users", &self.0.users),
        ]
    }

    /// `memory_bytes` bounds the caches.
    pub(super) fn new(database: Database, intake: Arc<Intake>, memory_bytes: u64) -> Self {
        let (rooms, users) = (memory_bytes / 2, memory_bytes / 2);
        Self(Arc::new(Inner {
            database,
            intake,
            rooms: Cache::with_weighter((rooms / 512).max(64) as usize, rooms, NotedWeighter),
            users: Cache::with_weighter((users / 2048).max(64) as usize, users, NotedWeighter),
        }))
    }

    /// A member's unread counts in a room.
    pub async fn unread(&self, user: &UserId, room: &Room) -> Result<UnreadCounts, StorageError> {
        let mine = self.load_user(user).await?;
        let tally = self.load_room(room.nid).await?;
        let ordinal = room.head().notify_ordinal;
        let oldest = mine.rooms.lock().get(&room.nid).map_or(0, |room| room.marks.all.ordering);
        let complete_above = tally.exceptions.read().complete_above;
        let older = match oldest < complete_above {
            true => self.list_older(room.nid, (oldest, complete_above)).await?,
            false => Vec::new(),
        };
        let rooms = mine.rooms.lock();
        let default = UserRoomCounts::default();
        let counts = rooms.get(&room.nid).unwrap_or(&default);
        let exceptions = tally.exceptions.read();
        if older.is_empty() {
            return Ok(counts.count(ordinal, &exceptions.list));
        }
        let all: Vec<Exception> =
            older.into_iter().chain(exceptions.list.iter().cloned()).collect();
        Ok(counts.count(ordinal, &all))
    }

    /// The latest position at which a receipt of the user changed the counts of a room, as far
    /// as memory knows.
    pub fn changed_at(&self, user: &UserId, room: &Room) -> i64 {
        let user = self.0.users.get(user);
        user.map_or(0, |user| user.rooms.lock().get(&room.nid).map_or(0, |room| room.changed_at))
    }

    /// Up to where the user has read a thread (None: the main timeline), and whether nothing
    /// notifies them by default at `ordering`.
    pub(super) async fn read_and_quiet(
        &self,
        user: &UserId,
        event: &StoredEvent,
        thread: Option<&str>,
    ) -> Result<(i64, bool), StorageError> {
        let mine = self.load_user(user).await?;
        let rooms = mine.rooms.lock();
        let counts = rooms.get(&event.room_nid);
        Ok(counts.map_or((0, false), |c| (c.marks.read(thread), c.is_quiet(event.ordering()))))
    }

    /// What a user has of a room.
    pub(super) async fn load_user_room(
        &self,
        user: &UserId,
        room: RoomNid,
    ) -> Result<UserRoomCounts, StorageError> {
        let mine = self.load_user(user).await?;
        Ok(mine.rooms.lock().get(&room).cloned().unwrap_or_default())
    }

    /// What an event does for everybody, if its flag does not say all.
    pub(super) async fn find_default(
        &self,
        event: &StoredEvent,
    ) -> Result<Option<Exception>, StorageError> {
        let (room, ordering) = (event.room_nid, event.ordering());
        let tally = self.load_room(room).await?;
        {
            let exceptions = tally.exceptions.read();
            if ordering > exceptions.complete_above {
                let place = exceptions.list.binary_search_by_key(&ordering, |e| e.ordering);
                return Ok(place.ok().map(|place| exceptions.list[place].clone()));
            }
        }
        Ok(self.list_older(room, (ordering - 1, ordering)).await?.pop())
    }

    /// Puts deviations in the place of what was known of these events.
    pub(super) fn replace_deviations(
        &self,
        user: &UserId,
        deviations: Vec<(RoomNid, Deviation)>,
        committed: Committed,
    ) {
        for (room, deviation) in deviations {
            self.change(user, room, |counts| {
                counts.replace_deviation(deviation);
                counts.changed_at = committed.first_position;
            });
        }
        self.0.intake.note_read(user, true);
    }

    /// Up to where the user has read a thread (None: the main timeline) of a room.
    pub(super) async fn find_read(
        &self,
        user: &UserId,
        room: RoomNid,
        thread: Option<&str>,
    ) -> Result<i64, StorageError> {
        let mine = self.load_user(user).await?;
        let rooms = mine.rooms.lock();
        Ok(rooms.get(&room).map_or(0, |counts| counts.marks.read(thread)))
    }

    /// Reads the exceptions of many rooms at once, for an initial sync.
    pub async fn preload(&self, rooms: &[RoomNid]) -> Result<(), StorageError> {
        let made: HashMap<RoomNid, Arc<RoomEntry>> =
            rooms.iter().map(|nid| (*nid, self.find_or_make_room(*nid))).collect();
        let missing: Vec<RoomNid> = made
            .iter()
            .filter(|(_, room)| !room.loaded.initialized())
            .map(|(nid, _)| *nid)
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let list = storage::counts::list_exceptions_of_rooms;
        let rows = list(&self.0.database, &missing, EXCEPTIONS_MAX).await?;
        if rows.len() >= EXCEPTIONS_MAX {
            // Too many to know which rooms are complete; they are read one by one.
            return Ok(());
        }
        for row in rows {
            made[&row.room].insert(exception_of_row(&row));
        }
        for nid in missing {
            let _ = made[&nid].loaded.set(());
        }
        Ok(())
    }

    /// Adds to a write that a receipt says the user has read up to an event. `thread` as the
    /// receipt has it.
    pub fn add_receipt(
        &self,
        tx: &mut WriteTx,
        user: &UserId,
        thread: Option<&str>,
        event: &StoredEvent,
    ) {
        let place = Place { ordering: event.ordering(), ordinal: event.notify_ordinal };
        let (room, thread) = (event.room_nid, thread.unwrap_or_default().to_owned());
        let mark = (room, thread.as_str());
        let ordering = Cell::Int(place.ordering);
        storage::counts::save_mark(tx, user.as_str(), mark, ordering, place.ordinal);
        let (counts, user) = (self.clone(), user.to_owned());
        tx.after_commit(move |committed| {
            counts.change(&user, room, |counts| {
                if counts.marks.advance(&thread, place) {
                    counts.changed_at = committed.first_position;
                    counts.prune();
                }
            });
            counts.0.intake.note_read(&user, true);
        });
    }

    /// Applies what a commit changed.
    pub(super) fn apply(&self, room: RoomNid, changes: Changes, committed: Committed) {
        let place_of = |offset| committed.position(offset) * storage::ORDERING_STEP;
        if let Some(entry) = self.0.rooms.get(&room) {
            for (exception, offset) in changes.exceptions {
                entry.insert(Exception { ordering: place_of(offset), ..exception });
            }
            for exception in &changes.redacted {
                entry.replace(exception.clone());
            }
        }
        for (user, deviation, offset) in changes.deviations {
            let deviation = Deviation { ordering: place_of(offset), ..deviation };
            self.change(&user, room, |counts| counts.insert_deviation(deviation));
        }
        for (user, begins, offset, ordinal) in changes.quiet {
            let place = Place { ordering: place_of(offset), ordinal };
            self.change(&user, room, |counts| match begins {
                true => counts.begin_quiet(place),
                false => counts.end_quiet(place),
            });
        }
        for (user, thread, offset, ordinal) in changes.marks {
            let place = Place { ordering: place_of(offset), ordinal };
            self.change(&user, room, |counts| {
                counts.marks.advance(&thread, place);
            });
            self.0.intake.note_read(&user, false);
        }
        for exception in changes.redacted {
            for (_, user) in self.0.users.iter() {
                if let Some(counts) = user.rooms.lock().get_mut(&room) {
                    counts.deviations.retain(|known| known.ordering != exception.ordering);
                }
            }
        }
    }

    /// Changes what is known of a user, if they are in memory.
    fn change(&self, user: &UserId, room: RoomNid, change: impl FnOnce(&mut UserRoomCounts)) {
        if let Some(user) = self.0.users.get(user) {
            change(user.rooms.lock().entry(room).or_default());
        }
    }

    async fn load_user(&self, user: &UserId) -> Result<Arc<UserEntry>, StorageError> {
        let users = &self.0.users;
        let entry = match users.get(user) {
            Some(entry) => entry,
            // In the cache before the rows are read, so that no commit in between is missed.
            None => {
                users.get_or_insert_with(user, || Ok::<_, ()>(Arc::default())).unwrap_or_default()
            }
        };
        if !entry.loaded.initialized() {
            entry.loaded.get_or_try_init(|| self.read_user(user, &entry)).await?;
            reweigh(users, user);
        }
        Ok(entry)
    }

    async fn read_user(&self, user: &UserId, entry: &UserEntry) -> Result<(), StorageError> {
        let (database, user) = (&self.0.database, user.as_str());
        let marks = storage::counts::list_marks(database, user).await?;
        let list = storage::counts::list_unread_deviations;
        let deviations = list(database, user, DEVIATIONS_MAX).await?;
        let quiet = storage::counts::list_quiet_of_user(database, user, QUIET_RANGES_MAX).await?;
        let mut rooms = entry.rooms.lock();
        for row in marks {
            let place = Place { ordering: row.ordering, ordinal: row.notify_ordinal };
            rooms.entry(row.room).or_default().marks.advance(&row.thread, place);
        }
        for row in deviations {
            rooms.entry(row.room).or_default().insert_deviation(deviation_of_row(&row));
        }
        for row in quiet {
            let counts = rooms.entry(row.room).or_default();
            let from = Place { ordering: row.from_ordering, ordinal: row.from_ordinal };
            let to = row.to.map(|(ordering, ordinal)| Place { ordering, ordinal });
            if !counts.quiet.iter().any(|range| range.from.ordering == from.ordering) {
                counts.quiet.push(QuietRange { from, to });
            }
        }
        Ok(())
    }

    fn find_or_make_room(&self, nid: RoomNid) -> Arc<RoomEntry> {
        let rooms = &self.0.rooms;
        let made = || rooms.get_or_insert_with(&nid, || Ok::<_, ()>(Arc::default()));
        rooms.get(&nid).unwrap_or_else(|| made().unwrap_or_default())
    }

    async fn load_room(&self, nid: RoomNid) -> Result<Arc<RoomEntry>, StorageError> {
        let entry = self.find_or_make_room(nid);
        let read = || async {
            let range = (i64::MIN, i64::MAX);
            let list = storage::counts::list_exceptions;
            let rows = list(&self.0.database, nid, range, EXCEPTIONS_MAX).await?;
            if rows.len() == EXCEPTIONS_MAX {
                let oldest = rows.last().map_or(0, |row| row.ordering);
                entry.exceptions.write().complete_above = oldest - 1;
            }
            rows.iter().for_each(|row| entry.insert(exception_of_row(row)));
            Ok::<_, StorageError>(())
        };
        if !entry.loaded.initialized() {
            entry.loaded.get_or_try_init(read).await?;
            reweigh(&self.0.rooms, &nid);
        }
        Ok(entry)
    }

    async fn list_older(
        &self,
        room: RoomNid,
        range: (i64, i64),
    ) -> Result<Vec<Exception>, StorageError> {
        let list = storage::counts::list_exceptions;
        let rows = list(&self.0.database, room, range, OLD_EXCEPTIONS_MAX).await?;
        Ok(rows.iter().rev().map(exception_of_row).collect())
    }
}

impl RoomEntry {
    /// Adds an exception in its place, once.
    fn insert(&self, exception: Exception) {
        let mut exceptions = self.exceptions.write();
        let place = exceptions.list.partition_point(|e| e.ordering < exception.ordering);
        match exceptions.list.get(place) {
            Some(known) if known.ordering == exception.ordering => {}
            _ => exceptions.list.insert(place, exception),
        }
        if exceptions.list.len() > 2 * EXCEPTIONS_MAX {
            let oldest = exceptions.list.len() - EXCEPTIONS_MAX;
            exceptions.complete_above = exceptions.list[oldest - 1].ordering;
            exceptions.list.drain(..oldest);
        }
    }

    /// Puts an exception in the place of what was known of the event.
    fn replace(&self, exception: Exception) {
        let mut exceptions = self.exceptions.write();
        if exception.ordering <= exceptions.complete_above {
            return;
        }
        let place = exceptions.list.partition_point(|e| e.ordering < exception.ordering);
        match exceptions.list.get_mut(place) {
            Some(known) if known.ordering == exception.ordering => *known = exception,
            _ => exceptions.list.insert(place, exception),
        }
    }
}

pub(super) fn exception_of_row(row: &ExceptionRow) -> Exception {
    Exception {
        ordering: row.ordering,
        thread: thread_of_row(&row.thread),
        counted: row.counted,
        notifies: row.notifies,
        highlights: row.highlights,
    }
}

fn deviation_of_row(row: &DeviationRow) -> Deviation {
    Deviation {
        ordering: row.ordering,
        thread: thread_of_row(&row.thread),
        notify_delta: row.notify_delta,
        highlight_delta: row.highlight_delta,
    }
}

fn thread_of_row(thread: &str) -> Option<Box<str>> {
    Some(thread).filter(|thread| !thread.is_empty()).map(Into::into)
}
