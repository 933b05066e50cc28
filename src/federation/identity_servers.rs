//! Identity servers (identity service API): publishing whose an address is, looking that up, and
//! leaving invitations for addresses that are nobody's yet. They are reached over the web, by the names
//! that users give; which of them are believed, the configuration says.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use hyper::{
    HeaderMap, Method, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ruma::{OwnedServerName, OwnedUserId, UserId};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::request_signature::{Destination, SignedParts};
use crate::{
    outbound::{Answer, Authority, Limits, Outbound, OutboundError},
    protocol::canonical_json,
    rooms::OwnKey,
};

const LIMITS: Limits = Limits { timeout: Duration::from_secs(20), body_bytes_max: 256 * 1024 };
/// Keys of an invitation that are kept: an honest server gives its own and one for the invitation.
const PUBLIC_KEYS_MAX: usize = 8;

/// The identity servers. Clones share it.
#[derive(Clone)]
pub struct IdentityServers(Arc<Inner>);

struct Inner {
    outbound: Outbound,
    /// Their names, in lower case.
    trusted: Vec<String>,
    own_name: OwnedServerName,
    own_key: OwnKey,
}

/// A user's access to an identity server.
#[derive(Clone, Debug, Deserialize)]
pub struct IdentityAccess {
    /// A host, with or without a port.
    pub id_server: String,
    /// "Servers can treat this as optional": the identity server says what it thinks of that.
    #[serde(default)]
    pub id_access_token: String,
}

/// What an identity server knows of an invitation that waits there (`POST /v2/store-invite`).
#[derive(Clone, Debug, Deserialize)]
pub struct WaitingInvite {
    pub token: String,
    pub public_keys: Vec<InviteKey>,
    /// The address, made illegible.
    pub display_name: String,
}

/// A key with which the identity server will sign who took the invitation.
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
pub struct InviteKey {
    pub public_key: String,
    pub key_validity_url: String,
}

/// Why an identity server did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("this server does not trust the identity server {0}")]
    NotTrusted(String),
    #[error("the identity server cannot be reached: {0}")]
    Unreachable(#[from] OutboundError),
    #[error("the identity server refuses with {status}: {message}")]
    Refused { status: StatusCode, errcode: String, message: String },
    #[error("the identity server answers with something else than expected: {0}")]
    BadAnswer(String),
}

/// What came of leaving an invitation.
#[derive(Clone, Debug)]
pub enum StoredInvite {
    Waiting(WaitingInvite),
    /// Meanwhile the address has become this user's.
    Bound(OwnedUserId),
}

type Result<T> = std::result::Result<T, IdentityError>;

impl IdentityServers {
    pub fn new(
        outbound: Outbound,
        trusted: &[String],
        (own_name, own_key): (OwnedServerName, OwnKey),
    ) -> Self {
        let trusted = trusted.iter().map(|name| name.to_ascii_lowercase()).collect();
        Self(Arc::new(Inner { outbound, trusted, own_name, own_key }))
    }

    /// Refuses identity servers that the administrator does not trust.
    pub fn check_trusted(&self, id_server: &str) -> Result<()> {
        let name = id_server.to_ascii_lowercase();
        match self.0.trusted.contains(&name) && Authority::parse(&name).is_some() {
            true => Ok(()),
            false => Err(IdentityError::NotTrusted(id_server.to_owned())),
        }
    }

    /// Publishes that the address which was proven there is this user's; its medium and the address
    /// (`POST /v2/3pid/bind`).
    pub async fn bind(
        &self,
        access: &IdentityAccess,
        (sid, client_secret): (&str, &str),
        user_id: &UserId,
    ) -> Result<(String, String)> {
        #[derive(Deserialize)]
        struct Bound {
            medium: String,
            address: String,
        }
        let body = json!({ "sid": sid, "client_secret": client_secret, "mxid": user_id });
        let bound: Bound = self.ask(access, "/3pid/bind", Some(&body)).await?;
        Ok((bound.medium, bound.address))
    }

    /// Takes a publication back (`POST /v2/3pid/unbind`), in the user's name by this server's
    /// signature; false when the identity server does not support that.
    pub async fn unbind(
        &self,
        id_server: &str,
        user_id: &UserId,
        (medium, address): (&str, &str),
    ) -> Result<bool> {
        self.check_trusted(id_server)?;
        let path = "/_matrix/identity/v2/3pid/unbind";
        let body = json!({ "mxid": user_id, "threepid": { "medium": medium, "address": address } });
        let content = canonical_json::encode(&body);
        let mut headers = json_headers();
        // The one as other servers sign; the other as Sydent, the server that there is, wants it. It
        // takes the last one.
        for destination in [Destination::Named(id_server), Destination::Is(id_server)] {
            let parts = SignedParts {
                method: "POST",
                uri: path,
                origin: self.0.own_name.as_str(),
                destination,
                content: Some(&content),
            };
            let header = HeaderValue::try_from(parts.sign(&self.0.own_key.current()));
            headers.append(AUTHORIZATION, header.map_err(bad_answer)?);
        }
        let url = format!("https://{id_server}{path}");
        let request = (Method::POST, url.as_str());
        let outbound = &self.0.outbound;
        let answer = outbound.request_web(request, headers, Some(content.into()), LIMITS).await?;
        if answer.status.is_success() {
            return Ok(true);
        }
        // "If the response body is not a JSON Matrix error, the identity server does not support
        // unbinds."
        match refusal(&answer) {
            error @ IdentityError::Refused { .. } => Err(error),
            _ => Ok(false),
        }
    }

    /// The user whose address this is (`POST /v2/lookup`), asked for by its hash.
    pub async fn find_user(
        &self,
        access: &IdentityAccess,
        (medium, address): (&str, &str),
    ) -> Result<Option<OwnedUserId>> {
        #[derive(Deserialize)]
        struct HashDetails {
            lookup_pepper: String,
        }
        #[derive(Deserialize)]
        struct Found {
            mappings: Map<String, Value>,
        }
        let details: HashDetails = self.ask(access, "/hash_details", None).await?;
        let hash = hash_address((medium, address), &details.lookup_pepper);
        let body = json!({
            "algorithm": "sha256",
            "pepper": details.lookup_pepper,
            "addresses": [hash],
        });
        let found: Found = self.ask(access, "/lookup", Some(&body)).await?;
        let user_id = found.mappings.get(&hash).and_then(Value::as_str);
        user_id.map(|user_id| UserId::parse(user_id).map_err(bad_answer)).transpose()
    }

    /// Leaves an invitation for whoever proves the address (`POST /v2/store-invite`).
    pub async fn store_invite(
        &self,
        access: &IdentityAccess,
        invite: &Value,
    ) -> Result<StoredInvite> {
        let answer = self.send(access, "/store-invite", Some(invite)).await?;
        let body: Map<String, Value> = serde_json::from_slice(&answer.body).unwrap_or_default();
        if body.get("errcode").and_then(Value::as_str) == Some("M_THREEPID_IN_USE")
            && let Some(user_id) = body.get("mxid").and_then(Value::as_str)
        {
            return UserId::parse(user_id).map(StoredInvite::Bound).map_err(bad_answer);
        }
        let mut waiting: WaitingInvite = read(&answer)?;
        waiting.public_keys.truncate(PUBLIC_KEYS_MAX);
        match waiting.public_keys.is_empty() {
            true => Err(IdentityError::BadAnswer("there is no public key".to_owned())),
            false => Ok(StoredInvite::Waiting(waiting)),
        }
    }

    /// Whether a key of an invitation is still valid, as its own address says (identity service API,
    /// "Key management"). Any server is asked, since the room names it.
    pub async fn is_key_valid(&self, key: &InviteKey) -> Result<bool> {
        #[derive(Deserialize)]
        struct Validity {
            valid: bool,
        }
        let public_key = utf8_percent_encode(&key.public_key, NON_ALPHANUMERIC);
        let separator = if key.key_validity_url.contains('?') { '&' } else { '?' };
        let url = format!("{}{separator}public_key={public_key}", key.key_validity_url);
        let request = (Method::GET, url.as_str());
        let answer = self.0.outbound.request_web(request, HeaderMap::new(), None, LIMITS).await?;
        read::<Validity>(&answer).map(|answer| answer.valid)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        access: &IdentityAccess,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T> {
        read(&self.send(access, path, body).await?)
    }

    async fn send(
        &self,
        access: &IdentityAccess,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer> {
        self.check_trusted(&access.id_server)?;
        let url = format!("https://{}/_matrix/identity/v2{path}", access.id_server);
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let mut headers = json_headers();
        let bearer = HeaderValue::try_from(format!("Bearer {}", access.id_access_token));
        headers.insert(AUTHORIZATION, bearer.map_err(bad_answer)?);
        let body = body.map(|body| body.to_string().into());
        Ok(self.0.outbound.request_web((method, &url), headers, body, LIMITS).await?)
    }
}

/// The hash by which an address is looked up (identity service API, "`sha256`").
fn hash_address((medium, address): (&str, &str), pepper: &str) -> String {
    let hash = Sha256::digest(format!("{address} {medium} {pepper}").as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(hash)
}

fn json_headers() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))])
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T> {
    match answer.status.is_success() {
        true => serde_json::from_slice(&answer.body).map_err(bad_answer),
        false => Err(refusal(answer)),
    }
}

fn refusal(answer: &Answer) -> IdentityError {
    #[derive(Deserialize)]
    struct Refusal {
        errcode: String,
        #[serde(default)]
        error: String,
    }
    match serde_json::from_slice::<Refusal>(&answer.body) {
        Ok(Refusal { errcode, error }) => {
            IdentityError::Refused { status: answer.status, errcode, message: error }
        }
        Err(_) => IdentityError::BadAnswer(format!("status {}", answer.status)),
    }
}

fn bad_answer(error: impl std::fmt::Display) -> IdentityError {
    IdentityError::BadAnswer(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_specification() {
        let hash = |medium, address| hash_address((medium, address), "matrixrocks");
        let alice = hash("email", "alice@example.com");
        assert_eq!(alice, "4kenr7N9drpCJ4AfalmlGQVsOn3o2RHjkADUpXJWZUc");
        let phone = hash("msisdn", "18005552067");
        assert_eq!(phone, "nlo35_T5fzSGZzJApqu8lgIudJvmOQtDaHtr-I4rU7I");
    }
}
