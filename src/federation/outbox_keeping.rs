//! What of the outbox survives a restart: at short intervals it is written down which servers wait
//! for what, and how far the stream has been looked through. What was sent twice because of that,
//! other servers know already.

use std::{sync::Arc, time::Duration};

use ruma::{OwnedServerName, ServerName};

use super::{destination::Destination, outbox::Outbox};
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
/// Servers that failed before a restart are tried again within this time, not all at once.
const WAKING_MS: u64 = 60_000;

impl Outbox {
    /// Takes up what was left at the last stop: unanswered transactions, missed events, and events
    /// that had been committed and not yet given to anybody.
    pub async fn restore(&self) -> Result<(), StorageError> {
        let database = self.0.rooms.database();
        let now_ms = self.0.rooms.clock().now_ms();
        for (server, transaction) in destinations::list_transactions(database).await? {
            if let Ok(server) = ServerName::parse(&server) {
                self.give(&server, |state| state.unanswered = Some(transaction));
            }
        }
        for row in destinations::list(database).await? {
            let Ok(server) = ServerName::parse(&row.server_name) else { continue };
            let missed = destinations::list_rooms(database, &row.server_name).await?;
            let mut spread = [0; 2];
            self.0.rooms.clock().fill_random(&mut spread);
            let spread_ms = u64::from(u16::from_le_bytes(spread)) * WAKING_MS / u64::from(u16::MAX);
            self.give(&server, |state| {
                state.restore(&row, missed);
                if state.failures > 0 {
                    state.retry_at_ms = state.retry_at_ms.max(now_ms + spread_ms);
                }
            });
        }
        self.look_through().await
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

    /// Writes down what waits now.
    pub async fn keep(&self) -> Result<(), StorageError> {
        // The cursor first: what is behind it by then is in the queues, or was sent.
        let cursor = *self.0.cursor.lock();
        let all: Vec<Arc<Destination>> = self.0.destinations.lock().values().cloned().collect();
        let (mut tx, mut cleared) = (WriteTx::new(), Vec::new());
        let (mut failing, mut has_news) = (0_u32, false);
        for destination in &all {
            let mut state = destination.state.lock();
            failing += u32::from(state.failures > 0);
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
        metrics::gauge!("hearth_federation_destinations_failing").set(failing);
        let is_moved = *self.0.kept_cursor.lock() != cursor;
        if is_moved {
            let event = EventNid((cursor.event.0 - NUMBERS_SLACK).max(0));
            destinations::save_cursor(&mut tx, OutboxCursor { event, ..cursor });
        }
        if has_news || is_moved {
            self.0.rooms.writer().commit(tx).await?;
            *self.0.kept_cursor.lock() = cursor;
        }
        self.clear(cleared).await
    }

    /// How all servers are doing for which something waits, or that fail.
    pub fn list_destinations(&self) -> Vec<(DestinationRow, usize)> {
        let destinations = self.0.destinations.lock();
        let row = |destination: &Arc<Destination>| {
            let state = destination.state.lock();
            (state.to_row(&destination.name), state.count_events())
        };
        destinations.values().map(row).collect()
    }

    /// Tries a server, or all servers, again at once.
    pub fn retry(&self, server: Option<&str>) {
        let destinations = self.0.destinations.lock();
        let is_meant = |destination: &&Arc<Destination>| {
            server.is_none_or(|server| destination.name == server)
        };
        for destination in destinations.values().filter(is_meant) {
            destination.state.lock().retry_at_ms = 0;
            destination.hurry.notify_one();
        }
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
            let position = rooms.writer().position();
            *self.0.cursor.lock() = OutboxCursor { position, event: EventNid(0) };
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
