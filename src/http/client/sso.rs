//! `/login/sso/redirect` (Client-Server API, "Client login via SSO"). This server has no provider of
//! identities, which is what it answers.

use serde::Deserialize;

use crate::http::{
    error::{MatrixError, MatrixResult},
    json::{Path, Query},
};

/// The query of both paths.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RedirectQuery {
    #[expect(dead_code, reason = "it must be there, and leads nowhere")]
    redirect_url: String,
    #[expect(dead_code, reason = "it must be a known one")]
    action: Option<RedirectAction>,
}

/// What the user wants to do.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedirectAction {
    Login,
    Register,
}

/// `GET /login/sso/redirect`.
pub async fn redirect(Query(_): Query<RedirectQuery>) -> MatrixResult<()> {
    Err(MatrixError::not_found("This server has no single sign-on; log in with your password."))
}

/// `GET /login/sso/redirect/{idpId}`.
pub async fn redirect_to_provider(
    Path(_): Path<String>,
    Query(_): Query<RedirectQuery>,
) -> MatrixResult<()> {
    Err(MatrixError::not_found("This server knows no such provider of identities."))
}
