//! Events at a time of which this server has no history: other servers know them (server-server API,
//! `timestamp_to_event`).

use std::{sync::Arc, time::Duration};

use ruma::OwnedEventId;
use serde::Deserialize;

use super::{
    Federation, HandshakeError,
    peers::{PeerRequest, path},
    source::PduTransaction,
    verify::{keep_verified, to_texts},
};
use crate::rooms::{Gap, Room};

/// Servers that are asked one after another.
const SERVERS_MAX: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Deserialize)]
struct TimeAnswer {
    event_id: OwnedEventId,
    origin_server_ts: i64,
}

impl Federation {
    /// Where this server lacks history at a time, has the event there that another server knows to be
    /// closer than `known_ms`. Whether there is a new one.
    pub async fn fetch_by_time(
        &self,
        room: &Arc<Room>,
        (timestamp_ms, forwards): (i64, bool),
        known_ms: Option<i64>,
    ) -> Result<bool, HandshakeError> {
        if !self.is_enabled() {
            return Ok(false);
        }
        let Some(gap) = self.rooms().find_gap_at(room, timestamp_ms).await? else {
            return Ok(false);
        };
        let time = timestamp_ms.to_string();
        let query = [("ts", time.as_str()), ("dir", if forwards { "f" } else { "b" })];
        let prefix = "/_matrix/federation/v1/timestamp_to_event";
        let request = PeerRequest::get(path(prefix, [room.room_id.as_str()], &query));
        let request = request.limited(TIMEOUT, ANSWER_BYTES_MAX);
        let servers = self.rooms().servers_in_room(room).await?;
        let others = servers.iter().filter(|server| **server != *self.server_name());
        for server in others.take(SERVERS_MAX) {
            let answer: TimeAnswer = match self.peers().ask(server, request.clone()).await {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::debug!(room.id = %room.room_id, %error, "a server knows no event at a time");
                    continue;
                }
            };
            let distance = |time: i64| time.abs_diff(timestamp_ms);
            let is_closer =
                known_ms.is_none_or(|known| distance(answer.origin_server_ts) < distance(known));
            if is_closer && self.fetch_into_gap(server, room, &answer.event_id, gap).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn fetch_into_gap(
        &self,
        server: &ruma::ServerName,
        room: &Arc<Room>,
        event_id: &OwnedEventId,
        gap: Gap,
    ) -> Result<bool, HandshakeError> {
        let path = path("/_matrix/federation/v1/event", [event_id.as_str()], &[]);
        let request = PeerRequest::get(path).limited(TIMEOUT, ANSWER_BYTES_MAX);
        let Ok(mut answer) = self.peers().ask::<PduTransaction>(server, request).await else {
            return Ok(false);
        };
        answer.pdus.truncate(1);
        let texts = to_texts(answer.pdus);
        let events = keep_verified(self.keys(), room.rules, &room.room_id, texts).await?;
        match events.first().filter(|event| event.event_id() == *event_id) {
            Some(event) => Ok(self.rooms().import_in_gap(server, room, event, &gap).await?),
            None => Ok(false),
        }
    }
}
