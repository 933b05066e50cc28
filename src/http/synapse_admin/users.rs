//! `/_synapse/admin/…/users`: listing, making, changing and closing accounts.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use ruma::UserId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{limit_of, load_account, page_json, parse_local, pattern_of, place_text};
use crate::{
    accounts::{flags::AccountFlags, login::DeviceRequest, manage::Account, register::NewAccount},
    http::{
        App, AppState,
        auth::AdminSession,
        client::third_party_ids::describe_all,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, OptionalJsonBody, Path, Query},
    },
    storage::administration::{self, AccountFilter},
};

/// The query of the list.
#[derive(Debug, Deserialize)]
pub struct ListQuery {
    #[serde(default)]
    from: usize,
    limit: Option<usize>,
    name: Option<String>,
    user_id: Option<String>,
    guests: Option<bool>,
    admins: Option<bool>,
    deactivated: Option<bool>,
    #[serde(default)]
    locked: bool,
    suspended: Option<bool>,
    dir: Option<String>,
}

/// What an account shall be. What is missing stays as it is.
#[derive(Debug, Deserialize)]
pub struct UserBody {
    password: Option<String>,
    logout_devices: Option<bool>,
    displayname: Option<String>,
    avatar_url: Option<String>,
    admin: Option<bool>,
    deactivated: Option<bool>,
    #[serde(default)]
    erase: bool,
    locked: Option<bool>,
    suspended: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct DeactivateBody {
    erase: bool,
}

#[derive(Debug, Deserialize)]
pub struct PasswordBody {
    new_password: String,
    logout_devices: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub struct AdminBody {
    admin: bool,
}

#[derive(Debug, Deserialize)]
pub struct SuspendBody {
    suspend: bool,
}

#[derive(Debug, Deserialize)]
pub struct DevicesBody {
    devices: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LogInBody {
    valid_until_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub struct NameQuery {
    username: String,
}

/// `GET /_synapse/admin/v2/users`.
pub async fn list(
    State(app): State<AppState>,
    _: AdminSession,
    Query(query): Query<ListQuery>,
) -> MatrixResult<Json<Value>> {
    // Without a word on them, the deactivated ones are left out.
    let deactivated = (query.deactivated != Some(true)).then_some(false);
    list_accounts(&app, query, deactivated).await
}

/// `GET /_synapse/admin/v3/users`: `deactivated` says which of the two there shall be, if it says anything.
pub async fn list_v3(
    State(app): State<AppState>,
    _: AdminSession,
    Query(query): Query<ListQuery>,
) -> MatrixResult<Json<Value>> {
    let deactivated = query.deactivated;
    list_accounts(&app, query, deactivated).await
}

async fn list_accounts(
    app: &App,
    query: ListQuery,
    deactivated: Option<bool>,
) -> MatrixResult<Json<Value>> {
    let mut filter = AccountFilter {
        pattern: pattern_of(query.user_id.as_deref().or(query.name.as_deref())),
        with_flags: 0,
        without_flags: 0,
        from: query.from,
        limit: limit_of(query.limit),
        backwards: query.dir.as_deref() == Some("b"),
    };
    filter.want(AccountFlags::GUEST, query.guests.filter(|guests| !guests));
    filter.want(AccountFlags::ADMIN, query.admins);
    filter.want(AccountFlags::DEACTIVATED, deactivated);
    filter.want(AccountFlags::LOCKED, (!query.locked).then_some(false));
    filter.want(AccountFlags::SUSPENDED, query.suspended);
    let rows = administration::list_accounts(&app.database, &filter).await?;
    let total = rows.first().map_or(0, |(_, total)| *total);
    let mut users = Vec::with_capacity(rows.len());
    for (user_id, _) in &rows {
        users.push(user_json(app, &load_account(app, user_id).await?).await?);
    }
    Ok(Json(page_json("users", users, (query.from, total as usize), place_text)))
}

/// `GET /_synapse/admin/v2/users/{userId}`.
pub async fn get(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let account = load_account(&app, &user_id).await?;
    Ok(Json(details_json(&app, &account).await?))
}

/// `PUT /_synapse/admin/v2/users/{userId}`: 201 for a new account.
pub async fn put(
    State(app): State<AppState>,
    session: AdminSession,
    Path(user_id): Path<String>,
    JsonBody(body): JsonBody<UserBody>,
) -> MatrixResult<Response> {
    let user_id = parse_local(&app, &user_id)?;
    let known = app.accounts.find_account(&user_id).await?;
    let is_new = known.is_none();
    if is_new {
        let account = NewAccount {
            name: Some(user_id.localpart().to_owned()),
            password: body.password.clone(),
            flags: AccountFlags::default().with(AccountFlags::ADMIN, body.admin == Some(true)),
            ..NewAccount::default()
        };
        app.accounts.register(account).await?;
    }
    change(&app, &session, &user_id, body, is_new).await?;
    let account = load_account(&app, user_id.as_str()).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(details_json(&app, &account).await?)).into_response())
}

/// `POST /_synapse/admin/v1/deactivate/{userId}`.
pub async fn deactivate(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
    OptionalJsonBody(body): OptionalJsonBody<DeactivateBody>,
) -> MatrixResult<Json<Value>> {
    let account = load_account(&app, &user_id).await?;
    if !account.flags.is_deactivated() {
        app.accounts.deactivate(&account.user_id, body.erase).await?;
    }
    Ok(Json(json!({ "id_server_unbind_result": "success" })))
}

/// `POST /_synapse/admin/v1/reset_password/{userId}`.
pub async fn reset_password(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
    JsonBody(body): JsonBody<PasswordBody>,
) -> MatrixResult<Json<Empty>> {
    let account = load_account(&app, &user_id).await?;
    let logout = body.logout_devices.unwrap_or(true);
    app.accounts.set_password(&account.user_id, body.new_password, logout, None).await?;
    Ok(Json(Empty {}))
}

/// `GET /_synapse/admin/v1/users/{userId}/admin`.
pub async fn get_admin(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let account = load_account(&app, &user_id).await?;
    Ok(Json(json!({ "admin": account.flags.is_admin() })))
}

/// `PUT /_synapse/admin/v1/users/{userId}/admin`.
pub async fn set_admin(
    State(app): State<AppState>,
    session: AdminSession,
    Path(user_id): Path<String>,
    JsonBody(AdminBody { admin }): JsonBody<AdminBody>,
) -> MatrixResult<Json<Empty>> {
    let user_id = load_account(&app, &user_id).await?.user_id;
    set_own_flag(&app, &session, &user_id, (AccountFlags::ADMIN, admin)).await?;
    Ok(Json(Empty {}))
}

/// `POST /_synapse/admin/v1/users/{userId}/shadow_ban`.
pub async fn shadow_ban(
    State(app): State<AppState>,
    session: AdminSession,
    Path(user_id): Path<String>,
) -> MatrixResult<Json<Empty>> {
    let user_id = load_account(&app, &user_id).await?.user_id;
    set_own_flag(&app, &session, &user_id, (AccountFlags::SHADOW_BANNED, true)).await?;
    Ok(Json(Empty {}))
}

/// `DELETE /_synapse/admin/v1/users/{userId}/shadow_ban`.
pub async fn lift_shadow_ban(
    State(app): State<AppState>,
    session: AdminSession,
    Path(user_id): Path<String>,
) -> MatrixResult<Json<Empty>> {
    let user_id = load_account(&app, &user_id).await?.user_id;
    set_own_flag(&app, &session, &user_id, (AccountFlags::SHADOW_BANNED, false)).await?;
    Ok(Json(Empty {}))
}

/// `PUT /_synapse/admin/v1/suspend/{userId}`.
pub async fn suspend(
    State(app): State<AppState>,
    session: AdminSession,
    Path(user_id): Path<String>,
    JsonBody(SuspendBody { suspend }): JsonBody<SuspendBody>,
) -> MatrixResult<Json<Value>> {
    let account = load_account(&app, &user_id).await?;
    let flag = (AccountFlags::SUSPENDED, suspend);
    set_own_flag(&app, &session, &account.user_id, flag).await?;
    let key = format!("user_{}_suspended", account.user_id);
    Ok(Json(Value::Object([(key, suspend.into())].into_iter().collect())))
}

/// `GET /_synapse/admin/v1/users/{userId}/joined_rooms`.
pub async fn list_joined_rooms(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let user_id =
        UserId::parse(user_id).map_err(|_| MatrixError::invalid_param("This is not a user ID."))?;
    let rooms = app.rooms.rooms_of(&user_id).await?.list_joined();
    let rooms: Vec<_> = rooms.iter().map(|place| place.room.room_id.as_str()).collect();
    Ok(Json(json!({ "joined_rooms": rooms, "total": rooms.len() })))
}

/// `GET /_synapse/admin/v1/users/{userId}/memberships`: what the user is to each room.
pub async fn list_memberships(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let user_id = load_account(&app, &user_id).await?.user_id;
    let mut memberships = Map::new();
    app.rooms.rooms_of(&user_id).await?.for_each(|place| {
        memberships.insert(place.room.room_id.to_string(), place.membership.as_str().into());
    });
    Ok(Json(json!({ "total": memberships.len(), "memberships": memberships })))
}

/// `GET /_synapse/admin/v1/users/{userId}/accountdata`.
pub async fn list_account_data(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let user_id = load_account(&app, &user_id).await?.user_id;
    let (mut global, mut rooms) = (Map::new(), Map::new());
    for piece in app.accounts.list_data(&user_id, (0, app.writer.position())).await? {
        let content = serde_json::from_str(&piece.content).unwrap_or(Value::Null);
        match piece.room_id.is_empty() {
            true => drop(global.insert(piece.kind, content)),
            false => rooms.entry(piece.room_id).or_insert_with(|| json!({}))[piece.kind] = content,
        }
    }
    Ok(Json(json!({ "account_data": { "global": global, "rooms": rooms } })))
}

/// `GET /_synapse/admin/v1/users/{userId}/pushers`.
pub async fn list_pushers(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let account = load_account(&app, &user_id).await?;
    let pushers = app.accounts.list_pushers(&account.user_id).await?;
    let pushers: Vec<_> = pushers.iter().map(crate::http::client::pushers::pusher_json).collect();
    Ok(Json(json!({ "pushers": pushers, "total": pushers.len() })))
}

/// `GET /_synapse/admin/v2/users/{userId}/devices`.
pub async fn list_devices(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    let account = load_account(&app, &user_id).await?;
    let devices = app.accounts.list_devices(&account.user_id).await?;
    let devices: Vec<_> = devices
        .iter()
        .map(|device| {
            json!({
                "device_id": device.device_id,
                "display_name": device.display_name,
                "last_seen_ip": device.ip,
                "last_seen_ts": device.seen_ts,
                "user_id": account.user_id,
            })
        })
        .collect();
    Ok(Json(json!({ "devices": devices, "total": devices.len() })))
}

/// `DELETE /_synapse/admin/v2/users/{userId}/devices/{deviceId}`.
pub async fn delete_device(
    State(app): State<AppState>,
    _: AdminSession,
    Path((user_id, device_id)): Path<(String, String)>,
) -> MatrixResult<Json<Empty>> {
    let account = load_account(&app, &user_id).await?;
    app.accounts.delete_devices(&account.user_id, vec![device_id]).await?;
    Ok(Json(Empty {}))
}

/// `POST /_synapse/admin/v2/users/{userId}/delete_devices`.
pub async fn delete_devices(
    State(app): State<AppState>,
    _: AdminSession,
    Path(user_id): Path<String>,
    JsonBody(body): JsonBody<DevicesBody>,
) -> MatrixResult<Json<Empty>> {
    let account = load_account(&app, &user_id).await?;
    app.accounts.delete_devices(&account.user_id, body.devices).await?;
    Ok(Json(Empty {}))
}

/// `POST /_synapse/admin/v1/users/{userId}/login`: a session of somebody else, who sees it among their
/// devices. It ends when it was asked to.
pub async fn log_in_as(
    State(app): State<AppState>,
    session: AdminSession,
    Path(user_id): Path<String>,
    OptionalJsonBody(body): OptionalJsonBody<LogInBody>,
) -> MatrixResult<Json<Value>> {
    let account = load_account(&app, &user_id).await?;
    if account.user_id == session.user_id {
        return Err(MatrixError::bad_request("You are logged in already."));
    }
    let device = DeviceRequest {
        display_name: Some("Administrator".to_owned()),
        valid_until_ts: body.valid_until_ms,
        ..DeviceRequest::default()
    };
    tracing::warn!(user.id = %account.user_id, admin.id = %session.user_id, "an administrator logs in");
    let begun = app.accounts.begin_session(&account.user_id, device).await?;
    Ok(Json(json!({ "access_token": begun.access_token })))
}

/// `GET /_synapse/admin/v1/username_available`.
pub async fn check_name(
    State(app): State<AppState>,
    _: AdminSession,
    Query(query): Query<NameQuery>,
) -> MatrixResult<Json<Value>> {
    app.accounts.check_name_is_free(&query.username, None).await?;
    Ok(Json(json!({ "available": true })))
}

async fn change(
    app: &App,
    session: &AdminSession,
    user_id: &UserId,
    body: UserBody,
    is_new: bool,
) -> MatrixResult<()> {
    if let Some(password) = body.password.filter(|_| !is_new) {
        let logout = body.logout_devices.unwrap_or(true);
        app.accounts.set_password(user_id, password, logout, None).await?;
    }
    let fields = [("displayname", body.displayname), ("avatar_url", body.avatar_url)];
    for (field, value) in fields {
        if let Some(value) = value {
            app.accounts.set_profile_field(user_id, field, value.into()).await?;
        }
    }
    let flags = [
        (AccountFlags::ADMIN, body.admin.filter(|_| !is_new)),
        (AccountFlags::LOCKED, body.locked),
        (AccountFlags::SUSPENDED, body.suspended),
    ];
    for (flag, on) in flags {
        if let Some(on) = on {
            set_own_flag(app, session, user_id, (flag, on)).await?;
        }
    }
    match body.deactivated {
        Some(true) => Ok(app.accounts.deactivate(user_id, body.erase).await?),
        _ => Ok(()),
    }
}

/// Nobody locks themselves out.
async fn set_own_flag(
    app: &App,
    session: &AdminSession,
    user_id: &UserId,
    (flag, on): (AccountFlags, bool),
) -> MatrixResult<()> {
    let keeps = if flag == AccountFlags::ADMIN { on } else { !on };
    if session.user_id == user_id && !keeps {
        return Err(MatrixError::bad_request("You cannot do this to your own account."));
    }
    Ok(app.accounts.set_flag(user_id, flag, on).await?)
}

/// One account by itself: when it was made is told in seconds here, and in milliseconds in lists.
async fn details_json(app: &App, account: &Account) -> MatrixResult<Value> {
    let mut user = user_json(app, account).await?;
    user["creation_ts"] = (account.created_ts / 1000).into();
    Ok(user)
}

async fn user_json(app: &App, account: &Account) -> MatrixResult<Value> {
    let profile = app.accounts.find_profile(&account.user_id).await?;
    let profile = profile.as_deref();
    let devices = app.accounts.list_devices(&account.user_id).await?;
    let seen_ts = devices.iter().filter_map(|device| device.seen_ts).max();
    let flags = account.flags;
    let mut user = Map::new();
    let fields = json!({
        "name": account.user_id,
        "displayname": profile.and_then(|profile| profile.display_name()),
        "avatar_url": profile.and_then(|profile| profile.avatar_url()),
        "is_guest": flags.is_guest(),
        "admin": flags.is_admin(),
        "deactivated": flags.is_deactivated(),
        "erased": flags.is_erased(),
        "locked": flags.is_locked(),
        "suspended": flags.is_suspended(),
        "shadow_banned": flags.is_shadow_banned(),
        "creation_ts": account.created_ts,
        "last_seen_ts": seen_ts,
        "appservice_id": account.appservice_id,
        "user_type": null,
        "threepids": describe_all(app, &account.user_id).await?,
        "external_ids": [],
    });
    if let Value::Object(fields) = fields {
        user.extend(fields);
    }
    Ok(Value::Object(user))
}

impl AccountFilter {
    fn want(&mut self, flag: AccountFlags, wanted: Option<bool>) {
        match wanted {
            Some(true) => self.with_flags |= flag.0,
            Some(false) => self.without_flags |= flag.0,
            None => {}
        }
    }
}
