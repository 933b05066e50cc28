//! Relations of events that this server lacks: other servers in the room are asked for them, and what they
//! tell becomes part of its history (MSC2836, "Event relationships over federation"). Not for walking along
//! relations (`rooms::relationships`).

use std::{sync::Arc, time::Duration};

use ruma::{EventId, OwnedEventId, ServerName};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    Federation, HandshakeError,
    peers::PeerRequest,
    verify::{to_texts, verify_events},
};
use crate::{
    protocol::event::Event,
    rooms::{Onlooker, Room},
};

const PATH: &str = "/_matrix/federation/unstable/event_relationships";
/// Servers that are asked one after another.
const SERVERS_MAX: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(10);
/// A hundred events of 64 KiB and what authorises them.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Events of one answer that are looked at.
const EVENTS_MAX: usize = 100;
/// Levels that are asked for.
const DEPTH: usize = 10;
/// Events of one answer for whose other children is asked as well.
const FURTHER_MAX: usize = 5;

#[derive(Deserialize)]
struct RelationshipsAnswer {
    #[serde(default)]
    events: Vec<Box<RawValue>>,
}

/// What an answer says of an event beside the event.
#[derive(Default, Deserialize)]
struct Beside {
    #[serde(default)]
    unsigned: Children,
}

#[derive(Default, Deserialize)]
struct Children {
    children_hash: Option<String>,
}

/// An event that was told, and the hash of those that point at it there.
struct Told {
    event: Arc<Event>,
    children_hash: Option<String>,
}

impl Federation {
    /// Fetches an event that is not here, and what it points at (upwards) or what points at it. Whether
    /// anything of it is new in the room's history.
    pub async fn fetch_relationships(
        &self,
        room: &Arc<Room>,
        event_id: &EventId,
        is_upwards: bool,
    ) -> Result<bool, HandshakeError> {
        if !self.is_enabled() {
            return Ok(false);
        }
        let servers = self.rooms().servers_in_room(room).await?;
        let others = servers.iter().filter(|server| **server != *self.server_name());
        for server in others.take(SERVERS_MAX) {
            let told = self.ask_for_relationships(server, room, (event_id, is_upwards)).await?;
            let mut has_new = self.import_told(server, room, &told).await?;
            for further in self.list_incomplete(room, &told).await? {
                let told = self.ask_for_relationships(server, room, (&*further, false)).await?;
                has_new |= self.import_told(server, room, &told).await?;
            }
            if has_new {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a server tells, verified; nothing where it does not answer.
    async fn ask_for_relationships(
        &self,
        server: &ServerName,
        room: &Arc<Room>,
        (event_id, is_upwards): (&EventId, bool),
    ) -> Result<Vec<Told>, HandshakeError> {
        let body = json!({
            "event_id": event_id,
            "room_id": room.room_id,
            "direction": if is_upwards { "up" } else { "down" },
            "max_depth": DEPTH,
            "limit": EVENTS_MAX,
            "include_parent": true,
            "include_children": true,
            "recent_first": true,
        });
        let request = PeerRequest::post(PATH.to_owned(), &body).limited(TIMEOUT, ANSWER_BYTES_MAX);
        let mut answer: RelationshipsAnswer = match self.peers().ask(server, request).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(room.id = %room.room_id, %error, "a server knows no relations");
                return Ok(Vec::new());
            }
        };
        answer.events.truncate(EVENTS_MAX);
        let read = |raw: &RawValue| serde_json::from_str(raw.get()).unwrap_or_default();
        let beside: Vec<Beside> = answer.events.iter().map(|raw| read(raw)).collect();
        let events = verify_events(self.keys(), room.rules, to_texts(answer.events)).await?;
        let of_room = events.into_iter().zip(beside).filter_map(|(event, beside)| {
            let event = event.ok().filter(|event| event.room_id() == room.room_id)?;
            Some(Told { event, children_hash: beside.unsigned.children_hash })
        });
        Ok(of_room.collect())
    }

    /// Whether any of it is new in the timeline.
    async fn import_told(
        &self,
        server: &ServerName,
        room: &Arc<Room>,
        told: &[Told],
    ) -> Result<bool, HandshakeError> {
        let rooms = self.rooms();
        let mut fresh = Vec::new();
        for Told { event, .. } in told {
            let known = rooms.find_any_event(room, event.event_id()).await?;
            if !known.is_some_and(|known| known.is_in_graph()) {
                fresh.push(Arc::clone(event));
            }
        }
        if fresh.is_empty() {
            return Ok(false);
        }
        let mut count = rooms.import_backfilled(server, room, fresh.clone()).await?;
        // What nothing here follows lies somewhere in a gap.
        for event in &fresh {
            if rooms.find_event(room, event.event_id()).await?.is_none()
                && let Some(gap) = rooms.find_gap_at(room, event.origin_server_ts()).await?
            {
                count += usize::from(rooms.import_in_gap(server, room, event, &gap).await?);
            }
        }
        Ok(count > 0)
    }

    /// Those of the events at which others point there than here.
    async fn list_incomplete(
        &self,
        room: &Arc<Room>,
        told: &[Told],
    ) -> Result<Vec<OwnedEventId>, HandshakeError> {
        let onlooker = Onlooker::Server(room, self.server_name());
        let mut incomplete = Vec::new();
        for Told { event, children_hash } in told {
            let Some(hash) = children_hash else { continue };
            let stored = self.rooms().find_event(room, event.event_id()).await?;
            if let Some(stored) = stored
                && self.rooms().summarise_children(onlooker, &stored).await?.hash() != *hash
                && incomplete.len() < FURTHER_MAX
            {
                incomplete.push(event.event_id().to_owned());
            }
        }
        Ok(incomplete)
    }
}
