//! The end of the stream: follows it once for all services, and hands each what concerns it. What a
//! service does not take in time it has to read again itself (`delivery`), so that nobody waits for
//! it and memory stays bounded.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Appservices, interest::Interests, registry::Services};
use crate::storage::{
    StorageError,
    appservices::{self, StreamEvent},
};

/// Events that wait in memory for one service.
const WAITING_EVENTS_MAX: usize = 2000;
/// Events that are read at once.
const PAGE_EVENTS_MAX: usize = 500;
/// The pause after the store failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// What waits for one service.
#[derive(Default)]
pub struct Feed {
    waiting: Mutex<Waiting>,
    /// Rung when there may be something new.
    pub bell: Notify,
}

#[derive(Default)]
struct Waiting {
    /// All that concerns the service behind `from` up to `upto`.
    events: VecDeque<StreamEvent>,
    from: i64,
    upto: i64,
}

/// What a service finds behind its place in the stream.
pub enum Next {
    /// These events, after which it stands at this place.
    Events(Vec<StreamEvent>, i64),
    /// What lies up to this place it must read itself.
    Behind(i64),
}

/// Looks through the stream for the services of one moment.
pub struct Follower {
    appservices: Appservices,
    services: Arc<Services>,
    interests: Interests,
}

/// The feeds of all services that have an address.
#[derive(Default)]
pub struct Feeds(Mutex<Table>);

#[derive(Default)]
struct Table {
    by_id: HashMap<String, Arc<Feed>>,
    /// How far the stream was looked through.
    upto: i64,
}

impl Feed {
    /// Takes at most `limit` events that lie behind `cursor`.
    pub fn take(&self, cursor: i64, limit: usize) -> Next {
        let mut waiting = self.waiting.lock();
        if cursor < waiting.from {
            return Next::Behind(waiting.from);
        }
        let count = waiting.events.len().min(limit);
        let events: Vec<_> = waiting.events.drain(..count).collect();
        let reached = match events.last() {
            Some(last) if !waiting.events.is_empty() => last.position,
            _ => waiting.upto,
        };
        // What was taken cannot be taken again.
        waiting.from = waiting.from.max(reached);
        let is_new = |event: &StreamEvent| event.position > cursor;
        let reached = reached.max(cursor);
        Next::Events(events.into_iter().filter(is_new).collect(), reached)
    }

    /// How many events wait in memory.
    pub fn len(&self) -> usize {
        self.waiting.lock().events.len()
    }

    fn add(&self, events: &[StreamEvent], upto: i64) {
        let mut waiting = self.waiting.lock();
        waiting.upto = upto;
        if waiting.events.len() + events.len() > WAITING_EVENTS_MAX {
            waiting.events = VecDeque::new();
            waiting.from = upto;
        } else {
            waiting.events.extend(events);
        }
        drop(waiting);
        if !events.is_empty() {
            self.bell.notify_one();
        }
    }
}

impl Feeds {
    /// Begins to feed a service from here on.
    pub fn open(&self, id: &str) -> Arc<Feed> {
        let mut table = self.0.lock();
        let feed = Arc::new(Feed::default());
        *feed.waiting.lock() =
            Waiting { events: VecDeque::new(), from: table.upto, upto: table.upto };
        table.by_id.insert(id.to_owned(), Arc::clone(&feed));
        feed
    }

    pub fn close(&self, id: &str) {
        self.0.lock().by_id.remove(id);
    }

    pub fn find(&self, id: &str) -> Option<Arc<Feed>> {
        self.0.lock().by_id.get(id).cloned()
    }

    /// Hands out what was found up to a place, which becomes the end for those who come later.
    fn hand_out(&self, found: &mut HashMap<&str, Vec<StreamEvent>>, upto: i64) {
        let mut table = self.0.lock();
        table.upto = upto;
        for (id, feed) in &table.by_id {
            feed.add(&found.remove(id.as_str()).unwrap_or_default(), upto);
        }
    }

    fn is_empty(&self) -> bool {
        self.0.lock().by_id.is_empty()
    }

    /// How far the stream was looked through.
    fn upto(&self) -> i64 {
        self.0.lock().upto
    }

    /// Has the stream looked through from here on. To be called before the first feed is opened.
    pub fn set_upto(&self, upto: i64) {
        self.0.lock().upto = upto;
    }
}

impl Follower {
    /// Follows for the services that there are now.
    pub fn new(appservices: &Appservices) -> Self {
        let services = appservices.services();
        let interests = appservices.interests(services.list().to_vec());
        Self { appservices: appservices.clone(), services, interests }
    }

    /// Hands out what lies on one page of the stream; returns how far it reaches.
    pub async fn look_through(&self, (after, upto): (i64, i64)) -> Result<i64, StorageError> {
        let page = self.appservices.list_stream((after, upto)).await?;
        let mut found: HashMap<&str, Vec<StreamEvent>> = HashMap::new();
        for event in &page.events {
            for number in self.appservices.decide(&self.interests, event).await? {
                if let Some(service) = self.services.list().get(number) {
                    found.entry(&service.id).or_default().push(*event);
                }
            }
        }
        self.appservices.0.feeds.hand_out(&mut found, page.upto);
        Ok(page.upto)
    }

    fn is_current(&self) -> bool {
        Arc::ptr_eq(&self.services, &self.appservices.services())
    }
}

impl Appservices {
    /// Follows the stream for as long as it is polled.
    pub(super) async fn follow_stream(self) {
        let mut positions = self.0.rooms.writer().subscribe();
        let mut done = self.0.feeds.upto();
        let mut follower = Follower::new(&self);
        loop {
            let upto = *positions.borrow_and_update();
            if !follower.is_current() {
                follower = Follower::new(&self);
            }
            if self.0.feeds.is_empty() {
                done = upto;
                self.0.feeds.set_upto(done);
            }
            while done < upto {
                match follower.look_through((done, upto)).await {
                    Ok(reached) => done = reached,
                    Err(StorageError::Closed) => return,
                    Err(error) => {
                        tracing::warn!(%error, "application services wait for the store");
                        tokio::time::sleep(FAILURE_PAUSE).await;
                    }
                }
            }
            if positions.changed().await.is_err() {
                return;
            }
        }
    }

    /// A page of the stream, with its events in memory.
    pub(super) async fn list_stream(
        &self,
        (after, upto): (i64, i64),
    ) -> Result<StreamPage, StorageError> {
        let database = self.0.rooms.database();
        let events = appservices::list_events(database, (after, upto), PAGE_EVENTS_MAX).await?;
        let named: Vec<_> = events.iter().map(|event| (event.room, event.event)).collect();
        self.0.rooms.warm_events(&named).await?;
        let upto = match events.last() {
            Some(last) if events.len() == PAGE_EVENTS_MAX => last.position,
            _ => upto,
        };
        Ok(StreamPage { events, upto })
    }

    /// The services that an event concerns, by their place among all.
    pub(super) async fn decide(
        &self,
        interests: &Interests,
        event: &StreamEvent,
    ) -> Result<Vec<usize>, StorageError> {
        let rooms = self.0.rooms.load_all(&[event.room]).await?;
        let Some(room) = rooms.first() else { return Ok(Vec::new()) };
        let stored = self.0.rooms.events().load_one(room.facts(), event.event).await?;
        interests.of_event(room, &stored).await
    }
}

/// Events of the stream up to a place.
pub(super) struct StreamPage {
    pub events: Vec<StreamEvent>,
    pub upto: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{EventNid, RoomNid};

    fn event(position: i64) -> StreamEvent {
        StreamEvent { position, event: EventNid(position), room: RoomNid(1) }
    }

    fn positions(next: Next) -> (Vec<i64>, i64) {
        match next {
            Next::Events(events, upto) => (events.iter().map(|e| e.position).collect(), upto),
            Next::Behind(upto) => (Vec::new(), -upto),
        }
    }

    #[test]
    fn events_are_taken_once_and_in_order() {
        let feed = Feed::default();
        feed.add(&[event(3), event(5)], 9);
        assert_eq!(positions(feed.take(0, 1)), (vec![3], 3));
        assert_eq!(positions(feed.take(3, 10)), (vec![5], 9));
        assert_eq!(positions(feed.take(9, 10)), (vec![], 9));
    }

    #[test]
    fn who_is_too_slow_reads_again() {
        let feed = Feed::default();
        let many: Vec<_> = (1..=2001).map(event).collect();
        feed.add(&many[..2000], 2000);
        feed.add(&many[2000..], 2001);
        assert_eq!(positions(feed.take(0, 10)), (vec![], -2001));
        feed.add(&[event(2002)], 2002);
        assert_eq!(positions(feed.take(2001, 10)), (vec![2002], 2002));
    }

    #[test]
    fn what_was_read_again_is_not_taken_twice() {
        let feed = Feed::default();
        feed.add(&[event(3), event(5)], 5);
        assert_eq!(positions(feed.take(4, 10)), (vec![5], 5));
    }
}
