//! The sections `account_data`: the user's own, and per room.

use std::collections::HashMap;

use super::{Answer, JsonList, Result};
use crate::rooms::{Room, UserRooms, write_json_string};

/// Account data that the client has not seen, by room; `None` stands for the user's own.
pub(super) struct NewAccountData {
    own: Vec<(String, String)>,
    by_room: HashMap<String, Vec<(String, String)>>,
}

impl NewAccountData {
    /// Whether there is something for the room.
    pub fn has_room(&self, room: &Room) -> bool {
        self.by_room.contains_key(room.room_id.as_str())
    }
}

impl Answer<'_> {
    pub(super) async fn load_account_data(&self, rooms: &UserRooms) -> Result<NewAccountData> {
        let mut data = NewAccountData { own: Vec::new(), by_room: HashMap::new() };
        if self.since > 0 && rooms.activity() <= self.since {
            return Ok(data);
        }
        let range = (self.since, self.upto);
        for row in self.parts.accounts.list_data(&self.request.user_id, range).await? {
            let entry = (row.kind, row.content);
            match row.room_id.is_empty() {
                true => data.own.push(entry),
                false => data.by_room.entry(row.room_id).or_default().push(entry),
            }
        }
        Ok(data)
    }

    pub(super) fn write_account_data(&self, out: &mut String, data: &NewAccountData) {
        let filter = &self.request.filter.account_data;
        let passes = |(kind, _): &&(String, String)| filter.takes_type(kind);
        write_section(out, data.own.iter().filter(passes));
    }

    pub(super) fn write_room_account_data(
        &self,
        out: &mut String,
        room: &Room,
        data: &NewAccountData,
    ) {
        let filter = &self.request.filter.room.account_data;
        if let Some(entries) = data.by_room.get(room.room_id.as_str())
            && filter.takes_room(&room.room_id)
        {
            write_section(out, entries.iter().filter(|(kind, _)| filter.events.takes_type(kind)));
        } else if self.since == 0 {
            // Clients that begin anew look for the section even where nothing is in it.
            out.push_str(",\"account_data\":{\"events\":[]}");
        }
    }
}

fn write_section<'e>(out: &mut String, entries: impl Iterator<Item = &'e (String, String)>) {
    let start = out.len();
    let mut list = JsonList::begin(out, ",\"account_data\":{\"events\":[");
    for (kind, content) in entries {
        list.next(out);
        out.push_str("{\"type\":");
        write_json_string(out, kind);
        out.push_str(",\"content\":");
        out.push_str(content);
        out.push('}');
    }
    match list.is_empty {
        true => out.truncate(start),
        false => out.push_str("]}"),
    }
}
