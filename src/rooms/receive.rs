//! Events from other servers: what they lack is fetched, then they are judged and placed into the
//! room's graph (server-server API, "Checks performed on receipt of a PDU"). Not for signatures and
//! hashes, which are verified before.

use std::sync::Arc;

use ruma::{OwnedEventId, ServerName};

use super::{
    append::AppendError,
    event_store::event_key,
    gap::Hunt,
    placement::{Basis, Judged, Lacking},
    registry::Rooms,
    room::Room,
    source::{EventSource, PolicyRefusal},
};
use crate::{
    protocol::{authorisation::AuthRejection, event::Event},
    storage::{self, StorageError},
};

/// How often an event is judged again because the room changed before it was placed.
const ATTEMPTS_MAX: usize = 8;
/// Places looked at in one step when a free one is sought.
const PLACES_STEP: usize = 100;
/// Events that one arrival may set free.
const FREED_EVENTS_MAX: usize = 10_000;

/// What became of a received event. All but [`Verdict::Waiting`] is final for the sender; none of it
/// makes the transaction that carried the event fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the graph, and in the timeline unless it is old.
    Accepted,
    /// It is in the graph but not shown to clients ("Soft failure").
    SoftFailed(String),
    /// It is kept, marked, and of no effect ("Rejection").
    Rejected(String),
    /// These events, which it builds upon, could not be fetched. It is kept, and judged when they
    /// arrive; it may also be sent again.
    Waiting(Vec<OwnedEventId>),
    /// It was here before; what became of it then stands.
    Known,
}

/// Why an event could not be taken. It may be sent again.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error("the event is of another room")]
    OtherRoom,
    #[error("this server is not in the room")]
    NotInRoom,
    #[error("the room changed too often meanwhile")]
    Contended,
    /// Who sent the event does not tell what is before it. The event is not kept.
    #[error("your server does not tell what is before the event")]
    Withheld,
    #[error("the event is not allowed: {0}")]
    Forbidden(AuthRejection),
    /// From a join: what came with it is no state of the room.
    #[error("the state of the room is not whole: {0}")]
    BadState(String),
    /// From a signed membership: what it would be kept as instead.
    #[error("the event is not taken: {0:?}")]
    NotTaken(Verdict),
    /// Of a signed membership.
    #[error(transparent)]
    NotRecommended(PolicyRefusal),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<AppendError> for ReceiveError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Rejected(rejection) => Self::Forbidden(rejection),
            AppendError::NotRecommended(refusal) => Self::NotRecommended(refusal),
            AppendError::Storage(error) => error.into(),
            _ => Self::Contended,
        }
    }
}

/// How far an event got with what is here.
pub(super) enum Taking {
    Done(Verdict),
    Lacking(Lacking),
}

/// What was learnt of an event before it is placed.
#[derive(Clone, Copy, Default)]
pub(super) struct Advice<'a> {
    pub basis: Basis<'a>,
    /// Whether the room's policy server advises against it.
    pub is_discouraged: bool,
    /// Whether nothing here has heard of it: it is not in the store, nobody names it, waits for it or redacts it.
    pub is_unheard_of: bool,
}

impl<'a> Advice<'a> {
    pub fn upon(basis: Basis<'a>) -> Self {
        Self { basis, ..Self::default() }
    }
}

impl Rooms {
    /// Has rooms ask `source` for what they lack, from now on.
    pub fn set_event_source(&self, source: Arc<dyn EventSource>) {
        self.0.source.replace(source);
    }

    /// Takes an event that `origin` sent: verified (signatures, content hash) and of this room.
    ///
    /// Gaps are filled through the [`EventSource`] in bounded rounds; the call may therefore take as
    /// long as the network does. It may run for several events of a room at once, and no other room
    /// waits for it. The caller keeps the order of one origin: one event of a room and origin at a
    /// time, in the order of the transactions.
    ///
    /// A room that this server knows but is not in takes one kind of event: the retraction of an
    /// invitation or the refusal of a knock of one of its users.
    ///
    /// Returns when the event is durable.
    pub async fn receive(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
        event: Arc<Event>,
    ) -> Result<Verdict, ReceiveError> {
        if event.room_id() != room.room_id
            || !self.find_foreign(room, [event.event_id()].into_iter()).await?.is_empty()
        {
            return Err(ReceiveError::OtherRoom);
        }
        if !self.is_server_in_room(room, self.server_name()).await? {
            return self.receive_outside(origin, room, event).await;
        }
        let verdict = Hunt::new(self, origin, room).await?.bring_home(&event).await?;
        self.join_extremities(room).await;
        Ok(verdict)
    }

    /// Judges an event with what is here and places it, and all that waited for it. No network.
    pub(super) async fn take(
        &self,
        room: &Arc<Room>,
        event: &Arc<Event>,
        advice: Advice<'_>,
    ) -> Result<Taking, ReceiveError> {
        let _alone = room.receiving.lock().await;
        let key = event_key(event.event_id());
        let noted = storage::graph::list_noted(&self.0.database, room.nid, &[key]).await?;
        let is_unheard_of = noted.is_empty();
        let taking = self.take_alone(room, event, Advice { is_unheard_of, ..advice }).await?;
        let is_new = matches!(taking, Taking::Done(ref verdict) if *verdict != Verdict::Known);
        if is_new && !is_unheard_of {
            self.free_waiting(room, event).await?;
        }
        Ok(taking)
    }

    /// The same for a caller that holds `room.receiving`, without what waited.
    pub(super) async fn take_alone(
        &self,
        room: &Arc<Room>,
        event: &Arc<Event>,
        advice: Advice<'_>,
    ) -> Result<Taking, ReceiveError> {
        for _ in 0..ATTEMPTS_MAX {
            let placed = match self.judge(room, event, advice).await? {
                Judged::Known(_) => return Ok(Taking::Done(Verdict::Known)),
                Judged::Lacking(lacking) => return Ok(Taking::Lacking(lacking)),
                Judged::Rejected(placed, rejection) => {
                    let verdict = Verdict::Rejected(rejection.to_string());
                    self.store_hidden(room, &placed, &verdict).await?;
                    return Ok(Taking::Done(verdict));
                }
                Judged::Allowed(placed) => placed,
            };
            if !advice.is_unheard_of
                && let Some(ordering) = self.find_late_place(room, event).await?
            {
                self.store_late(room, &placed, ordering).await?;
                return Ok(Taking::Done(Verdict::Accepted));
            }
            if advice.is_discouraged {
                let reason = "the room's policy server advises against it".to_owned();
                let verdict = Verdict::SoftFailed(reason);
                self.store_hidden(room, &placed, &verdict).await?;
                return Ok(Taking::Done(verdict));
            }
            match self.place_live(room, &placed).await {
                Ok(()) => return Ok(Taking::Done(Verdict::Accepted)),
                Err(AppendError::Rejected(rejection)) => {
                    let verdict = Verdict::SoftFailed(rejection.to_string());
                    self.store_hidden(room, &placed, &verdict).await?;
                    self.stick_hidden(room, (placed.nid, &placed.event)).await?;
                    return Ok(Taking::Done(verdict));
                }
                // What was before it in the queue was lost.
                Err(AppendError::Contended | AppendError::Storage(StorageError::Superseded)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ReceiveError::Contended)
    }

    /// Judges what waited for an event that arrived, and what waited for that. What the room's policy server
    /// has to be asked about waits on: nobody is asked here, but when the room's turn comes (`waiting`).
    pub(super) async fn free_waiting(
        &self,
        room: &Arc<Room>,
        event: &Arc<Event>,
    ) -> Result<(), ReceiveError> {
        let policy = self.find_policy_server(room).await?;
        let is_open = |event: &Event| {
            policy.as_ref().is_some_and(|policy| policy.check(event, room.rules).is_err())
        };
        let mut arrived = vec![Arc::clone(event)];
        let mut freed = 0;
        while let Some(event) = arrived.pop() {
            let key = event_key(event.event_id());
            for nid in storage::graph::list_waiting(&self.0.database, room.nid, &key).await? {
                let Some(waiting) = self.load_of_room(room, nid).await? else {
                    continue;
                };
                let waiting = Arc::clone(&waiting.event);
                if is_open(&waiting) {
                    continue;
                }
                match self.take_alone(room, &waiting, Advice::default()).await? {
                    Taking::Done(Verdict::Known) => self.forget_wait(room, nid).await?,
                    Taking::Done(_) => {
                        freed += 1;
                        arrived.push(waiting);
                    }
                    Taking::Lacking(_) => {}
                }
                if freed > FREED_EVENTS_MAX {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Judges what waited for events that came as part of a state or an authorisation chain: such an event
    /// may authorise what could not be judged without it.
    pub(super) async fn free_waiting_for(
        &self,
        room: &Arc<Room>,
        events: &[Arc<Event>],
    ) -> Result<(), ReceiveError> {
        let awaited = storage::graph::list_awaited(&self.0.database, room.nid).await?;
        if awaited.is_empty() {
            return Ok(());
        }
        let key_of = |event: &Event| event_key(event.event_id());
        for event in events.iter().filter(|event| awaited.contains(&key_of(event))) {
            self.free_waiting(room, event).await?;
        }
        Ok(())
    }

    /// Where an event belongs that one of the graph names already: below that one. None for an event
    /// that nobody has named yet.
    async fn find_late_place(
        &self,
        room: &Room,
        event: &Event,
    ) -> Result<Option<i64>, StorageError> {
        let key = event_key(event.event_id());
        let database = &self.0.database;
        let children = storage::graph::list_children_of_missing(database, room.nid, &key).await?;
        // Hidden events have no place, and what only they name is as good as new.
        match children.iter().map(|(_, ordering)| *ordering).find(|place| *place != 0) {
            Some(ordering) => self.place_below(room, ordering).await.map(Some),
            None => Ok(None),
        }
    }

    /// The first free place in the room below another one.
    pub(super) async fn place_below(
        &self,
        room: &Room,
        ordering: i64,
    ) -> Result<i64, StorageError> {
        let mut place = ordering - 1;
        loop {
            let taken = self.list_backwards(room, (i64::MIN, place + 1), PLACES_STEP).await?;
            for event in &taken {
                if event.ordering() != place {
                    return Ok(place);
                }
                place -= 1;
            }
            if taken.len() < PLACES_STEP {
                return Ok(place);
            }
        }
    }
}
