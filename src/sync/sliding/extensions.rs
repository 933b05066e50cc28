//! The section `extensions`: what is not of rooms alone (MSC3959, MSC3960, MSC3961, MSC4480,
//! MSC4508).

use super::{
    Answer, News, Result,
    lists::{RoomInView, Windows},
    request::RoomExtension,
    sent_room::SentRoom,
    user_data::Pieces,
};
use crate::{
    rooms::{UserRooms, write_json_string},
    storage::RoomNid,
};

/// An object in JSON, written only when something is in it.
struct Section {
    start: usize,
    inner: usize,
}

impl Section {
    fn begin(out: &mut String, opening: &str) -> Self {
        let start = out.len();
        out.push_str(opening);
        Self { start, inner: out.len() }
    }

    fn next(&self, out: &mut String) {
        if out.len() > self.inner {
            out.push(',');
        }
    }

    /// False, and nothing is left of it, when it is empty.
    fn end(self, out: &mut String, closing: &str) -> bool {
        let is_empty = out.len() == self.inner;
        match is_empty {
            true => out.truncate(self.start),
            false => out.push_str(closing),
        }
        !is_empty
    }
}

impl Answer<'_> {
    /// Writes the section with a comma before it; false when there is nothing in it.
    pub(super) async fn write_extensions(
        &self,
        out: &mut String,
        rooms: &UserRooms,
        windows: &Windows,
        news: &mut News,
    ) -> Result<bool> {
        let extensions = &self.request.body.extensions;
        out.push_str(",\"extensions\":{");
        let start = out.len();
        if let Some(wish) = enabled(&extensions.account_data) {
            self.write_account_data(out, windows, wish, news);
        }
        if let Some(wish) = enabled(&extensions.receipts) {
            self.write_receipts(out, windows, wish, news).await?;
        }
        if let Some(wish) = enabled(&extensions.typing) {
            self.write_typing(out, windows, wish, news);
        }
        if let Some(wish) = extensions.thread_subscriptions.filter(|one| one.enabled == Some(true))
        {
            self.write_thread_subscriptions(out, rooms, wish, news).await?;
        }
        if let Some(wish) =
            extensions.sticky_events.as_ref().filter(|one| one.enabled == Some(true))
        {
            self.write_sticky(out, rooms, (windows, wish), news).await?;
        }
        let mut has_some = out.len() > start;
        // These are there even when they say nothing.
        if let Some(wish) = extensions.to_device.as_ref().filter(|one| one.enabled == Some(true)) {
            has_some |= self.write_messages(out, wish).await?;
        }
        if extensions.e2ee.is_some_and(|one| one.enabled == Some(true)) {
            has_some |= self.write_devices(out, rooms, news).await?;
        }
        // Each began with a comma.
        if out.len() > start {
            out.remove(start);
        }
        out.push('}');
        Ok(has_some)
    }

    fn write_account_data(
        &self,
        out: &mut String,
        windows: &Windows,
        wish: &RoomExtension,
        news: &mut News,
    ) {
        let (mut own, mut by_room) = (String::new(), String::new());
        if write_pieces(&mut own, &self.data.own, news.told.account_data_upto) {
            news.told.account_data_upto = self.upto;
        }
        for (room, sent) in self.followed(windows, wish, news) {
            let room_id = room.place.room.room_id.as_str();
            let Some(pieces) = self.data.by_room.get(room_id) else { continue };
            let mut list = String::new();
            if !write_pieces(&mut list, pieces, sent.account_data_upto) {
                continue;
            }
            by_room.push_str(if by_room.is_empty() { "" } else { "," });
            write_json_string(&mut by_room, room_id);
            by_room.push_str(":[");
            by_room.push_str(&list);
            by_room.push(']');
            news.tell(room.place.room.nid, SentRoom { account_data_upto: self.upto, ..sent });
        }
        if own.is_empty() && by_room.is_empty() {
            return;
        }
        out.push_str(",\"account_data\":{\"global\":[");
        out.push_str(&own);
        out.push_str("],\"rooms\":{");
        out.push_str(&by_room);
        out.push_str("}}");
    }

    async fn write_receipts(
        &self,
        out: &mut String,
        windows: &Windows,
        wish: &RoomExtension,
        news: &mut News,
    ) -> Result<()> {
        let section = Section::begin(out, ",\"receipts\":{\"rooms\":{");
        let (user, ephemeral) = (&self.request.user_id, &self.inner.ephemeral);
        let own_activity = self.inner.rooms.rooms_of(user).await?.activity();
        for (view, sent) in self.followed(windows, wish, news) {
            let room = &view.place.room;
            let since = sent.receipts_upto;
            if !view.place.is_joined() || since > 0 && room.activity().max(own_activity) <= since {
                continue;
            }
            let start = out.len();
            section.next(out);
            write_json_string(out, room.room_id.as_str());
            out.push(':');
            let range = (since, self.upto);
            // Of those who read something that the client was not sent it need not know.
            let begins_at = self.timelines.lock().get(&room.nid).copied();
            let begins_at = begins_at.filter(|_| since == 0).unwrap_or(i64::MIN);
            let told = SentRoom { receipts_upto: self.upto, ..sent };
            let receipts = &ephemeral.receipts;
            match receipts.write_from(out, room, user, range, begins_at).await? {
                true => news.tell(room.nid, told),
                false => {
                    out.truncate(start);
                    news.note(room.nid, told);
                }
            }
        }
        section.end(out, "}}");
        Ok(())
    }

    fn write_typing(
        &self,
        out: &mut String,
        windows: &Windows,
        wish: &RoomExtension,
        news: &mut News,
    ) {
        // Nobody began or ceased to type since the last answer, unless rooms came into view.
        if self.before.is_some_and(|before| before.volatile >= self.volatile)
            && news.rooms.is_empty()
        {
            return;
        }
        let section = Section::begin(out, ",\"typing\":{\"rooms\":{");
        for (view, sent) in self.followed(windows, wish, news) {
            let room = &view.place.room;
            let epoch = self.inner.ephemeral.room_epoch(room);
            if !view.place.is_joined() || epoch <= sent.typing {
                continue;
            }
            let start = out.len();
            section.next(out);
            write_json_string(out, room.room_id.as_str());
            out.push(':');
            match self.inner.ephemeral.write_typing_since(out, room, sent.typing) {
                true => news.tell(room.nid, SentRoom { typing: epoch, ..sent }),
                false => out.truncate(start),
            }
        }
        section.end(out, "}}");
    }

    /// The rooms that an extension follows and the client knows, with what it knows of them.
    fn followed<'w>(
        &self,
        windows: &'w Windows,
        wish: &RoomExtension,
        news: &News,
    ) -> Vec<(&'w RoomInView, SentRoom)> {
        let mut followed = Vec::new();
        for room in &windows.rooms {
            let (nid, room_id): (RoomNid, _) = (room.place.room.nid, &room.place.room.room_id);
            let names = windows.names_of(room);
            if wish.follows(room_id.as_str(), &names, room.is_subscribed)
                && let Some(sent) = news.find(self.resumed, nid)
            {
                followed.push((room, sent));
            }
        }
        followed
    }
}

fn enabled(wish: &Option<RoomExtension>) -> Option<&RoomExtension> {
    wish.as_ref().filter(|wish| wish.is_enabled())
}

/// Writes what changed behind `since`, with commas between; false when nothing did.
fn write_pieces(out: &mut String, pieces: &Pieces, since: i64) -> bool {
    for (kind, content) in pieces.list_since(since) {
        out.push_str(if out.is_empty() { "{\"type\":" } else { ",{\"type\":" });
        write_json_string(out, kind);
        out.push_str(",\"content\":");
        out.push_str(content);
        out.push('}');
    }
    !out.is_empty()
}
