//! `/devices` (Client-Server API, "Device Management").

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{account::read_object, uia::confirm_unless_appservice};
use crate::{
    accounts::login::DEVICE_NAME_BYTES_MAX,
    http::{
        AppState,
        auth::{UserOrGuestSession, UserSession},
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, OptionalJsonBody, Path},
        rate_limit::Action,
    },
    storage::devices::StoredDevice,
};

#[derive(Debug, Serialize)]
pub struct DeviceAnswer {
    device_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_ts: Option<i64>,
}

#[derive(Debug, Deserialize)]
pub struct RenameRequest {
    display_name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct DeleteRequest {
    devices: Vec<String>,
}

/// `GET /devices`.
pub async fn list_devices(
    State(app): State<AppState>,
    session: UserOrGuestSession,
) -> MatrixResult<Json<Value>> {
    let devices = app.accounts.list_devices(&session.user_id).await?;
    let devices: Vec<_> = devices.into_iter().map(DeviceAnswer::from).collect();
    Ok(Json(json!({ "devices": devices })))
}

/// `GET /devices/{deviceId}`.
pub async fn get_device(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path(device_id): Path<String>,
) -> MatrixResult<Json<DeviceAnswer>> {
    let device = app.accounts.find_device(&session.user_id, &device_id).await?;
    Ok(Json(device.ok_or_else(no_such_device)?.into()))
}

/// `PUT /devices/{deviceId}`. Without a name nothing changes. Application services make devices
/// with it (201).
pub async fn rename_device(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path(device_id): Path<String>,
    JsonBody(request): JsonBody<RenameRequest>,
) -> MatrixResult<(StatusCode, Json<Empty>)> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    let is_known = match request.display_name {
        Some(name) if name.len() > DEVICE_NAME_BYTES_MAX => {
            return Err(MatrixError::too_large("A device's name has at most 400 bytes."));
        }
        name if session.appservice.is_some() => {
            let is_new = app.accounts.create_device(&session.user_id, &device_id, name).await?;
            let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
            return Ok((status, Json(Empty {})));
        }
        Some(name) => app.accounts.rename_device(&session.user_id, &device_id, Some(name)).await?,
        None => app.accounts.find_device(&session.user_id, &device_id).await?.is_some(),
    };
    if is_known { Ok((StatusCode::OK, Json(Empty {}))) } else { Err(no_such_device()) }
}

/// `DELETE /devices/{deviceId}`.
pub async fn delete_device(
    State(app): State<AppState>,
    session: UserSession,
    Path(device_id): Path<String>,
    OptionalJsonBody(body): OptionalJsonBody<Value>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    let operation = format!("DELETE /devices/{device_id}");
    confirm_unless_appservice(&app, &session, &operation, &body).await?;
    app.accounts.delete_devices(&session.user_id, vec![device_id]).await?;
    Ok(Json(Empty {}))
}

/// `POST /delete_devices`.
pub async fn delete_devices(
    State(app): State<AppState>,
    session: UserSession,
    JsonBody(body): JsonBody<Value>,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Change, &session, app.clock.now_ms())?;
    let request: DeleteRequest = read_object(&body)?;
    if request.devices.len() > app.config.sessions.devices_max {
        return Err(MatrixError::invalid_param("Nobody has as many devices."));
    }
    confirm_unless_appservice(&app, &session, "POST /delete_devices", &body).await?;
    app.accounts.delete_devices(&session.user_id, request.devices).await?;
    Ok(Json(Empty {}))
}

impl From<StoredDevice> for DeviceAnswer {
    fn from(device: StoredDevice) -> Self {
        Self {
            device_id: device.device_id,
            display_name: device.display_name,
            last_seen_ip: device.ip,
            last_seen_ts: device.seen_ts,
        }
    }
}

fn no_such_device() -> MatrixError {
    MatrixError::not_found("There is no such device.")
}
