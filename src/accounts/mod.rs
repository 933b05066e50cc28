//! Users of this server: who they are, how they log in, and what they store for themselves.
//! Not for what they are in rooms (see `rooms`).

pub mod account_data;
mod changes;
pub mod flags;
pub mod interactive_auth;
pub mod login;
pub mod manage;
mod passwords;
pub mod profiles;
pub mod push_rules;
pub mod pushers;
pub mod register;
pub mod registration_tokens;
pub mod sessions;
pub mod third_party_ids;
pub mod thread_subscriptions;
mod user_cache;
pub mod validation;

use std::{collections::HashSet, sync::Arc, time::Duration};

pub use changes::{ArrivalHook, ChangeHook};
use ruma::{OwnedUserId, ServerName, UserId};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    changes::Changes, interactive_auth::InteractiveSessions, manage::DeviceWatcher,
    passwords::Passwords, profiles::Profile, push_rules::PushRules, register::NameKeeper,
    sessions::Sessions, user_cache::UserCache,
};
use crate::{
    cache_figures::CacheFigures,
    clock::Clock,
    config::{CacheShare, Config},
    hook::Hook,
    notifier::Notifier,
    outbound::Mailer,
    protocol::invite_permission::InvitePermission,
    storage::{
        Database, StorageError, Writer, third_party_ids as stored_ids,
        tokens::{self, ShortTokenKind},
    },
};

/// Half of what users' caches may hold goes to sessions, a twelfth each to profiles, push rules and
/// ignored users; the last quarter is for what `sync` remembers.
const SESSIONS_PART: u64 = 2;
const PROFILES_PART: u64 = 12;
/// What a profile and a set of push rules take in memory, roughly.
const PROFILE_WEIGHT_BYTES: u64 = 600;
const PUSH_RULES_WEIGHT_BYTES: u64 = 12_000;
/// A list of ignored users is mostly empty, as is what is said of invitations; they share a part.
const IGNORED_WEIGHT_BYTES: u64 = 400;
/// How often expired tokens are deleted.
const CLEANING_PAUSE: Duration = Duration::from_secs(60 * 60);
/// A session whose tokens have both expired is kept this long, so that the client still learns
/// that it may log in again with its device.
const EXPIRED_SESSION_KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// How long an OpenID token is valid; it proves to another service who somebody is.
const OPENID_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Everything about accounts. Its operations are in the files of this folder.
pub struct Accounts {
    pub sessions: Arc<Sessions>,
    config: Arc<Config>,
    clock: Clock,
    database: Database,
    writer: Writer,
    changes: Changes,
    /// Rung when a job was requested.
    job_bell: Arc<Notify>,
    mailer: Mailer,
    passwords: Passwords,
    interactive: InteractiveSessions,
    profile_cache: Arc<UserCache<Profile>>,
    push_rule_cache: Arc<UserCache<PushRules>>,
    ignored_cache: Arc<UserCache<HashSet<OwnedUserId>>>,
    invite_cache: Arc<UserCache<InvitePermission>>,
    device_watcher: Hook<dyn DeviceWatcher>,
    name_keeper: Hook<dyn NameKeeper>,
    arrival_hook: Arc<Hook<ArrivalHook>>,
}

impl Accounts {
    /// Wires the parts, and makes the first administrator's token when there is no account yet.
    pub async fn start(
        config: Arc<Config>,
        clock: Clock,
        database: Database,
        writer: Writer,
        (notifier, job_bell): (Notifier, Arc<Notify>),
        mailer: Mailer,
    ) -> Result<Self, StorageError> {
        let cache_bytes = config.memory.share(CacheShare::Accounts);
        let sessions = Sessions::new(database.clone(), writer.clone(), cache_bytes / SESSIONS_PART);
        let entries = |weight: u64| (cache_bytes / PROFILES_PART / weight).max(100) as usize;
        let accounts = Self {
            sessions: Arc::new(sessions),
            passwords: Passwords::new(&config.users.argon2, clock.clone()),
            interactive: InteractiveSessions::new(config.sessions.interactive_auth_lifetime),
            profile_cache: Arc::new(UserCache::new(entries(PROFILE_WEIGHT_BYTES))),
            push_rule_cache: Arc::new(UserCache::new(entries(PUSH_RULES_WEIGHT_BYTES))),
            device_watcher: Hook::default(),
            name_keeper: Hook::default(),
            arrival_hook: Arc::default(),
            ignored_cache: Arc::new(UserCache::new(entries(2 * IGNORED_WEIGHT_BYTES))),
            invite_cache: Arc::new(UserCache::new(entries(2 * IGNORED_WEIGHT_BYTES))),
            changes: Changes::new(notifier, writer.clone()),
            config,
            clock,
            database,
            writer,
            job_bell,
            mailer,
        };
        accounts.ensure_admin_token().await?;
        Ok(accounts)
    }

    /// How well the caches of users' things do.
    pub fn cache_figures(&self) -> [CacheFigures; 5] {
        [
            self.sessions.cache_figures(),
            self.profile_cache.figures("profiles"),
            self.push_rule_cache.figures("push_rules"),
            self.ignored_cache.figures("ignored_users"),
            self.invite_cache.figures("invite_permissions"),
        ]
    }

    /// Starts what runs in the background until `shutdown`.
    pub fn spawn_tasks(&self, tasks: &TaskTracker, shutdown: &CancellationToken) {
        tasks.spawn(self.sessions.clone().run_visits(shutdown.clone()));
        let (writer, clock) = (self.writer.clone(), self.clock.clone());
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = run_cleaning(writer, clock) => {}
            }
        });
    }

    /// Registers what is told of changes of users' own data; once, at start.
    pub fn set_change_hook(&self, hook: Arc<ChangeHook>) {
        self.changes.set_hook(hook);
    }

    /// Registers what is told of new users; once, at start.
    pub fn set_arrival_hook(&self, hook: Arc<ArrivalHook>) {
        if !self.arrival_hook.set(hook) {
            tracing::error!("a second hook for new users was not registered");
        }
    }

    /// Lets go of what was registered from above, when the server ends.
    pub fn release_hooks(&self) {
        self.arrival_hook.release();
        self.changes.release_hook();
        self.device_watcher.release();
        self.name_keeper.release();
    }

    /// Has the runner of jobs look at once. Call it when a job was committed.
    pub fn announce_job(&self) {
        self.job_bell.notify_one();
    }

    pub fn server_name(&self) -> &ServerName {
        &self.config.server.name
    }

    /// Makes a token with which another service asks this server who somebody is; with its
    /// lifetime in milliseconds (Client-Server API, "OpenID").
    pub async fn create_openid_token(
        &self,
        user_id: &UserId,
    ) -> Result<(String, u64), StorageError> {
        self.create_short_token(user_id, ShortTokenKind::OpenId, OPENID_LIFETIME).await
    }

    /// Whom an OpenID token names.
    pub async fn find_openid_user(&self, token: &str) -> Result<Option<String>, StorageError> {
        let hash = sessions::hash_token(token);
        let now_ts = self.clock.now_ms();
        tokens::find_short_token(&self.database, &hash, ShortTokenKind::OpenId, now_ts).await
    }

    /// To be run with the commit that deactivates a user: what is in memory goes, and the job
    /// that was requested begins.
    fn forget_personal_data(&self, user_id: &UserId) -> impl FnOnce() + Send + 'static {
        let profiles = self.profile_cache.clone();
        let push_rules = self.push_rule_cache.clone();
        let (ignored, invites) = (self.ignored_cache.clone(), self.invite_cache.clone());
        let (bell, user_id) = (self.job_bell.clone(), user_id.to_owned());
        move || {
            profiles.forget(&user_id);
            push_rules.forget(&user_id);
            ignored.forget(&user_id);
            invites.forget(&user_id);
            bell.notify_one();
        }
    }
}

/// Deletes expired tokens now and then.
async fn run_cleaning(writer: Writer, clock: Clock) {
    let mut pause = tokio::time::interval(CLEANING_PAUSE);
    loop {
        pause.tick().await;
        let now_ts = clock.now_ms();
        let before_ts = now_ts.saturating_sub(EXPIRED_SESSION_KEPT_MS);
        let cleaned: Result<(), StorageError> = writer
            .transact(move |tx| {
                Box::pin(async move {
                    let oldest_ts = now_ts.saturating_sub(validation::LIFETIME_MS);
                    stored_ids::delete_old_validations(tx, oldest_ts).await?;
                    tokens::delete_expired(tx, now_ts, before_ts).await
                })
            })
            .await;
        if let Err(error) = cleaned {
            tracing::warn!(%error, "expired tokens were not deleted");
        }
    }
}
