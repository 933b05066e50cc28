//! What handlers can reach: the components, wired by `crate::app`. Decides nothing.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    client::{admin::RegistrationNonces, cross_signing::CrossSigningGrants},
    rate_limit::RateLimits,
    synapse_admin::{redactions::UserRedactions, rooms::RoomDeletions},
};
use crate::{
    accounts::Accounts,
    appservices::Appservices,
    cache_figures::CacheFigures,
    clock::Clock,
    config::Config,
    encryption::Encryption,
    ephemeral::Ephemeral,
    federation::{Federation, IdentityServers},
    media::{Media, previews::UrlPreviews},
    notifier::Notifier,
    outbound::Mailer,
    push::{Push, delivery::Delivery},
    rooms::{Rooms, SearchIndex},
    storage::{Database, Writer},
    sync::{Sync, sliding::SlidingSync},
    workflows::{delayed_events::DelayedEvents, livekit::Livekit, server_notices::ServerNotices},
};

/// The running server. `App::build` (in `crate::app`) makes it.
pub struct App {
    pub config: Arc<Config>,
    pub clock: Clock,
    pub database: Database,
    pub writer: Writer,
    pub accounts: Arc<Accounts>,
    pub notifier: Notifier,
    pub rooms: Rooms,
    pub search: SearchIndex,
    pub ephemeral: Ephemeral,
    pub federation: Federation,
    pub identity_servers: IdentityServers,
    pub encryption: Encryption,
    pub appservices: Appservices,
    pub push: Push,
    pub push_delivery: Delivery,
    pub sync: Sync,
    pub sliding_sync: SlidingSync,
    pub delayed_events: DelayedEvents,
    pub media: Arc<Media>,
    pub url_previews: Arc<UrlPreviews>,
    pub mailer: Mailer,
    pub rate_limits: RateLimits,
    pub registration_nonces: RegistrationNonces,
    pub cross_signing_grants: CrossSigningGrants,
    pub room_deletions: RoomDeletions,
    pub user_redactions: UserRedactions,
    pub notices: Arc<ServerNotices>,
    pub livekit: Livekit,
    /// Cancelled when the server stops: long polls end, background tasks finish.
    pub shutdown: CancellationToken,
    /// Background tasks; the server waits for them before it exits.
    pub tasks: TaskTracker,
    /// Keeps other processes out of the data directory.
    pub(crate) _data_dir_lock: std::fs::File,
}

impl App {
    /// How well each cache of weight does.
    pub fn list_cache_figures(&self) -> Vec<CacheFigures> {
        let mut figures = self.rooms.cache_figures();
        figures.extend(self.accounts.cache_figures());
        figures.extend(self.push.cache_figures());
        figures.extend([
            self.ephemeral.receipts.cache_figures(),
            self.media.cache_figures(),
            self.federation.keys().cache_figures(),
            self.sliding_sync.cache_figures(),
        ]);
        figures
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.accounts.release_hooks();
        self.rooms.release_hooks();
        self.ephemeral.release_hooks();
        self.encryption.release_hooks();
    }
}

/// What handlers take.
pub type AppState = Arc<App>;
