//! Logging in: by password or by a login token, new sessions, refreshing them. Not for which
//! session a token stands for (see `sessions`).

use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde::Deserialize;

use super::{
    Accounts,
    flags::AccountFlags,
    manage::insert_device,
    sessions::{Session, hash_token},
    validation::{EMAIL, canonical_address},
};
use crate::storage::{
    StorageError, WriteTransaction, accounts, devices,
    tokens::{self, NewToken, ShortTokenKind, TokenHash},
};

/// Random characters of a token: 238 bits.
const TOKEN_LENGTH: usize = 40;
const DEVICE_ID_LENGTH: usize = 10;
/// How long a name of a device may be, in bytes; clients show it in lists.
pub const DEVICE_NAME_BYTES_MAX: usize = 400;
/// How long an identifier that a client chooses for its device may be, in bytes. Opaque
/// identifiers (Appendices, "Opaque Identifiers") have 255.
pub const DEVICE_ID_BYTES_MAX: usize = 255;

/// Who wants to log in (Client-Server API, "Identifier types").
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type")]
pub enum UserIdentifier {
    #[serde(rename = "m.id.user")]
    User { user: String },
    #[serde(rename = "m.id.thirdparty")]
    ThirdParty { medium: String, address: String },
    #[serde(rename = "m.id.phone")]
    Phone { country: String, phone: String },
    #[serde(other)]
    Unknown,
}

/// The device that a new session is for.
#[derive(Clone, Debug, Default)]
pub struct DeviceRequest {
    /// An existing or chosen device; made up when `None`.
    pub device_id: Option<String>,
    /// The name of a new device.
    pub display_name: Option<String>,
    /// Whether the client can refresh its access token.
    pub can_refresh: bool,
    /// When the session ends in any case, milliseconds since the Unix epoch.
    pub valid_until_ts: Option<u64>,
}

/// A session that has just begun or was refreshed.
#[derive(Clone, Debug)]
pub struct NewSession {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    pub access_token: String,
    pub refresh_token: Option<String>,
    pub expires_in_ms: Option<u64>,
}

/// Why a login was refused.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The user, the password or the login token: which one, strangers do not learn.
    #[error("the user or the password is wrong")]
    WrongCredentials,
    #[error("this account has been deactivated")]
    Deactivated,
    #[error("this account is locked")]
    Locked,
    #[error("this account has as many devices as it may have")]
    TooManyDevices,
    #[error("a device has an ID of 1 to 255 bytes and a name of at most 400")]
    InvalidDevice,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a session was not refreshed.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    #[error("the refresh token is unknown")]
    UnknownToken,
    #[error("the refresh token has expired")]
    Expired,
    #[error("this account is locked")]
    Locked,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Tokens that were made up for a session, with their hashes.
pub(super) struct FreshTokens {
    pub access: String,
    pub refresh: Option<String>,
    pub access_lifetime_ms: Option<u64>,
    refresh_lifetime_ms: Option<u64>,
}

impl Accounts {
    /// The user of this server whom an identifier names, whether or not the account exists.
    pub async fn resolve_identifier(
        &self,
        identifier: &UserIdentifier,
    ) -> Result<Option<OwnedUserId>, StorageError> {
        match identifier {
            UserIdentifier::User { user } => Ok(self.resolve_user(user)),
            UserIdentifier::ThirdParty { medium, address } if medium == EMAIL => {
                match canonical_address(address) {
                    Some(address) => self.find_address_owner(EMAIL, &address).await,
                    None => Ok(None),
                }
            }
            // No phone numbers are kept, so they name nobody.
            UserIdentifier::ThirdParty { .. }
            | UserIdentifier::Phone { .. }
            | UserIdentifier::Unknown => Ok(None),
        }
    }

    /// The user of this server whom a full user ID or its localpart names.
    pub fn resolve_user(&self, user: &str) -> Option<OwnedUserId> {
        let localpart = match user.strip_prefix('@') {
            Some(user_id) => {
                let (localpart, server_name) = user_id.split_once(':')?;
                (server_name == self.server_name()).then_some(localpart)?
            }
            None => user,
        };
        // Names here are in lower case, and people type their own with capitals.
        self.parse_new_name(localpart).ok()
    }

    /// Whether this is the password of an account that exists.
    pub async fn check_password(
        &self,
        user_id: &UserId,
        password: String,
    ) -> Result<bool, StorageError> {
        let account = accounts::find(&self.database, user_id.as_str()).await?;
        let hash = account.and_then(|account| account.password_hash);
        Ok(self.passwords.verify(password, hash).await)
    }

    /// Checks a password for a login. `None` stands for an identifier that names nobody.
    pub async fn verify_login(
        &self,
        user_id: Option<&UserId>,
        password: String,
    ) -> Result<OwnedUserId, LoginError> {
        let account = match user_id {
            Some(user_id) => accounts::find(&self.database, user_id.as_str()).await?,
            None => None,
        };
        let flags = AccountFlags(account.as_ref().map_or(0, |account| account.flags));
        let hash = account.and_then(|account| account.password_hash);
        let fits = self.passwords.verify(password, hash).await;
        if flags.is_deactivated() {
            return Err(LoginError::Deactivated);
        }
        match user_id {
            Some(user_id) if fits => Ok(user_id.to_owned()),
            _ => Err(LoginError::WrongCredentials),
        }
    }

    /// Takes a token of `POST /v1/login/get_token`, which can be used once.
    pub async fn take_login_token(&self, token: &str) -> Result<OwnedUserId, LoginError> {
        let (hash, now_ts) = (hash_token(token), self.clock.now_ms());
        let user_id: Result<_, StorageError> = self
            .writer
            .transact(move |tx| {
                Box::pin(async move {
                    tokens::take_short_token(tx, &hash, ShortTokenKind::Login, now_ts).await
                })
            })
            .await;
        user_id?.and_then(|user_id| UserId::parse(user_id).ok()).ok_or(LoginError::WrongCredentials)
    }

    /// Makes a login token for another device of a user; with its lifetime in milliseconds.
    pub async fn create_login_token(
        &self,
        user_id: &UserId,
    ) -> Result<(String, u64), StorageError> {
        let lifetime = self.config.sessions.login_token_lifetime;
        self.create_short_token(user_id, ShortTokenKind::Login, lifetime).await
    }

    /// Begins a session of a user who has proven who they are. Earlier sessions of the same
    /// device end (Client-Server API, "Relationship between access tokens and devices").
    pub async fn begin_session(
        &self,
        user_id: &UserId,
        device: DeviceRequest,
    ) -> Result<NewSession, LoginError> {
        let device_id = self.choose_device_id(&device)?;
        let fresh = self.make_tokens(device.can_refresh);
        let (token_user, token_device) = (user_id.to_string(), device_id.clone());
        let mut row = fresh.rows(self.clock.now_ms());
        let ends = [row.access_expires_ts, device.valid_until_ts];
        row.access_expires_ts = ends.into_iter().flatten().min();
        let (now_ts, devices_max) = (self.clock.now_ms(), self.config.sessions.devices_max);
        let (sessions, owner) = (self.sessions.clone(), user_id.to_owned());
        let watcher = self.device_watcher.get();
        let begun: Result<(), LoginError> = self
            .writer
            .transact(move |tx| {
                Box::pin(async move {
                    let flags = check_may_log_in(tx, &token_user).await?;
                    let name = device.display_name.as_deref();
                    let (watcher, device) = (watcher.as_deref(), (&*token_user, &*token_device));
                    let is_new = insert_device(tx, watcher, device, name, now_ts).await?;
                    if is_new && devices::count(tx, &token_user).await? > devices_max as i64 {
                        return Err(LoginError::TooManyDevices);
                    }
                    let gone = tokens::delete_of_device(tx, &token_user, &token_device).await?;
                    tokens::insert(tx, &row.for_device(&token_user, &token_device)).await?;
                    sessions.forget_with(tx, gone);
                    sessions.remember_with(tx, row.session(owner, &token_device, flags));
                    Ok(())
                })
            })
            .await;
        begun?;
        Ok(fresh.into_session(user_id.to_owned(), device_id))
    }

    /// Exchanges a refresh token for a new pair. The old pair stays valid until the new one is
    /// first used (Client-Server API, "Refreshing access tokens").
    pub async fn refresh_session(&self, refresh_token: &str) -> Result<NewSession, RefreshError> {
        let (hash, now_ts) = (hash_token(refresh_token), self.clock.now_ms());
        let fresh = self.make_tokens(true);
        let mut row = fresh.rows(now_ts);
        let sessions = self.sessions.clone();
        let refreshed: Result<_, RefreshError> = self
            .writer
            .transact(move |tx| {
                Box::pin(async move {
                    let pair = tokens::find_refresh(tx, &hash).await?;
                    let pair = pair.ok_or(RefreshError::UnknownToken)?;
                    let flags = AccountFlags(pair.account_flags);
                    if flags.is_deactivated() {
                        return Err(RefreshError::UnknownToken);
                    }
                    if flags.is_locked() {
                        return Err(RefreshError::Locked);
                    }
                    if pair.refresh_expires_ts.is_some_and(|ts| ts <= now_ts as i64) {
                        return Err(RefreshError::Expired);
                    }
                    // Using the refresh token confirms the pair that it belongs to.
                    let mut gone = match &pair.parent_hash {
                        Some(parent) => tokens::confirm(tx, &pair.access_hash, parent).await?,
                        None => Vec::new(),
                    };
                    gone.extend(tokens::delete_children(tx, &pair.access_hash).await?);
                    row.parent_hash = pair.access_hash.as_slice().try_into().ok();
                    tokens::insert(tx, &row.for_device(&pair.user_id, &pair.device_id)).await?;
                    sessions.forget_with(tx, gone);
                    Ok((pair.user_id, pair.device_id))
                })
            })
            .await;
        let (user_id, device_id) = refreshed?;
        let user_id = UserId::parse(&user_id).map_err(|_| StorageError::Damaged(user_id))?;
        Ok(fresh.into_session(user_id, device_id))
    }

    /// The device ID that was asked for, or a new one.
    pub(super) fn choose_device_id(&self, device: &DeviceRequest) -> Result<String, LoginError> {
        let name = device.display_name.as_deref().unwrap_or_default();
        if name.len() > DEVICE_NAME_BYTES_MAX || name.contains('\0') {
            return Err(LoginError::InvalidDevice);
        }
        match &device.device_id {
            None => Ok(self.clock.random_text(DEVICE_ID_LENGTH).to_uppercase()),
            Some(id) if is_device_id(id) => Ok(id.clone()),
            Some(_) => Err(LoginError::InvalidDevice),
        }
    }

    pub(super) fn make_tokens(&self, can_refresh: bool) -> FreshTokens {
        let config = &self.config.sessions;
        let as_ms = |lifetime: std::time::Duration| lifetime.as_millis() as u64;
        let random = |prefix: &str| format!("{prefix}_{}", self.clock.random_text(TOKEN_LENGTH));
        FreshTokens {
            access: random("hat"),
            refresh: can_refresh.then(|| random("hrt")),
            // Who cannot refresh would have to log in every hour.
            access_lifetime_ms: config.access_token_lifetime.filter(|_| can_refresh).map(as_ms),
            refresh_lifetime_ms: config.refresh_token_lifetime.map(as_ms),
        }
    }

    pub(super) async fn create_short_token(
        &self,
        user_id: &UserId,
        kind: ShortTokenKind,
        lifetime: std::time::Duration,
    ) -> Result<(String, u64), StorageError> {
        let token = self.clock.random_text(TOKEN_LENGTH);
        let lifetime_ms = lifetime.as_millis() as u64;
        let expires_ts = self.clock.now_ms().saturating_add(lifetime_ms);
        let mut tx = crate::storage::WriteTx::new();
        let hash = hash_token(&token);
        tokens::push_short_token(&mut tx, &hash, kind, user_id.as_str(), expires_ts);
        self.writer.commit(tx).await?;
        Ok((token, lifetime_ms))
    }
}

/// A device ID that can be stored and put into a path.
pub fn is_device_id(id: &str) -> bool {
    (1..=DEVICE_ID_BYTES_MAX).contains(&id.len()) && !id.contains('\0')
}

/// A token's row before its device is known.
#[derive(Clone)]
pub(super) struct TokenRow {
    access_hash: TokenHash,
    refresh_hash: Option<TokenHash>,
    parent_hash: Option<TokenHash>,
    access_expires_ts: Option<u64>,
    refresh_expires_ts: Option<u64>,
}

impl FreshTokens {
    pub fn rows(&self, now_ts: u64) -> TokenRow {
        let expiry = |lifetime: Option<u64>| lifetime.map(|ms| now_ts.saturating_add(ms));
        TokenRow {
            access_hash: hash_token(&self.access),
            refresh_hash: self.refresh.as_deref().map(hash_token),
            parent_hash: None,
            access_expires_ts: expiry(self.access_lifetime_ms),
            refresh_expires_ts: self.refresh.as_ref().and(expiry(self.refresh_lifetime_ms)),
        }
    }

    pub fn into_session(self, user_id: OwnedUserId, device_id: String) -> NewSession {
        NewSession {
            user_id,
            device_id: device_id.into(),
            access_token: self.access,
            refresh_token: self.refresh,
            expires_in_ms: self.access_lifetime_ms,
        }
    }
}

impl TokenRow {
    pub fn for_device<'a>(&self, user_id: &'a str, device_id: &'a str) -> NewToken<'a> {
        NewToken {
            access_hash: self.access_hash,
            refresh_hash: self.refresh_hash,
            parent_hash: self.parent_hash,
            user_id,
            device_id,
            access_expires_ts: self.access_expires_ts,
            refresh_expires_ts: self.refresh_expires_ts,
        }
    }

    /// What the access token stands for, unless it has to be confirmed first.
    pub fn session(&self, owner: OwnedUserId, device_id: &str, flags: AccountFlags) -> Session {
        Session::new((owner, device_id.into()), flags, self.access_hash, self.access_expires_ts)
    }
}

/// The account's flags; it may have been deactivated since its password was checked.
async fn check_may_log_in(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
) -> Result<AccountFlags, LoginError> {
    let account = accounts::find_in(tx, user_id).await?;
    let flags = AccountFlags(account.ok_or(LoginError::WrongCredentials)?.flags);
    if flags.is_deactivated() {
        return Err(LoginError::Deactivated);
    }
    if flags.is_locked() { Err(LoginError::Locked) } else { Ok(flags) }
}
