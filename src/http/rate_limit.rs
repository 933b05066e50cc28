//! How often requests may be repeated (Client-Server API, "Rate limiting"): a bucket of tokens per
//! kind and per user or address, in bounded memory. Which kind a request is, its handler says.

use std::{collections::HashMap, hash::Hash, net::IpAddr};

use parking_lot::RwLock;
use quick_cache::sync::Cache;
use ruma::{OwnedUserId, UserId};

use super::error::{MatrixError, MatrixResult};
use crate::{
    accounts::sessions::Session,
    config::{RateLimit, RateLimitsConfig},
    storage::{Database, StorageError, administration::list_rate_limits},
};

/// Buckets in memory, of all kinds together. Whoever is forgotten begins with a full one.
const BUCKETS_MAX: usize = 20_000;

/// What is limited; each has its key under `[rate_limits]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Login,
    LoginFailure,
    Registration,
    Message,
    RoomCreation,
    Join,
    Invite,
    /// Invitations that one user gets, whoever sends them.
    InviteOfUser,
    Ephemeral,
    Change,
    ToDevice,
    Search,
    MediaUpload,
    MediaDownload,
    Report,
    Mail,
    UrlPreview,
}

/// What an administrator has said of one user, whatever the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserLimit {
    /// Messages a second; 0: nothing of what the user does is limited.
    pub per_second: u32,
    /// Messages at once.
    pub burst: u32,
}

/// All buckets.
pub struct RateLimits {
    config: RateLimitsConfig,
    of_users: RwLock<HashMap<OwnedUserId, UserLimit>>,
    buckets: Cache<(Action, Party), Bucket>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Party {
    User(OwnedUserId),
    Address(IpAddr),
    /// A mail address.
    Mailbox(String),
    /// Everybody on a Unix socket that names no addresses.
    Unknown,
}

/// How full a bucket was at a time.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at_ms: u64,
}

impl RateLimits {
    pub fn new(config: RateLimitsConfig) -> Self {
        Self { config, of_users: RwLock::default(), buckets: Cache::new(BUCKETS_MAX) }
    }

    /// The limits of the configuration, and what administrators have said of single users.
    pub async fn load(
        config: &RateLimitsConfig,
        database: &Database,
    ) -> Result<Self, StorageError> {
        let limits = Self::new(config.clone());
        for (user, per_second, burst) in list_rate_limits(database).await? {
            let Ok(user) = UserId::parse(user) else { continue };
            let number = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
            let limit = UserLimit { per_second: number(per_second), burst: number(burst) };
            limits.set_of_user(&user, Some(limit));
        }
        Ok(limits)
    }

    /// What an administrator has said of a user.
    pub fn find_of_user(&self, user: &UserId) -> Option<UserLimit> {
        self.of_users.read().get(user).copied()
    }

    /// Has something else hold for a user than for others, or (None) the same again.
    pub fn set_of_user(&self, user: &UserId, limit: Option<UserLimit>) {
        let mut of_users = self.of_users.write();
        match limit {
            Some(limit) => of_users.insert(user.to_owned(), limit),
            None => of_users.remove(user),
        };
    }

    /// Takes a token of a user; administrators are exempt, and application services as far as
    /// their registration says.
    pub fn take(&self, action: Action, session: &Session, now_ms: u64) -> MatrixResult<()> {
        if !session.is_rate_limited() {
            return Ok(());
        }
        let user = &session.user_id;
        match self.find_of_user(user) {
            Some(UserLimit { per_second: 0, .. }) => Ok(()),
            Some(UserLimit { per_second, burst }) if action == Action::Message => {
                let (per_second, burst) = (per_second.into(), burst.max(1));
                let limit = RateLimit { enabled: true, per_second, burst };
                self.take_from((action, Party::User(user.to_owned())), limit, now_ms)
            }
            _ => self.take_of_user(action, user, now_ms),
        }
    }

    /// Takes a token of a user, who need not be logged in (wrong passwords, invitations from elsewhere).
    pub fn take_of_user(&self, action: Action, user: &UserId, now_ms: u64) -> MatrixResult<()> {
        match self.limit(action) {
            Some(limit) => self.take_from((action, Party::User(user.to_owned())), limit, now_ms),
            None => Ok(()),
        }
    }

    /// Takes a token of the user to whom somebody does something; who is exempt is so here as well.
    pub fn take_of_target(
        &self,
        action: Action,
        (session, target): (&Session, &UserId),
        now_ms: u64,
    ) -> MatrixResult<()> {
        if !session.is_rate_limited() {
            return Ok(());
        }
        self.take_of_user(action, target, now_ms)
    }

    /// Takes a token of an address.
    pub fn take_of_address(
        &self,
        action: Action,
        address: Option<IpAddr>,
        now_ms: u64,
    ) -> MatrixResult<()> {
        let Some(limit) = self.limit(action) else { return Ok(()) };
        let party = address.map_or(Party::Unknown, |address| Party::Address(network_of(address)));
        self.take_from((action, party), limit, now_ms)
    }

    /// Takes a token of a user, or of an address where nobody has to be logged in.
    pub fn take_of_anybody(
        &self,
        action: Action,
        (session, address): (Option<&Session>, Option<IpAddr>),
        now_ms: u64,
    ) -> MatrixResult<()> {
        match session {
            Some(session) => self.take(action, session, now_ms),
            None => self.take_of_address(action, address, now_ms),
        }
    }

    /// Takes a token of a mail address.
    pub fn take_of_mailbox(
        &self,
        action: Action,
        address: String,
        now_ms: u64,
    ) -> MatrixResult<()> {
        match self.limit(action) {
            Some(limit) => self.take_from((action, Party::Mailbox(address)), limit, now_ms),
            None => Ok(()),
        }
    }

    /// Refuses when a user's bucket is empty, without taking a token.
    pub fn check_of_user(&self, action: Action, user: &UserId, now_ms: u64) -> MatrixResult<()> {
        let Some(limit) = self.limit(action) else { return Ok(()) };
        match self.buckets.get(&(action, Party::User(user.to_owned()))) {
            Some(bucket) => bucket.refilled(limit, now_ms).require_token(limit),
            None => Ok(()),
        }
    }

    fn limit(&self, action: Action) -> Option<RateLimit> {
        let config = &self.config;
        let limit = match action {
            Action::Login => config.login,
            Action::LoginFailure => config.login_failures,
            Action::Registration => config.registration,
            Action::Message => config.messages,
            Action::RoomCreation => config.room_creation,
            Action::Join => config.joins,
            Action::Invite => config.invites,
            Action::InviteOfUser => config.invites_received,
            Action::Ephemeral => config.ephemeral,
            Action::Change => config.changes,
            Action::ToDevice => config.to_device,
            Action::Search => config.searches,
            Action::MediaUpload => config.media_uploads,
            Action::MediaDownload => config.media_downloads,
            Action::Report => config.reports,
            Action::Mail => config.mails,
            Action::UrlPreview => config.url_previews,
        };
        (config.enabled && limit.enabled).then_some(limit)
    }

    /// Two requests at the same instant may share a token; a limit needs no more precision.
    fn take_from(&self, key: (Action, Party), limit: RateLimit, now_ms: u64) -> MatrixResult<()> {
        let full = Bucket { tokens: f64::from(limit.burst), at_ms: now_ms };
        let mut bucket = self.buckets.get(&key).unwrap_or(full).refilled(limit, now_ms);
        bucket.require_token(limit)?;
        bucket.tokens -= 1.0;
        self.buckets.insert(key, bucket);
        Ok(())
    }
}

impl Bucket {
    fn refilled(self, limit: RateLimit, now_ms: u64) -> Self {
        let elapsed_s = now_ms.saturating_sub(self.at_ms) as f64 / 1000.0;
        let tokens = (self.tokens + elapsed_s * limit.per_second).min(f64::from(limit.burst));
        Self { tokens, at_ms: now_ms }
    }

    fn require_token(self, limit: RateLimit) -> MatrixResult<()> {
        if self.tokens >= 1.0 {
            return Ok(());
        }
        let wait_ms = (1.0 - self.tokens) / limit.per_second * 1000.0;
        Err(MatrixError::limit_exceeded(wait_ms.ceil() as u64))
    }
}

/// One IPv6 customer has a whole /64 network.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> RateLimits {
        let login = RateLimit { enabled: true, per_second: 0.5, burst: 2 };
        RateLimits::new(RateLimitsConfig { login, ..RateLimitsConfig::default() })
    }

    fn take(limits: &RateLimits, address: &str, now_ms: u64) -> bool {
        let address = Some(address.parse().unwrap());
        limits.take_of_address(Action::Login, address, now_ms).is_ok()
    }

    #[test]
    fn bucket_empties_and_refills() {
        let limits = limits();
        assert!(take(&limits, "192.0.2.1", 0));
        assert!(take(&limits, "192.0.2.1", 0));
        assert!(!take(&limits, "192.0.2.1", 1999));
        assert!(take(&limits, "192.0.2.2", 1999));
        assert!(take(&limits, "192.0.2.1", 2000));
    }

    #[test]
    fn one_ipv6_network_is_one_party() {
        let limits = limits();
        assert!(take(&limits, "2001:db8::1", 0));
        assert!(take(&limits, "2001:db8::2", 0));
        assert!(!take(&limits, "2001:db8::3", 0));
        assert!(take(&limits, "2001:db8:0:1::3", 0));
    }

    #[test]
    fn limits_can_be_switched_off() {
        let config = RateLimitsConfig { enabled: false, ..RateLimitsConfig::default() };
        let limits = RateLimits::new(config);
        assert!((0..1000).all(|_| take(&limits, "192.0.2.1", 0)));
    }
}
