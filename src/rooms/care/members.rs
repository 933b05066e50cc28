//! The memberships of a room: followed through a replay of its events, and compared with the table.

use std::{collections::HashMap, sync::Arc};

use ruma::UserId;

use super::{
    super::{
        event_store::StoredEvent,
        head_change::membership_number,
        state::{State, differences},
    },
    replay::{EVENTS_STEP, Replay},
};
use crate::{
    protocol::membership::Membership,
    storage::{
        EventNid, StateKeyNid, StorageError,
        care::{self, MemberRow},
        events::flags,
    },
};

impl Replay<'_> {
    /// Follows what a change of the current state does to memberships and their counts.
    pub async fn change_members(
        &mut self,
        previous: &State,
        current: &State,
        position: i64,
    ) -> Result<(), StorageError> {
        let mut changes = differences(previous.map(), current.map());
        changes.retain(|change| change.key.is_membership());
        for step in changes.chunks(EVENTS_STEP) {
            let nids = step.iter().flat_map(|change| change.old.into_iter().chain(change.new));
            let nids: Vec<EventNid> = nids.collect();
            let events = self.rooms.events().load(self.room.facts(), &nids).await?;
            let events: HashMap<EventNid, Arc<StoredEvent>> =
                events.into_iter().map(|event| (event.nid, event)).collect();
            for change in step {
                let find = |nid: Option<EventNid>| nid.and_then(|nid| events.get(&nid));
                let (old, new) = (find(change.old), find(change.new));
                let before = old.and_then(|event| Membership::of_event(&event.event));
                let after = Membership::of_state(new.map(|event| &*event.event));
                let Some(event) = new.or(old) else { continue };
                let user = event.event.state_key().and_then(|u| <&UserId>::try_from(u).ok());
                let is_ours =
                    user.is_some_and(|user| user.server_name() == self.rooms.server_name());
                let change_of = |membership| {
                    i64::from(after == membership) - i64::from(before == Some(membership))
                };
                self.line.joined += change_of(Membership::Join);
                self.line.invited += change_of(Membership::Invite);
                self.line.ours += i64::from(is_ours) * change_of(Membership::Join);
                let membership = membership_number(after);
                let row = MemberRow { membership, event: event.nid, position };
                self.line.members.insert(change.key, row);
            }
        }
        Ok(())
    }

    /// Compares the memberships of the store with those that the replay came to.
    pub async fn compare_members(&mut self) -> Result<(), StorageError> {
        let (database, room) = (self.rooms.database(), self.row.nid);
        let noted = care::list_members(database, room).await?;
        let mut derived = std::mem::take(&mut self.line.members);
        for (user, row) in noted {
            let known = derived.remove(&user);
            if known == Some(row) || self.is_outside(user, row, known).await? {
                continue;
            }
            let name = self.name_of(row.event).await?;
            match known {
                Some(known) => {
                    self.findings.note(format!("the membership of {name} is noted wrongly"));
                    care::correct_member(&mut self.findings.tx, (user, room), known);
                }
                None => {
                    self.findings.note(format!("{name} has a membership that no event gives"));
                    care::delete_member(&mut self.findings.tx, user, room);
                }
            }
        }
        for (user, row) in derived {
            let name = self.name_of(row.event).await?;
            self.findings.note(format!("the membership of {name} is not noted"));
            care::correct_member(&mut self.findings.tx, (user, room), row);
        }
        Ok(())
    }

    /// Whether a membership came without the room (an invitation, a knock and their end), later than what the
    /// room says; or with the members that were missing of a room, ahead of its becoming whole.
    async fn is_outside(
        &mut self,
        user: StateKeyNid,
        row: MemberRow,
        known: Option<MemberRow>,
    ) -> Result<bool, StorageError> {
        let facts = self.index.get(&row.event).map(|at| &self.facts[*at]);
        let is_outlier =
            facts.is_some_and(|event| event.flags & flags::OUTLIER != 0 && event.key == Some(user));
        // These were written when the members came, at whichever position.
        let is_same = known.is_some_and(|k| (k.membership, k.event) == (row.membership, row.event));
        if self.is_partial && is_outlier || self.whole_since > 0 && is_same {
            return Ok(true);
        }
        if !is_outlier || self.line.ours > 0 || known.is_some_and(|k| k.position >= row.position) {
            return Ok(false);
        }
        let event = self.rooms.events().load_one(self.room.facts(), row.event).await?;
        let membership = Membership::of_event(&event.event);
        Ok(membership.is_some_and(|m| membership_number(m) == row.membership))
    }

    /// Whom a membership event concerns.
    async fn name_of(&mut self, event: EventNid) -> Result<String, StorageError> {
        if !self.index.contains_key(&event) {
            return Ok("somebody".to_owned());
        }
        let event = self.rooms.events().load_one(self.room.facts(), event).await?;
        Ok(event.event.state_key().unwrap_or("somebody").to_owned())
    }
}
