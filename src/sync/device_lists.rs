//! The section `device_lists`: whose keys have to be fetched again, and whose need no longer be kept
//! (client-server API, "Tracking the device list for a user").

use std::collections::BTreeSet;

use super::{Answer, JsonList, Result};
use crate::rooms::{UserRooms, write_json_string};

impl Answer<'_> {
    /// Writes the section, with a comma before it, if it is not empty. An initial sync has none.
    pub(super) async fn write_device_lists(
        &self,
        out: &mut String,
        rooms: &UserRooms,
    ) -> Result<()> {
        if self.since == 0 {
            return Ok(());
        }
        let range = (self.since, self.upto);
        let changes = self.parts.encryption.list_device_changes(rooms, range).await?;
        if changes.changed.is_empty() && changes.left.is_empty() {
            return Ok(());
        }
        out.push_str(",\"device_lists\":{\"changed\":");
        write_users(out, &changes.changed);
        out.push_str(",\"left\":");
        write_users(out, &changes.left);
        out.push('}');
        Ok(())
    }
}

fn write_users(out: &mut String, users: &BTreeSet<String>) {
    let mut list = JsonList::begin(out, "[");
    for user in users {
        list.next(out);
        write_json_string(out, user);
    }
    out.push(']');
}
