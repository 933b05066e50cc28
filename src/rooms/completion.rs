//! A room that was entered without its members becomes whole: the state before the join is fetched, what
//! was judged meanwhile is judged again upon it, and the room stands where it would if all had been known
//! from the start (MSC3902, "Resynchronisation"). Not for when and whom to ask (`federation`).

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use ruma::{EventId, OwnedUserId, ServerName};

use super::{
    append::AppendError,
    attempt::{Attempt, AttemptError, Known},
    event_store::StoredEvent,
    gap::Hunt,
    head_change::{membership_number, membership_of_number},
    partial::PartialState,
    receive::ReceiveError,
    recent::StateChange,
    registry::Rooms,
    rejudging::{Judgement, Roots, Whole},
    room::{Head, Room},
    state::{Difference, State, differences},
    summary,
    told_state::ToldState,
    user_rooms::UserRoom,
};
use crate::{
    protocol::membership::Membership,
    storage::{
        self, EventNid, StateKeyNid, StorageError, WriteTx, partial_rooms::Rebased, snapshots,
    },
};

/// How often the room may change under the hands of a completion.
const ATTEMPTS_MAX: usize = 50;
/// Memberships written by one commit.
const COMMIT_MEMBERS: usize = 500;
/// Events loaded together.
const STEP: usize = 1000;

impl Rooms {
    /// Fetches what is missing of a room's state, from `server` first, and puts the room upon it. False
    /// when there was nothing to do. May be broken off and begun again at any time.
    pub async fn complete(
        &self,
        server: &ServerName,
        room: &Arc<Room>,
    ) -> Result<bool, ReceiveError> {
        let Some(partial) = room.head().partial().cloned() else {
            return Ok(false);
        };
        let _holder = Arc::clone(&self.0.long_holders);
        let join = self.events().load_one(room.facts(), partial.join).await?;
        let hunt = Hunt::new(self, server, room).await?;
        let told = hunt.fetch_state_before_entry(&join.event).await?;
        let told = told.ok_or_else(|| ReceiveError::BadState("nobody tells it".to_owned()))?;
        self.check_told(room, &told)?;
        let given = self.give_memberships(room, &told).await?;
        let mut roots = Roots::from([(join.nid, told.state.clone())]);
        for _ in 0..ATTEMPTS_MAX {
            self.fetch_roots(&hunt, room, &mut roots, &told).await?;
            let _alone = room.receiving.lock().await;
            // What is sent from here on is not among the events that are judged again.
            let head = room.head();
            if head.partial().is_none_or(|now| now.join != partial.join) {
                return Ok(false);
            }
            let events = self.load_partial(room).await?;
            if self.list_roots(room, &events).await?.iter().any(|e| !roots.contains_key(&e.nid)) {
                continue;
            }
            let whole = self.judge_again(room, (&join, &events), &roots).await?;
            match self.become_whole(room, &head, (&whole, &told, &given)).await {
                Ok(()) => {
                    room.completed.notify_waiters();
                    return Ok(true);
                }
                Err(AppendError::Contended) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ReceiveError::Contended)
    }

    /// The position at which this server entered a room that is not whole.
    pub async fn find_entry_position(
        &self,
        room: &Arc<Room>,
        partial: &PartialState,
    ) -> Result<i64, StorageError> {
        Ok(self.events().load_one(room.facts(), partial.join).await?.position())
    }

    /// A state without the events that the join was judged by is none.
    fn check_told(&self, room: &Room, told: &ToldState) -> Result<(), ReceiveError> {
        let head = room.head();
        let is_lost = |kind: &str| {
            let known = head.pinned.iter().find(|(_, event)| event.event.kind() == kind);
            known.is_some_and(|(key, _)| told.state.get(*key).is_none())
        };
        match ["m.room.create", "m.room.power_levels", "m.room.join_rules"]
            .into_iter()
            .find(|k| is_lost(k))
        {
            Some(kind) => Err(ReceiveError::BadState(format!("it has no {kind}"))),
            None => Ok(()),
        }
    }

    /// Writes the memberships that the told state adds, ahead of all else and in small commits, so that
    /// nobody else waits long. Returns them.
    async fn give_memberships(
        &self,
        room: &Arc<Room>,
        told: &ToldState,
    ) -> Result<Vec<(StateKeyNid, EventNid)>, ReceiveError> {
        let head = room.head();
        let members = told.state.members().filter(|(key, _)| head.state.get(*key).is_none());
        let given: Vec<(StateKeyNid, EventNid)> = members.collect();
        for step in given.chunks(COMMIT_MEMBERS) {
            let nids: Vec<EventNid> = step.iter().map(|(_, nid)| *nid).collect();
            let events = self.events().load(room.facts(), &nids).await?;
            let mut tx = WriteTx::new();
            let position = tx.next_position();
            for ((key, nid), event) in step.iter().zip(&events) {
                let number = membership_number(Membership::of_state(Some(&event.event)));
                storage::memberships::save(&mut tx, (*key, room.nid), number, *nid, position);
                self.tell_member(&mut tx, room, (event, number), position);
            }
            self.0.writer.commit(tx).await?;
        }
        Ok(given)
    }

    /// Has memory learn of a membership when it is committed.
    fn tell_member(
        &self,
        tx: &mut WriteTx,
        room: &Arc<Room>,
        (event, number): (&StoredEvent, i64),
        position: u32,
    ) {
        let user = event.event.state_key().and_then(|user| OwnedUserId::try_from(user).ok());
        let Some(user) = user else { return };
        let (engine, room, nid) = (Arc::clone(&self.0), Arc::clone(room), event.nid);
        tx.after_commit(move |committed| {
            let position = committed.position(position);
            let membership = membership_of_number(number);
            let place = UserRoom { room, membership, event: nid, position, forgotten: false };
            engine.users.apply(&user, place);
        });
    }

    /// The events that were judged without the whole state, as they arrived.
    async fn load_partial(&self, room: &Room) -> Result<Vec<Arc<StoredEvent>>, ReceiveError> {
        let nids = storage::partial_rooms::list_events(self.database(), room.nid).await?;
        let mut events = Vec::with_capacity(nids.len());
        for step in nids.chunks(STEP) {
            events.extend(self.events().load(room.facts(), step).await?);
        }
        events.retain(|event| event.is_in_graph());
        Ok(events)
    }

    /// Those of the events that name a previous event which is not here.
    async fn list_roots(
        &self,
        room: &Room,
        events: &[Arc<StoredEvent>],
    ) -> Result<Vec<Arc<StoredEvent>>, ReceiveError> {
        let mut roots = Vec::new();
        for event in events {
            let here = self.load_here(room, event.event.prev_events()).await?;
            let is_here = |id: &EventId| here.get(id).is_some_and(|prev| prev.is_in_graph());
            if !event.event.prev_events().all(is_here) {
                roots.push(Arc::clone(event));
            }
        }
        Ok(roots)
    }

    /// Asks for the states before events that hang in the air. Where nobody tells, that of the join does.
    async fn fetch_roots(
        &self,
        hunt: &Hunt<'_>,
        room: &Room,
        roots: &mut Roots,
        told: &ToldState,
    ) -> Result<(), ReceiveError> {
        let events = self.load_partial(room).await?;
        for root in self.list_roots(room, &events).await? {
            if let Entry::Vacant(unknown) = roots.entry(root.nid) {
                let state = hunt.fetch_told_state(root.event.event_id()).await?;
                let state = state.map_or_else(|| told.state.clone(), |told| told.state);
                unknown.insert(state);
            }
        }
        Ok(())
    }

    /// Puts the room upon the whole state, unless it has moved on from `head` ([`AppendError::Contended`]).
    async fn become_whole(
        &self,
        room: &Arc<Room>,
        head: &Head,
        (whole, told, given): (&Whole, &ToldState, &[(StateKeyNid, EventNid)]),
    ) -> Result<(), AppendError> {
        let expected: Vec<EventNid> = head.extremities.iter().map(|event| event.nid).collect();
        let changes = differences(head.state.map(), whole.state.map());
        let mut known = Known::default();
        let mut members = told.memberships.clone();
        for change in &changes {
            for nid in [change.old, change.new].into_iter().flatten() {
                if let Entry::Vacant(unknown) = members.entry(nid) {
                    let event = self.events().load_one(room.facts(), nid).await?;
                    let membership = Membership::of_state(Some(&event.event));
                    unknown.insert(membership_number(membership));
                    known.events.insert(nid, event);
                }
            }
        }
        let moved = self.load_moved(room, whole, (&head.state, given), &mut known).await?;
        let become_whole = |attempt: &mut Attempt<'_>| {
            let found: Vec<EventNid> = attempt.head.extremities.iter().map(|e| e.nid).collect();
            if attempt.head.partial != head.partial || found != expected {
                return Err(AttemptError::Failed(AppendError::Contended));
            }
            attempt.complete(self, room, (whole, &members, &moved))
        };
        self.attempt(room, &mut known, None, become_whole).await.map(drop)
    }

    /// The memberships that differ from what the room held, or from what was written ahead of the change.
    async fn load_moved(
        &self,
        room: &Room,
        whole: &Whole,
        (before, given): (&State, &[(StateKeyNid, EventNid)]),
        known: &mut Known,
    ) -> Result<Vec<(StateKeyNid, Option<EventNid>)>, AppendError> {
        let written: HashMap<StateKeyNid, EventNid> = given.iter().copied().collect();
        let mut moved: Vec<(StateKeyNid, Option<EventNid>)> = Vec::new();
        for change in differences(before.map(), whole.state.map()) {
            let is_written =
                written.get(&change.key).copied() == change.new && change.new.is_some();
            if change.key.is_membership() && !is_written {
                moved.push((change.key, change.new));
            }
        }
        let overtaken = given.iter().filter(|(key, nid)| whole.state.get(*key) != Some(*nid));
        moved.extend(overtaken.map(|(key, _)| (*key, whole.state.get(*key))));
        moved.sort_unstable();
        moved.dedup();
        for nid in moved.iter().filter_map(|(_, nid)| *nid) {
            let event = self.events().load_one(room.facts(), nid).await?;
            known.events.insert(nid, event);
        }
        Ok(moved)
    }
}

impl Attempt<'_> {
    /// Replaces the head by that of the whole room, and queues the rows of what changed.
    fn complete(
        &mut self,
        rooms: &Rooms,
        room: &Arc<Room>,
        (whole, members, moved): (
            &Whole,
            &HashMap<EventNid, i64>,
            &[(StateKeyNid, Option<EventNid>)],
        ),
    ) -> Result<(), AttemptError> {
        let position = self.tx.next_position();
        self.completed = Some(position);
        for row in &whole.rows {
            snapshots::insert(&mut self.tx, row);
        }
        for judged in whole.events.values() {
            self.rebase(judged);
        }
        for (ordering, state) in &whole.forks {
            storage::partial_rooms::save_fork(&mut self.tx, self.room_nid, *ordering, state.nid());
        }
        let changes = differences(self.head.state.map(), whole.state.map());
        // Who learnt something of the state that was not so must hear what is.
        let told =
            changes.iter().filter(|change| change.old.is_some() || !change.key.is_membership());
        let told: Vec<StateChange> = told.map(Difference::told).collect();
        let place = (self.room_nid, position);
        storage::graph::insert_fork(&mut self.tx, place, whole.state.nid(), &told);
        let count = |nid: Option<EventNid>| nid.and_then(|nid| members.get(&nid)).copied();
        for change in changes {
            if change.key.is_membership() {
                let (before, after) = (count(change.old), count(change.new));
                let gain =
                    |number| i64::from(after == Some(number)) - i64::from(before == Some(number));
                self.head.joined_count += gain(membership_number(Membership::Join));
                self.head.invited_count += gain(membership_number(Membership::Invite));
            } else {
                self.apply_difference(change, 0, position)?;
            }
        }
        for (key, nid) in moved {
            let Some(nid) = nid else { continue };
            let event = self.find_event(*nid)?;
            let number = membership_number(Membership::of_state(Some(&event.event)));
            storage::memberships::save(&mut self.tx, (*key, room.nid), number, *nid, position);
            rooms.tell_member(&mut self.tx, room, (&event, number), position);
        }
        self.stand_on(whole)?;
        let join = self.head.partial.take().map_or(EventNid(0), |partial| partial.join);
        storage::partial_rooms::complete(&mut self.tx, self.room_nid, join, position);
        Ok(())
    }

    fn rebase(&mut self, judged: &Judgement) {
        let stored = &judged.stored;
        let row = Rebased {
            nid: stored.nid,
            ordering: stored.ordering(),
            state_nid: stored.state_nid,
            flags: stored.flags,
            replaces_nid: stored.replaces_nid,
        };
        storage::partial_rooms::rebase(&mut self.tx, row);
        match &judged.fresh_rejection {
            Some(reason) => {
                storage::graph::save_verdict(&mut self.tx, stored.nid, self.room_nid, reason);
            }
            None if judged.is_cleared => {
                storage::graph::delete_verdict(&mut self.tx, stored.nid);
                if stored.ordering() != 0 {
                    summary::insert_relation(&mut self.tx, stored);
                }
            }
            None => {}
        }
        let (engine, event, after) =
            (Arc::clone(self.engine), Arc::clone(stored), judged.after.nid());
        self.tx.after_commit(move |_| {
            engine.states_after.insert(event.nid, after);
            engine.events.remember(&event);
        });
    }

    /// Takes over extremities, state and pinned events.
    fn stand_on(&mut self, whole: &Whole) -> Result<(), AttemptError> {
        let mut extremities = Vec::with_capacity(whole.extremities.len());
        for (nid, _) in &whole.extremities {
            extremities.push(match whole.events.get(nid) {
                Some(judged) => Arc::clone(&judged.stored),
                None => self.find_event(*nid)?,
            });
        }
        self.head.extremities = extremities;
        self.head.forks = match whole.extremities.len() {
            1 => Vec::new(),
            _ => whole.extremities.iter().map(|(_, state)| state.clone()).collect(),
        };
        self.head.state = whole.state.clone();
        let renewed = self.head.pinned.iter().map(|(key, event)| {
            let judged = whole.events.get(&event.nid);
            (*key, judged.map_or_else(|| Arc::clone(event), |judged| Arc::clone(&judged.stored)))
        });
        self.head.pinned = Arc::new(renewed.collect());
        Ok(())
    }
}
