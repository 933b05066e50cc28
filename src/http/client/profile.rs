//! `/profile` (Client-Server API, "Profiles").

use axum::{extract::State, http::StatusCode};
use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value, json};

use super::appservice::ensure_user;
use crate::{
    accounts::{
        profiles::{FIELD_NAME_BYTES_MAX, Profile, ProfileError},
        sessions::Session,
    },
    http::{
        App, AppState,
        auth::{ClientAddress, OptionalSession, UserOrGuestSession, refuse_suspended},
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, Path},
        rate_limit::Action,
    },
};

const NO_FIELD: &str = "The profile has no such field.";
/// A longer name could fill the screens of others.
const DISPLAY_NAME_BYTES_MAX: usize = 256;
const AVATAR_URL_BYTES_MAX: usize = 1000;

/// `GET /profile/{userId}`.
pub async fn get_profile(
    State(app): State<AppState>,
    OptionalSession(session): OptionalSession,
    address: ClientAddress,
    Path(user_id): Path<OwnedUserId>,
) -> MatrixResult<Json<Value>> {
    if user_id.server_name() != app.rooms.server_name() {
        limit_strangers(&app, session.as_deref(), address)?;
        return Ok(Json(Value::Object(load_remote(&app, &user_id, None).await?)));
    }
    let profile = load_profile(&app, &user_id).await?;
    Ok(Json(json!(profile.0)))
}

/// `GET /profile/{userId}/{keyName}`.
pub async fn get_field(
    State(app): State<AppState>,
    OptionalSession(session): OptionalSession,
    address: ClientAddress,
    Path((user_id, field)): Path<(OwnedUserId, String)>,
) -> MatrixResult<Json<Value>> {
    check_field_name(&field)?;
    if user_id.server_name() != app.rooms.server_name() {
        limit_strangers(&app, session.as_deref(), address)?;
        let mut profile = load_remote(&app, &user_id, Some(&field)).await?;
        let value = profile.remove(&field).filter(|value| !value.is_null());
        let value = value.ok_or_else(|| MatrixError::not_found(NO_FIELD))?;
        return Ok(Json(json!({ &*field: value })));
    }
    let profile = load_profile(&app, &user_id).await?;
    match profile.0.get(&field) {
        Some(value) => Ok(Json(json!({ &*field: value }))),
        None => Err(MatrixError::not_found(NO_FIELD)),
    }
}

/// `PUT /profile/{userId}/{keyName}`.
pub async fn set_field(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path((user_id, field)): Path<(OwnedUserId, String)>,
    JsonBody(mut body): JsonBody<Map<String, Value>>,
) -> MatrixResult<Json<Empty>> {
    check_may_change(&app, &session, &user_id, &field)?;
    let Some(value) = body.remove(&field) else {
        return Err(MatrixError::missing_param(format!("`{field}` is missing.")));
    };
    let is_basic = matches!(&*field, "displayname" | "avatar_url");
    // Clients empty these two instead of deleting them.
    if is_basic && (value.is_null() || value == "") {
        app.accounts.delete_profile_field(&user_id, &field).await?;
        return Ok(Json(Empty {}));
    }
    check_value(&field, &value)?;
    app.accounts.set_profile_field(&user_id, &field, value).await?;
    Ok(Json(Empty {}))
}

/// `DELETE /profile/{userId}/{keyName}`.
pub async fn delete_field(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path((user_id, field)): Path<(OwnedUserId, String)>,
) -> MatrixResult<Json<Empty>> {
    check_may_change(&app, &session, &user_id, &field)?;
    app.accounts.delete_profile_field(&user_id, &field).await?;
    Ok(Json(Empty {}))
}

impl From<ProfileError> for MatrixError {
    fn from(error: ProfileError) -> Self {
        match error {
            ProfileError::TooLarge => {
                let message = "The profile would be larger than 64 KiB.";
                Self::new(StatusCode::BAD_REQUEST, "M_PROFILE_TOO_LARGE", message)
            }
            ProfileError::NotFound => no_such_user(),
            ProfileError::Storage(error) => error.into(),
        }
    }
}

/// What another server says of its user.
/// Who is not logged in shall not have this server ask others as often as they like.
fn limit_strangers(
    app: &App,
    session: Option<&Session>,
    address: ClientAddress,
) -> MatrixResult<()> {
    match session {
        Some(_) => Ok(()),
        None => app.rate_limits.take_of_address(Action::Search, address.0, app.clock.now_ms()),
    }
}

async fn load_remote(
    app: &App,
    user_id: &UserId,
    field: Option<&str>,
) -> MatrixResult<Map<String, Value>> {
    let found = app.federation.find_remote_profile(user_id, field).await?;
    found.ok_or_else(|| MatrixError::not_found("There is no such user there."))
}

async fn load_profile(app: &App, user_id: &UserId) -> MatrixResult<std::sync::Arc<Profile>> {
    ensure_user(app, user_id).await?;
    app.accounts.find_profile(user_id).await?.ok_or_else(no_such_user)
}

fn check_may_change(
    app: &App,
    session: &UserOrGuestSession,
    user_id: &UserId,
    field: &str,
) -> MatrixResult<()> {
    check_field_name(field)?;
    if session.user_id != user_id {
        return Err(MatrixError::forbidden("This is not your profile."));
    }
    if session.is_guest && field != "displayname" {
        return Err(MatrixError::guest_access_forbidden("Guests only choose a name."));
    }
    refuse_suspended(session)?;
    app.rate_limits.take(Action::Change, session, app.clock.now_ms())
}

/// Appendices, "Common Namespaced Identifier Grammar".
fn check_field_name(field: &str) -> MatrixResult<()> {
    if field.len() > FIELD_NAME_BYTES_MAX {
        let message = "A profile field's name has at most 255 bytes.";
        return Err(MatrixError::new(StatusCode::BAD_REQUEST, "M_KEY_TOO_LARGE", message));
    }
    let is_allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    match field.bytes().all(is_allowed) && field.starts_with(|c: char| c.is_ascii_lowercase()) {
        true => Ok(()),
        false => {
            Err(MatrixError::invalid_param("A profile field's name is made of a-z, 0-9, . _ -."))
        }
    }
}

fn check_value(field: &str, value: &Value) -> MatrixResult<()> {
    let text = value.as_str();
    match field {
        "displayname" | "avatar_url" | "m.tz" if text.is_none() => {
            Err(MatrixError::bad_json(format!("`{field}` must be a text.")))
        }
        "displayname" if text.is_some_and(|name| name.len() > DISPLAY_NAME_BYTES_MAX) => {
            Err(MatrixError::invalid_param("A name has at most 256 bytes."))
        }
        // Not only mxc:// addresses: what clients and bridges have set elsewhere is taken as it is.
        "avatar_url" if text.is_some_and(|url| url.len() > AVATAR_URL_BYTES_MAX) => {
            Err(MatrixError::invalid_param("The address of the picture is too long."))
        }
        _ => Ok(()),
    }
}

fn no_such_user() -> MatrixError {
    MatrixError::not_found("There is no such user here.")
}
