//! How far notifications have got, written down every few seconds: one place in the stream for all,
//! and a row for each pusher that lags behind it. So a message in a large room costs no write for each
//! member, and after a crash the last few seconds are looked at again: a gateway knows by the event
//! what it was told before.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::Delivery;
use crate::storage::{StorageError, WriteTx, pushers};

const SAVE_PAUSE: Duration = Duration::from_secs(5);

impl Delivery {
    /// Writes down every few seconds how far all have got, for as long as it is polled.
    pub(super) async fn keep_progress(self) {
        loop {
            tokio::time::sleep(SAVE_PAUSE).await;
            match self.save_progress().await {
                Ok(()) => {}
                Err(StorageError::Closed) => return,
                Err(error) => tracing::warn!(%error, "the state of notifications was not saved"),
            }
        }
    }

    /// Writes down how far all have got.
    pub async fn save_progress(&self) -> Result<(), StorageError> {
        // First the place of all, then who lags behind it: what is distributed meanwhile is behind
        // that place in any case.
        let position = self.find_position();
        let mut tx = WriteTx::new();
        let mut told = Vec::new();
        let mut waiting = 0_u32;
        for subscriber in self.0.subscribers.list() {
            subscriber.for_each(|mailbox| {
                waiting += u32::from(mailbox.has_work());
                if let Some(progress) = mailbox.take_unsaved() {
                    let key = (mailbox.user_id.as_str(), &*mailbox.app_id, &*mailbox.pushkey);
                    pushers::save_progress(&mut tx, key, progress);
                    told.push(Arc::clone(mailbox));
                }
            });
        }
        metrics::gauge!("hearth_push_pushers_waiting").set(waiting);
        if position > self.0.saved.load(Ordering::SeqCst) {
            pushers::save_position(&mut tx, position);
        }
        if tx.is_empty() {
            return Ok(());
        }
        let saved = self.0.rooms.writer().commit(tx).await;
        match &saved {
            Ok(_) => self.0.saved.store(position, Ordering::SeqCst),
            Err(_) => told.iter().for_each(|mailbox| mailbox.note_unsaved()),
        }
        saved.map(drop)
    }

    /// Up to where everything is in the mailboxes.
    fn find_position(&self) -> i64 {
        let position = self.0.rooms.writer().position();
        // In this order: what is taken from the queue is marked before it is gone from it.
        let is_idle = self.intake().is_empty() && !self.0.is_distributing.load(Ordering::SeqCst);
        match is_idle && self.intake().is_empty() {
            true => position,
            false => self.0.distributed.load(Ordering::SeqCst),
        }
    }
}
