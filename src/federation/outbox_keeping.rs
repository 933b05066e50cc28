//! What of the outbox survives a restart: at short intervals it is written down which servers wait
//! for what, and how far the stream has been looked through. What was sent twice because of that,
//! other servers know already.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ruma::{OwnedServerName, ServerName};

use super::{
    destination::{Destination, DestinationClass, DestinationState},
    outbox::Outbox,
};
use crate::storage::{
    EventNid, StorageError, WriteTx,
    destinations::{self, DestinationRow, OutboxCursor},
};

/// How often it is written down.
const PAUSE: Duration = Duration::from_secs(5);
/// Events that are looked through at once after a restart.
const STEP_EVENTS: usize = 500;
/// How much lower the number of an event can be than that of one that was committed before it.
const NUMBERS_SLACK: i64 = 100_000;
/// Servers that failed before a restart are not all tried again at once, but at about this pace …
const WAKING_PACE_MS: u64 = 50;
/// … and all of them within this time.
const WAKING_MS_MAX: u64 = 60_000;

impl Outbox {
    /// Takes up what was left at the last stop: unanswered transactions, missed events, and events
    /// that had been committed and not yet given to anybody.
    pub async fn restore(&self) -> Result<(), StorageError> {
        let database = self.0.rooms.database();
        let now_ms = self.0.rooms.clock().now_ms();
        for (server, transaction) in destinations::list_transactions(database).await? {
            if let Ok(server) = ServerName::parse(&server) {
                self.give(&server, |state| {
                    state.unanswered = Some(transaction);
                    state.is_unanswered_stored = true;
                });
            }
        }
        let rows = destinations::list(database).await?;
        let waking_ms = (rows.len() as u64 * WAKING_PACE_MS).min(WAKING_MS_MAX);
        for row in rows {
            let Ok(server) = ServerName::parse(&row.server_name) else { continue };
            let missed = destinations::list_rooms(database, &row.server_name).await?;
            let mut spread = [0; 2];
            self.0.rooms.clock().fill_random(&mut spread);
            let spread_ms = u64::from(u16::from_le_bytes(spread)) * waking_ms / u64::from(u16::MAX);
            self.give(&server, |state| {
                state.restore(&row, missed);
                if state.failures > 0 {
                    state.retry_at_ms = state.retry_at_ms.max(now_ms + spread_ms);
                }
            });
        }
        self.restore_devices(&self.0.encryption).await?;
        self.look_through().await?;
        self.0.is_restored.store(true, Ordering::Release);
        Ok(())
    }

    /// Writes down what waits, until shutdown.
    pub async fn run_keeping(self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.0.shutdown.cancelled() => return,
            }
            if let Err(error) = self.keep().await {
                tracing::warn!(%error, "what waits for other servers was not written down");
            }
        }
    }

    /// Writes down what waits when nothing is sent any more, with what was under way.
    pub async fn keep_all(&self) -> Result<(), StorageError> {
        let all: Vec<Arc<Destination>> = self.0.destinations.lock().values().cloned().collect();
        for destination in &all {
            self.store_unanswered(destination).await?;
        }
        self.keep().await
    }

    /// Writes down what waits now.
    async fn keep(&self) -> Result<(), StorageError> {
        // The cursors first: what is behind them by then is in the queues, or was sent.
        let cursor = *self.0.cursor.lock();
        let (device_cursor, kept_device_cursor) = *self.0.device_cursor.lock();
        let all: Vec<Arc<Destination>> = self.0.destinations.lock().values().cloned().collect();
        let mut tx = WriteTx::new();
        let (mut has_news, mut cleared) = (false, Vec::new());
        for destination in &all {
            let mut state = destination.state.lock();
            has_news |= keep_devices(destination.name.as_str(), &mut state, &mut tx);
            let missed = state.list_missed();
            let name = destination.name.as_str();
            if missed.is_empty() && state.failures == 0 {
                if state.is_stored {
                    state.is_stored = false;
                    cleared.push(destination.name.clone());
                }
                continue;
            }
            state.is_stored = true;
            has_news = true;
            destinations::save(&mut tx, &state.to_row(&destination.name));
            missed.into_iter().for_each(|row| destinations::save_room(&mut tx, name, row));
        }
        self.tell_figures(&all);
        let is_moved = *self.0.kept_cursor.lock() != cursor;
        if is_moved {
            let event = EventNid((cursor.event.0 - NUMBERS_SLACK).max(0));
            destinations::save_cursor(&mut tx, OutboxCursor { event, ..cursor });
        }
        if device_cursor != kept_device_cursor {
            let cursor = OutboxCursor { position: device_cursor, event: EventNid(0) };
            destinations::save_device_cursor(&mut tx, cursor);
        }
        if has_news || is_moved || device_cursor != kept_device_cursor {
            self.0.rooms.writer().commit(tx).await?;
            *self.0.kept_cursor.lock() = cursor;
            self.0.device_cursor.lock().1 = device_cursor;
        }
        self.clear(cleared).await
    }

    /// How many servers are doing well and how many are not, and what waits for them.
    fn tell_figures(&self, all: &[Arc<Destination>]) {
        let now_ms = self.0.rooms.clock().now_ms();
        for class in DestinationClass::ALL {
            let (mut servers, mut events) = (0_u32, 0);
            for destination in all {
                let state = destination.state.lock();
                if state.class(now_ms) == class {
                    servers += 1;
                    events += state.count_events();
                }
            }
            let name = class.name();
            metrics::gauge!("hearth_federation_destinations", "class" => name).set(servers);
            metrics::gauge!("hearth_federation_waiting_events", "class" => name).set(events as f64);
        }
    }

    /// How all servers are doing for which something waits, or that fail, and for how many events of
    /// rooms they wait; as the store tells it while nothing is sent.
    pub async fn list_destinations(&self) -> Result<Vec<(DestinationRow, usize)>, StorageError> {
        if !self.is_sending() {
            let database = self.0.rooms.database();
            let mut listed = Vec::new();
            for row in destinations::list(database).await? {
                let rooms = destinations::count_rooms(database, &row.server_name).await?;
                listed.push((row, usize::try_from(rooms).unwrap_or(0)));
            }
            return Ok(listed);
        }
        let destinations = self.0.destinations.lock();
        let row = |destination: &Arc<Destination>| {
            let state = destination.state.lock();
            (state.to_row(&destination.name), state.count_events())
        };
        Ok(destinations.values().map(row).collect())
    }

    /// Tries a server, or all servers, again at once, or as soon as something is sent at all.
    pub async fn retry(&self, server: Option<&str>) -> Result<(), StorageError> {
        let is_meant = |name: &str| server.is_none_or(|server| name == server);
        if !self.is_sending() {
            let mut tx = WriteTx::new();
            let rows = destinations::list(self.0.rooms.database()).await?;
            for row in rows.into_iter().filter(|row| is_meant(&row.server_name)) {
                destinations::save(&mut tx, &DestinationRow { retry_ts: 0, ..row });
            }
            return self.0.rooms.writer().commit(tx).await.map(drop);
        }
        let destinations = self.0.destinations.lock();
        for destination in destinations.values().filter(|known| is_meant(known.name.as_str())) {
            destination.state.lock().retry_at_ms = 0;
            destination.hurry.notify_one();
        }
        Ok(())
    }

    /// Whether what was left at the last stop has been taken up, so that memory knows all of it.
    fn is_sending(&self) -> bool {
        self.0.is_restored.load(Ordering::Acquire)
    }

    async fn clear(&self, servers: Vec<OwnedServerName>) -> Result<(), StorageError> {
        if servers.is_empty() {
            return Ok(());
        }
        let mut tx = WriteTx::new();
        for server in &servers {
            destinations::delete(&mut tx, server.as_str());
            destinations::delete_rooms(&mut tx, server.as_str());
        }
        self.0.rooms.writer().commit(tx).await?;
        Ok(())
    }

    /// Gives events to destinations that were committed behind the cursor.
    async fn look_through(&self) -> Result<(), StorageError> {
        let rooms = &self.0.rooms;
        let Some(mut cursor) = destinations::find_cursor(rooms.database()).await? else {
            // Nothing was ever sent: what is there by now concerns nobody.
            let start = OutboxCursor { position: rooms.writer().position(), event: EventNid(0) };
            // What comes from now on does, even if the server is killed at once.
            let mut tx = WriteTx::new();
            destinations::save_cursor(&mut tx, start);
            destinations::save_device_cursor(&mut tx, start);
            rooms.writer().commit(tx).await?;
            *self.0.cursor.lock() = start;
            *self.0.kept_cursor.lock() = start;
            return Ok(());
        };
        *self.0.cursor.lock() = cursor;
        loop {
            let rows = destinations::list_behind(rooms.database(), cursor, STEP_EVENTS).await?;
            let Some(last) = rows.last().and_then(|row| row.position) else { return Ok(()) };
            cursor.position = last;
            for row in rows {
                let Some(room) = rooms.load_all(&[row.room_nid]).await?.pop() else { continue };
                let events = rooms.events().read_rows(room.facts(), vec![row]).await?;
                for event in events {
                    if event.event.sender().server_name() == rooms.server_name() {
                        self.dispatch_again(Arc::clone(&room), event).await;
                    }
                }
            }
        }
    }
}

/// Queues up to where a server has heard of changed devices, if that is news; whether it is.
fn keep_devices(name: &str, state: &mut DestinationState, tx: &mut WriteTx) -> bool {
    match state.first_device_update() {
        Some(first) => destinations::save_devices(tx, name, first - 1),
        None if state.is_update_stored => destinations::delete_devices(tx, name),
        None => return false,
    }
    state.is_update_stored = state.first_device_update().is_some();
    true
}
