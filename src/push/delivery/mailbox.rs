//! What waits for one pusher, and how its deliveries go. Pure but for its lock: it neither sends nor
//! reads anything. Bounded: who falls behind is asked for again from the store.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ruma::OwnedUserId;
use serde_json::{Map, Value};
use tokio::sync::Notify;

use crate::{
    rooms::{Room, StoredEvent},
    storage::pushers::PusherProgress,
};

/// Notifications that wait in memory for one pusher.
const WAITING_MAX: usize = 64;
/// Those of one room that wait, without those that highlight: of a burst, a phone shows the last few.
const BURST_MAX: usize = 10;
/// The first pause after a failure; each is as long as it has been failing.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60 * 60);

/// Tweaks of a notification, as the gateway gets them.
pub type Tweaks = Map<String, Value>;

/// An event of which somebody is to be notified.
pub struct Subject {
    pub room: Arc<Room>,
    pub event: Arc<StoredEvent>,
    /// Its place in the stream.
    pub position: i64,
    /// The root of its thread.
    pub thread: Option<Box<str>>,
}

/// A notification for one user.
#[derive(Clone)]
pub struct Notice {
    pub subject: Arc<Subject>,
    pub tweaks: Arc<Tweaks>,
}

/// Where a pusher's notifications go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http,
    Email,
}

/// One pusher's.
pub struct Mailbox {
    pub user_id: OwnedUserId,
    pub app_id: String,
    pub pushkey: String,
    pub kind: Kind,
    state: Mutex<State>,
    /// Rung when something comes while it is served.
    pub bell: Notify,
    /// Rung when the next attempt may come at once.
    pub retry: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Notice>,
    /// What lies behind this place in the stream must be asked for.
    behind: Option<i64>,
    /// The place of what is being delivered.
    in_hand: Option<i64>,
    badge: Badge,
    is_served: bool,
    failing_since_ts: Option<u64>,
    retry_at_ts: u64,
    /// Nothing is mailed before this time.
    rests_until_ts: u64,
    /// The count that the device shows, as far as known.
    sent_unread: Option<i64>,
    /// What the store knows.
    stored: PusherProgress,
}

/// Whether the count alone has to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Badge {
    #[default]
    Right,
    /// After a while, in which more may be read.
    Wrong,
    Due,
}

/// What to do for a pusher next.
pub enum Task {
    /// Nothing: it is served no more.
    Rest,
    /// Nothing before this time, milliseconds since the Unix epoch.
    Wait(u64),
    /// To look up what lies behind this place, oldest first.
    LookUp(i64),
    Tell(Notice),
    /// To wait a little for more to be read.
    Linger,
    /// To send the count, if it is not this one.
    Badge(Option<i64>),
}

impl Mailbox {
    pub fn new(
        user_id: OwnedUserId,
        (app_id, pushkey, kind): (String, String, Kind),
        stored: PusherProgress,
    ) -> Self {
        // With nothing that waits, it is the time until which no mail is sent.
        let rests = kind == Kind::Email && stored.waiting_from.is_none();
        let state = State {
            behind: stored.waiting_from,
            failing_since_ts: stored.failing_since_ts,
            retry_at_ts: if rests { 0 } else { stored.retry_at_ts },
            rests_until_ts: if rests { stored.retry_at_ts } else { 0 },
            stored,
            ..State::default()
        };
        let (bell, retry) = (Notify::new(), Notify::new());
        Self { user_id, app_id, pushkey, kind, state: Mutex::new(state), bell, retry }
    }

    /// Adds a notification; true when somebody has to begin to serve it.
    pub fn add(&self, notice: &Notice) -> bool {
        let mut state = self.state.lock();
        // What memory has lost is found again together with this.
        if state.behind.is_none() {
            state.make_place(notice);
        }
        if state.behind.is_none() {
            state.waiting.push_back(notice.clone());
        }
        drop(state);
        self.begin()
    }

    /// Has everything behind a place in the stream looked up.
    pub fn look_up(&self, after: i64) -> bool {
        self.state.lock().fall_behind(after);
        self.begin()
    }

    /// The user has read something; true when somebody has to begin to serve it. What a device shows
    /// that was sent no count is not known; a mail shows none.
    pub fn note_read(&self, by_receipt: bool) -> bool {
        if self.kind == Kind::Email {
            return false;
        }
        let mut state = self.state.lock();
        let is_right = state.sent_unread == Some(0) || state.sent_unread.is_none() && !by_receipt;
        if state.badge != Badge::Right || is_right {
            return false;
        }
        state.badge = Badge::Wrong;
        drop(state);
        self.begin()
    }

    /// Whether something is left to do, as after a start.
    pub fn has_work(&self) -> bool {
        let state = self.state.lock();
        state.behind.is_some() || !state.waiting.is_empty() || state.badge != Badge::Right
    }

    /// True when somebody has to begin to serve it.
    pub fn begin(&self) -> bool {
        let is_served = std::mem::replace(&mut self.state.lock().is_served, true);
        if is_served {
            self.bell.notify_one();
        }
        !is_served
    }

    /// Lets somebody else serve it later.
    pub fn leave(&self) {
        self.state.lock().is_served = false;
    }

    /// What to do now.
    pub fn next(&self, now_ms: u64) -> Task {
        let mut state = self.state.lock();
        if state.retry_at_ts > now_ms && state.has_work() {
            return Task::Wait(state.retry_at_ts);
        }
        if let Some(after) = state.behind.take() {
            state.in_hand = Some(after + 1);
            state.waiting.clear();
            return Task::LookUp(after);
        }
        if let Some(notice) = state.waiting.pop_front() {
            state.in_hand = Some(notice.subject.position);
            return Task::Tell(notice);
        }
        state.in_hand = None;
        match state.badge {
            Badge::Wrong => {
                state.badge = Badge::Due;
                Task::Linger
            }
            Badge::Due => Task::Badge(state.sent_unread),
            Badge::Right => {
                state.is_served = false;
                Task::Rest
            }
        }
    }

    /// What was looked up, oldest first. Without anything, the count is what is left to tell.
    pub fn found(&self, notices: Vec<Notice>) {
        let mut state = self.state.lock();
        if notices.is_empty() {
            state.badge = Badge::Due;
        }
        if let (Some(_), Some(first)) = (state.behind, notices.first()) {
            // It fell behind while this was looked up: all of it is looked up again, in order.
            let after = first.subject.position - 1;
            return state.fall_behind(after);
        }
        for notice in notices.into_iter().rev() {
            let is_known = |known: &Notice| known.subject.position == notice.subject.position;
            if !state.waiting.iter().any(is_known) {
                state.waiting.push_front(notice);
            }
        }
    }

    /// A delivery has ended well; with the count that was sent, if one was.
    pub fn delivered(&self, sent_unread: Option<i64>) {
        let mut state = self.state.lock();
        state.in_hand = None;
        state.failing_since_ts = None;
        state.retry_at_ts = 0;
        if let Some(unread) = sent_unread {
            state.sent_unread = Some(unread);
            state.badge = Badge::Right;
        }
    }

    /// What was in hand need not be delivered any more.
    pub fn skip(&self) {
        let mut state = self.state.lock();
        state.in_hand = None;
        // It was read, so that the count is another one.
        if state.badge == Badge::Right && state.sent_unread != Some(0) {
            state.badge = Badge::Wrong;
        }
    }

    /// The count need not be sent.
    pub fn skip_badge(&self) {
        self.state.lock().badge = Badge::Right;
    }

    /// A delivery has failed: until the next attempt the store keeps what waits. `position` is the end
    /// of the stream.
    pub fn failed(&self, now_ms: u64, asked_for: Option<Duration>, position: i64) {
        let mut state = self.state.lock();
        let after = state.in_hand.take().map_or(position, |place| place - 1);
        state.fall_behind(after);
        state.badge = Badge::Right;
        state.sent_unread = None;
        let since = *state.failing_since_ts.get_or_insert(now_ms);
        let failing = Duration::from_millis(now_ms.saturating_sub(since));
        let pause = failing.max(asked_for.unwrap_or_default()).clamp(RETRY_PAUSE, RETRY_PAUSE_MAX);
        state.retry_at_ts = now_ms + pause.as_millis() as u64;
    }

    /// Whether the time has come to mail what lies behind a place in the stream. At first it has not:
    /// until then it stays where it is.
    pub fn ripen(&self, after: i64, ready_at_ms: u64) -> bool {
        let mut state = self.state.lock();
        if state.retry_at_ts != 0 {
            return true;
        }
        state.in_hand = None;
        state.fall_behind(after);
        state.retry_at_ts = ready_at_ms.max(state.rests_until_ts);
        false
    }

    /// A mail has told everything up to a place in the stream.
    pub fn mailed(&self, upto: i64) {
        let mut state = self.state.lock();
        state.in_hand = None;
        state.failing_since_ts = None;
        state.retry_at_ts = 0;
        // What came while it was written is in it.
        state.waiting.retain(|notice| notice.subject.position > upto);
        state.behind = state.behind.map(|after| after.max(upto));
    }

    /// Has the next mail wait until this time.
    pub fn rest_until(&self, until_ms: u64) {
        self.state.lock().rests_until_ts = until_ms;
    }

    /// What could not be done is done again; nothing was sent.
    pub fn put_back(&self) {
        let mut state = self.state.lock();
        if let Some(place) = state.in_hand.take() {
            state.fall_behind(place - 1);
        }
    }

    /// The next attempt may come at once.
    pub fn hasten(&self) {
        self.state.lock().retry_at_ts = 0;
        self.retry.notify_one();
    }

    /// What the store should know, if it knows something else; it is taken to know it then.
    pub fn take_unsaved(&self) -> Option<PusherProgress> {
        let mut state = self.state.lock();
        let first = state.waiting.front().map(|notice| notice.subject.position);
        let undone = [state.behind, state.in_hand.map(|p| p - 1), first.map(|p| p - 1)];
        let progress = PusherProgress {
            waiting_from: undone.into_iter().flatten().min(),
            failing_since_ts: state.failing_since_ts,
            retry_at_ts: match state.retry_at_ts {
                0 => state.rests_until_ts,
                retry_at_ts => retry_at_ts,
            },
        };
        let is_new = progress != state.stored;
        state.stored = progress;
        is_new.then_some(progress)
    }

    /// Has it told again what the store should know.
    pub fn note_unsaved(&self) {
        self.state.lock().stored = PusherProgress { waiting_from: Some(-1), ..Default::default() };
    }
}

impl State {
    fn has_work(&self) -> bool {
        self.behind.is_some() || !self.waiting.is_empty() || self.badge != Badge::Right
    }

    /// Lets go of what waits: all of it lies behind this place.
    fn fall_behind(&mut self, after: i64) {
        let first = self.waiting.front().map(|notice| notice.subject.position - 1);
        let known = self.behind.into_iter().chain(first).min();
        self.behind = Some(known.map_or(after, |known| known.min(after)));
        self.waiting = VecDeque::new();
    }

    /// Makes place for a notification: the oldest plain one of a burst goes.
    fn make_place(&mut self, notice: &Notice) {
        let room = notice.subject.room.nid;
        let is_plain = |known: &Notice| {
            known.subject.room.nid == room && !known.tweaks.contains_key("highlight")
        };
        let count = self.waiting.iter().filter(|known| is_plain(known)).count();
        if count >= BURST_MAX
            && let Some(oldest) = self.waiting.iter().position(is_plain)
        {
            self.waiting.remove(oldest);
            metrics::counter!("hearth_push_notifications_total", "outcome" => "collapsed")
                .increment(1);
        }
        if self.waiting.len() >= WAITING_MAX {
            self.fall_behind(notice.subject.position - 1);
        }
    }
}
