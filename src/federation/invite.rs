//! Inviting users of other servers: their server signs the invitation before anybody else gets it
//! (server-server API, "Inviting to a room").

use std::sync::Arc;

use ruma::{ServerName, UserId};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    Federation, HandshakeError,
    joining::bad_answer,
    peers::{PeerError, PeerRequest, path},
    verify::verify_event,
};
use crate::{
    protocol::event::Event,
    rooms::{EventRequest, Room},
};

#[derive(Deserialize)]
struct InviteAnswer {
    event: Box<RawValue>,
}

type Result<T> = std::result::Result<T, HandshakeError>;

impl Federation {
    /// Invites a user of another server; `request` is the member event. Returns when the invited
    /// server has it and it is in the room.
    pub async fn invite_remote(
        &self,
        room: &Arc<Room>,
        target: &UserId,
        request: &EventRequest,
    ) -> Result<Arc<Event>> {
        if !self.is_enabled() {
            return Err(HandshakeError::Disabled);
        }
        let event = self.rooms().make_event(room, request).await?;
        let server = target.server_name();
        let shown = self.list_shown_state(room, &request.sender).await?;
        let returned = self.send_invite(server, &event, shown).await?;
        let verified = verify_event(self.keys(), room.rules, returned.get()).await??;
        if verified.event_id() != event.event_id() {
            return Err(bad_answer(server, "the invitation that it returned is another event"));
        }
        let own_name = self.server_name();
        let taken = self.rooms().take_signed(own_name, room, verified).await?;
        Ok(taken.event)
    }

    async fn send_invite(
        &self,
        server: &ServerName,
        event: &Event,
        shown: Vec<Value>,
    ) -> Result<Box<RawValue>> {
        let segments = [event.room_id().as_str(), event.event_id().as_str()];
        let version = self.version_of(event).await?;
        let body = json!({
            "room_version": version,
            "event": event.to_object(),
            "invite_room_state": shown,
        });
        let v2 = path("/_matrix/federation/v2/invite", segments, &[]);
        let answer = self.peers().ask::<InviteAnswer>(server, PeerRequest::put(v2, &body)).await;
        let is_old = matches!(version.as_str(), "1" | "2");
        match answer {
            Ok(answer) => Ok(answer.event),
            // "Senders which receive a 400 or 404 response to this endpoint should retry using the
            // v1 API … if the room version is "1" or "2"."
            Err(error) if is_old && is_400_or_404(&error) => {
                let mut object: Map<String, Value> = event.to_object();
                object.insert("unsigned".to_owned(), json!({ "invite_room_state": shown }));
                let v1 = path("/_matrix/federation/v1/invite", segments, &[]);
                let request = PeerRequest::put(v1, &Value::Object(object));
                let (_, answer): (u16, InviteAnswer) = self.peers().ask(server, request).await?;
                Ok(answer.event)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn version_of(&self, event: &Event) -> Result<String> {
        let room = self.rooms().find(event.room_id()).await?.ok_or(HandshakeError::UnknownRoom)?;
        Ok(room.rules.version.as_str().to_owned())
    }
}

fn is_400_or_404(error: &PeerError) -> bool {
    error.refusal().is_some_and(|(status, _)| matches!(status.as_u16(), 400 | 404))
}
