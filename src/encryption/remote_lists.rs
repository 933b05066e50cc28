//! Device lists of users elsewhere with whom somebody here shares a room: fetched when they are first
//! needed, and again after a gap in what their server told.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use futures_util::future::join_all;
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::Notify;

use super::{
    Encryption, RemoteError, identity::text, inbound::save_cross_signing_keys, remote::gather,
    upload::IDENTITY_BYTES_MAX,
};
use crate::{
    accounts::login::is_device_id,
    storage::{
        StorageError,
        remote_devices::{self, RemoteDevice, RemoteList},
    },
};

/// How long a server may take to list the devices of a user in the background.
const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(30);
/// How often stale lists are tried again when nothing rings.
const RETRY_PAUSE: Duration = Duration::from_secs(60);
/// Users of one server whose lists are fetched, one by one, for one request.
const FETCHED_OF_SERVER_MAX: usize = 10;
/// Lists that are fetched at once in the background.
const FETCHED_AT_ONCE: usize = 20;
/// Users with stale lists that are looked up at once.
const STALE_PAGE_USERS: usize = 1000;
/// Devices of one user that are believed.
const DEVICES_MAX: usize = 10_000;
/// Bytes of the name of a device; a longer one is left out.
const DISPLAY_NAME_BYTES_MAX: usize = 1024;

/// Rings when a list became stale.
#[derive(Default)]
pub(super) struct RemoteLists(Notify);

/// What became of lists that were needed.
#[derive(Default)]
pub(super) struct Refreshed {
    /// Users whose lists are up to date now.
    pub fresh: Vec<OwnedUserId>,
    pub failures: BTreeMap<OwnedServerName, RemoteError>,
}

/// The answer of `GET /user/devices/{userId}`.
#[derive(Debug, Deserialize)]
struct FetchedList {
    stream_id: i64,
    devices: Vec<FetchedDevice>,
    master_key: Option<Map<String, Value>>,
    self_signing_key: Option<Map<String, Value>>,
}

/// A device as its user's server tells it.
#[derive(Debug, Deserialize)]
pub(super) struct FetchedDevice {
    pub device_id: String,
    pub keys: Option<Map<String, Value>>,
    pub device_display_name: Option<String>,
}

impl RemoteLists {
    pub fn ring(&self) {
        self.0.notify_one();
    }
}

impl Encryption {
    /// Brings the lists of those up to date who share a room with the viewer; the others' are not
    /// kept, since nobody tells of their changes. Of a server with many such users no list is fetched: they
    /// are asked for together, as of a client that is new to a large room.
    pub(super) async fn refresh_remote_lists(
        &self,
        viewer: &UserId,
        users: &[&UserId],
        timeout: Duration,
    ) -> Result<Refreshed, StorageError> {
        let viewer = self.0.rooms.rooms_of(viewer).await?;
        let mut refreshed = Refreshed::default();
        let mut shared = Vec::new();
        for user in users {
            let theirs = self.0.rooms.rooms_of(user).await?;
            if let Some(since) = viewer.shares_room_since(&theirs) {
                shared.push((*user, since));
            }
        }
        let names: Vec<&str> = shared.iter().map(|(user, _)| user.as_str()).collect();
        let kept = remote_devices::list_fresh(self.0.rooms.database(), &names).await?;
        // Who came into the room after the list was fetched, or left and came back, may have been
        // nobody's business here for a while, and then nobody told of changes.
        let is_fresh = |(user, shared_since): &(&UserId, i64)| {
            let kept = kept.iter().find(|(known, _)| known == user.as_str());
            kept.is_some_and(|(_, kept_since)| shared_since <= kept_since)
        };
        let (fresh, missing): (Vec<_>, Vec<_>) = shared.into_iter().partition(is_fresh);
        let mut by_server: BTreeMap<&ServerName, Vec<&UserId>> = BTreeMap::new();
        for (user, _) in missing {
            by_server.entry(user.server_name()).or_default().push(user);
        }
        by_server.retain(|_, users| users.len() <= FETCHED_OF_SERVER_MAX);
        let mut silent: BTreeSet<&UserId> = by_server.into_values().flatten().collect();
        let asked =
            silent.iter().map(|&user| async move { (user, self.fetch_list(user, timeout).await) });
        for (user, fetched) in gather(asked.collect(), timeout).await {
            silent.remove(user);
            match fetched? {
                Ok(()) => refreshed.fresh.push(user.to_owned()),
                // Its server is there all the same.
                Err(error) if error.is_not_found => {}
                Err(error) => {
                    refreshed.failures.insert(user.server_name().to_owned(), error);
                }
            }
        }
        for user in silent {
            refreshed.failures.insert(user.server_name().to_owned(), RemoteError::late());
        }
        refreshed.fresh.extend(fresh.into_iter().map(|(user, _)| user.to_owned()));
        Ok(refreshed)
    }

    /// Fetches stale lists whenever there are some.
    pub(super) async fn run_resyncs(self) {
        loop {
            if let Err(error) = self.resync_stale().await {
                tracing::warn!(%error, "device lists were not fetched again");
            }
            let rung = self.0.remote_lists.0.notified();
            let _ = tokio::time::timeout(RETRY_PAUSE, rung).await;
        }
    }

    async fn resync_stale(&self) -> Result<(), StorageError> {
        if self.0.remote.get().is_none() {
            return Ok(());
        }
        // A server that does not answer once is not asked again in this round.
        let mut silent: HashSet<OwnedServerName> = HashSet::new();
        let (database, mut after) = (self.0.rooms.database(), String::new());
        loop {
            let stale = remote_devices::list_stale(database, &after, STALE_PAGE_USERS).await?;
            let users: Vec<_> = stale.iter().filter_map(|user| UserId::parse(user).ok()).collect();
            for users in users.chunks(FETCHED_AT_ONCE) {
                self.resync_some(users, &mut silent).await?;
            }
            match stale.into_iter().next_back() {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }

    async fn resync_some(
        &self,
        users: &[OwnedUserId],
        silent: &mut HashSet<OwnedServerName>,
    ) -> Result<(), StorageError> {
        let asked = users.iter().filter(|user| !silent.contains(user.server_name()));
        let asked = asked
            .map(|user| async move { (user, self.fetch_list(user, BACKGROUND_TIMEOUT).await) });
        for (user, fetched) in join_all(asked).await {
            if fetched?.is_err_and(|error| !error.is_not_found) {
                silent.insert(user.server_name().to_owned());
            }
        }
        Ok(())
    }

    /// Fetches a user's list. What changes meanwhile leaves it stale.
    async fn fetch_list(
        &self,
        user: &UserId,
        timeout: Duration,
    ) -> Result<Result<(), RemoteError>, StorageError> {
        let Some(remote) = self.0.remote.get() else {
            return Ok(Err(RemoteError::unreachable()));
        };
        let kept_since = self.0.rooms.writer().position();
        self.begin_keeping(user).await?;
        let answer = match remote.fetch_devices(user, timeout).await {
            Ok(answer) => answer,
            Err(error) => {
                if error.is_not_found {
                    self.cease_keeping(user).await?;
                }
                return Ok(Err(error));
            }
        };
        match serde_json::from_value::<FetchedList>(answer) {
            Ok(list) => self.save_list(user, list, kept_since).await.map(Ok),
            Err(error) => Ok(Err(RemoteError::new(format!("the list of devices: {error}")))),
        }
    }

    /// Notes changes of the user's list from now on.
    async fn begin_keeping(&self, user: &UserId) -> Result<(), StorageError> {
        let user = user.to_owned();
        let begun = self.0.rooms.writer().transact(move |tx| {
            Box::pin(async move {
                if remote_devices::find_list(tx, user.as_str()).await?.is_some() {
                    return Ok(());
                }
                let list = RemoteList { stream_id: 0, is_stale: true, kept_since: 0 };
                remote_devices::save_list(tx, user.as_str(), list).await
            })
        });
        begun.await
    }

    /// Forgets the list of somebody who is gone.
    async fn cease_keeping(&self, user: &UserId) -> Result<(), StorageError> {
        let user = user.to_owned();
        let ceased = self.0.rooms.writer().transact(move |tx| {
            Box::pin(async move { remote_devices::delete_list(tx, user.as_str()).await })
        });
        ceased.await
    }

    async fn save_list(
        &self,
        user: &UserId,
        fetched: FetchedList,
        kept_since: i64,
    ) -> Result<(), StorageError> {
        let audience = self.0.lists.audience(user).await?;
        let (encryption, user) = (self.clone(), user.to_owned());
        let saved = self.0.rooms.writer().transact(move |tx| {
            Box::pin(async move {
                let known = remote_devices::find_list(tx, user.as_str()).await?;
                let told = known.map_or(0, |known| known.stream_id);
                let is_stale = told > fetched.stream_id;
                let stream_id = told.max(fetched.stream_id);
                let list = RemoteList { stream_id, is_stale, kept_since };
                remote_devices::save_list(tx, user.as_str(), list).await?;
                let devices = fetched.devices.into_iter();
                let devices = devices.filter(|device| is_device_id(&device.device_id));
                let devices = devices.take(DEVICES_MAX).map(|device| device.keep(user.as_str()));
                let devices: Vec<RemoteDevice> = devices.collect();
                remote_devices::replace_devices(tx, user.as_str(), &devices).await?;
                let keys = (fetched.master_key, fetched.self_signing_key);
                save_cross_signing_keys(tx, &user, keys).await?;
                if told > 0 {
                    // Somebody here may have seen the list before its gap.
                    encryption.0.lists.change_in(tx, &user, audience).await?;
                }
                Ok(())
            })
        });
        saved.await
    }
}

impl FetchedDevice {
    /// The device as it is kept: with keys that name it and its owner, and a name, if they are not too
    /// long.
    pub fn keep(self, user: &str) -> RemoteDevice {
        let is_owner = |keys: &Map<String, Value>| {
            text(keys, "user_id") == Some(user) && text(keys, "device_id") == Some(&self.device_id)
        };
        let keys = self.keys.filter(is_owner).map(|keys| Value::Object(keys).to_string());
        let is_name = |name: &String| name.len() <= DISPLAY_NAME_BYTES_MAX && !name.contains('\0');
        RemoteDevice {
            device_id: self.device_id,
            keys: keys.filter(|keys| keys.len() <= IDENTITY_BYTES_MAX),
            display_name: self.device_display_name.filter(is_name),
        }
    }
}
