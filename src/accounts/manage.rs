//! What happens to an account after it was made: password, flags, devices, logout, deactivation.
//! The command line's `user` commands call the same operations.

use futures_util::future::BoxFuture;
use ruma::{DeviceId, OwnedUserId, UserId};

use super::{
    Accounts,
    changes::Changes,
    flags::AccountFlags,
    login::{DeviceRequest, LoginError},
    register::RegisterError,
    sessions::Session,
};
use crate::storage::{
    StorageError, WriteTransaction,
    accounts::{self, StoredAccount},
    devices::{self, StoredDevice},
    erasures, jobs, tokens,
};

/// The job that has a deactivated user leave every room; its subject is the user ID.
pub const LEAVE_ROOMS_JOB: &str = "leave_rooms";

/// An account, for administrators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub user_id: OwnedUserId,
    pub flags: AccountFlags,
    pub has_password: bool,
    pub appservice_id: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub created_ts: u64,
}

/// Learns of devices that come, go or change their name, within the same transaction: whoever keeps
/// keys for devices implements it, and `app` registers it.
pub trait DeviceWatcher: Send + Sync {
    /// A device that did not exist before.
    fn device_created(&self, tx: &mut WriteTransaction<'_>, user_id: &str, device_id: &str);

    fn devices_deleted<'a>(
        &'a self,
        tx: &'a mut WriteTransaction<'_>,
        user_id: &'a UserId,
        device_ids: &'a [String],
    ) -> BoxFuture<'a, Result<(), StorageError>>;

    fn device_renamed<'a>(
        &'a self,
        tx: &'a mut WriteTransaction<'_>,
        user_id: &'a UserId,
        device_id: &'a str,
    ) -> BoxFuture<'a, Result<(), StorageError>>;

    /// The account is closed for good; its devices are gone already.
    fn account_deactivated<'a>(
        &'a self,
        tx: &'a mut WriteTransaction<'_>,
        user_id: &'a UserId,
    ) -> BoxFuture<'a, Result<(), StorageError>>;
}

/// Makes a device (user and ID) unless it exists, and has the watcher learn of it; whether it is new.
pub(super) async fn insert_device(
    tx: &mut WriteTransaction<'_>,
    watcher: Option<&dyn DeviceWatcher>,
    (user_id, device_id): (&str, &str),
    display_name: Option<&str>,
    created_ts: u64,
) -> Result<bool, StorageError> {
    let is_new = devices::insert(tx, user_id, device_id, display_name, created_ts).await?;
    if let Some(watcher) = watcher.filter(|_| is_new) {
        watcher.device_created(tx, user_id, device_id);
    }
    Ok(is_new)
}

/// Why an account was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ManageError {
    #[error("there is no such account")]
    NotFound,
    #[error("this account has been deactivated")]
    Deactivated,
    #[error(transparent)]
    WeakPassword(RegisterError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Accounts {
    /// An account of this server; also a deactivated one.
    pub async fn find_account(&self, user_id: &UserId) -> Result<Option<Account>, StorageError> {
        let found = accounts::find(&self.database, user_id.as_str()).await?;
        found.map(Account::try_from).transpose()
    }

    /// Accounts in the order of their names, from the first behind `after` (empty: from the start).
    pub async fn list_accounts(
        &self,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Account>, StorageError> {
        let stored = accounts::list(&self.database, after, limit).await?;
        stored.into_iter().map(Account::try_from).collect()
    }

    /// Sets a password. With `logout`, all sessions end but those of the device `kept`.
    pub async fn set_password(
        &self,
        user_id: &UserId,
        password: String,
        logout: bool,
        kept: Option<&DeviceId>,
    ) -> Result<(), ManageError> {
        self.check_new_password(&password).map_err(ManageError::WeakPassword)?;
        let hash = self.passwords.hash(password).await;
        let (user_id, watcher) = (user_id.to_owned(), self.device_watcher.get());
        let kept = kept.map(ToString::to_string);
        let (sessions, changes) = (self.sessions.clone(), self.changes.clone());
        self.writer
            .transact(move |tx| {
                Box::pin(async move {
                    load_active(tx, &user_id).await?;
                    accounts::set_password(tx, user_id.as_str(), Some(&hash)).await?;
                    if logout {
                        let parts = (&changes, watcher.as_deref());
                        let gone = end_devices(tx, &user_id, kept.as_deref(), parts).await?;
                        sessions.forget_with(tx, gone);
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Sets or clears a flag such as [`AccountFlags::ADMIN`] or [`AccountFlags::LOCKED`].
    pub async fn set_flag(
        &self,
        user_id: &UserId,
        flag: AccountFlags,
        on: bool,
    ) -> Result<(), ManageError> {
        let (target, sessions) = (user_id.to_owned(), self.sessions.clone());
        self.writer
            .transact(move |tx| {
                Box::pin(async move {
                    let flags = load_active(tx, &target).await?.with(flag, on);
                    accounts::set_flags(tx, target.as_str(), flags.0).await?;
                    sessions.reload_with(tx, &target);
                    Ok(())
                })
            })
            .await
    }

    /// Deactivates an account: nobody can log in any more, the name stays taken, what the user
    /// stored is deleted, and a job has the user leave every room.
    pub async fn deactivate(&self, user_id: &UserId, erase: bool) -> Result<(), ManageError> {
        let (target, watcher) = (user_id.to_owned(), self.device_watcher.get());
        let (sessions, forget) = (self.sessions.clone(), self.forget_personal_data(user_id));
        let changes = self.changes.clone();
        let deactivated: Result<(), ManageError> = self
            .writer
            .transact(move |tx| {
                Box::pin(async move {
                    let flags = load_active(tx, &target).await?;
                    let flags = flags.with(AccountFlags::DEACTIVATED, true);
                    let flags = flags.with(AccountFlags::ERASED, erase);
                    accounts::set_flags(tx, target.as_str(), flags.0).await?;
                    accounts::set_password(tx, target.as_str(), None).await?;
                    let parts = (&changes, watcher.as_deref());
                    let gone = end_devices(tx, &target, None, parts).await?;
                    accounts::delete_personal_data(tx, target.as_str()).await?;
                    if let Some(watcher) = watcher {
                        watcher.account_deactivated(tx, &target).await?;
                    }
                    if erase {
                        erasures::insert(tx, target.as_str()).await?;
                    }
                    jobs::request(tx, LEAVE_ROOMS_JOB, target.as_str(), "{}").await?;
                    sessions.forget_with(tx, gone);
                    // An application service that acts as the user has no token of theirs.
                    sessions.reload_with(tx, &target);
                    tx.after_commit(forget);
                    Ok(())
                })
            })
            .await;
        deactivated?;
        self.changes.wake(user_id);
        Ok(())
    }

    pub async fn list_devices(&self, user_id: &UserId) -> Result<Vec<StoredDevice>, StorageError> {
        self.sessions.write_visits().await?;
        devices::list(&self.database, user_id.as_str()).await
    }

    pub async fn find_device(
        &self,
        user_id: &UserId,
        device_id: &str,
    ) -> Result<Option<StoredDevice>, StorageError> {
        self.sessions.write_visits().await?;
        devices::find(&self.database, user_id.as_str(), device_id).await
    }

    /// Renames a device; false when there is none.
    pub async fn rename_device(
        &self,
        user_id: &UserId,
        device_id: &str,
        display_name: Option<String>,
    ) -> Result<bool, StorageError> {
        let (user_id, device_id) = (user_id.to_owned(), device_id.to_owned());
        let watcher = self.device_watcher.get();
        self.writer
            .transact(move |tx| {
                Box::pin(async move {
                    let name = display_name.as_deref();
                    let renamed = devices::rename(tx, user_id.as_str(), &device_id, name).await?;
                    if let (true, Some(watcher)) = (renamed, watcher) {
                        watcher.device_renamed(tx, &user_id, &device_id).await?;
                    }
                    Ok(renamed)
                })
            })
            .await
    }

    /// Makes a device without a session, or renames it if it exists; true when it is new. For
    /// application services (application-service API, "Device management").
    pub async fn create_device(
        &self,
        user_id: &UserId,
        device_id: &str,
        display_name: Option<String>,
    ) -> Result<bool, LoginError> {
        let is_known = match &display_name {
            Some(name) => self.rename_device(user_id, device_id, Some(name.clone())).await?,
            None => self.find_device(user_id, device_id).await?.is_some(),
        };
        if is_known {
            return Ok(false);
        }
        let device_id = Some(device_id.to_owned());
        let device = DeviceRequest { device_id, display_name, ..DeviceRequest::default() };
        let device_id = self.choose_device_id(&device)?;
        let (user_id, now_ts) = (user_id.to_owned(), self.clock.now_ms());
        let devices_max = self.config.sessions.devices_max as i64;
        let watcher = self.device_watcher.get();
        self.writer
            .transact(move |tx| {
                Box::pin(async move {
                    let (user, name) = (user_id.as_str(), device.display_name.as_deref());
                    let device = (user, device_id.as_str());
                    let watcher = watcher.as_deref();
                    let is_new = insert_device(tx, watcher, device, name, now_ts).await?;
                    if is_new && devices::count(tx, user).await? > devices_max {
                        return Err(LoginError::TooManyDevices);
                    }
                    Ok(is_new)
                })
            })
            .await
    }

    /// Deletes devices with their sessions; those that are gone already do not matter.
    pub async fn delete_devices(
        &self,
        user_id: &UserId,
        device_ids: Vec<String>,
    ) -> Result<(), StorageError> {
        let (target, watcher) = (user_id.to_owned(), self.device_watcher.get());
        let (sessions, changes) = (self.sessions.clone(), self.changes.clone());
        let deleted: Result<(), StorageError> = self
            .writer
            .transact(move |tx| {
                Box::pin(async move {
                    let mut gone = Vec::new();
                    for device_id in &device_ids {
                        devices::delete(tx, target.as_str(), device_id).await?;
                        gone.extend(
                            tokens::delete_of_device(tx, target.as_str(), device_id).await?,
                        );
                    }
                    if let Some(watcher) = watcher {
                        watcher.devices_deleted(tx, &target, &device_ids).await?;
                    }
                    changes.forget_devices(tx, &target, &device_ids).await?;
                    sessions.forget_with(tx, gone);
                    Ok(())
                })
            })
            .await;
        deleted?;
        self.changes.wake(user_id);
        Ok(())
    }

    /// Logs a session out, and deletes its device (Client-Server API, `POST /logout`).
    pub async fn log_out(&self, session: &Session) -> Result<(), StorageError> {
        self.delete_devices(&session.user_id, vec![session.device_id.to_string()]).await
    }

    /// Logs a user out everywhere, and deletes all devices.
    pub async fn log_out_everywhere(&self, user_id: &UserId) -> Result<(), StorageError> {
        let (target, watcher) = (user_id.to_owned(), self.device_watcher.get());
        let (sessions, changes) = (self.sessions.clone(), self.changes.clone());
        let ended: Result<(), StorageError> = self
            .writer
            .transact(move |tx| {
                Box::pin(async move {
                    let parts = (&changes, watcher.as_deref());
                    let gone = end_devices(tx, &target, None, parts).await?;
                    sessions.forget_with(tx, gone);
                    Ok(())
                })
            })
            .await;
        ended?;
        self.changes.wake(user_id);
        Ok(())
    }

    /// Registers whoever keeps keys for devices; once, at start.
    pub fn set_device_watcher(&self, watcher: std::sync::Arc<dyn DeviceWatcher>) {
        if !self.device_watcher.set(watcher) {
            tracing::error!("a second watcher of devices was not registered");
        }
    }
}

impl TryFrom<StoredAccount> for Account {
    type Error = StorageError;

    fn try_from(stored: StoredAccount) -> Result<Self, StorageError> {
        let user_id = UserId::parse(&stored.user_id)
            .map_err(|_| StorageError::Damaged(format!("user ID {}", stored.user_id)))?;
        Ok(Self {
            user_id,
            flags: AccountFlags(stored.flags),
            has_password: stored.password_hash.is_some(),
            appservice_id: stored.appservice_id,
            created_ts: stored.created_ts.cast_unsigned(),
        })
    }
}

async fn load_active(
    tx: &mut WriteTransaction<'_>,
    user_id: &UserId,
) -> Result<AccountFlags, ManageError> {
    let account = accounts::find_in(tx, user_id.as_str()).await?.ok_or(ManageError::NotFound)?;
    let flags = AccountFlags(account.flags);
    if flags.is_deactivated() { Err(ManageError::Deactivated) } else { Ok(flags) }
}

/// Deletes all devices but `kept`, and all sessions but its; returns the sessions that ended.
async fn end_devices(
    tx: &mut WriteTransaction<'_>,
    user_id: &UserId,
    kept: Option<&str>,
    (changes, watcher): (&Changes, Option<&dyn DeviceWatcher>),
) -> Result<Vec<tokens::TokenHash>, StorageError> {
    let device_ids = devices::delete_of_user(tx, user_id.as_str(), kept).await?;
    let gone = tokens::delete_of_user(tx, user_id.as_str(), kept).await?;
    if let Some(watcher) = watcher {
        watcher.devices_deleted(tx, user_id, &device_ids).await?;
    }
    changes.forget_devices(tx, user_id, &device_ids).await?;
    Ok(gone)
}
