//! The section `rooms.join`.

use futures_util::future::try_join_all;

use super::{Answer, JsonList, Result, account_data::NewAccountData, room_state::StateRange};
use crate::{
    protocol::membership::Membership,
    rooms::{UserRoom, UserRooms, Viewer, write_json_string},
};

/// Rooms that are read side by side, so that not each waits for the database alone.
const ROOMS_AT_ONCE: usize = 8;

impl Answer<'_> {
    /// Writes the section `rooms`, with a comma before it, if any room has something.
    pub(super) async fn write_rooms(
        &self,
        out: &mut String,
        rooms: &UserRooms,
        data: &NewAccountData,
    ) -> Result<()> {
        let start = out.len();
        let mut sections = JsonList::begin(out, ",\"rooms\":{");
        let places = self.changed_places(rooms, data);
        if self.since == 0 {
            self.preload(&places).await?;
        }
        for name in ["join", "invite", "knock", "leave"] {
            let before = out.len();
            sections.next(out);
            write_json_string(out, name);
            let mut list = JsonList::begin(out, ":{");
            let shown: Vec<&UserRoom> =
                places.iter().filter(|place| section_of(place.membership) == name).collect();
            for step in shown.chunks(ROOMS_AT_ONCE) {
                let texts = step.iter().map(|place| self.write_apart(place, data));
                let texts = try_join_all(texts).await?;
                for (place, text) in step.iter().zip(texts) {
                    if let Some(text) = text {
                        list.next(out);
                        write_json_string(out, place.room.room_id.as_str());
                        out.push(':');
                        out.push_str(&text);
                    }
                }
            }
            match list.is_empty {
                true => {
                    out.truncate(before);
                    sections.is_empty = out.ends_with('{');
                }
                false => out.push('}'),
            }
        }
        match sections.is_empty {
            true => out.truncate(start),
            false => out.push('}'),
        }
        Ok(())
    }

    /// Reads at once what an initial sync would read room by room.
    async fn preload(&self, places: &[UserRoom]) -> Result<()> {
        let joined = places.iter().filter(|place| place.is_joined());
        let nids: Vec<_> = joined.map(|place| place.room.nid).collect();
        self.parts.ephemeral.receipts.preload(&nids).await?;
        self.parts.counts.preload(&nids).await
    }

    /// The rooms in which anything may have happened, by room ID.
    fn changed_places(&self, rooms: &UserRooms, data: &NewAccountData) -> Vec<UserRoom> {
        let filter = &self.request.filter.room;
        let full = self.since == 0 || self.request.full_state;
        let volatile = self.request.since.map_or(0, |token| token.volatile);
        let mut places = Vec::new();
        rooms.for_each(|place| {
            let room = &place.room;
            let may_have_news = full
                || place.position > self.since
                || place.membership == Membership::Join
                    && (room.activity() > self.since
                        || self.parts.ephemeral.room_epoch(room) > volatile
                        || rooms.activity() > self.since)
                || data.has_room(room)
                || self.sticky.has_room(room.nid);
            // Other devices hear that the user has left, even if the room was forgotten at once.
            let is_told = !place.forgotten || self.since > 0 && place.position > self.since;
            if may_have_news && is_told && filter.takes_room(&room.room_id) {
                places.push(place.clone());
            }
        });
        places.sort_by(|one, two| one.room.room_id.cmp(&two.room.room_id));
        places
    }

    /// What there is to say of one room.
    async fn write_apart(&self, place: &UserRoom, data: &NewAccountData) -> Result<Option<String>> {
        let mut text = String::new();
        let has_news = self.write_place(&mut text, place, data).await?;
        Ok(has_news.then_some(text))
    }

    /// Writes one room; false when there is nothing to say.
    async fn write_place(
        &self,
        out: &mut String,
        place: &UserRoom,
        data: &NewAccountData,
    ) -> Result<bool> {
        match place.membership {
            Membership::Join => self.write_joined(out, place, data).await,
            Membership::Invite | Membership::Knock => self.write_invited(out, place).await,
            Membership::Leave | Membership::Ban => self.write_left(out, place, data).await,
        }
    }

    async fn write_joined(
        &self,
        out: &mut String,
        place: &UserRoom,
        data: &NewAccountData,
    ) -> Result<bool> {
        let room = &place.room;
        let viewer = self.parts.rooms.viewer(room, &self.request.user_id).await?;
        // Whoever wants all members gets the room when they are known (MSC3902, `/sync`).
        let is_lazy = self.request.filter.room.state.lazy_load_members;
        if !is_lazy && viewer.head().partial().is_some() {
            return Ok(false);
        }
        let is_new = self.since == 0
            || !is_lazy && room.completed_position() > self.since
            || place.position > self.since && self.is_newly_joined(&viewer).await?;
        let is_full = is_new || self.request.full_state;
        let (since, upto) = self.range();
        let after = if is_new { i64::MIN } else { since };
        let mut timeline = self.load_timeline(room, &viewer, (after, upto)).await?;
        // Who newly joins has history to page into, even if all of it was shown.
        timeline.limited |= is_new && self.since > 0;

        out.push('{');
        let start = out.len();
        if !timeline.events.is_empty() || timeline.limited || is_full {
            self.write_timeline(out, &viewer, &timeline).await?;
        }
        let range = StateRange { is_full, since, upto, timeline: &timeline };
        let heroes = self.write_summary(out, &viewer, &range).await?;
        self.write_state(out, &viewer, &range, &heroes).await?;
        self.write_sticky(out, &viewer, is_new && self.since > 0, &timeline).await?;
        self.write_ephemeral(out, place, (is_new, is_full)).await?;
        self.write_room_account_data(out, room, data);
        let is_empty = out.len() == start;
        if !is_empty || self.counts_may_have_changed(place) {
            self.write_counts(out, place, is_empty && !is_full).await?;
        }
        if out.len() == start {
            return Ok(false);
        }
        // Every section began with a comma.
        out.remove(start);
        out.push('}');
        Ok(true)
    }

    /// Whether the user was no member before the latest of their membership events; renaming
    /// oneself is no join.
    async fn is_newly_joined(&self, viewer: &Viewer) -> Result<bool> {
        let mut current = viewer.member_event().cloned();
        while let Some(member) = current.filter(|member| member.position() > self.since) {
            let replaced = viewer.find_replaced(&member).await?;
            let before = Membership::of_state(replaced.as_ref().map(|event| &*event.event));
            if before != Membership::Join {
                return Ok(true);
            }
            current = replaced;
        }
        Ok(false)
    }

    /// Writes what passes; where all of a room is told, also that nothing does.
    async fn write_ephemeral(
        &self,
        out: &mut String,
        place: &UserRoom,
        (is_new, is_full): (bool, bool),
    ) -> Result<()> {
        let filter = &self.request.filter.room.ephemeral;
        if !filter.takes_room(&place.room.room_id) {
            return Ok(());
        }
        let start = out.len();
        let mut list = JsonList::begin(out, ",\"ephemeral\":{\"events\":[");
        let ephemeral = &self.parts.ephemeral;
        let volatile = self.request.since.map_or(0, |token| token.volatile);
        let mut event = String::new();
        if filter.events.takes_type("m.typing")
            && ephemeral.write_typing_since(
                &mut event,
                &place.room,
                if is_new { 0 } else { volatile },
            )
        {
            list.next(out);
            out.push_str(&event);
        }
        event.clear();
        let range = (if is_new { 0 } else { self.since }, self.upto);
        let user = &self.request.user_id;
        if filter.events.takes_type("m.receipt")
            && ephemeral.write_receipts_since(&mut event, &place.room, user, range).await?
        {
            list.next(out);
            out.push_str(&event);
        }
        match list.is_empty && !is_full {
            true => out.truncate(start),
            false => out.push_str("]}"),
        }
        Ok(())
    }

    /// Own receipts and marks change counts without leaving anything else to say.
    fn counts_may_have_changed(&self, place: &UserRoom) -> bool {
        self.parts.counts.changed_at(&self.request.user_id, &place.room) > self.since
    }

    async fn write_counts(&self, out: &mut String, place: &UserRoom, _alone: bool) -> Result<()> {
        let by_thread = self.request.filter.room.timeline.unread_thread_notifications;
        let counts = self.parts.counts.unread(&self.request.user_id, &place.room).await?;
        let (total, threads) = counts.split(by_thread);
        out.push_str(",\"unread_notifications\":");
        total.write_json(out);
        if threads.is_empty() {
            return Ok(());
        }
        let mut list = JsonList::begin(out, ",\"unread_thread_notifications\":{");
        for (root, counts) in threads {
            list.next(out);
            write_json_string(out, root.as_str());
            out.push(':');
            counts.write_json(out);
        }
        out.push('}');
        Ok(())
    }
}

fn section_of(membership: Membership) -> &'static str {
    match membership {
        Membership::Join => "join",
        Membership::Invite => "invite",
        Membership::Knock => "knock",
        Membership::Leave | Membership::Ban => "leave",
    }
}
