//! Rooms whose members are not all known yet, because the server that let us in left them out
//! (MSC3706, MSC3902): which they are, and waiting for the rest. Not for fetching it (`completion`).

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, atomic::Ordering},
};

use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName, UserId};

use super::{
    append::AppendError,
    attempt::{Attempt, AttemptError, Known},
    event_store::StoredEvent,
    registry::Rooms,
    room::{Head, Room},
    state::State,
    state_keys::MEMBER,
    timeline::ordering_of_position,
};
use crate::{
    protocol::membership::Membership,
    storage::{
        self, Database, EventNid, RoomNid, StateKeyNid, StorageError, WriteTx,
        partial_rooms::PartialRoomRow,
    },
};

/// Events that are looked at together.
const STEP: usize = 1000;

/// How a room was entered whose state is not whole yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialState {
    /// The event by which this server came in.
    pub(super) join: EventNid,
    /// The server that let us in.
    pub origin: OwnedServerName,
    /// The servers with joined users before the join, sorted.
    pub servers: Arc<[OwnedServerName]>,
}

/// What is remembered of rooms that are not in memory.
#[derive(Default)]
pub(super) struct PartialRooms(Mutex<HashMap<RoomNid, Progress>>);

#[derive(Clone)]
enum Progress {
    Partial(Arc<PartialState>),
    /// Since this stream position.
    Whole(i64),
}

impl PartialState {
    pub(super) fn new(
        join: EventNid,
        origin: &ServerName,
        mut servers: Vec<OwnedServerName>,
    ) -> Self {
        servers.push(origin.to_owned());
        servers.sort_unstable();
        servers.dedup();
        Self { join, origin: origin.to_owned(), servers: servers.into() }
    }

    fn of_row(row: &PartialRoomRow) -> Option<Self> {
        let servers: Vec<OwnedServerName> = serde_json::from_str(&row.servers).ok()?;
        let origin = servers.first()?.clone();
        Some(Self::new(row.join, &origin, servers))
    }

    /// Queues that the room is entered so.
    pub(super) fn store(&self, tx: &mut WriteTx, room: RoomNid) {
        let others = self.servers.iter().filter(|server| **server != self.origin);
        let servers: Vec<&OwnedServerName> = std::iter::once(&self.origin).chain(others).collect();
        let servers = serde_json::json!(servers).to_string();
        storage::partial_rooms::begin(tx, room, self.join, &servers);
    }

    /// Whether the server is one of those that were in the room.
    pub fn has_server(&self, server: &ServerName) -> bool {
        self.servers.binary_search_by(|known| known.as_str().cmp(server.as_str())).is_ok()
    }
}

impl PartialRooms {
    pub async fn load(database: &Database) -> Result<Self, StorageError> {
        let mut known = HashMap::new();
        for row in storage::partial_rooms::list(database).await? {
            let progress = match row.completed_position {
                Some(position) => Progress::Whole(position),
                None => match PartialState::of_row(&row) {
                    Some(partial) => Progress::Partial(Arc::new(partial)),
                    None => {
                        let what = format!("the servers of partial room {}", row.room.0);
                        return Err(StorageError::Damaged(what));
                    }
                },
            };
            known.insert(row.room, progress);
        }
        Ok(Self(Mutex::new(known)))
    }

    /// How the room was entered, if its state is not whole.
    pub fn find(&self, room: RoomNid) -> Option<Arc<PartialState>> {
        match self.0.lock().get(&room) {
            Some(Progress::Partial(partial)) => Some(Arc::clone(partial)),
            _ => None,
        }
    }

    /// Since which position the state is whole; 0 where it always was, or is not.
    pub fn completed_position(&self, room: RoomNid) -> i64 {
        match self.0.lock().get(&room) {
            Some(Progress::Whole(position)) => *position,
            _ => 0,
        }
    }

    pub fn note_partial(&self, room: RoomNid, partial: &Arc<PartialState>) {
        self.0.lock().insert(room, Progress::Partial(Arc::clone(partial)));
    }

    pub fn note_whole(&self, room: RoomNid, position: i64) {
        self.0.lock().insert(room, Progress::Whole(position));
    }

    pub fn forget(&self, room: RoomNid) {
        self.0.lock().remove(&room);
    }

    fn list(&self) -> Vec<RoomNid> {
        let known = self.0.lock();
        let partial = known.iter().filter(|(_, one)| matches!(one, Progress::Partial(_)));
        partial.map(|(room, _)| *room).collect()
    }
}

impl Head {
    /// How the room was entered, while its state is not whole.
    pub fn partial(&self) -> Option<&Arc<PartialState>> {
        self.partial.as_ref()
    }
}

impl Room {
    /// The stream position since which the state is whole; 0 where it always was.
    pub fn completed_position(&self) -> i64 {
        self.completed_position.load(Ordering::Acquire)
    }

    pub(super) fn note_completed(&self, position: i64) {
        self.completed_position.store(position, Ordering::Release);
        self.forget_servers();
    }
}

impl Rooms {
    /// The rooms whose state is not whole.
    pub async fn list_partial(&self) -> Result<Vec<Arc<Room>>, StorageError> {
        self.load_all(&self.0.partial.list()).await
    }

    /// Waits until the state of a room is whole, or nobody completes it any more.
    pub async fn await_whole(&self, room: &Room) {
        loop {
            let mut completed = std::pin::pin!(room.completed.notified());
            completed.as_mut().enable();
            if room.head().partial.is_none() {
                return;
            }
            completed.await;
        }
    }

    /// Whether an event was judged by a state that is not whole yet.
    pub async fn is_partial_event(
        &self,
        room: &Room,
        event: EventNid,
    ) -> Result<bool, StorageError> {
        storage::partial_rooms::has_event(self.database(), room.nid, event).await
    }

    /// The servers of those who have left the room since a stream position.
    pub async fn list_departed_servers(
        &self,
        room: &Room,
        since: i64,
    ) -> Result<BTreeSet<OwnedServerName>, StorageError> {
        let range = (ordering_of_position(since), i64::MAX);
        let changes = self.list_state_changes(room, range).await?.into_iter();
        let members = changes.filter(|(key, _)| key.is_membership()).map(|(_, event)| event);
        let mut servers = BTreeSet::new();
        for step in members.collect::<Vec<_>>().chunks(STEP) {
            for event in self.events().load(room.facts(), step).await? {
                let user = event.event.state_key().and_then(|user| <&UserId>::try_from(user).ok());
                let has_left = Membership::of_event(&event.event) != Some(Membership::Join);
                servers.extend(user.filter(|_| has_left).map(|user| user.server_name().to_owned()));
            }
        }
        Ok(servers)
    }

    /// Ends the wait for a room that this server is not in any more: nobody would tell the rest.
    pub async fn give_up_partial(&self, room: &Arc<Room>) -> Result<(), AppendError> {
        let give_up = |attempt: &mut Attempt<'_>| -> Result<(), AttemptError> {
            attempt.head.partial = None;
            let (engine, nid) = (Arc::clone(attempt.engine), attempt.room_nid);
            storage::partial_rooms::give_up(&mut attempt.tx, nid);
            attempt.tx.next_position();
            attempt.tx.after_commit(move |_| engine.partial.forget(nid));
            Ok(())
        };
        self.attempt(room, &mut Known::default(), None, give_up).await?;
        room.completed.notify_waiters();
        Ok(())
    }

    /// Memberships that an event names for its authorisation and that a state does not know: where
    /// members were left out, senders are known by their events alone (MSC3902, "Handling requests and
    /// events in the partial-state room").
    pub(super) fn list_learnt(
        auth_events: &[Arc<StoredEvent>],
        state: &State,
    ) -> Vec<(StateKeyNid, Option<EventNid>)> {
        let is_member =
            |event: &&Arc<StoredEvent>| event.event.kind() == MEMBER && !event.is_rejected();
        let members = auth_events.iter().filter(is_member);
        let mut learnt: Vec<(StateKeyNid, Option<EventNid>)> = members
            .filter_map(|event| Some((event.state_key_nid?, Some(event.nid))))
            .filter(|(key, _)| state.get(*key).is_none())
            .collect();
        learnt.sort_unstable();
        learnt.dedup_by_key(|(key, _)| *key);
        learnt
    }

    /// Whether a user of another server is in the room, as far as that is known: while members are
    /// missing, every server that was in the room is believed.
    pub async fn may_be_joined(&self, room: &Room, user: &UserId) -> Result<bool, StorageError> {
        let member = self.find_member(room, user).await?;
        Ok(match (&member, room.head().partial()) {
            (None, Some(partial)) => partial.has_server(user.server_name()),
            _ => {
                Membership::of_state(member.as_ref().map(|event| &*event.event)) == Membership::Join
            }
        })
    }
}
