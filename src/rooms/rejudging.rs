//! What was judged while a room's members were missing is judged again upon the whole state, and the room
//! followed anew from the join on. Changes nothing: what comes of it is for `completion` to write.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::EventId;

use super::{
    event_store::StoredEvent, fork::EXTREMITIES_MAX, receive::ReceiveError, registry::Rooms,
    room::Room, state::State,
};
use crate::storage::{EventNid, events::flags, snapshots::SnapshotRow};

/// What a room becomes.
pub(super) struct Whole {
    /// The events that were judged again, as they are now.
    pub events: HashMap<EventNid, Judgement>,
    /// The forward extremities, with the states after them.
    pub extremities: Vec<(EventNid, State)>,
    pub state: State,
    pub rows: Vec<SnapshotRow>,
    /// Places where the current state does not simply follow the events, and the state behind them.
    pub forks: Vec<(i64, State)>,
}

/// An event upon the whole state.
pub(super) struct Judgement {
    pub stored: Arc<StoredEvent>,
    pub before: State,
    pub after: State,
    /// Why it is rejected now and was not before.
    pub fresh_rejection: Option<String>,
    /// Whether it was rejected and is not any more.
    pub is_cleared: bool,
}

/// The states before events whose own previous events are not here, as other servers told them.
pub(super) type Roots = HashMap<EventNid, State>;

impl Rooms {
    /// Judges the events again, each behind those that it names, and follows the room from the join on.
    pub(super) async fn judge_again(
        &self,
        room: &Arc<Room>,
        (join, events): (&Arc<StoredEvent>, &[Arc<StoredEvent>]),
        roots: &Roots,
    ) -> Result<Whole, ReceiveError> {
        let mut whole = Whole {
            events: HashMap::new(),
            extremities: Vec::new(),
            state: State::default(),
            rows: Vec::new(),
            forks: Vec::new(),
        };
        for event in sort_by_prev(events) {
            let is_join = event.nid == join.nid;
            self.judge_one(room, (&event, is_join), roots, &mut whole).await?;
        }
        self.place_cleared(room, (join, events), &mut whole).await?;
        self.follow_again(room, join, events, &mut whole).await?;
        Ok(whole)
    }

    async fn judge_one(
        &self,
        room: &Arc<Room>,
        (event, is_join): (&Arc<StoredEvent>, bool),
        roots: &Roots,
        whole: &mut Whole,
    ) -> Result<(), ReceiveError> {
        let mut states = Vec::new();
        let here = self.load_here(room, event.event.prev_events()).await?;
        for prev in here.values().filter(|prev| prev.is_in_graph()) {
            match whole.events.get(&prev.nid) {
                Some(judged) => states.push(judged.after.clone()),
                None => {
                    let (state, row) = self.state_after(room, prev).await?;
                    whole.rows.extend(row);
                    states.push(state);
                }
            }
        }
        states.extend(roots.get(&event.nid).cloned());
        let before = match states.as_slice() {
            [state] => state.clone(),
            _ => {
                let merged = self.merge_states(room, &states).await?;
                whole.rows.extend(merged.rows);
                merged.state
            }
        };
        let (auth_events, _) = self.load_known(room, event.event.auth_events()).await?;
        let verdict = match is_join {
            // Whoever let us in had the whole state; to doubt it now would leave us nowhere.
            true => Ok(()),
            false => self.check(room, &event.event, &auth_events, &before).await?,
        };
        let is_allowed = verdict.is_ok();
        let mut after = before.clone();
        if let Some(key) = event.state_key_nid.filter(|_| is_allowed) {
            let change = [(key, Some(event.nid))];
            let (state, row) = before.with_changes(&change, self.0.next_state_nid())?;
            whole.rows.push(row);
            after = state;
        }
        let verdict_flag = if is_allowed { 0 } else { flags::REJECTED };
        let replaces = event.state_key_nid.and_then(|key| before.get(key));
        let flags = event.flags & !flags::REJECTED | verdict_flag;
        let judged = Judgement {
            stored: Arc::new(event.rebased(before.nid(), replaces, flags)),
            before,
            after,
            is_cleared: is_allowed && event.is_rejected(),
            fresh_rejection: verdict
                .err()
                .filter(|_| !event.is_rejected())
                .map(|rejection| rejection.to_string()),
        };
        whole.events.insert(event.nid, judged);
        Ok(())
    }

    /// Gives events that are not rejected any more a place below what came after them. One behind which
    /// nothing came stays hidden, like what the current state forbids.
    async fn place_cleared(
        &self,
        room: &Room,
        (join, events): (&StoredEvent, &[Arc<StoredEvent>]),
        whole: &mut Whole,
    ) -> Result<(), ReceiveError> {
        let mut next: Option<i64> = None;
        for event in events.iter().rev() {
            let Some(judged) = whole.events.get_mut(&event.nid) else { continue };
            if judged.is_cleared {
                let stored = &judged.stored;
                let above = next.filter(|_| event.event.depth() > join.event.depth());
                judged.stored = Arc::new(match above {
                    Some(above) => {
                        let place = self.place_below(room, above).await?;
                        next = Some(place);
                        let placed =
                            stored.rebased(stored.state_nid, stored.replaces_nid, stored.flags);
                        placed.set_late(place);
                        placed
                    }
                    None => {
                        let hidden = stored.flags | flags::SOFT_FAILED;
                        stored.rebased(stored.state_nid, stored.replaces_nid, hidden)
                    }
                });
            } else if event.position() != 0 {
                next = Some(event.ordering());
            }
        }
        Ok(())
    }

    /// The room's head after each event from the join on, as [`Attempt::add_placed`] has it.
    async fn follow_again(
        &self,
        room: &Arc<Room>,
        join: &StoredEvent,
        events: &[Arc<StoredEvent>],
        whole: &mut Whole,
    ) -> Result<(), ReceiveError> {
        let is_live = |event: &&Arc<StoredEvent>| event.position() >= join.position();
        let by_id: HashMap<&EventId, EventNid> =
            events.iter().map(|event| (event.event.event_id(), event.nid)).collect();
        let mut live: Vec<&Arc<StoredEvent>> = events.iter().filter(is_live).collect();
        live.sort_by_key(|event| event.position());
        for event in live {
            let Some(judged) = whole.events.get(&event.nid) else { continue };
            if judged.stored.is_rejected() {
                continue;
            }
            let followed = list_followed(event, &by_id, &whole.events);
            whole.extremities.retain(|(nid, _)| !followed.contains(nid));
            let excess = (whole.extremities.len() + 1).saturating_sub(EXTREMITIES_MAX);
            whole.extremities.drain(..excess);
            whole.extremities.push((event.nid, judged.after.clone()));
            let before = std::mem::take(&mut whole.state);
            let states: Vec<State> = whole.extremities.iter().map(|(_, s)| s.clone()).collect();
            let is_forked = event.nid != join.nid && !before.is_same(&judged.before);
            whole.state = match states.as_slice() {
                [state] => state.clone(),
                _ => {
                    let merged = self.merge_states(room, &states).await?;
                    whole.rows.extend(merged.rows);
                    merged.state
                }
            };
            let is_apart = is_forked || !whole.state.is_same(&judged.after);
            if is_apart || event.is_forked() {
                whole.forks.push((event.ordering(), whole.state.clone()));
                let stored = &judged.stored;
                let flags = stored.flags | flags::FORKED;
                let marked = stored.rebased(stored.state_nid, stored.replaces_nid, flags);
                if let Some(judged) = whole.events.get_mut(&event.nid) {
                    judged.stored = Arc::new(marked);
                }
            }
        }
        Ok(())
    }
}

/// The events that an event follows: those that it names, and through those of them that are hidden what
/// these name.
fn list_followed(
    event: &StoredEvent,
    by_id: &HashMap<&EventId, EventNid>,
    events: &HashMap<EventNid, Judgement>,
) -> HashSet<EventNid> {
    let mut followed: HashSet<EventNid> = HashSet::new();
    let find = |id: &EventId| by_id.get(id).copied();
    let mut work: Vec<EventNid> = event.event.prev_events().filter_map(find).collect();
    while let Some(nid) = work.pop() {
        let Some(judged) = events.get(&nid).filter(|_| followed.insert(nid)) else { continue };
        if judged.stored.is_rejected() || judged.stored.position() == 0 {
            work.extend(judged.stored.event.prev_events().filter_map(find));
        }
    }
    followed
}

/// The events, each behind those of them that it names as previous ones.
fn sort_by_prev(events: &[Arc<StoredEvent>]) -> Vec<Arc<StoredEvent>> {
    let by_id: HashMap<&EventId, &Arc<StoredEvent>> =
        events.iter().map(|event| (event.event.event_id(), event)).collect();
    let mut seen: HashSet<EventNid> = HashSet::new();
    let mut sorted = Vec::with_capacity(events.len());
    for event in events {
        let mut work = vec![(event, false)];
        while let Some((event, is_done)) = work.pop() {
            if is_done {
                sorted.push(Arc::clone(event));
                continue;
            }
            if !seen.insert(event.nid) {
                continue;
            }
            work.push((event, true));
            let prevs = event.event.prev_events().filter_map(|id| by_id.get(id).copied());
            work.extend(prevs.filter(|prev| !seen.contains(&prev.nid)).map(|prev| (prev, false)));
        }
    }
    sorted
}
