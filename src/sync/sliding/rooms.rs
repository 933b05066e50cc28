//! The section `rooms`: which rooms in view have something to say, and what they all say.

use std::sync::Arc;

use super::{
    Answer, News, Result,
    lists::{RoomInView, Windows},
    sent_room::SentRoom,
};
use crate::{protocol::membership::Membership, rooms::write_json_string, storage::RoomNid};

/// What came of looking at a room.
pub(super) enum Outcome {
    /// The answer tells this of it.
    Told(SentRoom),
    /// There is nothing to say; this is known now.
    Silent(SentRoom),
    /// There is nothing that the client may know.
    Nothing,
}

impl Answer<'_> {
    /// Writes the section with a comma before it; false when no room has anything to say.
    pub(super) async fn write_rooms(
        &self,
        out: &mut String,
        windows: &Windows,
        news: &mut News,
    ) -> Result<bool> {
        self.preload(windows).await?;
        out.push_str(",\"rooms\":{");
        let mut has_rooms = false;
        for room in &windows.rooms {
            let sent = self.resumed.rooms.get(&room.place.room.nid);
            if sent.is_some_and(|sent| !self.may_have_news(room, sent)) {
                continue;
            }
            let start = out.len();
            if has_rooms {
                out.push(',');
            }
            write_json_string(out, room.place.room.room_id.as_str());
            out.push_str(":{");
            let nid = room.place.room.nid;
            match self.write_room(out, windows, room, sent).await? {
                Outcome::Told(sent) => {
                    out.push('}');
                    has_rooms = true;
                    news.tell(nid, sent);
                }
                Outcome::Silent(sent) => {
                    out.truncate(start);
                    news.note(nid, sent);
                }
                Outcome::Nothing => out.truncate(start),
            }
        }
        out.push('}');
        Ok(has_rooms)
    }

    async fn write_room(
        &self,
        out: &mut String,
        windows: &Windows,
        room: &RoomInView,
        sent: Option<&SentRoom>,
    ) -> Result<Outcome> {
        out.push_str("\"membership\":\"");
        out.push_str(room.place.membership.as_str());
        out.push('"');
        let names = windows.names_of(room);
        for (number, name) in names.iter().enumerate() {
            out.push_str(if number == 0 { ",\"lists\":[" } else { "," });
            write_json_string(out, name);
        }
        if !names.is_empty() {
            out.push(']');
        }
        match room.place.membership {
            Membership::Join => self.write_joined(out, room, sent).await,
            Membership::Invite | Membership::Knock => self.write_invited(out, room, sent).await,
            Membership::Leave | Membership::Ban => self.write_left(out, room, sent).await,
        }
    }

    /// False when it is certain that there is nothing to say of a room that the client knows.
    fn may_have_news(&self, view: &RoomInView, sent: &SentRoom) -> bool {
        let (place, room) = (&view.place, &view.place.room);
        if sent.membership != place.membership || place.position > sent.upto {
            return true;
        }
        if place.membership != Membership::Join {
            return false;
        }
        let head = room.head();
        !Arc::ptr_eq(&sent.config, &view.config)
            || head.latest_position > sent.upto
            || head.state.nid() != sent.state_nid
            || sent.is_dm != self.data.is_direct(room.room_id.as_str())
            || self.inner.counts.changed_at(&self.request.user_id, room) > sent.upto
    }

    /// Reads at once what a first answer would read room by room.
    async fn preload(&self, windows: &Windows) -> Result<()> {
        let unknown = |room: &&RoomInView| {
            room.place.is_joined() && !self.resumed.rooms.contains_key(&room.place.room.nid)
        };
        let rooms = windows.rooms.iter().filter(unknown);
        let nids: Vec<RoomNid> = rooms.map(|room| room.place.room.nid).collect();
        if nids.len() < 2 {
            return Ok(());
        }
        if self.request.body.extensions.receipts.as_ref().is_some_and(|one| one.is_enabled()) {
            self.inner.ephemeral.receipts.preload(&nids).await?;
        }
        self.inner.counts.preload(&nids).await
    }
}
