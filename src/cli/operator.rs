//! What the commands that make and change things ask for, done with the components of a server: of the one that runs, through its
//! socket in the data directory, or of one built for the occasion when none runs.

use std::{path::PathBuf, sync::Arc, time::Duration};

use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{
    CommandError,
    appservice::{AppserviceRequest, ListedAppservice},
    room::{RoomLines, RoomRequest},
};
use crate::{
    accounts::{
        flags::AccountFlags,
        manage::{Account, ManageError},
        register::{NewAccount, RegisterError},
        registration_tokens::{CreateTokenError, RegistrationToken},
    },
    app::{App, AppState, StartError},
    clock::Clock,
    config::Config,
    federation::MakeKeyError,
    media::evict::EvictError,
    server::ask_operator_socket,
    storage::StorageError,
};

/// The socket in the data directory.
const SOCKET_FILE: &str = "operator.sock";
/// Accounts in one answer.
const PAGE_ACCOUNTS_MAX: u32 = 500;

/// A question. It has no `Debug`, since it may carry a password.
#[derive(Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum Request {
    Create {
        name: String,
        password: String,
        admin: bool,
    },
    ResetPassword {
        name: String,
        password: String,
        keep_sessions: bool,
    },
    /// The accounts behind this one, in the order of their names.
    List {
        after: String,
    },
    Deactivate {
        name: String,
        erase: bool,
    },
    SetAdmin {
        name: String,
        admin: bool,
    },
    CreateToken {
        /// One is made up when `None`.
        token: Option<String>,
        /// Any number when `None`.
        uses_allowed: Option<u32>,
        /// Milliseconds since the Unix epoch; never when `None`.
        expires_ts: Option<u64>,
    },
    ListTokens,
    RevokeToken {
        token: String,
    },
    ListDestinations,
    /// Tries this server again, or all that fail when `None`.
    RetryDestinations {
        server: Option<String>,
    },
    /// Signs with a new key.
    RotateKey,
    /// Deletes media of other servers that nobody has looked at for this long.
    EvictMedia {
        unused_seconds: u64,
    },
    Appservice {
        request: AppserviceRequest,
    },
    Room {
        request: RoomRequest,
    },
    /// Tells these people a text.
    Notify {
        names: Vec<String>,
        text: String,
    },
    /// The database was restored from a backup.
    AfterRestore,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// The user it concerned.
    Done(OwnedUserId),
    Accounts(Vec<ListedAccount>),
    /// The registration tokens it concerned.
    Tokens(Vec<ListedToken>),
    /// Servers that something waits for.
    Destinations(Vec<ListedDestination>),
    Appservices(Vec<ListedAppservice>),
    Room(RoomLines),
    /// How many were told something, and why others were not.
    Told {
        told: usize,
        failed: Vec<String>,
    },
    /// A sentence that says what was done.
    Text(String),
    /// A sentence that says why not.
    Refused(String),
}

/// An account as `hearth user list` shows it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ListedAccount {
    pub user_id: OwnedUserId,
    pub admin: bool,
    pub guest: bool,
    /// It belongs to a bridge or bot, or to the server itself.
    pub automatic: bool,
    pub locked: bool,
    pub suspended: bool,
    pub deactivated: bool,
}

/// A token as `hearth registration-token list` shows it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ListedToken {
    pub token: String,
    pub uses: u64,
    pub uses_allowed: Option<u64>,
    pub expires_ts: Option<u64>,
    pub makes_admin: bool,
}

/// A server as `hearth federation destinations` shows it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ListedDestination {
    pub server_name: String,
    pub waiting_events: usize,
    pub failures: i64,
    pub retry_in_seconds: u64,
    pub last_error: String,
}

/// Why a question found no good answer.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0} is no user of this server")]
    NotOurs(String),
    #[error("this server knows no such room")]
    UnknownRoom,
    #[error("there is no such token")]
    UnknownToken,
    #[error(transparent)]
    Token(#[from] CreateTokenError),
    #[error(transparent)]
    RotateKey(#[from] MakeKeyError),
    #[error(transparent)]
    EvictMedia(#[from] EvictError),
    #[error("{0}")]
    Appservice(String),
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error(transparent)]
    Manage(#[from] ManageError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Where a server with this configuration waits for questions.
pub(super) fn socket_path(config: &Config) -> PathBuf {
    config.server.data_dir.join(SOCKET_FILE)
}

/// Has a request done, whether a server runs or not.
pub(super) async fn ask(config: &Config, request: Request) -> Result<Outcome, CommandError> {
    let line =
        serde_json::to_string(&request).expect("a request holds nothing but texts and flags");
    if let Some(answer) = ask_operator_socket(&socket_path(config), &line).await? {
        return serde_json::from_str(&answer).map_err(|_| CommandError::OtherVersion);
    }
    let app =
        App::build_silent(config.clone(), Clock::real()).await.map_err(|error| match error {
            StartError::DataDirInUse { .. } => CommandError::Unreachable(socket_path(config)),
            error => error.into(),
        })?;
    let outcome = perform(&app, request).await;
    app.stop().await;
    Ok(outcome)
}

/// Answers a line that came through the socket. What changes something is done one after the other; looking
/// at rooms, which may take long, is not in its way.
pub(super) async fn answer_line(app: AppState, changing: Arc<Mutex<()>>, line: String) -> String {
    let outcome = match serde_json::from_str(&line) {
        Ok(request @ Request::Room { .. }) => perform(&app, request).await,
        Ok(request) => {
            let _alone = changing.lock().await;
            perform(&app, request).await
        }
        Err(_) => Outcome::Refused("the running server is another version of Hearth".to_owned()),
    };
    serde_json::to_string(&outcome).expect("an outcome holds nothing but texts and flags")
}

async fn perform(app: &AppState, request: Request) -> Outcome {
    let accounts = &app.accounts;
    let result: Result<Outcome, Refusal> = async {
        Ok(Outcome::Done(match request {
            Request::List { after } => return list_accounts(app, &after).await,
            Request::ListDestinations => return list_destinations(app).await,
            Request::RetryDestinations { server } => {
                return retry_destinations(app, server).await;
            }
            Request::RotateKey => return rotate_key(app).await,
            Request::EvictMedia { unused_seconds } => {
                return evict_media(app, unused_seconds).await;
            }
            Request::Notify { names, text } => return notify(app, &names, &text).await,
            Request::CreateToken { token, uses_allowed, expires_ts } => {
                return create_token(app, token, uses_allowed, expires_ts).await;
            }
            Request::ListTokens => {
                let tokens = accounts.list_registration_tokens().await?;
                return Ok(Outcome::Tokens(tokens.into_iter().map(ListedToken::from).collect()));
            }
            Request::RevokeToken { token } => {
                let revoked = accounts.revoke_registration_token(&token).await?;
                return Ok(Outcome::Tokens(vec![revoked.ok_or(Refusal::UnknownToken)?.into()]));
            }
            Request::Appservice { request } => {
                let answered = super::appservice::answer(app, request).await;
                return answered.map_err(Refusal::Appservice);
            }
            Request::AfterRestore => return Ok(forget_handed_out(app).await?),
            Request::Room { request } => {
                let answer = super::room::answer(&app.rooms, request).await?;
                return answer.map(Outcome::Room).ok_or(Refusal::UnknownRoom);
            }
            Request::Create { name, password, admin } => {
                let flags = AccountFlags::default().with(AccountFlags::ADMIN, admin);
                let name = Some(localpart_of(app, &name)?);
                let account =
                    NewAccount { name, password: Some(password), flags, ..NewAccount::default() };
                let user_id = accounts.register(account).await?.user_id;
                if admin {
                    accounts.use_up_admin_token().await?;
                }
                user_id
            }
            Request::ResetPassword { name, password, keep_sessions } => {
                let user_id = find_user_id(app, &name)?;
                accounts.set_password(&user_id, password, !keep_sessions, None).await?;
                user_id
            }
            Request::Deactivate { name, erase } => {
                let user_id = find_user_id(app, &name)?;
                accounts.deactivate(&user_id, erase).await?;
                user_id
            }
            Request::SetAdmin { name, admin } => {
                let user_id = find_user_id(app, &name)?;
                accounts.set_flag(&user_id, AccountFlags::ADMIN, admin).await?;
                if admin {
                    accounts.use_up_admin_token().await?;
                }
                user_id
            }
        }))
    }
    .await;
    result.unwrap_or_else(|refusal| Outcome::Refused(refusal.to_string()))
}

async fn create_token(
    app: &App,
    token: Option<String>,
    uses_allowed: Option<u32>,
    expires_ts: Option<u64>,
) -> Result<Outcome, Refusal> {
    let (uses_allowed, expires_ts) =
        (uses_allowed.map(i64::from), expires_ts.map(u64::cast_signed));
    let token = app.accounts.make_registration_token(token, uses_allowed, expires_ts).await?;
    Ok(Outcome::Tokens(vec![token.into()]))
}

/// Tells people a text; one who cannot be told stops nobody else's.
async fn notify(app: &App, names: &[String], text: &str) -> Result<Outcome, Refusal> {
    let mut failed = Vec::new();
    for name in names {
        let user_id = find_user_id(app, name)?;
        if let Err(error) = app.notices.tell(&user_id, text).await {
            failed.push(format!("{user_id}: {error}"));
        }
    }
    Ok(Outcome::Told { told: names.len() - failed.len(), failed })
}

async fn forget_handed_out(app: &App) -> Result<Outcome, StorageError> {
    app.encryption.discard_all_one_time_keys().await?;
    let text = "All one-time keys are discarded; devices upload new ones by themselves.";
    Ok(Outcome::Text(text.to_owned()))
}

async fn list_accounts(app: &App, after: &str) -> Result<Outcome, Refusal> {
    let page = app.accounts.list_accounts(after, PAGE_ACCOUNTS_MAX).await?;
    Ok(Outcome::Accounts(page.into_iter().map(ListedAccount::from).collect()))
}

async fn retry_destinations(app: &App, server: Option<String>) -> Result<Outcome, Refusal> {
    app.federation.outbox().retry(server.as_deref()).await?;
    list_destinations(app).await
}

async fn list_destinations(app: &App) -> Result<Outcome, Refusal> {
    let now_ms = app.clock.now_ms();
    let listed = app.federation.outbox().list_destinations().await?;
    let listed = listed.into_iter().map(|(row, waiting)| ListedDestination {
        server_name: row.server_name,
        waiting_events: waiting,
        failures: row.failures,
        retry_in_seconds: row.retry_ts.cast_unsigned().saturating_sub(now_ms) / 1000,
        last_error: row.last_error,
    });
    Ok(Outcome::Destinations(listed.collect()))
}

async fn rotate_key(app: &App) -> Result<Outcome, Refusal> {
    let (new, before) = app.federation.rotate_key(&app.config.signing_key_path()).await?;
    Ok(Outcome::Text(format!(
        "This server signs with the key {new} from now on. What {before} has signed stays valid. Make a copy of {}.",
        app.config.signing_key_path().display()
    )))
}

async fn evict_media(app: &App, unused_seconds: u64) -> Result<Outcome, Refusal> {
    let evicted = app.media.evict_remote(Duration::from_secs(unused_seconds)).await?;
    let (files, mebibytes) = (evicted.files, evicted.bytes >> 20);
    let text = format!("{files} files of other servers were deleted, {mebibytes} MiB.");
    Ok(Outcome::Text(text))
}

/// People write `alice` or `@alice:example.org`.
fn localpart_of(app: &App, name: &str) -> Result<String, Refusal> {
    if !name.starts_with('@') {
        return Ok(name.to_owned());
    }
    let ours = |user_id: &&UserId| user_id.server_name() == app.accounts.server_name();
    let user_id = <&UserId>::try_from(name).ok().filter(ours);
    user_id
        .map(|user_id| user_id.localpart().to_owned())
        .ok_or_else(|| Refusal::NotOurs(name.to_owned()))
}

fn find_user_id(app: &App, name: &str) -> Result<OwnedUserId, Refusal> {
    UserId::parse_with_server_name(localpart_of(app, name)?, app.accounts.server_name())
        .map_err(|_| Refusal::NotOurs(name.to_owned()))
}

impl From<Account> for ListedAccount {
    fn from(account: Account) -> Self {
        let flags = account.flags;
        Self {
            user_id: account.user_id,
            admin: flags.is_admin(),
            guest: flags.is_guest(),
            automatic: account.appservice_id.is_some(),
            locked: flags.is_locked(),
            suspended: flags.is_suspended(),
            deactivated: flags.is_deactivated(),
        }
    }
}

impl From<RegistrationToken> for ListedToken {
    fn from(token: RegistrationToken) -> Self {
        Self {
            token: token.token,
            uses: token.uses.cast_unsigned(),
            uses_allowed: token.uses_allowed.map(i64::cast_unsigned),
            expires_ts: token.expires_ts.map(i64::cast_unsigned),
            makes_admin: token.makes_admin,
        }
    }
}
