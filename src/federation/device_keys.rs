//! Keys of devices across servers (server-server API, "End-to-End Encryption", "Device Management",
//! "Send-to-device messaging"): asking for them, and seeing to it that changes of ours and messages
//! to devices elsewhere are sent. What they mean is `encryption`'s business. Not for devices of who enters a
//! room (`introductions`).

use std::{collections::HashMap, time::Duration};

use futures_util::future::BoxFuture;
use hyper::StatusCode;
use ruma::{OwnedServerName, ServerName, UserId};
use serde_json::Value;

use super::{
    outbox::Outbox,
    peers::{PeerRequest, Peers, path},
};
use crate::{
    encryption::{Encryption, RemoteError, RemoteKeys},
    storage::{StorageError, destinations},
};

/// The keys of all devices of a large room's users.
const KEYS_BYTES_MAX: usize = 32 << 20;
/// How soon after a write it is looked whether it concerns other servers; several share one look.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// Changes of devices that are looked through at once.
const UPDATES_AT_ONCE_MAX: usize = 500;

/// Asks other servers for keys.
pub struct PeerKeys(pub Peers);

impl PeerKeys {
    async fn ask(
        &self,
        server: &ServerName,
        request: PeerRequest,
        timeout: Duration,
    ) -> Result<Value, RemoteError> {
        let answer = self.0.ask(server, request.limited(timeout, KEYS_BYTES_MAX)).await;
        answer.map_err(|error| match error.refusal() {
            Some((StatusCode::NOT_FOUND, "M_NOT_FOUND")) => {
                RemoteError::not_found(error.to_string())
            }
            _ => RemoteError::new(error.to_string()),
        })
    }
}

impl RemoteKeys for PeerKeys {
    fn query<'a>(
        &'a self,
        server: &'a ServerName,
        body: Value,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Value, RemoteError>> {
        let path = "/_matrix/federation/v1/user/keys/query".to_owned();
        Box::pin(async move { self.ask(server, PeerRequest::post(path, &body), timeout).await })
    }

    fn claim<'a>(
        &'a self,
        server: &'a ServerName,
        body: Value,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Value, RemoteError>> {
        let path = "/_matrix/federation/v1/user/keys/claim".to_owned();
        Box::pin(async move { self.ask(server, PeerRequest::post(path, &body), timeout).await })
    }

    fn fetch_devices<'a>(
        &'a self,
        user: &'a UserId,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Value, RemoteError>> {
        let path = path("/_matrix/federation/v1/user/devices", [user.as_str()], &[]);
        let request = PeerRequest::get(path);
        Box::pin(async move { self.ask(user.server_name(), request, timeout).await })
    }
}

impl Outbox {
    /// Takes up what was left at the last stop: which servers have not heard of which devices.
    pub(super) async fn restore_devices(
        &self,
        encryption: &Encryption,
    ) -> Result<(), StorageError> {
        let rooms = &self.0.rooms;
        let kept = destinations::find_device_cursor(rooms.database()).await?;
        let cursor = kept.map_or_else(|| rooms.writer().position(), |cursor| cursor.position);
        *self.0.device_cursor.lock() = (cursor, cursor);
        let mut behind = HashMap::new();
        for (server, position) in destinations::list_devices(rooms.database()).await? {
            if let Ok(server) = ServerName::parse(&server) {
                self.give(&server, |state| state.is_update_stored = true);
                behind.insert(server, position);
            }
        }
        let Some(first) = behind.values().copied().min() else { return Ok(()) };
        self.give_updates(encryption, (first, cursor), Some(&behind)).await.map(drop)
    }

    /// Tells servers of which it is learnt that they are in a room with our users what has changed of their
    /// devices since a position (MSC3902, "Device List Tracking").
    pub(super) async fn tell_devices(
        &self,
        servers: &[OwnedServerName],
        since: i64,
    ) -> Result<(), StorageError> {
        if servers.is_empty() {
            return Ok(());
        }
        let behind = servers.iter().map(|server| (server.clone(), since)).collect();
        // What comes later is given to everybody anyway.
        let upto = self.0.device_cursor.lock().0;
        self.give_updates(&self.0.encryption, (since, upto), Some(&behind)).await.map(drop)
    }

    /// Follows the stream for changes of devices and messages to devices elsewhere, until shutdown.
    pub async fn run_device_watch(self, encryption: Encryption) {
        let mut published = self.0.rooms.writer().subscribe();
        // Messages that waited at the last stop are older than the cursor.
        let mut messages_after = 0;
        loop {
            let upto = *published.borrow_and_update();
            match self.look_at_devices(&encryption, upto, messages_after).await {
                Ok(()) => messages_after = upto,
                Err(error) => tracing::warn!(%error, "changes of devices are looked for again"),
            }
            let next = async {
                let _ = published.changed().await;
                tokio::time::sleep(LOOK_PAUSE).await;
            };
            tokio::select! {
                () = next => {}
                () = self.stopping() => return,
            }
        }
    }

    async fn look_at_devices(
        &self,
        encryption: &Encryption,
        upto: i64,
        messages_after: i64,
    ) -> Result<(), StorageError> {
        for server in encryption.list_message_destinations(messages_after).await? {
            if let Ok(server) = ServerName::parse(&server) {
                self.wake(&server);
            }
        }
        let after = self.0.device_cursor.lock().0;
        if let Some(last) = self.give_updates(encryption, (after, upto), None).await? {
            // Written down with what the destinations still lack; until then it is looked for again.
            self.0.device_cursor.lock().0 = last;
        }
        Ok(())
    }

    /// Gives changes of devices in a range of positions to the servers that they concern, of those in
    /// `behind` to each what lies above its position; returns the last position.
    async fn give_updates(
        &self,
        encryption: &Encryption,
        (after, upto): (i64, i64),
        behind: Option<&HashMap<OwnedServerName, i64>>,
    ) -> Result<Option<i64>, StorageError> {
        let mut reached = None;
        loop {
            let range = (reached.unwrap_or(after), upto);
            let updates = encryption.list_device_updates(range, UPDATES_AT_ONCE_MAX).await?;
            let Some(last) = updates.last() else { return Ok(reached) };
            reached = Some(last.position);
            for update in updates {
                for server in self.list_neighbours(&update.user_id).await? {
                    let lacks = |position: &i64| *position < update.position;
                    if behind.is_none_or(|behind| behind.get(&server).is_some_and(lacks)) {
                        let update = update.clone();
                        self.give(&server, |state| state.add_device_update(update));
                    }
                }
            }
        }
    }
}
