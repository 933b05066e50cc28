//! This server's names for rooms (client-server API, "Room aliases"). Names of other servers are
//! looked up by `federation`.

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use ruma::{OwnedRoomAliasId, RoomAliasId, UserId};

use super::{registry::Rooms, room::Room};
use crate::{
    protocol::{membership::Membership, power_levels::PowerLevels},
    storage::{
        self, RoomNid, StorageError, WriteTx,
        aliases::{self, AliasRow},
    },
};

/// The length of an alias (appendices, "Room Aliases").
pub const ALIAS_BYTES_MAX: usize = 255;

/// Why an alias was not made or removed.
#[derive(Debug, thiserror::Error)]
pub enum AliasError {
    #[error("this is no alias of this server")]
    NotOurs,
    #[error("the alias is longer than {ALIAS_BYTES_MAX} bytes or has characters that it may not")]
    Invalid,
    #[error("the alias {0} already exists")]
    InUse(OwnedRoomAliasId),
    #[error("the room has as many aliases as it may")]
    TooMany,
    #[error("there is no alias {0}")]
    Unknown(OwnedRoomAliasId),
    #[error("only who made the alias, or has the power to name the room, can remove it")]
    Forbidden,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Aliases that are being made, so that of two requests for one name only the first succeeds.
#[derive(Clone, Default)]
pub(super) struct AliasReservations(Arc<Mutex<HashSet<OwnedRoomAliasId>>>);

/// An alias that nobody else can make until this is dropped.
pub struct ReservedAlias {
    pub alias: OwnedRoomAliasId,
    reservations: AliasReservations,
}

impl Drop for ReservedAlias {
    fn drop(&mut self) {
        self.reservations.0.lock().remove(&self.alias);
    }
}

impl ReservedAlias {
    /// Adds the alias to the rows of a commit. Keep the reservation until it is done.
    pub fn save(&self, tx: &mut WriteTx, room: RoomNid, creator: &UserId) {
        let (alias, creator) = (self.alias.to_string(), creator.to_string());
        aliases::save(tx, &AliasRow { alias, room, creator });
    }
}

impl Rooms {
    /// The room that an alias of this server stands for.
    pub async fn find_by_alias(
        &self,
        alias: &RoomAliasId,
    ) -> Result<Option<Arc<Room>>, StorageError> {
        let Some(row) = aliases::find(self.database(), alias.as_str()).await? else {
            return Ok(None);
        };
        Ok(self.load_all(&[row.room]).await?.pop())
    }

    /// The room's aliases on this server.
    pub async fn list_aliases(&self, room: &Room) -> Result<Vec<String>, StorageError> {
        let rows = aliases::list_of_room(self.database(), room.nid).await?;
        Ok(rows.into_iter().map(|row| row.alias).collect())
    }

    /// Keeps a name that nobody has for the caller.
    pub async fn reserve_alias(&self, alias: &RoomAliasId) -> Result<ReservedAlias, AliasError> {
        self.check_alias(alias)?;
        let reservations = self.0.aliases.clone();
        if !reservations.0.lock().insert(alias.to_owned()) {
            return Err(AliasError::InUse(alias.to_owned()));
        }
        let reserved = ReservedAlias { alias: alias.to_owned(), reservations };
        match aliases::find(self.database(), alias.as_str()).await? {
            Some(_) => Err(AliasError::InUse(alias.to_owned())),
            None => Ok(reserved),
        }
    }

    /// Makes an alias. `aliases_max` bounds how many the room may have.
    pub async fn add_alias(
        &self,
        room: &Room,
        alias: &RoomAliasId,
        creator: &UserId,
        aliases_max: usize,
    ) -> Result<(), AliasError> {
        let reserved = self.reserve_alias(alias).await?;
        if self.list_aliases(room).await?.len() >= aliases_max {
            return Err(AliasError::TooMany);
        }
        let mut tx = WriteTx::new();
        reserved.save(&mut tx, room.nid, creator);
        self.writer().commit(tx).await?;
        Ok(())
    }

    /// Removes an alias; returns the room that it stood for.
    pub async fn remove_alias(
        &self,
        alias: &RoomAliasId,
        user: &UserId,
        is_admin: bool,
    ) -> Result<Arc<Room>, AliasError> {
        let row = aliases::find(self.database(), alias.as_str()).await?;
        let row = row.ok_or_else(|| AliasError::Unknown(alias.to_owned()))?;
        let room = self.load_all(&[row.room]).await?.pop();
        let room = room.ok_or_else(|| AliasError::Unknown(alias.to_owned()))?;
        let may = is_admin
            || row.creator == user.as_str()
            || self.may_send_state(&room, user, "m.room.canonical_alias").await?;
        if !may {
            return Err(AliasError::Forbidden);
        }
        let mut tx = WriteTx::new();
        aliases::delete(&mut tx, alias.as_str());
        self.writer().commit(tx).await?;
        Ok(room)
    }

    /// Adds rows that let all aliases of one room point at another.
    pub async fn list_alias_rows(&self, room: &Room) -> Result<Vec<AliasRow>, StorageError> {
        storage::aliases::list_of_room(self.database(), room.nid).await
    }

    /// Whether a user is in the room and has the power to send state of a type.
    pub async fn may_send_state(
        &self,
        room: &Room,
        user: &UserId,
        kind: &str,
    ) -> Result<bool, StorageError> {
        let joined = self.membership_of(room, user).await? == Membership::Join;
        Ok(joined && room.power_levels().user(user) >= room.power_levels().to_send(kind, true))
    }

    fn check_alias(&self, alias: &RoomAliasId) -> Result<(), AliasError> {
        if alias.server_name() != self.server_name() {
            return Err(AliasError::NotOurs);
        }
        let text = alias.as_str();
        match text.len() > ALIAS_BYTES_MAX || text.contains(char::is_whitespace) {
            true => Err(AliasError::Invalid),
            false => Ok(()),
        }
    }
}

impl Room {
    /// The power levels that hold now.
    pub fn power_levels(&self) -> PowerLevels {
        let head = self.head();
        let event = |kind: &str| head.find_pinned(kind).map(|stored| &*stored.event);
        let (create, power) = (event("m.room.create"), event("m.room.power_levels"));
        PowerLevels::from_events(create, power, self.rules)
    }
}
