//! The extensions for encryption: messages to the device (MSC3885), and whose devices changed and
//! how many keys are left (MSC3884).

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use super::{Answer, News, Result, request::ToDevice};
use crate::{
    encryption::TO_DEVICE_PAGE_MAX,
    rooms::{UserRooms, write_json_string},
};

impl Answer<'_> {
    /// Writes the messages that the device has not seen, with a comma before them; those that it
    /// has are deleted. False when there are none.
    pub(super) async fn write_messages(&self, out: &mut String, wish: &ToDevice) -> Result<bool> {
        let limit = wish.limit.and_then(|limit| usize::try_from(limit).ok());
        let limit = limit.unwrap_or(TO_DEVICE_PAGE_MAX).clamp(1, TO_DEVICE_PAGE_MAX);
        let (user, device) = (&self.request.user_id, &self.request.device_id);
        // A token of a future that is gone, since a backup was restored, says nothing of what waits now.
        let seen = wish.seen_upto().filter(|seen| *seen <= self.upto).unwrap_or(0);
        let range = (seen, self.upto);
        let messages = self.inner.encryption.list_messages(user, device, range, limit).await?;
        out.push_str(",\"to_device\":{\"next_batch\":\"");
        out.push_str(&messages.upto.to_string());
        out.push_str("\",\"events\":[");
        out.push_str(&messages.events.join(","));
        out.push_str("]}");
        Ok(!messages.events.is_empty())
    }

    /// Writes whose devices changed and how many keys are left, with a comma before it; false when
    /// the client knows all of it.
    pub(super) async fn write_devices(
        &self,
        out: &mut String,
        rooms: &UserRooms,
        news: &mut News,
    ) -> Result<bool> {
        let encryption = &self.inner.encryption;
        let (user, device) = (&self.request.user_id, &self.request.device_id);
        let mut keys = String::new();
        encryption.count_keys(user, device).await?.write_json(&mut keys);
        out.push_str(",\"e2ee\":{");
        // It begins with a comma.
        out.push_str(&keys[1..]);
        let mut hasher = DefaultHasher::new();
        keys.hash(&mut hasher);
        let keys_hash = hasher.finish();
        let since = news.told.device_lists_upto;
        // A new connection begins with all lists fetched anew.
        let mut has_news = since == 0 || news.told.keys_hash != keys_hash;
        if since > 0 {
            let range = (since, self.upto);
            let changes = encryption.list_device_changes(rooms, range).await?;
            if !changes.changed.is_empty() || !changes.left.is_empty() {
                out.push_str(",\"device_lists\":{\"changed\":");
                write_users(out, &changes.changed);
                out.push_str(",\"left\":");
                write_users(out, &changes.left);
                out.push('}');
                has_news = true;
            }
        }
        out.push('}');
        news.told.device_lists_upto = self.upto;
        news.told.keys_hash = keys_hash;
        Ok(has_news)
    }
}

fn write_users(out: &mut String, users: &BTreeSet<String>) {
    out.push('[');
    for (number, user) in users.iter().enumerate() {
        out.push_str(if number == 0 { "" } else { "," });
        write_json_string(out, user);
    }
    out.push(']');
}
