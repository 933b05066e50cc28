//! New accounts: what a name may be, who may register, and the one act that makes an account.
//! The first person registers with a one-time token and becomes administrator.

use std::sync::Arc;

use ruma::{OwnedUserId, UserId};
use subtle::ConstantTimeEq;

use super::{
    Accounts,
    flags::AccountFlags,
    interactive_auth::Stage,
    login::{DeviceRequest, LoginError, NewSession, TokenRow},
    manage::{DeviceWatcher, insert_device},
    profiles::Profile,
    sessions::Sessions,
    validation::{ProvenAddress, Purpose},
};
use crate::{
    config::RegistrationMode,
    storage::{
        StorageError, WriteTransaction,
        accounts::{self, StoredAccount, StoredRegistrationToken},
        profiles, third_party_ids, tokens,
    },
};

/// The length of a whole user ID (Appendices, "User Identifiers").
const USER_ID_BYTES_MAX: usize = 255;
/// Random characters of a name that the server makes up.
const MADE_UP_NAME_LENGTH: usize = 16;
/// Random characters of the first administrator's token: 142 bits, still possible to type.
const ADMIN_TOKEN_LENGTH: usize = 24;

/// An account to be made.
#[derive(Clone, Debug, Default)]
pub struct NewAccount {
    /// The wanted localpart; made up when `None`.
    pub name: Option<String>,
    pub password: Option<String>,
    pub flags: AccountFlags,
    /// The guest who becomes a user by it, keeping the name.
    pub guest: Option<OwnedUserId>,
    /// The application service that makes it.
    pub appservice_id: Option<String>,
    /// A token of the database or the configuration to be used for it.
    pub registration_token: Option<String>,
    /// The user's mail address, which was proven.
    pub address: Option<ProvenAddress>,
    /// Whether the documents of the configuration were accepted.
    pub has_accepted_terms: bool,
    /// The device to log in with; `None` when only the account is wanted.
    pub device: Option<DeviceRequest>,
}

/// What came of a registration.
#[derive(Clone, Debug)]
pub struct Registered {
    pub user_id: OwnedUserId,
    pub session: Option<NewSession>,
}

/// Knows which names application services keep for themselves; `app` registers it.
pub trait NameKeeper: Send + Sync {
    /// Whether a name is kept for an application service other than the one that asks.
    fn is_kept(&self, user_id: &UserId, asking: Option<&str>) -> bool;
}

/// Why no account was made.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error("a name consists of a-z, 0-9 and any of . _ = - / +")]
    InvalidName,
    #[error("a user ID has at most 255 bytes")]
    NameTooLong,
    #[error("this name is taken")]
    NameTaken,
    #[error("this name is kept for an application service")]
    Exclusive,
    #[error("a password has at least {0} characters")]
    WeakPassword(usize),
    #[error("the registration token is not valid any more")]
    InvalidToken,
    #[error("this mail address belongs to an account already")]
    AddressInUse,
    #[error("the proof of the mail address was used already")]
    ProofUsed,
    #[error("a device has an ID of 1 to 255 bytes and a name of at most 400")]
    InvalidDevice,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Everything that one registration writes.
struct Registration {
    account: StoredAccount,
    /// What others see of a new user.
    profile: Profile,
    /// Whether the account is there already, as a guest's.
    is_upgrade: bool,
    /// A token of the database to be used up by it.
    token: Option<String>,
    address: Option<ProvenAddress>,
    /// The documents that the user has accepted, with their versions.
    terms: Vec<(String, String)>,
    /// The device's ID and name, and the row of its token.
    device: Option<(String, Option<String>, TokenRow)>,
}

impl Accounts {
    /// The user ID that a wanted name becomes: letters in lower case, as clients may ask with
    /// capitals (Client-Server API, `POST /register`).
    pub fn parse_new_name(&self, name: &str) -> Result<OwnedUserId, RegisterError> {
        let localpart = name.to_ascii_lowercase();
        let is_allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._=-/+".contains(&byte)
        };
        if localpart.is_empty() || !localpart.bytes().all(is_allowed) {
            return Err(RegisterError::InvalidName);
        }
        if localpart.len() + self.server_name().as_str().len() + 2 > USER_ID_BYTES_MAX {
            return Err(RegisterError::NameTooLong);
        }
        UserId::parse_with_server_name(localpart, self.server_name())
            .map_err(|_| RegisterError::InvalidName)
    }

    /// The user ID of a wanted name that is free at this moment, for somebody or for the
    /// application service that asks.
    pub async fn check_name_is_free(
        &self,
        name: &str,
        appservice: Option<&str>,
    ) -> Result<OwnedUserId, RegisterError> {
        let user_id = self.parse_new_name(name)?;
        if self.name_keeper.get().is_some_and(|keeper| keeper.is_kept(&user_id, appservice)) {
            return Err(RegisterError::Exclusive);
        }
        match accounts::find(&self.database, user_id.as_str()).await? {
            None => Ok(user_id),
            Some(_) => Err(RegisterError::NameTaken),
        }
    }

    pub fn check_new_password(&self, password: &str) -> Result<(), RegisterError> {
        let length_min = self.config.users.password_length_min;
        match password.chars().count() < length_min {
            true => Err(RegisterError::WeakPassword(length_min)),
            false => Ok(()),
        }
    }

    /// The flows that lead to an account; `None` when nobody may register.
    pub async fn list_registration_flows(&self) -> Result<Option<Vec<Vec<Stage>>>, StorageError> {
        let by_token = Stage::RegistrationToken;
        let admitted = match self.config.registration.mode {
            RegistrationMode::Open => vec![Stage::Dummy, by_token],
            RegistrationMode::Token => vec![by_token],
            // The first administrator has to come in somehow.
            RegistrationMode::Closed if self.find_admin_token().await?.is_some() => vec![by_token],
            RegistrationMode::Closed => return Ok(None),
        };
        // No flow is the beginning of another one, or the longer could never be completed.
        let terms = (!self.config.registration.terms.is_empty()).then_some(Stage::Terms);
        let email = Stage::Email(Purpose::Register);
        let mut flows = Vec::new();
        for admission in admitted {
            let flow = |email: Option<Stage>| {
                terms.into_iter().chain(email).chain([admission]).collect::<Vec<_>>()
            };
            if !self.config.registration.require_email {
                flows.push(flow(None));
            }
            if self.mailer.is_configured() {
                flows.push(flow(Some(email)));
            }
        }
        Ok(Some(flows))
    }

    /// Whether somebody could register with this token now.
    pub async fn is_registration_token_valid(&self, token: &str) -> Result<bool, StorageError> {
        if self.is_configured_token(token) {
            return Ok(true);
        }
        if token.contains('\0') {
            return Ok(false);
        }
        let now_ts = self.clock.now_ms() as i64;
        let stored = accounts::find_registration_token(&self.database, token).await?;
        Ok(stored.is_some_and(|token| {
            token.uses_allowed.is_none_or(|allowed| token.uses < allowed)
                && token.expires_ts.is_none_or(|expires_ts| expires_ts > now_ts)
        }))
    }

    /// The one-time token with which the first person registers and becomes administrator, for
    /// the greeting; `None` once it was used.
    pub async fn find_admin_token(&self) -> Result<Option<String>, StorageError> {
        Ok(accounts::find_admin_token(&self.database).await?.map(|stored| stored.token))
    }

    /// Closes the first administrator's way in, once somebody came in by another one.
    pub async fn use_up_admin_token(&self) -> Result<(), RegisterError> {
        if let Some(token) = self.find_admin_token().await? {
            self.use_token(&token).await?;
        }
        Ok(())
    }

    /// Makes a registration token; `token` is made up when `None`. For administrators. False when
    /// the token exists.
    pub async fn create_registration_token(
        &self,
        token: StoredRegistrationToken,
    ) -> Result<bool, StorageError> {
        self.writer
            .transact(move |tx| {
                Box::pin(async move { accounts::insert_registration_token(tx, &token).await })
            })
            .await
    }

    /// Makes an account, and a session when a device is given, all in one commit. Of two
    /// registrations of one name at the same time, one gets [`RegisterError::NameTaken`].
    pub async fn register(&self, account: NewAccount) -> Result<Registered, RegisterError> {
        let user_id = match (&account.name, &account.guest) {
            (_, Some(guest)) => guest.clone(),
            (Some(name), None) => {
                self.check_name_is_free(name, account.appservice_id.as_deref()).await?
            }
            (None, None) => {
                let name = self.clock.random_text(MADE_UP_NAME_LENGTH).to_lowercase();
                self.parse_new_name(&name)?
            }
        };
        let password_hash = match account.password.clone() {
            Some(password) => {
                self.check_new_password(&password)?;
                Some(self.passwords.hash(password).await)
            }
            None => None,
        };
        let mut registration = Registration {
            account: StoredAccount {
                user_id: user_id.to_string(),
                password_hash,
                flags: account.flags.0,
                appservice_id: account.appservice_id,
                created_ts: self.clock.now_ms() as i64,
            },
            profile: first_profile(&user_id),
            is_upgrade: account.guest.is_some(),
            token: account.registration_token.filter(|token| !self.is_configured_token(token)),
            address: account.address,
            terms: self.list_accepted_terms(account.has_accepted_terms),
            device: None,
        };
        let mut session = None;
        if let Some(device) = account.device {
            let device_id = self.choose_device_id(&device)?;
            let fresh = self.make_tokens(device.can_refresh);
            let row = fresh.rows(self.clock.now_ms());
            registration.device = Some((device_id.clone(), device.display_name, row));
            session = Some(fresh.into_session(user_id.clone(), device_id));
        }
        let (sessions, upgraded) = (self.sessions.clone(), user_id.clone());
        let (arrivals, watcher) = (self.arrival_hook.clone(), self.device_watcher.get());
        let epoch = self.profile_cache.epoch();
        let profile = (!registration.is_upgrade).then(|| registration.profile.clone());
        let written: Result<(), RegisterError> = self
            .writer
            .transact(move |tx| {
                Box::pin(async move {
                    let is_upgrade = registration.is_upgrade;
                    registration.write(tx, (&sessions, watcher.as_deref())).await?;
                    if is_upgrade {
                        sessions.reload_with(tx, &upgraded);
                    } else if let Some(told) = arrivals.get() {
                        tx.after_commit(move || told(&upgraded));
                    }
                    Ok(())
                })
            })
            .await;
        written?;
        if let Some(profile) = profile {
            self.profile_cache.insert(&user_id, Arc::new(profile), epoch);
        }
        Ok(Registered { user_id, session })
    }

    /// Registers who knows which names are kept for others; once, at start.
    pub fn set_name_keeper(&self, keeper: Arc<dyn NameKeeper>) {
        if !self.name_keeper.set(keeper) {
            tracing::error!("a second keeper of names was not registered");
        }
    }

    /// Makes the token for the first administrator when there is no account yet.
    pub(super) async fn ensure_admin_token(&self) -> Result<(), StorageError> {
        if accounts::exists_any(&self.database).await? || self.find_admin_token().await?.is_some() {
            return Ok(());
        }
        let token = StoredRegistrationToken {
            token: self.clock.random_text(ADMIN_TOKEN_LENGTH),
            uses_allowed: Some(1),
            uses: 0,
            expires_ts: None,
            makes_admin: true,
        };
        self.create_registration_token(token).await.map(drop)
    }

    /// Uses a token once; whether it makes an administrator.
    async fn use_token(&self, token: &str) -> Result<bool, RegisterError> {
        if self.is_configured_token(token) {
            return Ok(false);
        }
        let (token, now_ts) = (token.to_owned(), self.clock.now_ms());
        self.writer
            .transact(move |tx: &mut WriteTransaction<'_>| {
                Box::pin(async move {
                    let used = accounts::use_registration_token(tx, &token, now_ts).await?;
                    used.ok_or(RegisterError::InvalidToken)
                })
            })
            .await
    }

    fn list_accepted_terms(&self, has_accepted: bool) -> Vec<(String, String)> {
        let terms = self.config.registration.terms.iter().filter(|_| has_accepted);
        terms.map(|terms| (terms.id.clone(), terms.version.clone())).collect()
    }

    fn is_configured_token(&self, token: &str) -> bool {
        let configured = &self.config.registration.tokens;
        configured.iter().any(|known| known.expose().as_bytes().ct_eq(token.as_bytes()).into())
    }
}

/// Other people see the name as it is written until the user chooses another one.
fn first_profile(user_id: &UserId) -> Profile {
    Profile([("displayname".to_owned(), user_id.localpart().into())].into())
}

impl From<LoginError> for RegisterError {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Storage(error) => Self::Storage(error),
            _ => Self::InvalidDevice,
        }
    }
}

impl Registration {
    async fn write(
        mut self,
        tx: &mut WriteTransaction<'_>,
        (sessions, watcher): (&Arc<Sessions>, Option<&dyn DeviceWatcher>),
    ) -> Result<(), RegisterError> {
        let user_id = self.account.user_id.clone();
        let existing = accounts::find_in(tx, &user_id).await?;
        if let Some(token) = &self.token {
            let now_ts = self.account.created_ts.cast_unsigned();
            let used = accounts::use_registration_token(tx, token, now_ts).await?;
            let makes_admin = used.ok_or(RegisterError::InvalidToken)?;
            let flags = AccountFlags(self.account.flags);
            self.account.flags = flags.with(AccountFlags::ADMIN, makes_admin).0;
        }
        match (existing, self.is_upgrade) {
            (None, false) => {
                accounts::insert(tx, &self.account).await?;
                for (field, value) in self.profile.0 {
                    profiles::set_field(tx, &user_id, &field, &value.to_string()).await?;
                }
            }
            (Some(guest), true) if AccountFlags(guest.flags) == AccountFlags::GUEST => {
                let hash = self.account.password_hash.as_deref();
                accounts::set_password(tx, &user_id, hash).await?;
                accounts::set_flags(tx, &user_id, self.account.flags).await?;
            }
            _ => return Err(RegisterError::NameTaken),
        }
        let now_ts = self.account.created_ts;
        for (policy, version) in &self.terms {
            third_party_ids::insert_accepted_terms(tx, &user_id, (policy, version), now_ts).await?;
        }
        if let Some(address) = self.address {
            add_address(tx, &user_id, address, now_ts).await?;
        }
        if let Some((device_id, name, row)) = &self.device {
            let created_ts = self.account.created_ts.cast_unsigned();
            let name = name.as_deref();
            insert_device(tx, watcher, (&user_id, device_id), name, created_ts).await?;
            tokens::insert(tx, &row.for_device(&user_id, device_id)).await?;
            if let Ok(owner) = UserId::parse(&user_id) {
                let flags = AccountFlags(self.account.flags);
                sessions.remember_with(tx, row.session(owner, device_id, flags));
            }
        }
        Ok(())
    }
}

async fn add_address(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    address: ProvenAddress,
    now_ts: i64,
) -> Result<(), RegisterError> {
    if !third_party_ids::take_validation(tx, &address.sid).await? {
        return Err(RegisterError::ProofUsed);
    }
    let id = address.into_id(user_id, now_ts.cast_unsigned());
    match third_party_ids::insert(tx, &id).await? {
        true => Ok(()),
        false => Err(RegisterError::AddressInUse),
    }
}
