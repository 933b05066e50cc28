//! Looking after rooms: what an administrator may want to know of one, and whether what is derived from
//! its events agrees with them. Changes nothing.

use std::{collections::HashMap, sync::Arc};

use ruma::OwnedEventId;

use super::{head_change::membership_number, registry::Rooms, room::Room};
use crate::{
    protocol::membership::Membership,
    storage::{self, EventNid, RoomNid, StateKeyNid, StorageError},
};

/// Events that were not accepted, in one report.
const VERDICTS_MAX: usize = 50;
/// Ends of the known history, in one report.
const GAPS_MAX: usize = 20;
/// Memberships read at once.
const MEMBERS_STEP: usize = 500;

/// What there is to know of a room.
#[derive(Clone, Debug)]
pub struct RoomReport {
    pub extremities: Vec<OwnedEventId>,
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
    /// The numbers of rooms behind `after`, in rising order.
    pub async fn list_rooms(
        &self,
        after: RoomNid,
        limit: usize,
    ) -> Result<Vec<Arc<Room>>, StorageError> {
        let nids = storage::rooms::list_after(self.database(), after, limit).await?;
        self.load_all(&nids).await
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

    /// Compares what is derived from the room's state (memberships, counts) with the state itself, and
    /// that with what its extremities resolve to. Returns a sentence for each difference.
    pub async fn find_differences(&self, room: &Arc<Room>) -> Result<Vec<String>, StorageError> {
        let _alone = room.receiving.lock().await;
        let head = room.head();
        let mut problems = Vec::new();
        if head.extremities.is_empty() {
            return Ok(problems);
        }
        let mut states = Vec::new();
        for event in &head.extremities {
            states.push(self.state_after(room, event).await?.0);
        }
        let resolved = self.resolve_states(room, &states, None).await?;
        if resolved.diff(head.state.map()).next().is_some() {
            problems.push("the current state is not what the extremities resolve to".to_owned());
        }
        let rows = storage::graph::list_members(self.database(), room.nid).await?;
        let mut stored: HashMap<StateKeyNid, (Vec<u8>, i64)> =
            rows.into_iter().map(|(key, user, number)| (key, (user, number))).collect();
        let (mut joined, mut invited) = (0, 0);
        let members: Vec<_> = head.state.members().collect();
        for step in members.chunks(MEMBERS_STEP) {
            let nids: Vec<EventNid> = step.iter().map(|(_, nid)| *nid).collect();
            for ((key, _), event) in step.iter().zip(self.events().load(room.facts(), &nids).await?)
            {
                let membership = Membership::of_state(Some(&event.event));
                joined += i64::from(membership == Membership::Join);
                invited += i64::from(membership == Membership::Invite);
                let known = stored.remove(key).map(|(_, number)| number);
                if known != Some(membership_number(membership)) {
                    let user = event.event.state_key().unwrap_or_default();
                    problems.push(format!("the membership of {user} is not the one of the state"));
                }
            }
        }
        for (user, _) in stored.into_values().filter(|(_, number)| *number == JOINED) {
            let user = String::from_utf8_lossy(&user).into_owned();
            problems.push(format!("{user} counts as joined, but the state does not say so"));
        }
        if (joined, invited) != (head.joined_count, head.invited_count) {
            problems.push(format!(
                "{} joined and {} invited are counted, but there are {joined} and {invited}",
                head.joined_count, head.invited_count
            ));
        }
        Ok(problems)
    }
}

/// `memberships.membership` of who is joined.
const JOINED: i64 = 1;
