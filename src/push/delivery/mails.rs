//! Mails about what is unread (client-server API, "Push Notifications", pushers of kind `email`): when,
//! and to whom. Some time after the first unread message comes one mail for all rooms, and no more than
//! one in a while; what was read in between is left out. Not for their words (`mail_text`), nor for how
//! mails travel (`outbound`).

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ruma::OwnedUserId;

use super::{
    Delivery,
    courier::count,
    letter::Letterhead,
    mail_text::Digest,
    mailbox::{Mailbox, Notice},
};
use crate::{
    outbound::{Mail, MailError, Mailer},
    protocol::signing::VerifyKey,
    storage::StorageError,
};

/// The page behind the link that ends these mails.
pub const UNSUBSCRIBE_PATH: &str = "/_hearth/unsubscribe";
/// Mails that are on their way to the mail server at a time.
pub(super) const MAILS_ABREAST: usize = 4;
/// What is older is of no use in a mail any more, not even after the mail server was away.
const NOTICE_AGE_MAX_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// How mails are written, and how often.
pub struct MailSettings {
    pub mailer: Mailer,
    /// Where this server is reached, without a slash at its end.
    pub public_url: String,
    /// How long something has to be unread.
    pub delay: Duration,
    /// The least time between two mails to one address.
    pub pause: Duration,
}

/// What a link to unsubscribe is about.
#[derive(Clone, Debug)]
pub struct Subscription {
    pub user_id: OwnedUserId,
    pub app_id: String,
    /// The mail address.
    pub pushkey: String,
}

impl Delivery {
    /// Mails what is unread behind a place in the stream, when its time has come; false when the
    /// pusher is gone.
    pub(super) async fn mail(&self, mailbox: &Mailbox, after: i64) -> Result<bool, StorageError> {
        if self.find_pusher(mailbox).await?.is_none() {
            return Ok(false);
        }
        let clock = self.0.rooms.clock();
        if !mailbox.ripen(after, clock.now_ms() + milliseconds(self.0.mails.delay)) {
            return Ok(true);
        }
        // Before the store is read: what comes later goes into the next mail.
        let upto = self.0.rooms.writer().position();
        let mail = {
            let _turn = self.0.preparing.acquire().await;
            let found = self.look_up(&mailbox.user_id, (after, NOTICE_AGE_MAX_MS)).await?;
            self.write_mail(mailbox, found).await?
        };
        let Some(mail) = mail else {
            count("collapsed");
            mailbox.mailed(upto);
            return Ok(true);
        };
        let sent = {
            let _turn = self.0.mailing.acquire().await;
            self.0.mails.mailer.send(mail).await
        };
        let now_ms = clock.now_ms();
        let rested_ms = now_ms + milliseconds(self.0.mails.pause);
        match sent {
            Ok(()) => {
                count("delivered");
                mailbox.mailed(upto);
                mailbox.rest_until(rested_ms);
            }
            Err(MailError::Unreachable(reason)) => {
                count("failed");
                tracing::info!(reason, "a mail about unread messages waits");
                mailbox.failed(now_ms, None, self.0.rooms.writer().position());
            }
            Err(error) => {
                count("failed");
                let user = &mailbox.user_id;
                tracing::info!(user.id = %user, %error, "a mail about unread messages is lost");
                mailbox.mailed(upto);
                mailbox.rest_until(rested_ms);
            }
        }
        Ok(true)
    }

    /// The mail, unless nothing is left to tell.
    async fn write_mail(
        &self,
        mailbox: &Mailbox,
        found: Vec<Notice>,
    ) -> Result<Option<Mail>, StorageError> {
        let mut digest = Digest::default();
        for notice in found {
            let subject = &notice.subject;
            if self.is_due(&mailbox.user_id, subject).await? {
                let head = Letterhead::load(&self.0.rooms, subject).await?;
                digest.add(subject.room.nid, &subject.event.event, &head, &mailbox.user_id);
            }
        }
        let subscription = Subscription {
            user_id: mailbox.user_id.clone(),
            app_id: mailbox.app_id.clone(),
            pushkey: mailbox.pushkey.clone(),
        };
        let server = self.0.rooms.server_name().as_str();
        Ok(digest.write(server, &mailbox.pushkey, &self.unsubscribe_link(&subscription)))
    }

    fn unsubscribe_link(&self, subscription: &Subscription) -> String {
        let signature = self.0.rooms.own_key().current().sign(&subscription.signed_bytes());
        let escape = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        format!(
            "{}{UNSUBSCRIBE_PATH}?user_id={}&app_id={}&pushkey={}&signature={}",
            self.0.mails.public_url,
            escape(subscription.user_id.as_str()),
            escape(&subscription.app_id),
            escape(&subscription.pushkey),
            escape(&signature),
        )
    }

    /// Whether a link was made by this server, with its key of now or one before it: a link in an old
    /// mail has to work as well.
    pub fn is_genuine(&self, subscription: &Subscription, signature: &str) -> bool {
        let own_key = self.0.rooms.own_key();
        let old = own_key.list_old().into_iter();
        let old = old.filter_map(|row| VerifyKey::from_base64(&row.public_key).ok());
        let mut keys = std::iter::once(own_key.current().verify_key()).chain(old);
        keys.any(|key| key.verify(&subscription.signed_bytes(), signature).is_ok())
    }

    /// Ends the mails that a genuine link is about.
    pub async fn unsubscribe(&self, subscription: Subscription) -> Result<(), StorageError> {
        let Subscription { user_id, app_id, pushkey } = subscription;
        self.0.accounts.delete_pusher(&user_id, app_id, pushkey).await
    }

    /// Whether this server sends mails at all.
    pub fn sends_mails(&self) -> bool {
        self.0.mails.mailer.is_configured()
    }
}

impl Subscription {
    /// What the signature of a link covers. It is no JSON, so that it cannot stand for an event or a
    /// request.
    fn signed_bytes(&self) -> Vec<u8> {
        // No part can have U+0000.
        let parts = ["unsubscribe", self.user_id.as_str(), &self.app_id, &self.pushkey];
        parts.join("\0").into_bytes()
    }
}

fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis() as u64
}
