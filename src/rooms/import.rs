//! Rooms that this server enters through another one (server-server API, "Joining Rooms"), and what
//! reaches it of rooms that it is not in: invitations and knocks.

use std::{collections::HashMap, sync::Arc};

use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId};
use serde_json::Value;

use super::{
    acceptance::Accepted,
    append::{AppendError, EventRequest},
    attempt::{Attempt, AttemptError},
    commit::write_event,
    event_store::{NewStoredEvent, StoredEvent},
    fork::Placed,
    head_change::membership_number,
    keep::request_of,
    partial::PartialState,
    placement::{Basis, Judged},
    receive::{Advice, ReceiveError, Verdict},
    registry::Rooms,
    room::{Head, Room},
    state::differences,
    state_keys::MEMBER,
    user_rooms::UserRoom,
};
use crate::{
    protocol::{event::Event, membership::Membership, room_version::RoomVersion},
    storage::{
        self, EventNid, StateNid, StorageError, WriteTx,
        events::{Place, flags},
        rooms::RoomRow,
    },
};

/// The answer of `send_join`, verified: signatures and hashes of all events.
pub struct JoinedRoom {
    pub room_id: OwnedRoomId,
    pub version: RoomVersion,
    /// The resident server.
    pub origin: OwnedServerName,
    /// The join event of this server's user, with all its signatures.
    pub join: Arc<Event>,
    /// The state before the join, in any order.
    pub state: Vec<Arc<Event>>,
    /// The authorisation chains of the state and of the join, in any order.
    pub auth_chain: Vec<Arc<Event>>,
    /// Where the state lacks most members (`members_omitted`): the servers in the room before the join.
    pub servers: Option<Vec<OwnedServerName>>,
}

/// A membership event that came without the room: an invitation, a knock of our user, their
/// retraction, or the rejection of an invitation.
pub struct OutlierMember {
    pub room_id: OwnedRoomId,
    pub version: RoomVersion,
    /// Verified, and with all its signatures.
    pub event: Arc<Event>,
    /// `invite_room_state` or `knock_room_state`, checked ([`check_stripped_state`]) or reduced to
    /// stripped state by the caller.
    pub stripped_state: Vec<Value>,
}

/// Why the state that came with an invitation or knock is not good (MSC4311).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StrippedStateError {
    #[error("there is no m.room.create event in it")]
    CreateMissing,
    #[error("an event of it is not in the format of the room version: {0}")]
    Malformed(String),
    #[error("an event of it is of another room")]
    OtherRoom,
}

impl Rooms {
    /// Enters a room through another server, also one that this server knew and left. Every event
    /// of the answer is judged by its own authorisation events, the join by the state. Returns when
    /// all is durable and the join is published to syncs.
    pub async fn import_joined_room(&self, joined: JoinedRoom) -> Result<Arc<Room>, ReceiveError> {
        let bad = |reason: &str| ReceiveError::BadState(reason.to_owned());
        if joined.join.room_id() != joined.room_id {
            return Err(ReceiveError::OtherRoom);
        }
        let room = self.ensure_room(&joined.room_id, joined.version).await?;
        tracing::debug!(room.id = %room.room_id, origin = %joined.origin, "entering");
        let _alone = room.receiving.lock().await;
        if let Some(known) = self.find_any_event(&room, joined.join.event_id()).await?
            && known.is_in_graph()
        {
            return Ok(Arc::clone(&room));
        }
        let events: Vec<_> = joined.state.iter().chain(&joined.auth_chain).cloned().collect();
        let here = self.import_outliers(&room, &events).await?;
        let state_ids = joined.state.iter().map(|event| event.event_id());
        let state_events: Vec<_> = state_ids.filter_map(|id| here.get(id).cloned()).collect();
        let is_create = |event: &Arc<StoredEvent>| {
            event.event.is_state_of("m.room.create", "") && !event.is_rejected()
        };
        if !state_events.iter().any(is_create) {
            return Err(bad("it has no valid create event"));
        }
        let old = room.head();
        let (given, row) = self.state_of(state_events.iter().cloned(), &[&old.state])?;
        if let Some(row) = row {
            self.store_snapshot(&row).await?;
        }
        let basis = match joined.servers {
            Some(_) => Basis::GivenPart(&given),
            None => Basis::Given(&given),
        };
        match self.judge(&room, &joined.join, Advice::upon(basis)).await? {
            Judged::Allowed(placed) => {
                let events = here.into_values().map(|event| (event.nid, event)).collect();
                let partial = match joined.servers {
                    Some(servers) => {
                        let entry = (placed.nid, &*joined.join);
                        Some(self.describe_entry(&room, entry, &joined.origin, servers).await?)
                    }
                    None => None,
                };
                self.enter(&room, &placed, partial, events).await?;
                self.free_waiting(&room, &joined.join).await?;
                Ok(Arc::clone(&room))
            }
            Judged::Rejected(_, rejection) => Err(ReceiveError::Forbidden(rejection)),
            Judged::Lacking(lacking) => {
                let named: Vec<_> = lacking.all().iter().map(ToString::to_string).collect();
                Err(bad(&format!("the join names {}, which is not there", named.join(", "))))
            }
            Judged::Known(_) => Ok(Arc::clone(&room)),
        }
    }

    /// How a room is entered without its members. Where it was left before it was whole, and all that the new
    /// entry follows is here, what is being fetched for the earlier one will do.
    async fn describe_entry(
        &self,
        room: &Room,
        (join, event): (EventNid, &Event),
        origin: &ServerName,
        mut servers: Vec<OwnedServerName>,
    ) -> Result<Arc<PartialState>, StorageError> {
        let mut first = join;
        if let Some(earlier) = room.head().partial() {
            let here = self.load_here(room, event.prev_events()).await?;
            let is_here = |id| here.get(id).is_some_and(|prev| prev.is_in_graph());
            if event.prev_events().all(is_here) {
                first = earlier.join;
                servers.extend(earlier.servers.iter().cloned());
            }
        }
        Ok(Arc::new(PartialState::new(first, origin, servers)))
    }

    /// Has the room stand where the join puts it.
    async fn enter(
        &self,
        room: &Arc<Room>,
        placed: &Placed,
        partial: Option<Arc<PartialState>>,
        events: HashMap<EventNid, Arc<StoredEvent>>,
    ) -> Result<(), AppendError> {
        let requests = [request_of(&placed.event, placed.redacts.clone())];
        let mut known = self.prepare(Some(room), &requests, room.rules).await?;
        known.events = events;
        self.attempt(room, &mut known, None, |attempt| attempt.enter(placed, partial.as_ref()))
            .await?;
        room.forget_servers();
        // Who waited for the members of an earlier entry looks again.
        room.completed.notify_waiters();
        self.0.states_after.insert(placed.nid, placed.after.nid());
        Ok(())
    }

    /// The room with this ID, known from now on if it was not. A room of which no state is known gets
    /// the version that whoever invites, or lets in, says.
    pub(super) async fn ensure_room(
        &self,
        room_id: &RoomId,
        version: RoomVersion,
    ) -> Result<Arc<Room>, ReceiveError> {
        let _alone = self.0.entering.lock().await;
        if let Some(room) = self.find(room_id).await? {
            if room.rules.version == version {
                return Ok(room);
            }
            if !room.head().extremities.is_empty() {
                return Err(ReceiveError::BadState("its version is not the room's".to_owned()));
            }
            let mut tx = WriteTx::new();
            storage::rooms::save_version(&mut tx, room.nid, version.as_str());
            self.0.writer.commit(tx).await?;
            self.0.unregister(&room);
            drop(room);
            return self.find(room_id).await?.ok_or(ReceiveError::Contended);
        }
        let (nid, rules) = (self.0.next_room_nid(), version.rules());
        let room = Arc::new(Room::new(nid, room_id.to_owned(), rules, Head::empty(), i64::MIN));
        let mut tx = WriteTx::new();
        let position = tx.next_position();
        let row = RoomRow {
            nid,
            room_id: room_id.to_string(),
            version: version.as_str().to_owned(),
            extremities: "[]".to_owned(),
            state_nid: StateNid::EMPTY,
            depth: 0,
            notify_ordinal: 0,
            latest_position: 0,
            joined_count: 0,
            invited_count: 0,
        };
        storage::rooms::save(&mut tx, &row, position);
        let (registered, engine) = (Arc::clone(&room), Arc::clone(&self.0));
        tx.after_commit(move |_| engine.register(&registered));
        self.0.writer.commit(tx).await?;
        Ok(room)
    }

    /// Keeps a membership of a user of this server in a room that the server is not in, and tells
    /// the user's syncs. The room becomes known (`find`) but has no state.
    pub async fn store_outlier_member(
        &self,
        member: OutlierMember,
    ) -> Result<Arc<StoredEvent>, ReceiveError> {
        let event = &member.event;
        let membership = Membership::of_event(event);
        let user = event.state_key().and_then(|user| <&UserId>::try_from(user).ok());
        let (Some(membership), Some(user)) = (membership, user) else {
            return Err(ReceiveError::BadState("the event is no membership".to_owned()));
        };
        if event.room_id() != member.room_id || user.server_name() != self.server_name() {
            return Err(ReceiveError::OtherRoom);
        }
        let room = self.ensure_room(&member.room_id, member.version).await?;
        let _alone = room.receiving.lock().await;
        if let Some(known) = self.find_any_event(&room, event.event_id()).await? {
            return Ok(known);
        }
        let mut tx = WriteTx::new();
        let position = tx.next_position();
        let stored = self.write_outlier_member(&room, event, &mut tx).await?;
        let key = self.0.keys.intern(MEMBER, user.as_str()).await?;
        let number = membership_number(membership);
        storage::memberships::save(&mut tx, (key.nid, room.nid), number, stored.nid, position);
        if !member.stripped_state.is_empty() {
            let state = Value::Array(member.stripped_state).to_string().replace("\\u0000", "");
            storage::graph::save_stripped(&mut tx, stored.nid, &state);
        }
        self.judge_member(&room, &stored, position, &mut tx).await?;
        self.tell_user(&mut tx, (user, membership), (&room, &stored), position);
        self.0.writer.commit(tx).await?;
        Ok(stored)
    }

    async fn write_outlier_member(
        &self,
        room: &Room,
        event: &Arc<Event>,
        tx: &mut WriteTx,
    ) -> Result<Arc<StoredEvent>, StorageError> {
        let user = event.state_key().unwrap_or_default();
        let key = self.0.keys.intern(MEMBER, user).await?;
        key.store(tx);
        let stored = Arc::new(StoredEvent::new(NewStoredEvent {
            nid: self.0.next_event_nid(),
            room_nid: room.nid,
            state_nid: StateNid::EMPTY,
            state_key_nid: Some(key.nid),
            replaces_nid: None,
            flags: flags::OUTLIER,
            notify_ordinal: 0,
            sent_by: None,
            redacted_by: None,
            event: Arc::clone(event),
        }));
        write_event(tx, &stored, Place::Nowhere, false);
        Ok(stored)
    }

    /// Has push rules judge an invitation.
    async fn judge_member(
        &self,
        room: &Arc<Room>,
        stored: &Arc<StoredEvent>,
        position: u32,
        tx: &mut WriteTx,
    ) -> Result<(), StorageError> {
        let Some(hook) = self.0.acceptance.get() else {
            return Ok(());
        };
        let event = &stored.event;
        let content = event.content_as().unwrap_or(Value::Null);
        let user = event.state_key().unwrap_or_default();
        let request = EventRequest::state(event.sender(), MEMBER, user, content);
        let acceptance = hook.prepare(self, Some(room), &[request]).await?;
        let accepted = Accepted {
            room,
            head: &room.head(),
            events: std::slice::from_ref(stored),
            positions: &[position],
            joined: &[],
            redacted: &[],
        };
        acceptance.accept(&accepted, tx);
        Ok(())
    }

    /// The state that came with a membership of a room that this server is not in, as stripped events
    /// (client-server API, "Stripped state"), without the membership itself. None for events of rooms
    /// that it is in.
    pub async fn find_stripped_state(
        &self,
        member: &StoredEvent,
    ) -> Result<Option<Vec<String>>, StorageError> {
        if member.is_in_graph() {
            return Ok(None);
        }
        let text = storage::graph::find_stripped(&self.0.database, member.nid).await?;
        let text = text.unwrap_or_else(|| "[]".to_owned());
        let entries: Vec<Value> = serde_json::from_str(&text)
            .map_err(|error| StorageError::Damaged(format!("stripped state: {error}")))?;
        let is_other = |entry: &&Value| {
            entry["type"] != MEMBER || entry["state_key"].as_str() != member.event.state_key()
        };
        let strip = |entry: &Value| {
            let names = ["content", "sender", "state_key", "type"];
            // Those of the create event were kept where they are proven (MSC4311).
            let extra = ["event_id", "origin_server_ts"];
            let extra = extra.iter().filter(|name| entry.get(**name).is_some());
            let names = names.iter().chain(extra);
            let kept = names.map(|name| ((*name).to_owned(), entry[*name].clone()));
            Value::Object(kept.collect()).to_string()
        };
        Ok(Some(entries.iter().filter(is_other).map(strip).collect()))
    }

    fn tell_user(
        &self,
        tx: &mut WriteTx,
        (user, membership): (&UserId, Membership),
        (room, event): (&Arc<Room>, &Arc<StoredEvent>),
        position: u32,
    ) {
        let (engine, room, nid) = (Arc::clone(&self.0), Arc::clone(room), event.nid);
        let user = user.to_owned();
        let told = user.clone();
        self.0.events.remember(event);
        tx.after_commit(move |committed| {
            let position = committed.position(position);
            let place = UserRoom { room, membership, event: nid, position, forgotten: false };
            engine.users.apply(&user, place);
        });
        let engine = Arc::clone(&self.0);
        tx.after_publish(move |_| engine.notifier.wake(&told));
    }

    /// A room that this server is not in: only what ends an invitation or knock of our users counts.
    pub(super) async fn receive_outside(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
        event: Arc<Event>,
    ) -> Result<Verdict, ReceiveError> {
        let ends =
            matches!(Membership::of_event(&event), Some(Membership::Leave | Membership::Ban));
        let user = event.state_key().and_then(|user| <&UserId>::try_from(user).ok());
        let user = user.filter(|user| ends && user.server_name() == self.server_name());
        let Some(user) = user else {
            return Err(ReceiveError::NotInRoom);
        };
        let place = self.rooms_of(user).await?.find(room.nid);
        let Some(place) =
            place.filter(|p| matches!(p.membership, Membership::Invite | Membership::Knock))
        else {
            return Err(ReceiveError::NotInRoom);
        };
        let current = self.events().load_one(room.facts(), place.event).await?;
        // Nothing more can be checked: who invited takes the invitation back (of anybody else it is not known
        // here whether they may), or the event names the knock.
        let may_end = match place.membership {
            Membership::Invite => event.sender() == current.event.sender(),
            _ => event.auth_events().any(|id| id == current.event.event_id()),
        };
        if !may_end || event.sender().server_name() != origin {
            return Err(ReceiveError::NotInRoom);
        }
        let (room_id, version) = (room.room_id.clone(), room.rules.version);
        let member = OutlierMember { room_id, version, event, stripped_state: Vec::new() };
        self.store_outlier_member(member).await?;
        Ok(Verdict::Accepted)
    }
}

impl Attempt<'_> {
    /// Has the room stand where the state before the join puts it, and the join behind it.
    fn enter(
        &mut self,
        placed: &Placed,
        partial: Option<&Arc<PartialState>>,
    ) -> Result<(), AttemptError> {
        let changes = differences(self.head.state.map(), placed.before.map());
        self.head.extremities.clear();
        self.head.forks.clear();
        self.head.state = placed.before.clone();
        self.note_partial(partial);
        for change in changes {
            // The join will be the first event and have the first position.
            self.apply_difference(change, 0, 0)?;
        }
        self.add_placed(placed)
    }

    fn note_partial(&mut self, partial: Option<&Arc<PartialState>>) {
        let (engine, nid) = (Arc::clone(self.engine), self.room_nid);
        let was_partial = self.head.partial.take().is_some();
        self.head.partial = partial.cloned();
        match partial.cloned() {
            Some(partial) => {
                partial.store(&mut self.tx, nid);
                self.tx.after_commit(move |_| engine.partial.note_partial(nid, &partial));
            }
            None if was_partial => {
                storage::partial_rooms::give_up(&mut self.tx, nid);
                self.tx.after_commit(move |_| engine.partial.forget(nid));
            }
            None => {}
        }
    }
}

/// Checks the state that came with an invitation or knock (server-server API, `invite` and
/// `send_knock`; MSC4311): every entry a full event of the room, one of them `m.room.create`, whose
/// hash from version 12 on is the room's ID. Hands over the events, whose signatures the caller
/// verifies.
pub fn check_stripped_state(
    entries: &[Value],
    room_id: &RoomId,
    version: RoomVersion,
) -> Result<Vec<Arc<Event>>, StrippedStateError> {
    let mut events = Vec::with_capacity(entries.len());
    for entry in entries {
        let event = Event::parse(&entry.to_string(), version.rules())
            .map_err(|error| StrippedStateError::Malformed(error.to_string()))?;
        // The ID of a room of version 12 is that of its create event, so this proves the event.
        if event.room_id() != room_id {
            return Err(StrippedStateError::OtherRoom);
        }
        events.push(Arc::new(event));
    }
    match events.iter().any(|event| event.is_state_of("m.room.create", "")) {
        true => Ok(events),
        false => Err(StrippedStateError::CreateMissing),
    }
}
