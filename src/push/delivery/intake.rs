//! What acceptance has decided and nobody was told of yet: a bounded queue between the commit of
//! events and the notifications that follow from them. Filled by `judge`, emptied by `distribute`.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId, push::Action};
use tokio::sync::Notify;

use crate::{
    protocol::power_levels::PowerLevels,
    rooms::{Room, StoredEvent},
    storage::RoomNid,
};

/// Events that wait to be distributed; beyond, the stream is read again.
const WAITING_MAX: usize = 10_000;

/// Whom one event notifies, as it was decided at its acceptance.
pub struct Verdict {
    pub room: Arc<Room>,
    pub event: Arc<StoredEvent>,
    pub position: i64,
    /// The root of its thread.
    pub thread: Option<Box<str>>,
    /// Whether it notifies everybody of whom nothing else is said.
    pub notifies: bool,
    /// What the rules were asked with, for the actions of the default.
    pub levels: Arc<PowerLevels>,
    pub member_count: u64,
    /// Of those for whom it does something else than by default: what to do (None: not to notify).
    pub own: Vec<(OwnedUserId, Option<Vec<Action>>)>,
}

/// Something to act upon, in the order of the commits.
pub enum News {
    Verdict(Box<Verdict>),
    /// A user of this server has entered a room, or is in it no more.
    Member {
        room: RoomNid,
        user: OwnedUserId,
        is_joined: bool,
    },
}

/// What is to be done next.
#[derive(Default)]
pub struct Work {
    pub news: VecDeque<News>,
    /// Users who have read something; and whether they said so, by a receipt.
    pub readers: HashMap<OwnedUserId, bool>,
    /// Everything behind this place must be looked up in the stream.
    pub lost_from: Option<i64>,
}

/// The queue.
#[derive(Default)]
pub struct Intake {
    waiting: Mutex<Work>,
    /// Whether anybody has a pusher: otherwise nothing needs to be kept.
    is_watched: AtomicBool,
    bell: Notify,
}

impl Intake {
    pub fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Acquire)
    }

    pub fn set_watched(&self) {
        self.is_watched.store(true, Ordering::Release);
    }

    /// Adds what one commit decided; `position` is its first.
    pub fn add(&self, news: Vec<News>, position: i64) {
        if news.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.news.len() + news.len() > WAITING_MAX {
            let first = waiting.news.iter().find_map(|news| match news {
                News::Verdict(verdict) => Some(verdict.position),
                News::Member { .. } => None,
            });
            let lost = first.unwrap_or(position).min(position) - 1;
            waiting.lost_from = Some(waiting.lost_from.map_or(lost, |known| known.min(lost)));
            waiting.news = VecDeque::new();
        } else {
            waiting.news.extend(news);
        }
        drop(waiting);
        self.bell.notify_one();
    }

    /// A user has read something, by a receipt or by what they sent: the count that their devices show
    /// may be wrong now.
    pub fn note_read(&self, user: &UserId, by_receipt: bool) {
        if self.is_watched() {
            *self.waiting.lock().readers.entry(user.to_owned()).or_default() |= by_receipt;
            self.bell.notify_one();
        }
    }

    /// Waits for something to do.
    pub async fn wait(&self) {
        self.bell.notified().await;
    }

    /// Takes all there is.
    pub fn take(&self) -> Work {
        std::mem::take(&mut *self.waiting.lock())
    }

    /// Whether nothing waits to be taken.
    pub fn is_empty(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.news.is_empty() && waiting.lost_from.is_none()
    }
}

impl Work {
    pub fn is_empty(&self) -> bool {
        self.news.is_empty() && self.readers.is_empty() && self.lost_from.is_none()
    }
}
