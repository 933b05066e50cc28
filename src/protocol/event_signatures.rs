//! Signatures and hash of an event that another server sent: who must have signed it, and what of it may be
//! used.
//!
//! Not for fetching keys, nor for the signature of a policy server. Source: server-server API, "Validating
//! hashes and signatures on received events"; auth rule 5.2 (`join_authorised_via_users_server`).

use ruma::{OwnedServerName, ServerName};
use serde_json::{Map, Value};

use super::{
    event::Event,
    event_format::EventFormatError,
    event_hash::has_valid_content_hash,
    membership::{MemberContent, Membership},
    redaction::{redact, redact_event},
    room_version::RoomRules,
    signing::{VerifyKey, find_signature, list_signature_key_ids, signed_bytes},
};

/// The most signatures of one server on one event that are looked at: honest servers make one, and each
/// costs a verification.
pub const SIGNATURES_PER_SERVER_MAX: usize = 8;

/// An event in the right format whose signatures have not been checked yet.
#[derive(Debug)]
pub struct ReceivedEvent {
    event: Event,
    object: Map<String, Value>,
}

/// A server whose signature the event needs, and the keys with which it claims to have signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredSignature {
    pub server: OwnedServerName,
    /// Such as `ed25519:a_xyz`.
    pub key_ids: Vec<String>,
}

/// The public keys of other servers.
pub trait KeyLookup {
    /// The key, if it is known and was valid when the event claims to have been made: before it expired,
    /// and (where [`RoomRules::signing_key_validity`] holds) not after its `valid_until_ts`.
    fn find(&self, server: &ServerName, key_id: &str, origin_server_ts: i64) -> Option<VerifyKey>;
}

/// Why an event is dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFailure {
    #[error("the event is not signed by {0}")]
    Unsigned(OwnedServerName),
    #[error("no valid key is known of those with which {0} has signed the event")]
    NoKnownKey(OwnedServerName),
    #[error("the signature of {0} does not match the event")]
    Mismatch(OwnedServerName),
}

impl ReceivedEvent {
    /// Reads an event from an untrusted text, as [`Event::parse`] does.
    pub fn parse(json: &str, rules: &RoomRules) -> Result<Self, EventFormatError> {
        let (event, object) = Event::parse_with_object(json, rules)?;
        Ok(Self { event, object })
    }

    /// The event, on which nothing may be built yet.
    pub fn unverified(&self) -> &Event {
        &self.event
    }

    /// The signatures that the event needs: their keys should be at hand before [`ReceivedEvent::verify`].
    pub fn list_required_signatures(&self, rules: &RoomRules) -> Vec<RequiredSignature> {
        let with_keys = |server: OwnedServerName| {
            let key_ids = list_signature_key_ids(&self.object, server.as_str());
            let key_ids = key_ids.take(SIGNATURES_PER_SERVER_MAX).map(str::to_owned).collect();
            RequiredSignature { server, key_ids }
        };
        list_required_signers(&self.event, rules).into_iter().map(with_keys).collect()
    }

    /// Checks the signatures, then the content hash. An event whose hash does not match is taken for a
    /// redacted one: what is given is its redacted form.
    pub fn verify(
        self,
        rules: &RoomRules,
        keys: &dyn KeyLookup,
    ) -> Result<Event, SignatureFailure> {
        let message = signed_bytes(&redact(rules, &self.object));
        for required in self.list_required_signatures(rules) {
            self.verify_server(&required, message.as_bytes(), keys)?;
        }
        if has_valid_content_hash(&self.object) {
            Ok(self.event)
        } else {
            Ok(redact_event(&self.event, rules))
        }
    }

    /// All signatures of the server that can be checked must match, and one must be checkable.
    fn verify_server(
        &self,
        required: &RequiredSignature,
        message: &[u8],
        keys: &dyn KeyLookup,
    ) -> Result<(), SignatureFailure> {
        let server = &required.server;
        if required.key_ids.is_empty() {
            return Err(SignatureFailure::Unsigned(server.clone()));
        }
        let mut verified = false;
        for key_id in &required.key_ids {
            let Some(key) = keys.find(server, key_id, self.event.origin_server_ts()) else {
                continue;
            };
            let signature = find_signature(&self.object, server.as_str(), key_id);
            key.verify(message, signature.unwrap_or_default())
                .map_err(|_| SignatureFailure::Mismatch(server.clone()))?;
            verified = true;
        }
        if verified { Ok(()) } else { Err(SignatureFailure::NoKnownKey(server.clone())) }
    }
}

/// The servers that must have signed `event`.
pub fn list_required_signers(event: &Event, rules: &RoomRules) -> Vec<OwnedServerName> {
    let content: MemberContent = if event.kind() == "m.room.member" {
        event.content_as().unwrap_or_default()
    } else {
        MemberContent::default()
    };
    let mut servers: Vec<OwnedServerName> = Vec::new();
    let mut add = |server: Option<&ServerName>| {
        if let Some(server) = server
            && !servers.iter().any(|known| known == server)
        {
            servers.push(server.to_owned());
        }
    };
    // An invitation by a third party may be sent by another server than the sender's.
    let by_third_party =
        content.membership() == Some(Membership::Invite) && content.third_party_invite.is_some();
    if !by_third_party {
        add(Some(event.sender().server_name()));
    }
    // Versions 1 and 2: the server in the event's ID as well.
    if rules.has_event_id_field() {
        add(event.event_id().server_name());
    }
    // Auth rule 5.2: the server of the user who vouches for a restricted join.
    if rules.restricted {
        let authoriser = content.authorising_user();
        add(authoriser.as_ref().map(|user| user.server_name()));
    }
    servers
}
