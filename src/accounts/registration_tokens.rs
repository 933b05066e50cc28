//! Tokens with which people register (client-server API, "Token-authenticated registration"), as
//! administrators make them. What they are used for is in `register`.

use super::Accounts;
pub use crate::storage::accounts::StoredRegistrationToken as RegistrationToken;
use crate::storage::{StorageError, accounts};

/// The longest token, and which characters it has beside letters and digits ("Token-authenticated
/// registration": tokens are opaque strings of these).
const TOKEN_LENGTH_MAX: usize = 64;
const TOKEN_PUNCTUATION: &[u8] = b"._~-";
/// Random characters of a token that is made up: 95 bits, still possible to type.
const TOKEN_LENGTH: usize = 16;
/// Tokens that are listed.
const LIST_MAX: u32 = 10_000;

/// Why a token was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateTokenError {
    #[error("a token has 1 to {TOKEN_LENGTH_MAX} of the characters A-Z a-z 0-9 . _ ~ -")]
    Invalid,
    #[error("there is such a token already")]
    Exists,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Accounts {
    /// Makes a token, with a made up name when `token` is `None`. `expires_ts`: milliseconds since the
    /// Unix epoch.
    pub async fn make_registration_token(
        &self,
        token: Option<String>,
        uses_allowed: Option<i64>,
        expires_ts: Option<i64>,
    ) -> Result<RegistrationToken, CreateTokenError> {
        let token = token.unwrap_or_else(|| self.clock.random_text(TOKEN_LENGTH));
        let is_allowed =
            |byte: u8| byte.is_ascii_alphanumeric() || TOKEN_PUNCTUATION.contains(&byte);
        if !(1..=TOKEN_LENGTH_MAX).contains(&token.len()) || !token.bytes().all(is_allowed) {
            return Err(CreateTokenError::Invalid);
        }
        let token =
            RegistrationToken { token, uses_allowed, uses: 0, expires_ts, makes_admin: false };
        match self.create_registration_token(token.clone()).await? {
            true => Ok(token),
            false => Err(CreateTokenError::Exists),
        }
    }

    /// All tokens, in the order of their names.
    pub async fn list_registration_tokens(&self) -> Result<Vec<RegistrationToken>, StorageError> {
        accounts::list_registration_tokens(&self.database, LIST_MAX).await
    }

    /// Deletes a token; `None` when there is none.
    pub async fn revoke_registration_token(
        &self,
        token: &str,
    ) -> Result<Option<RegistrationToken>, StorageError> {
        if token.contains('\0') {
            return Ok(None);
        }
        let token = token.to_owned();
        self.writer
            .transact(move |tx| {
                Box::pin(async move { accounts::delete_registration_token(tx, &token).await })
            })
            .await
    }
}
