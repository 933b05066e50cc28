//! The sections `rooms.invite` and `rooms.knock`: what a room shows to those not yet in it.

use super::{Answer, JsonList, Result};
use crate::{
    protocol::membership::Membership,
    rooms::{MEMBER, Rooms, StoredEvent, UserRoom, write_stripped_event},
};

/// State that strangers are shown (client-server API, "Stripped state").
const STRIPPED_KINDS: [&str; 8] = [
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.history_visibility",
];

impl Answer<'_> {
    /// Writes one room; false when the client knows of it already.
    pub(super) async fn write_invited(&self, out: &mut String, place: &UserRoom) -> Result<bool> {
        if self.since > 0 && place.position <= self.since && !self.request.full_state {
            return Ok(false);
        }
        let (rooms, room) = (&self.parts.rooms, &place.room);
        let member = rooms.events().load_one(room.facts(), place.event).await?;
        let user = &self.request.user_id;
        if place.membership == Membership::Invite
            && self.parts.accounts.hides_invite(user, member.event.sender()).await?
        {
            return Ok(false);
        }
        let name = match place.membership {
            Membership::Knock => "{\"knock_state\":{\"events\":[",
            _ => "{\"invite_state\":{\"events\":[",
        };
        out.push_str(name);
        write_stripped_state(rooms, out, place, &member).await?;
        out.push_str("]}}");
        Ok(true)
    }
}

/// Appends what a room shows to the user whom `member` invites or lets knock, with commas between.
pub(super) async fn write_stripped_state(
    rooms: &Rooms,
    out: &mut String,
    place: &UserRoom,
    member: &StoredEvent,
) -> Result<()> {
    let room = &place.room;
    let head = room.head();
    let mut list = JsonList::begin(out, "");
    if let Some(stripped) = rooms.find_stripped_state(member).await? {
        for event in stripped {
            list.next(out);
            out.push_str(&event);
        }
    } else {
        for event in STRIPPED_KINDS.iter().filter_map(|kind| head.find_pinned(kind)) {
            list.next(out);
            write_stripped_event(out, event);
        }
        let sender = member.event.sender().as_str();
        if member.event.state_key() != Some(sender)
            && let Some(inviter) = rooms.find_state_event(room, MEMBER, sender).await?
        {
            list.next(out);
            write_stripped_event(out, &inviter);
        }
    }
    list.next(out);
    write_stripped_event(out, member);
    Ok(())
}
