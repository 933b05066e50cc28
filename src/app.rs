//! Wires every component once. The command line and the tests both call [`build`].

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use crate::http::{App, AppState};
use crate::{
    accounts::Accounts,
    appservices::{AppserviceError, Appservices},
    clock::Clock,
    config::{CacheShare, Config, DatabaseLocation},
    durable::create_private_dirs,
    encryption::Encryption,
    ephemeral::{Ephemeral, EphemeralSettings, PresenceSettings},
    federation::{Federation, FederationSettings, IdentityServers, MakeKeyError, make_key},
    http::{
        CrossSigningGrants, RegistrationNonces,
        rate_limit::RateLimits,
        synapse_admin::{redactions::UserRedactions, rooms::RoomDeletions},
    },
    media::{Media, OpenMediaError, previews::UrlPreviews},
    notifier::Notifier,
    outbound::{DirectClient, Mailer, Outbound, OutboundSettings},
    protocol::{
        room_version::RoomVersion,
        signing::{KeyError, SigningKey},
    },
    push::{
        Push,
        delivery::{Delivery, MailSettings},
    },
    rooms::{AcceptanceHook, AcceptanceHooks, RoomSettings, Rooms, SearchIndex},
    storage::{Database, MigrateError, StorageError, Writer, migrate, run_checkpoints},
    sync::{Sync, SyncSettings, sliding::SlidingSync},
    workflows::{
        delayed_events::DelayedEvents, jobs::JobRunner, leave_rooms::LeaveRooms, livekit::Livekit,
        remove_guests::RemoveGuests, server_notices::ServerNotices,
        silent_services::report_silent_services, update_memberships::UpdateMemberships,
    },
};

/// The lock file in the data directory.
const LOCK_FILE: &str = "lock";
/// How often SQLite's write-ahead log is moved into the database file.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(1);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the data directory {path} cannot be used: {source}")]
    DataDir { path: PathBuf, source: io::Error },
    #[error("another Hearth uses the data directory {path}; stop it first")]
    DataDirInUse { path: PathBuf },
    #[error("the signing key {path} cannot be read: {source}")]
    SigningKeyFile { path: PathBuf, source: io::Error },
    #[error("no signing key can be made in {path}: {source}")]
    NewSigningKey { path: PathBuf, source: MakeKeyError },
    #[error("the signing key {path} is not understood: {source}")]
    SigningKey { path: PathBuf, source: KeyError },
    #[error(transparent)]
    Media(#[from] OpenMediaError),
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    #[error(transparent)]
    Appservices(#[from] AppserviceError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl App {
    /// Opens the database, brings its schema up to date and starts the components. The router
    /// (`http::router::build_router`) and listeners come after it.
    pub async fn build(config: Config, clock: Clock) -> Result<AppState, StartError> {
        let app = Self::build_silent(config, clock).await?;
        app.federation.start(&app.tasks).await?;
        Ok(app)
    }

    /// The same for a command while no server runs: nothing is sent to other servers. What they should
    /// hear of is found by the next start.
    pub async fn build_silent(config: Config, clock: Clock) -> Result<AppState, StartError> {
        let config = Arc::new(config);
        let data_dir_lock = lock_data_dir(&config.server.data_dir)?;
        let signing_key = load_signing_key(&config, &clock)?;
        let (database, writer) = open_store(&config).await?;
        let (notifier, job_bell) = (Notifier::new(), Arc::new(Notify::new()));
        let store = (database.clone(), writer.clone());
        let bells = (notifier.clone(), job_bell.clone());
        let mailer = make_mailer(&config, &clock);
        let accounts = start_accounts(&config, &clock, store, bells, mailer.clone()).await?;
        let store = (database.clone(), writer.clone());
        let told = (signing_key, notifier.clone());
        let rooms = load_rooms(&config, &clock, store, told).await?;
        let ephemeral = Ephemeral::new(&rooms, ephemeral_settings(&config));
        ephemeral.presence.restore().await?;
        let encryption = start_encryption(&config, &rooms, &accounts);
        let (registrations, parts) = (&config.appservices, (ephemeral.clone(), encryption.clone()));
        let appservices =
            Appservices::load(registrations, rooms.clone(), accounts.clone(), parts).await?;
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let background = (tasks.clone(), shutdown.clone());
        let outbound = make_outbound(&config, &clock);
        let identity_servers = reach_identity_servers(&config, &outbound, &rooms);
        let parts = (&ephemeral, &encryption, outbound.clone());
        let federation = wire_federation(&config, &rooms, &accounts, parts, background.clone());
        let push = start_push(&config, &rooms, &accounts, &federation);
        let ways = (outbound.clone(), mailer.clone());
        let push_delivery = start_delivery(&config, &rooms, &accounts, &push, ways).await?;
        let store = (database.clone(), writer.clone());
        let media = Media::open(&config, clock.clone(), store, background).await?;
        let sync = start_sync(&config, &rooms, &accounts, (&ephemeral, &encryption, &push));
        let state_events_max = config.rooms.state_events_max;
        let notices = Arc::new(start_notices(&config, &accounts, &rooms));
        report_silent_services(&appservices, &notices, (tasks.clone(), shutdown.clone()));
        let app = Arc::new(Self {
            rate_limits: RateLimits::load(&config.rate_limits, &database).await?,
            registration_nonces: RegistrationNonces::new(),
            cross_signing_grants: CrossSigningGrants::new(),
            room_deletions: RoomDeletions::new(),
            user_redactions: UserRedactions::new(),
            notices,
            mailer,
            livekit: start_livekit(&config, &accounts, &rooms, &federation),
            delayed_events: DelayedEvents::new(rooms.clone(), accounts.clone(), state_events_max),
            url_previews: UrlPreviews::new(config.url_previews.clone(), media.clone(), outbound),
            config,
            clock,
            database,
            writer,
            accounts,
            notifier,
            search: SearchIndex::new(rooms.clone()),
            rooms,
            ephemeral,
            federation,
            identity_servers,
            encryption,
            appservices,
            push,
            push_delivery,
            sliding_sync: SlidingSync::new(&sync),
            sync,
            media,
            shutdown,
            tasks,
            _data_dir_lock: data_dir_lock,
        });
        app.spawn_tasks(job_bell);
        Ok(app)
    }

    /// Ends background tasks and leaves an empty write-ahead log. Requests must have ended before;
    /// the connections close when the last handle of the writer goes.
    pub async fn stop(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(error) = self.sliding_sync.save_connections().await {
            tracing::warn!(%error, "connections of sliding sync were not saved");
        }
        if let Err(error) = self.push_delivery.save_progress().await {
            tracing::warn!(%error, "the state of notifications was not saved");
        }
        self.federation.stop().await;
        if let Err(error) = self.database.truncate_log().await {
            tracing::warn!(%error, "the write-ahead log was not emptied");
        }
    }

    fn spawn_tasks(&self, job_bell: Arc<Notify>) {
        let (accounts, rooms) = (self.accounts.clone(), self.rooms.clone());
        let runner = JobRunner {
            database: self.database.clone(),
            writer: self.writer.clone(),
            clock: self.clock.clone(),
            bell: job_bell,
            jobs: vec![
                Arc::new(UpdateMemberships { accounts, rooms: rooms.clone() }),
                Arc::new(LeaveRooms { rooms: rooms.clone(), federation: self.federation.clone() }),
                Arc::new(RemoveGuests { accounts: self.accounts.clone(), rooms }),
            ],
        };
        self.tasks.spawn(runner.run(self.shutdown.clone()));
        self.accounts.spawn_tasks(&self.tasks, &self.shutdown);
        self.ephemeral.spawn_tasks(&self.tasks, &self.shutdown);
        self.encryption.spawn_tasks(&self.tasks, &self.shutdown);
        self.appservices.spawn_tasks(&self.tasks, &self.shutdown);
        self.media.spawn_tasks();
        let (expiry, shutdown) = (self.url_previews.clone().run_expiry(), self.shutdown.clone());
        self.tasks.spawn(async move { shutdown.run_until_cancelled(expiry).await });
        self.push_delivery.spawn_tasks(&self.tasks, &self.shutdown);
        let (indexing, shutdown) = (self.search.clone().run(), self.shutdown.clone());
        self.tasks.spawn(async move { shutdown.run_until_cancelled(indexing).await });
        self.sliding_sync.spawn_tasks(&self.tasks, &self.shutdown);
        self.tasks.spawn(self.delayed_events.clone().run(self.shutdown.clone()));
        let (retention, shutdown) = (self.rooms.clone().run_retention(), self.shutdown.clone());
        self.tasks.spawn(async move { shutdown.run_until_cancelled(retention).await });
        let (sticky, shutdown) = (self.rooms.clone().run_sticky(), self.shutdown.clone());
        self.tasks.spawn(async move { shutdown.run_until_cancelled(sticky).await });
        let (collection, shutdown) = (self.rooms.clone().run_collection(), self.shutdown.clone());
        self.tasks.spawn(async move { shutdown.run_until_cancelled(collection).await });
        let checkpoints = run_checkpoints(Arc::new(self.database.clone()), CHECKPOINT_PAUSE);
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = checkpoints => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
}

/// The room engine alone, with the data of a server that does not run: nothing happens in the background.
pub struct StoppedServer {
    pub rooms: Rooms,
    database: Database,
    _data_dir_lock: File,
}

impl StoppedServer {
    /// Opens the data. Fails with [`StartError::DataDirInUse`] while a server runs.
    pub async fn open(config: &Config, clock: Clock) -> Result<Self, StartError> {
        let data_dir_lock = lock_data_dir(&config.server.data_dir)?;
        let signing_key = load_signing_key(config, &clock)?;
        let (database, writer) = open_store(config).await?;
        let identity = (config.server.name.clone(), signing_key);
        let store = (database.clone(), writer);
        let settings = room_settings(config);
        let rooms = Rooms::load(store, clock, identity, Notifier::new(), settings).await?;
        rooms.skip_named_states().await?;
        Ok(Self { rooms, database, _data_dir_lock: data_dir_lock })
    }

    /// Leaves an empty write-ahead log.
    pub async fn close(self) {
        if let Err(error) = self.database.truncate_log().await {
            tracing::warn!(%error, "the write-ahead log was not emptied");
        }
    }
}

/// Keeps keys of devices, and hears of those that go.
fn start_encryption(config: &Config, rooms: &Rooms, accounts: &Accounts) -> Encryption {
    let memory_bytes = config.memory.share(CacheShare::Encryption);
    Encryption::new(rooms.clone(), accounts, memory_bytes)
}

/// The default version was checked with the configuration.
fn start_notices(config: &Config, accounts: &Arc<Accounts>, rooms: &Rooms) -> ServerNotices {
    let version = RoomVersion::parse(config.rooms.default_version.as_str());
    let version = version.unwrap_or(RoomVersion::V12);
    let settings = config.server_notices.clone();
    ServerNotices::new(accounts.clone(), rooms.clone(), settings, version)
}

/// Has push rules judge every event, and every change of them heard of.
fn start_push(
    config: &Config,
    rooms: &Rooms,
    accounts: &Accounts,
    federation: &Federation,
) -> Push {
    // The rest is for deliveries.
    let memory_bytes = config.memory.share(CacheShare::Push) / 8 * 7;
    let (server_name, mentions) = (config.server.name.clone(), config.push.mentions());
    let push = Push::new(rooms.database().clone(), server_name, mentions, memory_bytes);
    let mut hooks: Vec<Arc<dyn AcceptanceHook>> = vec![Arc::new(push.clone())];
    if federation.is_enabled() {
        hooks.push(Arc::new(federation.outbox().clone()));
    }
    rooms.set_acceptance(Arc::new(AcceptanceHooks(hooks)));
    let (told, judging) = (rooms.clone(), push.clone());
    accounts.set_change_hook(Arc::new(move |user, position| {
        told.note_user_activity(user, position);
        judging.recheck(user);
    }));
    let greeting = push.clone();
    accounts.set_arrival_hook(Arc::new(move |user| greeting.note_new_user(user)));
    push
}

/// Lets people into calls.
fn start_livekit(
    config: &Config,
    accounts: &Arc<Accounts>,
    rooms: &Rooms,
    federation: &Federation,
) -> Livekit {
    let section = config.livekit.clone();
    Livekit::new(section, accounts.clone(), rooms.clone(), federation.clone())
}

/// Brings notifications to push gateways and into mails.
async fn start_delivery(
    config: &Config,
    rooms: &Rooms,
    accounts: &Arc<Accounts>,
    push: &Push,
    (web, mailer): (Outbound, Mailer),
) -> Result<Delivery, StorageError> {
    let direct = config.push.allow_private_networks.then(DirectClient::default);
    let memory_bytes = config.memory.share(CacheShare::Push) / 8;
    let parts = (rooms.clone(), accounts.clone(), push.clone());
    let mails = MailSettings {
        mailer,
        public_url: config.public_url(),
        delay: config.push.mail_delay,
        pause: config.push.mail_pause,
    };
    Delivery::load(parts, (web, direct), mails, memory_bytes).await
}

async fn start_accounts(
    config: &Arc<Config>,
    clock: &Clock,
    (database, writer): (Database, Writer),
    bells: (Notifier, Arc<Notify>),
    mailer: Mailer,
) -> Result<Arc<Accounts>, StorageError> {
    let (config, clock) = (config.clone(), clock.clone());
    let accounts = Accounts::start(config, clock, database, writer, bells, mailer).await?;
    Ok(Arc::new(accounts))
}

/// The HTTP client, as the configuration wants it.
pub fn make_outbound(config: &Config, clock: &Clock) -> Outbound {
    let section = &config.federation;
    let blocked_networks = match section.allow_private_networks {
        true => Vec::new(),
        false => section.blocked_networks.clone(),
    };
    let (ca_files, verify_servers) = (section.ca_files.clone(), section.verify_certificates);
    if section.enabled && !verify_servers {
        tracing::warn!(
            "federation.verify_certificates is off: whoever is on the way to another server can \
             speak in its name"
        );
    }
    let settings = OutboundSettings { blocked_networks, ca_files, verify_servers };
    Outbound::new(settings, clock.clone())
}

/// Who sends mails.
fn make_mailer(config: &Config, clock: &Clock) -> Mailer {
    let ca_files = config.federation.ca_files.clone();
    Mailer::new(config.mail.clone(), ca_files, &config.server.name, clock.clone())
}

/// The conversation with other servers, which rooms ask for what they lack.
fn wire_federation(
    config: &Config,
    rooms: &Rooms,
    accounts: &Arc<Accounts>,
    (ephemeral, encryption, outbound): (&Ephemeral, &Encryption, Outbound),
    background: (TaskTracker, CancellationToken),
) -> Federation {
    let section = &config.federation;
    let settings = FederationSettings {
        enabled: section.enabled,
        partial_state_joins: section.partial_state_joins,
        key_servers: section.key_servers.clone(),
    };
    let (rooms, accounts) = (rooms.clone(), accounts.clone());
    let parts = (ephemeral.clone(), encryption.clone());
    Federation::new(settings, rooms, accounts, parts, outbound, background)
}

/// The identity servers that users may use.
fn reach_identity_servers(config: &Config, outbound: &Outbound, rooms: &Rooms) -> IdentityServers {
    let own = (config.server.name.clone(), rooms.own_key().clone());
    IdentityServers::new(outbound.clone(), &config.identity_servers.trusted, own)
}

async fn load_rooms(
    config: &Config,
    clock: &Clock,
    store: (Database, Writer),
    (signing_key, notifier): (SigningKey, Notifier),
) -> Result<Rooms, StorageError> {
    let own = (config.server.name.clone(), signing_key);
    Rooms::load(store, clock.clone(), own, notifier, room_settings(config)).await
}

fn start_sync(
    config: &Config,
    rooms: &Rooms,
    accounts: &Arc<Accounts>,
    (ephemeral, encryption, push): (&Ephemeral, &Encryption, &Push),
) -> Sync {
    let counts = push.counts().clone();
    let settings = sync_settings(config);
    let told = (ephemeral.clone(), encryption.clone());
    Sync::new(rooms.clone(), accounts.clone(), told, counts, settings)
}

fn sync_settings(config: &Config) -> SyncSettings {
    SyncSettings {
        timeline_limit_default: config.sync.timeline_limit_default,
        timeline_limit_max: config.sync.timeline_limit_max,
        long_poll_max: config.sync.long_poll_max,
        memory_bytes: config.memory.share(CacheShare::Sync),
    }
}

fn ephemeral_settings(config: &Config) -> EphemeralSettings {
    let presence = &config.presence;
    EphemeralSettings {
        memory_bytes: config.memory.share(CacheShare::Ephemeral),
        presence: PresenceSettings {
            enabled: presence.enabled,
            unavailable_after_ms: presence.unavailable_after.as_millis() as u64,
            offline_after_ms: presence.offline_after.as_millis() as u64,
        },
    }
}

fn room_settings(config: &Config) -> RoomSettings {
    let retention = config.rooms.redaction_retention;
    RoomSettings {
        memory_bytes: config.memory.share(CacheShare::Rooms),
        redaction_retention_ms: retention.map(|retention| retention.as_millis() as u64),
    }
}

/// Reads the signing key, or makes one at the first start.
fn load_signing_key(config: &Config, clock: &Clock) -> Result<SigningKey, StartError> {
    let path = config.signing_key_path();
    match std::fs::read_to_string(&path) {
        Ok(text) => SigningKey::parse_key_file(&text)
            .map_err(|source| StartError::SigningKey { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_key(clock, &path).map_err(|source| StartError::NewSigningKey { path, source })
        }
        Err(source) => Err(StartError::SigningKeyFile { path, source }),
    }
}

/// Opens the database and brings its schema up to date.
async fn open_store(config: &Config) -> Result<(Database, Writer), StartError> {
    let database = open_database(config).await?;
    for name in migrate(&database).await? {
        tracing::info!(migration.name = name, "the database was migrated");
    }
    let writer = Writer::start(database.clone()).await?;
    Ok((database, writer))
}

/// Opens the configured database, without migrating it.
pub async fn open_database(config: &Config) -> Result<Database, StorageError> {
    let connections_max = config.database.connections;
    match config.database_location() {
        DatabaseLocation::Sqlite(path) => Database::open_sqlite(&path, connections_max).await,
        DatabaseLocation::Postgres(url) => {
            Database::open_postgres(url.expose(), connections_max + 1).await
        }
    }
}

/// Makes the data directory when it is missing, and keeps other processes out of it as long as
/// the returned file is open.
pub fn lock_data_dir(data_dir: &Path) -> Result<File, StartError> {
    let failed = |source| StartError::DataDir { path: data_dir.to_owned(), source };
    // Whoever else works on this machine has no business in people's conversations.
    create_private_dirs(data_dir).map_err(failed)?;
    let path = data_dir.join(LOCK_FILE);
    let file = File::options().create(true).append(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(StartError::DataDirInUse { path: data_dir.to_owned() })
        }
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}
