//! Sends one service what concerns it: one transaction after the other, each stored before it is
//! sent and repeated as it is until it is acknowledged (application-service API, "Pushing events").
//! The stream is the queue; a service has a place in it.

use std::{sync::Arc, time::Duration};

use hyper::Method;
use tokio_util::sync::CancellationToken;

use super::{
    Appservices, Silence,
    devices::{DeviceTidings, ServiceDevices},
    ephemeral::Ephemerals,
    interest::Interests,
    registration::Service,
    tail::{Feed, Next},
    transaction::EVENTS_MAX,
    wire::{Path, WireError},
};
use crate::storage::{
    StorageError, WriteTx,
    appservices::{self, StreamEvent, StreamRow, TransactionRow},
};

/// How long a service may take for a transaction.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
/// The first pause after a failure; each further one is twice as long.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);
/// The pause after the store failed.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// A place in the stream is written at least this often, even if nothing concerned the service.
const POSITIONS_UNWRITTEN_MAX: i64 = 10_000;
/// After such times of silence the log says so, and the administrator is told.
const REPORT_AFTER_MS: u64 = 60 * 60 * 1000;
const REPORT_EVERY_MS: u64 = DAY_MS;
const TELL_AFTER_MS: u64 = 2 * DAY_MS;
const TELL_EVERY_MS: u64 = 7 * DAY_MS;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// Positions between two lines of the log while a service catches up.
const PROGRESS_POSITIONS: i64 = 50_000;

/// The conversation with one service.
pub(super) struct Delivery {
    appservices: Appservices,
    service: Arc<Service>,
    feed: Arc<Feed>,
    interests: Interests,
    ephemerals: Option<Ephemerals>,
    devices: Option<ServiceDevices>,
    /// As it is stored.
    stream: StreamRow,
    /// How far the stream was looked through.
    cursor: i64,
    /// Where the log last told of the progress.
    told: i64,
    /// When the log last told that the service is gone.
    reported_ms: Option<u64>,
    /// When the administrator was last told.
    complained_ms: Option<u64>,
}

/// What the next transaction will hold.
struct Batch {
    events: Vec<StreamEvent>,
    /// The place in the stream that is reached with it.
    upto: i64,
}

impl Appservices {
    /// Begins the conversation with a service, until `end`.
    pub(super) async fn deliver(
        self,
        service: Arc<Service>,
        feed: Arc<Feed>,
        end: CancellationToken,
    ) {
        let run = async {
            loop {
                let begun = Delivery::begin(self.clone(), service.clone(), feed.clone()).await;
                let ended = match begun {
                    Ok(delivery) => delivery.run().await,
                    Err(error) => error,
                };
                match ended {
                    StorageError::Closed => return,
                    error => {
                        tracing::warn!(appservice.id = service.id, %error, "a service waits for the store");
                    }
                }
                tokio::time::sleep(STORE_PAUSE).await;
            }
        };
        end.run_until_cancelled(run).await;
    }
}

impl Delivery {
    async fn begin(
        appservices: Appservices,
        service: Arc<Service>,
        feed: Arc<Feed>,
    ) -> Result<Self, StorageError> {
        let rooms = &appservices.0.rooms;
        let stored = appservices::find_stream(rooms.database(), &service.id).await?;
        let is_new = stored.is_none();
        // Numbers go on from the time, so that a service that is registered anew takes none of
        // them for one that it knows.
        let stream = stored.unwrap_or_else(|| StreamRow {
            position: rooms.writer().position(),
            devices: rooms.writer().position(),
            transaction: rooms.clock().now_ms().cast_signed(),
            failing_since_ts: None,
        });
        if is_new {
            let mut tx = WriteTx::new();
            appservices::save_stream(&mut tx, &service.id, stream);
            rooms.writer().commit(tx).await?;
        }
        let ephemerals = match service.receives_ephemeral {
            true => Some(appservices.open_ephemerals((&service, &feed), stream.position).await?),
            false => None,
        };
        let devices = match service.receives_device_news {
            true => Some(appservices.open_devices((&service, &feed), stream.devices).await?),
            false => None,
        };
        Ok(Self {
            interests: appservices.interests(vec![service.clone()]),
            cursor: stream.position,
            told: stream.position,
            reported_ms: None,
            complained_ms: None,
            appservices,
            service,
            feed,
            ephemerals,
            devices,
            stream,
        })
    }

    /// Goes on until the store fails.
    async fn run(mut self) -> StorageError {
        match self.converse().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn converse(&mut self) -> Result<std::convert::Infallible, StorageError> {
        let database = self.appservices.0.rooms.database().clone();
        let mut waiting = appservices::find_transaction(&database, &self.service.id).await?;
        loop {
            if let Some(transaction) = waiting.take() {
                self.send(&transaction).await?;
                self.stream.position = transaction.position;
                self.cursor = self.cursor.max(transaction.position);
                waiting = self.prepare(true).await?;
                continue;
            }
            waiting = self.prepare(false).await?;
            if waiting.is_none() {
                self.wait().await?;
            }
        }
    }

    /// Stores the next transaction, if there is anything to say; `acknowledges` that the one before
    /// it has arrived.
    async fn prepare(
        &mut self,
        acknowledges: bool,
    ) -> Result<Option<TransactionRow>, StorageError> {
        let batch = self.collect().await?;
        let ephemeral = match &mut self.ephemerals {
            Some(ephemerals) => ephemerals.take(&self.interests).await?,
            None => Default::default(),
        };
        let mut tx = WriteTx::new();
        let mut tidings = DeviceTidings::default();
        if let Some(devices) = &mut self.devices {
            let since = self.stream.devices;
            let taken = devices.take(&self.interests, &batch.events, since, &mut tx).await?;
            (tidings, self.stream.devices) = taken;
        }
        self.cursor = batch.upto;
        let id = &self.service.id;
        if batch.events.is_empty() && ephemeral.is_empty() && tidings.is_empty() {
            let is_far = self.cursor - self.stream.position > POSITIONS_UNWRITTEN_MAX;
            if acknowledges || is_far {
                self.stream.position = self.cursor;
                appservices::delete_transaction(&mut tx, id);
                appservices::save_stream(&mut tx, id, self.stream);
                self.appservices.0.rooms.writer().commit(tx).await?;
            }
            return Ok(None);
        }
        let content =
            self.appservices.write_transaction(&batch.events, &ephemeral, &tidings).await?;
        self.stream.transaction += 1;
        let number = self.stream.transaction;
        let row = TransactionRow { number, position: batch.upto, content };
        appservices::save_transaction(&mut tx, id, &row);
        appservices::save_stream(&mut tx, id, self.stream);
        self.appservices.0.rooms.writer().commit(tx).await?;
        Ok(Some(row))
    }

    /// The next events that concern the service.
    async fn collect(&mut self) -> Result<Batch, StorageError> {
        let mut batch = Batch { events: Vec::new(), upto: self.cursor };
        loop {
            match self.feed.take(batch.upto, EVENTS_MAX - batch.events.len()) {
                Next::Events(events, upto) => {
                    batch.events.extend(events);
                    batch.upto = upto;
                    return Ok(batch);
                }
                Next::Behind(end) => {
                    self.read_page(&mut batch, end).await?;
                    if batch.events.len() >= EVENTS_MAX {
                        return Ok(batch);
                    }
                }
            }
        }
    }

    /// Reads what the service was too slow for, or what came while it was not fed.
    async fn read_page(&mut self, batch: &mut Batch, end: i64) -> Result<(), StorageError> {
        let page = self.appservices.list_stream((batch.upto, end)).await?;
        for event in page.events {
            if !self.appservices.decide(&self.interests, &event).await?.is_empty() {
                batch.events.push(event);
                if batch.events.len() >= EVENTS_MAX {
                    batch.upto = event.position;
                    return Ok(());
                }
            }
        }
        batch.upto = page.upto;
        if batch.upto - self.told > PROGRESS_POSITIONS {
            self.told = batch.upto;
            let behind = self.behind();
            tracing::info!(appservice.id = self.service.id, behind, "a service catches up");
        }
        Ok(())
    }

    /// Sends until it is acknowledged. With an outage of any length, this one transaction is all
    /// that is in memory.
    async fn send(&mut self, transaction: &TransactionRow) -> Result<(), StorageError> {
        let body = bytes::Bytes::from(transaction.content.clone());
        let path = Path::transaction(transaction.number);
        let clock = self.appservices.0.rooms.clock().clone();
        let mut pause = RETRY_PAUSE;
        loop {
            let began = clock.instant();
            let wire = &self.appservices.0.wire;
            let answer = wire
                .request(&self.service, Method::PUT, &path, Some(body.clone()), TRANSACTION_TIMEOUT)
                .await;
            self.count(answer.is_ok(), began.elapsed());
            let Err(error) = answer else { break };
            self.note_failure(&error).await?;
            let woken = self.appservices.wait_for_life(&self.service.id);
            if tokio::time::timeout(pause, woken).await.is_ok() {
                pause = RETRY_PAUSE;
            } else {
                pause = (pause * 2).min(RETRY_PAUSE_MAX);
            }
        }
        if let Some(since) = self.stream.failing_since_ts.take() {
            let silent_s = clock.now_ms().saturating_sub(since.cast_unsigned()) / 1000;
            (self.reported_ms, self.complained_ms) = (None, None);
            tracing::info!(appservice.id = self.service.id, silent_s, "a service is back");
        }
        Ok(())
    }

    /// Notes a failure in the log, at first, after an hour and every day; tells the administrator after
    /// days.
    async fn note_failure(&mut self, error: &WireError) -> Result<(), StorageError> {
        let now_ms = self.appservices.0.rooms.clock().now_ms();
        let Some(since) = self.stream.failing_since_ts else {
            tracing::warn!(appservice.id = self.service.id, %error, "a service takes nothing");
            self.stream.failing_since_ts = Some(now_ms.cast_signed());
            let mut tx = WriteTx::new();
            appservices::save_stream(&mut tx, &self.service.id, self.stream);
            return self.appservices.0.rooms.writer().commit(tx).await.map(drop);
        };
        let silent_ms = now_ms.saturating_sub(since.cast_unsigned());
        let is_due = |before_ms: Option<u64>, after_ms: u64, every_ms: u64| match before_ms {
            None => silent_ms >= after_ms,
            Some(before_ms) => now_ms.saturating_sub(before_ms) >= every_ms,
        };
        let behind = self.behind();
        if is_due(self.complained_ms, TELL_AFTER_MS, TELL_EVERY_MS)
            && let Some(tell) = self.appservices.0.silence_hook.get()
        {
            self.complained_ms = Some(now_ms);
            tell(Silence { id: self.service.id.clone(), lasts_ms: silent_ms, behind });
        }
        if is_due(self.reported_ms, REPORT_AFTER_MS, REPORT_EVERY_MS) {
            self.reported_ms = Some(now_ms);
            let hours = silent_ms / (60 * 60 * 1000);
            tracing::error!(
                appservice.id = self.service.id, silent_h = hours, behind, %error,
                "a service has been gone for long; start it, or remove its registration"
            );
        }
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), StorageError> {
        metrics::gauge!("hearth_appservice_positions_behind", "appservice" => self.service.id.clone())
            .set(0.0);
        self.feed.bell.notified().await;
        Ok(())
    }

    fn behind(&self) -> i64 {
        self.appservices.0.rooms.writer().position() - self.stream.position
    }

    fn count(&self, is_good: bool, took: Duration) {
        let id = self.service.id.clone();
        let outcome = if is_good { "delivered" } else { "failed" };
        metrics::counter!(
            "hearth_appservice_transactions_total", "appservice" => id.clone(), "outcome" => outcome
        )
        .increment(1);
        metrics::histogram!("hearth_appservice_transaction_seconds", "appservice" => id.clone())
            .record(took.as_secs_f64());
        metrics::gauge!("hearth_appservice_positions_behind", "appservice" => id)
            .set(self.behind() as f64);
    }
}
