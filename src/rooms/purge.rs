//! The end of a room: everything of it leaves the database and memory. Not for having people leave it
//! before (`workflows::delete_room`).

use std::sync::{Arc, atomic::Ordering};

use super::{registry::Rooms, room::Room};
use crate::storage::{self, StorageError};

impl Rooms {
    /// Deletes a room with everything in it. What is being sent to it meanwhile fails.
    pub async fn purge(&self, room: &Arc<Room>) -> Result<(), StorageError> {
        let (engine, gone) = (Arc::clone(&self.0), Arc::clone(room));
        self.writer()
            .transact(move |tx| {
                Box::pin(async move {
                    // Events on their way are built upon what is deleted now.
                    gone.epoch.fetch_add(1, Ordering::AcqRel);
                    storage::purge::delete_room(tx, gone.nid, gone.room_id.as_str()).await?;
                    tx.after_commit(move || {
                        engine.forget_room(&gone);
                        engine.users.drop_room(gone.nid);
                    });
                    Ok(())
                })
            })
            .await
    }
}
