//! Tells the parts above that a user's own data have changed. They register once, at start.

use std::sync::Arc;

use ruma::{OwnedUserId, UserId};

use super::account_data::{DELETED, is_deleted};
use crate::{
    hook::Hook,
    notifier::Notifier,
    storage::{StorageError, WriteTransaction, WriteTx, Writer, account_data},
};

/// Before the ID of the device that it is about: account data that say whether it is silent (MSC3890).
const LOCAL_NOTIFICATIONS_PREFIX: &str = "org.matrix.msc3890.local_notification_settings.";

/// Called with the user and the stream position of the change, right after its commit.
pub type ChangeHook = dyn Fn(&UserId, i64) + Send + Sync;

/// Called with a user who has registered, right after the commit.
pub type ArrivalHook = dyn Fn(&UserId) + Send + Sync;

/// Announces changes. Clones share the hook.
#[derive(Clone)]
pub(super) struct Changes {
    hook: Arc<Hook<ChangeHook>>,
    notifier: Notifier,
    writer: Writer,
}

impl Changes {
    pub fn new(notifier: Notifier, writer: Writer) -> Self {
        Self { hook: Arc::default(), notifier, writer }
    }

    /// Registers what is told of changes; once, at start.
    pub fn set_hook(&self, hook: Arc<ChangeHook>) {
        if !self.hook.set(hook) {
            tracing::error!("a second hook for changes of users was not registered");
        }
    }

    pub fn release_hook(&self) {
        self.hook.release();
    }

    /// Has the change of a transaction noted with its commit. [`Changes::wake`] comes after it.
    pub fn note_in(&self, tx: &mut WriteTransaction<'_>, user_id: &UserId, position: i64) {
        let (changes, user_id) = (self.clone(), user_id.to_owned());
        tx.after_commit(move || changes.note(&user_id, position));
    }

    /// Wakes the user's syncs when the change is published.
    pub fn wake(&self, user_id: &UserId) {
        // Noted again, for a sync that began between the commit and its publication.
        self.note(user_id, self.writer.position());
        self.notifier.wake(user_id);
    }

    /// Commits, runs `applied` with the commit, and wakes the user's syncs, even if whoever asked
    /// for it goes away meanwhile.
    pub async fn commit(
        &self,
        mut tx: WriteTx,
        user_id: &UserId,
        applied: impl FnOnce() + Send + 'static,
    ) -> Result<(), StorageError> {
        let (changes, user_id): (_, OwnedUserId) = (self.clone(), user_id.to_owned());
        let (noting, noted) = (self.clone(), user_id.clone());
        tx.after_commit(move |committed| {
            applied();
            noting.note(&noted, committed.position(0));
        });
        let committing = tokio::spawn(async move {
            changes.writer.commit(tx).await?;
            changes.wake(&user_id);
            Ok(())
        });
        committing.await.map_err(|_| StorageError::Closed)?
    }

    /// Deletes what the user's clients have noted for devices that are gone: whether they are silent
    /// (MSC3890). Other devices hear of it.
    pub async fn forget_devices(
        &self,
        tx: &mut WriteTransaction<'_>,
        user_id: &UserId,
        device_ids: &[String],
    ) -> Result<(), StorageError> {
        for device_id in device_ids {
            let kind = format!("{LOCAL_NOTIFICATIONS_PREFIX}{device_id}");
            let stored = account_data::find_in(tx, user_id.as_str(), "", &kind).await?;
            if stored.is_some_and(|content| !is_deleted(&content)) {
                let user = user_id.as_str();
                let position = account_data::set(tx, user, "", &kind, DELETED).await?;
                self.note_in(tx, user_id, position);
            }
        }
        Ok(())
    }

    fn note(&self, user_id: &UserId, position: i64) {
        if let Some(hook) = self.hook.get() {
            hook(user_id, position);
        }
    }
}
