//! The section `rooms.leave`: what happened until the user left.

use std::sync::Arc;

use super::{
    Answer, Result, account_data::NewAccountData, room_state::StateRange, timeline::Timeline,
};
use crate::{
    protocol::membership::Membership,
    rooms::{StoredEvent, UserRoom, Viewer},
};

impl Answer<'_> {
    /// Writes one room; false when the client knows of it already or does not want it. Who begins anew hears of
    /// bans whatever the filter says of rooms that were left ("rooms that the user has left or been banned
    /// from"): they happen to people who do not know, and other servers tell of them as well.
    pub(super) async fn write_left(
        &self,
        out: &mut String,
        place: &UserRoom,
        data: &NewAccountData,
    ) -> Result<bool> {
        let is_wanted = match self.since {
            0 => self.request.filter.room.include_leave || place.membership == Membership::Ban,
            since => place.position > since,
        };
        if !is_wanted {
            return Ok(false);
        }
        let room = &place.room;
        let viewer = self.parts.rooms.viewer(room, &self.request.user_id).await?;
        let rooms = &self.parts.rooms;
        let told = rooms.events().load_one(room.facts(), place.event).await?;
        if !told.is_in_graph() {
            return self.write_ended(out, &viewer, &told).await;
        }
        let Some(member) = viewer.member_event() else {
            return Ok(false);
        };
        let (since, upto) = self.range();
        let upto = upto.min(member.ordering());
        let is_full = self.since == 0 || self.request.full_state;
        let after = if self.since == 0 { i64::MIN } else { since };
        let timeline = self.load_timeline(room, &viewer, (after, upto)).await?;
        out.push('{');
        let start = out.len();
        self.write_timeline(out, &viewer, &timeline).await?;
        // Who never was in the room learns nothing of its state.
        if viewer.was_joined().await? {
            let range = StateRange { is_full, since, upto, timeline: &timeline };
            self.write_state(out, &viewer, &range, &[]).await?;
        }
        self.write_room_account_data(out, room, data);
        out.remove(start);
        out.push('}');
        Ok(true)
    }

    /// Writes the end of an invitation or knock in a room that this server is not in: all that is known
    /// of the room is this event.
    async fn write_ended(
        &self,
        out: &mut String,
        viewer: &Viewer,
        member: &Arc<StoredEvent>,
    ) -> Result<bool> {
        out.push('{');
        let start = out.len();
        let begins_at = self.range().1;
        let timeline = Timeline { events: vec![Arc::clone(member)], limited: false, begins_at };
        self.write_timeline(out, viewer, &timeline).await?;
        out.remove(start);
        out.push('}');
        Ok(true)
    }
}
