//! Brings notifications to push gateways and into mails (client-server API, "Push Notifications";
//! push-gateway API). Follows what acceptance decided and decides nothing again: whom an event notifies
//! is `judge`'s.
//!
//! A verdict goes through the intake into the mailboxes of those who have pushers; a mailbox with
//! something in it is served by one courier. What memory does not hold any more, after a failure or a
//! restart, is looked up in the store, less what was read meanwhile.

mod courier;
mod distribute;
mod gateway;
pub(super) mod intake;
mod letter;
mod mail_text;
mod mailbox;
mod mails;
mod payload;
mod progress;
mod subscribers;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use parking_lot::Mutex;
use ruma::UserId;
use tokio::sync::{Notify, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    gateway::Gateways,
    intake::Intake,
    mailbox::Mailbox,
    mails::MAILS_ABREAST,
    subscribers::{Subscribers, read_kind},
};
pub use self::{
    intake::Verdict,
    mails::{MailSettings, Subscription, UNSUBSCRIBE_PATH},
};
use super::Push;
use crate::{
    accounts::{Accounts, pushers::SetPusherError},
    outbound::{DirectClient, Outbound},
    rooms::Rooms,
    storage::{StorageError, pushers},
};

/// Notifications that are looked up and written at a time: clients' requests come first.
const PREPARING_MAX: usize = 4;

/// Everybody's notifications. Clones share them.
#[derive(Clone)]
pub struct Delivery(Arc<Inner>);

struct Inner {
    rooms: Rooms,
    accounts: Arc<Accounts>,
    push: Push,
    subscribers: Subscribers,
    gateways: Gateways,
    mails: MailSettings,
    ready: Ready,
    preparing: Semaphore,
    mailing: Semaphore,
    /// Up to where the stream is in the mailboxes.
    distributed: AtomicI64,
    is_distributing: AtomicBool,
    /// As the store knows it.
    saved: AtomicI64,
}

/// Mailboxes that somebody has to begin to serve.
#[derive(Default)]
struct Ready {
    mailboxes: Mutex<VecDeque<Arc<Mailbox>>>,
    bell: Notify,
}

impl Ready {
    fn add(&self, mailboxes: Vec<Arc<Mailbox>>) {
        if !mailboxes.is_empty() {
            self.mailboxes.lock().extend(mailboxes);
            self.bell.notify_one();
        }
    }

    async fn next(&self) -> Arc<Mailbox> {
        loop {
            let first = self.mailboxes.lock().pop_front();
            match first {
                Some(mailbox) => return mailbox,
                None => self.bell.notified().await,
            }
        }
    }
}

impl Delivery {
    /// Reads who has pushers. `direct` is for gateways in private networks, where these are allowed;
    /// `memory_bytes` bounds what is remembered of rooms.
    pub async fn load(
        (rooms, accounts, push): (Rooms, Arc<Accounts>, Push),
        (web, direct): (Outbound, Option<DirectClient>),
        mails: MailSettings,
        memory_bytes: u64,
    ) -> Result<Self, StorageError> {
        let subscribers = Subscribers::new(memory_bytes);
        let position = pushers::find_position(rooms.database()).await?;
        if subscribers.load(rooms.database()).await? {
            push.0.intake.set_watched();
        }
        Ok(Self(Arc::new(Inner {
            gateways: Gateways::new(web, direct),
            mails,
            ready: Ready::default(),
            preparing: Semaphore::new(PREPARING_MAX),
            mailing: Semaphore::new(MAILS_ABREAST),
            distributed: AtomicI64::new(position),
            is_distributing: AtomicBool::new(true),
            saved: AtomicI64::new(position),
            rooms,
            accounts,
            push,
            subscribers,
        })))
    }

    /// Begins to deliver, until `shutdown`.
    pub fn spawn_tasks(&self, tasks: &TaskTracker, shutdown: &CancellationToken) {
        let until = shutdown.clone();
        let delivery = self.clone();
        let work = async move {
            delivery.catch_up().await;
            delivery.distribute().await;
        };
        tasks.spawn(async move { until.run_until_cancelled(work).await });
        let (keeping, until) = (self.clone().keep_progress(), shutdown.clone());
        tasks.spawn(async move { until.run_until_cancelled(keeping).await });
        let (delivery, until, couriers) = (self.clone(), shutdown.clone(), tasks.clone());
        tasks.spawn(async move {
            while let Some(mailbox) = until.run_until_cancelled(delivery.0.ready.next()).await {
                let (serving, until) = (delivery.clone().serve(mailbox), until.clone());
                couriers.spawn(async move { until.run_until_cancelled(serving).await });
            }
        });
    }

    /// What was not delivered before the server was stopped.
    async fn catch_up(&self) {
        let (saved, position) =
            (self.0.saved.load(Ordering::SeqCst), self.0.rooms.writer().position());
        let all = self.0.subscribers.list();
        for subscriber in &all {
            let waiting = subscriber.mailboxes().into_iter();
            let waiting = waiting.filter(|mailbox| mailbox.has_work() && mailbox.begin());
            self.0.ready.add(waiting.collect());
        }
        if saved < position
            && !all.is_empty()
            && let Err(error) = self.recover(saved).await
        {
            tracing::warn!(%error, "notifications of the last seconds were not looked up");
        }
        self.0.distributed.fetch_max(position, Ordering::SeqCst);
        self.0.is_distributing.store(false, Ordering::SeqCst);
    }

    /// Makes or changes a pusher, see [`Accounts::set_pusher`]. It begins with what comes from now on.
    pub async fn set_pusher(
        &self,
        user: &UserId,
        pusher: pushers::StoredPusher,
        append: bool,
    ) -> Result<(), SetPusherError> {
        let key = (pusher.app_id.clone(), pusher.pushkey.clone(), read_kind(&pusher.kind));
        self.0.accounts.set_pusher(user, pusher, append).await?;
        let (mailbox, is_new) = self.0.subscribers.add(user, key, Default::default());
        // Whatever failed before, this may be right.
        mailbox.hasten();
        if is_new {
            self.0.push.0.intake.set_watched();
            for place in self.0.rooms.rooms_of(user).await?.list_joined() {
                self.0.subscribers.forget_room(place.room.nid);
            }
        }
        Ok(())
    }

    fn intake(&self) -> &Intake {
        &self.0.push.0.intake
    }
}
