//! What a transaction says (application-service API, "Pushing events"): events in client format,
//! ephemeral data and news of devices where the service wants them. It is written once and sent as it is until it is
//! acknowledged.

use super::{Appservices, devices::DeviceTidings, ephemeral::EphemeralNews};
use crate::{
    rooms::{EventView, StoredEvent, write_client_event},
    storage::{StorageError, appservices::StreamEvent},
};

/// Events of one transaction.
pub const EVENTS_MAX: usize = 50;
/// Ephemeral events of one transaction.
pub const EPHEMERAL_MAX: usize = 100;

impl Appservices {
    /// The body of a transaction.
    pub(super) async fn write_transaction(
        &self,
        events: &[StreamEvent],
        ephemeral: &EphemeralNews,
        devices: &DeviceTidings,
    ) -> Result<String, StorageError> {
        let mut out = String::from(r#"{"events":["#);
        for (number, event) in events.iter().enumerate() {
            if number > 0 {
                out.push(',');
            }
            self.write_event(&mut out, event).await?;
        }
        out.push(']');
        if !ephemeral.is_empty() {
            let list = ephemeral.events().join(",");
            out.push_str(r#","ephemeral":["#);
            out.push_str(&list);
            // The name that it had before it was specified (MSC2409), for older bridges.
            out.push_str(r#"],"de.sorunome.msc2409.ephemeral":["#);
            out.push_str(&list);
            out.push(']');
        }
        devices.write_json(&mut out);
        out.push('}');
        Ok(out)
    }

    async fn write_event(&self, out: &mut String, event: &StreamEvent) -> Result<(), StorageError> {
        let rooms = self.0.rooms.load_all(&[event.room]).await?;
        let room = rooms.first().ok_or(StorageError::RowMissing)?;
        let stored = self.0.rooms.events().load_one(room.facts(), event.event).await?;
        let prev = match stored.replaces_nid {
            Some(nid) => Some(self.0.rooms.events().load_one(room.facts(), nid).await?),
            None => None,
        };
        let view = EventView {
            now_ms: self.0.rooms.clock().now_ms(),
            with_room_id: true,
            prev: prev.as_deref().map(|prev: &StoredEvent| prev),
            ..EventView::default()
        };
        write_client_event(out, &stored, &view);
        Ok(())
    }
}
