//! Application services: bridges and bots with namespaces of their own (application-service API).
//! Who they are, which events concern them, and bringing these to them. Not for what they ask of us,
//! which is the client-server API with their token.

mod delivery;
mod devices;
mod ephemeral;
mod interest;
mod namespaces;
mod queries;
mod registration;
mod registry;
mod tail;
mod transaction;
mod wire;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
pub use interest::{AliasEpoch, Interests};
use parking_lot::Mutex;
pub use queries::{QueryError, instance_id, read_instance_id};
pub use registration::Service;
pub use registry::{RegisterServiceError, Services, read_all};
use ruma::UserId;
pub use tail::Follower;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
pub use wire::WireError;

use self::{devices::DeviceListeners, ephemeral::Changes, tail::Feeds, wire::Wire};
use crate::{
    accounts::{
        Accounts,
        register::{NameKeeper, NewAccount, RegisterError},
    },
    config::AppservicesConfig,
    encryption::Encryption,
    ephemeral::Ephemeral,
    hook::Hook,
    rooms::{Room, Rooms},
    storage::{
        StorageError, WriteTx,
        appservices::{self, StoredRegistration},
        directory::DirectoryRow,
    },
};

/// Why services could not be started or changed.
#[derive(Debug, thiserror::Error)]
pub enum AppserviceError {
    #[error(transparent)]
    Register(#[from] RegisterServiceError),
    #[error("there is no application service \"{0}\"")]
    Unknown(String),
    #[error("\"{id}\" is registered by the file {file}; take it out of the configuration")]
    InFile { id: String, file: String },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// How a service is doing, for the administrator.
#[derive(Clone, Debug)]
pub struct ServiceStatus {
    pub service: Arc<Service>,
    /// Places of the stream that it has not got, of interest or not.
    pub behind: i64,
    /// Since when nothing gets through, milliseconds since the Unix epoch.
    pub failing_since_ts: Option<i64>,
}

/// A service that has been gone for days.
#[derive(Clone, Debug)]
pub struct Silence {
    pub id: String,
    pub lasts_ms: u64,
    /// Places of the stream that it has not got, of interest or not.
    pub behind: i64,
}

/// Called with a service that has been gone for days, again after each further week.
pub type SilenceHook = dyn Fn(Silence) + Send + Sync;

/// All application services. Clones share them.
#[derive(Clone)]
pub struct Appservices(Arc<Inner>);

struct Inner {
    rooms: Rooms,
    accounts: Arc<Accounts>,
    ephemeral: Ephemeral,
    encryption: Encryption,
    wire: Wire,
    services: ArcSwap<Services>,
    /// Held while services are added or removed.
    changing: tokio::sync::Mutex<()>,
    feeds: Feeds,
    /// Of services that want ephemeral data.
    changes: Mutex<HashMap<String, Arc<Changes>>>,
    /// Services that want to hear of devices.
    device_listeners: DeviceListeners,
    /// How the conversations are ended.
    ends: Mutex<HashMap<String, CancellationToken>>,
    /// Rung when a service showed that it lives.
    lives: Mutex<HashMap<String, Arc<Notify>>>,
    aliases: AliasEpoch,
    silence_hook: Hook<SilenceHook>,
    running: OnceLock<(TaskTracker, CancellationToken)>,
}

impl NameKeeper for Appservices {
    fn is_kept(&self, user_id: &UserId, asking: Option<&str>) -> bool {
        self.services().find_owner_of_user(user_id, asking).is_some()
    }
}

impl Appservices {
    /// Reads all registrations; one that is wrong is an error, so that no bridge is forgotten.
    pub async fn load(
        config: &AppservicesConfig,
        rooms: Rooms,
        accounts: Arc<Accounts>,
        (ephemeral, encryption): (Ephemeral, Encryption),
    ) -> Result<Self, AppserviceError> {
        let stored = appservices::list(rooms.database()).await?;
        let services = read_all(config, &stored, rooms.server_name())?;
        let appservices = Self(Arc::new(Inner {
            wire: Wire::new(rooms.clock().clone()),
            services: ArcSwap::new(Arc::new(services)),
            changing: tokio::sync::Mutex::default(),
            feeds: Feeds::default(),
            changes: Mutex::default(),
            ends: Mutex::default(),
            lives: Mutex::default(),
            aliases: AliasEpoch::default(),
            silence_hook: Hook::default(),
            running: OnceLock::new(),
            rooms,
            accounts,
            ephemeral,
            encryption,
            device_listeners: DeviceListeners::default(),
        }));
        appservices.0.accounts.set_name_keeper(Arc::new(appservices.clone()));
        appservices.follow_ephemeral();
        appservices.follow_devices();
        for service in appservices.services().list() {
            appservices.ensure_sender(service).await?;
        }
        Ok(appservices)
    }

    /// Begins the conversations, until `shutdown`.
    pub fn spawn_tasks(&self, tasks: &TaskTracker, shutdown: &CancellationToken) {
        if self.0.running.set((tasks.clone(), shutdown.clone())).is_err() {
            return;
        }
        self.0.feeds.set_upto(self.0.rooms.writer().position());
        for service in self.services().list() {
            self.begin(service);
        }
        let (following, shutdown) = (self.clone().follow_stream(), shutdown.clone());
        tasks.spawn(async move { shutdown.run_until_cancelled(following).await });
    }

    /// Registers who tells the administrator of services that are gone; once, at start. It must not
    /// hold these services.
    pub fn set_silence_hook(&self, hook: Arc<SilenceHook>) {
        if !self.0.silence_hook.set(hook) {
            tracing::error!("a second hook for silent services was not registered");
        }
    }

    /// The services of this moment.
    pub fn services(&self) -> Arc<Services> {
        self.0.services.load_full()
    }

    /// Registers a service by the text of its registration, without a restart.
    pub async fn add(&self, registration: &str) -> Result<Arc<Service>, AppserviceError> {
        let _changing = self.0.changing.lock().await;
        let rooms = &self.0.rooms;
        let service = registry::read_stored("that was given", registration, rooms.server_name())?;
        let service = Arc::new(service);
        let mut all = self.services().list().to_vec();
        all.push(Arc::clone(&service));
        let services = Services::new(all)?;
        let row =
            StoredRegistration { id: service.id.clone(), registration: registration.to_owned() };
        let now_ts = rooms.clock().now_ms();
        let added: Result<bool, StorageError> = rooms
            .writer()
            .transact(move |tx| {
                Box::pin(async move { appservices::insert(tx, &row, now_ts).await })
            })
            .await;
        added?;
        self.replace(services);
        self.ensure_sender(&service).await?;
        self.begin(&service);
        Ok(service)
    }

    /// Removes a service of the database with what waits for it. Its users stay.
    pub async fn remove(&self, id: &str) -> Result<(), AppserviceError> {
        let _changing = self.0.changing.lock().await;
        let services = self.services();
        let service = services.find(id).ok_or_else(|| AppserviceError::Unknown(id.to_owned()))?;
        if let Some(file) = &service.file {
            return Err(AppserviceError::InFile { id: id.to_owned(), file: file.clone() });
        }
        let others = services.list().iter().filter(|service| service.id != id).cloned();
        self.replace(Services::new(others.collect())?);
        if let Some(end) = self.0.ends.lock().remove(id) {
            end.cancel();
        }
        self.0.feeds.close(id);
        self.0.changes.lock().remove(id);
        self.0.device_listeners.remove(id);
        let id = id.to_owned();
        let removed: Result<bool, StorageError> = self
            .0
            .rooms
            .writer()
            .transact(move |tx| Box::pin(async move { appservices::delete(tx, &id).await }))
            .await;
        removed?;
        Ok(())
    }

    /// How all services are doing.
    pub async fn list_statuses(&self) -> Result<Vec<ServiceStatus>, StorageError> {
        let mut statuses = Vec::new();
        for service in self.services().list() {
            let database = self.0.rooms.database();
            let stream = appservices::find_stream(database, &service.id).await?;
            let waits = appservices::find_transaction(database, &service.id).await?.is_some()
                || self.0.feeds.find(&service.id).is_some_and(|feed| feed.len() > 0);
            let position = self.0.rooms.writer().position();
            statuses.push(ServiceStatus {
                service: Arc::clone(service),
                behind: stream.filter(|_| waits).map_or(0, |stream| position - stream.position),
                failing_since_ts: stream.and_then(|stream| stream.failing_since_ts),
            });
        }
        Ok(statuses)
    }

    /// To be called after an alias was made or removed: it may decide whom a room concerns.
    pub fn note_aliases_changed(&self) {
        self.0.aliases.advance();
    }

    /// Lists a room in the directory of a network, or takes it out.
    pub async fn publish(
        &self,
        service: &str,
        network: &str,
        room: &Room,
        is_listed: bool,
    ) -> Result<(), StorageError> {
        let mut tx = WriteTx::new();
        appservices::publish(&mut tx, (service, network), room.nid, is_listed);
        self.0.rooms.writer().commit(tx).await.map(drop)
    }

    /// The directory of a network, the largest rooms first.
    pub async fn list_network(
        &self,
        (service, network): (&str, &str),
        range: (usize, usize),
    ) -> Result<Vec<DirectoryRow>, StorageError> {
        let database = self.0.rooms.database();
        appservices::list_network(database, (service, network), range).await
    }

    fn interests(&self, services: Vec<Arc<Service>>) -> Interests {
        Interests::new(self.0.rooms.clone(), services, self.0.aliases.clone())
    }

    fn replace(&self, services: Services) {
        self.0.services.store(Arc::new(services));
        self.0.accounts.sessions.forget_appservices();
    }

    fn begin(&self, service: &Arc<Service>) {
        let Some((tasks, shutdown)) = self.0.running.get() else { return };
        if service.url.is_none() {
            return;
        }
        let end = shutdown.child_token();
        self.0.ends.lock().insert(service.id.clone(), end.clone());
        let feed = self.0.feeds.open(&service.id);
        tasks.spawn(self.clone().deliver(Arc::clone(service), feed, end));
    }

    /// The user as whom a service acts exists from the start.
    async fn ensure_sender(&self, service: &Service) -> Result<(), AppserviceError> {
        if self.0.accounts.find_account(&service.sender).await?.is_some() {
            return Ok(());
        }
        let account = NewAccount {
            name: Some(service.sender.localpart().to_owned()),
            appservice_id: Some(service.id.clone()),
            ..NewAccount::default()
        };
        match self.0.accounts.register(account).await {
            Ok(_) => Ok(()),
            Err(RegisterError::Storage(error)) => Err(error.into()),
            Err(error) => {
                let user = &service.sender;
                tracing::warn!(appservice.id = service.id, user.id = %user, %error,
                    "the sender of a service cannot have an account");
                Ok(())
            }
        }
    }

    /// Hears of typing, receipts and presence.
    fn follow_ephemeral(&self) {
        // Weak, since what it listens to is part of it.
        let listening = Arc::downgrade(&self.0);
        self.0.ephemeral.set_hook(Arc::new(move |change| {
            let Some(inner) = listening.upgrade() else { return };
            for (id, changes) in inner.changes.lock().iter() {
                if let Some(feed) = inner.feeds.find(id) {
                    changes.note(change, &feed);
                }
            }
        }));
    }

    /// Hears of messages to devices, of keys and of device lists.
    fn follow_devices(&self) {
        // Weak, since what it listens to is part of it.
        let listening = Arc::downgrade(&self.0);
        self.0.encryption.set_device_news_hook(Arc::new(move |news| {
            if let Some(inner) = listening.upgrade() {
                inner.device_listeners.note(news, |id| inner.feeds.find(id));
            }
        }));
    }

    /// The service was heard of: what waits for it need not wait any longer.
    fn note_life(&self, id: &str) {
        self.life_of(id).notify_waiters();
    }

    async fn wait_for_life(&self, id: &str) {
        self.life_of(id).notified().await;
    }

    fn life_of(&self, id: &str) -> Arc<Notify> {
        Arc::clone(self.0.lives.lock().entry(id.to_owned()).or_default())
    }
}
