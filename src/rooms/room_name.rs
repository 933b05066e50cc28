//! Rooms as clients name them: by ID or by alias.

use std::sync::Arc;

use ruma::{OwnedRoomAliasId, OwnedRoomId, RoomAliasId, RoomId};

use super::{registry::Rooms, room::Room};
use crate::storage::StorageError;

/// What paths with `{roomIdOrAlias}` take.
pub enum RoomName {
    Id(OwnedRoomId),
    Alias(OwnedRoomAliasId),
}

impl RoomName {
    pub fn parse(text: &str) -> Option<Self> {
        match text.as_bytes().first()? {
            b'!' => RoomId::parse(text).ok().map(Self::Id),
            b'#' => RoomAliasId::parse(text).ok().map(Self::Alias),
            _ => None,
        }
    }
}

impl Rooms {
    /// The room that a client names by ID or alias.
    pub async fn find_named(&self, name: &RoomName) -> Result<Option<Arc<Room>>, StorageError> {
        match name {
            RoomName::Id(room_id) => self.find(room_id).await,
            RoomName::Alias(alias) => self.find_by_alias(alias).await,
        }
    }
}
