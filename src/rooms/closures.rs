//! Rooms that an administrator has closed to the users of this server. They need not be known here,
//! so that this is asked for by room ID, and at every join.

use std::collections::HashMap;

use arc_swap::ArcSwap;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use super::registry::Rooms;
use crate::storage::{Database, StorageError, WriteTx, administration};

/// Closed rooms, and who closed them. Few, so all of them are in memory.
pub(super) struct Closures(ArcSwap<HashMap<OwnedRoomId, OwnedUserId>>);

impl Closures {
    pub async fn load(database: &Database) -> Result<Self, StorageError> {
        let rows = administration::list_blocked_rooms(database).await?;
        let parse = |(room, by)| Some((RoomId::parse(room).ok()?, UserId::parse(by).ok()?));
        Ok(Self(ArcSwap::from_pointee(rows.into_iter().filter_map(parse).collect())))
    }

    /// `by` is None when the room is opened again.
    fn note(&self, room_id: &RoomId, by: Option<&UserId>) {
        self.0.rcu(|known| {
            let mut known = HashMap::clone(known);
            match by {
                Some(by) => drop(known.entry(room_id.to_owned()).or_insert_with(|| by.to_owned())),
                None => drop(known.remove(room_id)),
            }
            known
        });
    }
}

impl Rooms {
    /// Who has closed a room, if somebody has.
    pub fn find_closer(&self, room_id: &RoomId) -> Option<OwnedUserId> {
        self.0.closures.0.load().get(room_id).cloned()
    }

    /// Closes a room; whoever closed it first remains named.
    pub async fn close(&self, room_id: &RoomId, by: &UserId) -> Result<(), StorageError> {
        let mut tx = WriteTx::new();
        let now_ts = self.clock().now_ms();
        administration::block_room(&mut tx, room_id.as_str(), by.as_str(), now_ts);
        self.commit_closure(tx, room_id, Some(by)).await
    }

    /// Opens a room again; without effect when it is not closed.
    pub async fn reopen(&self, room_id: &RoomId) -> Result<(), StorageError> {
        let mut tx = WriteTx::new();
        administration::unblock_room(&mut tx, room_id.as_str());
        self.commit_closure(tx, room_id, None).await
    }

    async fn commit_closure(
        &self,
        mut tx: WriteTx,
        room_id: &RoomId,
        by: Option<&UserId>,
    ) -> Result<(), StorageError> {
        let (rooms, room_id, by) = (self.clone(), room_id.to_owned(), by.map(ToOwned::to_owned));
        tx.after_commit(move |_| rooms.0.closures.note(&room_id, by.as_deref()));
        self.writer().commit(tx).await.map(drop)
    }
}
