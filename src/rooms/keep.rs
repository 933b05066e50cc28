//! Storing events from other servers once they are judged: next in the stream, late, hidden from
//! clients, or waiting for others. All of it for callers that hold `room.receiving`.

use std::sync::Arc;

use ruma::{OwnedEventId, UserId};
use serde_json::{Value, json};

use super::{
    append::{AppendError, EventRequest},
    commit::write_event,
    event_store::{NewStoredEvent, StoredEvent, event_key},
    fork::Placed,
    placement::Lacking,
    receive::Verdict,
    registry::Rooms,
    room::Room,
    summary,
};
use crate::{
    protocol::{event::Event, redaction::redact_event},
    storage::{
        self, EventNid, StateNid, StorageError, WriteTx,
        events::{Place, flags},
        snapshots,
    },
};

/// Above so many forward extremities they are joined by an event of our own.
const EXTREMITIES_WANTED_MAX: usize = 10;
/// The type of that event, which says nothing; other servers use the same.
pub(super) const DUMMY: &str = "org.matrix.dummy_event";
/// Members of this server that are asked to send it.
const DUMMY_SENDERS_TRIED_MAX: usize = 20;
/// Events of one room that wait for others. Further ones are not kept.
const WAITING_EVENTS_MAX: i64 = 1000;

impl Rooms {
    /// Places an allowed event behind the head. Fails with the broken rule where the current state
    /// forbids it; then nothing is stored.
    pub(super) async fn place_live(
        &self,
        room: &Arc<Room>,
        placed: &Placed,
    ) -> Result<(), AppendError> {
        let requests = [request_of(&placed.event, placed.redacts.clone())];
        let mut known = self.prepare(Some(room), &requests, room.rules).await?;
        if let Some(target) = &placed.redacts
            && let Some(event) = self.find_any_event(room, target).await?
        {
            known.targets.insert(target.clone(), event);
        }
        known.placing = Some(Arc::new(placed.to_stored(room.nid, 0)));
        self.attempt(room, &mut known, None, |attempt| attempt.add_placed(placed)).await?;
        if placed.state_key.is_some() {
            self.0.states_after.insert(placed.nid, placed.after.nid());
        }
        Ok(())
    }

    /// Keeps an event of the graph that clients do not get: soft-failed or rejected.
    pub(super) async fn store_hidden(
        &self,
        room: &Room,
        placed: &Placed,
        verdict: &Verdict,
    ) -> Result<(), StorageError> {
        let (flag, reason) = match verdict {
            Verdict::Rejected(reason) => (flags::REJECTED, reason),
            Verdict::SoftFailed(reason) => (flags::SOFT_FAILED, reason),
            _ => return Ok(()),
        };
        let mut tx = WriteTx::new();
        // A verdict of before and its removal would be two statements for one row.
        storage::graph::save_verdict(&mut tx, placed.nid, room.nid, reason);
        let key = event_key(placed.event.event_id());
        storage::graph::delete_missing(&mut tx, room.nid, &key);
        if placed.is_stored {
            storage::graph::delete_awaited(&mut tx, room.nid, placed.nid);
        }
        self.write_placed(room, placed, (flag, Place::Nowhere), tx).await.map(drop)
    }

    /// Keeps an event that came after one that names it: in the timeline, but in no sync unless it is
    /// sticky.
    pub(super) async fn store_late(
        &self,
        room: &Arc<Room>,
        placed: &Placed,
        ordering: i64,
    ) -> Result<(), StorageError> {
        let mut tx = WriteTx::new();
        placed.note_arrival(room.nid, &mut tx);
        self.0.stick_late(&mut tx, (room, placed.nid), &placed.event);
        let mut redacted = None;
        if let Some(target) = &placed.redacts {
            redacted = self.redact_late(room, placed, target, &mut tx).await?;
        }
        let stored = self.write_placed(room, placed, (0, Place::Late(ordering)), tx).await?;
        if let Some(target) = redacted {
            let event = Arc::new(redact_event(&target.event, room.rules));
            let target = Arc::new(target.redacted(event, stored));
            self.0.remember_redacted(&target);
        }
        room.forget_recent();
        Ok(())
    }

    async fn redact_late(
        &self,
        room: &Room,
        placed: &Placed,
        target_id: &ruma::EventId,
        tx: &mut WriteTx,
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        let Some(target) = self.find_any_event(room, target_id).await? else {
            storage::graph::insert_awaited_redaction(tx, &event_key(target_id), placed.nid);
            return Ok(None);
        };
        let allowed =
            self.may_redact_at(room, &placed.before, &placed.event, &target.event).await?;
        if target.is_redacted() || !allowed || target.event.kind() == "m.room.create" {
            return Ok(None);
        }
        let event = redact_event(&target.event, room.rules);
        storage::events::redact(tx, target.nid, event.json());
        self.0.keep_original(tx, &target.event, target.nid, placed.nid);
        summary::delete_relation(tx, &target);
        Ok(Some(target))
    }

    async fn write_placed(
        &self,
        room: &Room,
        placed: &Placed,
        (flag, place): (i64, Place),
        mut tx: WriteTx,
    ) -> Result<Arc<StoredEvent>, StorageError> {
        let is_accepted = flag & flags::REJECTED == 0;
        let after_row = placed.after_row.iter().filter(|_| is_accepted);
        for row in placed.before_rows.iter().chain(after_row) {
            snapshots::insert(&mut tx, row);
        }
        if let Some(key) = &placed.state_key {
            key.store(&mut tx);
            let parents = placed.auth_events.iter().copied();
            self.0.auth_edges.insert(&mut tx, parents, (placed.nid, key.nid));
        }
        for key in &placed.missing {
            storage::graph::insert_missing(&mut tx, room.nid, key, (placed.nid, place));
        }
        if room.head().partial().is_some() {
            let position = tx.next_position();
            storage::partial_rooms::insert_event(&mut tx, room.nid, placed.nid, position);
        }
        let gap = if placed.missing.is_empty() { 0 } else { flags::GAP };
        let redacted = if placed.redacted_by.is_some() { flags::REDACTED } else { 0 };
        let stored = Arc::new(placed.to_stored(room.nid, flag | gap | redacted));
        if let Place::Late(ordering) = place {
            stored.set_late(ordering);
            summary::insert_relation(&mut tx, &stored);
        }
        write_event(&mut tx, &stored, place, placed.is_stored);
        self.0.writer.commit(tx).await?;
        self.0.events.remember(&stored);
        if placed.state_key.is_some() && is_accepted {
            self.0.states_after.insert(placed.nid, placed.after.nid());
        }
        Ok(stored)
    }

    /// Keeps an event that cannot be judged yet, if not too many wait in the room.
    pub(super) async fn store_waiting(
        &self,
        room: &Arc<Room>,
        event: &Arc<Event>,
        lacking: &Lacking,
    ) -> Result<(), StorageError> {
        let stored = self.find_any_event(room, event.event_id()).await?;
        if stored.as_ref().is_some_and(|stored| stored.is_in_graph()) {
            return Ok(());
        }
        let waiting = storage::graph::count_waiting(&self.0.database, room.nid).await?;
        if stored.is_none() && waiting >= WAITING_EVENTS_MAX {
            return Ok(());
        }
        let nid = stored.as_ref().map_or_else(|| self.0.next_event_nid(), |stored| stored.nid);
        let mut tx = WriteTx::new();
        for id in lacking.all() {
            storage::graph::insert_awaited(&mut tx, &event_key(&id), nid, room.nid);
        }
        let absent: Vec<_> = lacking.all().iter().map(ToString::to_string).collect();
        let reason = format!("waits for {}", absent.join(", "));
        storage::graph::save_verdict(&mut tx, nid, room.nid, &reason);
        let new = match stored {
            Some(_) => None,
            None => Some(self.write_outlier(room, (event, nid), lacking, &mut tx).await?),
        };
        self.0.writer.commit(tx).await?;
        new.iter().for_each(|event| self.0.events.remember(event));
        Ok(())
    }

    async fn write_outlier(
        &self,
        room: &Room,
        (event, nid): (&Arc<Event>, EventNid),
        lacking: &Lacking,
        tx: &mut WriteTx,
    ) -> Result<Arc<StoredEvent>, StorageError> {
        let key = match event.state_key() {
            Some(state_key) => Some(self.0.keys.intern(event.kind(), state_key).await?),
            None => None,
        };
        if let Some(key) = &key {
            key.store(tx);
        }
        // What lacks authorisation events must authorise nothing itself.
        let waits = if lacking.auth_events.is_empty() { 0 } else { flags::WAITING };
        let is_judged = match waits {
            0 => {
                let (auth_events, _) = self.load_known(room, event.auth_events()).await?;
                self.check_by_auth_events(room, event, &auth_events).await?.is_ok()
            }
            _ => true,
        };
        let rejected = if is_judged { 0 } else { flags::REJECTED };
        let stored = Arc::new(StoredEvent::new(NewStoredEvent {
            nid,
            room_nid: room.nid,
            state_nid: StateNid::EMPTY,
            state_key_nid: key.map(|key| key.nid),
            replaces_nid: None,
            flags: flags::OUTLIER | waits | rejected,
            notify_ordinal: 0,
            sent_by: None,
            redacted_by: None,
            event: Arc::clone(event),
        }));
        write_event(tx, &stored, Place::Nowhere, false);
        Ok(stored)
    }

    /// Notes that an event waits no more, because it is in the graph.
    pub(super) async fn forget_wait(
        &self,
        room: &Room,
        event: EventNid,
    ) -> Result<(), StorageError> {
        let mut tx = WriteTx::new();
        storage::graph::delete_awaited(&mut tx, room.nid, event);
        self.0.writer.commit(tx).await.map(drop)
    }

    /// Has a member of this server who may join many extremities by an event that says nothing. That
    /// nobody may is no error.
    pub(super) async fn join_extremities(&self, room: &Arc<Room>) {
        if room.head().extremities.len() <= EXTREMITIES_WANTED_MAX {
            return;
        }
        if let Err(error) = self.send_dummy(room).await {
            tracing::debug!(room.id = %room.room_id, %error, "the extremities were not joined");
        }
    }

    async fn send_dummy(&self, room: &Arc<Room>) -> Result<(), AppendError> {
        let limit = DUMMY_SENDERS_TRIED_MAX;
        let mut members = self.list_joined_of(room, self.server_name(), limit).await?;
        let head = room.head();
        members.retain(|key| head.state.get(*key).is_some());
        let nids: Vec<EventNid> = members.iter().filter_map(|key| head.state.get(*key)).collect();
        for member in self.events().load(room.facts(), &nids).await? {
            let user = member.event.state_key().and_then(|key| <&UserId>::try_from(key).ok());
            let Some(user) = user else { continue };
            let request = EventRequest::message(user, DUMMY, json!({}));
            match self.append(room, &[request], None).await {
                Err(AppendError::Rejected(_)) => {}
                done => return done.map(drop),
            }
        }
        Ok(())
    }
}

/// A received event as if somebody here wanted to send it: what those who judge it look at.
pub(super) fn request_of(event: &Event, redacts: Option<OwnedEventId>) -> EventRequest {
    EventRequest {
        sender: event.sender().to_owned(),
        kind: event.kind().to_owned(),
        state_key: event.state_key().map(ToOwned::to_owned),
        content: event.content_as().unwrap_or(Value::Null),
        redacts,
        by_administrator: false,
        timestamp_ms: None,
        sent_by: None,
        sticky_ms: event.sticky_ms(),
    }
}
