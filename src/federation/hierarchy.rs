//! Spaces that this server is not in, as a server in them describes them (server-server API, "Spaces").
//! Answers are kept for a while: "Responses to this endpoint should be cached for a period of time".

use std::{sync::Arc, time::Duration};

use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, OwnedServerName, RoomId};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Federation,
    peers::{PeerRequest, path},
};

/// Servers that are asked about one room.
const SERVERS_MAX: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// How long an answer holds, ms.
const KEPT_MS: u64 = 5 * 60 * 1000;
/// Answers that are kept.
const KEPT_MAX: usize = 256;

/// A room as another server describes it.
#[derive(Debug, Deserialize)]
pub struct RemoteSpace {
    /// The summary, with `children_state`.
    pub room: Map<String, Value>,
    /// Summaries of those children that may be entered or peeked into.
    #[serde(default)]
    pub children: Vec<Map<String, Value>>,
    /// Children that nobody here can enter.
    #[serde(default)]
    pub inaccessible_children: Vec<OwnedRoomId>,
}

type Question = (OwnedRoomId, bool);

/// Answers of the last minutes.
pub(super) struct RemoteSpaces(Cache<Question, (u64, Arc<RemoteSpace>)>);

impl Default for RemoteSpaces {
    fn default() -> Self {
        Self(Cache::new(KEPT_MAX))
    }
}

impl Federation {
    /// Asks one server after another about a room; None when none of them tells.
    pub async fn find_remote_space(
        &self,
        room_id: &RoomId,
        servers: &[OwnedServerName],
        suggested_only: bool,
    ) -> Option<Arc<RemoteSpace>> {
        if !self.is_enabled() {
            return None;
        }
        let question = (room_id.to_owned(), suggested_only);
        let now_ms = self.clock().now_ms();
        let known = self.0.remote_spaces.0.get(&question);
        if let Some((_, space)) = known.filter(|(told_ms, _)| told_ms + KEPT_MS > now_ms) {
            return Some(space);
        }
        let flag = if suggested_only { "true" } else { "false" };
        let query = [("suggested_only", flag)];
        let path = path("/_matrix/federation/v1/hierarchy", [room_id.as_str()], &query);
        let request = PeerRequest::get(path).limited(TIMEOUT, ANSWER_BYTES_MAX);
        let others = servers.iter().filter(|server| *server != self.server_name());
        for server in others.take(SERVERS_MAX) {
            match self.peers().ask::<RemoteSpace>(server, request.clone()).await {
                Ok(space) if names(&space.room, room_id) => {
                    let space = Arc::new(space);
                    self.0.remote_spaces.0.insert(question, (now_ms, Arc::clone(&space)));
                    return Some(space);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(room.id = %room_id, %error, "a server does not describe a room");
                }
            }
        }
        None
    }
}

/// Whether a summary is of the room.
fn names(summary: &Map<String, Value>, room_id: &RoomId) -> bool {
    summary.get("room_id").and_then(Value::as_str) == Some(room_id.as_str())
}
