//! Looking after rooms: what an administrator may want to know of one, whether what is derived from its
//! events agrees with them, and mending what does not.

mod compare;
mod findings;
mod library;
mod line;
mod members;
mod partial_time;
mod replay;

use std::sync::Arc;

use ruma::{OwnedEventId, RoomId};

use self::{findings::Findings, replay::Replay};
use super::{registry::Rooms, room::Room};
use crate::storage::{self, EventNid, RoomNid, StorageError, WriteTx, rooms::RoomRow};

pub use self::replay::Progress;

/// Events that were not accepted, in one report.
const VERDICTS_MAX: usize = 50;
/// Ends of the known history, in one report.
const GAPS_MAX: usize = 20;
/// How often a room that changes meanwhile is looked at.
const CHECK_ATTEMPTS_MAX: usize = 3;
/// Commits of a rebuild: the edges of the graph, then what is derived along them.
const REBUILD_STEPS_MAX: usize = 2;

/// What there is to know of a room.
#[derive(Clone, Debug)]
pub struct RoomReport {
    pub extremities: Vec<OwnedEventId>,
    /// Events behind which the current state was not simply that of the event.
    pub fork_count: i64,
    /// Entries of the current state.
    pub state_entries: usize,
    /// Rows that the current state is read from, and their size in bytes.
    pub snapshot_rows: usize,
    pub snapshot_bytes: usize,
    pub joined_count: i64,
    pub invited_count: i64,
    /// Events that wait for others.
    pub waiting_count: i64,
    /// Where the known history ends.
    pub gaps: Vec<OwnedEventId>,
    /// The latest events that were not accepted, and why.
    pub verdicts: Vec<(OwnedEventId, String)>,
}

impl Rooms {
    /// The rooms behind `after`, in rising order of their numbers, as the store has them.
    pub async fn list_rooms(
        &self,
        after: RoomNid,
        limit: usize,
    ) -> Result<Vec<RoomRow>, StorageError> {
        let nids = storage::rooms::list_after(self.database(), after, limit).await?;
        let mut rows = storage::rooms::list(self.database(), &nids).await?;
        rows.sort_unstable_by_key(|row| row.nid);
        Ok(rows)
    }

    /// Describes a room.
    pub async fn report(&self, room: &Arc<Room>) -> Result<RoomReport, StorageError> {
        let head = room.head();
        let database = self.database();
        let latest = EventNid(i64::MAX);
        let mut verdicts = Vec::new();
        for (nid, reason) in
            storage::graph::list_verdicts(database, room.nid, latest, VERDICTS_MAX).await?
        {
            if let Some(event) = self.load_of_room(room, nid).await? {
                verdicts.push((event.event.event_id().to_owned(), reason));
            }
        }
        let (snapshot_rows, snapshot_bytes) = head.state.measure_chain();
        Ok(RoomReport {
            extremities: self.forward_extremities(room),
            fork_count: storage::care::count_forks(database, room.nid).await?,
            state_entries: head.state.len(),
            snapshot_rows,
            snapshot_bytes,
            joined_count: head.joined_count,
            invited_count: head.invited_count,
            waiting_count: storage::graph::count_waiting(database, room.nid).await?,
            gaps: self.backward_extremities(room, i64::MIN, GAPS_MAX).await?,
            verdicts,
        })
    }

    /// Compares everything that is derived from a room's events with the events. Returns a sentence for
    /// each difference; None when there is no such room. While the server runs, a room that changes is
    /// looked at again, a few times.
    pub async fn check_room(
        &self,
        room_id: &RoomId,
        progress: Progress<'_>,
    ) -> Result<Option<Vec<String>>, StorageError> {
        // Where the room can still be read, nothing from other servers comes in between.
        let room = match self.find(room_id).await {
            Ok(room) => room,
            Err(StorageError::Damaged(_)) => None,
            Err(error) => return Err(error),
        };
        let _alone = match &room {
            Some(room) => Some(room.receiving.lock().await),
            None => None,
        };
        let mut problems = Vec::new();
        for _ in 0..CHECK_ATTEMPTS_MAX {
            let Some(row) = storage::rooms::find_by_id(self.database(), room_id.as_str()).await?
            else {
                return Ok(None);
            };
            let position = row.latest_position;
            problems = self.look_at(row, progress).await?.tell();
            let now = storage::rooms::find_by_id(self.database(), room_id.as_str()).await?;
            if problems.is_empty() || now.is_some_and(|row| row.latest_position == position) {
                return Ok(Some(problems));
            }
        }
        problems.push("the room changed all the while: look again, or stop the server".to_owned());
        Ok(Some(problems))
    }

    /// Has new states get numbers that nothing names, even if states were lost. Looks at all events: this
    /// is for a server that is not running.
    pub async fn skip_named_states(&self) -> Result<(), StorageError> {
        let highest = storage::care::load_highest_state(self.database()).await?;
        self.0.skip_state_nids(highest);
        Ok(())
    }

    /// Derives everything anew from a room's events and writes what differs: what events are found by, and who
    /// authorises whom, in commits of their own, since the rest builds upon these; the rest in one. A stop in
    /// the middle leaves a room that can be rebuilt again. Returns a sentence for each difference that was
    /// mended; None when there is no such room.
    ///
    /// Nobody else may use the room meanwhile: this is for a server that is not running.
    pub async fn rebuild_room(
        &self,
        room_id: &RoomId,
        progress: Progress<'_>,
    ) -> Result<Option<Vec<String>>, StorageError> {
        let Some(row) = storage::rooms::find_by_id(self.database(), room_id.as_str()).await? else {
            return Ok(None);
        };
        let nid = row.nid;
        let mut mended = self.mend_keys(nid).await?;
        for _ in 0..REBUILD_STEPS_MAX {
            let mut findings = self.look_at(row.clone(), progress).await?;
            mended.extend(findings.tell());
            let is_whole = findings.is_whole;
            if !findings.tx.is_empty() {
                let engine = Arc::clone(&self.0);
                findings.tx.after_commit(move |_| engine.forget_all_of(nid));
                self.writer().commit(findings.tx).await?;
            }
            if is_whole {
                break;
            }
        }
        Ok(Some(mended))
    }

    async fn look_at(
        &self,
        row: RoomRow,
        progress: Progress<'_>,
    ) -> Result<Findings, StorageError> {
        let lost = storage::care::list_lost_keys(self.database(), row.nid).await?;
        let mut replay = Replay::begin(self, row).await?;
        for _ in &lost {
            replay.findings.note("an event cannot be found by its ID");
        }
        // Without them nothing else can be derived.
        if !lost.is_empty() {
            return Ok(replay.findings);
        }
        let mut contents = replay.read_contents(progress).await?;
        replay.compare_edges(&mut contents).await?;
        // Forks are resolved along the edges.
        if replay.findings.tx.is_empty() {
            replay.run(progress).await?;
            replay.compare(&contents).await?;
            replay.findings.is_whole = true;
        }
        Ok(replay.findings)
    }

    /// Has all events be found by their IDs: a commit of its own, since the rest builds upon it.
    async fn mend_keys(&self, room: RoomNid) -> Result<Vec<String>, StorageError> {
        let lost = storage::care::list_lost_keys(self.database(), room).await?;
        if lost.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = WriteTx::new();
        for (key, event) in &lost {
            storage::care::save_key(&mut tx, key, *event);
        }
        self.writer().commit(tx).await?;
        Ok(vec![format!("{} events could not be found by their IDs", lost.len())])
    }
}
