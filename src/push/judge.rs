//! Judges events at their acceptance (client-server API, "Push Rules" and "Receiving
//! notifications"): what they do by default, and for whom they do something else. Its rows share
//! the commit of the events.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use ruma::{OwnedEventId, OwnedUserId, UserId, push::Action};
use serde_json::{Map, Value};

use super::{
    PushParts,
    audience::{Audience, Listener},
    counts::Changes,
    delivery::intake::{News, Verdict},
    tally::{Deviation, Exception, MAIN},
    threads::{find_thread_of_request, list_mentions},
    wishes::Wishes,
};
use crate::{
    protocol::{
        event::Event,
        membership::Membership,
        push_rules::{CompiledRules, Mentions, Outcome, PushEvent, calls_everybody, is_poll},
    },
    rooms::{Acceptance, AcceptanceHook, Accepted, EventRequest, MEMBER, Room, Rooms, StoredEvent},
    storage::{
        self, Cell, Committed, StorageError, WriteTx,
        counts::{DeviationRow, ExceptionRow},
        thread_subscriptions::{ThreadName, list_followers},
    },
};

/// A listener turns quiet or back this often; after that each event gets a row.
const TURNS_MAX: u8 = 16;
/// Those who follow one thread, at most; who follows it as one more is not heard of.
pub(super) const FOLLOWERS_MAX: usize = 100_000;

/// What judging the requests of one append needs.
struct Judge {
    parts: Arc<PushParts>,
    audience: Arc<Audience>,
    subjects: Vec<Subject>,
}

/// A user, and what their rules have done when the event notifies them.
type Own = (OwnedUserId, Option<Vec<Action>>);

/// What is known of one request beforehand.
#[derive(Default)]
struct Subject {
    thread: Option<OwnedEventId>,
    named: Vec<Named>,
    /// Who follows the thread, where somebody's rules ask for that.
    followers: Vec<String>,
}

/// Somebody whom the event names, with their rules.
struct Named {
    user: OwnedUserId,
    /// In the room, where it was looked for.
    display_name: Option<String>,
    rules: CompiledRules,
}

/// What an event does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    pub notifies: bool,
    pub highlights: bool,
}

impl AcceptanceHook for super::Push {
    fn prepare<'a>(
        &'a self,
        rooms: &'a Rooms,
        room: Option<&'a Arc<Room>>,
        requests: &'a [EventRequest],
    ) -> BoxFuture<'a, Result<Box<dyn Acceptance>, StorageError>> {
        Box::pin(async move {
            let parts = Arc::clone(&self.0);
            let audience = match room {
                Some(room) => parts.audiences.load(rooms, room).await?,
                None => Arc::default(),
            };
            let mut subjects = Vec::with_capacity(requests.len());
            for request in requests {
                subjects.push(parts.study(rooms, room, request, &audience).await?);
            }
            Ok(Box::new(Judge { parts, audience, subjects }) as Box<dyn Acceptance>)
        })
    }
}

impl PushParts {
    async fn study(
        &self,
        rooms: &Rooms,
        room: Option<&Arc<Room>>,
        request: &EventRequest,
        audience: &Audience,
    ) -> Result<Subject, StorageError> {
        let mut subject = Subject::default();
        let mut named: Vec<(OwnedUserId, Option<String>)> = Vec::new();
        if let (MEMBER, Some(user)) = (request.kind.as_str(), &request.state_key) {
            let is_invite = request.content["membership"] == "invite";
            named.extend(self.find_local(user).filter(|_| is_invite).map(|user| (user, None)));
        }
        if let Some(room) = room {
            subject.thread = find_thread_of_request(rooms, room, request).await?;
            let asks = || audience.listeners.lock().iter().any(|l| l.rules.asks_for_threads());
            if let Some(root) = subject.thread.as_ref().filter(|_| asks()) {
                let thread = ThreadName { room: room.nid, root: root.as_str() };
                subject.followers = list_followers(rooms.database(), thread, FOLLOWERS_MAX).await?;
            }
            let mentioned =
                list_mentions(&request.content).filter_map(|user| self.find_local(user));
            let called = audience.list_called(&request.content);
            for (user, name) in mentioned.map(|user| (user, None)).chain(called) {
                let is_listener =
                    audience.listeners.lock().iter().any(|listener| listener.user_id == user);
                if !is_listener
                    && named.iter().all(|(known, _)| *known != user)
                    && rooms.membership_of(room, &user).await? == Membership::Join
                {
                    named.push((user, name));
                }
            }
        }
        named.retain(|(user, _)| *user != request.sender);
        if named.is_empty() {
            return Ok(subject);
        }
        let user_ids: Vec<&str> = named.iter().map(|(user, _)| user.as_str()).collect();
        let mut wishes = Wishes::load(rooms.database(), &user_ids).await?;
        for (user, display_name) in named {
            let wishes = wishes.remove(user.as_str()).unwrap_or_default();
            let is_refused = request.kind == MEMBER && !wishes.takes_invite(&request.sender);
            if !is_refused && !wishes.ignored_users().contains(&request.sender) {
                let rules = wishes.compile_rules(&user, self.mentions)?;
                subject.named.push(Named { user, display_name, rules });
            }
        }
        Ok(subject)
    }

    /// Passes on what is committed now. Until then, places were counted within the job.
    fn tell(&self, mut news: Vec<News>, committed: Committed) {
        for news in &mut news {
            if let News::Verdict(verdict) = news {
                verdict.position += committed.first_position;
            }
        }
        self.intake.add(news, committed.first_position);
    }

    fn find_local(&self, user: &str) -> Option<OwnedUserId> {
        let user = <&UserId>::try_from(user).ok()?;
        (user.server_name() == self.server_name && !user.as_str().contains('\0'))
            .then(|| user.to_owned())
    }

    fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.server_name
    }
}

impl Acceptance for Judge {
    fn accept(&self, accepted: &Accepted<'_>, tx: &mut WriteTx) {
        let room = accepted.room.nid;
        let (mut changes, mut news) = (Changes::default(), Vec::new());
        for (index, event) in accepted.events.iter().enumerate() {
            let Some(subject) = self.subjects.get(index) else {
                break;
            };
            let offset = accepted.positions[index];
            let case = Case { judge: self, accepted, event, offset, subject };
            case.follow_membership(&mut news);
            case.decide(&mut changes, &mut news, tx);
        }
        for (user, index) in accepted.joined.iter().filter(|(user, _)| self.parts.is_local(user)) {
            let (event, offset) = (&accepted.events[*index], accepted.positions[*index]);
            add_mark(&mut changes, tx, event, (user, ""), offset);
        }
        for (event, index) in accepted.redacted {
            self.retract(event, *index, &mut changes, tx);
        }
        let (parts, failed) = (Arc::clone(&self.parts), Arc::clone(&self.parts));
        tx.after_commit(move |committed| {
            parts.counts.apply(room, changes, committed);
            parts.tell(news, committed);
        });
        // Who had turned quiet may not have.
        tx.after_failure(move || failed.audiences.forget(room));
    }
}

impl Judge {
    /// A redacted event notifies nobody any more.
    fn retract(&self, event: &StoredEvent, index: usize, changes: &mut Changes, tx: &mut WriteTx) {
        let (room, ordering) = (event.room_nid, event.ordering());
        if ordering == 0 {
            return;
        }
        let thread = self.subjects.get(index).and_then(|subject| subject.thread.as_ref());
        let exception = Exception {
            ordering,
            thread: thread.map(|root| root.as_str().into()),
            counted: event.notifies(),
            notifies: false,
            highlights: false,
        };
        let row = exception_row(room, &exception);
        storage::counts::save_exception(tx, &row, Cell::Int(ordering));
        storage::counts::delete_deviations(tx, room, ordering);
        changes.redacted.push(exception);
    }
}

/// One event before its judge.
struct Case<'a> {
    judge: &'a Judge,
    accepted: &'a Accepted<'a>,
    event: &'a Arc<StoredEvent>,
    offset: u32,
    subject: &'a Subject,
}

impl Case<'_> {
    fn decide(&self, changes: &mut Changes, news: &mut Vec<News>, tx: &mut WriteTx) {
        let parts = &self.judge.parts;
        let event = &self.event.event;
        let mut own = Vec::new();
        let mut listeners = self.judge.audience.listeners.lock();
        let counted = Effect { notifies: self.event.notifies(), highlights: false };
        let needs_rules = !listeners.is_empty()
            || !self.subject.named.is_empty()
            || names_everybody(event, parts.mentions);
        let default = if needs_rules {
            let levels = self.judge.audience.power_levels(self.accepted.room, self.accepted.head);
            let members = self.accepted.head.joined_count.max(0).cast_unsigned();
            let case = PushEvent::new(event, members, &levels, &parts.defaults);
            let case = case.followed_by(self.subject.followers.iter().cloned());
            let by_default = case.default_outcome();
            let default = Effect::of(by_default.as_ref());
            for listener in listeners.iter_mut().filter(|l| l.user_id != event.sender()) {
                let rules = Arc::clone(&listener.rules);
                let name = listener.display_name.as_deref();
                let outcome = rules.evaluate(&case, &listener.user_id, name);
                let outcome = outcome.filter(|_| !listener.ignored.contains(event.sender()));
                self.apply(listener, default, outcome.as_ref(), changes, tx);
                self.note_own(&mut own, &listener.user_id, (by_default, outcome));
            }
            for Named { user, display_name, rules } in &self.subject.named {
                let outcome = rules.evaluate(&case, user, display_name.as_deref());
                let effect = Effect::of(outcome.as_ref());
                self.deviate(user, (default, effect), outcome.as_ref(), changes, tx);
                self.note_own(&mut own, user, (by_default, outcome));
            }
            default
        } else {
            counted
        };
        drop(listeners);
        self.announce(default.notifies, own, news);
        self.note_exception(counted.notifies, default, changes, tx);
        let is_own = !event.is_state() && event.kind() != "m.room.redaction" || default.notifies;
        if is_own && parts.is_local(event.sender()) {
            let thread = self.subject.thread.as_ref().map_or(MAIN, |root| root.as_str());
            add_mark(changes, tx, self.event, (event.sender(), thread), self.offset);
        }
    }

    /// Notes what the rules of one user say, if anybody will be told and it is not what they say for
    /// everybody: most rules of most users are the default ones.
    fn note_own(
        &self,
        own: &mut Vec<Own>,
        user: &UserId,
        (default, outcome): (Option<Outcome<'_>>, Option<Outcome<'_>>),
    ) {
        if !self.judge.parts.intake.is_watched() {
            return;
        }
        let default = default.filter(|outcome| outcome.notify);
        let outcome = outcome.filter(|outcome| outcome.notify);
        let is_default = match (default, outcome) {
            (Some(default), Some(outcome)) => std::ptr::eq(default.actions, outcome.actions),
            (default, outcome) => default.is_none() && outcome.is_none(),
        };
        if !is_default {
            own.push((user.to_owned(), outcome.map(|outcome| outcome.actions.to_vec())));
        }
    }

    /// Has those told whom the event notifies.
    fn announce(&self, notifies: bool, own: Vec<Own>, news: &mut Vec<News>) {
        let is_wanted = notifies || own.iter().any(|(_, actions)| actions.is_some());
        if !is_wanted || !self.judge.parts.intake.is_watched() {
            return;
        }
        let Accepted { room, head, .. } = self.accepted;
        news.push(News::Verdict(Box::new(Verdict {
            room: Arc::clone(room),
            event: Arc::clone(self.event),
            position: self.offset.into(),
            thread: self.thread(),
            notifies,
            levels: self.judge.audience.power_levels(room, head),
            member_count: head.joined_count.max(0).cast_unsigned(),
            own,
        })));
    }

    /// Keeps the audience in step with who is in the room.
    fn follow_membership(&self, news: &mut Vec<News>) {
        let event = &self.event.event;
        if event.kind() != MEMBER {
            return;
        }
        let user = event.state_key().and_then(|user| <&UserId>::try_from(user).ok());
        let Some(user) = user.filter(|user| self.judge.parts.is_local(user)) else { return };
        let is_joined = match Membership::of_event(event) {
            Some(Membership::Join) => {
                self.judge.audience.recheck(user);
                true
            }
            Some(Membership::Leave | Membership::Ban) => {
                self.judge.audience.remove(user);
                false
            }
            _ => return,
        };
        if self.judge.parts.intake.is_watched() {
            let (room, user) = (self.event.room_nid, user.to_owned());
            news.push(News::Member { room, user, is_joined });
        }
    }

    fn note_exception(
        &self,
        counted: bool,
        default: Effect,
        changes: &mut Changes,
        tx: &mut WriteTx,
    ) {
        let in_thread = self.subject.thread.is_some() && (counted || default.notifies);
        if !in_thread && counted == default.notifies && !default.highlights {
            return;
        }
        let exception = Exception {
            ordering: 0,
            thread: self.thread(),
            counted,
            notifies: default.notifies,
            highlights: default.highlights,
        };
        let row = exception_row(self.event.room_nid, &exception);
        storage::counts::save_exception(tx, &row, Cell::Ordering(self.offset));
        changes.exceptions.push((exception, self.offset));
    }

    /// Notes what an event does for one listener, if that is not what is expected.
    fn apply(
        &self,
        listener: &mut Listener,
        default: Effect,
        outcome: Option<&Outcome<'_>>,
        changes: &mut Changes,
        tx: &mut WriteTx,
    ) {
        let effect = Effect::of(outcome);
        let expected = if listener.is_quiet { Effect::default() } else { default };
        if effect == expected {
            return;
        }
        let turns_quiet = !listener.is_quiet && effect == Effect::default();
        let turns_back = listener.is_quiet && effect == default;
        let counts_by_default = default.notifies && self.event.notifies();
        // Whom a listener ignores, or a thread that they do not follow, says nothing of what comes next.
        let is_apart = self.subject.thread.is_some() && listener.rules.asks_for_threads()
            || listener.ignored.contains(self.event.event.sender());
        let may_turn = counts_by_default && !is_apart && listener.turns < TURNS_MAX;
        if (turns_quiet || turns_back) && may_turn {
            listener.is_quiet = turns_quiet;
            listener.turns += 1;
            let (user, room) = (listener.user_id.as_str(), self.event.room_nid);
            // This event belongs to what begins.
            let before = self.event.notify_ordinal - 1;
            let place = Cell::Ordering(self.offset);
            match turns_quiet {
                true => storage::counts::begin_quiet(tx, user, room, place, before),
                false => storage::counts::end_quiet(tx, user, room, place, before),
            }
            changes.quiet.push((listener.user_id.clone(), turns_quiet, self.offset, before));
            return;
        }
        self.deviate(&listener.user_id, (expected, effect), outcome, changes, tx);
    }

    fn deviate(
        &self,
        user: &UserId,
        (expected, effect): (Effect, Effect),
        outcome: Option<&Outcome<'_>>,
        changes: &mut Changes,
        tx: &mut WriteTx,
    ) {
        if effect == expected {
            return;
        }
        let deviation = Deviation {
            ordering: 0,
            thread: self.thread(),
            notify_delta: i64::from(effect.notifies) - i64::from(expected.notifies),
            highlight_delta: i64::from(effect.highlights) - i64::from(expected.highlights),
        };
        let actions: &[Action] = outcome.map_or(&[], |outcome| outcome.actions);
        let row = DeviationRow {
            room: self.event.room_nid,
            ordering: 0,
            event: self.event.nid,
            thread: deviation.thread.as_deref().unwrap_or_default().to_owned(),
            notifies: effect.notifies,
            highlights: effect.highlights,
            notify_delta: deviation.notify_delta,
            highlight_delta: deviation.highlight_delta,
            actions: actions_json(actions),
        };
        let place = Cell::Ordering(self.offset);
        storage::counts::insert_deviation(tx, user.as_str(), &row, place);
        changes.deviations.push((user.to_owned(), deviation, self.offset));
    }

    fn thread(&self) -> Option<Box<str>> {
        self.subject.thread.as_ref().map(|root| root.as_str().into())
    }
}

impl Effect {
    pub(super) fn of(outcome: Option<&Outcome<'_>>) -> Self {
        let outcome = outcome.filter(|outcome| outcome.notify);
        let highlights = outcome.is_some_and(|outcome| outcome.highlight);
        Self { notifies: outcome.is_some(), highlights }
    }
}

/// Notes that a user has read up to an event of this append, since they sent it or joined by it.
fn add_mark(
    changes: &mut Changes,
    tx: &mut WriteTx,
    event: &StoredEvent,
    (user, thread): (&UserId, &str),
    offset: u32,
) {
    let (ordering, ordinal) = (Cell::Ordering(offset), event.notify_ordinal);
    storage::counts::save_mark(tx, user.as_str(), (event.room_nid, thread), ordering, ordinal);
    changes.marks.push((user.to_owned(), thread.to_owned(), offset, ordinal));
}

/// Whether the default rules may do something for everybody that the event's flag does not say.
fn names_everybody(event: &Event, mentions: Mentions) -> bool {
    if event.is_state_of("m.room.tombstone", "") || is_poll(event.kind()) {
        return true;
    }
    if mentions == Mentions::Intended && !event.content_json().contains("m.mentions") {
        return false;
    }
    event.content_as::<Map<String, Value>>().is_ok_and(|content| {
        let intends = content.get("m.mentions").is_some_and(|intended| intended["room"] == true);
        intends || mentions == Mentions::ByName && calls_everybody(&content)
    })
}

fn exception_row(room: storage::RoomNid, exception: &Exception) -> ExceptionRow {
    ExceptionRow {
        room,
        ordering: exception.ordering,
        thread: exception.thread.as_deref().unwrap_or_default().to_owned(),
        counted: exception.counted,
        notifies: exception.notifies,
        highlights: exception.highlights,
    }
}

/// Actions as the Client-Server API writes them.
pub(super) fn actions_json(actions: &[Action]) -> String {
    // A sound or tweak with U+0000 cannot be stored, and no client would know it.
    serde_json::to_string(actions).map_or_else(|_| "[]".to_owned(), |json| json.replace('\0', ""))
}
