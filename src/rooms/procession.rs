//! Events of another server that simply follow one another and the room's head, as most do: judged
//! together and committed as one. Whatever is out of the ordinary goes the usual way (`receive`).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{
    append::{AppendError, EventRequest},
    attempt::{Attempt, AttemptError},
    event_store::event_key,
    keep::request_of,
    receive::ReceiveError,
    registry::Rooms,
    room::Room,
};
use crate::{
    protocol::{
        authorisation::{authorise, list_judging_keys},
        event::Event,
    },
    storage::{self, EventNid, StorageError},
};

/// Events that are committed as one: those of a transaction ("at most 50 PDUs").
const FOLLOWERS_MAX: usize = 50;
/// Types that mean more than their place in the graph: they go the usual way.
const UNUSUAL_KINDS: [&str; 3] = ["m.room.create", "m.room.redaction", "m.room.policy"];

/// An event whose own authorisation events allow it.
struct Follower {
    event: Arc<Event>,
    auth_events: Vec<EventNid>,
    /// What the rules look at.
    keys: Vec<(String, String)>,
}

impl Rooms {
    /// Takes the first of `events` as far as each simply follows the one before it, and the first one the
    /// room's only forward extremity; returns how many those are. All of them are accepted and durable.
    /// The others, and rooms of which this is not certain, are for [`Rooms::receive`].
    ///
    /// The events are verified and of this room, in which this server is.
    pub async fn receive_procession(
        &self,
        room: &Arc<Room>,
        events: &[Arc<Event>],
    ) -> Result<usize, ReceiveError> {
        // IDs that are no hashes could name anything.
        let is_usual = !room.rules.has_event_id_field()
            && room.head().partial().is_none()
            && room.head().find_pinned("m.room.policy").is_none()
            && count_following(room, events) > 0;
        if !is_usual {
            return Ok(0);
        }
        let _alone = room.receiving.lock().await;
        let following = &events[..count_following(room, events)];
        let mut followers = self.list_followers(room, following).await?;
        while !followers.is_empty() {
            let reached = AtomicUsize::new(0);
            match self.append_followers(room, &followers, &reached).await {
                Ok(()) => return Ok(followers.len()),
                // The current state forbids the one that was reached, or the room has moved on.
                Err(AppendError::Rejected(_)) => {
                    followers.truncate(reached.load(Ordering::Relaxed));
                }
                Err(AppendError::Contended | AppendError::Storage(StorageError::Superseded)) => {
                    return Ok(0);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(0)
    }

    /// Those of the events that nothing here has heard of or waits for, and that their own
    /// authorisation events allow.
    async fn list_followers(
        &self,
        room: &Arc<Room>,
        events: &[Arc<Event>],
    ) -> Result<Vec<Follower>, StorageError> {
        let keys: Vec<Vec<u8>> = events.iter().map(|event| event_key(event.event_id())).collect();
        let noted = storage::graph::list_noted(&self.0.database, room.nid, &keys).await?;
        let fresh = keys.iter().take_while(|key| !noted.contains(*key)).count();
        let mut followers = Vec::with_capacity(fresh);
        for event in &events[..fresh] {
            let (auth_events, absent) = self.load_known(room, event.auth_events()).await?;
            let is_judged = absent.is_empty() && !auth_events.iter().any(|auth| auth.is_waiting());
            if !is_judged || self.check_by_auth_events(room, event, &auth_events).await?.is_err() {
                break;
            }
            followers.push(Follower {
                event: Arc::clone(event),
                auth_events: auth_events.iter().map(|auth| auth.nid).collect(),
                keys: list_judging_keys(room.rules, &**event),
            });
        }
        Ok(followers)
    }

    async fn append_followers(
        &self,
        room: &Arc<Room>,
        followers: &[Follower],
        reached: &AtomicUsize,
    ) -> Result<(), AppendError> {
        let requests: Vec<EventRequest> =
            followers.iter().map(|follower| request_of(&follower.event, None)).collect();
        let mut known = self.prepare(Some(room), &requests, room.rules).await?;
        let build = |attempt: &mut Attempt<'_>| {
            followers.iter().enumerate().try_for_each(|(number, follower)| {
                reached.store(number, Ordering::Relaxed);
                attempt.add_follower(follower)
            })
        };
        self.attempt(room, &mut known, None, build).await.map(drop)
    }
}

impl Attempt<'_> {
    fn add_follower(&mut self, follower: &Follower) -> Result<(), AttemptError> {
        let event = &follower.event;
        let is_next = match self.head.extremities.as_slice() {
            [last] => event.prev_events().eq([last.event.event_id()]),
            _ => false,
        };
        if !is_next {
            return Err(AppendError::Contended.into());
        }
        // The state before it is the current one, so that one look serves checks 5 and 6.
        let (state, _) = self.find_auth_state(follower.keys.clone())?;
        authorise(&**event, self.rules, &state)?;
        let nid = self.engine.next_event_nid();
        let stored =
            self.admit_next(Arc::clone(event), nid, (&follower.auth_events, None, None))?;
        self.head.extremities = vec![stored];
        self.head.forks.clear();
        self.head.depth = self.head.depth.max(event.depth());
        Ok(())
    }
}

/// How many of the events follow one another from the room's only extremity on.
fn count_following(room: &Room, events: &[Arc<Event>]) -> usize {
    let head = room.head();
    let [extremity] = head.extremities.as_slice() else { return 0 };
    let (mut before, mut count) = (extremity.event.event_id(), 0);
    for event in events.iter().take(FOLLOWERS_MAX) {
        let follows = event.room_id() == room.room_id && event.prev_events().eq([before]);
        if !follows || UNUSUAL_KINDS.contains(&event.kind()) {
            break;
        }
        before = event.event_id();
        count += 1;
    }
    count
}
