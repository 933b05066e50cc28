//! Works for one destination at a time: builds transactions, sends each until it is answered, and waits
//! when the server does not answer (server-server API, "Transactions": "must wait and retry for a 200 OK
//! response before sending a transaction with a different `txnId`"). Only a transaction that was not
//! answered at once is written down: after a kill, what is in others is found again by the cursor.

use std::{sync::Arc, time::Duration};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    destination::{Destination, Pending},
    outbox::Outbox,
    peers::{PeerError, PeerRequest, path},
    receive::{EDUS_MAX, PDUS_MAX},
};
use crate::{
    encryption::DeviceUpdate,
    outbound::Limits,
    protocol::canonical_json,
    storage::{
        StorageError, WriteTx,
        destinations::{self, TransactionRow},
    },
};

/// A large room's events take the other server a while.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(60), body_bytes_max: 1 << 20 };
/// Changes of devices in one transaction: of cross-signing keys each is told in two ways.
const DEVICE_UPDATES_MAX: usize = 20;
/// Messages to devices in one transaction.
const DIRECT_MESSAGES_MAX: usize = 40;
/// Random letters of a transaction ID.
const TRANSACTION_ID_LENGTH: usize = 16;
/// How long the store is left alone when it fails.
const STORAGE_PAUSE: Duration = Duration::from_secs(5);

/// What became of a transaction.
enum Sent {
    Answered,
    /// The server will never take it.
    Refused(PeerError),
    /// It may take it later.
    Failed(PeerError),
}

impl Outbox {
    /// Sends until nothing waits for the server any more.
    pub(super) async fn work_for(self, destination: Arc<Destination>) {
        loop {
            self.wait_until_due(&destination).await;
            // The slots are never closed.
            let Ok(_slot) = self.0.slots.acquire().await else { return };
            match self.send_next(&destination).await {
                Ok(true) => {}
                Ok(false) => {
                    if self.rest(&destination) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(server.name = %destination.name, %error, "sending waits for the database");
                    drop(_slot);
                    tokio::time::sleep(STORAGE_PAUSE).await;
                }
            }
        }
    }

    async fn wait_until_due(&self, destination: &Destination) {
        loop {
            let hurry = destination.hurry.notified();
            let retry_at_ms = destination.state.lock().retry_at_ms;
            let pause_ms = retry_at_ms.saturating_sub(self.0.rooms.clock().now_ms());
            if pause_ms == 0 {
                return;
            }
            let pause = tokio::time::sleep(Duration::from_millis(pause_ms));
            tokio::select! {
                () = pause => {}
                () = hurry => {}
            }
        }
    }

    /// Ends the work unless something came meanwhile. What is not needed any more is forgotten.
    fn rest(&self, destination: &Arc<Destination>) -> bool {
        let mut known = self.0.destinations.lock();
        let mut state = destination.state.lock();
        if state.has_work() {
            return false;
        }
        state.is_running = false;
        if !state.is_stored && !state.is_update_stored {
            known.remove(&destination.name);
        }
        true
    }

    /// Sends one transaction; false when there is none to send.
    async fn send_next(&self, destination: &Destination) -> Result<bool, StorageError> {
        let unanswered = destination.state.lock().unanswered.clone();
        let transaction = match unanswered {
            Some(transaction) => transaction,
            None => match self.build(destination).await? {
                Some(transaction) => transaction,
                None => return Ok(false),
            },
        };
        let name = destination.name.as_str();
        let class = destination.state.lock().class(self.0.rooms.clock().now_ms()).name();
        let sent = self.put(destination, &transaction).await;
        let result = match &sent {
            Sent::Answered => "answered",
            Sent::Refused(_) => "refused",
            Sent::Failed(_) => "failed",
        };
        let labels = [("result", result), ("class", class)];
        metrics::counter!("hearth_federation_sent_transactions_total", &labels).increment(1);
        match sent {
            Sent::Answered => {
                destination.state.lock().note_success();
            }
            Sent::Refused(error) => {
                tracing::warn!(server.name = name, %error, "a transaction was refused for good");
                destination.state.lock().note_success();
            }
            Sent::Failed(error) => {
                self.note_failure(destination, &error);
                self.store_unanswered(destination).await?;
                return Ok(true);
            }
        }
        if transaction.edu_position > 0 {
            let (encryption, upto) = (&self.0.encryption, transaction.edu_position);
            encryption.confirm_direct_messages(&destination.name, upto).await?;
        }
        let is_stored = {
            let mut state = destination.state.lock();
            state.unanswered = None;
            state.let_go();
            std::mem::take(&mut state.is_unanswered_stored)
        };
        if is_stored {
            let mut tx = WriteTx::new();
            destinations::delete_transaction(&mut tx, name, &transaction.transaction_id);
            self.0.rooms.writer().commit(tx).await?;
        }
        Ok(true)
    }

    fn note_failure(&self, destination: &Destination, error: &PeerError) {
        let clock = self.0.rooms.clock();
        let mut spread = [0];
        clock.fill_random(&mut spread);
        let failures = {
            let mut state = destination.state.lock();
            state.note_failure(error.to_string(), clock.now_ms(), spread[0]);
            state.failures
        };
        let name = destination.name.as_str();
        tracing::info!(server.name = name, failures, %error, "a server does not take a transaction");
    }

    /// Writes down the transaction that a server has not answered, if that is not done yet.
    pub(super) async fn store_unanswered(
        &self,
        destination: &Destination,
    ) -> Result<(), StorageError> {
        let transaction = {
            let state = destination.state.lock();
            state.unanswered.clone().filter(|_| !state.is_unanswered_stored)
        };
        let Some(transaction) = transaction else { return Ok(()) };
        let mut tx = WriteTx::new();
        destinations::save_transaction(&mut tx, destination.name.as_str(), &transaction);
        self.0.rooms.writer().commit(tx).await?;
        let mut state = destination.state.lock();
        state.is_unanswered_stored = true;
        state.let_go();
        Ok(())
    }

    /// Puts what waits into a transaction.
    async fn build(
        &self,
        destination: &Destination,
    ) -> Result<Option<TransactionRow>, StorageError> {
        let presence_of = |user: &ruma::OwnedUserId| {
            let status = self.0.presence.find(user)?;
            let mut json = format!("{{\"user_id\":{},", Value::from(user.as_str()));
            status.write_json(&mut json);
            json.push('}');
            serde_json::from_str(&json).ok()
        };
        self.add_sticky(destination).await?;
        let (pending, updates, mut edus) = {
            let mut state = destination.state.lock();
            let updates = state.take_device_updates(DEVICE_UPDATES_MAX);
            let others = EDUS_MAX - 2 * DEVICE_UPDATES_MAX - DIRECT_MESSAGES_MAX;
            (state.take_events(PDUS_MAX), updates, state.edus.take(others, presence_of))
        };
        let work = async {
            self.describe_updates(&updates, &mut edus).await?;
            let edu_position = self.add_direct_messages(destination, &mut edus).await?;
            Ok::<_, StorageError>((edu_position, self.load(&pending).await?))
        };
        let (edu_position, pdus) = match work.await {
            Ok(loaded) => loaded,
            Err(error) => {
                let mut state = destination.state.lock();
                state.put_back(pending);
                updates.into_iter().for_each(|update| state.add_device_update(update));
                state.has_stored_edus = true;
                return Err(error);
            }
        };
        if pdus.is_empty() && edus.is_empty() {
            return Ok(None);
        }
        let clock = self.0.rooms.clock();
        let transaction = TransactionRow {
            transaction_id: clock.random_text(TRANSACTION_ID_LENGTH),
            edu_position,
            content: self.write(&pdus, &edus, clock.now_ms()),
        };
        metrics::counter!("hearth_federation_sent_pdus_total").increment(pdus.len() as u64);
        metrics::counter!("hearth_federation_sent_edus_total").increment(edus.len() as u64);
        destination.state.lock().unanswered = Some(transaction.clone());
        Ok(Some(transaction))
    }

    /// Adds what sticks to the rooms of which the server missed something: "large volumes of events to send
    /// MUST NOT cause the sticky event to be dropped from the send queue" (MSC4354).
    async fn add_sticky(&self, destination: &Destination) -> Result<(), StorageError> {
        let behind = destination.state.lock().list_behind(PDUS_MAX);
        for room in self.0.rooms.load_all(&behind).await? {
            let sticky = self.list_sticky(&room).await?;
            destination.state.lock().push_first(sticky);
        }
        Ok(())
    }

    async fn describe_updates(
        &self,
        updates: &[DeviceUpdate],
        edus: &mut Vec<Value>,
    ) -> Result<(), StorageError> {
        for update in updates {
            for (kind, content) in self.0.encryption.describe_device_update(update).await? {
                edus.push(json!({ "edu_type": kind, "content": content }));
            }
        }
        Ok(())
    }

    /// Adds messages to devices; returns how far they go, 0 when there are none.
    async fn add_direct_messages(
        &self,
        destination: &Destination,
        edus: &mut Vec<Value>,
    ) -> Result<i64, StorageError> {
        if !std::mem::take(&mut destination.state.lock().has_stored_edus) {
            return Ok(0);
        }
        let all = (0, i64::MAX);
        let encryption = &self.0.encryption;
        let messages =
            encryption.list_direct_messages(&destination.name, all, DIRECT_MESSAGES_MAX).await?;
        // There may be more.
        destination.state.lock().has_stored_edus |= messages.len() == DIRECT_MESSAGES_MAX;
        for message in &messages {
            let content: Value = serde_json::from_str(&message.content).unwrap_or_default();
            edus.push(json!({ "edu_type": "m.direct_to_device", "content": content }));
        }
        Ok(messages.last().map_or(0, |message| message.position))
    }

    async fn load(&self, pending: &[Pending]) -> Result<Vec<String>, StorageError> {
        let rooms: Vec<_> = pending.iter().map(|pending| pending.room).collect();
        let rooms = self.0.rooms.load_all(&rooms).await?;
        let mut pdus = Vec::with_capacity(pending.len());
        for (pending, room) in pending.iter().zip(rooms) {
            let event = self.0.rooms.events().load_one(room.facts(), pending.event).await?;
            pdus.push(event.event.json().to_owned());
        }
        Ok(pdus)
    }

    /// The transaction as canonical JSON.
    fn write(&self, pdus: &[String], edus: &[Value], now_ms: u64) -> String {
        let origin = Value::from(self.0.rooms.server_name().as_str());
        let size: usize = pdus.iter().map(|pdu| pdu.len() + 1).sum();
        let mut text = String::with_capacity(size + 1024);
        text.push_str("{\"edus\":");
        canonical_json::append(&mut text, &edus);
        text.push_str(&format!(",\"origin\":{origin},\"origin_server_ts\":{now_ms},\"pdus\":["));
        for (number, pdu) in pdus.iter().enumerate() {
            text.push_str(if number > 0 { "," } else { "" });
            text.push_str(pdu);
        }
        text.push_str("]}");
        text
    }

    async fn put(&self, destination: &Destination, transaction: &TransactionRow) -> Sent {
        let id = transaction.transaction_id.as_str();
        let request = PeerRequest {
            method: Method::PUT,
            path: path("/_matrix/federation/v1/send", [id], &[]),
            body: Some(transaction.content.clone()),
            limits: LIMITS,
        };
        match self.0.peers.ask::<Value>(&destination.name, request).await {
            Ok(answer) => {
                note_results(destination, &answer);
                Sent::Answered
            }
            Err(error) if is_final(&error) => Sent::Refused(error),
            Err(error) => Sent::Failed(error),
        }
    }
}

/// Whether a server that is alive will never take the transaction. What may change with time - keys,
/// a proxy in front of it, load - is no such reason; nor is a refusal by a firewall, which knows no error
/// codes: messages to devices in it would be lost for good.
fn is_final(error: &PeerError) -> bool {
    error.refusal().is_some_and(|(status, errcode)| {
        if status == StatusCode::FORBIDDEN && errcode.is_empty() {
            return false;
        }
        let may_change = [
            StatusCode::UNAUTHORIZED,
            StatusCode::NOT_FOUND,
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::TOO_MANY_REQUESTS,
        ];
        status.is_client_error() && !may_change.contains(&status)
    })
}

fn note_results(destination: &Destination, answer: &Value) {
    let results = answer.get("pdus").and_then(Value::as_object);
    for (event_id, result) in results.into_iter().flatten() {
        if let Some(error) = result.get("error").and_then(Value::as_str) {
            tracing::info!(
                server.name = %destination.name, event.id = %event_id, error,
                "a server does not take an event"
            );
        }
    }
}
