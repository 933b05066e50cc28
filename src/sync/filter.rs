//! The filter of a whole sync (client-server API, "Filtering", schema `Filter`).

use std::sync::Arc;

use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};

use super::Sync;
use crate::{
    rooms::{EventFilter, RoomEventFilter, takes_room},
    storage::StorageError,
};

/// Uploaded filters in memory; a parsed one takes half a KiB, rarely more.
const FILTERS_MAX: usize = 2_000;

/// Uploaded filters, parsed. A filter never changes under its ID, so none is ever outdated.
pub(super) struct KnownFilters(Cache<(OwnedUserId, String), Arc<SyncFilter>>);

/// `Filter`. What is absent passes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncFilter {
    pub account_data: EventFilter,
    pub presence: EventFilter,
    pub room: RoomFilter,
    /// Accepted; more fields than these may be sent, so all are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_fields: Option<Vec<String>>,
    pub event_format: EventFormat,
}

/// `RoomFilter`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoomFilter {
    pub not_rooms: Vec<OwnedRoomId>,
    pub rooms: Option<Vec<OwnedRoomId>>,
    pub include_leave: bool,
    pub account_data: RoomEventFilter,
    pub ephemeral: RoomEventFilter,
    pub state: RoomEventFilter,
    pub timeline: RoomEventFilter,
}

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventFormat {
    #[default]
    Client,
    Federation,
}

impl Default for KnownFilters {
    fn default() -> Self {
        Self(Cache::new(FILTERS_MAX))
    }
}

impl Sync {
    /// The filter that a user uploaded, from memory when warm.
    pub async fn find_filter(
        &self,
        user_id: &UserId,
        filter_id: &str,
    ) -> Result<Option<Arc<SyncFilter>>, StorageError> {
        let key = (user_id.to_owned(), filter_id.to_owned());
        if let Some(filter) = self.0.filters.0.get(&key) {
            return Ok(Some(filter));
        }
        let Some(stored) = self.0.accounts.find_filter(user_id, filter_id).await? else {
            return Ok(None);
        };
        let filter: SyncFilter = serde_json::from_str(&stored)
            .map_err(|error| StorageError::Damaged(format!("a filter: {error}")))?;
        let filter = Arc::new(filter);
        self.0.filters.0.insert(key, filter.clone());
        Ok(Some(filter))
    }
}

impl RoomFilter {
    /// Whether anything of this room passes.
    pub fn takes_room(&self, room: &RoomId) -> bool {
        takes_room(&self.rooms, &self.not_rooms, room)
    }
}
