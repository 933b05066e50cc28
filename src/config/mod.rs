//! The configuration: one file per section, layered from defaults, a TOML file and `HEARTH_…`
//! environment variables, and checked whole, so that every problem is reported at once with its line.
//!
//! Not for: acting on a value. A section is handed to the component it concerns, which reads it.

mod appservices;
mod database;
mod federation;
mod identity_servers;
mod layers;
mod limits;
mod listen;
mod livekit;
mod logging;
mod mail;
mod media;
mod memory;
mod metrics;
mod network;
mod presence;
mod problems;
mod push;
mod rate_limits;
mod registration;
mod rooms;
mod schema;
mod secret;
mod server;
mod server_notices;
mod sessions;
mod sync;
mod units;
mod url_previews;
mod users;
mod voip;
mod well_known;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::{
    appservices::AppservicesConfig,
    database::{DatabaseConfig, DatabaseLocation},
    federation::FederationConfig,
    identity_servers::IdentityServersConfig,
    limits::LimitsConfig,
    listen::{Api, Listener, SocketMode, TlsFiles},
    livekit::LivekitConfig,
    logging::{LogFormat, LoggingConfig},
    mail::{MailConfig, MailEncryption},
    media::{MediaConfig, UnauthenticatedAccess},
    memory::{CacheShare, MemoryConfig},
    metrics::MetricsConfig,
    network::{AddressRange, ListenAddress, TrustedProxy},
    presence::PresenceConfig,
    problems::{ConfigProblem, ConfigProblems, Place},
    push::PushConfig,
    rate_limits::{RateLimit, RateLimitsConfig},
    registration::{RegistrationConfig, RegistrationMode, Terms},
    rooms::{PermittedTo, RoomsConfig},
    secret::Secret,
    server::ServerConfig,
    server_notices::ServerNoticesConfig,
    sessions::SessionsConfig,
    sync::SyncConfig,
    units::Size,
    url_previews::UrlPreviewsConfig,
    users::{Argon2Config, UsersConfig},
    voip::VoipConfig,
    well_known::{SupportContact, WellKnownConfig},
};
use self::{layers::Layers, problems::Problems};

/// The commented example, with every key at its default. `hearth generate-config` prints it.
pub const EXAMPLE: &str = include_str!("../../config/hearth.example.toml");

/// Everything an administrator can set. `Config::default()` is a working server for this machine alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub server: ServerConfig,
    pub listen: Vec<Listener>,
    pub database: DatabaseConfig,
    pub registration: RegistrationConfig,
    pub users: UsersConfig,
    pub sessions: SessionsConfig,
    pub rooms: RoomsConfig,
    pub sync: SyncConfig,
    pub presence: PresenceConfig,
    pub push: PushConfig,
    pub media: MediaConfig,
    pub url_previews: UrlPreviewsConfig,
    pub rate_limits: RateLimitsConfig,
    pub limits: LimitsConfig,
    pub memory: MemoryConfig,
    pub federation: FederationConfig,
    pub appservices: AppservicesConfig,
    pub server_notices: ServerNoticesConfig,
    pub mail: MailConfig,
    pub identity_servers: IdentityServersConfig,
    pub voip: VoipConfig,
    pub livekit: LivekitConfig,
    pub well_known: WellKnownConfig,
    pub logging: LoggingConfig,
    pub metrics: MetricsConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: ServerConfig::default(),
            listen: vec![Listener::default()],
            database: DatabaseConfig::default(),
            registration: RegistrationConfig::default(),
            users: UsersConfig::default(),
            sessions: SessionsConfig::default(),
            rooms: RoomsConfig::default(),
            sync: SyncConfig::default(),
            presence: PresenceConfig::default(),
            push: PushConfig::default(),
            media: MediaConfig::default(),
            url_previews: UrlPreviewsConfig::default(),
            rate_limits: RateLimitsConfig::default(),
            limits: LimitsConfig::default(),
            memory: MemoryConfig::default(),
            federation: FederationConfig::default(),
            appservices: AppservicesConfig::default(),
            server_notices: ServerNoticesConfig::default(),
            mail: MailConfig::default(),
            identity_servers: IdentityServersConfig::default(),
            voip: VoipConfig::default(),
            livekit: LivekitConfig::default(),
            well_known: WellKnownConfig::default(),
            logging: LoggingConfig::default(),
            metrics: MetricsConfig::default(),
        }
    }
}

impl Config {
    /// Reads the defaults, then the file (if one is named), then the variables of `env` whose names
    /// begin with `HEARTH_`; later ones win.
    ///
    /// # Errors
    /// All problems of the file, the variables and the values taken together, in the order of the file.
    pub fn load(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigProblems> {
        let text = match path {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| ConfigProblems::unreadable(path, &error))?,
        };
        let layers = Layers::read(&text, env);
        layers.into_config().map_err(|problems| problems.in_file(path))
    }

    /// The directory in which uploaded media lie.
    #[must_use]
    pub fn media_dir(&self) -> PathBuf {
        self.media.storage_dir.clone().unwrap_or_else(|| self.server.data_dir.join("media"))
    }

    /// The file with the key that signs this server's events.
    #[must_use]
    pub fn signing_key_path(&self) -> PathBuf {
        self.server
            .signing_key_file
            .clone()
            .unwrap_or_else(|| self.server.data_dir.join("signing.key"))
    }

    /// Where the database is: an SQLite file unless a PostgreSQL address is configured.
    #[must_use]
    pub fn database_location(&self) -> DatabaseLocation {
        self.database.location(&self.server.data_dir)
    }

    /// The address under which clients reach this server, without a slash at its end.
    ///
    /// It is the configured one; without one, what a client on this machine would use when the server
    /// name is `localhost`, and otherwise `https://` with the server name.
    #[must_use]
    pub fn public_url(&self) -> String {
        if let Some(url) = &self.server.public_url {
            return url.trim_end_matches('/').to_owned();
        }
        let name = self.server.name.as_str();
        let local = self.listen.iter().find_map(|listener| listener.local_client_url());
        match local {
            Some(url) if name == "localhost" => url,
            _ => format!("https://{name}"),
        }
    }

    /// Checks every section and reads the secrets that lie in files of their own.
    fn complete(&mut self, problems: &mut Problems) {
        self.server.validate(problems);
        listen::validate(&self.listen, problems);
        self.database.complete(problems);
        self.registration.complete(problems);
        self.users.validate(problems);
        self.sessions.validate(problems);
        self.rooms.validate(problems);
        self.sync.validate(problems);
        self.presence.validate(problems);
        self.media.validate(problems);
        self.url_previews.validate(problems);
        self.rate_limits.validate(problems);
        self.limits.validate(problems);
        self.memory.validate(problems);
        self.server_notices.validate(problems);
        self.mail.complete(problems);
        if self.registration.require_email && self.mail.server.is_none() {
            problems.add("registration.require_email", "needs a mail server: set `[mail] server`");
        }
        self.identity_servers.validate(problems);
        self.voip.complete(problems);
        self.livekit.complete(problems);
        self.federation.validate(problems);
        self.well_known.validate(problems);
        self.logging.validate(problems);
    }
}

#[cfg(test)]
mod tests;
