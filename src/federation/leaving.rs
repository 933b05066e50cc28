//! Our users reject invitations, take knocks back, and leave rooms that this server is not in
//! (server-server API, "Leaving Rooms (Rejecting Invites)").

use std::sync::Arc;

use ruma::ServerName;
use serde_json::Value;

use super::{
    Federation, HandshakeError,
    joining::{Filled, RemoteEntry},
    peers::{PeerRequest, path},
};
use crate::{protocol::membership::Membership, rooms::OutlierMember};

type Result<T> = std::result::Result<T, HandshakeError>;

impl Federation {
    /// Leaves through one of the servers.
    pub async fn leave_remote(&self, entry: &RemoteEntry) -> Result<()> {
        let mut failure = HandshakeError::NoServers;
        for server in self.list_candidates(entry)? {
            match self.leave_through(&server, entry).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::info!(room.id = %entry.room_id, server.name = %server, %error, "leaving failed");
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    async fn leave_through(&self, server: &ServerName, entry: &RemoteEntry) -> Result<()> {
        let Filled { event, version } =
            self.fill_template(server, entry, Membership::Leave).await?;
        let segments = [event.room_id().as_str(), event.event_id().as_str()];
        let body = Value::Object(event.to_object());
        let put = |prefix: &str| PeerRequest::put(path(prefix, segments, &[]), &body);
        let v2 = put("/_matrix/federation/v2/send_leave");
        match self.peers().ask_raw(server, v2).await {
            Err(error) if error.is_unrecognized() => {
                let v1 = put("/_matrix/federation/v1/send_leave");
                self.peers().ask_raw(server, v1).await?;
            }
            answer => drop(answer?),
        }
        let member = OutlierMember {
            room_id: entry.room_id.clone(),
            version,
            event: Arc::new(event),
            stripped_state: Vec::new(),
        };
        self.rooms().store_outlier_member(member).await?;
        Ok(())
    }
}
