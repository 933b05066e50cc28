//! Serves one mailbox as long as something is in it: looks up, writes, sends, and tries again what
//! failed. Whatever a gateway does, it delays this one pusher only.

use std::{sync::Arc, time::Duration};

use ruma::UserId;
use serde_json::{Value, json};

use super::{
    Delivery,
    gateway::GatewayError,
    letter::Letterhead,
    mailbox::{Kind, Mailbox, Notice, Subject, Task},
    payload::{tweaks_of, write_badge, write_notification},
};
use crate::{
    protocol::membership::Membership,
    rooms::{ordering_of_position, position_of_ordering},
    storage::{
        StorageError,
        pushers::{self, StoredPusher},
    },
};

/// Before the count alone is sent, more may be read.
const BADGE_PAUSE: Duration = Duration::from_secs(1);
/// The pause after the store failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// Notifications that are looked up at once; older ones are not told any more.
const LOOKED_UP_MAX: usize = 50;
/// After this time a notification is of no use any more.
const NOTICE_AGE_MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// What is sent to a gateway, and the count that it carries.
struct Message {
    url: String,
    body: Value,
    unread: i64,
}

impl Delivery {
    /// Serves a mailbox until it rests.
    pub(super) async fn serve(self, mailbox: Arc<Mailbox>) {
        loop {
            match self.step(&mailbox).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(StorageError::Closed) => return mailbox.leave(),
                Err(error) => {
                    mailbox.put_back();
                    tracing::warn!(user.id = %mailbox.user_id, %error, "a pusher waits for the store");
                    tokio::time::sleep(FAILURE_PAUSE).await;
                }
            }
        }
    }

    /// One step; false when the mailbox is served no more.
    async fn step(&self, mailbox: &Mailbox) -> Result<bool, StorageError> {
        let now_ms = self.0.rooms.clock().now_ms();
        match mailbox.next(now_ms) {
            Task::Rest => return Ok(false),
            Task::Wait(until_ms) => self.wait_until(mailbox, until_ms - now_ms).await?,
            Task::Linger => {
                // Ended by whatever comes.
                let _ = tokio::time::timeout(BADGE_PAUSE, mailbox.bell.notified()).await;
            }
            Task::LookUp(after) if mailbox.kind == Kind::Email => {
                return self.mail(mailbox, after).await;
            }
            Task::Tell(notice) if mailbox.kind == Kind::Email => {
                return self.mail(mailbox, notice.subject.position - 1).await;
            }
            Task::LookUp(after) => {
                let _turn = self.0.preparing.acquire().await;
                let found = self.look_up(&mailbox.user_id, (after, NOTICE_AGE_MAX_MS)).await?;
                mailbox.found(found);
            }
            Task::Tell(notice) => return self.tell(mailbox, &notice).await,
            Task::Badge(known) => return self.tell_count(mailbox, known).await,
        }
        Ok(true)
    }

    /// Waits for the next attempt, which comes early when the gateway is seen to live.
    async fn wait_until(&self, mailbox: &Mailbox, wait_ms: u64) -> Result<(), StorageError> {
        let Some((pusher, _)) = self.find_pusher(mailbox).await? else {
            mailbox.hasten();
            return Ok(());
        };
        let gateway = self.0.gateways.find(&url_of(&pusher));
        let pause = tokio::time::sleep(Duration::from_millis(wait_ms));
        tokio::select! {
            () = pause => {}
            () = mailbox.retry.notified() => {}
            () = gateway.lives.notified() => mailbox.hasten(),
        }
        Ok(())
    }

    /// What the user was notified of behind a place in the stream and has not read, oldest first; what
    /// was sent longer ago than `age_max_ms` is left out.
    pub(super) async fn look_up(
        &self,
        user: &UserId,
        (after, age_max_ms): (i64, u64),
    ) -> Result<Vec<Notice>, StorageError> {
        let (rooms, push) = (&self.0.rooms, &self.0.push);
        let limits = (LOOKED_UP_MAX, false);
        let page = push.list_notifications(rooms, user, None, limits).await?;
        let now_ms = rooms.clock().now_ms();
        let mut found = Vec::new();
        for notification in page.notifications.into_iter().rev() {
            let sent_ms = notification.event.event.origin_server_ts().max(0).cast_unsigned();
            let is_old = sent_ms.saturating_add(age_max_ms) < now_ms;
            let is_known = notification.ordering <= ordering_of_position(after);
            if notification.is_read || is_known || is_old {
                continue;
            }
            let subject = Subject {
                room: Arc::clone(notification.viewer.room()),
                position: position_of_ordering(notification.ordering),
                event: notification.event,
                thread: notification.thread.map(|root| root.as_str().into()),
            };
            let actions: Value = serde_json::from_str(&notification.actions).unwrap_or_default();
            let tweaks = Arc::new(tweaks_of(&actions));
            found.push(Notice { subject: Arc::new(subject), tweaks });
        }
        Ok(found)
    }

    async fn tell(&self, mailbox: &Mailbox, notice: &Notice) -> Result<bool, StorageError> {
        let message = {
            let _turn = self.0.preparing.acquire().await;
            let Some((pusher, pushkey_ts)) = self.find_pusher(mailbox).await? else {
                return Ok(false);
            };
            if !self.is_due(&mailbox.user_id, &notice.subject).await? {
                count("collapsed");
                mailbox.skip();
                return Ok(true);
            }
            let unread = self.0.push.count_unread(&self.0.rooms, &mailbox.user_id).await?;
            let head = Letterhead::load(&self.0.rooms, &notice.subject).await?;
            let letter = head.letter(&notice.subject.event.event, &mailbox.user_id, &notice.tweaks);
            let body = write_notification(&letter, unread, &pusher, pushkey_ts);
            Message { url: url_of(&pusher), body, unread }
        };
        self.send(mailbox, message).await
    }

    async fn tell_count(
        &self,
        mailbox: &Mailbox,
        known: Option<i64>,
    ) -> Result<bool, StorageError> {
        let message = {
            let _turn = self.0.preparing.acquire().await;
            let Some((pusher, pushkey_ts)) = self.find_pusher(mailbox).await? else {
                return Ok(false);
            };
            let unread = self.0.push.count_unread(&self.0.rooms, &mailbox.user_id).await?;
            if known == Some(unread) {
                mailbox.skip_badge();
                return Ok(true);
            }
            let body = write_badge(unread, &pusher, pushkey_ts);
            Message { url: url_of(&pusher), body, unread }
        };
        self.send(mailbox, message).await
    }

    async fn send(&self, mailbox: &Mailbox, message: Message) -> Result<bool, StorageError> {
        let clock = self.0.rooms.clock();
        let began = clock.instant();
        let gateway = self.0.gateways.find(&message.url);
        let sent = self.0.gateways.notify(&gateway, &message.url, &message.body).await;
        metrics::histogram!("hearth_push_gateway_seconds").record(began.elapsed().as_secs_f64());
        match sent {
            Ok(acceptance) if acceptance.rejected.contains(&mailbox.pushkey) => {
                count("rejected");
                tracing::info!(
                    user.id = %mailbox.user_id, app.id = mailbox.app_id,
                    "a push gateway does not know a device any more; its pusher is removed"
                );
                let (app_id, pushkey) = (mailbox.app_id.clone(), mailbox.pushkey.clone());
                self.0.accounts.delete_pusher(&mailbox.user_id, app_id, pushkey).await?;
                self.0.subscribers.remove(mailbox);
                Ok(false)
            }
            Ok(_) => {
                count("delivered");
                mailbox.delivered(Some(message.unread));
                Ok(true)
            }
            Err(error) => {
                self.note_failure(mailbox, &error);
                Ok(true)
            }
        }
    }

    fn note_failure(&self, mailbox: &Mailbox, error: &GatewayError) {
        count("failed");
        let (now_ms, position) = (self.0.rooms.clock().now_ms(), self.0.rooms.writer().position());
        mailbox.failed(now_ms, error.retry_after(), position);
        tracing::debug!(
            user.id = %mailbox.user_id, app.id = mailbox.app_id, %error,
            "a push gateway takes nothing"
        );
    }

    /// The pusher as it is now; without one, its mailbox goes.
    pub(super) async fn find_pusher(
        &self,
        mailbox: &Mailbox,
    ) -> Result<Option<(StoredPusher, i64)>, StorageError> {
        let key = (mailbox.user_id.as_str(), &*mailbox.app_id, &*mailbox.pushkey);
        let found = pushers::find(self.0.rooms.database(), key).await?;
        if found.is_none() {
            self.0.subscribers.remove(mailbox);
        }
        Ok(found)
    }

    /// Whether the user has still to be told: they have not read it, it was not redacted, they are in
    /// the room, and hear of the sender.
    pub(super) async fn is_due(
        &self,
        user: &UserId,
        subject: &Subject,
    ) -> Result<bool, StorageError> {
        let (rooms, counts) = (&self.0.rooms, self.0.push.counts());
        let event = &subject.event.event;
        let thread = subject.thread.as_deref();
        let read = counts.find_read(user, subject.room.nid, thread).await?;
        if ordering_of_position(subject.position) <= read {
            return Ok(false);
        }
        let place = rooms.rooms_of(user).await?.find(subject.room.nid);
        let is_there = place.is_some_and(|place| match place.membership {
            Membership::Join => true,
            Membership::Invite => event.state_key() == Some(user.as_str()),
            _ => false,
        });
        if !is_there || self.0.accounts.load_ignored_users(user).await?.contains(event.sender()) {
            return Ok(false);
        }
        let stored = rooms.events().load_one(subject.room.facts(), subject.event.nid).await?;
        Ok(!stored.is_redacted())
    }
}

fn url_of(pusher: &StoredPusher) -> String {
    let data: Value = serde_json::from_str(&pusher.data).unwrap_or_else(|_| json!({}));
    data["url"].as_str().unwrap_or_default().to_owned()
}

pub(super) fn count(outcome: &'static str) {
    metrics::counter!("hearth_push_notifications_total", "outcome" => outcome).increment(1);
}
