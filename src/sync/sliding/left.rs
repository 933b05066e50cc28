//! Rooms that the user is not in: invited to, knocked on, left, removed or banned from (MSC4186,
//! "Invite/knock/rejections").

use std::sync::Arc;

use super::{Answer, Result, lists::RoomInView, rooms::Outcome, sent_room::SentRoom};
use crate::{
    protocol::membership::Membership,
    rooms::{MEMBER, Viewer},
    storage::StateNid,
    sync::invited::write_stripped_state,
};

impl Answer<'_> {
    /// What an invitation or a knock shows of the room.
    pub(super) async fn write_invited(
        &self,
        out: &mut String,
        view: &RoomInView,
        sent: Option<&SentRoom>,
    ) -> Result<Outcome> {
        let place = &view.place;
        let known = sent.filter(|sent| sent.membership == place.membership);
        if let Some(known) = known.filter(|known| known.upto >= place.position) {
            return Ok(Outcome::Silent(known.clone()));
        }
        let room = &place.room;
        let rooms = &self.inner.rooms;
        let member = rooms.events().load_one(room.facts(), place.event).await?;
        let is_dm = self.data.is_direct(room.room_id.as_str());
        out.push_str(",\"initial\":true");
        let says_direct = || {
            let content = member.event.content_as::<serde_json::Value>().ok()?;
            content.get("is_direct")?.as_bool()
        };
        if is_dm || says_direct() == Some(true) {
            out.push_str(",\"is_dm\":true");
        }
        // Clients look here for knocks as well.
        out.push_str(",\"invite_state\":[");
        write_stripped_state(rooms, out, place, &member).await?;
        out.push_str(&format!("],\"bump_stamp\":{}", place.position));
        Ok(Outcome::Told(self.note_outside(view, sent, is_dm)))
    }

    /// What happened until the user left. Those who never were in the room learn that they were
    /// turned down.
    pub(super) async fn write_left(
        &self,
        out: &mut String,
        view: &RoomInView,
        sent: Option<&SentRoom>,
    ) -> Result<Outcome> {
        let (place, config) = (&view.place, &view.config);
        let is_outside =
            |sent: &&SentRoom| matches!(sent.membership, Membership::Leave | Membership::Ban);
        if let Some(known) = sent.filter(is_outside).filter(|sent| sent.upto >= place.position) {
            return Ok(Outcome::Silent(known.clone()));
        }
        let viewer = self.inner.rooms.viewer(&place.room, &self.request.user_id).await?;
        let Some(member) = viewer.member_event().cloned() else {
            return Ok(Outcome::Nothing);
        };
        let told = self.note_outside(view, sent, sent.is_some_and(|sent| sent.is_dm));
        let told_joined = sent.filter(|sent| sent.membership == Membership::Join);
        if told_joined.is_none() {
            out.push_str(",\"initial\":true");
        }
        let upto = self.end().min(member.ordering());
        let limit = config.timeline_limit;
        let timeline = self.load_timeline(&viewer, told_joined, limit, upto).await?;
        let mut required = Vec::new();
        if self.was_in_room(&viewer).await? {
            let state = self.inner.rooms.load_state(member.state_nid).await?;
            let news =
                self.find_state_news(&viewer, &state, told_joined, config, &timeline).await?;
            required = news.required;
        }
        required.retain(|event| event.state_key_nid != member.state_key_nid);
        required.push(Arc::clone(&member));
        out.push_str(",\"required_state\":");
        self.write_events(out, &viewer, &required).await?;
        if limit > 0 {
            self.write_timeline(out, &viewer, &timeline).await?;
        }
        out.push_str(&format!(",\"bump_stamp\":{}", place.position));
        Ok(Outcome::Told(told))
    }

    /// Whether the user ever was a member.
    async fn was_in_room(&self, viewer: &Viewer) -> Result<bool> {
        debug_assert!(viewer.member_event().is_none_or(|member| member.event.kind() == MEMBER));
        viewer.was_joined().await
    }

    fn note_outside(&self, view: &RoomInView, sent: Option<&SentRoom>, is_dm: bool) -> SentRoom {
        SentRoom {
            upto: self.upto,
            membership: view.place.membership,
            state_nid: StateNid::EMPTY,
            config: Arc::clone(&view.config),
            timeline_length: 0,
            is_dm,
            counts: (0, 0),
            receipts_upto: sent.map_or(0, |sent| sent.receipts_upto),
            account_data_upto: sent.map_or(0, |sent| sent.account_data_upto),
            typing: 0,
            members: Arc::default(),
        }
    }
}
