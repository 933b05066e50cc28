//! How often a user has entered rooms and invited others of late, for administrators who look for spam. Reads
//! all events of the user's rooms that are about members: not for what happens often.

use ruma::UserId;

use super::{registry::Rooms, state_keys::MEMBER};
use crate::{
    protocol::membership::Membership,
    storage::{StorageError, events},
};

/// Events that are read at once.
const STEP: usize = 1000;

impl Rooms {
    /// The rooms that a user has entered since a time (milliseconds since the Unix epoch), also if they have
    /// left them.
    pub async fn count_rooms_joined_since(
        &self,
        user: &UserId,
        from_ts: i64,
    ) -> Result<usize, StorageError> {
        let mut count = 0;
        for place in self.rooms_of(user).await?.list() {
            let mut current = self.find_member(&place.room, user).await?;
            while let Some(member) = current {
                // Changes of a name are no entries: the first one of several joins is.
                let before = match member.replaces_nid {
                    Some(nid) => Some(self.events().load_one(place.room.facts(), nid).await?),
                    None => None,
                };
                let joins = Membership::of_event(&member.event) == Some(Membership::Join);
                let was_in = before.as_ref().is_some_and(|before| {
                    Membership::of_event(&before.event) == Some(Membership::Join)
                });
                if joins && !was_in && member.event.origin_server_ts() >= from_ts {
                    count += 1;
                    break;
                }
                current = before;
            }
        }
        Ok(count)
    }

    /// The invitations that a user has sent since a time (milliseconds since the Unix epoch).
    pub async fn count_invites_since(
        &self,
        user: &UserId,
        from_ts: i64,
    ) -> Result<usize, StorageError> {
        let mut count = 0;
        for place in self.rooms_of(user).await?.list() {
            let mut after = i64::MIN;
            loop {
                let range = (after, from_ts);
                let database = self.database();
                let step =
                    events::list_members_since(database, place.room.nid, range, STEP).await?;
                let Some((last, _)) = step.last() else { break };
                after = *last;
                let nids: Vec<_> = step.iter().map(|(_, nid)| *nid).collect();
                for event in self.events().load(place.room.facts(), &nids).await? {
                    let is_invite = event.event.kind() == MEMBER
                        && Membership::of_event(&event.event) == Some(Membership::Invite);
                    count += usize::from(is_invite && event.event.sender() == user);
                }
            }
        }
        Ok(count)
    }
}
