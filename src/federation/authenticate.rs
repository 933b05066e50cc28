//! Who asks: a request's signature is checked with the key of the server that it names.

use ruma::{OwnedServerName, ServerName};

use super::{
    request_signature::{Destination, RequestSignature, SignedParts},
    server_keys::ServerKeys,
};
use crate::storage::StorageError;

/// Why a request is nobody's.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticateError {
    #[error("the request has no X-Matrix authorization that can be read")]
    Missing,
    #[error("the request is for {0}, which is another server")]
    OtherDestination(String),
    #[error("the request is not signed by {0} with a key that it uses now")]
    BadSignature(OwnedServerName),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A request as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct ArrivedRequest<'a> {
    pub method: &'a str,
    /// The path with the query.
    pub uri: &'a str,
    /// Canonical JSON; `None` when there is no body.
    pub content: Option<&'a str>,
}

/// The server that signed the request.
pub async fn authenticate<'h>(
    keys: &ServerKeys,
    own_name: &ServerName,
    headers: impl Iterator<Item = &'h str>,
    request: ArrivedRequest<'_>,
) -> Result<OwnedServerName, AuthenticateError> {
    let signature = headers.filter_map(RequestSignature::parse).next();
    let signature = signature.ok_or(AuthenticateError::Missing)?;
    if let Some(destination) = &signature.destination
        && destination != own_name.as_str()
    {
        return Err(AuthenticateError::OtherDestination(destination.clone()));
    }
    let origin = &signature.origin;
    // Nobody else can speak for this server, and it does not ask itself.
    if origin == own_name {
        return Err(AuthenticateError::BadSignature(signature.origin));
    }
    let parts = SignedParts {
        method: request.method,
        uri: request.uri,
        origin: origin.as_str(),
        destination: Destination::Named(own_name.as_str()),
        content: request.content,
    };
    match keys.find_current(origin, &signature.key_id).await? {
        Some(key) if parts.is_signed_by(&key, &signature.signature) => Ok(signature.origin),
        _ => Err(AuthenticateError::BadSignature(signature.origin)),
    }
}
