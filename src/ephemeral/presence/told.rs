//! What a sync tells of presence: who changed, and whom a user meets in a room that they enter.

use ruma::OwnedUserId;

use super::{Presence, PresenceState, PresenceStatus};
use crate::{
    ephemeral::push_json_text,
    rooms::UserRooms,
    storage::{RoomNid, StorageError},
};

/// Users looked at when somebody enters a room, those who changed last.
const MET_MAX: usize = 1_000;

impl Presence {
    /// Appends events `m.presence`, with commas between, of those whom the viewer may see and who
    /// changed after `since_epoch`; for an initial sync (0) of all who are not offline. Likewise of
    /// those who were in `entered` already, rooms that the viewer has joined since.
    pub async fn write_since(
        &self,
        out: &mut String,
        viewer: &UserRooms,
        since_epoch: u64,
        entered: &[RoomNid],
    ) -> Result<bool, StorageError> {
        let is_unchanged = self.0.volatile.epoch() <= since_epoch && entered.is_empty();
        if !self.0.settings.enabled || is_unchanged {
            return Ok(false);
        }
        let now_ms = self.0.clock().now_ms();
        let changed: Vec<(OwnedUserId, PresenceStatus)> = {
            let users = self.0.users.lock();
            let since = users.by_epoch.range(since_epoch + 1..);
            let changed = since.map(|(_, user)| (user, users.by_id[user].status(now_ms)));
            let is_worth =
                |status: &PresenceStatus| since_epoch > 0 || status.state != PresenceState::Offline;
            changed
                .filter(|(_, status)| is_worth(status))
                .map(|(user, status)| (user.clone(), status))
                .collect()
        };
        let met = self.list_met(since_epoch, entered).await?;
        let mut is_first = true;
        for (user, status) in changed.into_iter().chain(met) {
            if self.may_see(viewer, &user).await? {
                out.push_str(if is_first { "{\"content\":{" } else { ",{\"content\":{" });
                is_first = false;
                status.write_json(out);
                out.push_str("},\"sender\":");
                push_json_text(out, user.as_str());
                out.push_str(",\"type\":\"m.presence\"}");
            }
        }
        Ok(!is_first)
    }

    /// Those in certain rooms who are not offline and have not changed after `since_epoch`.
    async fn list_met(
        &self,
        since_epoch: u64,
        entered: &[RoomNid],
    ) -> Result<Vec<(OwnedUserId, PresenceStatus)>, StorageError> {
        if entered.is_empty() || since_epoch == 0 {
            return Ok(Vec::new());
        }
        let now_ms = self.0.clock().now_ms();
        let present: Vec<(OwnedUserId, PresenceStatus)> = {
            let users = self.0.users.lock();
            let before = users.by_epoch.range(..=since_epoch).rev();
            let before = before.map(|(_, user)| (user, users.by_id[user].status(now_ms)));
            let present = before.filter(|(_, status)| status.state != PresenceState::Offline);
            present.take(MET_MAX).map(|(user, status)| (user.clone(), status)).collect()
        };
        let mut met = Vec::new();
        for (user, status) in present {
            let theirs = self.0.rooms.rooms_of(&user).await?;
            let is_in = |nid: &RoomNid| theirs.find(*nid).is_some_and(|place| place.is_joined());
            if entered.iter().any(is_in) {
                met.push((user, status));
            }
        }
        Ok(met)
    }
}
