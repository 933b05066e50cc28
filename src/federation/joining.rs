//! Our users enter rooms that this server is not in, through a server that is (server-server API,
//! "Joining Rooms", "Knocking upon a room").

use std::{sync::Arc, time::Duration};

use ruma::{OwnedServerName, OwnedUserId, RoomId, ServerName};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Federation, HandshakeError,
    event_stream::{StreamError, StreamedAnswer},
    peers::{PeerError, PeerRequest, path},
    resident_invite::{strip, strip_value},
    verify::verify_event,
};
use crate::{
    protocol::{
        event::Event,
        event_builder::seal_object,
        membership::Membership,
        room_version::{RoomRules, RoomVersion},
    },
    rooms::{JoinedRoom, MEMBER, OutlierMember, ReceiveError, Room, Verdict},
};

/// Servers that are tried one after another.
const SERVERS_MAX: usize = 10;
/// The answer of `send_join` of a large room takes a while, and has this size at most.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5 * 60);
const JOIN_BYTES_MAX: usize = 512 << 20;
/// Random letters of an event ID in rooms of version 1 and 2.
const OPAQUE_ID_LENGTH: usize = 18;

/// Who wants to enter which room, and how.
#[derive(Clone, Debug)]
pub struct RemoteEntry {
    pub user: OwnedUserId,
    pub room_id: ruma::OwnedRoomId,
    /// Servers that may be in the room, the best first.
    pub servers: Vec<OwnedServerName>,
    /// What the member event shall hold beside `membership`.
    pub content: Map<String, Value>,
}

#[derive(Deserialize)]
pub(super) struct TemplateAnswer {
    room_version: Option<String>,
    event: Map<String, Value>,
}

/// The arrays of an answer of `send_join`.
const JOIN_ARRAYS: [&str; 2] = ["auth_chain", "state"];

/// An answer of `send_join`, its events verified.
struct JoinAnswer {
    auth_chain: Vec<Arc<Event>>,
    state: Vec<Arc<Event>>,
    rest: JoinRest,
}

#[derive(Deserialize)]
struct JoinRest {
    event: Option<Value>,
    #[serde(default)]
    members_omitted: bool,
    servers_in_room: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct KnockAnswer {
    #[serde(default)]
    knock_room_state: Vec<Value>,
}

/// A template that was filled in, hashed and signed.
pub(super) struct Filled {
    pub event: Event,
    pub version: RoomVersion,
}

type Result<T> = std::result::Result<T, HandshakeError>;

impl Federation {
    /// Joins; returns when the user is in the room.
    pub async fn join_remote(&self, entry: &RemoteEntry) -> Result<Arc<Room>> {
        let mut failure = HandshakeError::NoServers;
        for server in self.list_candidates(entry)? {
            match self.join_through(&server, entry).await {
                Ok(room) => return Ok(room),
                Err(error) => {
                    tracing::info!(room.id = %entry.room_id, server.name = %server, %error, "a join failed");
                    let is_final = is_final(&error);
                    failure = prefer(failure, error);
                    if is_final {
                        break;
                    }
                }
            }
        }
        Err(failure)
    }

    /// Knocks; returns when the knock is with a server in the room.
    pub async fn knock_remote(&self, entry: &RemoteEntry) -> Result<()> {
        let mut failure = HandshakeError::NoServers;
        for server in self.list_candidates(entry)? {
            match self.knock_through(&server, entry).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::info!(room.id = %entry.room_id, server.name = %server, %error, "a knock failed");
                    let is_final = is_final(&error);
                    failure = prefer(failure, error);
                    if is_final {
                        break;
                    }
                }
            }
        }
        Err(failure)
    }

    pub(super) fn list_candidates(&self, entry: &RemoteEntry) -> Result<Vec<OwnedServerName>> {
        if !self.is_enabled() {
            return Err(HandshakeError::Disabled);
        }
        let mut servers: Vec<OwnedServerName> = Vec::new();
        for server in &entry.servers {
            if server != self.server_name() && !servers.contains(server) {
                servers.push(server.clone());
            }
        }
        servers.truncate(SERVERS_MAX);
        Ok(servers)
    }

    async fn join_through(&self, server: &ServerName, entry: &RemoteEntry) -> Result<Arc<Room>> {
        let filled = self.fill_template(server, entry, Membership::Join).await?;
        let rules = filled.version.rules();
        // A room that this server is in needs no more than the event.
        let known = self.find_own_room(&entry.room_id).await?;
        let _entry = known.is_none().then(|| self.0.entries.begin(&entry.room_id));
        let omit_members = self.0.settings.partial_state_joins || known.is_some();
        let answer = self.send_join(server, (&filled.event, rules), omit_members).await?;
        if answer.rest.members_omitted && !omit_members {
            return Err(bad_answer(server, "members are omitted, which was not asked for"));
        }
        let servers = read_servers(server, &answer.rest)?;
        let join = self.read_join(server, rules, answer.rest.event, filled.event).await?;
        if let Some(room) = known {
            return self.receive_join(server, room, join).await;
        }
        let JoinAnswer { state, auth_chain, .. } = answer;
        tracing::info!(
            room.id = %entry.room_id, server.name = %server, state = state.len(),
            auth_chain = auth_chain.len(), is_partial = servers.is_some(), "a room arrived"
        );
        let joined = JoinedRoom {
            room_id: entry.room_id.clone(),
            version: filled.version,
            origin: server.to_owned(),
            join,
            state,
            auth_chain,
            servers,
        };
        let room = self.rooms().import_joined_room(joined).await?;
        self.complete_later(&room);
        Ok(room)
    }

    /// Takes a join of a user of ours into a room that this server is in already, where nobody here
    /// could let the user in or knows enough to.
    async fn receive_join(
        &self,
        server: &ServerName,
        room: Arc<Room>,
        join: Arc<Event>,
    ) -> Result<Arc<Room>> {
        // "The resident server must also send the event to other servers participating in the room."
        let _passed_on = self.outbox().hand_over(join.event_id());
        match self.rooms().receive(server, &room, Arc::clone(&join)).await? {
            Verdict::Accepted | Verdict::Known => Ok(room),
            verdict => Err(ReceiveError::NotTaken(verdict).into()),
        }
    }

    async fn send_join(
        &self,
        server: &ServerName,
        (event, rules): (&Event, &'static RoomRules),
        omit_members: bool,
    ) -> Result<JoinAnswer> {
        let segments = [event.room_id().as_str(), event.event_id().as_str()];
        let body = Value::Object(event.to_object());
        let put = |prefix: &str, query: &[(&str, &str)]| {
            PeerRequest::put(path(prefix, segments, query), &body)
                .limited(JOIN_TIMEOUT, JOIN_BYTES_MAX)
        };
        let query: &[_] = if omit_members { &[("omit_members", "true")] } else { &[] };
        let v2 = put("/_matrix/federation/v2/send_join", query);
        match self.stream_join(server, (event.room_id(), rules), v2).await {
            Err(HandshakeError::Peer(error)) if error.is_unrecognized() => {
                let v1 = put("/_matrix/federation/v1/send_join", &[]);
                self.stream_join(server, (event.room_id(), rules), v1).await
            }
            answer => answer,
        }
    }

    /// Reads an answer of `send_join` as it comes: its events are verified while the rest is under way.
    async fn stream_join(
        &self,
        server: &ServerName,
        (room_id, rules): (&RoomId, &'static RoomRules),
        request: PeerRequest,
    ) -> Result<JoinAnswer> {
        let mut lists = [Vec::new(), Vec::new()];
        let streamed = StreamedAnswer { server, room_id, rules, arrays: &JOIN_ARRAYS };
        let take = |array: usize, mut events: Vec<Arc<Event>>| {
            lists[array].append(&mut events);
            async { Ok(()) }
        };
        let rest = self.peers().ask_for_events(self.keys(), streamed, request, take).await;
        let rest = rest.map_err(|error| match error {
            StreamError::Peer(error) => error.into(),
            StreamError::Storage(error) => error.into(),
            error => bad_answer(server, &error.to_string()),
        })?;
        let rest: JoinRest = serde_json::from_value(Value::Object(rest))
            .map_err(|error| bad_answer(server, &error.to_string()))?;
        let [auth_chain, state] = lists;
        Ok(JoinAnswer { auth_chain, state, rest })
    }

    /// The join with the resident's signature, if it sent that and it is the same event.
    async fn read_join(
        &self,
        server: &ServerName,
        rules: &'static RoomRules,
        returned: Option<Value>,
        sent: Event,
    ) -> Result<Arc<Event>> {
        let Some(returned) = returned else { return Ok(Arc::new(sent)) };
        let event = verify_event(self.keys(), rules, &returned.to_string()).await?;
        match event {
            Ok(event) if event.event_id() == sent.event_id() => Ok(event),
            Ok(_) => Err(bad_answer(server, "the join that it returned is another event")),
            Err(error) => {
                tracing::debug!(server.name = %server, %error, "the returned join is not used");
                Ok(Arc::new(sent))
            }
        }
    }

    async fn knock_through(&self, server: &ServerName, entry: &RemoteEntry) -> Result<()> {
        let Filled { event, version } =
            self.fill_template(server, entry, Membership::Knock).await?;
        let segments = [event.room_id().as_str(), event.event_id().as_str()];
        let path = path("/_matrix/federation/v1/send_knock", segments, &[]);
        let request = PeerRequest::put(path, &Value::Object(event.to_object()));
        let answer: KnockAnswer = self.peers().ask(server, request).await?;
        let stripped = answer.knock_room_state.iter().take(100).filter_map(|entry| {
            let event = Event::parse(&entry.to_string(), version.rules());
            event.map_or_else(|_| strip_value(entry), |event| Some(strip(&event)))
        });
        let member = OutlierMember {
            room_id: entry.room_id.clone(),
            version,
            event: Arc::new(event),
            stripped_state: stripped.collect(),
        };
        self.rooms().store_outlier_member(member).await?;
        Ok(())
    }

    /// Asks for a template, checks that it is what was asked for, and makes an event of it.
    pub(super) async fn fill_template(
        &self,
        server: &ServerName,
        entry: &RemoteEntry,
        membership: Membership,
    ) -> Result<Filled> {
        let (user, room_id) = (entry.user.as_str(), entry.room_id.as_str());
        let prefix = format!("/_matrix/federation/v1/make_{}", membership.as_str());
        let versions: Vec<_> = match membership {
            Membership::Leave => Vec::new(),
            _ => RoomVersion::ALL
                .iter()
                .chain(&RoomVersion::UNSTABLE)
                .map(|version| ("ver", version.as_str()))
                .collect(),
        };
        let request = PeerRequest::get(path(&prefix, [room_id, user], &versions));
        let answer: TemplateAnswer = self.peers().ask(server, request).await?;
        let version = answer.room_version.as_deref().unwrap_or("1");
        let version = RoomVersion::parse(version)
            .ok_or_else(|| bad_answer(server, "its room version was not offered"))?;
        let mut event = answer.event;
        check_template(server, &event, (&entry.room_id, user), membership)?;
        let content = event.get_mut("content").and_then(Value::as_object_mut);
        let content = content.ok_or_else(|| bad_answer(server, "a template without content"))?;
        for (key, value) in &entry.content {
            content.entry(key.clone()).or_insert_with(|| value.clone());
        }
        let now_ms = self.clock().now_ms();
        event.insert("origin".to_owned(), self.server_name().as_str().into());
        event.insert("origin_server_ts".to_owned(), now_ms.into());
        let rules = version.rules();
        event.remove("event_id");
        if rules.has_event_id_field() {
            let id = self.clock().random_text(OPAQUE_ID_LENGTH);
            event.insert("event_id".to_owned(), format!("${id}:{}", self.server_name()).into());
        }
        let key = &self.peers().signing_key();
        let event = seal_object(event, rules, self.server_name(), key)
            .map_err(|error| bad_answer(server, &error.to_string()))?;
        Ok(Filled { event, version })
    }
}

/// "The sending server MUST verify that …"
fn check_template(
    server: &ServerName,
    event: &Map<String, Value>,
    (room_id, user): (&RoomId, &str),
    membership: Membership,
) -> Result<()> {
    let text = |key: &str| event.get(key).and_then(Value::as_str);
    let named = event.get("content").and_then(|content| content.get("membership"));
    let expected = text("room_id") == Some(room_id.as_str())
        && text("sender") == Some(user)
        && text("state_key") == Some(user)
        && text("type") == Some(MEMBER)
        && named.and_then(Value::as_str) == Some(membership.as_str());
    match expected {
        true => Ok(()),
        false => Err(bad_answer(server, "the template is for something else")),
    }
}

/// "Required if `members_omitted` is true."
fn read_servers(server: &ServerName, rest: &JoinRest) -> Result<Option<Vec<OwnedServerName>>> {
    if !rest.members_omitted {
        return Ok(None);
    }
    let Some(names) = &rest.servers_in_room else {
        return Err(bad_answer(server, "it does not say which servers are in the room"));
    };
    let names = names.iter().filter_map(|name| OwnedServerName::try_from(name.as_str()).ok());
    Ok(Some(names.collect()))
}

pub(super) fn bad_answer(server: &ServerName, reason: &str) -> HandshakeError {
    HandshakeError::BadAnswer { server: server.to_owned(), reason: reason.to_owned() }
}

/// Whether another server would say the same: the user is banned or not invited. What only this
/// server cannot do, another one may.
fn is_final(error: &HandshakeError) -> bool {
    match error {
        HandshakeError::Peer(error) => {
            error.refusal().is_some_and(|(_, errcode)| errcode == "M_INCOMPATIBLE_ROOM_VERSION")
        }
        HandshakeError::Storage(_) => true,
        _ => false,
    }
}

/// Of two failures, that which tells the user more: what a server said, rather than that one could
/// not be reached.
fn prefer(before: HandshakeError, now: HandshakeError) -> HandshakeError {
    let says_something = |error: &HandshakeError| match error {
        HandshakeError::NoServers => 0,
        HandshakeError::Peer(PeerError::Refused { errcode, .. }) if errcode == "M_NOT_FOUND" => 2,
        HandshakeError::Peer(PeerError::Refused { .. }) => 3,
        _ => 1,
    };
    if says_something(&before) > says_something(&now) { before } else { now }
}
