//! The media that events of a room name in the open. Not for encrypted events, which tell nobody.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{registry::Rooms, room::Room};
use crate::storage::{StorageError, events};

/// Events that are read at once.
const STEP: usize = 1000;

impl Rooms {
    /// The addresses (`mxc://…`) of files, pictures and their small versions in all events of a room that a
    /// timeline shows, each once.
    pub async fn list_named_media(&self, room: &Room) -> Result<BTreeSet<String>, StorageError> {
        let (mut found, mut after) = (BTreeSet::new(), i64::MIN);
        loop {
            let step = events::list_naming_media(self.database(), room.nid, after, STEP).await?;
            let Some((last, _)) = step.last() else { return Ok(found) };
            after = *last;
            for (_, json) in &step {
                let event: Value = serde_json::from_str(json).unwrap_or_default();
                let content = &event["content"];
                let named = [&content["url"], &content["info"]["thumbnail_url"]];
                let named = named.into_iter().filter_map(Value::as_str);
                found.extend(named.filter(|url| url.starts_with("mxc://")).map(str::to_owned));
            }
        }
    }
}
