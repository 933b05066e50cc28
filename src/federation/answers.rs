//! How transactions of other servers were answered, for those that are sent again ("must wait and retry for
//! a 200 OK response", server-server API, `PUT /send/{txnId}`). In memory at once and in the database a
//! little later, many together: a transaction whose answer a kill has taken is received anew, and all of it
//! is known. Not for what is in the transactions, which is durable before they are answered.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::Notify;

use super::Federation;
use crate::storage::{StorageError, WriteTx, incoming_transactions};

/// Answers that are found without the database: of 4 KiB each, with errors for all events.
const CACHED_MAX: usize = 1000;
/// What is answered meanwhile is written down by one commit.
const PAUSE: Duration = Duration::from_millis(500);
/// Answers are kept this long for transactions that are sent again.
const KEPT_MS: u64 = 24 * 60 * 60 * 1000;
/// How often older ones are deleted.
const EXPIRY_PAUSE: Duration = Duration::from_secs(60 * 60);

/// An answer by server and transaction.
type Key = (OwnedServerName, String);

/// The latest answers.
pub(super) struct Answers {
    latest: Cache<Key, Arc<str>>,
    /// Those that are not in the database, with the time of their arrival.
    unsaved: Mutex<Vec<(Key, Arc<str>, u64)>>,
    has_unsaved: Notify,
}

impl Answers {
    pub fn new() -> Self {
        let latest = Cache::new(CACHED_MAX);
        Self { latest, unsaved: Mutex::default(), has_unsaved: Notify::new() }
    }
}

impl Federation {
    /// What a transaction was answered a moment ago.
    pub(super) fn find_latest_answer(
        &self,
        origin: &ServerName,
        transaction_id: &str,
    ) -> Option<String> {
        let key = (origin.to_owned(), transaction_id.to_owned());
        self.answers().latest.get(&key).map(|answer| answer.as_ref().to_owned())
    }

    /// What a transaction was answered before that.
    pub(super) async fn find_saved_answer(
        &self,
        origin: &ServerName,
        transaction_id: &str,
    ) -> Result<Option<String>, StorageError> {
        incoming_transactions::find(self.database(), origin.as_str(), transaction_id).await
    }

    /// Keeps an answer.
    pub(super) fn keep_answer(&self, origin: &ServerName, transaction_id: &str, answer: &str) {
        let key = (origin.to_owned(), transaction_id.to_owned());
        let answer: Arc<str> = answer.into();
        let answers = self.answers();
        answers.latest.insert(key.clone(), Arc::clone(&answer));
        answers.unsaved.lock().push((key, answer, self.clock().now_ms()));
        answers.has_unsaved.notify_one();
    }

    /// Writes answers down, until shutdown.
    pub(super) async fn run_answers(self) {
        loop {
            tokio::select! {
                () = self.answers().has_unsaved.notified() => {}
                () = self.outbox().stopping() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.outbox().stopping() => return,
            }
            self.save_answers().await;
        }
    }

    /// Writes down what is not in the database yet.
    pub(super) async fn save_answers(&self) {
        let unsaved = std::mem::take(&mut *self.answers().unsaved.lock());
        if unsaved.is_empty() {
            return;
        }
        let mut tx = WriteTx::new();
        for ((origin, transaction_id), answer, received_ts) in &unsaved {
            let origin = origin.as_str();
            incoming_transactions::save(&mut tx, origin, transaction_id, answer, *received_ts);
        }
        if let Err(error) = self.writer().commit(tx).await {
            tracing::warn!(%error, "answers to transactions were not written down");
        }
    }

    /// Deletes old answers now and then, until shutdown.
    pub(super) async fn run_expiry(self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(EXPIRY_PAUSE) => {}
                () = self.outbox().stopping() => return,
            }
            let mut tx = WriteTx::new();
            let before_ms = self.clock().now_ms().saturating_sub(KEPT_MS);
            incoming_transactions::expire(&mut tx, before_ms);
            if let Err(error) = self.writer().commit(tx).await {
                tracing::warn!(%error, "old answers to transactions were not deleted");
            }
        }
    }
}
