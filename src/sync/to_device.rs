//! The section `to_device`, and how many one-time keys the device has left (client-server API,
//! "Send-to-Device messaging", "End-to-End Encryption").

use super::{Answer, JsonList, Result};
use crate::encryption::{TO_DEVICE_PAGE_MAX, WaitingMessages};

impl Answer<'_> {
    /// The messages that the device has not seen; those that it has are deleted.
    pub(super) async fn load_messages(&self) -> Result<WaitingMessages> {
        let since = self.request.since.map_or(0, |token| token.to_device);
        let (user, device) = (&self.request.user_id, &self.request.device_id);
        let range = (since, self.upto);
        self.parts.encryption.list_messages(user, device, range, TO_DEVICE_PAGE_MAX).await
    }

    /// Writes the section, with a comma before it, if there are messages.
    pub(super) fn write_messages(&self, out: &mut String, messages: &WaitingMessages) {
        if messages.events.is_empty() {
            return;
        }
        let mut list = JsonList::begin(out, ",\"to_device\":{\"events\":[");
        for event in &messages.events {
            list.next(out);
            out.push_str(event);
        }
        out.push_str("]}");
    }

    /// Writes `device_one_time_keys_count` and `device_unused_fallback_key_types`, which are in every
    /// answer.
    pub(super) async fn write_key_counts(&self, out: &mut String) -> Result<()> {
        let (user, device) = (&self.request.user_id, &self.request.device_id);
        self.parts.encryption.count_keys(user, device).await?.write_json(out);
        Ok(())
    }

    /// Whether the counts are news: keys of the device were claimed.
    pub(super) async fn has_fewer_keys(&self) -> Result<bool> {
        let (user, device) = (&self.request.user_id, &self.request.device_id);
        let range = (self.since, self.upto);
        self.parts.encryption.were_keys_claimed(user, device, range).await
    }
}
