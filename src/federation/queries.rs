//! Questions of our users that other servers answer: aliases, profiles, directories, history
//! (server-server API, "Querying for information", "Published Room Directory", "Backfilling").

use std::sync::Arc;

use ruma::{OwnedRoomId, OwnedServerName, RoomAliasId, ServerName, UserId};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Federation, HandshakeError,
    peers::{PeerError, PeerRequest, path},
    source::PduTransaction,
    verify::{keep_verified, to_texts},
};
use crate::rooms::{BACKFILL_EVENTS_MAX, Room};

/// Ends of the history that one request goes on from.
const EXTREMITIES_MAX: usize = 20;
/// Servers that are asked for history one after another.
const BACKFILL_SERVERS_MAX: usize = 4;

/// What an alias of another server stands for.
#[derive(Clone, Debug, Deserialize)]
pub struct RemoteAlias {
    pub room_id: OwnedRoomId,
    /// Servers in the room.
    pub servers: Vec<OwnedServerName>,
}

type Result<T> = std::result::Result<T, HandshakeError>;

impl Federation {
    /// The room of an alias; `None` when its server knows none.
    pub async fn find_remote_alias(&self, alias: &RoomAliasId) -> Result<Option<RemoteAlias>> {
        let query = [("room_alias", alias.as_str())];
        let path = path("/_matrix/federation/v1/query/directory", [], &query);
        self.ask_or_none(alias.server_name(), PeerRequest::get(path)).await
    }

    /// The profile of a user, or one field of it; `None` when their server knows none.
    pub async fn find_remote_profile(
        &self,
        user: &UserId,
        field: Option<&str>,
    ) -> Result<Option<Map<String, Value>>> {
        let query = [("user_id", user.as_str()), ("field", field.unwrap_or_default())];
        let query = if field.is_some() { &query[..] } else { &query[..1] };
        let path = path("/_matrix/federation/v1/query/profile", [], query);
        self.ask_or_none(user.server_name(), PeerRequest::get(path)).await
    }

    /// A page of another server's directory, as it gives it. `body` is that of `POST /publicRooms`.
    pub async fn list_remote_rooms(&self, server: &ServerName, body: &Value) -> Result<Value> {
        self.require_enabled()?;
        let path = path("/_matrix/federation/v1/publicRooms", [], &[]);
        Ok(self.peers().ask(server, PeerRequest::post(path, body)).await?)
    }

    /// Fetches what came before the oldest events around a place in the room. Returns how many
    /// events are new.
    pub async fn fetch_history(&self, room: &Arc<Room>, ordering: i64) -> Result<usize> {
        if !self.is_enabled() {
            return Ok(0);
        }
        let ends = self.rooms().backward_extremities(room, ordering, EXTREMITIES_MAX).await?;
        if ends.is_empty() {
            return Ok(0);
        }
        let limit = BACKFILL_EVENTS_MAX.to_string();
        let mut query: Vec<(&str, &str)> = ends.iter().map(|id| ("v", id.as_str())).collect();
        query.push(("limit", &limit));
        let prefix = "/_matrix/federation/v1/backfill";
        let request = PeerRequest::get(path(prefix, [room.room_id.as_str()], &query));
        let servers = self.rooms().servers_in_room(room).await?;
        let others = servers.iter().filter(|server| *server != self.server_name());
        for server in others.take(BACKFILL_SERVERS_MAX) {
            let answer = self.peers().ask::<PduTransaction>(server, request.clone()).await;
            let mut answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::debug!(room.id = %room.room_id, %error, "a server gives no history");
                    continue;
                }
            };
            answer.pdus.truncate(BACKFILL_EVENTS_MAX);
            let texts = to_texts(answer.pdus);
            let events = keep_verified(self.keys(), room.rules, &room.room_id, texts).await?;
            let new = self.rooms().import_backfilled(server, room, events).await?;
            if new > 0 {
                return Ok(new);
            }
        }
        Ok(0)
    }

    async fn ask_or_none<T: serde::de::DeserializeOwned>(
        &self,
        server: &ServerName,
        request: PeerRequest,
    ) -> Result<Option<T>> {
        self.require_enabled()?;
        match self.peers().ask(server, request).await {
            Ok(answer) => Ok(Some(answer)),
            Err(PeerError::Refused { status, .. }) if status.as_u16() == 404 => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn require_enabled(&self) -> Result<()> {
        match self.is_enabled() {
            true => Ok(()),
            false => Err(HandshakeError::Disabled),
        }
    }
}
