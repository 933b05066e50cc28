//! Policy servers: which one a room uses, and whether it recommends an event.
//!
//! Not for asking one. Whether the server has a joined user, without which the room uses none, is for the
//! caller to look up. Source: server-server API, "Policy Servers".

use ruma::{OwnedServerName, ServerName};
use serde_json::{Map, Value};

use super::{
    event::Event,
    event_builder::add_signatures,
    event_format::EventFormatError,
    redaction::redact,
    room_version::RoomRules,
    signing::{SignatureError, VerifyKey, verify_json},
};

/// The key of a policy server, whatever its other keys are called.
const POLICY_KEY_ID: &str = "ed25519:policy_server";

/// The policy server that a room's `m.room.policy` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyServer {
    pub via: OwnedServerName,
    key: VerifyKey,
}

impl PolicyServer {
    /// As the current state's `m.room.policy` with an empty state key says; `None` if it is not valid.
    pub fn of_state(policy: &Event) -> Option<Self> {
        if !policy.is_state_of("m.room.policy", "") {
            return None;
        }
        let content: Map<String, Value> = policy.content_as().ok()?;
        let via = ServerName::parse(content.get("via")?.as_str()?).ok()?;
        let key = content.get("public_keys")?.get("ed25519")?.as_str()?;
        Some(Self { via, key: VerifyKey::from_base64(key).ok()? })
    }

    /// Whether the policy server is asked about `event`: about all but those that name policy servers.
    pub fn judges(event: &Event) -> bool {
        !event.is_state_of("m.room.policy", "")
    }

    /// Whether the policy server recommends `event`: it has signed it, or is not asked about it.
    pub fn check(&self, event: &Event, rules: &RoomRules) -> Result<(), SignatureError> {
        if !Self::judges(event) {
            return Ok(());
        }
        let essentials = redact(rules, &event.to_object());
        verify_json(&essentials, self.via.as_str(), POLICY_KEY_ID, &self.key)
    }

    /// `event` with the signatures of `answer`, what the policy server has answered: an object of
    /// signatures by server and key. Only its own signature with its policy key is taken.
    pub fn add_signature(
        &self,
        event: &Event,
        answer: &Map<String, Value>,
        rules: &RoomRules,
    ) -> Result<Event, EventFormatError> {
        let by_key = answer.get(self.via.as_str());
        let signature = by_key.and_then(|keys| keys.get(POLICY_KEY_ID)).and_then(Value::as_str);
        let signature = signature.ok_or(EventFormatError::Missing("signatures"))?;
        add_signatures(event, rules, [(self.via.as_str(), POLICY_KEY_ID, signature)])
    }
}
