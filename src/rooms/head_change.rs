//! What a change of a room's current state changes beside it: memberships, counts, pinned events.

use std::sync::Arc;

use ruma::OwnedUserId;

use super::{
    attempt::{Attempt, AttemptError},
    event_store::StoredEvent,
    room::PINNED_KINDS,
    state::Difference,
    state_keys::MEMBER,
};
use crate::{
    protocol::membership::Membership,
    storage::{self, EventNid},
};

impl Attempt<'_> {
    /// Follows one change of the current state; `index` and `position` are those of the event that
    /// caused it.
    pub fn apply_difference(
        &mut self,
        difference: Difference,
        index: usize,
        position: u32,
    ) -> Result<(), AttemptError> {
        if difference.key.is_membership() {
            return self.change_membership(difference, index, position);
        }
        // Most state is not pinned; its events need not be at hand.
        let pinned_before = self.head.pinned.iter().any(|(key, _)| *key == difference.key);
        let new = match difference.new {
            Some(nid) => Some(self.find_event(nid)?),
            None => None,
        };
        let is_pinned = |event: &Arc<StoredEvent>| {
            event.event.state_key() == Some("") && PINNED_KINDS.contains(&event.event.kind())
        };
        if !pinned_before && !new.as_ref().is_some_and(is_pinned) {
            return Ok(());
        }
        let mut pinned = Vec::clone(&self.head.pinned);
        pinned.retain(|(known, _)| *known != difference.key);
        pinned.extend(new.map(|event| (difference.key, event)));
        self.head.pinned = Arc::new(pinned);
        self.summary_changed = true;
        Ok(())
    }

    fn change_membership(
        &mut self,
        difference: Difference,
        index: usize,
        position: u32,
    ) -> Result<(), AttemptError> {
        let find = |nid: Option<EventNid>| nid.map(|nid| self.find_event(nid)).transpose();
        let (old, new) = (find(difference.old)?, find(difference.new)?);
        let before = old.as_ref().and_then(|event| Membership::of_event(&event.event));
        let after = Membership::of_state(new.as_ref().map(|event| &*event.event));
        let Some(event) = new.or(old) else {
            return Ok(());
        };
        let counts = [
            (Membership::Join, &mut self.head.joined_count),
            (Membership::Invite, &mut self.head.invited_count),
        ];
        for (membership, count) in counts {
            *count += i64::from(after == membership) - i64::from(before == Some(membership));
        }
        let place = (difference.key, self.room_nid);
        let number = membership_number(after);
        storage::memberships::save(&mut self.tx, place, number, event.nid, position);
        debug_assert_eq!(event.event.kind(), MEMBER);
        if let Some(user) = event.event.state_key()
            && let Ok(user) = OwnedUserId::try_from(user)
        {
            if after == Membership::Join && before != Some(Membership::Join) {
                self.joined.push((user.clone(), index));
            }
            self.memberships.push((user, after, event, index));
        }
        Ok(())
    }
}

/// How the store counts memberships.
pub(super) fn membership_number(membership: Membership) -> i64 {
    match membership {
        Membership::Join => 1,
        Membership::Invite => 2,
        Membership::Knock => 3,
        Membership::Leave => 4,
        Membership::Ban => 5,
    }
}

/// The other way round.
pub(super) fn membership_of_number(number: i64) -> Membership {
    match number {
        1 => Membership::Join,
        2 => Membership::Invite,
        3 => Membership::Knock,
        5 => Membership::Ban,
        _ => Membership::Leave,
    }
}
