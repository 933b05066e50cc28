//! What other servers may ask of a room's graph: state at an event, authorisation chains, events
//! backwards, events between (server-server API, "Retrieving events", "Backfilling and retrieving
//! missing events"). Not for who may ask: whether the server is in the room is for the caller.

use std::sync::Arc;

use ruma::{EventId, OwnedEventId, OwnedServerName, ServerName};

use super::{
    event_store::StoredEvent, receive::ReceiveError, registry::Rooms, room::Room, state::State,
};
use crate::{protocol::event::Event, storage::StorageError};

/// Events in one answer of `backfill`.
pub const BACKFILL_EVENTS_MAX: usize = 100;
/// Events that one authorisation chain may have before an answer is refused.
pub const AUTH_CHAIN_EVENTS_MAX: usize = 200_000;

impl Rooms {
    /// The state before an event of the graph (not an outlier); None when it is not known here.
    /// Shared and cheap; read its events with [`Rooms::load_state_events`].
    pub async fn state_before(
        &self,
        _room: &Room,
        _event: &EventId,
    ) -> Result<Option<Arc<State>>, StorageError> {
        Ok(None)
    }

    /// The events of a state, in no particular order, in chunks so that big ones can be streamed:
    /// `chunk` counts from 0, an empty answer is the end.
    pub async fn load_state_events(
        &self,
        _room: &Room,
        _state: &State,
        _chunk: usize,
    ) -> Result<Vec<Arc<StoredEvent>>, StorageError> {
        Ok(Vec::new())
    }

    /// The authorisation chain of these events of the room, without themselves unless one is in
    /// another's chain; at most [`AUTH_CHAIN_EVENTS_MAX`]. IDs that are not known are passed over.
    pub async fn auth_chain(
        &self,
        _room: &Room,
        _ids: &[OwnedEventId],
    ) -> Result<Vec<Arc<StoredEvent>>, StorageError> {
        Ok(Vec::new())
    }

    /// These events and what came before them, newest first, at most `limit` (itself at most
    /// [`BACKFILL_EVENTS_MAX`]), as `server` may see them (`GET /backfill`): what it may not see it
    /// gets redacted. Rejected events are left out, soft-failed ones only come behind events that
    /// name them.
    pub async fn events_backwards(
        &self,
        _room: &Arc<Room>,
        _from: &[OwnedEventId],
        _limit: usize,
        _server: &ServerName,
    ) -> Result<Vec<Arc<Event>>, StorageError> {
        Ok(Vec::new())
    }

    /// The events between `earliest` and `latest` without both ends, oldest first, at most `limit`,
    /// as `server` may see them (`POST /get_missing_events`).
    pub async fn missing_events(
        &self,
        _room: &Arc<Room>,
        _latest: &[OwnedEventId],
        _earliest: &[OwnedEventId],
        (_limit, _min_depth): (usize, i64),
        _server: &ServerName,
    ) -> Result<Vec<Arc<Event>>, StorageError> {
        Ok(Vec::new())
    }

    /// A single event as `server` may see it, redacted where it may not (`GET /event`), with its
    /// room. None when it is not known or was rejected.
    pub async fn event_for_server(
        &self,
        _id: &EventId,
        _server: &ServerName,
    ) -> Result<Option<(Arc<Room>, Arc<Event>)>, StorageError> {
        Ok(None)
    }

    /// An event of the room by ID whatever became of it: outliers, rejected and soft-failed ones
    /// too. Clients get theirs by `find_event`.
    pub async fn find_any_event(
        &self,
        _room: &Room,
        _id: &EventId,
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        Ok(None)
    }

    /// The servers with a joined user in the room, in no particular order, this one included.
    pub async fn servers_in_room(
        &self,
        _room: &Arc<Room>,
    ) -> Result<Arc<[OwnedServerName]>, StorageError> {
        Ok(Arc::from([]))
    }

    /// Whether a server has a joined user in the room; asked with our own name: whether this server
    /// takes part in the room, or only knows of it.
    pub async fn is_server_in_room(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
    ) -> Result<bool, StorageError> {
        Ok(self.servers_in_room(room).await?.iter().any(|known| known == server))
    }

    /// Where the room's history ends here: events that are named as previous events but not known,
    /// at most `limit`, those closest above `ordering` (a place in the room) first. Empty when
    /// everything is here.
    pub async fn backward_extremities(
        &self,
        _room: &Room,
        _ordering: i64,
        _limit: usize,
    ) -> Result<Vec<OwnedEventId>, StorageError> {
        Ok(Vec::new())
    }

    /// Takes events that `origin` answered to `backfill`: verified, in any order. They are judged,
    /// get their places in the room's order below what names them, no sync carries them. Returns how
    /// many are new in the timeline.
    pub async fn import_backfilled(
        &self,
        _origin: &ServerName,
        _room: &Arc<Room>,
        _events: Vec<Arc<Event>>,
    ) -> Result<usize, ReceiveError> {
        Ok(0)
    }
}
