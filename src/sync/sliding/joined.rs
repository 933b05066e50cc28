//! A joined room (MSC4186, "Currently or previously joined rooms").

use std::sync::Arc;

use serde::Deserialize;

use super::{
    Answer, Result, lists::RoomInView, rooms::Outcome, sent_room::SentRoom, state::StateNews,
};
use crate::{
    protocol::membership::Membership,
    rooms::{StoredEvent, Viewer, write_json_string},
    sync::summary::find_heroes,
};

impl Answer<'_> {
    pub(super) async fn write_joined(
        &self,
        out: &mut String,
        view: &RoomInView,
        sent: Option<&SentRoom>,
    ) -> Result<Outcome> {
        let (place, config) = (&view.place, &view.config);
        let room = &place.room;
        let viewer = self.inner.rooms.viewer(room, &self.request.user_id).await?;
        let sent = match sent {
            Some(sent) if sent.membership != Membership::Join => None,
            Some(sent) if place.position > sent.upto && joined_anew(&viewer, sent.upto).await? => {
                None
            }
            sent => sent,
        };
        let limit = config.timeline_limit;
        let timeline = self.load_timeline(&viewer, sent, limit, self.end()).await?;
        let head = viewer.head();
        let news = self.find_state_news(&viewer, &head.state, sent, config, &timeline).await?;
        let counts = self.inner.counts.unread(&self.request.user_id, room).await?.split(false).0;
        let counts = (counts.notifications, counts.highlights);
        let is_dm = self.data.is_direct(room.room_id.as_str());
        let known = sent.or_else(|| self.resumed.rooms.get(&room.nid));
        let told = SentRoom {
            upto: self.upto,
            membership: Membership::Join,
            state_nid: head.state.nid(),
            config: Arc::clone(config),
            timeline_length: timeline.length,
            is_dm,
            counts,
            receipts_upto: known.map_or(0, |known| known.receipts_upto),
            account_data_upto: known.map_or(0, |known| known.account_data_upto),
            typing: known.map_or(0, |known| known.typing),
            members: Arc::clone(&news.sent_members),
        };
        let has_state = !news.required.is_empty() || news.name || news.avatar || news.members;
        let says_nothing = timeline.events.is_empty() && !timeline.limited && !has_state;
        if sent.is_some_and(|sent| says_nothing && sent.is_dm == is_dm && sent.counts == counts) {
            return Ok(Outcome::Silent(told));
        }
        if sent.is_none() {
            out.push_str(",\"initial\":true");
        }
        if sent.map_or(is_dm, |sent| sent.is_dm != is_dm) {
            out.push_str(if is_dm { ",\"is_dm\":true" } else { ",\"is_dm\":false" });
        }
        self.write_summary(out, &viewer, &news, sent.is_none()).await?;
        if !news.required.is_empty() {
            out.push_str(",\"required_state\":");
            self.write_events(out, &viewer, &news.required).await?;
        }
        if limit > 0 {
            self.write_timeline(out, &viewer, &timeline).await?;
        }
        let stamp = self.find_bump_stamp(room).await?;
        let (notifications, highlights) = counts;
        out.push_str(&format!(
            ",\"notification_count\":{notifications},\"highlight_count\":{highlights},\
             \"bump_stamp\":{stamp}"
        ));
        Ok(Outcome::Told(told))
    }

    /// Writes name, picture, heroes and the numbers of members, as far as they may have changed.
    async fn write_summary(
        &self,
        out: &mut String,
        viewer: &Viewer,
        news: &StateNews,
        is_initial: bool,
    ) -> Result<()> {
        let head = viewer.head();
        let traits = self.inner.traits.of(viewer.room(), head);
        let fields = [("name", news.name, &traits.name), ("avatar", news.avatar, &traits.avatar)];
        for (field, is_news, value) in fields {
            match value {
                _ if !is_news => {}
                Some(text) => {
                    out.push_str(&format!(",\"{field}\":"));
                    write_json_string(out, text);
                }
                None if is_initial => {}
                None => out.push_str(&format!(",\"{field}\":null")),
            }
        }
        if news.members {
            let (joined, invited) = (head.joined_count, head.invited_count);
            out.push_str(&format!(",\"joined_count\":{joined},\"invited_count\":{invited}"));
        }
        if traits.name.is_some() || !(news.members || news.name) {
            return Ok(());
        }
        let heroes = find_heroes(&self.inner.rooms, viewer, &self.request.user_id).await?;
        for (number, hero) in heroes.iter().enumerate() {
            out.push_str(if number == 0 { ",\"heroes\":[" } else { "," });
            write_hero(out, hero);
        }
        if !heroes.is_empty() {
            out.push(']');
        }
        Ok(())
    }
}

/// Whether the user was no member before the latest of their membership events above a stream
/// position; renaming oneself is no join.
async fn joined_anew(viewer: &Viewer, since: i64) -> Result<bool> {
    let mut current = viewer.member_event().cloned();
    while let Some(member) = current.filter(|member| member.position() > since) {
        let replaced = viewer.find_replaced(&member).await?;
        let before = Membership::of_state(replaced.as_ref().map(|event| &*event.event));
        if before != Membership::Join {
            return Ok(true);
        }
        current = replaced;
    }
    Ok(false)
}

fn write_hero(out: &mut String, hero: &StoredEvent) {
    #[derive(Default, Deserialize)]
    struct Profile {
        displayname: Option<String>,
        avatar_url: Option<String>,
    }
    let profile: Profile = hero.event.content_as().unwrap_or_default();
    out.push_str("{\"user_id\":");
    write_json_string(out, hero.event.state_key().unwrap_or_default());
    let fields = [("displayname", profile.displayname), ("avatar_url", profile.avatar_url)];
    for (field, value) in fields {
        if let Some(value) = value {
            out.push_str(&format!(",\"{field}\":"));
            write_json_string(out, &value);
        }
    }
    out.push('}');
}
