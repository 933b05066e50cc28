//! What application services alone may ask (Client-Server API, `PUT /directory/list/appservice/…`,
//! `POST /v1/appservice/{appserviceId}/ping`), and what of theirs stands in the way of others.

use axum::{extract::State, http::StatusCode};
use ruma::{RoomAliasId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::room_paths::find_known_room;
use crate::{
    accounts::sessions::Session,
    appservices::{QueryError, WireError},
    http::{
        App, AppState,
        auth::AppserviceSession,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, OptionalJsonBody, Path},
    },
    rooms::DirectoryVisibility,
};

/// The length of a network's name, bytes.
const NETWORK_BYTES_MAX: usize = 255;

#[derive(Debug, Deserialize)]
pub struct NetworkBody {
    visibility: DirectoryVisibility,
}

#[derive(Debug, Default, Deserialize)]
pub struct PingBody {
    transaction_id: Option<String>,
}

/// `PUT /directory/list/appservice/{networkId}/{roomId}`.
pub async fn list_in_network(
    State(app): State<AppState>,
    AppserviceSession(service): AppserviceSession,
    Path((network, room_id)): Path<(String, String)>,
    JsonBody(body): JsonBody<NetworkBody>,
) -> MatrixResult<Json<Empty>> {
    if network.is_empty() || network.len() > NETWORK_BYTES_MAX || network.contains('\0') {
        return Err(MatrixError::invalid_param("This is not the name of a network."));
    }
    let room = find_known_room(&app, &room_id).await?;
    let is_listed = body.visibility == DirectoryVisibility::Public;
    app.appservices.publish(&service.id, &network, &room, is_listed).await?;
    Ok(Json(Empty {}))
}

/// `POST /v1/appservice/{appserviceId}/ping`.
pub async fn ping(
    State(app): State<AppState>,
    AppserviceSession(service): AppserviceSession,
    Path(id): Path<String>,
    OptionalJsonBody(body): OptionalJsonBody<PingBody>,
) -> MatrixResult<Json<Value>> {
    if service.id != id {
        return Err(MatrixError::forbidden("This is not the token of this application service."));
    }
    let duration_ms = app.appservices.ping(&service, body.transaction_id.as_deref()).await?;
    Ok(Json(json!({ "duration_ms": duration_ms })))
}

/// Refuses an alias that an application service keeps for itself, and to a service one outside of
/// its namespaces (application-service API, "Server admin style permissions").
pub fn check_alias_is_free(app: &App, session: &Session, alias: &RoomAliasId) -> MatrixResult<()> {
    let services = app.appservices.services();
    let asking = session.appservice.as_ref().map(|grant| &*grant.id);
    if services.find_owner_of_alias(alias.as_str(), asking).is_some() {
        return Err(MatrixError::exclusive("This alias is kept for an application service."));
    }
    let service = asking.and_then(|id| services.find(id));
    match service.is_some_and(|service| !service.namespaces.aliases.matches(alias.as_str())) {
        true => {
            let message = "This alias is outside of the application service's namespaces.";
            Err(MatrixError::exclusive(message))
        }
        false => Ok(()),
    }
}

/// Has an application service make a user of its own that does not exist yet.
pub async fn ensure_user(app: &App, user_id: &UserId) -> MatrixResult<()> {
    let services = app.appservices.services();
    let is_ours = user_id.server_name() == app.rooms.server_name();
    if services.is_empty() || !is_ours || app.accounts.find_profile(user_id).await?.is_some() {
        return Ok(());
    }
    app.appservices.query_user(user_id).await?;
    Ok(())
}

impl From<QueryError> for MatrixError {
    /// "This should result in an HTTP status 408 on the client" (application-service API,
    /// "Querying").
    fn from(error: QueryError) -> Self {
        tracing::warn!(appservice.id = error.id, error = %error.error, "a question found no answer");
        let message = "The bridge that knows this does not answer; try again later.";
        Self::new(StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN", message)
    }
}

impl From<WireError> for MatrixError {
    fn from(error: WireError) -> Self {
        let message =
            format!("{}.", super::register::capitalize(&error.to_string()).trim_end_matches('.'));
        let answer = |status, errcode| Self::new(status, errcode, message.clone());
        match error {
            WireError::NoUrl => answer(StatusCode::BAD_REQUEST, "M_URL_NOT_SET"),
            WireError::Connection(_) => answer(StatusCode::BAD_GATEWAY, "M_CONNECTION_FAILED"),
            WireError::Timeout(_) => answer(StatusCode::GATEWAY_TIMEOUT, "M_CONNECTION_TIMEOUT"),
            WireError::Status { status, body } => answer(StatusCode::BAD_GATEWAY, "M_BAD_STATUS")
                .with_field("status", status.as_u16())
                .with_field("body", body),
        }
    }
}
