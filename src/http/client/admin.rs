//! `/admin` (Client-Server API, "Server Administration"): who is where, locking and suspending; and
//! `/_synapse/admin/v1/register`, with which scripts make accounts by a shared secret.

use std::time::Duration;

use axum::extract::State;
use quick_cache::sync::Cache;
use ring::hmac;
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::register::SessionAnswer;
use crate::{
    accounts::{flags::AccountFlags, login::DeviceRequest, manage::Account, register::NewAccount},
    clock::Clock,
    http::{
        App, AppState,
        auth::{AdminSession, ClientAddress, UserSession},
        error::{MatrixError, MatrixResult},
        json::{Json, JsonBody, Path},
        rate_limit::Action,
    },
};

/// Nonces of `/_synapse/admin/v1/register` in memory, and how long they are valid.
const NONCES_MAX: usize = 1_000;
const NONCE_LIFETIME: Duration = Duration::from_secs(60);
const NONCE_LENGTH: usize = 32;

/// The nonces that were handed out, with the time at which they end.
pub struct RegistrationNonces(Cache<String, u64>);

#[derive(Debug, Deserialize)]
pub struct SuspendRequest {
    suspended: bool,
}

#[derive(Debug, Deserialize)]
pub struct LockRequest {
    locked: bool,
}

#[derive(Debug, Deserialize)]
pub struct SharedSecretRequest {
    nonce: String,
    username: String,
    displayname: Option<String>,
    password: String,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
    /// Hexadecimal digits of the HMAC-SHA1.
    mac: String,
    #[serde(default)]
    inhibit_login: bool,
}

/// `GET /admin/whois/{userId}`: for administrators, and for users about themselves.
pub async fn whois(
    State(app): State<AppState>,
    session: UserSession,
    Path(user_id): Path<OwnedUserId>,
) -> MatrixResult<Json<Value>> {
    if !session.is_admin && session.user_id != user_id {
        return Err(MatrixError::forbidden("Only administrators ask about others."));
    }
    let devices = app.accounts.list_devices(&user_id).await?;
    let connections: Vec<_> = devices
        .iter()
        .filter(|device| device.seen_ts.is_some())
        .map(|device| json!({ "ip": device.ip, "last_seen": device.seen_ts }))
        .collect();
    Ok(Json(json!({
        "user_id": user_id,
        "devices": { "": { "sessions": [{ "connections": connections }] } },
    })))
}

/// `GET /v1/admin/suspend/{userId}`.
pub async fn get_suspended(
    State(app): State<AppState>,
    session: AdminSession,
    Path(user_id): Path<OwnedUserId>,
) -> MatrixResult<Json<Value>> {
    let account = load_target(&app, &session, &user_id).await?;
    Ok(Json(json!({ "suspended": account.flags.is_suspended() })))
}

/// `PUT /v1/admin/suspend/{userId}`.
pub async fn set_suspended(
    State(app): State<AppState>,
    session: AdminSession,
    Path(user_id): Path<OwnedUserId>,
    JsonBody(SuspendRequest { suspended }): JsonBody<SuspendRequest>,
) -> MatrixResult<Json<Value>> {
    set_flag(&app, &session, &user_id, AccountFlags::SUSPENDED, suspended).await?;
    Ok(Json(json!({ "suspended": suspended })))
}

/// `GET /v1/admin/lock/{userId}`.
pub async fn get_locked(
    State(app): State<AppState>,
    session: AdminSession,
    Path(user_id): Path<OwnedUserId>,
) -> MatrixResult<Json<Value>> {
    let account = load_target(&app, &session, &user_id).await?;
    Ok(Json(json!({ "locked": account.flags.is_locked() })))
}

/// `PUT /v1/admin/lock/{userId}`.
pub async fn set_locked(
    State(app): State<AppState>,
    session: AdminSession,
    Path(user_id): Path<OwnedUserId>,
    JsonBody(LockRequest { locked }): JsonBody<LockRequest>,
) -> MatrixResult<Json<Value>> {
    set_flag(&app, &session, &user_id, AccountFlags::LOCKED, locked).await?;
    Ok(Json(json!({ "locked": locked })))
}

/// `GET /_synapse/admin/v1/register`: a nonce.
pub async fn get_nonce(State(app): State<AppState>) -> MatrixResult<Json<Value>> {
    shared_secret(&app)?;
    Ok(Json(json!({ "nonce": app.registration_nonces.create(&app.clock) })))
}

/// `POST /_synapse/admin/v1/register`: an account for whoever knows the shared secret.
pub async fn register(
    State(app): State<AppState>,
    address: ClientAddress,
    JsonBody(request): JsonBody<SharedSecretRequest>,
) -> MatrixResult<Json<SessionAnswer>> {
    let secret = shared_secret(&app)?;
    app.rate_limits.take_of_address(Action::Registration, address.0, app.clock.now_ms())?;
    if !app.registration_nonces.take(&request.nonce, app.clock.now_ms()) {
        return Err(MatrixError::bad_request("The nonce is unknown; ask for a new one."));
    }
    if !is_mac_valid(secret, &request) {
        return Err(MatrixError::forbidden("The MAC is wrong."));
    }
    let flags = AccountFlags::default().with(AccountFlags::ADMIN, request.admin);
    let account = NewAccount {
        name: Some(request.username),
        password: Some(request.password),
        flags,
        device: (!request.inhibit_login).then(DeviceRequest::default),
        ..NewAccount::default()
    };
    let registered = app.accounts.register(account).await?;
    if let Some(name) = request.displayname {
        let user_id = &registered.user_id;
        app.accounts.set_profile_field(user_id, "displayname", name.into()).await?;
    }
    Ok(Json(SessionAnswer::of(registered)))
}

impl RegistrationNonces {
    pub fn new() -> Self {
        Self(Cache::new(NONCES_MAX))
    }

    fn create(&self, clock: &Clock) -> String {
        let nonce = clock.random_text(NONCE_LENGTH);
        let expires_ts = clock.now_ms() + NONCE_LIFETIME.as_millis() as u64;
        self.0.insert(nonce.clone(), expires_ts);
        nonce
    }

    fn take(&self, nonce: &str, now_ts: u64) -> bool {
        self.0.remove(nonce).is_some_and(|(_, expires_ts)| expires_ts > now_ts)
    }
}

impl Default for RegistrationNonces {
    fn default() -> Self {
        Self::new()
    }
}

/// Without a shared secret the endpoint does not exist.
fn shared_secret(app: &App) -> MatrixResult<&str> {
    let secret = app.config.registration.shared_secret.as_ref();
    let missing = || MatrixError::unrecognized("This server has no such endpoint.");
    secret.map(|secret| secret.expose()).ok_or_else(missing)
}

/// The parts are joined by NUL: nonce, name, password, `admin` or `notadmin`, and the type of the
/// user when there is one.
fn is_mac_valid(secret: &str, request: &SharedSecretRequest) -> bool {
    let admin = if request.admin { "admin" } else { "notadmin" };
    let mut parts = vec![&*request.nonce, &*request.username, &*request.password, admin];
    parts.extend(request.user_type.as_deref());
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    let digits = request.mac.as_bytes().chunks(2);
    let mac: Option<Vec<u8>> =
        digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    mac.is_some_and(|mac| hmac::verify(&key, parts.join("\0").as_bytes(), &mac).is_ok())
}

async fn load_target(app: &App, session: &AdminSession, user_id: &UserId) -> MatrixResult<Account> {
    if user_id.server_name() != app.accounts.server_name() {
        return Err(MatrixError::invalid_param("This is a user of another server."));
    }
    let account = app.accounts.find_account(user_id).await?;
    match account.filter(|account| !account.flags.is_deactivated()) {
        None => Err(MatrixError::not_found("There is no such user.")),
        Some(account) if account.flags.is_admin() && session.user_id != user_id => {
            Err(MatrixError::forbidden("This user is an administrator as well."))
        }
        Some(account) => Ok(account),
    }
}

async fn set_flag(
    app: &App,
    session: &AdminSession,
    user_id: &UserId,
    flag: AccountFlags,
    on: bool,
) -> MatrixResult<()> {
    load_target(app, session, user_id).await?;
    if session.user_id == user_id {
        return Err(MatrixError::forbidden("You cannot do this to your own account."));
    }
    Ok(app.accounts.set_flag(user_id, flag, on).await?)
}
