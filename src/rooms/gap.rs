//! Filling the gap before a received event: a bounded hunt for what it builds upon, through the
//! network and without any lock, and at its end the state as another server tells it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, OwnedServerName, ServerName};

use super::{
    placement::{Basis, Judged, Lacking, by_depth},
    receive::{Advice, ReceiveError, Taking, Verdict},
    registry::Rooms,
    room::Room,
    source::{EventSource, FETCH_EVENTS_MAX, MISSING_EVENTS_MAX, OTHERS_MAX, Question},
};
use crate::{
    protocol::event::Event,
    storage::{ORDERING_STEP, StorageError},
};

/// Rounds of asking for events before an event: a gap of so many times [`MISSING_EVENTS_MAX`] is filled,
/// a longer one is bridged by its state.
const GAP_ROUNDS_MAX: usize = 5;
/// Rounds of asking for authorisation events that are named by those that came.
const AUTH_ROUNDS_MAX: usize = 10;
/// Ends of a gap for which the state is asked.
const BRIDGES_MAX: usize = 5;
/// Whoever tells fewer events of a gap than other implementations tell at once ("limit … Defaults to
/// 10") has no more of them.
const SCANT_EVENTS: usize = 10;

/// The hunt for what one event lacks.
pub(super) struct Hunt<'a> {
    pub(super) rooms: &'a Rooms,
    pub(super) room: &'a Arc<Room>,
    origin: &'a ServerName,
    others: Vec<OwnedServerName>,
    pub(super) source: Option<Arc<dyn EventSource>>,
    /// Events that came and lack something themselves.
    open: HashMap<OwnedEventId, (Arc<Event>, Lacking)>,
    /// Whether anything came that was not here before.
    has_found: bool,
    /// Whether the origin was asked what is before its event and told nothing.
    is_withheld: bool,
    /// Events that nothing here follows: they are never bridged (see [`Hunt::bridge`]).
    tips: HashSet<OwnedEventId>,
    /// Whether the hunt is for events that wait already.
    is_repeated: bool,
}

impl<'a> Hunt<'a> {
    pub async fn new(
        rooms: &'a Rooms,
        origin: &'a ServerName,
        room: &'a Arc<Room>,
    ) -> Result<Self, StorageError> {
        let servers = rooms.servers_in_room(room).await?;
        let is_other = |name: &&OwnedServerName| **name != origin && **name != rooms.server_name();
        let others = servers.iter().filter(is_other).take(OTHERS_MAX).cloned().collect();
        Ok(Self::asking(rooms, (origin, others), room))
    }

    /// A hunt that asks these servers, of whom the others are at most [`OTHERS_MAX`].
    pub fn asking(
        rooms: &'a Rooms,
        (origin, others): (&'a ServerName, Vec<OwnedServerName>),
        room: &'a Arc<Room>,
    ) -> Self {
        Self {
            rooms,
            room,
            origin,
            others,
            source: rooms.0.source.get(),
            open: HashMap::new(),
            has_found: false,
            is_withheld: false,
            tips: HashSet::new(),
            is_repeated: false,
        }
    }

    pub fn question(&self) -> Question<'_> {
        Question {
            room_id: &self.room.room_id,
            rules: self.room.rules,
            origin: self.origin,
            others: &self.others,
        }
    }

    /// The same for those servers only that are not the origin.
    fn question_to_others(&self) -> Option<Question<'_>> {
        let (origin, others) = self.others.split_first()?;
        Some(Question { origin, others, ..self.question() })
    }

    /// Takes the event, with whatever has to be fetched for it, or keeps it waiting. Not kept is an event
    /// whose sender answers that it tells nothing of what is before it: it may be sent again, and
    /// strangers to the room's history do not fill the disk.
    pub async fn bring_home(mut self, event: &Arc<Event>) -> Result<Verdict, ReceiveError> {
        self.tips.insert(event.event_id().to_owned());
        match self.take(event, Basis::PrevEvents).await? {
            Taking::Done(verdict) => return Ok(verdict),
            Taking::Lacking(lacking) => {
                if let Some(verdict) = self.take_sticky_history(event, &lacking).await? {
                    return Ok(verdict);
                }
                self.note(event, lacking);
            }
        }
        if let Some(source) = self.source.clone() {
            self.fill(&*source).await?;
            if self.open.contains_key(event.event_id()) {
                self.bridge(&*source).await?;
            }
            // What came another way meanwhile.
            self.retry().await?;
            if self.is_withheld && !self.has_found && self.open.contains_key(event.event_id()) {
                return Err(ReceiveError::Withheld);
            }
        }
        // The event itself may have been set free by what came.
        self.keep_open(&HashMap::new()).await?;
        match self.open.get(event.event_id()) {
            Some((_, lacking)) => Ok(Verdict::Waiting(lacking.all())),
            None => self.verdict_of(event).await,
        }
    }

    /// Asks again for what these events lack, which wait. What comes is taken, and so is what it sets free.
    pub async fn resume(mut self, waiting: &[Arc<Event>]) -> Result<(), ReceiveError> {
        self.is_repeated = true;
        let followed: HashSet<&EventId> =
            waiting.iter().flat_map(|event| event.prev_events()).collect();
        let tips = waiting.iter().map(|event| event.event_id());
        self.tips = tips.filter(|id| !followed.contains(id)).map(ToOwned::to_owned).collect();
        for event in waiting {
            self.take(event, Basis::PrevEvents).await?;
        }
        // As it was written down.
        let known: HashMap<_, _> =
            self.open.iter().map(|(id, open)| (id.clone(), open.1.clone())).collect();
        if let Some(source) = self.source.clone().filter(|_| !self.open.is_empty()) {
            self.fill(&*source).await?;
            self.bridge(&*source).await?;
            self.retry().await?;
        }
        self.keep_open(&known).await
    }

    /// Has what is still open wait, unless it is `known` to wait for the same.
    async fn keep_open(
        &mut self,
        known: &HashMap<OwnedEventId, Lacking>,
    ) -> Result<(), ReceiveError> {
        let is_new = |(id, open): &(&OwnedEventId, &(Arc<Event>, Lacking))| {
            known.get(*id).is_none_or(|lacking| *lacking != open.1)
        };
        let open: Vec<_> = self.open.iter().filter(is_new).map(|(_, open)| open.clone()).collect();
        for (open, lacking) in &open {
            let _alone = self.room.receiving.lock().await;
            self.rooms.store_waiting(self.room, open, lacking).await?;
        }
        // What came before it was written down that somebody waits for it has freed nobody.
        self.retry().await
    }

    /// Takes an event that sticks to the room from before this server came in, as other servers push those
    /// to whoever comes (MSC4354): it gets a place among the history that is not here, and nothing before
    /// it is asked for. It is judged by the current state alone. None for any other event, and for one that
    /// this state forbids.
    async fn take_sticky_history(
        &self,
        event: &Arc<Event>,
        lacking: &Lacking,
    ) -> Result<Option<Verdict>, ReceiveError> {
        let is_history = lacking.auth_events.is_empty() && !lacking.prev_events.is_empty();
        if !is_history || !self.rooms.is_sticky(event) || self.is_discouraged(event).await? {
            return Ok(None);
        }
        let (rooms, room) = (self.rooms, self.room);
        let first = rooms.list_forwards(room, (0, i64::MAX), 1).await?;
        let Some(first) = first.first().filter(|first| event.depth() < first.event.depth()) else {
            return Ok(None);
        };
        let _alone = room.receiving.lock().await;
        let head = room.head();
        let basis = match head.partial() {
            Some(_) => Basis::GivenPart(&head.state),
            None => Basis::Given(&head.state),
        };
        match rooms.judge(room, event, Advice::upon(basis)).await? {
            Judged::Known(_) => Ok(Some(Verdict::Known)),
            Judged::Lacking(_) | Judged::Rejected(..) => Ok(None),
            Judged::Allowed(placed) => {
                // Far enough below that what is fetched in between later finds a place.
                let place = rooms.place_below(room, first.ordering() - ORDERING_STEP / 2).await?;
                rooms.store_late(room, &placed, place).await?;
                rooms.free_waiting(room, event).await?;
                Ok(Some(Verdict::Accepted))
            }
        }
    }

    /// What became of an event that was taken on the way.
    async fn verdict_of(&self, event: &Event) -> Result<Verdict, ReceiveError> {
        let stored = self.rooms.find_any_event(self.room, event.event_id()).await?;
        let Some(stored) = stored else {
            return Err(ReceiveError::Contended);
        };
        let reason = crate::storage::graph::find_verdict(self.rooms.database(), stored.nid).await?;
        Ok(match (stored.is_rejected(), stored.is_hidden()) {
            (true, _) => Verdict::Rejected(reason.unwrap_or_default()),
            (_, true) => Verdict::SoftFailed(reason.unwrap_or_default()),
            _ => Verdict::Accepted,
        })
    }

    fn note(&mut self, event: &Arc<Event>, lacking: Lacking) {
        self.open.insert(event.event_id().to_owned(), (Arc::clone(event), lacking));
    }

    async fn take(&mut self, event: &Arc<Event>, basis: Basis<'_>) -> Result<Taking, ReceiveError> {
        let is_discouraged = self.is_discouraged(event).await?;
        let advice = Advice { is_discouraged, ..Advice::upon(basis) };
        let taking = self.rooms.take(self.room, event, advice).await?;
        match &taking {
            Taking::Done(_) => {
                self.open.remove(event.event_id());
            }
            Taking::Lacking(lacking) => self.note(event, lacking.clone()),
        }
        Ok(taking)
    }

    /// Check 7: the room's policy server, if it has one.
    async fn is_discouraged(&self, event: &Event) -> Result<bool, StorageError> {
        let Some(policy) = self.rooms.find_policy_server(self.room).await? else {
            return Ok(false);
        };
        if policy.check(event, self.room.rules).is_ok() {
            return Ok(false);
        }
        match &self.source {
            Some(source) => {
                let asked = source.ask_policy_server(self.question(), &policy, event).await;
                Ok(asked.is_err())
            }
            None => Ok(true),
        }
    }

    /// Asks for events in between and for authorisation events, round by round.
    async fn fill(&mut self, source: &dyn EventSource) -> Result<(), ReceiveError> {
        let mut is_origin_done = false;
        for _ in 0..GAP_ROUNDS_MAX {
            self.fetch_auth_events(source).await?;
            let latest = self.ends();
            if latest.is_empty() {
                return Ok(());
            }
            let are_others_asked = is_origin_done;
            let question = match are_others_asked {
                true => self.question_to_others(),
                false => Some(self.question()),
            };
            let Some(question) = question else { break };
            let came = source.fetch_missing(question, &self.list_earliest(), &latest).await;
            self.is_withheld |= !are_others_asked && came.as_ref().is_some_and(Vec::is_empty);
            let came = came.unwrap_or_default();
            is_origin_done |= came.len() < SCANT_EVENTS;
            // The others were asked as well where the origin told nothing.
            let is_last = are_others_asked || came.is_empty();
            let has_new = self.take_new(came).await?;
            if !has_new && is_last {
                break;
            }
            // Who tells only what is here already has no more.
            is_origin_done |= !has_new;
        }
        self.fetch_auth_events(source).await
    }

    /// Where a gap may begin.
    fn list_earliest(&self) -> Vec<OwnedEventId> {
        let head = self.room.head();
        let extremities = head.extremities.iter().rev().take(MISSING_EVENTS_MAX);
        extremities.map(|event| event.event.event_id().to_owned()).collect()
    }

    /// Takes what came, and what that sets free. Whether any of it was new.
    async fn take_new(&mut self, came: Vec<Arc<Event>>) -> Result<bool, ReceiveError> {
        let mut fresh: Vec<Arc<Event>> = came
            .into_iter()
            .take(MISSING_EVENTS_MAX)
            .filter(|event| event.room_id() == self.room.room_id)
            .filter(|event| !self.open.contains_key(event.event_id()))
            .collect();
        let ids = fresh.iter().map(|event| event.event_id());
        let foreign = self.rooms.find_foreign(self.room, ids).await?;
        fresh.retain(|event| !foreign.contains(event.event_id()));
        by_depth(&mut fresh);
        let mut has_new = false;
        for event in &fresh {
            let taking = self.take(event, Basis::PrevEvents).await?;
            has_new |= !matches!(taking, Taking::Done(Verdict::Known));
        }
        self.has_found |= has_new;
        if has_new {
            self.retry().await?;
        }
        Ok(has_new)
    }

    /// The open events before which something is missing that has not come.
    fn ends(&self) -> Vec<OwnedEventId> {
        let open = self.open.iter().filter(|(_, (_, lacking))| {
            let is_open = |id: &OwnedEventId| self.open.contains_key(id);
            lacking.prev_events.iter().any(|id| !is_open(id))
        });
        open.map(|(id, _)| id.clone()).take(MISSING_EVENTS_MAX).collect()
    }

    /// Takes what lacks nothing any more, the earliest first.
    async fn retry(&mut self) -> Result<(), ReceiveError> {
        loop {
            let mut events: Vec<_> =
                self.open.values().map(|(event, _)| Arc::clone(event)).collect();
            by_depth(&mut events);
            let before = events.len();
            for event in &events {
                self.take(event, Basis::PrevEvents).await?;
            }
            if self.open.len() == before {
                return Ok(());
            }
        }
    }

    /// Fetches the authorisation events that open events lack, and what those lack. Not for events
    /// before which others are missing: what these need often lies in the same gap.
    async fn fetch_auth_events(&mut self, source: &dyn EventSource) -> Result<(), ReceiveError> {
        let lacks_auth = |(_, lacking): &&(Arc<Event>, Lacking)| {
            lacking.prev_events.is_empty() && !lacking.auth_events.is_empty()
        };
        let open: Vec<(Arc<Event>, Lacking)> =
            self.open.values().filter(lacks_auth).cloned().collect();
        if open.is_empty() {
            return Ok(());
        }
        for (event, lacking) in &open {
            self.fetch_auth(source, event, &lacking.auth_events).await?;
        }
        self.retry().await
    }

    /// Fetches the authorisation chain of an event. Where members were left out, mostly one of them is
    /// `lacking` and all that it names is here: such events are fetched singly.
    async fn fetch_auth(
        &self,
        source: &dyn EventSource,
        event: &Event,
        lacking: &[OwnedEventId],
    ) -> Result<(), ReceiveError> {
        if self.room.head().partial().is_some() && !lacking.is_empty() {
            let came = source.fetch_events(self.question(), lacking).await;
            self.import(source, came).await?;
            let ids = lacking.iter().map(|id| &**id);
            if self.rooms.load_known(self.room, ids).await?.1.is_empty() {
                return Ok(());
            }
        }
        let chain = source.fetch_event_auth(self.question(), event.event_id()).await;
        self.import(source, chain).await
    }

    /// Fetches what one event lacks for its authorisation.
    pub async fn fetch_auth_of(&self, event: &Event) -> Result<(), ReceiveError> {
        let Some(source) = self.source.clone() else {
            return Ok(());
        };
        let (_, lacking) = self.rooms.load_known(self.room, event.auth_events()).await?;
        self.fetch_auth(&*source, event, &lacking).await
    }

    /// Stores events as outliers, and fetches singly what they name and nobody brought.
    pub async fn import(
        &self,
        source: &dyn EventSource,
        events: Vec<Arc<Event>>,
    ) -> Result<(), ReceiveError> {
        let mut events = events;
        for _ in 0..AUTH_ROUNDS_MAX {
            let here = {
                let _alone = self.room.receiving.lock().await;
                let here = self.rooms.import_outliers(self.room, &events).await?;
                self.rooms.free_waiting_for(self.room, &events).await?;
                here
            };
            let came: HashSet<&EventId> = events.iter().map(|event| event.event_id()).collect();
            let named = events.iter().flat_map(|event| event.auth_events());
            let lacks = |id: &&EventId| !here.contains_key(*id) && !came.contains(id);
            let mut wanted: Vec<OwnedEventId> =
                named.filter(lacks).map(ToOwned::to_owned).collect();
            wanted.sort_unstable();
            wanted.dedup();
            wanted.truncate(FETCH_EVENTS_MAX);
            if wanted.is_empty() {
                return Ok(());
            }
            let fetched = source.fetch_events(self.question(), &wanted).await;
            if fetched.is_empty() {
                return Ok(());
            }
            events.extend(fetched);
        }
        Ok(())
    }

    /// Bridges what could not be filled: takes the earliest open events upon the state before them as
    /// the origin tells it, then those behind them.
    ///
    /// The event that was sent is none of them, as other implementations have it: it may become the
    /// room's only forward extremity, and the state before it would be whatever its sender says. While
    /// a room's members are missing, everything is judged again later.
    async fn bridge(&mut self, source: &dyn EventSource) -> Result<(), ReceiveError> {
        let is_partial = self.room.head().partial().is_some();
        let mut passed_over = if is_partial { HashSet::new() } else { self.tips.clone() };
        // Who sent an event was asked already for what is before it; of one that waits, others may know.
        let mut asked = if self.is_repeated { HashSet::new() } else { self.tips.clone() };
        for _ in 0..BRIDGES_MAX {
            let has_asked = self.fetch_before_end(source, &mut asked).await?;
            let Some(event) = self.earliest_end(&passed_over) else {
                if has_asked { continue } else { return Ok(()) }
            };
            passed_over.insert(event.event_id().to_owned());
            if self.bridge_at(&event).await? {
                self.retry().await?;
            } else if !self.is_repeated {
                return Ok(());
            }
            // Of what waits, another end may lie in another gap, of which more is told.
        }
        Ok(())
    }

    /// Takes an event upon the state before it as it is told. False when nobody tells what is needed.
    async fn bridge_at(&mut self, event: &Arc<Event>) -> Result<bool, ReceiveError> {
        let Some(state) = self.fetch_state_before(event).await? else { return Ok(false) };
        let mut taking = self.take(event, Basis::Bridged(&state)).await?;
        if matches!(taking, Taking::Lacking(_)) {
            self.fetch_auth_of(event).await?;
            taking = self.take(event, Basis::Bridged(&state)).await?;
        }
        Ok(matches!(taking, Taking::Done(_)))
    }

    /// Fetches singly what the earliest end of the gap follows that was not `asked` about yet. False when
    /// there is none.
    async fn fetch_before_end(
        &mut self,
        source: &dyn EventSource,
        asked: &mut HashSet<OwnedEventId>,
    ) -> Result<bool, ReceiveError> {
        let Some(end) = self.earliest_end(asked) else { return Ok(false) };
        let Some((_, lacking)) = self.open.get(end.event_id()) else { return Ok(false) };
        let mut wanted = lacking.prev_events.clone();
        wanted.retain(|id| !self.open.contains_key(id));
        asked.insert(end.event_id().to_owned());
        let came = source.fetch_events(self.question(), &wanted).await;
        self.take_new(came).await?;
        self.fetch_auth_events(source).await?;
        Ok(true)
    }

    /// The earliest of the open events before which something is missing, without those passed over.
    fn earliest_end(&self, passed_over: &HashSet<OwnedEventId>) -> Option<Arc<Event>> {
        let is_open = |id: &OwnedEventId| self.open.contains_key(id);
        let ends = self.open.iter().filter(|(id, (_, lacking))| {
            !passed_over.contains(*id) && lacking.prev_events.iter().any(|id| !is_open(id))
        });
        let mut events: Vec<Arc<Event>> = ends.map(|(_, (event, _))| Arc::clone(event)).collect();
        by_depth(&mut events);
        events.into_iter().next()
    }
}
