//! Lets people into calls on a LiveKit server (MatrixRTC, MSC4143 and MSC4195): they prove by an OpenID
//! token who they are, and get a token of LiveKit's for the call of a room that they are in. Not for
//! the calls themselves.

use std::{sync::Arc, time::Duration};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use hyper::{
    HeaderMap, Method,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use ring::hmac;
use ruma::{OwnedServerName, OwnedUserId, RoomId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    accounts::Accounts,
    config::LivekitConfig,
    federation::{Federation, PeerError, PeerRequest, path},
    outbound::{DirectClient, Limits},
    protocol::membership::Membership,
    rooms::Rooms,
    storage::StorageError,
};

/// The call of a room as a whole, which older clients do not name.
pub const ROOM_SLOT: &str = "m.call#ROOM";
/// How long a token lets somebody in. Whoever is in a call stays.
const TOKEN_SECONDS: u64 = 60 * 60;
/// How long a call that nobody enters exists, and one that all have left.
const EMPTY_SECONDS: u64 = 5 * 60;
const DEPARTURE_SECONDS: u64 = 20;
/// What LiveKit's answers and those of other servers may take.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(10), body_bytes_max: 64 << 10 };
/// Parts of what names a call or a participant, bytes.
const PART_BYTES_MAX: usize = 1024;

/// What a client shows of itself (client-server API, "OpenID").
#[derive(Clone, Debug, Deserialize)]
pub struct OpenIdToken {
    pub access_token: String,
    pub matrix_server_name: OwnedServerName,
}

/// Who wants to be let in where.
#[derive(Clone, Debug)]
pub struct Entry {
    pub room_id: String,
    pub slot_id: String,
    pub token: OpenIdToken,
    pub device_id: String,
    /// The member ID and the user that a newer client names.
    pub member: Option<(String, String)>,
}

/// Where to go, and with which token.
#[derive(Clone, Debug)]
pub struct Admission {
    pub url: String,
    pub jwt: String,
}

/// Why somebody is not let in.
#[derive(Debug, thiserror::Error)]
pub enum LivekitError {
    #[error("no calls take place here")]
    NotConfigured,
    #[error("a part of the request is too long")]
    TooLong,
    #[error("the OpenID token is not valid")]
    NotAuthorised,
    #[error("the user is not in the room")]
    NotInRoom,
    #[error("the call cannot be begun: {0}")]
    Unreachable(String),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The issuer of tokens. Clones share it.
#[derive(Clone)]
pub struct Livekit(Arc<Inner>);

struct Inner {
    config: LivekitConfig,
    accounts: Arc<Accounts>,
    rooms: Rooms,
    federation: Federation,
    /// LiveKit stands where the administrator says.
    client: DirectClient,
}

impl Livekit {
    pub fn new(
        config: LivekitConfig,
        accounts: Arc<Accounts>,
        rooms: Rooms,
        federation: Federation,
    ) -> Self {
        Self(Arc::new(Inner {
            config,
            accounts,
            rooms,
            federation,
            client: DirectClient::default(),
        }))
    }

    /// Lets a member of a room into its call. A user of this server begins the call if need be; others
    /// come to one that there is.
    pub async fn admit(&self, entry: &Entry) -> Result<Admission, LivekitError> {
        let config = &self.0.config;
        let url = config.url.clone().ok_or(LivekitError::NotConfigured)?;
        let (member_id, claimed) = entry.member.clone().unwrap_or_default();
        let parts = [&entry.room_id, &entry.slot_id, &entry.device_id, &member_id];
        if parts.iter().any(|part| part.len() > PART_BYTES_MAX) {
            return Err(LivekitError::TooLong);
        }
        let user = self.find_user(&entry.token).await?;
        if entry.member.is_some() && claimed != user.as_str() {
            return Err(LivekitError::NotAuthorised);
        }
        self.require_member(&entry.room_id, &user).await?;
        let call = digest(&[&entry.room_id, &entry.slot_id]);
        let identity = match entry.member {
            Some(_) => digest(&[user.as_str(), &entry.device_id, &member_id]),
            None => format!("{user}:{}", entry.device_id),
        };
        if user.server_name() == self.0.rooms.server_name() {
            self.begin_call(&call).await?;
        }
        let grants = json!({
            "room": call, "roomJoin": true, "roomCreate": false,
            "canPublish": true, "canSubscribe": true, "canUpdateOwnMetadata": true,
        });
        Ok(Admission { url, jwt: self.sign(Some(&identity), &grants)? })
    }

    /// Whom an OpenID token names; the server that made it is asked (server-server API, "OpenID").
    async fn find_user(&self, token: &OpenIdToken) -> Result<OwnedUserId, LivekitError> {
        let server = &token.matrix_server_name;
        let sub = if server == self.0.rooms.server_name() {
            self.0.accounts.find_openid_user(&token.access_token).await?
        } else {
            #[derive(Deserialize)]
            struct UserInfo {
                sub: String,
            }
            let query = [("access_token", token.access_token.as_str())];
            let path = path("/_matrix/federation/v1/openid/userinfo", [], &query);
            let request = PeerRequest::get(path).limited(LIMITS.timeout, LIMITS.body_bytes_max);
            let answer: Result<UserInfo, PeerError> =
                self.0.federation.peers().ask(server, request).await;
            if let Err(error) = &answer {
                tracing::info!(server.name = %server, %error, "an OpenID token was not confirmed");
            }
            answer.ok().map(|info| info.sub)
        };
        let user = sub.and_then(|sub| OwnedUserId::try_from(sub).ok());
        // No server speaks for the users of another.
        user.filter(|user| user.server_name() == server).ok_or(LivekitError::NotAuthorised)
    }

    async fn require_member(&self, room_id: &str, user: &UserId) -> Result<(), LivekitError> {
        let room_id = <&RoomId>::try_from(room_id).map_err(|_| LivekitError::NotInRoom)?;
        let room = self.0.rooms.find(room_id).await?.ok_or(LivekitError::NotInRoom)?;
        match self.0.rooms.membership_of(&room, user).await? {
            Membership::Join => Ok(()),
            _ => Err(LivekitError::NotInRoom),
        }
    }

    /// Has LiveKit make the room of a call, if there is none (`RoomService/CreateRoom`).
    async fn begin_call(&self, call: &str) -> Result<(), LivekitError> {
        let api_url = self.0.config.api_url().ok_or(LivekitError::NotConfigured)?;
        let url = format!("{api_url}/twirp/livekit.RoomService/CreateRoom");
        let body = json!({
            "name": call, "empty_timeout": EMPTY_SECONDS, "departure_timeout": DEPARTURE_SECONDS,
        });
        let token = self.sign(None, &json!({ "roomCreate": true }))?;
        let unreachable =
            |error: &dyn std::fmt::Display| LivekitError::Unreachable(error.to_string());
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|error| unreachable(&error))?;
        authorization.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = Bytes::from(body.to_string());
        let client = &self.0.client;
        let answer = client.request((Method::POST, &url), headers, Some(body), LIMITS).await;
        let answer = answer.map_err(|error| unreachable(&error))?;
        match answer.status.is_success() {
            true => Ok(()),
            false => Err(unreachable(&format!("LiveKit answered {}", answer.status))),
        }
    }

    /// A token as LiveKit takes it: a JSON Web Token, signed with HMAC-SHA256 (RFC 7519, RFC 7515).
    fn sign(&self, identity: Option<&str>, grants: &Value) -> Result<String, LivekitError> {
        let config = &self.0.config;
        let (Some(key), Some(secret)) = (&config.key, &config.secret) else {
            return Err(LivekitError::NotConfigured);
        };
        let now_s = self.0.rooms.clock().now_ms() / 1000;
        let mut claims =
            json!({ "iss": key, "nbf": now_s, "exp": now_s + TOKEN_SECONDS, "video": grants });
        if let Some(identity) = identity {
            claims["sub"] = identity.into();
        }
        Ok(sign_token(&claims, secret.expose()))
    }
}

fn sign_token(claims: &Value, secret: &str) -> String {
    let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let signed = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// What LiveKit is told in the place of the parts, so that it does not learn who is where (MSC4195).
fn digest(parts: &[&str]) -> String {
    BASE64_STANDARD_NO_PAD.encode(Sha256::digest(json!(parts).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_signed_as_the_standard_shows() {
        // RFC 7519 does not fix the order of claims; this token is checked by its own parts.
        let token = sign_token(&json!({ "sub": "1" }), "secret");
        let parts: Vec<&str> = token.split('.').collect();
        let read = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap();
        assert_eq!(read(parts[0]), br#"{"alg":"HS256","typ":"JWT"}"#);
        assert_eq!(read(parts[1]), br#"{"sub":"1"}"#);
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let signed = format!("{}.{}", parts[0], parts[1]);
        assert!(hmac::verify(&key, signed.as_bytes(), &read(parts[2])).is_ok());
    }

    #[test]
    fn calls_have_names_that_say_nothing() {
        let call = digest(&["!room:example.org", ROOM_SLOT]);
        assert_eq!(call.len(), 43);
        assert_ne!(call, digest(&["!other:example.org", ROOM_SLOT]));
    }
}
