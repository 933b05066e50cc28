//! Logins: which access token stands for whom. Warm sessions live in a bounded cache; visits are
//! noted in memory and written in batches. Not for proving who someone is (see `login`).

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::flags::AccountFlags;
use crate::{
    cache_figures::CacheFigures,
    storage::{
        self, Database, StorageError, WriteTransaction, WriteTx, Writer, devices,
        tokens::{self, TokenHash},
    },
};

/// A visit of a device is written again after this time.
const VISIT_PRECISION_MS: u64 = 3 * 60 * 1000;
/// Pause between batches of visits.
const VISITS_PAUSE: Duration = Duration::from_secs(30);
/// What a session takes in memory, roughly: its struct, two identifiers and its place in the cache.
const SESSION_WEIGHT_BYTES: u64 = 400;

/// A login that is valid.
#[derive(Debug)]
pub struct Session {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    pub is_admin: bool,
    pub is_guest: bool,
    pub is_locked: bool,
    pub is_suspended: bool,
    pub is_shadow_banned: bool,
    /// The hash of the access token, which names the session.
    pub token_hash: TokenHash,
    /// The application service that acts as the user. Its sessions have no device unless the
    /// request names one: `device_id` is empty then.
    pub appservice: Option<AppserviceGrant>,
    expires_ts: Option<u64>,
    /// When the visit was last noted, in milliseconds since the Unix epoch.
    noted_ts: AtomicU64,
}

/// What lets an application service act as a user.
#[derive(Clone, Debug)]
pub struct AppserviceGrant {
    /// The service's ID.
    pub id: Arc<str>,
    /// The hash of its token.
    pub token_hash: TokenHash,
    /// Whether this user is limited as others are.
    pub is_rate_limited: bool,
}

/// Why a token was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticateError {
    #[error("the token is unknown")]
    UnknownToken,
    #[error("the token has expired")]
    Expired,
    #[error("the application service has not registered this user")]
    UnknownUser,
    #[error("the user has no such device")]
    UnknownDevice,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// All sessions.
pub struct Sessions {
    database: Database,
    writer: Writer,
    cache: Cache<TokenHash, Arc<Session>>,
    /// Rises whenever sessions end, so that one that ended meanwhile is not put into the cache.
    epoch: AtomicU64,
    visits: Mutex<HashMap<TokenHash, Visit>>,
}

struct Visit {
    session: Arc<Session>,
    seen_ts: u64,
    address: Option<IpAddr>,
}

/// The hash under which a token is kept.
pub fn hash_token(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

impl Session {
    /// The session of a user on a device that an access token stands for.
    pub(super) fn new(
        (user_id, device_id): (OwnedUserId, OwnedDeviceId),
        flags: AccountFlags,
        token_hash: TokenHash,
        expires_ts: Option<u64>,
    ) -> Self {
        Self {
            user_id,
            device_id,
            is_admin: flags.is_admin(),
            is_guest: flags.is_guest(),
            is_locked: flags.is_locked(),
            is_suspended: flags.is_suspended(),
            is_shadow_banned: flags.is_shadow_banned(),
            token_hash,
            appservice: None,
            expires_ts,
            noted_ts: AtomicU64::new(0),
        }
    }

    /// The device, unless an application service acts without one.
    pub fn device(&self) -> Option<&ruma::DeviceId> {
        Some(&*self.device_id).filter(|device_id| !device_id.as_str().is_empty())
    }

    /// Whether the user is limited in how often they may do something.
    pub fn is_rate_limited(&self) -> bool {
        !self.is_admin && self.appservice.as_ref().is_none_or(|grant| grant.is_rate_limited)
    }
}

impl Sessions {
    pub(super) fn cache_figures(&self) -> CacheFigures {
        CacheFigures::of("sessions", &self.cache)
    }

    /// `cache_bytes` bounds what warm sessions take in memory.
    pub fn new(database: Database, writer: Writer, cache_bytes: u64) -> Self {
        let sessions_max = (cache_bytes / SESSION_WEIGHT_BYTES).max(100) as usize;
        Self {
            database,
            writer,
            cache: Cache::new(sessions_max),
            epoch: AtomicU64::new(0),
            visits: Mutex::default(),
        }
    }

    /// The session that a token stands for, and notes the visit.
    pub async fn authenticate(
        self: &Arc<Self>,
        token: &str,
        address: Option<IpAddr>,
        now_ts: u64,
    ) -> Result<Arc<Session>, AuthenticateError> {
        let hash = hash_token(token);
        let session = match self.cache.get(&hash) {
            Some(session) => session,
            None => self.load(hash).await?,
        };
        if session.expires_ts.is_some_and(|expires_ts| expires_ts <= now_ts) {
            return Err(AuthenticateError::Expired);
        }
        self.note_visit(&session, address, now_ts);
        Ok(session)
    }

    /// The session of an application service as a user, on a device if one is named. That the
    /// service may act as the user is decided before.
    pub async fn assume(
        &self,
        user_id: &UserId,
        device_id: Option<&str>,
        grant: AppserviceGrant,
    ) -> Result<Arc<Session>, AuthenticateError> {
        let mut hasher = Sha256::new_with_prefix(grant.token_hash);
        hasher.update(user_id.as_bytes());
        let key: TokenHash = hasher.finalize().into();
        // Devices come and go without the cache hearing of it.
        if let (Some(session), None) = (self.cache.get(&key), device_id) {
            return Ok(session);
        }
        let epoch = self.epoch.load(Ordering::SeqCst);
        let account = storage::accounts::find(&self.database, user_id.as_str()).await?;
        let account = account.ok_or(AuthenticateError::UnknownUser)?;
        if let Some(device_id) = device_id {
            let device = devices::find(&self.database, user_id.as_str(), device_id).await?;
            device.ok_or(AuthenticateError::UnknownDevice)?;
        }
        let flags = AccountFlags(account.flags);
        if flags.is_deactivated() {
            return Err(AuthenticateError::UnknownUser);
        }
        let owner = (user_id.to_owned(), device_id.unwrap_or_default().into());
        let session = Session::new(owner, flags, key, None);
        let session = Arc::new(Session { appservice: Some(grant), ..session });
        if device_id.is_none() {
            self.cache.insert(key, session.clone());
            if self.epoch.load(Ordering::SeqCst) != epoch {
                self.cache.remove(&key);
            }
        }
        Ok(session)
    }

    /// Drops what is remembered of application services, whose registrations have changed.
    pub fn forget_appservices(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.cache.retain(|_, session| session.appservice.is_none());
    }

    /// Has a session remembered with the commit that begins it: its first request follows soon.
    pub(super) fn remember_with(self: &Arc<Self>, tx: &mut WriteTransaction<'_>, session: Session) {
        let sessions = self.clone();
        tx.after_commit(move || sessions.cache.insert(session.token_hash, Arc::new(session)));
    }

    /// Has ended sessions dropped from memory with the commit that ends them, even if whoever asked
    /// for it goes away meanwhile.
    pub fn forget_with(self: &Arc<Self>, tx: &mut WriteTransaction<'_>, hashes: Vec<TokenHash>) {
        let sessions = self.clone();
        tx.after_commit(move || sessions.forget(&hashes));
    }

    /// Has a user's sessions read again after the commit that changes the account's flags.
    pub fn reload_with(self: &Arc<Self>, tx: &mut WriteTransaction<'_>, user_id: &UserId) {
        let (sessions, user_id) = (self.clone(), user_id.to_owned());
        tx.after_commit(move || sessions.reload_user(&user_id));
    }

    fn forget(&self, hashes: &[TokenHash]) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        for hash in hashes {
            self.cache.remove(hash);
        }
    }

    fn reload_user(&self, user_id: &UserId) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.cache.retain(|_, session| session.user_id != user_id);
    }

    /// Writes visits in batches until the server stops, and then what is left.
    pub async fn run_visits(self: Arc<Self>, shutdown: CancellationToken) {
        let mut pause = tokio::time::interval(VISITS_PAUSE);
        pause.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let stops = tokio::select! {
                () = shutdown.cancelled() => true,
                _ = pause.tick() => false,
            };
            if let Err(error) = self.write_visits().await {
                tracing::warn!(%error, "visits of devices were not written");
            }
            if stops {
                return;
            }
        }
    }

    /// Writes the visits noted since the last time.
    pub async fn write_visits(&self) -> Result<(), StorageError> {
        let visits = std::mem::take(&mut *self.visits.lock());
        if visits.is_empty() {
            return Ok(());
        }
        let mut tx = WriteTx::new();
        for Visit { session, seen_ts, address } in visits.into_values() {
            let (user_id, device_id) = (session.user_id.as_str(), session.device_id.as_str());
            let ip = address.map(|address| address.to_string());
            devices::push_visit(&mut tx, user_id, device_id, seen_ts, ip);
        }
        self.writer.commit(tx).await.map(drop)
    }

    fn note_visit(&self, session: &Arc<Session>, address: Option<IpAddr>, now_ts: u64) {
        let noted_ts = session.noted_ts.load(Ordering::Relaxed);
        if now_ts < noted_ts.saturating_add(VISIT_PRECISION_MS) {
            return;
        }
        session.noted_ts.store(now_ts, Ordering::Relaxed);
        let visit = Visit { session: session.clone(), seen_ts: now_ts, address };
        self.visits.lock().insert(session.token_hash, visit);
    }

    async fn load(self: &Arc<Self>, hash: TokenHash) -> Result<Arc<Session>, AuthenticateError> {
        let epoch = self.epoch.load(Ordering::SeqCst);
        let found = tokens::find_access(&self.database, &hash).await?;
        let stored = found.ok_or(AuthenticateError::UnknownToken)?;
        let flags = AccountFlags(stored.account_flags);
        if flags.is_deactivated() {
            return Err(AuthenticateError::UnknownToken);
        }
        if let Some(parent_hash) = stored.parent_hash {
            self.confirm(hash, parent_hash).await?;
        }
        let user_id = UserId::parse(&stored.user_id)
            .map_err(|_| StorageError::Damaged(format!("user ID {}", stored.user_id)))?;
        let expires_ts = stored.access_expires_ts.map(i64::cast_unsigned);
        let owner = (user_id, stored.device_id.into());
        let session = Arc::new(Session::new(owner, flags, hash, expires_ts));
        self.cache.insert(hash, session.clone());
        if self.epoch.load(Ordering::SeqCst) != epoch {
            self.cache.remove(&hash);
        }
        Ok(session)
    }

    /// The first use of a refreshed pair ends the pair that it replaces.
    async fn confirm(
        self: &Arc<Self>,
        hash: TokenHash,
        parent_hash: Vec<u8>,
    ) -> Result<(), StorageError> {
        let sessions = self.clone();
        self.writer
            .transact(move |tx| {
                Box::pin(async move {
                    let gone = tokens::confirm(tx, &hash, &parent_hash).await?;
                    sessions.forget_with(tx, gone);
                    Ok(())
                })
            })
            .await
    }
}
