//! Events that are sent later (MSC4140): kept in the store until their time has come, somebody sends
//! them before, or they are cancelled. Whether they may be sent is decided when they are.

use std::{collections::hash_map::RandomState, hash::BuildHasher, sync::Arc, time::Duration};

use ruma::{OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, Notify},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    accounts::Accounts,
    protocol::membership::Membership,
    rooms::{AppendError, ContentError, EventRequest, Rooms, SentBy, StoredEvent},
    storage::{
        StorageError,
        delayed_events::{self, DelayedEventRow},
    },
};

/// The longest delay (MSC4140, `max_delay_ms`).
pub const DELAY_MS_MAX: u64 = 24 * 3600 * 1000;
/// Events of one user that wait (MSC4140, `max_scheduled`).
pub const SCHEDULED_MAX: i64 = 100;
/// How long it is known what became of an event (MSC4140, "Retention of finalised delayed events").
const FINALISED_MS_MAX: u64 = 7 * 24 * 3600 * 1000;
/// Due events that are read at once, and sent at once.
const DUE_MAX: usize = 64;
const SENDING_MAX: usize = 8;
/// How long the timer sleeps at most, and after a failure of the store.
const SLEEP_MAX: Duration = Duration::from_secs(600);
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Letters of an event's ID while it waits.
pub const DELAY_ID_LENGTH: usize = 32;
/// Locks for events; two share one rarely, and only wait for each other.
const LOCKS: usize = 64;
/// The device in whose name events are sent, so that none is sent twice.
const DEVICE: &str = "org.matrix.msc4140";

/// An event as its sender wants it.
#[derive(Clone, Debug)]
pub struct NewDelayedEvent {
    pub user_id: OwnedUserId,
    pub room_id: String,
    pub kind: String,
    pub state_key: Option<String>,
    /// A JSON object.
    pub content: String,
    pub delay_ms: u64,
    /// For how long the event is sticky when it is sent (MSC4354), milliseconds.
    pub sticky_ms: Option<u32>,
    /// The client's transaction, by its device and ID; the same one again adds nothing.
    pub request: Option<String>,
}

/// Why an event is not scheduled, sent, restarted or cancelled.
#[derive(Debug, thiserror::Error)]
pub enum DelayedEventError {
    #[error("the delay must be at least 1 ms and at most 24 hours")]
    BadDelay,
    #[error("memberships cannot be changed later")]
    Membership,
    #[error("too many events of yours wait to be sent")]
    TooMany { next_ms: u64 },
    #[error("there is no such delayed event")]
    NotFound,
    #[error("the event was sent already")]
    Sent,
    #[error("the event was cancelled already")]
    Cancelled,
    #[error("you are not in this room")]
    NotInRoom,
    #[error("the sender is suspended")]
    Suspended,
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The events of everybody that wait. Clones share them.
#[derive(Clone)]
pub struct DelayedEvents(Arc<Inner>);

struct Inner {
    rooms: Rooms,
    accounts: Arc<Accounts>,
    state_events_max: usize,
    /// Rung when an event may be due earlier than the timer thinks.
    scheduled: Notify,
    locks: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl DelayedEvents {
    /// `state_events_max` bounds the state of a room.
    pub fn new(rooms: Rooms, accounts: Arc<Accounts>, state_events_max: usize) -> Self {
        let locks = (0..LOCKS).map(|_| Mutex::default()).collect();
        let (scheduled, hasher) = (Notify::new(), RandomState::new());
        Self(Arc::new(Inner { rooms, accounts, state_events_max, scheduled, locks, hasher }))
    }

    /// Has an event sent later; returns the ID by which it is known until then.
    pub async fn schedule(&self, new: NewDelayedEvent) -> Result<String, DelayedEventError> {
        if new.delay_ms == 0 || new.delay_ms > DELAY_MS_MAX {
            return Err(DelayedEventError::BadDelay);
        }
        if new.kind == crate::rooms::MEMBER && new.state_key.is_some() {
            return Err(DelayedEventError::Membership);
        }
        let clock = self.0.rooms.clock();
        let now_ms = clock.now_ms();
        let row = DelayedEventRow {
            delay_id: clock.random_text(DELAY_ID_LENGTH),
            user_id: new.user_id.to_string(),
            room_id: new.room_id,
            kind: new.kind,
            state_key: new.state_key,
            content: new.content,
            delay_ms: new.delay_ms.cast_signed(),
            scheduled_ms: now_ms.cast_signed(),
            send_ms: (now_ms + new.delay_ms).cast_signed(),
            finalised_ms: None,
            event_id: None,
            error: None,
            sticky_ms: new.sticky_ms.map(i64::from),
        };
        let request = new.request;
        let scheduled: Result<String, DelayedEventError> = self
            .0
            .rooms
            .writer()
            .transact(move |tx| {
                Box::pin(async move {
                    if let Some(request) = &request
                        && let Some(known) = delayed_events::find_by_request(tx, request).await?
                    {
                        return Ok(known);
                    }
                    let (waiting, next_ms) =
                        delayed_events::count_waiting(tx, &row.user_id).await?;
                    if waiting >= SCHEDULED_MAX {
                        let next_ms = next_ms.cast_unsigned();
                        return Err(DelayedEventError::TooMany { next_ms });
                    }
                    delayed_events::insert(tx, &row, request.as_deref()).await?;
                    Ok(row.delay_id)
                })
            })
            .await;
        self.0.scheduled.notify_one();
        scheduled
    }

    /// A user's event, waiting or not.
    pub async fn load(
        &self,
        user: &UserId,
        delay_id: &str,
    ) -> Result<DelayedEventRow, DelayedEventError> {
        let found = delayed_events::find(self.0.rooms.database(), delay_id).await?;
        found.filter(|row| row.user_id == user.as_str()).ok_or(DelayedEventError::NotFound)
    }

    /// The event that an earlier request made, by what it was named.
    pub async fn find_repeated(&self, request: &str) -> Result<Option<String>, DelayedEventError> {
        Ok(delayed_events::find_request(self.0.rooms.database(), request).await?)
    }

    async fn load_any(&self, delay_id: &str) -> Result<DelayedEventRow, DelayedEventError> {
        let found = delayed_events::find(self.0.rooms.database(), delay_id).await?;
        found.ok_or(DelayedEventError::NotFound)
    }

    /// A user's waiting events, the next one first.
    pub async fn list(&self, user: &UserId) -> Result<Vec<DelayedEventRow>, DelayedEventError> {
        Ok(delayed_events::list_waiting(self.0.rooms.database(), user.as_str()).await?)
    }

    /// Has a waiting event wait its whole time again.
    pub async fn restart(&self, delay_id: &str) -> Result<(), DelayedEventError> {
        let _lock = self.lock(delay_id).await;
        self.load_any(delay_id).await?.require_waiting()?;
        let (delay_id, now_ms) = (delay_id.to_owned(), self.0.rooms.clock().now_ms());
        let restarted: Result<bool, StorageError> = self
            .0
            .rooms
            .writer()
            .transact(move |tx| {
                Box::pin(async move { delayed_events::restart(tx, &delay_id, now_ms).await })
            })
            .await;
        restarted?;
        Ok(())
    }

    /// Has an event never sent. One that was cancelled stays so.
    pub async fn cancel(&self, delay_id: &str) -> Result<(), DelayedEventError> {
        let _lock = self.lock(delay_id).await;
        match self.load_any(delay_id).await?.require_waiting() {
            Err(DelayedEventError::Cancelled) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Ok(self.finalise(delay_id, (None, None)).await?),
        }
    }

    /// Sends an event now. One that cannot be sent waits on; one that was sent stays so.
    pub async fn send_now(&self, delay_id: &str) -> Result<(), DelayedEventError> {
        let _lock = self.lock(delay_id).await;
        let row = self.load_any(delay_id).await?;
        match row.require_waiting() {
            Err(DelayedEventError::Sent) => return Ok(()),
            checked => checked?,
        }
        let event = self.send(&row).await?;
        Ok(self.finalise(delay_id, (event.as_deref(), None)).await?)
    }

    /// Sends what is due, first what was due while the server was down, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut sending = JoinSet::new();
        loop {
            let scheduled = self.0.scheduled.notified();
            let pause = match self.send_due(&mut sending).await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::error!(%error, "delayed events could not be read");
                    RETRY_PAUSE
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = scheduled => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Sends all that is due; returns how long to sleep.
    async fn send_due(&self, sending: &mut JoinSet<bool>) -> Result<Duration, StorageError> {
        let (rooms, mut has_failed) = (&self.0.rooms, false);
        loop {
            let now_ms = rooms.clock().now_ms();
            let due = delayed_events::list_due(rooms.database(), now_ms, DUE_MAX).await?;
            if due.is_empty() || has_failed {
                break;
            }
            for row in due {
                if sending.len() >= SENDING_MAX {
                    has_failed |= matches!(sending.join_next().await, Some(Ok(false)));
                }
                let all = self.clone();
                sending.spawn(async move { all.send_scheduled(&row.delay_id).await.is_ok() });
            }
            while let Some(sent) = sending.join_next().await {
                has_failed |= !matches!(sent, Ok(true));
            }
        }
        let now_ms = rooms.clock().now_ms();
        let forgotten_ms = now_ms.saturating_sub(FINALISED_MS_MAX);
        let deleted: Result<u64, StorageError> = rooms
            .writer()
            .transact(move |tx| Box::pin(delayed_events::delete_finalised(tx, forgotten_ms)))
            .await;
        deleted?;
        if has_failed {
            return Ok(RETRY_PAUSE);
        }
        let next_ms = delayed_events::find_next(rooms.database(), now_ms).await?;
        let pause_ms = next_ms.map(|next_ms| next_ms.cast_unsigned().saturating_sub(now_ms));
        Ok(pause_ms.map_or(SLEEP_MAX, Duration::from_millis).min(SLEEP_MAX))
    }

    /// Sends an event whose time has come, or keeps why it cannot be sent. An error says that the
    /// store failed, so that it must be tried again.
    async fn send_scheduled(&self, delay_id: &str) -> Result<(), StorageError> {
        let _lock = self.lock(delay_id).await;
        let rooms = &self.0.rooms;
        let Some(row) = delayed_events::find(rooms.database(), delay_id).await? else {
            return Ok(());
        };
        // Restarted, sent or cancelled meanwhile.
        if row.finalised_ms.is_some() || row.send_ms.cast_unsigned() > rooms.clock().now_ms() {
            return Ok(());
        }
        match self.send(&row).await {
            Ok(event) => self.finalise(delay_id, (event.as_deref(), None)).await,
            Err(
                DelayedEventError::Storage(error)
                | DelayedEventError::Append(AppendError::Storage(error))
                | DelayedEventError::Content(ContentError::Storage(error)),
            ) => {
                tracing::error!(%error, "a delayed event was not sent and is tried again");
                Err(error)
            }
            Err(error) => {
                let errcode = match error {
                    DelayedEventError::Suspended => "M_USER_SUSPENDED",
                    _ => "M_FORBIDDEN",
                };
                let error = json!({ "errcode": errcode, "error": error.to_string() });
                self.finalise(delay_id, (None, Some(&error.to_string()))).await
            }
        }
    }

    /// Sends an event as its sender would now; None, and nothing is sent, for one who is not heard
    /// (shadow-banned). It has a transaction, so that a crash right after makes no second one.
    async fn send(
        &self,
        row: &DelayedEventRow,
    ) -> Result<Option<Arc<StoredEvent>>, DelayedEventError> {
        let rooms = &self.0.rooms;
        let damaged = |what: &str| StorageError::Damaged(format!("{what} of a delayed event"));
        let user = UserId::parse(&row.user_id).map_err(|_| damaged("the sender"))?;
        let content: Value = serde_json::from_str(&row.content).map_err(|_| damaged("content"))?;
        let account = self.0.accounts.find_account(&user).await?;
        let flags = account.map(|account| account.flags).unwrap_or_default();
        if flags.is_suspended() {
            return Err(DelayedEventError::Suspended);
        }
        if flags.is_shadow_banned() {
            return Ok(None);
        }
        let room = match RoomId::parse(&row.room_id) {
            Ok(room_id) => rooms.find(&room_id).await?,
            Err(_) => None,
        };
        let room = room.ok_or(DelayedEventError::NotInRoom)?;
        if rooms.membership_of(&room, &user).await? != Membership::Join {
            return Err(DelayedEventError::NotInRoom);
        }
        let sent_by = SentBy {
            user_id: user.clone(),
            device_id: DEVICE.to_owned(),
            transaction_id: row.delay_id.clone(),
            path: row.room_id.clone(),
        };
        let mut request = match &row.state_key {
            Some(state_key) => EventRequest::state(user, &row.kind, state_key, content),
            None => EventRequest::message(user, &row.kind, content),
        };
        request.sent_by = Some(sent_by);
        request.sticky_ms = row.sticky_ms.and_then(|ms| u32::try_from(ms).ok());
        match request.state_key {
            Some(_) => rooms.check_state(&room, &request, self.0.state_events_max).await?,
            None => rooms.check_message(&room, &mut request).await?,
        }
        Ok(Some(rooms.send(&room, request).await?))
    }

    async fn finalise(
        &self,
        delay_id: &str,
        (event, error): (Option<&StoredEvent>, Option<&str>),
    ) -> Result<(), StorageError> {
        let (delay_id, now_ms) = (delay_id.to_owned(), self.0.rooms.clock().now_ms());
        let event_id = event.map(|event| event.event.event_id().to_string());
        let error = error.map(str::to_owned);
        let finalised: Result<bool, StorageError> = self
            .0
            .rooms
            .writer()
            .transact(move |tx| {
                Box::pin(async move {
                    let outcome = (event_id.as_deref(), error.as_deref());
                    delayed_events::finalise(tx, &delay_id, now_ms, outcome).await
                })
            })
            .await;
        finalised.map(drop)
    }

    async fn lock(&self, delay_id: &str) -> tokio::sync::MutexGuard<'_, ()> {
        let index = self.0.hasher.hash_one(delay_id) as usize % LOCKS;
        self.0.locks[index].lock().await
    }
}

impl DelayedEventRow {
    /// An error unless the event waits.
    fn require_waiting(&self) -> Result<(), DelayedEventError> {
        match (self.finalised_ms, &self.event_id) {
            (None, _) => Ok(()),
            (Some(_), Some(_)) => Err(DelayedEventError::Sent),
            (Some(_), None) => Err(DelayedEventError::Cancelled),
        }
    }
}
