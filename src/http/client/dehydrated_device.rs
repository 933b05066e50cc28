//! `/dehydrated_device` under its unstable prefix (MSC3814).

use std::collections::BTreeMap;

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    accounts::login::{DEVICE_NAME_BYTES_MAX, is_device_id},
    encryption::{DehydratedError, KeysUpload, NewDehydratedDevice},
    http::{
        AppState,
        auth::UserSession,
        error::{MatrixError, MatrixResult},
        json::{Json, JsonBody, OptionalJsonBody, Path, RawJson},
        rate_limit::Action,
    },
    rooms::write_json_string,
};

/// The body of the `PUT`.
#[derive(Debug, Deserialize)]
pub struct PutBody {
    device_id: String,
    initial_device_display_name: Option<String>,
    device_data: Box<RawValue>,
    device_keys: Box<RawValue>,
    one_time_keys: Option<BTreeMap<String, Box<RawValue>>>,
    fallback_keys: Option<BTreeMap<String, Box<RawValue>>>,
}

/// The body of the `POST` for messages.
#[derive(Debug, Default, Deserialize)]
pub struct EventsBody {
    next_batch: Option<String>,
}

/// Makes a device the dehydrated one, in place of the one before.
pub async fn put(
    State(app): State<AppState>,
    session: UserSession,
    JsonBody(body): JsonBody<PutBody>,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    let name_length = body.initial_device_display_name.as_deref().map_or(0, str::len);
    if !is_device_id(&body.device_id) || name_length > DEVICE_NAME_BYTES_MAX {
        return Err(MatrixError::invalid_param("The device's ID or name is not possible."));
    }
    let device_id = body.device_id.clone();
    let new = NewDehydratedDevice {
        device_id: body.device_id,
        display_name: body.initial_device_display_name,
        device_data: body.device_data,
        keys: KeysUpload {
            device_keys: Some(body.device_keys),
            one_time_keys: body.one_time_keys,
            fallback_keys: body.fallback_keys,
            unstable_fallback_keys: None,
        },
    };
    if !new.has_valid_data() {
        return Err(MatrixError::bad_json("`device_data` names no algorithm."));
    }
    app.encryption.put_dehydrated_device(&session.user_id, new).await?;
    Ok(Json(json!({ "device_id": device_id })))
}

/// The dehydrated device of the user.
pub async fn get(State(app): State<AppState>, session: UserSession) -> MatrixResult<RawJson> {
    let device = app.encryption.find_dehydrated_device(&session.user_id).await?;
    let mut out = String::from("{\"device_id\":");
    write_json_string(&mut out, &device.device_id);
    out.push_str(",\"device_data\":");
    out.push_str(&device.device_data);
    out.push('}');
    Ok(RawJson(out.into()))
}

/// Deletes it with its messages.
pub async fn delete(
    State(app): State<AppState>,
    session: UserSession,
) -> MatrixResult<Json<Value>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    let device_id = app.encryption.delete_dehydrated_device(&session.user_id).await?;
    Ok(Json(json!({ "device_id": device_id })))
}

/// The messages that wait for it.
pub async fn list_events(
    State(app): State<AppState>,
    session: UserSession,
    Path(device_id): Path<String>,
    OptionalJsonBody(body): OptionalJsonBody<EventsBody>,
) -> MatrixResult<RawJson> {
    let (user, token) = (&session.user_id, body.next_batch.as_deref());
    let (messages, token) =
        app.encryption.list_dehydrated_messages(user, &device_id, token).await?;
    let events = messages.events.join(",");
    Ok(RawJson(format!("{{\"events\":[{events}],\"next_batch\":\"{token}\"}}").into()))
}

impl From<DehydratedError> for MatrixError {
    fn from(error: DehydratedError) -> Self {
        let message = super::register::capitalize(&error.to_string());
        match error {
            DehydratedError::NotFound => Self::not_found(message),
            DehydratedError::WrongDevice => Self::forbidden(message),
            DehydratedError::NoIdentity => Self::missing_param(message),
            DehydratedError::IdInUse => {
                Self::new(StatusCode::BAD_REQUEST, "M_INVALID_PARAM", message)
            }
            DehydratedError::TooLong => Self::too_large(message),
            DehydratedError::UnknownToken => Self::invalid_param(message),
            DehydratedError::Keys(error) => error.into(),
            DehydratedError::Storage(error) => error.into(),
        }
    }
}
