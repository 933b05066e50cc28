//! Our users reject invitations, take knocks back, and leave rooms that this server is not in
//! (server-server API, "Leaving Rooms (Rejecting Invites)").

use std::sync::Arc;

use base64::Engine as _;
use ruma::{OwnedEventId, ServerName, UserId};
use serde_json::{Map, Value};

use super::{
    Federation, HandshakeError,
    joining::{Filled, RemoteEntry},
    peers::{PeerRequest, path},
};
use crate::{
    protocol::{
        event::Event,
        event_builder::{EventDraft, OpaqueNames},
        event_hash::reference_hash,
        membership::Membership,
        signing::UNPADDED_BASE64,
    },
    rooms::{MEMBER, MembershipError, OutlierMember, Room},
};

/// Random letters of an event ID in rooms of version 1 and 2.
const OPAQUE_ID_LENGTH: usize = 18;

type Result<T> = std::result::Result<T, HandshakeError>;

impl Federation {
    /// Has a user reject an invitation to, or take back a knock on, a room that this server is not
    /// in. When no server there can be reached, the user is rid of it all the same.
    pub async fn leave_unjoined(
        &self,
        room: &Arc<Room>,
        user: &UserId,
        content: Map<String, Value>,
    ) -> Result<()> {
        let place = self.rooms().rooms_of(user).await?.find(room.nid);
        let place = place.ok_or(MembershipError::NotInRoom)?;
        if matches!(place.membership, Membership::Leave | Membership::Ban) {
            return Ok(());
        }
        let known = self.rooms().events().load_one(room.facts(), place.event).await?;
        let mut servers = vec![known.event.sender().server_name().to_owned()];
        servers.extend(room.room_id.server_name().map(ToOwned::to_owned));
        let (user, room_id) = (user.to_owned(), room.room_id.clone());
        let entry = RemoteEntry { user, room_id, servers, content };
        match self.leave_remote(&entry).await {
            Ok(()) => Ok(()),
            Err(HandshakeError::Storage(error)) => Err(error.into()),
            Err(error) => {
                tracing::info!(room.id = %room.room_id, %error, "a user leaves without telling");
                self.leave_alone(room, &known.event, entry).await
            }
        }
    }

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

    /// Notes that the user has left, by an event that no other server gets.
    async fn leave_alone(&self, room: &Room, known: &Event, entry: RemoteEntry) -> Result<()> {
        let known_id: OwnedEventId = known.event_id().to_owned();
        let opaque_names = room.rules.has_event_id_field().then(|| {
            let hash = UNPADDED_BASE64.encode(reference_hash(room.rules, &known.to_object()));
            OpaqueNames {
                opaque_id: self.clock().random_text(OPAQUE_ID_LENGTH),
                reference_hashes: [(known_id.clone(), hash)].into(),
            }
        });
        let mut content = entry.content;
        content.insert("membership".to_owned(), Membership::Leave.as_str().into());
        let draft = EventDraft {
            room_id: Some(room.room_id.clone()),
            state_key: Some(entry.user.to_string()),
            sender: entry.user,
            kind: MEMBER.to_owned(),
            content: Value::Object(content),
            prev_events: vec![known_id.clone()],
            auth_events: vec![known_id],
            depth: known.depth().saturating_add(1),
            origin_server_ts: self.clock().now_ms().cast_signed(),
            redacts: None,
            sticky_ms: None,
            opaque_names,
        };
        let key = &self.peers().signing_key();
        let event = draft
            .seal(room.rules, self.server_name(), key)
            .map_err(|error| HandshakeError::WrongEvent(error.to_string()))?;
        let member = OutlierMember {
            room_id: room.room_id.clone(),
            version: room.rules.version,
            event: Arc::new(event),
            stripped_state: Vec::new(),
        };
        self.rooms().store_outlier_member(member).await?;
        Ok(())
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
