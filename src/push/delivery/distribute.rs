//! From verdicts to mailboxes: follows what acceptance decided and puts it where it belongs. Sends
//! nothing itself; who serves a mailbox is started apart, so that an event in a large room takes
//! microseconds for each member.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ruma::{OwnedUserId, UserId, push::Action};
use serde_json::Value;

use super::{
    Delivery,
    intake::{News, Verdict, Work},
    mailbox::{Mailbox, Notice, Subject},
    payload::tweaks_of,
    subscribers::Subscriber,
};
use crate::{
    protocol::push_rules::PushEvent,
    storage::{RoomNid, StorageError, appservices, pushers},
};

/// The pause after the store failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// Events of the stream that are read at once.
const PAGE_EVENTS_MAX: usize = 1000;

impl Delivery {
    /// Distributes for as long as it is polled.
    pub(super) async fn distribute(self) {
        loop {
            // Before it is gone from the queue: see `find_position`.
            self.0.is_distributing.store(true, Ordering::SeqCst);
            let work = self.intake().take();
            let is_idle = work.is_empty();
            self.do_work(work).await;
            self.0.is_distributing.store(false, Ordering::SeqCst);
            if is_idle {
                self.intake().wait().await;
            }
        }
    }

    async fn do_work(&self, mut work: Work) {
        if let Some(lost_from) = work.lost_from {
            while let Err(error) = self.recover(lost_from).await {
                wait_for_store(&error).await;
            }
        }
        for news in std::mem::take(&mut work.news) {
            match news {
                News::Verdict(verdict) => {
                    let began = self.0.rooms.clock().instant();
                    while let Err(error) = self.announce(&verdict).await {
                        wait_for_store(&error).await;
                    }
                    metrics::histogram!("hearth_push_evaluation_seconds")
                        .record(began.elapsed().as_secs_f64());
                    self.0.distributed.store(verdict.position, Ordering::SeqCst);
                }
                News::Member { room, user, is_joined } => {
                    self.0.subscribers.note_member(room, &user, is_joined);
                    // With the room goes what was unread in it.
                    if !is_joined && let Some(subscriber) = self.0.subscribers.find(&user) {
                        self.call_for(&subscriber, |mailbox| mailbox.note_read(false));
                    }
                }
            }
        }
        for (user, by_receipt) in work.readers {
            if let Some(subscriber) = self.0.subscribers.find(&user) {
                self.call_for(&subscriber, |mailbox| mailbox.note_read(by_receipt));
            }
        }
    }

    /// Puts an event into the mailboxes of all whom it notifies.
    pub async fn announce(&self, verdict: &Verdict) -> Result<(), StorageError> {
        let (rooms, subscribers) = (&self.0.rooms, &self.0.subscribers);
        let subject = Arc::new(Subject {
            room: Arc::clone(&verdict.room),
            event: Arc::clone(&verdict.event),
            position: verdict.position,
            thread: verdict.thread.clone(),
        });
        let notice = |actions: &[Action]| {
            let tweaks = tweaks_of(&serde_json::to_value(actions).unwrap_or(Value::Null));
            Notice { subject: Arc::clone(&subject), tweaks: Arc::new(tweaks) }
        };
        let reach = match verdict.notifies {
            true => subscribers.of_room(rooms.database(), verdict.room.nid).await?,
            false => Vec::new(),
        };
        let mut called = Vec::new();
        for (user, actions) in &verdict.own {
            if let (Some(actions), Some(subscriber)) = (actions, subscribers.find(user)) {
                let notice = notice(actions);
                subscriber.for_each(|mailbox| collect(&mut called, mailbox, &notice));
            }
        }
        if !reach.is_empty() {
            let notice = notice(&self.default_actions(verdict));
            let own: HashSet<&UserId> = verdict.own.iter().map(|(user, _)| &**user).collect();
            let sender = verdict.event.event.sender();
            let is_meant = |member: &&Arc<Subscriber>| {
                member.user_id != sender && (own.is_empty() || !own.contains(&*member.user_id))
            };
            for member in reach.iter().filter(is_meant) {
                member.for_each(|mailbox| collect(&mut called, mailbox, &notice));
            }
        }
        self.0.ready.add(called);
        Ok(())
    }

    /// What the rules that everybody has from the start say of the event, asked with what they were
    /// asked with at its acceptance.
    fn default_actions(&self, verdict: &Verdict) -> Vec<Action> {
        let parts = &self.0.push.0;
        let event = &verdict.event.event;
        let case = PushEvent::new(event, verdict.member_count, &verdict.levels, &parts.defaults);
        let outcome = case.default_outcome();
        outcome.map_or_else(Vec::new, |outcome| outcome.actions.to_vec())
    }

    /// Has everybody look up what came behind a place in the stream: it was committed, but nobody was
    /// told, or nobody remembers.
    pub(super) async fn recover(&self, after: i64) -> Result<(), StorageError> {
        let (database, upto) = (self.0.rooms.database(), self.0.rooms.writer().position());
        let mut rooms: HashSet<RoomNid> = HashSet::new();
        let mut place = after;
        loop {
            let range = (place, upto);
            let page = appservices::list_events(database, range, PAGE_EVENTS_MAX).await?;
            rooms.extend(page.iter().map(|event| event.room));
            match page.last() {
                Some(last) if page.len() == PAGE_EVENTS_MAX => place = last.position,
                _ => break,
            }
        }
        let mut found: HashMap<OwnedUserId, Arc<Subscriber>> = HashMap::new();
        for room in rooms {
            for member in self.0.subscribers.of_room(database, room).await? {
                found.insert(member.user_id.clone(), member);
            }
        }
        for user in pushers::list_invited_after(database, after).await? {
            let user = <&UserId>::try_from(user.as_str()).ok();
            if let Some(subscriber) = user.and_then(|user| self.0.subscribers.find(user)) {
                found.insert(subscriber.user_id.clone(), subscriber);
            }
        }
        for subscriber in found.values() {
            self.call_for(subscriber, |mailbox| mailbox.look_up(after));
        }
        Ok(())
    }

    /// Has those mailboxes of a user served for which `needs` says so.
    fn call_for(&self, subscriber: &Subscriber, needs: impl Fn(&Mailbox) -> bool) {
        let mailboxes = subscriber.mailboxes();
        self.0.ready.add(mailboxes.into_iter().filter(|mailbox| needs(mailbox)).collect());
    }
}

async fn wait_for_store(error: &StorageError) {
    if !matches!(error, StorageError::Closed) {
        tracing::warn!(%error, "notifications wait for the store");
    }
    tokio::time::sleep(FAILURE_PAUSE).await;
}

fn collect(called: &mut Vec<Arc<Mailbox>>, mailbox: &Arc<Mailbox>, notice: &Notice) {
    if mailbox.add(notice) {
        called.push(Arc::clone(mailbox));
    }
}
