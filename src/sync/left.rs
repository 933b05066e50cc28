//! The section `rooms.leave`: what happened until the user left.

use super::{Answer, Result, account_data::NewAccountData, room_state::StateRange};
use crate::rooms::UserRoom;

impl Answer<'_> {
    /// Writes one room; false when the client knows of it already or does not want it.
    pub(super) async fn write_left(
        &self,
        out: &mut String,
        place: &UserRoom,
        data: &NewAccountData,
    ) -> Result<bool> {
        let is_wanted = match self.since {
            0 => self.request.filter.room.include_leave,
            since => place.position > since,
        };
        if !is_wanted {
            return Ok(false);
        }
        let room = &place.room;
        let viewer = self.parts.rooms.viewer(room, &self.request.user_id).await?;
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
}
