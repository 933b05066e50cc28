//! What application services alone may ask (Client-Server API, `PUT /directory/list/appservice/…`,
//! `POST /v1/appservice/{appserviceId}/ping`). As long as none is registered here, nobody's token is
//! theirs.

use crate::http::{
    auth::UserOrGuestSession,
    error::{MatrixError, MatrixResult},
    json::{Empty, Json, Path},
};

/// `PUT /directory/list/appservice/{networkId}/{roomId}`.
pub async fn list_in_network(
    _: UserOrGuestSession,
    Path(_): Path<(String, String)>,
) -> MatrixResult<Json<Empty>> {
    Err(not_an_appservice())
}

/// `POST /v1/appservice/{appserviceId}/ping`.
pub async fn ping(_: UserOrGuestSession, Path(_): Path<String>) -> MatrixResult<Json<Empty>> {
    Err(not_an_appservice())
}

fn not_an_appservice() -> MatrixError {
    MatrixError::forbidden("This is not the token of an application service.")
}
